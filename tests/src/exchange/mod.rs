//! Two appliances from the same image write to each other, over the private Tor network. One of them reaches it
//! through an obfs4 bridge. Afterwards the other one is looked at alone.
//!
//! | module | what |
//! |---|---|
//! | here | mail both ways, by submission and IMAP through Tor, with TLS that trusts the appliance's own authority only |
//! | [`webmail`] | what has arrived is read, and answered, in a browser |
//! | [`sleep`] | one of them is switched off while the other writes |
//! | [`web`] | the other one under browser and scanners; a module of its own, on a machine that is up already |

mod sleep;
mod webmail;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clients::{Imap, Smtp};
use data_encoding::BASE64_MIME;
use qemu::{Deadline, Probe, RunDir};
use sha2::{Digest as _, Sha256};

use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, check, fail, gate, none_of};
use crate::first_boot::identity;
use crate::site::{Account, DIALOGUE, ONION, Site};
use crate::web;
use crate::webmail::Webmail;
use crate::world::{Asleep, Owner, Resident, World};

/// From submission to the other mailbox: a lookup, a circuit, a delivery, on two emulated machines.
const DELIVERY: u64 = 300;

/// Long enough to be folded, with characters of two, three and four bytes.
const SUBJECT: &str = "Grüße aus der Küche: 玉ねぎのスープ, сельдь под шубой and a very long way to say that dinner \
    is ready, with 🧅 on top, so that this subject needs more than one encoded word";

/// Bytes of a subject in one encoded word; the first line has to have room for its name, too.
const PART: usize = 39;

/// In the text of every message.
const TEXT: &str = "Zwiebelsuppe für alle.";

pub(crate) struct Exchange;

/// First two who write to each other, then one of them alone.
pub(crate) struct Stages {
    both: Option<State>,
    one: Option<web::State>,
}

/// Fields are dropped in this order.
pub(crate) struct State {
    webmail: Option<Webmail>,
    people: Vec<Person>,
    /// What was switched off.
    asleep: Option<Asleep>,
    /// What was written to it meanwhile.
    waiting: sleep::Waiting,
    world: World,
    /// The browser's tree.
    tree: Vec<OsString>,
    /// For screenshots.
    folder: PathBuf,
    /// For what is seen of the one that stays, and the SSH key of its owner.
    web_folder: PathBuf,
}

/// An appliance and what its owner knows.
struct Person {
    /// `None` while it is switched off.
    resident: Option<Resident>,
    name: &'static str,
    site: Option<Site>,
}

impl Scenario for Exchange {
    type State = Stages;

