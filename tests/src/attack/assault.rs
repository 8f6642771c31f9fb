//! The attack itself: a crowd of offenders, the owner at work, and bystanders who must not notice.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clients::{Imap, Smtp};
use qemu::Deadline;
use serde_json::Value;

use super::crowd::{self, CROWD, Kind, Life, Over, Tide};
use super::work::{self, Owner, Times, ada, letter};
use super::{BOB, State};
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::{Account, DELIVERY, DIALOGUE, PEER, Site};

/// Rounds of the owner's work in each quiet spell.
const QUIET: usize = 3;

/// How long an attack lasts before the first pause.
const SURGE: Duration = Duration::from_secs(30);

/// By when everybody has finished what was begun: a wrong password is answered after five seconds.
const PAUSE: u64 = 120;

/// Everything that was seen.
pub(super) struct Record {
    quiet: Times,
    attacked: Times,
    lives: Vec<Life>,
    /// What others met, who did nothing wrong.
    bystanders: Vec<String>,
    /// What newcomers met.
    newcomers: Vec<String>,
    /// Who had a circuit afterwards, as the clients' Tor sees it.
    callers: BTreeSet<String>,
    /// Whom the appliance has banned.
    banned: BTreeSet<Ipv6Addr>,
    /// Who did something right, by the appliance's journal.
    innocent: BTreeSet<Ipv6Addr>,
}

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("owner_works_under_attack", &["R19"], owner_works),
        check("attacker_circuit_does_not_slow_owner", &["R19"], owner_is_not_slowed),
        check("half_open_connections_do_not_block", &["R29"], newcomers_are_served),
        check("offenders_lose_their_circuits", &["R19", "R29"], offenders_lose_their_circuits),
        check("ban_closes_only_the_offender", &["R19", "R20"], only_the_offender),
        check("owner_hears_of_the_attack", &["R21"], owner_hears),
        check("bans_are_lifted_by_hand", &["R20"], bans_are_lifted),
    ]
}

/// The owner gets everything done, and gets in on a new circuit as well, while others guess the same password.
fn owner_works(state: &mut State) -> Verdict {
    let date = state.resident.appliance.read("date -uR")?.trim().to_owned();
    let site = state.site.as_ref().context("the services were never reached")?;
    let mut record = assault(site, &date)?;
    record.callers = state.world.client()?.callers(Deadline::seconds(30))?;
    record.banned = bans(&state.resident.appliance.read("cipolla bans --json")?)?;
    let journal =
        "journalctl -b -o cat --no-pager -t dovecot -t postfix/mx/smtpd -t postfix/submission/smtpd";
    record.innocent = innocent(&state.resident.appliance.read(journal)?);
    let (table, _) = work::compare(&record.quiet, &record.attacked);
    let file = state.resident.appliance.machine.run_dir().file("figures.txt");
    fs_err::write(file, table + &summary(&record.lives))?;
    state.record = Some(record);
    PASS
}

impl State {
    fn record(&self) -> anyhow::Result<&Record> {
        self.record.as_ref().context("there was no attack")
    }
}

fn owner_is_not_slowed(state: &mut State) -> Verdict {
    let record = state.record()?;
    none_of(&work::compare(&record.quiet, &record.attacked).1)
}

fn newcomers_are_served(state: &mut State) -> Verdict {
    none_of(&state.record()?.newcomers)
}

fn offenders_lose_their_circuits(state: &mut State) -> Verdict {
    let record = state.record()?;
    let mut findings = Vec::new();
    for life in &record.lives {
        if let Err(why) = &life.end {
            findings.push(format!("{}, after {:.0?}: {why}", life.circuit, life.took));
        }
        // Who rings may have rung once more, on another circuit, before noticing.
        if life.kind != Kind::Rings && record.callers.contains(&life.circuit) {
            findings.push(format!("{} still has a circuit", life.circuit));
        }
    }
    let missing = CROWD.iter().filter(|(kind, _)| record.lives.iter().all(|life| life.kind != *kind));
    findings.extend(missing.map(|(kind, _)| format!("nobody {kind:?}")));
    none_of(&findings)
}

/// As many bans as circuits were lost, and none of somebody who did anything right.
fn only_the_offender(state: &mut State) -> Verdict {
    let record = state.record()?;
    let mut findings = record.bystanders.clone();
    if record.banned.len() != record.lives.len() {
        findings.push(format!("{} bans for {} offenders", record.banned.len(), record.lives.len()));
    }
    let both = record.banned.intersection(&record.innocent);
    findings.extend(both.map(|address| format!("{address} did nothing wrong and is banned")));
    // The owner, the owner elsewhere, bob and the stranger.
    if record.innocent.len() < 4 {
        findings.push(format!("the journal knows only of {:?}", record.innocent));
    }
    for circuit in [work::CIRCUIT, "bob", "a stranger"] {
        if !record.callers.contains(circuit) {
            findings.push(format!("{circuit} has lost the circuit"));
        }
    }
    none_of(&findings)
}

