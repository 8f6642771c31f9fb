//! An appliance as its owner knows it after the first boot, and the dialogues that the owner's programs and strangers
//! have with it through Tor.
//!
//! Every dialogue is named by a circuit: the same name is the same client to the appliance. Never: a way to the
//! appliance's own loopback.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clients::{Channel, Door, Imap, Reply, Smtp, Trust};
use data_encoding::BASE32_NOPAD;
use qemu::Deadline;

use crate::world::{Resident, World};

/// An onion service that does not exist, with a valid address: strangers say they come from here.
pub(crate) const PEER: &str = "6cx7sjpdtukjlquxhytwsbwzi5uoitgk5twn7z3ocu3foa7ipqbbxiad.onion";

/// From the login prompt to reachable onion services, and back to them after a restart of Tor, in seconds.
pub(crate) const ONION: u64 = 300;

/// One dialogue, in seconds. Everything is emulated, and behind six relays on the same two cores.
pub(crate) const DIALOGUE: u64 = 300;

/// How long somebody looks for services before asking anew, in seconds.
const IDENTITY: u64 = 60;

/// From 250 to the mailbox of the same machine, in seconds.
pub(crate) const DELIVERY: u64 = 120;

/// What the hand-over tells.
pub(crate) struct Site {
    pub(crate) door: Door,
    pub(crate) mx: String,
    pub(crate) client: String,
    pub(crate) admin: String,
    /// The authority's certificate, as a file in PEM.
    pub(crate) authority: String,
    pub(crate) trust: Trust,
    /// Password of the first mailbox.
    pub(crate) password: String,
    /// Password in front of the webmail.
    pub(crate) web: String,
    /// Private key of the owner's first device for the admin service (x25519).
    pub(crate) admin_key: [u8; 32],
}

/// A mailbox of the appliance, for those who know its password.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    /// The part before the `@`.
    pub(crate) local: &'a str,
    pub(crate) password: &'a str,
}

impl Site {
    /// Reads what the owner is told; nothing is asked of the services yet.
    pub(crate) fn learn(resident: &mut Resident, world: &mut World) -> anyhow::Result<Self> {
        let (mx, client, admin) =
            (resident.onion("mx")?, resident.onion("client")?, resident.onion("admin")?);
        let mut read = |script: &str| resident.appliance.read(script);
        let password = read("cat /var/lib/cipolla/private/credentials/mailbox")?.trim().to_owned();
        let web = read("cat /var/lib/cipolla/private/credentials/web")?.trim().to_owned();
        let authority = read("cat /var/lib/cipolla/tls/ca.crt")?;
        let trust = Trust::in_authority(&authority)?;
        let key = read("cat /var/lib/cipolla/private/credentials/admin")?;
        let key =
            BASE32_NOPAD.decode(key.trim().as_bytes()).context("decoding the key of the admin service")?;
        let admin_key = key.try_into().map_err(|key: Vec<u8>| anyhow!("the key has {} bytes", key.len()))?;
        Ok(Self { door: world.door()?, mx, client, admin, authority, trust, password, web, admin_key })
    }

    /// Waits until the services that anybody may reach answer through Tor.
    pub(crate) fn wait_up(&self, deadline: Deadline) -> anyhow::Result<()> {
        for (onion, port) in [(&self.mx, 25), (&self.client, 465), (&self.client, 993), (&self.client, 80)] {
            self.door.connect_when_up("first", onion, port, deadline)?;
        }
        Ok(())
    }

    /// As [`Site::wait_up`], for services whose Tor may have been started again, and as [`World::connect_anew`] looks for
    /// one. Returns how often it asked.
    pub(crate) fn wait_up_anew(&self, world: &mut World, deadline: Deadline) -> anyhow::Result<usize> {
        let mut asked = 0;
        loop {
            asked += 1;
            world.client()?.new_identity(Deadline::seconds(DIALOGUE))?;
            match self.wait_up(Deadline::seconds(IDENTITY)) {
                Ok(()) => return Ok(asked),
                Err(error) if deadline.left().is_none() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// `local@` the appliance's mail domain.
    pub(crate) fn at(&self, local: &str) -> String {
        format!("{local}@{}", self.mx)
    }

    /// A connection to a port of the client service.
    fn connect(&self, circuit: &str, port: u16) -> anyhow::Result<Channel> {
        self.door.connect(circuit, &self.client, port, Deadline::seconds(DIALOGUE))
    }

    /// A dialogue on port 25, before EHLO.
    pub(crate) fn greeting(&self, circuit: &str) -> anyhow::Result<(Smtp, Reply)> {
        Smtp::greeted(self.door.connect(circuit, &self.mx, 25, Deadline::seconds(DIALOGUE))?)
    }

    /// A dialogue on port 25, after EHLO.
    pub(crate) fn stranger(&self, circuit: &str) -> anyhow::Result<Smtp> {
        let (mut smtp, greeting) = self.greeting(circuit)?;
        if greeting.code != 220 {
            bail!("the greeting is {greeting}");
        }
        smtp.demand(&format!("EHLO {PEER}"))?;
        Ok(smtp)
    }

    /// A dialogue on port 465, inside TLS, after EHLO.
    pub(crate) fn client(&self, circuit: &str) -> anyhow::Result<Smtp> {
        let channel = self.connect(circuit, 465)?;
        let (mut smtp, greeting) = Smtp::greeted(self.trust.secure(channel, &self.client)?)?;
        if greeting.code != 220 {
            bail!("submission greets with {greeting}");
        }
        smtp.demand("EHLO localhost.localdomain")?;
        Ok(smtp)
    }

    /// As [`Site::client`], logged in.
    pub(crate) fn submission(&self, circuit: &str, account: Account<'_>) -> anyhow::Result<Smtp> {
        let mut smtp = self.client(circuit)?;
        let reply = smtp.auth_plain(&self.at(account.local), account.password)?;
        if reply.code != 235 {
            bail!("logging in as {}: {reply}", account.local);
        }
        Ok(smtp)
    }

    /// A dialogue on port 993, inside TLS, and its greeting.
    pub(crate) fn imap(&self, circuit: &str) -> anyhow::Result<(Imap, String)> {
        let channel = self.connect(circuit, 993)?;
        Imap::greeted(self.trust.secure(channel, &self.client)?)
    }

    /// As [`Site::imap`], logged in.
    pub(crate) fn mailbox(&self, circuit: &str, account: Account<'_>) -> anyhow::Result<Imap> {
        let (mut imap, _) = self.imap(circuit)?;
        let answer = imap.login(&self.at(account.local), account.password)?;
        if !answer.agreed() {
            bail!("logging in as {}: {} {}", account.local, answer.status, answer.text);
        }
        Ok(imap)
    }

    /// Waits for the message whose subject has this word and returns it as it is stored.
    pub(crate) fn arrived(
        &self,
        account: Account<'_>,
        folder: &str,
        word: &str,
        deadline: Deadline,
    ) -> anyhow::Result<Vec<u8>> {
        let mut imap = self.mailbox(&format!("{} reads", account.local), account)?;
        imap.until(deadline);
        loop {
            imap.select(folder)?;
            let answer = imap.demand(&format!("SEARCH HEADER SUBJECT {word}"))?;
            let place = answer.untagged.iter().find_map(|line| {
                let line = std::str::from_utf8(line).ok()?.strip_prefix("SEARCH")?.trim().to_owned();
                line.split(' ').next()?.parse::<u32>().ok()
            });
            if let Some(place) = place {
                return imap.message(place);
            }
            if deadline.left().is_none() {
                bail!("no message with {word} came to {}'s {folder}", account.local);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}