    fn name(&self) -> Cow<'static, str> {
        "exchange".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "two appliances from one image write to each other over a private Tor network; one of them sleeps, the \
         other is seen by a browser and by scanners"
            .into()
    }

    fn wants_browser(&self) -> bool {
        true
    }

    fn machines(&self) -> usize {
        2
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<Stages> {
        let tree = ctx.browser.clone().context("no browser was prepared for this run")?;
        let mut world = World::start(ctx, "exchange")?;
        let folder = RunDir::create(&ctx.run_root.join("exchange/webmail"))?.path().to_owned();
        // Closed to others before anything is made in it.
        let web_folder = RunDir::create(&ctx.run_root.join("exchange/web"))?.path().to_owned();
        let key = web::make_key(ctx, &web_folder)?;
        let owner = Owner { ssh_keys: &[key], ..Owner::from("ada") };
        let ada = world.appliance(ctx, probe, "exchange/ada", owner)?;
        // Bob's provider lets nobody use Tor: his appliance goes through a bridge.
        let bob = world.appliance_behind_bridge(ctx, probe, "exchange/bob", "bob")?;
        let people = [("ada", ada), ("bob", bob)].map(|(name, resident)| Person {
            resident: Some(resident),
            name,
            site: None,
        });
        let both = State {
            webmail: None,
            people: people.into(),
            asleep: None,
            waiting: sleep::Waiting::default(),
            world,
            tree,
            folder,
            web_folder,
        };
        Ok(Stages { both: Some(both), one: None })
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<Stages>> {
        let checks = vec![
            gate("both_boot", &[], |state: &mut State| {
                for person in &mut state.people {
                    person.resident()?.appliance.wait_boot()?;
                }
                PASS
            }),
            check("keys_unique_across_two_boots", &["R3", "R49"], keys_unique),
            gate("owners_log_in_through_tor", &["R2", "R22", "R23", "R39"], owners_log_in),
            check("two_appliances_exchange_mail_there", &["R36"], |state: &mut State| exchange(state, 0, 1)),
            check("two_appliances_exchange_mail_back", &["R36"], |state: &mut State| exchange(state, 1, 0)),
            check("headers_no_ip_no_agent_no_zone", &["R31"], headers_tell_nothing),
            check("obfs4_bridge_is_the_only_way", &["R4"], obfs4_bridge_is_the_only_way),
            check("webmail_shows_what_was_sent", &["R16", "R36"], webmail::shows),
            check("webmail_reply_threads_and_tells_nothing", &["R16", "R31"], webmail::reply),
        ];
        let captures = vec![check("captures_hold_only_tor_and_dhcp", &["R1", "R4", "R6"], only_tor_and_dhcp)];
        let both = [
            Phase::of(checks),
            Phase::after(sleep::fall_asleep, sleep::while_asleep()),
            Phase::after(sleep::wake, sleep::afterwards()),
            Phase::of(captures),
        ];
        let scanners = ctx.scanners.clone();
        let alone = Phase::after(move |stages: &mut Stages| stages.leave_one(&scanners), Vec::new());
        let both = both.map(|phase| phase.within(Stages::both));
        let one = web::phases().into_iter().map(|phase| phase.within(Stages::one).machines(1));
        both.into_iter().chain([alone]).chain(one).collect()
    }

    fn evidence(&self, stages: &mut Stages) -> Vec<Evidence> {
        let both = stages.both.as_mut().map(State::evidence);
        let one = stages.one.as_mut().map(web::State::evidence);
        both.or(one).unwrap_or_default()
    }

    fn reach(&self, stages: &Stages) -> Option<String> {
        let both = stages.both.as_ref().map(State::reach);
        both.or_else(|| stages.one.as_ref().map(web::State::reach))
    }
}

impl Stages {
    fn both(&mut self) -> anyhow::Result<&mut State> {
        self.both.as_mut().context("one of the two appliances is gone")
    }

    fn one(&mut self) -> anyhow::Result<&mut web::State> {
        self.one.as_mut().context("there are still two appliances")
    }

    /// Switches bob's appliance off for good, so that it takes no time from the other one.
    fn leave_one(&mut self, scanners: &[OsString]) -> anyhow::Result<()> {
        let [ada, bob] = &mut self.both()?.people[..] else { bail!("there are two people") };
        bob.resident.take().context("bob's appliance is switched off already")?.cut_power()?;
        let site = ada.site.take().context("nothing is known about ada")?;
        let resident = ada.resident.take().context("ada's appliance is switched off")?;
        let State { world, tree, web_folder, .. } = self.both.take().context("there were two appliances")?;
        self.one = Some(web::State::new((resident, world), site, tree, scanners.to_owned(), web_folder));
        Ok(())
    }
}

impl State {
    fn evidence(&mut self) -> Vec<Evidence> {
        let up = self.people.iter_mut().filter_map(|person| person.resident.as_mut());
        up.flat_map(Resident::evidence).collect()
    }

    fn reach(&self) -> String {
        let up = self.people.iter().filter_map(|person| person.resident.as_ref());
        let machines = up.map(|resident| resident.appliance.machine.how_to_reach());
        machines.chain([self.world.lab().how_to_reach()]).collect()
    }
}

impl Person {
    fn resident(&mut self) -> anyhow::Result<&mut Resident> {
        self.resident.as_mut().with_context(|| format!("{}'s appliance is switched off", self.name))
    }

    /// Runs a script on the appliance that has to succeed and returns what it wrote.
    fn read(&mut self, script: &str) -> anyhow::Result<String> {
        self.resident()?.appliance.read(script)
    }

    fn site(&self) -> anyhow::Result<&Site> {
        self.site.as_ref().with_context(|| format!("nothing is known about {}", self.name))
    }

    fn account(&self) -> anyhow::Result<Account<'_>> {
        Ok(Account { local: self.name, password: &self.site()?.password })
    }

    fn address(&self) -> anyhow::Result<String> {
        Ok(self.site()?.at(self.name))
    }

    fn submission(&self) -> anyhow::Result<Smtp> {
        self.site()?.submission(&format!("{} writes", self.name), self.account()?)
    }

    fn mailbox(&self) -> anyhow::Result<Imap> {
        self.site()?.mailbox(&format!("{} reads", self.name), self.account()?)
    }
}

