//! Open ports, by `nmap`.
//!
//! Sources: nmap(1) and the chapter "Grepable Output" of the Nmap book. No names are looked up, no host is pinged
//! first, and no service is asked what it is.

use std::ffi::OsString;
use std::net::IpAddr;

use anyhow::{Context as _, bail};

use super::words;

/// What is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By connecting, as any program would.
    Tcp,
    /// Needs root in the network namespace. A port that says nothing is `open|filtered`.
    Udp,
}

/// One port that nmap names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Number.
    pub number: u16,
    /// nmap's word: `open`, `closed`, `filtered`, `open|filtered` …
    pub state: String,
}

/// What a scan of one address found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Ports named one by one.
    pub ports: Vec<Port>,
    /// The state that most ports have, and how many do; nmap names those together.
    pub ignored: Option<(String, u32)>,
}

impl Scan {
    /// Ports that answered, in the order of their numbers.
    #[must_use]
    pub fn open(&self) -> Vec<u16> {
        self.ports.iter().filter(|port| port.state == "open").map(|port| port.number).collect()
    }
}

/// The command that scans `ports` (nmap's notation, such as `1-65535`) of one address.
#[must_use]
pub fn argv(address: IpAddr, protocol: Protocol, ports: &str) -> Vec<OsString> {
    let scan = match protocol {
        Protocol::Tcp => "-sT",
        Protocol::Udp => "-sU",
    };
    let mut line = words(["nmap", "-n", "-Pn", scan, "-p", ports, "-oG", "-"]);
    if address.is_ipv6() {
        line.push("-6".into());
    }
    line.push(address.to_string().into());
    line
}

/// Reads grepable output about one address.
///
/// # Errors
/// When the scan did not end, or reports no host as up: then nothing was scanned, and nothing is known.
pub fn parse(text: &str) -> anyhow::Result<Scan> {
    if !text.lines().any(|line| line.starts_with("# Nmap done") && line.contains("(1 host up)")) {
        bail!("nmap has not scanned one host to the end: {}", text.trim());
    }
    let mut scan = Scan::default();
    let fields = text.lines().filter(|line| line.starts_with("Host: ")).flat_map(|line| line.split('\t'));
    for field in fields {
        if let Some(list) = field.strip_prefix("Ports: ") {
            for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                let mut parts = entry.split('/');
                let port = parts.next().and_then(|number| number.parse().ok()).zip(parts.next());
                let (number, state) = port.with_context(|| format!("reading nmap's port {entry:?}"))?;
                scan.ports.push(Port { number, state: state.to_owned() });
            }
        } else if let Some(ignored) = field.strip_prefix("Ignored State: ") {
            let parts = ignored.trim().strip_suffix(')').and_then(|text| text.split_once(" ("));
            let parts = parts.and_then(|(state, count)| Some((state.to_owned(), count.parse().ok()?)));
            scan.ignored = Some(parts.with_context(|| format!("reading nmap's ignored state {ignored:?}"))?);
        }
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = include_str!("recorded/nmap-tcp.txt");

    #[test]
    fn a_recorded_scan() {
        let scan = parse(TCP).unwrap();
        assert_eq!(scan.open(), [4433]);
        assert_eq!(scan.ignored, Some(("closed".to_owned(), 65534)));
    }

    #[test]
    fn nothing_is_open() {
        let text = "Host: 127.0.0.1 ()\tStatus: Up\nHost: 127.0.0.1 ()\tPorts: \tIgnored State: closed (65535)\n\
                    # Nmap done at Sat -- 1 IP address (1 host up) scanned in 2.18 seconds\n";
        let scan = parse(text).unwrap();
        assert!(scan.ports.is_empty());
        assert_eq!(scan.ignored, Some(("closed".to_owned(), 65535)));
    }

    #[test]
    fn silence_is_not_open() {
        let text = "Host: 10.1.0.2 ()\tPorts: 53/open|filtered/udp//domain///, 68/open/udp//dhcpc///\n\
                    # Nmap done at Sat -- 1 IP address (1 host up) scanned in 2.2 seconds\n";
        assert_eq!(parse(text).unwrap().open(), [68]);
    }

    #[test]
    fn an_unfinished_scan_is_no_scan() {
        let cut = TCP.lines().take(3).collect::<Vec<_>>().join("\n");
        assert!(parse(&cut).unwrap_err().to_string().starts_with("nmap has not scanned"));
        assert!(parse(&TCP.replace("(1 host up)", "(0 hosts up)")).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn addresses_of_both_kinds() {
        let line = |address: &str| qemu::command_line(&argv(address.parse().unwrap(), Protocol::Udp, "1-99"));
        assert_eq!(line("10.1.0.2"), "nmap -n -Pn -sU -p 1-99 -oG - 10.1.0.2");
        assert_eq!(line("fe80::1"), "nmap -n -Pn -sU -p 1-99 -oG - -6 fe80::1");
    }
}
