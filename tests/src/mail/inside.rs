//! The network as it is inside: who listens, who may speak to whom, who may leave.

use std::collections::BTreeSet;

use super::State;
use crate::check::{Check, Verdict, check, fail, none_of};

/// Everything that listens, and nothing else does: `protocol address:port`.
const LISTENERS: [&str; 13] = [
    "tcp 127.0.0.1:22",
    "tcp 127.0.0.1:9040",
    "tcp 127.0.0.1:10025",
    "tcp 127.0.0.1:10080",
    "tcp 127.0.0.1:10143",
    "tcp 127.0.0.1:10145",
    "tcp 127.0.0.1:10465",
    "tcp 127.0.0.1:10587",
    "tcp 127.0.0.1:10588",
    "tcp 127.0.0.1:10993",
    "tcp 127.0.0.1:14190",
    "udp 127.0.0.1:53",
    // DHCP's answers, to the network manager alone.
    "udp (lan):68",
];

/// Who may connect to which port of the machine itself. Every other pair must fail.
const ALLOWED: [(&str, u16); 10] = [
    ("debian-tor", 22),
    ("debian-tor", 10025),
    ("debian-tor", 10080),
    ("debian-tor", 10465),
    ("debian-tor", 10993),
    ("roundcube", 10143),
    ("roundcube", 10587),
    ("roundcube", 14190),
    ("vmail", 10588),
    ("dovecot", 10145),
];

/// Users of the machine who run something, or could.
pub(super) const USERS: [&str; 14] = [
    "root",
    "debian-tor",
    "postfix",
    "dovecot",
    "dovenull",
    "vmail",
    "_rspamd",
    "www-data",
    "roundcube",
    "cipolla",
    "sshd",
    "nobody",
    "systemd-network",
    "systemd-timesync",
];

/// Tries to connect as each user: `USER tcp|udp ADDRESS PORT` in, the same with a word out. `dropped`: a segment that the
/// firewall drops ends in a time-out, and a datagram in EPERM. `answered`, or that nobody listens there (`refused`), or
/// that nobody answers a datagram (`sent`): the firewall let it through.
const TRIES: &str = r#"python3 - <<'END'
import os, pwd, socket, sys
children = 0
for line in """{tries}""".split("\n"):
    if not line.strip():
        continue
    user, kind, address, port = line.split()
    sys.stdout.flush()
    if os.fork() == 0:
        who = pwd.getpwnam(user)
        os.setgroups([]); os.setgid(who.pw_gid); os.setuid(who.pw_uid)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        s.settimeout({seconds})
        word = "dropped"
        try:
            s.connect((address, int(port)))
            if kind == "udp":
                s.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01")
                word = "sent"
                s.recv(512)
            word = "answered"
        except (TimeoutError, PermissionError):
            pass
        except ConnectionRefusedError:
            word = "refused"
        except OSError as e:
            word = "failed: " + str(e)
        print(line, word, flush=True)
        os._exit(0)
    children += 1
    if children == 24:
        os.wait()
        children -= 1
while children:
    os.wait()
    children -= 1
END"#;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("listeners_exact_set", &["R2", "R12", "R39"], listeners_exact_set),
        check("nft_policy_drops", &["R1", "R7"], nft_policy_drops),
        check("nft_golden", &["R1", "R4", "R5", "R6"], nft_golden),
        check("nft_rules_in_force_are_the_files", &["R1", "R4"], nft_in_force),
        check("proxy_port_refuses_other_uids", &["R2", "R16"], who_may_connect),
        check("egress_denied_per_uid", &["R1", "R4", "R6", "R16"], egress_denied),
        check("php_no_egress", &["R16"], |state: &mut State| leaves(state, &["roundcube"])),
        check("dns_goes_nowhere_else", &["R6", "R36"], dns_goes_nowhere_else),
        check("no_packet_before_nft", &["R1"], no_packet_before_nft),
        check("no_ipv6_on_the_wire", &["R5"], no_ipv6_on_the_wire),
    ]
}

fn listeners_exact_set(state: &mut State) -> Verdict {
    let lan = state.resident.address().to_string();
    let output = state.resident.appliance.read("ss -Hlntu")?;
    let seen: BTreeSet<String> = output
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let (address, port) = words.get(4)?.rsplit_once(':')?;
            let address = if address.starts_with(&lan) { "(lan)" } else { address };
            Some(format!("{} {address}:{port}", words[0]))
        })
        .collect();
    let wanted: BTreeSet<String> = LISTENERS.map(str::to_owned).into();
    let mut findings: Vec<_> = seen.difference(&wanted).map(|one| format!("{one} listens")).collect();
    findings.extend(wanted.difference(&seen).map(|one| format!("{one} does not listen")));
    none_of(&findings)
}