/// The same image twice, and not one secret or name in common.
fn keys_unique(state: &mut State) -> Verdict {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut findings = Vec::new();
    for person in &mut state.people {
        for (file, sum) in identity(&mut person.resident()?.appliance)? {
            let here = format!("{file} of {}", person.name);
            if let Some(other) = seen.insert(sum, here.clone()) {
                findings.push(format!("{here} is the same as {other}"));
            }
        }
    }
    none_of(&findings)
}

fn owners_log_in(state: &mut State) -> Verdict {
    for person in &mut state.people {
        let site = Site::learn(person.resident()?, &mut state.world)?;
        site.wait_up(Deadline::seconds(ONION))?;
        person.site = Some(site);
        person.submission()?.demand("QUIT")?;
        person.mailbox()?.demand("LOGOUT")?;
    }
    PASS
}

/// Something that no mail system would make up by itself: 200 KB that do not compress.
fn attachment(seed: &str) -> Vec<u8> {
    (0_u32..6400).flat_map(|number| Sha256::digest(format!("{seed} {number}"))).collect()
}

/// A message as a mail program writes it, with traces that have to be gone when it arrives.
fn message(from: &str, to: &str, subject: &str, attachment: &[u8]) -> String {
    let words: String = chunks(subject, PART)
        .map(|part| format!(" =?utf-8?B?{}?=\r\n", data_encoding::BASE64.encode(part.as_bytes())))
        .collect();
    format!(
        "From: {from}\r\nTo: {to}\r\nSubject:{words}Date: Fri, 20 Nov 2026 12:00:00 +0530\r\n\
         Message-ID: <1@laptop.example>\r\nUser-Agent: Test/1.0 (X11; Linux x86_64)\r\n\
         X-Originating-IP: [192.0.2.77]\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"onion\"\r\n\r\n\
         --onion\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         {TEXT}\r\n\
         --onion\r\nContent-Type: application/octet-stream; name=\"soup.bin\"\r\n\
         Content-Disposition: attachment; filename=\"soup.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         {}--onion--\r\n",
        BASE64_MIME.encode(attachment)
    )
}

