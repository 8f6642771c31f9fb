//! The commands that look after a running appliance, with programs whose answers are written down here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "each test uses its part of the support")]
mod support;

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use agent::boot;
use agent::commands::watch::{self, plan::Seen};
use agent::commands::{bans, digest, renew, verify};
use agent::fs::{Access, Fs as _};
use agent::handover;
use agent::machine::Machine;
use agent::programs::{Programs, Ran};
use anyhow::Result;
use camino::Utf8Path;
use support::machine;
use support::programs::FakePrograms;
use support::sim::SimFs;

/// Programs that answer by the beginning of their command line, and remember what they were asked and given.
struct Scripted<'s> {
    answers: &'s [(&'s str, &'s str)],
    asked: RefCell<Vec<String>>,
    given: RefCell<Vec<String>>,
}

impl<'s> Scripted<'s> {
    fn new(answers: &'s [(&'s str, &'s str)]) -> Self {
        Self { answers, asked: RefCell::default(), given: RefCell::default() }
    }

    fn asked(&self, command: &str) -> bool {
        self.asked.borrow().iter().any(|asked| asked == command)
    }
}

impl Programs for Scripted<'_> {
    fn has(&self, program: &str) -> bool {
        self.answers.iter().any(|(command, _)| command.split(' ').next() == Some(program))
    }

    fn run(&self, argv: &[&str]) -> Result<Ran> {
        let asked = argv.join(" ");
        let answer = self.answers.iter().find(|(command, _)| asked.starts_with(command));
        let (_, answer) = answer.unwrap_or_else(|| panic!("nobody expected {asked}"));
        self.asked.borrow_mut().push(asked);
        Ok(Ran { success: true, stdout: (*answer).to_owned(), stderr: String::new() })
    }

    fn feed(&self, argv: &[&str], input: &str) -> Result<Ran> {
        self.given.borrow_mut().push(input.to_owned());
        self.run(argv)
    }
}

fn started() -> SimFs {
    let fs = SimFs::before_first_start();
    boot::run(&machine(&fs, &FakePrograms { fs: &fs }), &mut |_| {}).unwrap();
    fs
}

const FAIL2BAN: [(&str, &str); 6] = [
    (
        "fail2ban-client banned",
        "[{'dovecot-circuit': ['fc00:dead:beef:4dad::5:8']}, {'nginx-circuit': []}, {'sshd': ['192.168.1.7']}]\n",
    ),
    (
        "fail2ban-client get dovecot-circuit banip",
        "fc00:dead:beef:4dad::5:8 \t2026-11-21 22:50:18 + 1800 = 2026-11-21 23:20:18\n",
    ),
    ("fail2ban-client get sshd banip", "192.168.1.7 \t2026-11-21 22:50:18 + 1800 = 2026-11-21 23:20:18\n"),
    ("fail2ban-client unban", "1\n"),
    (
        "nft -j list set inet cipolla banned",
        r#"{"nftables": [{"set": {"name": "banned", "elem": [{"elem": {"val": "10.1.1.1", "expires": 9}}]}}]}"#,
    ),
    ("nft delete element inet cipolla banned", ""),
];

#[test]
fn bans_are_listed_and_lifted() {
    let fs = started();
    let programs = Scripted::new(&FAIL2BAN);
    let machine = machine(&fs, &programs);
    let list = bans::list(&machine).unwrap();
    assert_eq!((list.held.len(), list.dropped.len()), (2, 1));
    assert_eq!(bans::unban(&machine, "192.168.1.7".parse().unwrap()).unwrap(), 1);
    assert!(programs.asked("fail2ban-client unban 192.168.1.7"));
    assert_eq!(
        bans::unban(&machine, "10.1.1.1".parse().unwrap()).unwrap(),
        2,
        "fail2ban's and the firewall's"
    );
    assert!(programs.asked("nft delete element inet cipolla banned { 10.1.1.1 }"));
    // Tor starts before fail2ban does.
    assert_eq!(bans::unban_circuits(&machine).unwrap(), 0);
    fs.mkdir(Utf8Path::new("/run/fail2ban"), Access::root(0o755)).unwrap();
    fs.create(Utf8Path::new("/run/fail2ban/fail2ban.sock"), b"", Access::root(0o600)).unwrap();
    assert_eq!(bans::unban_circuits(&machine).unwrap(), 1);
    assert!(programs.asked("fail2ban-client unban fc00:dead:beef:4dad::5:8"));
}

