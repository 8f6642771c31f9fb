//! The owner's settings: what can be set, what it means, and what holds if nothing is said.
//!
//! Settings are a TOML file. Everything in it may be left out; what is written is validated completely
//! before anything happens, and every problem is reported at once with file, line and column. Secrets in it
//! (the Wi-Fi passphrase) are wiped from memory and never printed.
//!
//! ```toml
//! [owner]
//! mailbox = "ada"                  # the first mailbox, without the part after @
//! ssh_keys = ["ssh-ed25519 AAAA… ada@laptop"]   # may administer over SSH; credentials.age is encrypted to them
//! recovery_keys = ["age1…"]        # age keys to which credentials.age is encrypted instead
//!
//! [network]                        # nothing: DHCP on every wired interface
//! address = "192.0.2.10/24"        # a fixed address of the cable with its prefix length …
//! gateway = "192.0.2.1"            # … and the router
//!
//! [network.wifi]
//! ssid = "home"
//! passphrase = "…"                 # WPA, 8 to 63 characters, or the key itself as 64 hexadecimal digits
//! country = "DE"                   # decides which channels are allowed
//! hidden = false                   # true for a network that does not announce its name
//! address = "192.0.2.11/24"        # as above, for the radio
//! gateway = "192.0.2.1"
//!
//! [tor]
//! bridges = ["obfs4 192.0.2.7:443 FINGERPRINT cert=… iat-mode=0"]
//! bridge_hosts = ["192.0.2.10 front.example"]   # addresses of the names in a snowflake bridge, as in hosts(5)
//! reachable_ports = [80, 443]      # if the network lets only these out
//! vanity_prefix = "ada"            # of the mail domain, up to 5 characters; counts at the first start only
//!
//! [tor.test_network]               # a private Tor network instead of the public one
//! dir_authorities = ["test1 orport=5000 v3ident=… 192.0.2.9:7000 …"]
//!
//! [admin]
//! lan_networks = ["192.168.1.0/24"]   # may reach SSH without Tor
//!
//! [time]
//! ntp = true                       # set the clock from the network, for machines without a clock chip
//! servers = ["192.0.2.1"]          # by address: there is no name service before Tor. Otherwise those of DHCP
//!
//! [mail]
//! message_size_mib = 25
//! quota = "2G"                     # per mailbox: number and M, G or T
//! imap = "onion"                   # mail programs reach the client onion; or "webmail-only", the safest
//!
//! [mail.transport]                 # mail for the first onion goes to the second one
//! "….onion" = "….onion"
//! ```

mod bridges;
pub mod load;
mod problem;
mod read;
mod reader;
pub mod text;
mod values;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use identity::onion::OnionAddress;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

pub use bridges::{BridgeAddress, Transport};
pub use problem::{Problem, Problems};
pub use read::read;
pub use values::{Network4, quota};

/// All settings, valid. Serialized as the `settings` of the templates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// `[owner]`
    pub owner: Owner,
    /// `[network]`
    pub network: Network,
    /// `[tor]`
    pub tor: Tor,
    /// `[admin]`
    pub admin: Admin,
    /// `[time]`
    pub time: Time,
    /// `[mail]`
    pub mail: Mail,
}

/// Who the appliance belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Local part of the first mailbox.
    pub mailbox: String,
    /// Public keys as in `authorized_keys(5)`.
    pub ssh_keys: Vec<String>,
    /// age recipients.
    pub recovery_keys: Vec<String>,
}

impl Default for Owner {
    fn default() -> Self {
        Self { mailbox: "owner".to_owned(), ssh_keys: Vec::new(), recovery_keys: Vec::new() }
    }
}

/// How the appliance reaches the world. Without an address: DHCP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Fixed IPv4 address of the cable, with prefix length.
    pub address: Option<String>,
    /// The router; set exactly if `address` is.
    pub gateway: Option<Ipv4Addr>,
    /// Wi-Fi.
    pub wifi: Option<Wifi>,
}

/// One wireless network.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Wifi {
    /// Its name.
    pub ssid: String,
    /// WPA passphrase, or the pre-shared key as 64 hexadecimal digits.
    #[serde(serialize_with = "in_clear")]
    pub passphrase: Zeroizing<String>,
    /// ISO 3166-1 code of the country.
    pub country: String,
    /// Whether it keeps its name to itself, so that the appliance has to call it.
    pub hidden: bool,
    /// Fixed IPv4 address of the radio, with prefix length.
    pub address: Option<String>,
    /// The router; set exactly if `address` is.
    pub gateway: Option<Ipv4Addr>,
}

/// The templates need the passphrase itself; nothing else serializes settings.
fn in_clear<S: Serializer>(secret: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret)
}

impl std::fmt::Debug for Wifi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wifi")
            .field("ssid", &self.ssid)
            .field("country", &self.country)
            .field("hidden", &self.hidden)
            .field("address", &self.address)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

/// How Tor gets through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tor {
    /// Lines for torrc's `Bridge`.
    pub bridges: Vec<String>,
    /// The pluggable transports of these bridges, each once.
    pub transports: Vec<Transport>,
    /// Where TCP goes because of these bridges, even in local networks. With bridges it goes nowhere else.
    pub bridge_addresses: Vec<BridgeAddress>,
    /// Addresses of names in bridge lines, as lines of hosts(5).
    pub bridge_hosts: Vec<String>,
    /// Ports that the network lets out; empty: all.
    pub reachable_ports: Vec<u16>,
    /// How the mail domain shall begin.
    pub vanity_prefix: Option<String>,
    /// A private Tor network.
    pub test_network: TestNetwork,
}

impl Tor {
    /// Whether others have the same bridges, reached in the same way.
    #[must_use]
    pub fn same_bridges(&self, other: &Self) -> bool {
        self.bridges == other.bridges && self.bridge_hosts == other.bridge_hosts
    }
}

/// A private Tor network instead of the public one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TestNetwork {
    /// Lines for torrc's `DirAuthority`; empty: the public network.
    pub dir_authorities: Vec<String>,
}

/// Administration without Tor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// Networks from which SSH can be reached directly.
    pub lan_networks: Vec<Network4>,
}

/// Where the time comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Time {
    /// Whether to ask time servers.
    pub ntp: bool,
    /// Time servers; empty: those that DHCP names.
    pub servers: Vec<Ipv4Addr>,
}

/// Mail policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mail {
    /// Largest message, in MiB.
    pub message_size_mib: u32,
    /// Room of one mailbox, as Dovecot writes sizes.
    pub quota: String,
    /// Whether mail programs may connect.
    pub imap: Imap,
    /// Mail domains whose mail goes to another onion than the one that they name.
    pub transport: BTreeMap<OnionAddress, OnionAddress>,
}

impl Default for Mail {
    fn default() -> Self {
        Self { message_size_mib: 25, quota: "2G".to_owned(), imap: Imap::Onion, transport: BTreeMap::new() }
    }
}

/// Who may speak IMAP and submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Imap {
    /// Mail programs on the owner's devices, through the client onion.
    Onion,
    /// The webmail on this machine only.
    WebmailOnly,
}
