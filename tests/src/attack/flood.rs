//! A flood: a crowd of offenders, the owner at work, and bystanders who must not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clients::{Imap, Smtp};
use qemu::{Deadline, Stopwatch};

use super::crowd::{self, CROWD, End, Kind, Life, Surge};
use super::work::{self, Owner, Times, ada, letter};
use super::{BOB, State, after, evasive, held};
use crate::appliance::Appliance;
use crate::check::{Check, PASS, Verdict, check, none_of};
use crate::site::{Account, DELIVERY, DIALOGUE, PEER, Site};

/// Rounds of the owner's work before, and after.
const QUIET: usize = 3;

/// So long the [`Surge`] lasts.
const SURGE: Duration = Duration::from_secs(30);

/// Everything that was seen.
pub(super) struct Record {
    seen: Seen,
    /// Whom the appliance has banned.
    banned: BTreeSet<Ipv6Addr>,
    /// Who did something right, by the appliance's journal.
    innocent: BTreeSet<Ipv6Addr>,
}

/// What was seen from outside.
struct Seen {
    quiet: Times,
    attacked: Times,
    lives: Vec<Life>,
    /// What others met, who did nothing wrong.
    bystanders: Vec<String>,
    /// What newcomers met.
    newcomers: Vec<String>,
}

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("owner_works_under_attack", &["R19"], owner_works),
        check("attacker_circuit_does_not_slow_owner", &["R19"], owner_is_not_slowed),
        check("newcomers_are_served_under_attack", &["R29"], newcomers_are_served),
        check("offenders_lose_their_circuits", &["R19", "R29"], offenders_lose_their_circuits),
        check("nobody_else_loses_a_circuit", &["R19", "R20"], nobody_else),
        check("password_is_heard_among_guesses", &["R19"], evasive::heard_among_guesses),
    ]
}

/// The owner gets everything done, and gets in on a new circuit as well, while others guess the same password.
fn owner_works(state: &mut State) -> Verdict {
    state.forgive()?;
    let script = format!("echo '{BOB}' | cipolla user add bob --stdin >/dev/null && date -uR && date +%s");
    let times = state.resident.appliance.read(&script)?;
    let (date, since) = times.trim().split_once('\n').context("two times were asked for")?;
    state.before = Some(after::Footprint::measure(state)?);
    let earlier = spent(&mut state.resident.appliance)?;
    let watch = Stopwatch::start();
    let site = state.site.as_ref().context("the services were never reached")?;
    let seen = assault(site, date)?;
    let others = format!(
        "others had {:.1} s of each of this computer's processors, of {:.1} s\n",
        watch.stolen().as_secs_f64(),
        watch.elapsed().as_secs_f64()
    );
    let shares = shares(&earlier, &spent(&mut state.resident.appliance)?);
    let bans = held(&state.resident.appliance.read("cipolla bans --json")?)?;
    let banned = bans.iter().map(|(_, address)| address.parse()).collect::<Result<_, _>>()?;
    let journal = format!(
        "journalctl -b -o cat --no-pager --since @{since} -t dovecot -t postfix/mx/smtpd -t postfix/submission/smtpd"
    );
    let innocent = innocent(&state.resident.appliance.read(&journal)?);
    let (table, _) = work::compare(&seen.quiet, &seen.attacked);
    let file = state.resident.appliance.machine.run_dir().file("figures.txt");
    fs_err::write(file, table + &others + &summary(&seen.lives) + &shares)?;
    state.record = Some(Record { seen, banned, innocent });
    PASS
}

impl State {
    fn record(&self) -> anyhow::Result<&Record> {
        self.record.as_ref().context("there was no attack")
    }
}

fn owner_is_not_slowed(state: &mut State) -> Verdict {
    let seen = &state.record()?.seen;
    none_of(&work::compare(&seen.quiet, &seen.attacked).1)
}

fn newcomers_are_served(state: &mut State) -> Verdict {
    none_of(&state.record()?.seen.newcomers)
}

/// Everybody's circuit was closed, and the appliance says that it was it who closed as many.
fn offenders_lose_their_circuits(state: &mut State) -> Verdict {
    let Record { seen: Seen { lives, .. }, banned, .. } = state.record()?;
    let mut findings = Vec::new();
    for life in lives {
        if let Err(why) = &life.end {
            findings.push(format!("{}, after {:.0?}: {why}", life.circuit, life.took));
        }
    }
    let missing = CROWD.iter().filter(|(kind, _)| lives.iter().all(|life| life.kind != *kind));
    findings.extend(missing.map(|(kind, _)| format!("nobody {kind:?}")));
    if banned.len() < lives.len() {
        findings.push(format!("{} bans for {} offenders", banned.len(), lives.len()));
    }
    none_of(&findings)
}

