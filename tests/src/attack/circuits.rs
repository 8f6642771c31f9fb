//! A circuit is a client: each has limits of its own, and none says who it is but Tor.

use std::io::{ErrorKind, Read as _};
use std::time::{Duration, Instant};

use anyhow::bail;
use qemu::Deadline;

use super::{CAREFUL, State, held};
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::{Account, DIALOGUE, PEER, Site};

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("two_circuits_two_limits", &["R19", "R29"], two_circuits_two_limits),
        check("half_open_connections_do_not_block", &["R29"], half_open),
        check("ban_closes_only_the_offender", &["R19", "R20"], ban_closes_only_the_offender),
        check("forged_proxy_header_refused", &["R2", "R19"], forged_header),
    ]
}

fn two_circuits_two_limits(state: &mut State) -> Verdict {
    let mut held = Vec::new();
    let mut refused = None;
    for _ in 0..7 {
        match state.site()?.greeting("crowd") {
            Ok((smtp, greeting)) if greeting.code == 220 => held.push(smtp),
            Ok((_, greeting)) => {
                refused = Some(greeting.to_string());
                break;
            }
            Err(error) => {
                refused = Some(format!("{error:#}"));
                break;
            }
        }
    }
    let Some(refused) = refused else { return fail("seven connections of one circuit were let in") };
    let (_, other) = state.site()?.greeting("somebody else")?;
    if held.len() >= 4 && other.code == 220 {
        return PASS;
    }
    fail(format!("{} were let in, then: {refused}; another circuit: {other}", held.len()))
}

/// Strangers who connect and say nothing: port, whether it is the mx onion's, how many connections, how many of them
/// on one circuit. Each crowd is more than the server behind the port has places (`master.cf`; `client_limit` in
/// `dovecot.conf`), and a circuit has no more of it than it may.
const CROWDS: [(u16, bool, usize, usize); 3] =
    [(25, true, 45, 4), (465, false, 35, 4), (993, false, 130, 26)];

/// The longest that a crowd keeps others waiting, in seconds: when all places are taken, Postfix gives silent ones
/// ten (`smtpd_timeout`), and there is a queue before it. Everything is emulated.
const PATIENT: u64 = 90;

fn half_open(state: &mut State) -> Verdict {
    let site = state.site()?;
    let mut silent = Vec::new();
    for (port, mx, many, each) in CROWDS {
        let onion = if mx { &site.mx } else { &site.client };
        for number in 0..many {
            let circuit = format!("silent at {port}, {}", number / each);
            silent.push(site.door.connect(&circuit, onion, port, Deadline::seconds(DIALOGUE))?);
        }
    }
    let mut findings = Vec::new();
    let mut judge = |what: &str, done: anyhow::Result<Duration>| match done {
        Ok(time) if time <= Duration::from_secs(PATIENT) => {}
        Ok(time) => findings.push(format!("{what} took {time:.1?}")),
        Err(error) => findings.push(format!("{what}: {error:#}")),
    };
    judge("a stranger's greeting", timed(|| site.stranger("somebody who speaks")));
    judge("the owner's submission", timed(|| site.submission("owner who writes", owner(site))));
    judge("the owner's mailbox", timed(|| site.mailbox("owner who reads", owner(site))));
    none_of(&findings)
}

fn timed<T>(what: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let started = Instant::now();
    what()?;
    Ok(started.elapsed())
}

/// The owner's mailbox.
fn owner(site: &Site) -> Account<'_> {
    Account { local: "ada", password: &site.password }
}

