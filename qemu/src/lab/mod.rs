//! A private network on this computer: machines, DHCP, a Tor network, and no way out.
//!
//! ```no_run
//! # use qemu::*;
//! # fn example(programs: &Programs, mut spec: MachineSpec) -> Result<(), Error> {
//! let mut lab = Lab::start(programs, RunDir::create("/tmp/run/lab".as_ref())?, Keep::No)?;
//! let mut network = TorNetwork::start(&lab, Deadline::seconds(60))?;
//! let port = lab.attach(Some("/tmp/run/a.pcap".into()))?;
//! spec.nics = vec![port.nic];
//! let machine = Machine::spawn(&spec, lab.programs(), RunDir::create("/tmp/run/a".as_ref())?, Keep::No)?;
//! let client = network.client(&lab, "client", Deadline::seconds(120))?;
//! # Ok(()) }
//! ```
//!
//! One process holds a set of namespaces; everything else enters them: DHCP, Tor, QEMU, scanners. In them is a
//! bridge with a tap for each machine. It has addresses but leads nowhere. Machines are told that
//! [`GATEWAY`] is their router, name server and time server, so that whatever a machine wants to send elsewhere
//! really leaves it, is recorded by QEMU, and ends at the bridge.
//!
//! The caller's own program stays outside. It reaches the lab through Unix sockets in the run directory: QEMU's,
//! and those of Tor.
//!
//! Architecture invariants: the lab knows machines and networks, not what runs on them. When the holder ends,
//! the kernel ends everything in its pid namespace. The holder ends when its standard input does, which is a
//! pipe from this program; so nothing outlives a test, however the test ends.

mod control;
mod dhcp;
mod holder;
mod time;
mod tor;
mod torrc;
mod traffic;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::process::Process;
use crate::{Keep, Nic, Programs, Result, RunDir};

use holder::Holder;

pub use time::TimeServer;
pub use tor::{TorBridge, TorClient, TorNetwork};

/// The bridge. What is sent to the world beyond arrives here and goes no further.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Length of the network's prefix.
const PREFIX: u8 = 24;

/// The bridge's name.
const BRIDGE: &str = "br0";

/// The card of the bridge. Like those of the machines it begins with `52:54:00:77`, and no other card is here.
const BRIDGE_MAC: &str = "52:54:00:77:ff:01";

/// How many machines fit.
const MACHINES: u8 = 50;

/// Makes the bridge. Multicast goes to every port, as on a cheap switch; a machine's questions are then seen
/// whatever they ask for.
const BRIDGE_UP: &str = r#"set -e
others=$(ip -o link | grep -v ': lo:' || true)
if [ -n "$others" ]; then echo "this is not a network namespace of its own: $others" >&2; exit 1; fi
ip link set lo up
ip link add "$1" address "$3" type bridge stp_state 0 mcast_snooping 0
ip address add "$2" dev "$1"
ip link set "$1" up"#;

/// Makes a tap. It is a plug of the bridge and says nothing itself.
const TAP_UP: &str = r#"set -e
ip tuntap add dev "$1" mode tap
ip link set "$1" addrgenmode none
ip link set "$1" master "$2" up"#;

/// A running lab.
///
/// Unless kept, it ends with this value and with this program: DHCP and whatever else still runs in it are
/// killed by the kernel, the namespaces vanish with their last process. Logs stay in the run directory.
pub struct Lab {
    // Dropped in this order.
    _dhcp: Process,
    attached: u8,
    programs: Programs,
    run_dir: RunDir,
    keep: Keep,
    holder: Holder,
}

/// A place for one machine's network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The card.
    pub nic: Nic,
    /// The card's address.
    pub mac: [u8; 6],
    /// The address that DHCP will give to it.
    pub address: Ipv4Addr,
}

impl Lab {
    /// Starts a lab without machines. `programs` must have a wrapper that gives each program mount, pid and
    /// network namespaces of its own, as those of a test do; the lab is one such set, which stays.
    ///
    /// # Errors
    /// When the namespaces, the bridge or the DHCP server cannot be made.
    pub fn start(programs: &Programs, run_dir: RunDir, keep: Keep) -> Result<Self> {
        let holder = Holder::start(programs, &run_dir, keep)?;
        let programs = Programs { wrapper: holder.wrapper().to_vec(), ..programs.clone() };
        let address = format!("{GATEWAY}/{PREFIX}");
        programs.output("sh", ["-c", BRIDGE_UP, "sh", BRIDGE, &address, BRIDGE_MAC])?;
        let dhcp = dhcp::start(&programs, &run_dir, keep)?;
        Ok(Self { _dhcp: dhcp, attached: 0, programs, run_dir, keep, holder })
    }

    /// The programs, run inside the lab.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// What enters the lab's network and nothing else of it, to be put before a program that has a tree of its own.
    #[must_use]
    pub fn network(&self) -> Vec<OsString> {
        self.holder.network()
    }

    /// The run directory with the logs.
    #[must_use]
    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// Makes a tap for one more machine. QEMU records all its packets in the file `capture`, if there is one.
    ///
    /// # Errors
    /// When the tap cannot be made; the usual reason is that `/dev/net/tun` is closed to this user.
    pub fn attach(&mut self, capture: Option<PathBuf>) -> Result<Port> {
        let number = self.attached + 1;
        if number > MACHINES {
            return Err(crate::Error::Spec(format!("a lab has room for {MACHINES} machines")));
        }
        let interface = format!("tap{number}");
        self.programs.output("sh", ["-c", TAP_UP, "sh", &interface, BRIDGE])?;
        self.attached = number;
        let nic = Nic::Tap { interface, mac: mac(number), capture };
        Ok(Port { nic, mac: mac_bytes(number), address: address(number) })
    }

    /// Gives the bridge one more address, for a server that the machines can reach.
    ///
    /// # Errors
    /// When it has that address already.
    pub fn add_address(&self, address: Ipv4Addr) -> Result<()> {
        let address = format!("{address}/{PREFIX}");
        self.programs.output("ip", ["address", "add", &address, "dev", BRIDGE]).map(drop)
    }

    /// For a person: how to look around inside, and how to end it.
    #[must_use]
    pub fn how_to_reach(&self) -> String {
        format!(
            "the lab is up\n\
             \x20 a shell in its network:       {}\n\
             \x20 logs:                         {}\n\
             \x20 end it with all in it:        kill -- -{}\n",
            crate::command_line(&self.programs.line("bash")),
            self.run_dir.path().display(),
            self.holder.group(),
        )
    }
}

/// The card of a machine, with QEMU's prefix for addresses that are nobody's.
fn mac_bytes(number: u8) -> [u8; 6] {
    [0x52, 0x54, 0x00, 0x77, 0x00, number]
}

/// The same as programs write it.
fn mac(number: u8) -> String {
    mac_bytes(number).map(|byte| format!("{byte:02x}")).join(":")
}

/// The address of a machine.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + number)
}