const CHANGED: &str = r#"{"number_of_entries": {"total": 9}, "changed": {"/etc/hosts": "f"},
    "details": {"/etc/hosts": {"sha256": {"old": "a", "new": "b"}}}}"#;

fn recorded(fs: &SimFs) {
    let dir = Utf8Path::new("/var/lib/aide");
    fs.mkdir(dir, Access::root(0o700)).unwrap();
    for (name, content) in [("aide.db", "old"), ("aide.db.new", "new")] {
        fs.create(&dir.join(name), content.as_bytes(), Access::root(0o600)).unwrap();
    }
}

#[test]
fn a_record_is_replaced_only_if_the_owner_agrees() {
    let fs = started();
    let programs =
        Scripted::new(&[("aide --config=/etc/aide/aide.conf --before=report_format=json --", CHANGED)]);
    let machine = machine(&fs, &programs);
    assert!(verify::check(&machine).unwrap_err().to_string().contains("no record yet"));
    recorded(&fs);
    assert_eq!(verify::check(&machine).unwrap().differences[0].path, "/etc/hosts");
    let record = |fs: &SimFs| fs.read(Utf8Path::new("/var/lib/aide/aide.db")).unwrap().unwrap();
    let (_, accepted) = verify::accept(&machine, &mut |_| Ok(false)).unwrap();
    assert!(!accepted && record(&fs) == b"old");
    assert!(
        fs.entry(Utf8Path::new("/var/lib/aide/aide.db.new")).unwrap().is_none(),
        "nothing is left behind"
    );
    fs.create(Utf8Path::new("/var/lib/aide/aide.db.new"), b"new", Access::root(0o600)).unwrap();
    let (_, accepted) = verify::accept(&machine, &mut |comparison| Ok(!comparison.is_unchanged())).unwrap();
    assert!(accepted && record(&fs) == b"new");
}

#[test]
fn an_attack_is_mailed_once() {
    let fs = started();
    let line = r#"{"MESSAGE":"NOTICE [dovecot-circuit] Ban fc00:dead:beef:4dad::5","SYSLOG_IDENTIFIER":"fail2ban.actions"}"#;
    let journal = [line; 12].join("\n");
    let answers = [("journalctl", journal.as_str()), ("sendmail -i -f  -- postmaster@", "")];
    let programs = Scripted::new(&answers);
    let machine = machine(&fs, &programs);
    let warning = digest::alert(&machine).unwrap().unwrap();
    assert!(warning.contains("bans              12"), "{warning}");
    assert_eq!(digest::alert(&machine).unwrap(), None, "and then there is silence");
    let given = programs.given.borrow();
    assert_eq!(given.len(), 1);
    assert!(given[0].starts_with("From: Your mail server <postmaster@"), "{}", given[0]);
    assert!(given[0].contains("\nSubject: Somebody is guessing passwords\n") && !given[0].contains("fc00"));
}

#[test]
fn a_quiet_hour_mails_nothing() {
    let fs = started();
    let programs = Scripted::new(&[("journalctl", "")]);
    assert_eq!(digest::alert(&machine(&fs, &programs)).unwrap(), None);
}

#[test]
fn a_tor_that_does_not_answer_is_noted_and_told() {
    let fs = started();
    let programs = Scripted::new(&[("systemctl restart tor@default.service", "")]);
    let mut machine = machine(&fs, &programs);
    let silent = |_| Ok(Seen::Silent("connection refused".into()));
    let (seen, memory) = watch::act(&machine, &silent, &mut |_| {}).unwrap();
    assert!(!seen.is_well() && memory.trouble.is_some());
    assert_eq!(watch::problem(&fs).unwrap(), None, "one look is nothing");
    machine.now += Duration::from_secs(300);
    let mut said = Vec::new();
    watch::act(&machine, &silent, &mut |line| said.push(line.to_owned())).unwrap();
    assert!(programs.asked("systemctl restart tor@default.service"), "{said:?}");
    assert!(watch::problem(&fs).unwrap().unwrap().ends_with("Tor was restarted"));
}

/// Seconds since 1970, and since the start.
fn at(machine: &mut Machine<'_>, now: u64, uptime: u64) {
    machine.now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
    machine.uptime = Duration::from_secs(uptime);
}

