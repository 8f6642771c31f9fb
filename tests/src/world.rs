//! A lab with a private Tor network, and appliances in it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use clients::{Channel, Door};
use qemu::{Deadline, Keep, Lab, MachineSpec, Nic, Port, Probe, RunDir, TorBridge, TorClient, TorNetwork};
use serde::Deserialize;

use crate::Context;
use crate::appliance::{Appliance, Cold};
use crate::capture::{self, Expected, Packet, Tally};
use crate::check::Evidence;

/// Keys, eight starts of Tor, a first consensus: half a minute, more beside a busy neighbour.
const TOR: u64 = 240;

/// A service that is there answers within this time, in seconds.
pub(crate) const ANSWER: u64 = 20;

/// What surrounds appliances. Fields are dropped in this order; appliances have to be dropped before.
pub(crate) struct World {
    client: Option<TorClient>,
    bridge: Option<TorBridge>,
    tor: TorNetwork,
    lab: Lab,
}

/// An appliance with a card in the lab, whose packets are recorded.
pub(crate) struct Resident {
    pub(crate) appliance: Appliance,
    /// When its power came on.
    pub(crate) since: Instant,
    port: Port,
    /// The only way into the Tor network that it knows, if it has bridges.
    bridge: Option<SocketAddrV4>,
    /// The records of its card, one for each time that its power came on.
    records: Vec<PathBuf>,
    /// The time server in its settings.
    time_server: Option<Ipv4Addr>,
}

/// A resident without power: its disk, and its plug.
pub(crate) struct Asleep {
    cold: Cold,
    port: Port,
    bridge: Option<SocketAddrV4>,
    records: Vec<PathBuf>,
    time_server: Option<Ipv4Addr>,
}

/// Who an appliance belongs to, in its settings.
pub(crate) struct Owner<'o> {
    /// The first mailbox.
    pub(crate) mailbox: &'o str,
    /// Public keys that may administer over SSH.
    pub(crate) ssh_keys: &'o [String],
    /// Whom the appliance may ask for the time.
    pub(crate) time_server: Option<Ipv4Addr>,
}

/// How an appliance gets through to Tor, in its settings; by default as it likes.
#[derive(Default)]
pub(crate) struct Bridges<'b> {
    /// Bridge lines.
    pub(crate) lines: &'b [String],
    /// Addresses of names in them, as in hosts(5).
    pub(crate) hosts: &'b [String],
}

impl<'o> From<&'o str> for Owner<'o> {
    fn from(mailbox: &'o str) -> Self {
        Self { mailbox, ssh_keys: &[], time_server: None }
    }
}