/// The look that a timer takes every ten minutes.
fn owner_hears(state: &mut State) -> Verdict {
    let look = "systemctl start cipolla-alert.service";
    state.resident.appliance.read(look)?;
    let site = state.site.as_ref().context("the services were never reached")?;
    let message = site.arrived(ada(site), "INBOX", "guessing", Deadline::seconds(DELIVERY))?;
    let message = String::from_utf8_lossy(&message).into_owned();
    let mut findings = Vec::new();
    for part in ["Somebody is guessing passwords", "webmail's outer password", "mail password", "bans"] {
        if !message.contains(part) {
            findings.push(format!("{part:?} is not in the warning: {message}"));
        }
    }
    // Once is enough.
    let count = format!(
        "{look} && until postqueue -p | grep -q empty; do sleep 0.5; done
        cat /var/vmail/ada/Maildir/[cn]*/* | grep -c '^Subject: Somebody is guessing passwords'"
    );
    let count = state.resident.appliance.read(&count)?;
    if count.trim() != "1" {
        findings.push(format!("the owner is warned {} times", count.trim()));
    }
    none_of(&findings)
}

fn bans_are_lifted(state: &mut State) -> Verdict {
    let lifted = state.resident.appliance.run("cipolla unban --all && cipolla bans --json")?;
    if lifted.status.success() && !lifted.stdout.contains("fc00:dead") {
        return PASS;
    }
    fail(format!("{}{}", lifted.stdout, lifted.stderr))
}

/// People who do nothing wrong, on circuits of their own.
struct Bystanders<'s> {
    site: &'s Site,
    date: &'s str,
    /// Waits for mail (RFC 2177).
    bob: Imap,
    /// Delivers.
    stranger: Smtp,
    sent: usize,
    findings: Vec<String>,
}

impl<'s> Bystanders<'s> {
    fn gather(site: &'s Site, date: &'s str) -> anyhow::Result<Self> {
        let mut bob = site.mailbox("bob", Account { local: "bob", password: BOB })?;
        bob.select("INBOX")?;
        bob.talk().send("idle IDLE")?;
        let line = bob.talk().line()?;
        ensure!(line.starts_with('+'), "to IDLE the answer is {line}");
        let stranger = site.stranger("a stranger")?;
        let mut all = Self { site, date, bob, stranger, sent: 0, findings: Vec::new() };
        all.deliver();
        ensure!(all.findings.is_empty(), "{}", all.findings.join("\n"));
        site.arrived(ada(site), "INBOX", "bystander", Deadline::seconds(DELIVERY))?;
        Ok(all)
    }

    /// The stranger hands in one more message.
    fn deliver(&mut self) {
        self.sent += 1;
        let (from, to) = (format!("stranger@{PEER}"), self.site.at("ada"));
        let letter = letter(&from, &to, self.date, &format!("bystander {}", self.sent));
        self.stranger.until(Deadline::seconds(DIALOGUE));
        match self.stranger.mail(&from, &[&to], &letter) {
            Ok(reply) if reply.code == 250 => {}
            Ok(reply) => self.findings.push(format!("the stranger's message is answered with {reply}")),
            Err(error) => self.findings.push(format!("the stranger's message: {error:#}")),
        }
    }

    /// Whether bob heard of new mail, and both can end their dialogues in order.
    fn disperse(mut self) -> Vec<String> {
        let bob = (|| {
            self.bob.until(Deadline::seconds(DELIVERY));
            while !self.bob.talk().line()?.ends_with(" EXISTS") {}
            self.bob.talk().send("DONE")?;
            while !self.bob.talk().line()?.starts_with("idle OK") {}
            anyhow::Ok(())
        })();
        self.findings.extend(bob.err().map(|error| format!("bob waits for mail: {error:#}")));
        match self.stranger.command("NOOP") {
            Ok(reply) if reply.code == 250 => {}
            Ok(reply) => self.findings.push(format!("the stranger hears {reply}")),
            Err(error) => self.findings.push(format!("the stranger: {error:#}")),
        }
        self.findings
    }
}

/// Quiet, attack, quiet, attack until the last offender is gone, quiet.
fn assault(site: &Site, date: &str) -> anyhow::Result<Record> {
    let mut owner = Owner::at_work(site, date)?;
    let mut others = Bystanders::gather(site, date)?;
    let (mut quiet, mut attacked) = (Times::default(), Times::default());
    let mut newcomers = Vec::new();
    let tide = &Tide::low();
    let lives = std::thread::scope(|scope| {
        let over = Over(tide);
        let crowd = CROWD.iter().flat_map(|(kind, count)| (0..*count).map(|number| (*kind, number)));
        let offenders: Vec<_> = crowd
            .map(|(kind, number)| scope.spawn(move || crowd::offend(site, kind, number, tide)))
            .collect();
        for surge in 1..=2 {
            for _ in 0..QUIET {
                owner.round(&mut quiet)?;
            }
            others.deliver();
            tide.rise(quiet.login());
            let since = Instant::now();
            while since.elapsed() < SURGE {
                owner.round(&mut attacked)?;
                others.deliver();
            }
            newcomers.extend(arrive(site, surge)?);
            if surge == 1 {
                tide.ebb(Deadline::seconds(PAUSE))?;
            }
        }
        drop(over);
        while !offenders.iter().all(|offender| offender.is_finished()) {
            owner.round(&mut attacked)?;
            others.deliver();
        }
        let joined = offenders
            .into_iter()
            .map(|offender| offender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        anyhow::Ok(joined.flatten().collect::<Vec<_>>())
    })?;
    for _ in 0..QUIET {
        owner.round(&mut quiet)?;
    }
    others.deliver();
    Ok(Record {
        quiet,
        attacked,
        lives,
        bystanders: others.disperse(),
        newcomers,
        callers: BTreeSet::new(),
        banned: BTreeSet::new(),
        innocent: BTreeSet::new(),
    })
}

/// In the middle of it the owner logs in with another device, and a stranger connects.
fn arrive(site: &Site, surge: u32) -> anyhow::Result<Option<String>> {
    site.mailbox(&format!("the owner elsewhere {surge}"), ada(site))
        .context("logging in on a new circuit while others guess the same password")?;
    let (mut smtp, greeting) = site.greeting(&format!("a newcomer {surge}"))?;
    let quit = smtp.command("QUIT")?;
    Ok((greeting.code != 220 || quit.code != 221).then(|| format!("a newcomer hears {greeting}, {quit}")))
}

/// One line for each kind: how many circuits were lost, and after how much.
fn summary(lives: &[Life]) -> String {
    let line = |(kind, count): &(Kind, usize)| {
        let all: Vec<_> = lives.iter().filter(|life| life.kind == *kind).collect();
        let tries: u32 = all.iter().filter_map(|life| life.end.as_ref().ok()).sum();
        let longest = all.iter().map(|life| life.took).max().unwrap_or_default();
        format!(
            "{kind:?}: {count} at a time, {} circuits lost after {tries} tries, at most {longest:.0?}\n",
            all.len()
        )
    };
    CROWD.iter().map(line).collect()
}

/// The circuits in the answer of `cipolla bans --json`.
fn bans(json: &str) -> anyhow::Result<BTreeSet<Ipv6Addr>> {
    let answer: Value = serde_json::from_str(json).context("reading the bans")?;
    let held = answer["held"].as_array().context("the bans have no list")?;
    held.iter()
        .map(|ban| {
            let address = ban["address"].as_str().with_context(|| format!("the ban {ban} has no address"))?;
            address.parse().with_context(|| format!("{address} is banned, and no circuit"))
        })
        .collect()
}

/// Circuits that logged in or delivered a message, from lines of Dovecot and Postfix.
fn innocent(journal: &str) -> BTreeSet<Ipv6Addr> {
    let address = |line: &str| {
        let rest = match line.split_once("Logged in: ") {
            Some((_, login)) => login.split_once("rip=")?.1,
            None => line.split_once(": client=unknown[")?.1,
        };
        rest.split([',', ']']).next()?.parse().ok()
    };
    journal.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_something_right_is_known() {
        let journal = "imap-login: Logged in: user=<ada@x.onion>, method=PLAIN, rip=fc00:dead:beef:4dad::1, lip=::1\n\
            auth(ada@x.onion,fc00:dead:beef:4dad::2,sasl:plain): passwd-file: Password mismatch\n\
            4fX: client=unknown[fc00:dead:beef:4dad::3], sasl_method=PLAIN\n\
            connect from unknown[fc00:dead:beef:4dad::4]\n";
        let innocent: Vec<_> = innocent(journal).iter().map(ToString::to_string).collect();
        assert_eq!(innocent, ["fc00:dead:beef:4dad::1", "fc00:dead:beef:4dad::3"]);
    }

    #[test]
    fn a_circuit_banned_twice_counts_once() {
        let json = r#"{"jails": ["a", "b"], "held": [{"jail": "a", "address": "fc00:dead:beef:4dad::7"},
            {"jail": "b", "address": "fc00:dead:beef:4dad::7"}], "dropped": []}"#;
        assert_eq!(bans(json).unwrap().len(), 1);
        assert!(bans(r#"{"held": [{"address": "10.0.0.1"}]}"#).is_err());
        assert!(bans("{}").is_err());
    }
}