#[test]
fn what_waits_by_the_clock_is_tried_when_it_is_set_back() {
    let fs = started();
    let programs = Scripted::new(&[
        ("systemctl restart tor@default.service", ""),
        ("systemctl try-reload-or-restart tor@default.service", ""),
        ("systemctl try-reload-or-restart postfix.service", ""),
        ("postqueue -f", ""),
    ]);
    let mut machine = machine(&fs, &programs);
    let connected = |_| Ok(Seen::Connected(Vec::new()));
    // The start itself took note of the clock.
    at(&mut machine, 1_780_000_000 + 18_060, 3660);
    watch::act(&machine, &connected, &mut |_| {}).unwrap();
    assert_eq!(programs.asked.borrow().len(), 0, "it was set forward");
    at(&mut machine, 1_780_000_000 + 120, 3720);
    let mut said = Vec::new();
    watch::act(&machine, &connected, &mut |line| said.push(line.to_owned())).unwrap();
    assert_eq!(
        said,
        ["the clock was set back by 300 minutes: reloading what waits by the clock"],
        "five hours and the minute that passed"
    );
    assert!(programs.asked("postqueue -f") && !programs.asked("systemctl restart tor@default.service"));
    watch::act(&machine, &connected, &mut |line| said.push(line.to_owned())).unwrap();
    assert_eq!(said.len(), 1, "once");
    at(&mut machine, 1_700_000_000, 3780);
    watch::act(&machine, &connected, &mut |_| {}).unwrap();
    assert!(programs.asked("systemctl restart tor@default.service"), "by years");
}

#[test]
fn a_notice_stands_on_the_console_as_long_as_it_is_true() {
    let fs = started();
    let programs = Scripted::new(&[("agetty --reload", "")]);
    let machine = machine(&fs, &programs);
    let notice = || fs.read(Utf8Path::new("/run/cipolla/notice")).unwrap();
    let words = "the clock is behind by 2 days: it says 2026-11-20 00:00 UTC. ".repeat(3);
    for _ in 0..2 {
        handover::notice(&machine, Some(&words)).unwrap();
    }
    let text = String::from_utf8(notice().unwrap()).unwrap();
    assert!(
        text.starts_with("! the clock is behind by 2 days: it says") && text.ends_with(".\n\n"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() < 80), "{text}");
    assert_eq!(programs.asked.borrow().len(), 1, "getty shows it once");
    handover::notice(&machine, None).unwrap();
    assert_eq!((notice(), programs.asked.borrow().len()), (None, 2));
}

/// A systemd that refuses everything.
struct NoReload;

impl Programs for NoReload {
    fn has(&self, program: &str) -> bool {
        program == "systemctl"
    }

    fn run(&self, _: &[&str]) -> Result<Ran> {
        Ok(Ran { success: false, stdout: String::new(), stderr: "no".to_owned() })
    }
}

/// A machine on the day with this number after that of [`started`].
fn days_later<'m>(fs: &'m SimFs, programs: &'m Scripted, days: u64) -> Machine<'m> {
    let mut machine = machine(fs, programs);
    machine.now += Duration::from_secs(days * 24 * 3600);
    machine
}

#[test]
fn certificates_are_renewed_and_servers_told() {
    let fs = started();
    let servers = [
        ("systemctl try-reload-or-restart postfix.service", ""),
        ("systemctl try-reload-or-restart dovecot.service", ""),
    ];
    let programs = Scripted::new(&servers);
    let before = fs.files();
    assert_eq!(renew::run(&days_later(&fs, &programs, 1), &mut |_| {}).unwrap(), 0);
    assert_eq!(fs.files(), before);
    assert!(programs.asked.borrow().is_empty());
    // Two certificates, and the files of each.
    let mut said = Vec::new();
    let later = days_later(&fs, &programs, 380);
    assert_eq!(renew::run(&later, &mut |line| said.push(line.to_owned())).unwrap(), 4);
    assert_eq!(said[0], "make the certificate for mx: the old one has expired: done");
    assert_eq!(*programs.asked.borrow(), servers.map(|(asked, _)| asked));
    let changed: Vec<_> =
        fs.files().into_iter().filter(|(path, content)| before.get(path) != Some(content)).collect();
    let names: Vec<_> = changed.iter().filter_map(|(path, _)| path.file_name()).collect();
    assert_eq!(names, ["client.pem", "mx.pem", "client.crt", "client.key", "mx.crt", "mx.key"]);
    assert_eq!(renew::run(&later, &mut |_| {}).unwrap(), 0);
}

#[test]
fn servers_that_were_not_told_are_told_again() {
    let fs = started();
    let mut machine = machine(&fs, &NoReload);
    machine.now += Duration::from_secs(380 * 24 * 3600);
    for _ in 0..2 {
        let error = renew::run(&machine, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("postfix.service could not be reloaded: no"), "{error}");
    }
}
