//! `cipolla bans` and `cipolla unban`: whom fail2ban holds off, since when and until when.
//!
//! Two kinds of offenders are known. A *circuit* is what Tor calls a client; its number stands in an address of
//! `fc00:dead:beef:4dad::/96`, a ban closed it at once, and lifting the ban does not bring it back. An address of
//! the admin network is held off by the nftables set `banned` until its time is over.
//!
//! Asks fail2ban-client(1) and nft(8), whose answers are parsed here. Never decides who is banned.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use serde::Serialize;
use serde_json::Value;

use crate::machine::Machine;
use crate::serve::circuit::Circuit;

/// The set of held addresses, as nft(8) names it.
const SET: [&str; 4] = ["set", "inet", "cipolla", "banned"];

/// Where fail2ban listens (`socket` in fail2ban.conf(5)); there while it runs.
const SOCKET: &str = "/run/fail2ban/fail2ban.sock";

/// One held client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ban {
    /// fail2ban's jail: which rule it broke.
    pub jail: String,
    /// Its address; for a circuit the one that Tor made up for it.
    pub address: IpAddr,
    /// The number of the circuit, if it is one.
    pub circuit: Option<u32>,
    /// Since when, `YYYY-MM-DD HH:MM:SS` in UTC.
    pub since: String,
    /// Until when, in the same form.
    pub until: String,
}

/// An address that the firewall drops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The address.
    pub address: IpAddr,
    /// Seconds until the firewall forgets it; `None`: never.
    pub expires: Option<u64>,
}

/// Everybody who is held off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Bans {
    /// The jails that watch.
    pub jails: Vec<String>,
    /// By fail2ban, in the order of the jails and then of the end.
    pub held: Vec<Ban>,
    /// By the firewall.
    pub dropped: Vec<Dropped>,
}

/// The number of the circuit that an address stands for, if it does.
#[must_use]
pub fn circuit(address: IpAddr) -> Option<u32> {
    let IpAddr::V6(address) = address else { return None };
    Circuit::of(address).map(Circuit::number)
}

/// All jails, and whom each holds.
type Jails = Vec<(String, Vec<IpAddr>)>;

/// The answer to `fail2ban-client banned`, which is a list as Python writes it: `[{'sshd': ['192.168.1.7']}]`. No name of a
/// jail and no address has a quote or a backslash in it.
fn jails(answer: &str) -> Result<Jails> {
    let jails: Vec<BTreeMap<String, Vec<IpAddr>>> = serde_json::from_str(&answer.trim().replace('\'', "\""))
        .with_context(|| format!("not understanding fail2ban's answer: {}", answer.trim()))?;
    Ok(jails.into_iter().flatten().collect())
}

/// The bans in the answer to `fail2ban-client get JAIL banip --with-time`: lines such as
/// `192.168.1.7 \t2026-11-21 22:50:18 + 1800 = 2026-11-21 23:20:18`.
fn bans(jail: &str, answer: &str) -> Result<Vec<Ban>> {
    let ban = |line: &str| {
        let (address, times) = line.split_once('\t')?;
        let address = address.trim().parse().ok()?;
        let (since, rest) = times.split_once(" + ")?;
        let (_, until) = rest.split_once(" = ")?;
        Some(Ban {
            jail: jail.to_owned(),
            address,
            circuit: circuit(address),
            since: since.trim().to_owned(),
            until: until.trim().to_owned(),
        })
    };
    let lines = answer.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| ban(line).with_context(|| format!("not understanding fail2ban's answer: {line}")))
        .collect()
}

/// The addresses in the answer to `nft -j list set` (libnftables-json(5)).
fn dropped(answer: &str) -> Result<Vec<Dropped>> {
    let json: Value = serde_json::from_str(answer).context("reading nft's answer")?;
    let objects = json["nftables"].as_array().context("nft's answer holds no list")?;
    let elements = objects.iter().filter_map(|object| object["set"]["elem"].as_array()).flatten();
    elements
        .map(|element| {
            let inner = &element["elem"];
            let (value, expires) =
                if inner.is_object() { (&inner["val"], inner["expires"].as_u64()) } else { (element, None) };
            let address = value.as_str().and_then(|text| text.parse().ok());
            let address = address.with_context(|| format!("not understanding nft's element {element}"))?;
            Ok(Dropped { address, expires })
        })
        .collect()
}

fn client(machine: &Machine<'_>, arguments: &[&str]) -> Result<String> {
    if !machine.programs.has("fail2ban-client") {
        bail!("this image has no fail2ban");
    }
    let ran = machine.programs.run(&[&["fail2ban-client"], arguments].concat())?;
    if !ran.success {
        let said = if ran.stderr.trim().is_empty() { ran.stdout } else { ran.stderr };
        bail!("asking fail2ban: {}; see: systemctl status fail2ban", said.trim());
    }
    Ok(ran.stdout)
}

