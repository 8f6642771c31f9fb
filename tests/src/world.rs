//! A lab with a private Tor network, and appliances in it.

use std::net::SocketAddrV4;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use clients::Door;
use qemu::{Deadline, Keep, Lab, Port, Probe, RunDir, TorClient, TorNetwork};
use serde::Deserialize;

use crate::Context;
use crate::appliance::Appliance;
use crate::capture::{self, Expected, Tally};

/// Keys, eight starts of Tor, a first consensus: half a minute, more beside a busy neighbour.
const TOR: u64 = 240;

/// What surrounds appliances. Fields are dropped in this order; appliances have to be dropped before.
pub(crate) struct World {
    client: Option<TorClient>,
    tor: TorNetwork,
    lab: Lab,
}

/// An appliance with a card in the lab, whose packets are recorded.
pub(crate) struct Resident {
    pub(crate) appliance: Appliance,
    /// When its power came on.
    pub(crate) since: Instant,
    port: Port,
}

/// Who an appliance belongs to, in its settings.
pub(crate) struct Owner<'o> {
    /// The first mailbox.
    pub(crate) mailbox: &'o str,
    /// Public keys that may administer over SSH.
    pub(crate) ssh_keys: &'o [String],
}

impl<'o> From<&'o str> for Owner<'o> {
    fn from(mailbox: &'o str) -> Self {
        Self { mailbox, ssh_keys: &[] }
    }
}

/// The part of `cipolla status --json` that tests look at.
#[derive(Deserialize)]
struct Status {
    /// Service and address.
    addresses: Vec<(String, String)>,
}

impl World {
    /// Starts a lab and its relays in the run folder of a scenario. They find each other while machines boot.
    pub(crate) fn start(ctx: &Context, scenario: &str) -> anyhow::Result<Self> {
        let keep = if ctx.keep { Keep::Yes } else { Keep::No };
        let run_dir = RunDir::create(&ctx.run_root.join(scenario).join("lab"))?;
        let lab = Lab::start(&ctx.programs, run_dir, keep)?;
        let tor = TorNetwork::start(&lab, Deadline::seconds(TOR))?;
        Ok(Self { client: None, tor, lab })
    }

    /// Switches an appliance on, on a fresh disk. A text is an owner by the name of the mailbox.
    pub(crate) fn appliance<'o>(
        &mut self,
        ctx: &Context,
        probe: &Probe,
        name: &str,
        owner: impl Into<Owner<'o>>,
    ) -> anyhow::Result<Resident> {
        // Closed to others before the machine's own folder is made in it.
        let run_dir = RunDir::create(&ctx.run_root.join(name))?;
        let port = self.lab.attach(Some(run_dir.file("lan.pcap")))?;
        let settings = settings(&owner.into(), self.tor.dir_authorities())?;
        let since = Instant::now();
        let appliance = Appliance::spawn_in(ctx, probe, run_dir, (&self.lab, &port), &settings)?;
        Ok(Resident { appliance, since, port })
    }

    /// The way to onion services, as soon as there is one.
    pub(crate) fn door(&mut self) -> anyhow::Result<Door> {
        Ok(Door::new(self.client()?.socks()))
    }

    /// The Tor behind [`World::door`].
    pub(crate) fn client(&mut self) -> anyhow::Result<&mut TorClient> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.tor.client(&self.lab, "client", Deadline::seconds(TOR))?,
        };
        Ok(self.client.insert(client))
    }

    /// A relay's address, which nobody but Tor may reach.
    pub(crate) fn relay(&self) -> anyhow::Result<SocketAddrV4> {
        self.tor.endpoints().first().copied().ok_or_else(|| anyhow!("the network has no relays"))
    }

    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Judges every packet of an appliance's card so far.
    pub(crate) fn judge(&self, resident: &Resident) -> anyhow::Result<Tally> {
        self.judge_after(resident, 0)
    }

    /// The same, but for the first `seen` packets.
    pub(crate) fn judge_after(&self, resident: &Resident, seen: usize) -> anyhow::Result<Tally> {
        let expected = Expected {
            mac: resident.port.mac,
            address: resident.port.address,
            gateway: qemu::GATEWAY,
            relays: self.tor.endpoints().into_iter().collect(),
        };
        let packets = capture::load(&resident.capture())?;
        Ok(capture::judge(packets.get(seen..).unwrap_or_default(), &expected))
    }
}

impl Resident {
    /// Its address in the lab.
    pub(crate) fn address(&self) -> std::net::Ipv4Addr {
        self.port.address
    }

    /// Its link-local IPv6 address, if it made one from its card (RFC 4291, appendix A).
    pub(crate) fn link_local(&self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.port.mac.map(u16::from);
        let word = |high: u16, low: u16| high << 8 | low;
        std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
    }

    /// How many packets its card has seen.
    pub(crate) fn packets(&self) -> anyhow::Result<usize> {
        Ok(capture::load(&self.capture())?.len())
    }

    /// The record of its card.
    pub(crate) fn capture(&self) -> std::path::PathBuf {
        self.appliance.machine.run_dir().file("lan.pcap")
    }

    /// The address of one of its onion services: `mx`, `client` or `admin`.
    pub(crate) fn onion(&mut self, service: &str) -> anyhow::Result<String> {
        // Its status says by the exit code whether all is well, which is not the question.
        let output = self.appliance.run("cipolla status --json")?;
        let status: Status = serde_json::from_str(&output.stdout)
            .with_context(|| format!("reading the status: {}{}", output.stdout, output.stderr))?;
        let address = status.addresses.into_iter().find(|(name, _)| name == service);
        address
            .map(|(_, address)| address)
            .ok_or_else(|| anyhow!("the appliance has no service {service}: {}", output.stdout))
    }
}

/// An owner's settings for the lab, with a limit of 4 MiB for messages so that reaching it takes little time. Text in
/// JSON's quotes is text in TOML's.
fn settings(owner: &Owner<'_>, authorities: &[String]) -> anyhow::Result<String> {
    Ok(format!(
        "[owner]\nmailbox = {}\nssh_keys = {}\n[mail]\nmessage_size_mib = 4\n[tor.test_network]\n\
         dir_authorities = {}\n",
        serde_json::to_string(owner.mailbox)?,
        serde_json::to_string(owner.ssh_keys)?,
        serde_json::to_string(authorities)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_toml() {
        let text = settings(&"ada".into(), &["auth1 orport=9001".to_owned(), "auth2 \"".to_owned()]).unwrap();
        assert_eq!(
            text,
            "[owner]\nmailbox = \"ada\"\nssh_keys = []\n[mail]\nmessage_size_mib = 4\n[tor.test_network]\n\
             dir_authorities = [\"auth1 orport=9001\",\"auth2 \\\"\"]\n"
        );
    }
}
