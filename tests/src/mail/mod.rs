//! One appliance in the lab, used by its people and tried by strangers, through Tor as they would.
//!
//! Every client here is a circuit of a private Tor network; nothing is spoken to the appliance's own loopback but
//! what must be seen from inside. Mail between two appliances is another scenario's.

mod circuits;
mod delivery;
mod inside;
mod receive;
mod restarts;
mod rules;
mod sandbox;
mod submit;
mod upkeep;
mod web;

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clients::{Door, Imap, Reply, Smtp, Trust};
use qemu::{Deadline, Probe};

use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, fail, gate};
use crate::world::{Resident, World};

/// From the login prompt to reachable onion services.
const ONION: u64 = 300;

/// One dialogue. Everything is emulated, and behind six relays on the same two cores.
const DIALOGUE: u64 = 120;

/// From 250 to the mailbox.
const DELIVERY: u64 = 90;

/// An onion service that does not exist, with a valid address: strangers say they come from here.
pub(super) const PEER: &str = "6cx7sjpdtukjlquxhytwsbwzi5uoitgk5twn7z3ocu3foa7ipqbbxiad.onion";

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
}

/// What the owner holds in hand after the first boot.
struct Site {
    door: Door,
    mx: String,
    client: String,
    trust: Trust,
    /// Password of the first mailbox, `ada`.
    ada: String,
    /// Password in front of the webmail.
    web: String,
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

impl Scenario for Mail {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "mail".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "one appliance in a private Tor network: its services, as users and strangers meet them".into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let mut world = World::start(ctx, "mail")?;
        let resident = world.appliance(ctx, probe, "mail/a", "ada")?;
        Ok(State { ctx: ctx.clone(), resident, world, site: None, date: String::new(), count: 0 })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let up = vec![
            gate("boots_with_settings", &[], |state: &mut State| {
                state.resident.appliance.wait_boot()?;
                PASS
            }),
            gate("services_reachable_through_tor", &["R2"], services_reachable),
            gate("second_mailbox", &[], second_mailbox),
        ];
        let phase = |checks| Phase { enter: |_| Ok(()), checks };
        vec![
            phase(up),
            phase(inside::checks()),
            phase(sandbox::checks()),
            phase(receive::checks()),
            phase(submit::checks()),
            phase(rules::checks()),
            phase(delivery::checks()),
            phase(web::checks()),
            phase(upkeep::checks()),
            phase(circuits::checks()),
            phase(restarts::checks()),
        ]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.resident.appliance.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.resident.appliance.machine.how_to_reach() + &state.world.lab().how_to_reach())
    }
}

/// The onions answer, and what the owner has to know is there.
fn services_reachable(state: &mut State) -> Verdict {
    let deadline = Deadline::seconds(ONION);
    let (mx, client) = (state.resident.onion("mx")?, state.resident.onion("client")?);
    let appliance = &mut state.resident.appliance;
    let secret = |name: &str| format!("cat /var/lib/cipolla/private/credentials/{name}");
    let ada = appliance.read(&secret("mailbox"))?.trim().to_owned();
    let web = appliance.read(&secret("web"))?.trim().to_owned();
    let trust = Trust::in_authority(&appliance.read("cat /var/lib/cipolla/tls/ca.crt")?)?;
    state.date = appliance.read("date -uR")?.trim().to_owned();
    let door = state.world.door()?;
    for (onion, port) in [(&mx, 25), (&client, 465), (&client, 993), (&client, 80)] {
        door.connect_when_up("first", onion, port, deadline)?;
    }
    state.site = Some(Site { door, mx, client, trust, ada, web });
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
        Ok(format!("{local}@{}", self.site()?.mx))
    }

    /// A dialogue on port 25, after EHLO.
    fn stranger(&self, circuit: &str) -> anyhow::Result<Smtp> {
        let (mut smtp, greeting) = self.greeting(circuit)?;
        if greeting.code != 220 {
            bail!("the greeting is {greeting}");
        }
        smtp.demand(&format!("EHLO {PEER}"))?;
        Ok(smtp)
    }

    /// A dialogue on port 25, before EHLO.
    fn greeting(&self, circuit: &str) -> anyhow::Result<(Smtp, Reply)> {
        let site = self.site()?;
        Smtp::greeted(site.door.connect(circuit, &site.mx, 25, Deadline::seconds(DIALOGUE))?)
    }

    /// A dialogue on port 465, inside TLS, after EHLO.
    fn client(&self, circuit: &str) -> anyhow::Result<Smtp> {
        let site = self.site()?;
        let channel = site.door.connect(circuit, &site.client, 465, Deadline::seconds(DIALOGUE))?;
        let (mut smtp, _) = Smtp::greeted(site.trust.secure(channel, &site.client)?)?;
        smtp.demand("EHLO localhost.localdomain")?;
        Ok(smtp)
    }

    /// As [`State::client`], logged in.
    fn submission(&self, circuit: &str, person: Person) -> anyhow::Result<Smtp> {
        let mut smtp = self.client(circuit)?;
        let reply = smtp.auth_plain(&self.at(person.name())?, &self.password(person)?)?;
        if reply.code != 235 {
            bail!("logging in as {}: {reply}", person.name());
        }
        Ok(smtp)
    }

    /// A dialogue on port 993, inside TLS.
    fn imap(&self, circuit: &str) -> anyhow::Result<(Imap, String)> {
        let site = self.site()?;
        let channel = site.door.connect(circuit, &site.client, 993, Deadline::seconds(DIALOGUE))?;
        Imap::greeted(site.trust.secure(channel, &site.client)?)
    }

    /// As [`State::imap`], logged in.
    fn mailbox(&self, circuit: &str, person: Person) -> anyhow::Result<Imap> {
        let (mut imap, _) = self.imap(circuit)?;
        let answer = imap.login(&self.at(person.name())?, &self.password(person)?)?;
        if !answer.agreed() {
            bail!("logging in as {}: {} {}", person.name(), answer.status, answer.text);
        }
        Ok(imap)
    }

    fn password(&self, person: Person) -> anyhow::Result<String> {
        Ok(match person {
            Person::Ada => self.site()?.ada.clone(),
            Person::Bob => BOB.to_owned(),
        })
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

    /// Waits for the message whose subject has this word and returns it as it is stored.
    fn arrived(&self, person: Person, folder: &str, token: &str) -> anyhow::Result<Vec<u8>> {
        let deadline = Deadline::seconds(DELIVERY);
        let mut imap = self.mailbox(&format!("{}-reads", person.name()), person)?;
        imap.until(deadline);
        loop {
            imap.select(folder)?;
            let answer = imap.demand(&format!("SEARCH HEADER SUBJECT {token}"))?;
            let place = answer.untagged.iter().find_map(|line| {
                let line = std::str::from_utf8(line).ok()?.strip_prefix("SEARCH")?.trim().to_owned();
                line.split(' ').next()?.parse::<u32>().ok()
            });
            if let Some(place) = place {
                return imap.message(place);
            }
            if deadline.left().is_none() {
                bail!("no message with {token} came to {}'s {folder} in {DELIVERY} s", person.name());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
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
