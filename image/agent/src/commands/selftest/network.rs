//! Who can be reached, and who can reach whom.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use camino::Utf8Path;
use serde_json::Value;

use super::{Ground, Outcome};
use crate::settings::{Transport, load};

/// Listeners of every mail appliance, as protocol and address.
const ALWAYS: [&str; 11] = [
    "tcp 127.0.0.1:9040",
    "tcp 127.0.0.1:10025",
    "tcp 127.0.0.1:10143",
    "tcp 127.0.0.1:10145",
    "tcp 127.0.0.1:10465",
    "tcp 127.0.0.1:10587",
    "tcp 127.0.0.1:10588",
    "tcp 127.0.0.1:10993",
    "tcp 127.0.0.1:14190",
    "udp 127.0.0.1:53",
    "tcp 127.0.0.1:22",
];
/// Where the kernel puts who asks for any port: `net.ipv4.ip_local_port_range`, as in nftables.conf.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;
/// DHCP's client listens where it asks; nothing else on the network is let in.
const DHCP: &str = ":68";
/// Ports of services on loopback.
const PORTS: [u16; 11] = [22, 9040, 10025, 10080, 10143, 10145, 10465, 10587, 10588, 10993, 14190];
/// Who may connect to which of them, by the table in nftables.conf. Everybody else may connect to none.
const MAY: [(&str, &[u16]); 5] = [
    ("debian-tor", &[22, 10025, 10080, 10465, 10993]),
    ("roundcube", &[10143, 10587, 14190]),
    ("vmail", &[10588]),
    ("dovecot", &[10145]),
    ("postfix", &[]),
];
/// Users of programs that strangers' bytes reach, and root.
const USERS: [&str; 12] = [
    "root",
    "postfix",
    "dovecot",
    "dovenull",
    "vmail",
    "www-data",
    "roundcube",
    "_rspamd",
    "cipolla",
    "nobody",
    "systemd-network",
    "debian-tor",
];
/// An address of nobody (RFC 5737): on its way there, a packet would leave the machine.
const OUTSIDE: [&str; 3] = ["tcp:192.0.2.1:443", "tcp:192.0.2.1:25", "udp:192.0.2.1:53"];

pub(super) fn listeners(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut expected: BTreeSet<String> = ALWAYS.iter().map(ToString::to_string).collect();
    if ground.has_web() {
        expected.insert("tcp 127.0.0.1:10080".into());
    }
    let settings = load::load(ground.machine.fs, None).map_err(|error| anyhow::anyhow!("{error}"))?.settings;
    if !settings.admin.lan_networks.is_empty() {
        expected.remove("tcp 127.0.0.1:22");
        expected.insert("tcp 0.0.0.0:22".into());
    }
    Ok(Outcome::of(compare(&expected, &settings.tor.transports, &ground.ask(&["ss", "-Hlntu"])?)))
}

/// Compares with the answer of ss(8): `tcp LISTEN 0 100 127.0.0.1:10993 0.0.0.0:*`.
fn compare(expected: &BTreeSet<String>, transports: &[Transport], answer: &str) -> Vec<String> {
    let listener = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.nth(3)?))
    };
    let found: BTreeSet<_> = answer.lines().filter_map(listener).collect();
    let foreign = found
        .difference(expected)
        .filter(|listener| !(listener.starts_with("udp ") && listener.ends_with(DHCP)))
        .filter(|listener| !is_transport(listener, transports));
    let mut wrong: Vec<_> = foreign.map(|listener| format!("{listener} must not listen")).collect();
    wrong.extend(expected.difference(&found).map(|listener| format!("{listener} does not listen")));
    wrong
}

/// Whether a transport of Tor may be behind a listener: its door for Tor on loopback, or one end of a conversation
/// with snowflake's volunteers, which lets in no one else (input chain).
fn is_transport(listener: &str, transports: &[Transport]) -> bool {
    let chosen_by_kernel = listener
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok())
        .is_some_and(|port| EPHEMERAL.contains(&port));
    let may = if listener.starts_with("tcp 127.0.0.1:") {
        !transports.is_empty()
    } else {
        listener.starts_with("udp ") && transports.contains(&Transport::Snowflake)
    };
    chosen_by_kernel && may
}

pub(super) fn policies(ground: &Ground<'_, '_>) -> Result<Outcome> {
    Ok(Outcome::of(accepting(&ground.ask(&["nft", "-j", "list", "ruleset"])?)?))
}

/// Hooks that do not drop by default (libnftables-json(5)).
fn accepting(ruleset: &str) -> Result<Vec<String>> {
    let ruleset: Value = serde_json::from_str(ruleset).context("reading nft's answer")?;
    let objects = ruleset["nftables"].as_array().context("nft's answer holds no list")?;
    let filters = objects.iter().map(|object| &object["chain"]).filter(|chain| chain["type"] == "filter");
    let drops: Vec<_> = filters
        .filter(|chain| chain["family"] == "inet" && chain["policy"] == "drop")
        .filter_map(|chain| chain["hook"].as_str())
        .collect();
    let hooks = ["input", "forward", "output"];
    Ok(hooks
        .iter()
        .filter(|hook| !drops.contains(hook))
        .map(|hook| format!("{hook} does not drop by default"))
        .collect())
}

pub(super) fn egress(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let targets = |user: &str| {
        let resolver = (user != "postfix").then_some("udp:127.0.0.1:53");
        OUTSIDE.into_iter().chain(resolver).map(str::to_owned).collect()
    };
    dropped(ground, users(ground).filter(|user| *user != "debian-tor"), targets)
}

