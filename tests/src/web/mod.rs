//! One appliance in the lab, as its owner's browser and SSH see it, and as scanners do. A part of `exchange`: the machine
//! is one that has written to another and got mail from it.
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
pub(crate) mod audit;
mod forward;
mod renewal;
mod tls;
mod webmail;
mod webonly;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::bail;
use qemu::Deadline;

pub(crate) use admin::make_key;

use crate::check::{Evidence, PASS, Phase, Verdict, fail, gate};
use crate::site::{Account, DELIVERY, ONION, PEER, Site};
use crate::vantage::{Vantage, words};
use crate::webmail::Webmail;
use crate::world::{Resident, World};

/// The second mailbox's password.
const BOB: &str = "seven patient Harbours remember";

/// An appliance whose services are known and whose first mailbox is `ada`. Fields are dropped in this order.
pub(crate) struct State {
    webmail: Option<Webmail>,
    resident: Resident,
    world: World,
    site: Site,
    /// The browser's tree.
    tree: Vec<OsString>,
    /// The scanners, in the lab's network.
    scanners: Vantage,
    /// For screenshots, scans, and the owner's SSH key.
    folder: PathBuf,
    /// What testssl found, by port.
    scans: tls::Scans,
}

pub(crate) fn phases() -> Vec<Phase<State>> {
    let leave = |state: &mut State| {
        state.webmail = None;
        Ok(())
    };
    vec![
        Phase::after(answers, vec![gate("second_mailbox", &[], second_mailbox)]),
        Phase::of(webmail::checks()),
        Phase::after(leave, tls::checks()),
        Phase::of(admin::checks()),
        Phase::of(renewal::checks()),
        Phase::after(tls::scan, tls::scans()),
        Phase::of(audit::checks()),
        Phase::of(webonly::checks()),
    ]
}

/// What it did before may have restarted its Tor.
fn answers(state: &mut State) -> anyhow::Result<()> {
    state.site.wait_up(Deadline::seconds(ONION))
}

/// Made as the owner would, with a password of one's own.
fn second_mailbox(state: &mut State) -> Verdict {
    let script = format!("echo '{BOB}' | cipolla user add bob --stdin && cipolla user list");
    let list = state.resident.appliance.read(&script)?;
    if list.lines().any(|line| line.starts_with("bob")) { PASS } else { fail(list) }
}

impl State {
    /// `scanners` is [`crate::Context::scanners`] and `tree` [`crate::Context::browser`]. The folder is the one that
    /// [`make_key`] put the key in that the appliance lets in.
    pub(crate) fn new(
        (resident, world): (Resident, World),
        site: Site,
        tree: Vec<OsString>,
        scanners: Vec<OsString>,
        folder: PathBuf,
    ) -> Self {
        let scanners = Vantage { namespace: world.lab().network(), tree: scanners };
        Self { webmail: None, resident, world, site, tree, scanners, folder, scans: tls::Scans::new() }
    }

    pub(crate) fn evidence(&mut self) -> Vec<Evidence> {
        self.resident.evidence()
    }

    /// How to reach the machine and its lab.
    pub(crate) fn reach(&self) -> String {
        self.resident.appliance.machine.how_to_reach() + &self.world.lab().how_to_reach()
    }

    /// `local@` the appliance's mail domain.
    fn at(&self, local: &str) -> String {
        self.site.at(local)
    }

    /// The browser at the webmail's door, started at its first use.
    fn webmail(&mut self) -> anyhow::Result<&mut Webmail> {
        let webmail = match self.webmail.take() {
            Some(webmail) => webmail,
            None => Webmail::open(&mut self.world, &self.tree, self.folder.clone(), &self.site, "ada")?,
        };
        Ok(self.webmail.insert(webmail))
    }

    /// A stranger's message for `ada`.
    fn receive(&self, sender: &str, message: &[u8]) -> anyhow::Result<()> {
        let mut smtp = self.site.stranger(sender)?;
        let reply = smtp.mail(&format!("{sender}@{PEER}"), &[&self.at("ada")], message)?;
        if reply.code != 250 {
            bail!("the message is answered with {reply}");
        }
        Ok(())
    }

    /// Whether ada's mailbox opens with this password.
    fn opens(&self, password: &str) -> anyhow::Result<bool> {
        let (mut imap, _) = self.site.imap("ada reads")?;
        Ok(imap.login(&self.at("ada"), password)?.agreed())
    }

    /// Waits for the message with this word in its subject and returns it as it is stored.
    fn arrived(&self, local: &str, word: &str) -> anyhow::Result<String> {
        let site = &self.site;
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
