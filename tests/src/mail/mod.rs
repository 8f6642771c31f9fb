//! One appliance in the lab, under Secure Boot, used by its people and tried by strangers, through Tor as they would.
//!
//! Every client here is a circuit of a private Tor network; nothing is spoken to the appliance's own loopback but
//! what must be seen from inside. Mail between two appliances is another scenario's.

mod delivery;
mod inside;
mod log;
mod loopback;
mod quiet;
mod receive;
mod restarts;
mod rules;
mod sandbox;
mod sink;
mod submit;
mod upkeep;
mod web;

use std::borrow::Cow;

use anyhow::{Context as _, anyhow};
use clients::{Imap, Reply, Smtp};
use qemu::{Deadline, Firmware, Probe, RunDir};

use crate::Context;
use crate::appliance::Appliance;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, fail, gate};
use crate::firmware::booted;
use crate::outside;
use crate::site::{Account, DELIVERY, ONION, PEER, Site};
use crate::world::{Resident, World};

/// The second mailbox's password.
const BOB: &str = "four ordinary lantern Umbrellas";

pub(crate) struct Mail;

/// Fields are dropped in this order.
pub(crate) struct State {
    ctx: Context,
    resident: Resident,
    world: World,
    site: Option<Site>,
    /// The appliance's time, as mail writes it (RFC 5322).
    date: String,
    /// How many messages were sent, for subjects that are all different.
    count: u32,
    quiet: quiet::Quiet,
}

/// The two people with a mailbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Person {
    Ada,
    Bob,
}

impl Person {
    const fn name(self) -> &'static str {
        match self {
            Self::Ada => "ada",
            Self::Bob => "bob",
        }
    }
}

/// Its user's machine, and then the same as it is seen from outside.
pub(crate) struct Stages {
    used: Option<State>,
    seen: Option<outside::State>,
}

impl Scenario for Mail {
    type State = Stages;

    fn name(&self) -> Cow<'static, str> {
        "mail".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "one appliance in a private Tor network: its services, as users and strangers meet them; every packet of its \
         card, scans from its LAN"
            .into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<Stages> {
        let mut world = World::start(ctx, "mail")?;
        let resident = world
            .appliance_as(ctx, probe, "mail/a", "ada", |spec| spec.firmware = Firmware::UefiSecureBoot)?;
        let used = State {
            ctx: ctx.clone(),
            resident,
            world,
            site: None,
            date: String::new(),
            count: 0,
            quiet: quiet::Quiet::default(),
        };
        Ok(Stages { used: Some(used), seen: None })
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<Stages>> {
        let up = vec![
            gate("services_reachable_through_tor", &["R2"], services_reachable),
            gate("second_mailbox", &[], second_mailbox),
        ];
        let used = [
            Phase::of(booted(ctx.arch, Firmware::UefiSecureBoot)).within(appliance),
            Phase::of(up),
            Phase::after(quiet::pause, inside::checks()),
            Phase::of(sandbox::checks()),
            Phase::after(quiet::resume, receive::checks()),
            Phase::of(submit::checks()),
            Phase::of(loopback::checks()),
            Phase::of(rules::checks()),
            Phase::of(delivery::checks()),
            Phase::of(web::checks()),
            Phase::of(quiet::checks()),
            Phase::of(upkeep::checks()),
            Phase::of(restarts::checks()),
            Phase::of(log::checks()),
        ];
        let used = used.map(|phase| phase.within(Stages::used));
        let outside = Phase::after(Stages::look_from_outside, Vec::new());
        let seen = outside::phases(ctx).into_iter().map(|phase| phase.within(Stages::seen));
        used.into_iter().chain([outside]).chain(seen).collect()
    }

    fn evidence(&self, stages: &mut Stages) -> Vec<Evidence> {
        let used = stages.used.as_mut().map(|state| state.resident.evidence());
        used.or_else(|| stages.seen.as_mut().map(outside::State::evidence)).unwrap_or_default()
    }

    fn reach(&self, stages: &Stages) -> Option<String> {
        let used = stages
            .used
            .as_ref()
            .map(|state| state.resident.appliance.machine.how_to_reach() + &state.world.lab().how_to_reach());
        used.or_else(|| stages.seen.as_ref().map(outside::State::reach))
    }
}

impl Stages {
    fn used(&mut self) -> anyhow::Result<&mut State> {
        self.used.as_mut().context("the machine is used no more")
    }

    fn seen(&mut self) -> anyhow::Result<&mut outside::State> {
        self.seen.as_mut().context("the machine is not yet looked at from outside")
    }