fn nft_policy_drops(state: &mut State) -> Verdict {
    let rules = state.resident.appliance.read("nft list ruleset")?;
    let mut findings = Vec::new();
    for hook in ["input", "forward", "output"] {
        let chain = format!("hook {hook} priority filter; policy drop;");
        if !rules.contains(&chain) {
            findings.push(format!("no chain has `{chain}`"));
        }
    }
    let tables: Vec<_> = rules.lines().filter(|line| line.starts_with("table")).collect();
    if tables != ["table inet cipolla {"] {
        findings.push(format!("the tables are {tables:?}"));
    }
    none_of(&findings)
}

/// The file on the appliance is the golden one, but for the numbers of its users and the networks of a test.
fn nft_golden(state: &mut State) -> Verdict {
    let golden = state.ctx.golden.join("config/default/etc/nftables.conf");
    let golden = fs_err::read_to_string(golden)?;
    let seen = state.resident.appliance.read("cat /etc/nftables.conf && nft -c -f /etc/nftables.conf")?;
    let plain = |text: &str| -> Vec<String> {
        // In a private network, Tor's relays have private addresses.
        let lines = text.lines().filter(|line| !line.contains("$not_public counter drop"));
        let number = |line: &str| line.starts_with("define ") && line.ends_with(|c: char| c.is_ascii_digit());
        lines.filter(|line| !number(line)).map(str::to_owned).collect()
    };
    none_of(&unlike(&plain(&golden), &plain(&seen)))
}

/// The rules in force are those of the file, one by one: a network namespace of its own gets them from it.
fn nft_in_force(state: &mut State) -> Verdict {
    let appliance = &mut state.resident.appliance;
    // Without what is counted.
    let running = appliance.read("nft -s list ruleset")?;
    let fresh = appliance.read("unshare -n sh -ec 'nft -f /etc/nftables.conf; nft -s list ruleset'")?;
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    if fresh.lines().count() < 40 {
        return fail(format!("the file makes no firewall elsewhere: {fresh}"));
    }
    none_of(&unlike(&lines(&fresh), &lines(&running)))
}

/// Where two lists of lines part, and what only one of them holds. Order counts, and how often a line comes.
fn unlike(want: &[String], seen: &[String]) -> Vec<String> {
    let at = want.iter().zip(seen).take_while(|(want, seen)| want == seen).count();
    if at == want.len() && at == seen.len() {
        return Vec::new();
    }
    let line = |lines: &[String]| lines.get(at).map_or("its end".to_owned(), |line| format!("{line:?}"));
    let mut findings = vec![format!("line {} is {}, not {}", at + 1, line(seen), line(want))];
    findings.extend(want.iter().filter(|line| !seen.contains(line)).map(|line| format!("- {line}")));
    findings.extend(seen.iter().filter(|line| !want.contains(line)).map(|line| format!("+ {line}")));
    findings
}

/// Runs the tries and returns those that the firewall let through, as `USER KIND ADDRESS PORT`.
pub(super) fn passed(state: &mut State, tries: &[String]) -> anyhow::Result<BTreeSet<String>> {
    attempt(state, tries, "0.4")
}

/// As [`passed`], with the time that is waited for an answer.
fn attempt(state: &mut State, tries: &[String], seconds: &str) -> anyhow::Result<BTreeSet<String>> {
    let script = TRIES.replace("{tries}", &tries.join("\n")).replace("{seconds}", seconds);
    let output = state.resident.appliance.read(&script)?;
    let mut passed = BTreeSet::new();
    for attempt in tries {
        let word = output.lines().find_map(|line| line.strip_prefix(attempt.as_str())?.strip_prefix(' '));
        match word {
            Some("dropped") => {}
            Some("answered" | "refused" | "sent") => {
                passed.insert(attempt.clone());
            }
            other => anyhow::bail!("trying {attempt}: {other:?}: {output}"),
        }
    }
    Ok(passed)
}

fn who_may_connect(state: &mut State) -> Verdict {
    let ports = LISTENERS.iter().filter(|one| one.starts_with("tcp")).filter_map(|one| one.rsplit_once(':'));
    let ports: Vec<_> = ports.map(|(_, port)| port).collect();
    let tries: Vec<String> = USERS
        .iter()
        .flat_map(|user| ports.iter().map(move |port| format!("{user} tcp 127.0.0.1 {port}")))
        .collect();
    let seen = passed(state, &tries)?;
    let wanted: BTreeSet<String> =
        ALLOWED.iter().map(|(user, port)| format!("{user} tcp 127.0.0.1 {port}")).collect();
    let mut findings: Vec<_> = seen.difference(&wanted).map(|one| format!("{one} gets through")).collect();
    findings.extend(wanted.difference(&seen).map(|one| format!("{one} does not get through")));
    none_of(&findings)
}

fn egress_denied(state: &mut State) -> Verdict {
    let users: Vec<_> = USERS.into_iter().filter(|user| *user != "debian-tor").collect();
    leaves(state, &users)
}