/// Each process of Tor's unit as `NAME PROFILE (MODE) USER`.
const TOR_PROCESSES: &str = "for process in \
    $(cat /sys/fs/cgroup$(systemctl show -P ControlGroup tor@default)/cgroup.procs); do \
    echo $(cat /proc/$process/comm /proc/$process/attr/current) $(stat -c %U /proc/$process); done";

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
        Ok(Self { client: None, bridge: None, tor, lab })
    }

    /// Switches an appliance on, on a fresh disk. A text is an owner by the name of the mailbox.
    pub(crate) fn appliance<'o>(
        &mut self,
        ctx: &Context,
        probe: &Probe,
        name: &str,
        owner: impl Into<Owner<'o>>,
    ) -> anyhow::Result<Resident> {
        self.switch_on(ctx, probe, name, &owner.into(), None, |_| ())
    }

    /// As [`World::appliance`], on a machine as `change` wants it to be.
    pub(crate) fn appliance_as<'o>(
        &mut self,
        ctx: &Context,
        probe: &Probe,
        name: &str,
        owner: impl Into<Owner<'o>>,
        change: impl FnOnce(&mut MachineSpec),
    ) -> anyhow::Result<Resident> {
        self.switch_on(ctx, probe, name, &owner.into(), None, change)
    }

    /// As [`World::appliance`], with an obfs4 bridge as its only way to Tor.
    pub(crate) fn appliance_behind_bridge<'o>(
        &mut self,
        ctx: &Context,
        probe: &Probe,
        name: &str,
        owner: impl Into<Owner<'o>>,
    ) -> anyhow::Result<Resident> {
        let bridge = self.tor.bridge(&self.lab, Deadline::seconds(TOR))?;
        let way = (bridge.address(), bridge.line().to_owned());
        self.bridge = Some(bridge);
        self.switch_on(ctx, probe, name, &owner.into(), Some(way), |_| ())
    }

    fn switch_on(
        &mut self,
        ctx: &Context,
        probe: &Probe,
        name: &str,
        owner: &Owner<'_>,
        bridge: Option<(SocketAddrV4, String)>,
        change: impl FnOnce(&mut MachineSpec),
    ) -> anyhow::Result<Resident> {
        // Closed to others before the machine's own folder is made in it.
        let run_dir = RunDir::create(&ctx.run_root.join(name))?;
        let record = run_dir.file("lan.pcap");
        let port = self.lab.attach(Some(record.clone()))?;
        let (bridge, line) = bridge.unzip();
        let settings = self.settings(owner, &Bridges { lines: line.as_slice(), hosts: &[] })?;
        let since = Instant::now();
        let appliance = Appliance::spawn_in(ctx, probe, run_dir, (&self.lab, &port), &settings, change)?;
        let time_server = owner.time_server;
        Ok(Resident { appliance, since, port, bridge, records: vec![record], time_server })
    }

    /// An owner's settings (TOML) for an appliance in this network.
    pub(crate) fn settings(&self, owner: &Owner<'_>, bridges: &Bridges<'_>) -> anyhow::Result<String> {
        settings(owner, bridges, self.tor.dir_authorities())
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

    /// Connects to a service as somebody who knows nothing of it, and asks anew until it answers: for services whose Tor
    /// may have been started again.
    ///
    /// Whoever comes too early gets the old descriptor, and would wait for long. Relays of a quiet network tell each other
    /// that a circuit is gone with the next cell that they have to send, so an introduction point may take a stranger's
    /// word, and acknowledge it, minutes after its service has ended. Relays of the real network always have a next cell.
    pub(crate) fn connect_anew(
        &mut self,
        circuit: &str,
        onion: &str,
        port: u16,
        deadline: Deadline,
    ) -> anyhow::Result<Channel> {
        loop {
            self.client()?.new_identity(Deadline::seconds(TOR))?;
            let answer = self.door()?.connect_when_up(circuit, onion, port, Deadline::seconds(ANSWER));
            if answer.is_ok() || deadline.left().is_none() {
                return answer;
            }
        }
    }

    /// A relay's address, which nobody but Tor may reach.
    pub(crate) fn relay(&self) -> anyhow::Result<SocketAddrV4> {
        self.tor.endpoints().first().copied().ok_or_else(|| anyhow!("the network has no relays"))
    }

    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Judges every packet of an appliance's card so far, from the first time that its power came on.
    pub(crate) fn judge(&self, resident: &Resident) -> anyhow::Result<Tally> {
        self.judge_after(resident, 0)
    }

    /// The same, but for the first `seen` packets.
    pub(crate) fn judge_after(&self, resident: &Resident, seen: usize) -> anyhow::Result<Tally> {
        let expected = Expected {
            mac: resident.port.mac,
            address: resident.port.address,
            gateway: qemu::GATEWAY,
            relays: match resident.bridge {
                Some(bridge) => [bridge].into(),
                None => self.tor.endpoints().into_iter().collect(),
            },
            time_server: resident.time_server,
        };
        let packets = resident.recorded()?;
        Ok(capture::judge(packets.get(seen..).unwrap_or_default(), &expected))
    }
}

impl Resident {
    /// Its address in the lab.
    pub(crate) fn address(&self) -> Ipv4Addr {
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
        Ok(self.recorded()?.len())
    }