    fn look_from_outside(&mut self) -> anyhow::Result<()> {
        let State { ctx, resident, world, .. } = self.used.take().context("the machine is used no more")?;
        let folder = RunDir::create(&ctx.run_root.join("mail/outside"))?.path().to_owned();
        self.seen = Some(outside::State::new((resident, world), ctx.scanners, folder));
        Ok(())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a part of a state may be missing")]
fn appliance(state: &mut State) -> anyhow::Result<&mut Appliance> {
    Ok(&mut state.resident.appliance)
}

/// The onions answer, and what the owner has to know is there.
fn services_reachable(state: &mut State) -> Verdict {
    state.date = state.resident.appliance.read("date -uR")?.trim().to_owned();
    let site = Site::learn(&mut state.resident, &mut state.world)?;
    site.wait_up(Deadline::seconds(ONION))?;
    state.site = Some(site);
    PASS
}

/// Made as the owner would, with a password of one's own.
fn second_mailbox(state: &mut State) -> Verdict {
    let script = format!("echo '{BOB}' | cipolla user add bob --stdin && cipolla user list");
    let list = state.resident.appliance.read(&script)?;
    if list.lines().any(|line| line.starts_with("bob")) { PASS } else { fail(list) }
}

impl State {
    fn site(&self) -> anyhow::Result<&Site> {
        self.site.as_ref().ok_or_else(|| anyhow!("the services were never reached"))
    }

    /// `local@` the appliance's mail domain.
    fn at(&self, local: &str) -> anyhow::Result<String> {
        Ok(self.site()?.at(local))
    }

    fn account(&self, person: Person) -> anyhow::Result<Account<'_>> {
        let password = match person {
            Person::Ada => &self.site()?.password,
            Person::Bob => BOB,
        };
        Ok(Account { local: person.name(), password })
    }

    fn stranger(&self, circuit: &str) -> anyhow::Result<Smtp> {
        self.site()?.stranger(circuit)
    }

    fn greeting(&self, circuit: &str) -> anyhow::Result<(Smtp, Reply)> {
        self.site()?.greeting(circuit)
    }

    fn client(&self, circuit: &str) -> anyhow::Result<Smtp> {
        self.site()?.client(circuit)
    }

    fn submission(&self, circuit: &str, person: Person) -> anyhow::Result<Smtp> {
        self.site()?.submission(circuit, self.account(person)?)
    }

    fn imap(&self, circuit: &str) -> anyhow::Result<(Imap, String)> {
        self.site()?.imap(circuit)
    }

    fn mailbox(&self, circuit: &str, person: Person) -> anyhow::Result<Imap> {
        self.site()?.mailbox(circuit, self.account(person)?)
    }

    /// A word that no other message's subject has.
    fn token(&mut self) -> String {
        self.count += 1;
        format!("token{:04}", self.count)
    }

    /// A message. Header lines come as they are; those that every mail program writes are added, since their lack
    /// looks like spam. CRLF line ends.
    fn letter(&self, headers: &[&str], body: &str) -> Vec<u8> {
        let lacks = |name: &str| !headers.iter().any(|line| line.to_ascii_lowercase().starts_with(name));
        let mut lines: Vec<String> = headers.iter().map(|line| (*line).to_owned()).collect();
        lines.extend(lacks("date:").then(|| format!("Date: {}", self.date)));
        lines.extend(lacks("message-id:").then(|| format!("Message-ID: <{}@{PEER}>", self.count)));
        let ada = self.at("ada").unwrap_or_default();
        lines.extend(lacks("to:").then(|| format!("To: <{ada}>")));
        lines.extend(lacks("mime-version:").then(|| "MIME-Version: 1.0".to_owned()));
        format!("{}\r\n\r\n{body}\r\n", lines.join("\r\n")).into_bytes()
    }

    fn arrived(&self, person: Person, folder: &str, token: &str) -> anyhow::Result<Vec<u8>> {
        self.site()?.arrived(self.account(person)?, folder, token, Deadline::seconds(DELIVERY))
    }
}

/// The verdict on a reply that must have this code and hold this text.
fn expect(reply: &Reply, code: u16, text: &str) -> Verdict {
    if reply.code == code && reply.to_string().contains(text) {
        return PASS;
    }
    fail(format!("the answer is {reply:?}, not {code} … {text} …"))
}

/// One finding per reply that is not as it must be.
fn unless(findings: &mut Vec<String>, what: &str, reply: &Reply, code: u16, text: &str) {
    if reply.code != code || !reply.to_string().contains(text) {
        findings.push(format!("{what}: {reply}, not {code} … {text} …"));
    }
}

/// Both together, with the thing that was tried in the error.
fn tried<T>(what: &str, result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.with_context(|| format!("trying {what}"))
}