/// Nobody of these gets anything out of the machine: to a relay, which answers Tor, and to the LAN's gateway. What is
/// recorded outside is judged by `capture_holds_only_tor_and_dhcp`.
fn leaves(state: &mut State, users: &[&str]) -> Verdict {
    let gateway = qemu::GATEWAY.to_string();
    let relay = state.world.relay()?;
    let mut tries = Vec::new();
    for user in users {
        tries.push(format!("{user} tcp {} {}", relay.ip(), relay.port()));
        tries.push(format!("{user} tcp {gateway} 80"));
        tries.push(format!("{user} udp {gateway} 53"));
        tries.push(format!("{user} udp {gateway} 123"));
    }
    let seen = passed(state, &tries)?;
    let mut findings: Vec<_> = seen.iter().map(|one| format!("{one} gets out")).collect();
    // Silence means something only where others are heard: Tor at the relay, and Postfix at Tor's resolver (which need not
    // answer: the kernel says at once whether a packet may go).
    let heard =
        [format!("debian-tor tcp {} {}", relay.ip(), relay.port()), "postfix udp 127.0.0.1 53".to_owned()];
    let mut seen = attempt(state, &heard[..1], "20")?;
    seen.extend(passed(state, &heard[1..])?);
    findings.extend(heard.iter().filter(|one| !seen.contains(*one)).map(|one| format!("{one} is dropped")));
    none_of(&findings)
}

/// Only Postfix may ask Tor for names, and gets addresses that never leave the machine.
fn dns_goes_nowhere_else(state: &mut State) -> Verdict {
    let tries: Vec<String> = USERS.iter().map(|user| format!("{user} udp 127.0.0.1 53")).collect();
    let seen = passed(state, &tries)?;
    let mut findings: Vec<_> = seen
        .iter()
        .filter(|one| !one.starts_with("postfix "))
        .map(|one| format!("{one} gets through"))
        .collect();
    let resolver = state.resident.appliance.read("cat /etc/resolv.conf")?;
    let servers: Vec<_> = resolver.lines().filter(|line| line.starts_with("nameserver")).collect();
    if servers != ["nameserver 127.0.0.1"] {
        findings.push(format!("the resolvers are {servers:?}"));
    }
    let script = format!(
        "setpriv --reuid=postfix --regid=postfix --clear-groups getent ahostsv4 {}",
        crate::site::PEER
    );
    let output = state.resident.appliance.run(&script)?;
    let addresses: BTreeSet<_> = output.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
    if addresses.is_empty() || addresses.iter().any(|a| !a.starts_with("127.")) {
        findings.push(format!("an onion is at {addresses:?} for Postfix: {}", output.stderr));
    }
    none_of(&findings)
}

/// The firewall was loaded before the first interface was up.
fn no_packet_before_nft(state: &mut State) -> Verdict {
    let script = "systemctl show -P ActiveEnterTimestampMonotonic nftables.service; \
                  systemctl show -P ExecMainStartTimestampMonotonic systemd-networkd.service; \
                  systemctl show -P Requires systemd-networkd.service tor@default.service ssh.service; \
                  systemctl show -P Requisite wpa_supplicant@x.service";
    let output = state.resident.appliance.read(script)?;
    let lines: Vec<_> = output.lines().filter(|line| !line.is_empty()).collect();
    let [nft, networkd, requires @ ..] = lines.as_slice() else { return fail(output) };
    let mut findings = Vec::new();
    if nft.parse::<u64>()? == 0 || nft.parse::<u64>()? >= networkd.parse::<u64>()? {
        findings
            .push(format!("the firewall was up at {nft} µs, the network's service started at {networkd} µs"));
    }
    if requires.len() != 4 || !requires.iter().all(|line| line.contains("nftables.service")) {
        findings.push(format!("not all of them require the firewall: {requires:?}"));
    }
    none_of(&findings)
}

fn no_ipv6_on_the_wire(state: &mut State) -> Verdict {
    let script = "cat /proc/sys/net/ipv6/conf/all/disable_ipv6; ip -6 -o addr show";
    let output = state.resident.appliance.read(script)?;
    let mut lines = output.lines();
    let mut findings = Vec::new();
    if lines.next() != Some("1") {
        findings.push("IPv6 is not off on the interfaces".to_owned());
    }
    findings.extend(lines.map(|line| format!("an IPv6 address: {line}")));
    none_of(&findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_count() {
        let lines = |text: &str| -> Vec<String> { text.chars().map(String::from).collect() };
        assert_eq!(unlike(&lines("abc"), &lines("abc")), [""; 0]);
        assert_eq!(unlike(&lines("abc"), &lines("acb")), ["line 2 is \"c\", not \"b\""]);
        assert_eq!(unlike(&lines("ab"), &lines("abb")), ["line 3 is \"b\", not its end"]);
        assert_eq!(unlike(&lines("ab"), &lines("ax")), ["line 2 is \"x\", not \"b\"", "- b", "+ x"]);
    }
}