pub(super) fn loopback(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let targets = |user: &str| {
        let may = MAY.iter().find(|(name, _)| *name == user).map_or(&[][..], |(_, ports)| ports);
        let forbidden = PORTS.iter().filter(|port| !may.contains(port));
        forbidden.map(|port| format!("tcp:127.0.0.1:{port}")).collect()
    };
    dropped(ground, users(ground), targets)
}

/// Lets every user try to reach what must be closed to it.
fn dropped(
    ground: &Ground<'_, '_>,
    users: impl Iterator<Item = &'static str>,
    targets: impl Fn(&str) -> Vec<String>,
) -> Result<Outcome> {
    let probe = |user| (user, [vec!["reach".to_owned()], targets(user)].concat());
    let probes: Vec<_> = users.map(probe).collect();
    let answers = ground.probe_all(&probes)?;
    let through = probes.iter().zip(&answers).filter_map(|((user, _), answer)| not_dropped(user, answer));
    Ok(Outcome::of(through.collect()))
}

fn users(ground: &Ground<'_, '_>) -> impl Iterator<Item = &'static str> {
    USERS.into_iter().filter(|user| *user == "root" || ground.accounts.has_user(user))
}

/// What was let through, in the answer of `cipolla probe reach`. Without a route nothing leaves either.
fn not_dropped(user: &str, answer: &str) -> Option<String> {
    let targets = answer.lines().filter_map(|line| line.split_once(' '));
    let through: Vec<_> = targets
        .filter(|(_, said)| !matches!(*said, "dropped" | "no-route"))
        .map(|(target, _)| target)
        .collect();
    (!through.is_empty()).then(|| format!("{user} is let through to {}", through.join(" ")))
}

pub(super) fn resolver(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let content = ground.machine.fs.read(Utf8Path::new("/etc/resolv.conf"))?.unwrap_or_default();
    Ok(Outcome::of(other_resolvers(&String::from_utf8_lossy(&content))))
}

fn other_resolvers(resolv_conf: &str) -> Vec<String> {
    let servers: Vec<_> =
        resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver ")).collect();
    match servers.as_slice() {
        ["127.0.0.1"] => Vec::new(),
        [] => vec!["/etc/resolv.conf names no server".into()],
        others => vec![format!("/etc/resolv.conf names {}", others.join(", "))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_and_missing_listeners_are_named() {
        let expected = BTreeSet::from(["tcp 127.0.0.1:22".to_owned(), "udp 127.0.0.1:53".to_owned()]);
        let answer = "udp UNCONN 0      0      127.0.0.1:53    0.0.0.0:*\n\
                      udp UNCONN 0      0      192.168.1.2%eth0:68    0.0.0.0:*\n\
                      tcp LISTEN 0      100    0.0.0.0:25 0.0.0.0:*\n";
        let wrong = compare(&expected, &[], answer);
        assert_eq!(wrong, ["tcp 0.0.0.0:25 must not listen", "tcp 127.0.0.1:22 does not listen"]);
    }

    #[test]
    fn transports_of_tor_listen_where_the_kernel_puts_them() {
        let answer = "tcp LISTEN 0 128 127.0.0.1:40123 0.0.0.0:*\n\
                      tcp LISTEN 0 128 127.0.0.1:4000 0.0.0.0:*\n\
                      tcp LISTEN 0 128 0.0.0.0:40123 0.0.0.0:*\n\
                      udp UNCONN 0 0 192.168.1.2:50000 0.0.0.0:*\n";
        let lines = |transports: &[Transport]| compare(&BTreeSet::new(), transports, answer).len();
        assert_eq!([lines(&[]), lines(&[Transport::Obfs4]), lines(&[Transport::Snowflake])], [4, 3, 2]);
    }

    #[test]
    fn a_chain_that_accepts_is_named() {
        let chain = |hook: &str, policy: &str| {
            format!(
                r#"{{"chain": {{"family": "inet", "table": "cipolla", "name": "{hook}", "type": "filter", "hook": "{hook}", "prio": 0, "policy": "{policy}"}}}}"#
            )
        };
        let ruleset = |chains: &[String]| format!(r#"{{"nftables": [{}]}}"#, chains.join(","));
        let good = ruleset(&["input", "forward", "output"].map(|hook| chain(hook, "drop")));
        assert!(accepting(&good).unwrap().is_empty());
        let bad = ruleset(&[chain("input", "drop"), chain("output", "accept")]);
        assert_eq!(
            accepting(&bad).unwrap(),
            ["forward does not drop by default", "output does not drop by default"]
        );
    }

    #[test]
    fn what_is_let_through_is_named() {
        let answer = "tcp:192.0.2.1:443 dropped\nudp:192.0.2.1:53 no-route\ntcp:127.0.0.1:22 refused\n";
        assert_eq!(not_dropped("vmail", answer).unwrap(), "vmail is let through to tcp:127.0.0.1:22");
        assert_eq!(not_dropped("vmail", "tcp:192.0.2.1:443 dropped\n"), None);
    }

    #[test]
    fn only_tor_resolves() {
        assert!(other_resolvers("# x\nnameserver 127.0.0.1\n").is_empty());
        assert!(!other_resolvers("nameserver 127.0.0.1\nnameserver 9.9.9.9\n").is_empty());
        assert!(!other_resolvers("").is_empty());
    }
}