fn ban_closes_only_the_offender(state: &mut State) -> Verdict {
    state.forgive()?;
    let State { resident, site: Some(site), .. } = state else { bail!("the services were never reached") };
    let ada = site.at("ada");
    let mut owner = site.mailbox("owner at work", owner(site))?;
    let mut findings = Vec::new();
    let since = resident.appliance.read("date +%s")?;
    let (mut imap, _) = site.imap("offender")?;
    for guess in 0..CAREFUL {
        if imap.login(&ada, &format!("guess {guess}"))?.agreed() {
            return fail("a guess was right");
        }
    }
    // A connection of the same circuit that nobody uses. The webmail's server would end it after half a minute.
    let mut idle = site.door.connect("offender", &site.client, 80, Deadline::seconds(20))?;
    // The fifth wrong password is one too many. (Tor gives the offender a new circuit, which is another client.)
    if let Ok(answer) = imap.login(&ada, "one too many") {
        findings.push(format!("five wrong passwords, and the circuit is still open: {}", answer.text));
    }
    // Tor ends the connections of a circuit that is gone; the error, if any, is that of a deadline.
    let mut rest = [0; 1];
    match idle.read(&mut rest) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => findings.push(format!("the same circuit's other connection goes on: {other:?}")),
    }
    let script = "for n in $(seq 40); do cipolla bans --json | grep -q fc00:dead:beef:4dad && break; sleep 0.5; done; cipolla bans --json";
    let bans = held(&resident.appliance.read(script)?)?;
    // Who guessed, in the words of the server that was asked.
    let script = format!(
        "journalctl -q -o cat -t dovecot --since=@{} -g 'Password mismatch' | grep -o 'fc00:[0-9a-f:]*' | sort -u",
        since.trim()
    );
    let guessed: Vec<_> = resident.appliance.read(&script)?.lines().map(str::to_owned).collect();
    let banned: Vec<_> = bans.iter().map(|(_, address)| address.clone()).collect();
    if guessed.len() != 1 || banned != guessed {
        findings.push(format!("the wrong passwords came from {guessed:?}, and {bans:?} are banned"));
    }
    if !owner.demand("NOOP")?.agreed() {
        findings.push("the owner was thrown out".to_owned());
    }
    let unbanned = resident.appliance.run("cipolla unban --all && cipolla bans")?;
    if !unbanned.status.success() || unbanned.stdout.contains("fc00:dead") {
        findings.push(format!("cipolla unban --all: {}{}", unbanned.stdout, unbanned.stderr));
    }
    none_of(&findings)
}

/// Tor writes the header; a client's own is part of the dialogue and is no header.
fn forged_header(state: &mut State) -> Verdict {
    let site = state.site()?;
    let deadline = Deadline::seconds(DIALOGUE);
    let mut talk = clients::Talk::new(site.door.connect("forger", &site.mx, 25, deadline)?);
    talk.send("PROXY TCP6 fc00:dead:beef:4dad::1:1 ::1 1 25")?;
    let greeting = talk.line()?;
    let mut findings = Vec::new();
    if greeting.starts_with("220 ") {
        let answer = talk.line()?;
        if answer.starts_with("250") {
            findings.push(format!("the header was obeyed: {answer}"));
        }
    } else if !greeting.starts_with("554 ") {
        // A busy Postfix sees that the client spoke before its turn, and that is the end.
        findings.push(format!("the greeting is {greeting}"));
    }
    // Straight to the port, as Tor's user, with garbage where the header belongs.
    let script = "cat >/run/forge.py <<'END'\nimport os, pwd, socket\n\
                  who = pwd.getpwnam('debian-tor'); os.setgroups([]); os.setgid(who.pw_gid); os.setuid(who.pw_uid)\n\
                  for port in (10025, 10465, 10993, 10080):\n    \
                      for junk in (b'GET / HTTP/1.0\\r\\n\\r\\n', b'PROXY ', b'\\0' * 64, b'a' * 300 + b'\\r\\n'):\n        \
                          s = socket.create_connection(('127.0.0.1', port)); s.settimeout(15); s.sendall(junk)\n        \
                          try:\n            print(port, junk[:8], s.recv(100))\n        \
                          except (ConnectionError, TimeoutError) as e:\n            print(port, junk[:8], type(e).__name__)\n        \
                          s.close()\nEND\npython3 /run/forge.py; rm /run/forge.py";
    let output = state.resident.appliance.read(script)?;
    let served = output
        .lines()
        .filter(|line| line.contains("220") || line.contains("* OK") || line.contains("HTTP/1"));
    findings.extend(served.map(|line| format!("served without a header: {line}")));
    if output.lines().count() != 16 {
        findings.push(format!("16 answers were awaited: {output}"));
    }
    // And all go on as before.
    state.site()?.stranger("after the forger")?.demand(&format!("MAIL FROM:<x@{PEER}>"))?;
    none_of(&findings)
}