/// Nobody is banned who did anything right, and the dialogues of those who did no wrong went on all the time.
fn nobody_else(state: &mut State) -> Verdict {
    let record = state.record()?;
    let mut findings = record.seen.bystanders.clone();
    let both = record.banned.intersection(&record.innocent);
    findings.extend(both.map(|address| format!("{address} did nothing wrong and is banned")));
    // The owner, the owner elsewhere, bob and the stranger.
    if record.innocent.len() < 4 {
        findings.push(format!("the journal knows only of {:?}", record.innocent));
    }
    none_of(&findings)
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

/// Quiet, attack until the last offender is gone, quiet.
fn assault(site: &Site, date: &str) -> anyhow::Result<Seen> {
    let mut owner = Owner::at_work(site, date)?;
    let mut others = Bystanders::gather(site, date)?;
    let (mut quiet, mut attacked) = (Times::default(), Times::default());
    let mut newcomers = Vec::new();
    for _ in 0..QUIET {
        owner.round(&mut quiet)?;
    }
    let surge = &Surge::new(quiet.login());
    let lives = std::thread::scope(|scope| {
        let end = End(surge);
        let crowd = CROWD.iter().flat_map(|(kind, count)| (0..*count).map(|number| (*kind, number)));
        let offenders: Vec<_> = crowd
            .map(|(kind, number)| scope.spawn(move || crowd::offend(site, kind, number, surge)))
            .collect();
        let since = Instant::now();
        while since.elapsed() < SURGE {
            owner.round(&mut attacked)?;
            others.deliver();
        }
        newcomers.extend(arrive(site)?);
        drop(end);
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
    Ok(Seen { quiet, attacked, lives, bystanders: others.disperse(), newcomers })
}

/// In the middle of it the owner logs in with another device, and a stranger connects.
fn arrive(site: &Site) -> anyhow::Result<Option<String>> {
    site.mailbox("the owner elsewhere", ada(site))
        .context("logging in on a new circuit while others guess the same password")?;
    let (mut smtp, greeting) = site.greeting("a newcomer")?;
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

/// The processor time that each service has taken, in microseconds (cgroups v2).
fn spent(appliance: &mut Appliance) -> anyhow::Result<BTreeMap<String, u64>> {
    // A service that ends meanwhile takes its file with it.
    let text =
        appliance.read("cd /sys/fs/cgroup/system.slice && { grep -sH ^usage_usec */cpu.stat; true; }")?;
    let service = |line: &str| {
        let (service, rest) = line.split_once("/cpu.stat:usage_usec ")?;
        Some((service.to_owned(), rest.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(service).collect())
}

/// A line for each service that took a second or more.
fn shares(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let took = |(service, then): (&String, &u64)| {
        let took = then.saturating_sub(before.get(service).copied().unwrap_or_default());
        (took >= 1_000_000).then(|| format!("{service}: {:.1} s of the processors\n", took as f64 / 1e6))
    };
    after.iter().filter_map(took).collect()
}

/// Circuits that logged in or began a message and did not crawl in the midst of it, from lines of Dovecot and Postfix.
fn innocent(journal: &str) -> BTreeSet<Ipv6Addr> {
    let did_right = |line: &str| {
        let rest = match line.split_once("Logged in: ") {
            Some((_, login)) => login.split_once("rip=")?.1,
            None => line.split_once(": client=unknown[")?.1,
        };
        rest.split([',', ']']).next()?.parse().ok()
    };
    let crawled = |line: &str| {
        line.split_once(": timeout after DATA")?.1.split_once('[')?.1.split(']').next()?.parse().ok()
    };
    let slow: BTreeSet<Ipv6Addr> = journal.lines().filter_map(crawled).collect();
    journal.lines().filter_map(did_right).filter(|address| !slow.contains(address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_something_right_is_known() {
        let journal = "imap-login: Logged in: user=<ada@x.onion>, method=PLAIN, rip=fc00:dead:beef:4dad::1, lip=::1\n\
            auth(ada@x.onion,fc00:dead:beef:4dad::2,sasl:plain): passwd-file: Password mismatch\n\
            4fX: client=unknown[fc00:dead:beef:4dad::3], sasl_method=PLAIN\n\
            connect from unknown[fc00:dead:beef:4dad::4]\n\
            4fY: client=unknown[fc00:dead:beef:4dad::5]\n\
            4fY: timeout after DATA (56 bytes) from unknown[fc00:dead:beef:4dad::5]\n";
        let innocent: Vec<_> = innocent(journal).iter().map(ToString::to_string).collect();
        assert_eq!(innocent, ["fc00:dead:beef:4dad::1", "fc00:dead:beef:4dad::3"]);
    }
}