/// Whom the firewall drops. An image or a ruleset without the set drops nobody in this way.
///
/// # Errors
/// When nft(8) cannot be started, or does not answer as expected.
pub fn firewall(machine: &Machine<'_>) -> Result<Vec<Dropped>> {
    if !machine.programs.has("nft") {
        return Ok(Vec::new());
    }
    let ran = machine.programs.run(&[&["nft", "-j", "list"], SET.as_slice()].concat())?;
    if !ran.success {
        bail!("asking the firewall for its set of held addresses: {}", ran.stderr.trim());
    }
    dropped(&ran.stdout)
}

/// Lets the firewall drop addresses for as long as they have left.
///
/// # Errors
/// When nft(8) cannot be started, or refuses.
pub fn hold(machine: &Machine<'_>, held: &[Dropped]) -> Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let [_, set @ ..] = SET;
    let ran =
        machine.programs.run(&[["nft", "add", "element"].as_slice(), &set, &[&elements(held)]].concat())?;
    if !ran.success {
        bail!("adding to the firewall's set of held addresses: {}", ran.stderr.trim());
    }
    Ok(())
}

/// Elements of the set as nft(8) takes them.
fn elements(held: &[Dropped]) -> String {
    let element = |one: &Dropped| match one.expires {
        Some(seconds) => format!("{} timeout {}s", one.address, seconds.max(1)),
        None => one.address.to_string(),
    };
    format!("{{ {} }}", held.iter().map(element).collect::<Vec<_>>().join(", "))
}

/// Asks who is held off.
///
/// # Errors
/// When fail2ban or the firewall does not answer, or not as expected.
pub fn list(machine: &Machine<'_>) -> Result<Bans> {
    let jails = jails(&client(machine, &["banned"])?)?;
    let mut held = Vec::new();
    // Each question is a start of Python: a second and more on a slow board.
    for (jail, _) in jails.iter().filter(|(_, held)| !held.is_empty()) {
        held.extend(bans(jail, &client(machine, &["get", jail, "banip", "--with-time"])?)?);
    }
    let jails = jails.into_iter().map(|(jail, _)| jail).collect();
    Ok(Bans { jails, held, dropped: firewall(machine)? })
}

impl Bans {
    /// What the owner reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let who = |ban: &Ban| match ban.circuit {
            Some(number) => format!("circuit {number}"),
            None => ban.address.to_string(),
        };
        for ban in &self.held {
            let _ = writeln!(
                text,
                "{:18}{:18}since {} until {} UTC  ({})",
                ban.jail,
                who(ban),
                ban.since,
                ban.until,
                ban.address
            );
        }
        // What both hold is said once.
        for dropped in self.dropped.iter().filter(|d| self.held.iter().all(|ban| ban.address != d.address)) {
            let left = dropped.expires.map_or("until it is lifted".into(), |s| format!("for another {s} s"));
            let _ = writeln!(text, "{:18}{:18}{left}", "firewall", dropped.address);
        }
        if text.is_empty() {
            let _ = writeln!(text, "nobody is banned; {} watch", self.jails.join(", "));
        }
        text
    }
}

/// Lifts the ban on one client. Returns how many rules had held it.
///
/// # Errors
/// When fail2ban or the firewall refuses.
pub fn unban(machine: &Machine<'_>, address: IpAddr) -> Result<usize> {
    let text = address.to_string();
    let lifted = count(&client(machine, &["unban", &text])?)?;
    // fail2ban has taken out what it knows of; an address can also have been added by hand.
    let mut left = 0;
    for dropped in firewall(machine)?.into_iter().filter(|dropped| dropped.address == address) {
        forget(machine, dropped.address)?;
        left += 1;
    }
    Ok(lifted + left)
}

/// Lifts all bans. Returns how many there were.
///
/// # Errors
/// As [`unban`].
pub fn unban_all(machine: &Machine<'_>) -> Result<usize> {
    let lifted = count(&client(machine, &["unban", "--all"])?)?;
    let left = firewall(machine)?;
    for dropped in &left {
        forget(machine, dropped.address)?;
    }
    Ok(lifted + left.len())
}