/// Parts of at most so many bytes, cut between characters (RFC 2047, 5).
fn chunks(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.floor_char_boundary(most);
        let (part, after) = rest.split_at(end);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// One writes, the other reads.
fn exchange(state: &mut State, from: usize, to: usize) -> Verdict {
    let (from, to) = (&state.people[from], &state.people[to]);
    let (sender, recipient) = (from.address()?, to.address()?);
    let content = attachment(&sender);
    let text = message(&sender, &recipient, SUBJECT, &content);
    let reply = from.submission()?.mail(&sender, &[&recipient], text.as_bytes())?;
    if !reply.agreed() {
        return fail(format!("submission refuses the message: {reply}"));
    }
    none_of(&unlike(&receive(to)?, SUBJECT, &content))
}

/// What of a message is not as it was written.
fn unlike(received: &str, subject: &str, attachment: &[u8]) -> Vec<String> {
    let mut findings = Vec::new();
    for part in chunks(subject, PART) {
        if !received.contains(&data_encoding::BASE64.encode(part.as_bytes())) {
            findings.push(format!("the subject lacks {part:?}"));
        }
    }
    if !received.contains(TEXT) && !received.contains("Zwiebelsuppe f=C3=BCr alle.") {
        findings.push("the text is not what was sent".to_owned());
    }
    if !received.contains(&BASE64_MIME.encode(attachment)) {
        findings.push("the attachment is not what was sent".to_owned());
    }
    findings
}

/// Waits for the first message of a mailbox, as a mail program does (RFC 2177), and reads it.
fn receive(who: &Person) -> anyhow::Result<String> {
    let deadline = Deadline::seconds(DELIVERY);
    let mut imap = who.mailbox()?;
    imap.until(deadline);
    if imap.select("INBOX")? == 0 {
        imap.talk().send("idle IDLE")?;
        while !imap.talk().line()?.ends_with(" EXISTS") {}
        imap.talk().send("DONE")?;
        while !imap.talk().line()?.starts_with("idle ") {}
    }
    imap.until(Deadline::seconds(DIALOGUE));
    Ok(String::from_utf8_lossy(&imap.message(1)?).into_owned())
}

/// What the mail program and the way of the message told about the sender's computer is gone.
fn headers_tell_nothing(state: &mut State) -> Verdict {
    let text = receive(&state.people[1])?;
    let traces = ["192.0.2.77", "X-Originating-IP", "laptop.example"];
    none_of(&told(head(&text), &traces))
}

/// The header lines of a message.
fn head(message: &str) -> &str {
    message.split("\r\n\r\n").next().unwrap_or_default()
}

/// Header lines with one of these traces of the sender's computer, or with one that every computer leaves.
fn told(head: &str, traces: &[&str]) -> Vec<String> {
    let always = ["User-Agent", "X-Mailer", "+0530", "fc00:dead", "127.0.0.1"];
    let traces = traces.iter().chain(&always);
    let found =
        |trace| head.lines().filter(move |line: &&str| line.contains(trace)).map(move |line| (trace, line));
    traces.flat_map(|trace| found(*trace)).map(|(trace, line)| format!("{trace:?} in {line:?}")).collect()
}

fn only_tor_and_dhcp(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for person in &state.people {
        let resident = person.resident.as_ref().context("not every appliance is up")?;
        let tally = state.world.judge(resident)?;
        findings.extend(tally.findings.iter().map(|finding| format!("{}: {finding}", person.name)));
    }
    none_of(&findings)
}

/// Bob's Tor speaks to its bridge and nobody else, through a transport in the same sandbox, and nothing was denied.
fn obfs4_bridge_is_the_only_way(state: &mut State) -> Verdict {
    let bob = state.people[1].resident()?;
    let tally = state.world.judge(bob)?;
    let mut findings = tally.findings;
    if tally.tor_connects == 0 {
        findings.push("no connection to the bridge".to_owned());
    }
    findings.extend(bob.confines("obfs4proxy")?);
    let listeners = bob.appliance.run("cipolla selftest listeners_exact_set")?;
    if !listeners.status.success() {
        findings.push(format!("{}{}", listeners.stdout, listeners.stderr));
    }
    none_of(&findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_short_and_whole() {
        let parts: Vec<_> = chunks(SUBJECT, PART).collect();
        assert_eq!(parts.concat(), SUBJECT);
        assert!(parts.iter().all(|part| part.len() <= PART));
        let text = message("a@x.onion", "b@y.onion", SUBJECT, b"x");
        // An encoded word has at most 75 characters (RFC 2047, 2).
        assert!(text.lines().take_while(|line| !line.is_empty()).all(|line| line.len() <= 76), "{text}");
    }
}
