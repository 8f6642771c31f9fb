//! One appliance in the lab, as its owner's browser and SSH see it, and as scanners do.
//!
//! | module | what |
//! |---|---|
//! | [`webmail`] | a real browser over Tor: logging in, reading, sending, settings; screenshots are kept |
//! | [`tls`] | protocols, names and known faults of every port with TLS |
//! | [`renewal`] | certificates that run out |
//! | [`admin`] | who sees the admin service, and what it is like; who sees the client service once devices have keys |
//! | [`audit`] | what an auditor with root's rights finds inside |
//! | [`webonly`] | the setting that leaves the webmail as the only way to the mail |
//!
//! Never: a look into the webmail's own code or database. What is not on the page or in the mailbox is not there.

mod admin;
mod audit;
mod forward;
mod renewal;
mod tls;
mod webmail;
mod webonly;

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use qemu::{Deadline, Probe, RunDir};

use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, fail, gate};
use crate::site::{Account, DELIVERY, ONION, PEER, Site};
use crate::vantage::{Vantage, words};
use crate::webmail::Webmail;
use crate::world::{Owner, Resident, World};

/// The second mailbox's password.
const BOB: &str = "seven patient Harbours remember";

pub(crate) struct Web;

/// Fields are dropped in this order.
pub(crate) struct State {
    webmail: Option<Webmail>,
    resident: Resident,
    world: World,
    site: Option<Site>,
    /// The browser's tree.
    tree: Vec<std::ffi::OsString>,
    /// The scanners, in the lab's network.
    scanners: Vantage,
    /// The scenario's folder.
    folder: PathBuf,
    /// What testssl found, by port.
    scans: tls::Scans,
}

impl Scenario for Web {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "web".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "one appliance in a private Tor network: its webmail in a browser, TLS and SSH under scanners".into()
    }

    fn wants_browser(&self) -> bool {
        true
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let tree = ctx.browser.clone().context("no browser was prepared for this run")?;
        // Closed to others before anything is made in it.
        let folder = RunDir::create(&ctx.run_root.join("web"))?.path().to_owned();
        let key = admin::make_key(ctx, &folder)?;
        let mut world = World::start(ctx, "web")?;
        let owner = Owner { ssh_keys: &[key], ..Owner::from("ada") };
        let resident = world.appliance(ctx, probe, "web/a", owner)?;
        let scanners = Vantage { namespace: world.lab().network(), tree: ctx.scanners.clone() };
        let scans = tls::Scans::new();
        Ok(State { webmail: None, resident, world, site: None, tree, scanners, folder, scans })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let up = vec![
            gate("boots_with_ssh_key", &[], |state: &mut State| {
                state.resident.appliance.wait_boot()?;
                PASS
            }),
            gate("services_reachable_through_tor", &["R2"], services_reachable),
            gate("second_mailbox", &[], second_mailbox),
        ];
        let leave = |state: &mut State| {
            state.webmail = None;
            Ok(())
        };
        vec![
            Phase::of(up),
            Phase::of(webmail::checks()),
            Phase::after(leave, tls::checks()),
            // Checks that wait more than they work.
            Phase::after(audit::start, admin::checks()),
            Phase::of(renewal::checks()),
            Phase::after(tls::scan, tls::scans()),
            Phase::of(audit::checks()),
            Phase::of(webonly::checks()),
        ]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.resident.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.resident.appliance.machine.how_to_reach() + &state.world.lab().how_to_reach())
    }
}

/// The onions answer, and what the owner has to know is there.
fn services_reachable(state: &mut State) -> Verdict {
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

    /// The browser at the webmail's door, started at its first use.
    fn webmail(&mut self) -> anyhow::Result<&mut Webmail> {
        let webmail = match self.webmail.take() {
            Some(webmail) => webmail,
            None => {
                let site = self.site.as_ref().context("the services were never reached")?;
                Webmail::open(&mut self.world, &self.tree, self.folder.clone(), site, "ada")?
            }
        };
        Ok(self.webmail.insert(webmail))
    }

    /// A stranger's message for `ada`.
    fn receive(&self, sender: &str, message: &[u8]) -> anyhow::Result<()> {
        let mut smtp = self.site()?.stranger(sender)?;
        let reply = smtp.mail(&format!("{sender}@{PEER}"), &[&self.at("ada")?], message)?;
        if reply.code != 250 {
            bail!("the message is answered with {reply}");
        }
        Ok(())
    }

    /// Whether ada's mailbox opens with this password.
    fn opens(&self, password: &str) -> anyhow::Result<bool> {
        let (mut imap, _) = self.site()?.imap("ada reads")?;
        Ok(imap.login(&self.at("ada")?, password)?.agreed())
    }

    /// Waits for the message with this word in its subject and returns it as it is stored.
    fn arrived(&self, local: &str, word: &str) -> anyhow::Result<String> {
        let site = self.site()?;
        let password = if local == "ada" { &site.password } else { BOB };
        let account = Account { local, password };
        let message = site.arrived(account, "INBOX", word, Deadline::seconds(DELIVERY))?;
        Ok(String::from_utf8_lossy(&message).into_owned())
    }

    /// Runs a tool of the lab's tree in the lab's network.
    fn tool(&self, argv: &[&str], seconds: u64) -> anyhow::Result<crate::vantage::Output> {
        self.scanners.output(&words(argv), Deadline::seconds(seconds))
    }
}