/// Lifts the bans on circuits, whose numbers mean nothing once Tor was restarted: they would keep a new offender of
/// the same number from being banned. Tor's unit calls it at each start, and comes before fail2ban when the machine
/// starts: a fail2ban that does not run holds nobody. Returns how many there were.
///
/// # Errors
/// As [`unban`].
pub fn unban_circuits(machine: &Machine<'_>) -> Result<usize> {
    if machine.fs.entry(Utf8Path::new(SOCKET))?.is_none() {
        return Ok(0);
    }
    let held = jails(&client(machine, &["banned"])?)?.into_iter().flat_map(|(_, held)| held);
    let circuits: BTreeSet<_> =
        held.filter(|address| circuit(*address).is_some()).map(|address| address.to_string()).collect();
    if circuits.is_empty() {
        return Ok(0);
    }
    let unban: Vec<_> = std::iter::once("unban").chain(circuits.iter().map(String::as_str)).collect();
    count(&client(machine, &unban)?)
}

fn forget(machine: &Machine<'_>, address: IpAddr) -> Result<()> {
    let element = format!("{{ {address} }}");
    let argv = [&["nft", "delete", "element"], &SET[1..], &[element.as_str()]].concat();
    let ran = machine.programs.run(&argv)?;
    if !ran.success {
        bail!("taking {address} out of the firewall's set: {}", ran.stderr.trim());
    }
    Ok(())
}

fn count(answer: &str) -> Result<usize> {
    answer.trim().parse().with_context(|| format!("not understanding fail2ban's answer: {}", answer.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jails_hold_addresses() {
        let answer =
            "[{'dovecot-circuit': ['fc00:dead:beef:4dad::7', 'fc00:dead:beef:4dad::9']}, {'sshd': []}]\n";
        let all = jails(answer).unwrap();
        assert_eq!(
            all.iter().map(|(jail, held)| (jail.as_str(), held.len())).collect::<Vec<_>>(),
            [("dovecot-circuit", 2), ("sshd", 0)]
        );
        assert!(jails("[]\n").unwrap().is_empty());
        assert!(jails("ERROR").is_err());
    }

    #[test]
    fn bans_have_an_address_and_times() {
        let answer = "fc00:dead:beef:4dad::5:8 \t2026-11-21 22:50:18 + 1800 = 2026-11-21 23:20:18\n\
                      192.168.1.7 \t2026-11-21 22:50:18 + -1 = 9999-12-31 23:59:59\n";
        let bans = bans("sshd", answer).unwrap();
        assert_eq!(bans[0].circuit, Some(0x5_0008));
        assert_eq!(
            (bans[0].since.as_str(), bans[0].until.as_str()),
            ("2026-11-21 22:50:18", "2026-11-21 23:20:18")
        );
        assert_eq!(bans[1].circuit, None);
        assert_eq!(bans[1].until, "9999-12-31 23:59:59");
        assert!(super::bans("sshd", "\n").unwrap().is_empty());
        assert!(super::bans("sshd", "192.168.1.7 forever\n").is_err());
    }

    #[test]
    fn only_tors_prefix_is_a_circuit() {
        let circuit = |text: &str| circuit(text.parse().unwrap());
        assert_eq!(circuit("fc00:dead:beef:4dad::5c"), Some(0x5c));
        assert_eq!(circuit("fc00:dead:beef:4dad:1::5c"), None);
        assert_eq!(circuit("fc00:dead:beef:4dae::5c"), None);
        assert_eq!(circuit("10.0.0.1"), None);
    }

    #[test]
    fn the_firewalls_set_is_read() {
        let answer = r#"{"nftables": [{"metainfo": {"version": "1.1.3"}}, {"set": {"family": "inet",
            "name": "banned", "table": "cipolla", "type": "ipv4_addr", "flags": ["timeout"], "elem": [{"elem":
            {"val": "192.168.1.7", "timeout": 1800, "expires": 1799}}, "10.1.1.1"]}}]}"#;
        let dropped = dropped(answer).unwrap();
        assert_eq!(dropped[0], Dropped { address: "192.168.1.7".parse().unwrap(), expires: Some(1799) });
        assert_eq!(dropped[1].expires, None);
        assert_eq!(elements(&dropped), "{ 192.168.1.7 timeout 1799s, 10.1.1.1 }");
        assert!(super::dropped(r#"{"nftables": [{"set": {"name": "banned"}}]}"#).unwrap().is_empty());
        assert!(super::dropped("Error: No such file or directory").is_err());
    }

    #[test]
    fn the_list_is_readable() {
        let ban = bans(
            "dovecot-circuit",
            "fc00:dead:beef:4dad::7 \t2026-11-21 22:50:18 + 60 = 2026-11-21 22:51:18",
        );
        let mut bans = Bans { jails: vec!["sshd".into()], held: ban.unwrap(), dropped: Vec::new() };
        assert!(
            bans.text().starts_with("dovecot-circuit   circuit 7         since 2026-11-21 22:50:18 until")
        );
        bans.held.clear();
        assert_eq!(bans.text(), "nobody is banned; sshd watch\n");
    }
}