    /// The address of its card.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.port.mac
    }

    /// Every packet of its card.
    pub(crate) fn recorded(&self) -> anyhow::Result<Vec<Packet>> {
        let mut packets = Vec::new();
        for record in &self.records {
            packets.extend(capture::load(record)?);
        }
        Ok(packets)
    }

    /// What explains a failure: console, journal, and where its packets are.
    pub(crate) fn evidence(&mut self) -> Vec<Evidence> {
        let mut all = self.appliance.evidence();
        for record in &self.records {
            let line = match capture::load(record) {
                Ok(packets) => format!("{} packets; tcpdump -nr or wireshark shows them", packets.len()),
                Err(error) => format!("{error:#}"),
            };
            all.push((format!("capture: {}", record.display()), vec![line]));
        }
        all
    }

    /// Cuts its power: QEMU is killed, and what the guest had not flushed is lost.
    pub(crate) fn cut_power(self) -> anyhow::Result<Asleep> {
        let Self { appliance, port, bridge, records, time_server, .. } = self;
        Ok(Asleep { cold: appliance.cut_power()?, port, bridge, records, time_server })
    }

    /// Whether a pluggable transport runs as Tor does, by the name that the kernel has for it (15 characters): in its
    /// unit, as its user, under its profile, and nothing was denied. Findings otherwise.
    pub(crate) fn confines(&mut self, transport: &str) -> anyhow::Result<Vec<String>> {
        let processes = self.appliance.read(TOR_PROCESSES)?;
        let wanted = format!("{transport} system_tor (enforce) debian-tor");
        let mut findings = Vec::new();
        if !processes.lines().any(|line| line == wanted) {
            findings.push(format!("not `{wanted}`: {}", processes.replace('\n', ", ")));
        }
        let denied = self.appliance.read("journalctl -b -k -o cat | grep 'apparmor=\"DENIED\"'; true")?;
        findings.extend(denied.lines().map(str::to_owned));
        Ok(findings)
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

/// An owner's settings for the lab. Text in JSON's quotes is text in TOML's.
fn settings(owner: &Owner<'_>, bridges: &Bridges<'_>, authorities: &[String]) -> anyhow::Result<String> {
    let mut text = format!(
        "[owner]\nmailbox = {}\nssh_keys = {}\n",
        serde_json::to_string(owner.mailbox)?,
        serde_json::to_string(owner.ssh_keys)?,
    );
    if !bridges.lines.is_empty() {
        let (lines, hosts) = (serde_json::to_string(bridges.lines)?, serde_json::to_string(bridges.hosts)?);
        text.push_str(&format!("[tor]\nbridges = {lines}\nbridge_hosts = {hosts}\n"));
    }
    let authorities = serde_json::to_string(authorities)?;
    text.push_str(&format!("[tor.test_network]\ndir_authorities = {authorities}\n"));
    if let Some(server) = owner.time_server {
        text.push_str(&format!("[time]\nntp = true\nservers = [\"{server}\"]\n"));
    }
    Ok(text)
}

impl Asleep {
    /// Switches it on again, at the same plug; does not wait for it. QEMU begins a new record, in a file of its own.
    pub(crate) fn wake(self) -> anyhow::Result<Resident> {
        let Self { cold, mut port, bridge, mut records, time_server } = self;
        let number = records.len() + 1;
        let first = records.first().context("its card was never recorded")?;
        let record = first.with_file_name(format!("lan-{number}.pcap"));
        if let Nic::Tap { capture, .. } = &mut port.nic {
            *capture = Some(record.clone());
        }
        let since = Instant::now();
        let nic = port.nic.clone();
        let appliance = cold.switch_on(|spec| spec.nics = vec![nic])?;
        records.push(record);
        Ok(Resident { appliance, since, port, bridge, records, time_server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_toml() {
        let authorities = ["auth1 orport=9001".to_owned(), "auth2 \"".to_owned()];
        let text = settings(&"ada".into(), &Bridges::default(), &authorities).unwrap();
        assert_eq!(
            text,
            "[owner]\nmailbox = \"ada\"\nssh_keys = []\n[tor.test_network]\n\
             dir_authorities = [\"auth1 orport=9001\",\"auth2 \\\"\"]\n"
        );
        let lines = ["obfs4 192.0.2.1:1 AB".to_owned()];
        let text = settings(&"ada".into(), &Bridges { lines: &lines, hosts: &[] }, &authorities).unwrap();
        assert!(
            text.contains("\n[tor]\nbridges = [\"obfs4 192.0.2.1:1 AB\"]\nbridge_hosts = []\n[tor.test"),
            "{text}"
        );
        let asks = Owner { time_server: Some(qemu::GATEWAY), ..Owner::from("ada") };
        let text = settings(&asks, &Bridges::default(), &[]).unwrap();
        assert!(text.ends_with("\n[time]\nntp = true\nservers = [\"10.77.0.1\"]\n"), "{text}");
    }
}
