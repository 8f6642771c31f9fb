//! The appliance with a snowflake bridge, as its settings and its firewall let it be one.
//!
//! A whole snowflake (broker, volunteers, bridge) is not in Debian, so nothing is reached here. What is seen is how the
//! transport asks: the broker at the front's address, the STUN server at its own, no name anywhere.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use qemu::Deadline;

use super::State;
use crate::capture::{self, Sent};
use crate::check::{Check, Phase, Verdict, check, none_of};
use crate::world::{Bridges, Resident};

/// The name through which the broker is asked, and where that is.
const FRONT: &str = "front.example";
const FRONT_ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 40), 443);

/// Nobody answers there.
const STUN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 41), 3478);

/// From the start of Tor to the broker: five seconds of waiting for STUN, then TLS, on an emulated machine.
const ASKED: u64 = 180;

/// What was prepared. The server ends with the lab.
pub(super) struct Snowflake {
    _front: Child,
    /// How many packets there were before.
    before: usize,
}

pub(super) fn phase() -> Phase<State> {
    let checks: Vec<Check<State>> = vec![
        check("snowflake_asks_through_its_front", &["R4"], asks_through_its_front),
        check("snowflake_is_confined", &["R4", "R53"], is_confined),
        check("snowflake_asks_for_no_names", &["R4", "R6"], asks_for_no_names),
    ];
    Phase::after(apply, checks)
}

/// A server that takes TLS for the front, with a certificate that nobody trusts.
const SERVE: &str = r#"cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -days 3650 \
    -keyout front.key -out front.crt
exec openssl s_server -quiet -accept "$3" -cert front.crt -key front.key"#;

/// The owner changes the settings of the running appliance: from now on it goes through snowflake, or nowhere.
fn apply(state: &mut State) -> anyhow::Result<()> {
    let lab = state.world.lab();
    lab.add_address(*FRONT_ADDRESS.ip())?;
    lab.add_address(*STUN.ip())?;
    let folder = lab.run_dir().path();
    let mut server = lab.programs().command("sh");
    server.args(["-c", SERVE, "sh"]).arg(folder).args([FRONT, &FRONT_ADDRESS.to_string()]);
    let log = fs_err::File::create(folder.join("front.log"))?.into_parts().0;
    server.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    let front = server.spawn().context("starting the front")?;
    let fingerprint = "0123456789ABCDEF0123456789ABCDEF01234567";
    let lines = [format!(
        "snowflake 192.0.2.3:80 {fingerprint} fingerprint={fingerprint} url=https://broker.example/ \
         front={FRONT} ice=stun:{STUN} utls-imitate=hellofirefox_auto"
    )];
    let hosts = [format!("{} {FRONT}", FRONT_ADDRESS.ip())];
    let settings = state.world.settings(&"ada".into(), &Bridges { lines: &lines, hosts: &hosts })?;
    // The watchdog would have much to do.
    let script = format!(
        "systemctl stop cipolla-watch.timer cipolla-watch.service\n\
         cat >/root/snowflake.toml <<'END'\n{settings}END\ncipolla settings apply /root/snowflake.toml"
    );
    // What the Tor of before still sends is over when it has ended, which is in this time.
    state.resident.appliance.read(&script)?;
    let before = state.resident.packets()?;
    state.snowflake = Some(Snowflake { _front: front, before });
    Ok(())
}

/// What the machine sent since the settings changed, or since `skip` packets.
fn since<T>(resident: &Resident, skip: usize, look: impl Fn(&[Sent<'_>]) -> T) -> anyhow::Result<T> {
    let packets = resident.recorded()?;
    Ok(look(&capture::sent(packets.get(skip..).unwrap_or_default(), &resident.mac())))
}

/// Whether this begins a TLS handshake (RFC 8446, 4.1.2) with the front's name in clear.
fn is_hello(sent: &Sent<'_>) -> bool {
    let name = FRONT.as_bytes();
    sent.to == FRONT_ADDRESS
        && sent.payload.first() == Some(&0x16)
        && sent.payload.windows(name.len()).any(|part| part == name)
}

/// Whether this is a STUN binding request (RFC 8489, 5) to the one server.
fn is_stun(sent: &Sent<'_>) -> bool {
    sent.udp
        && sent.to == STUN
        && sent.payload.starts_with(&[0, 1])
        && sent.payload.get(4..8) == Some(&COOKIE)
}

/// STUN's magic cookie.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// New conversations that are neither with the front nor with the STUN server, nor DHCP.
fn others(sent: &[Sent<'_>]) -> Vec<String> {
    let foreign = sent.iter().filter(|one| {
        let dhcp = one.udp && one.to.port() == 67;
        (one.udp || one.connect) && !dhcp && one.to != STUN && one.to != FRONT_ADDRESS
    });
    let foreign: BTreeSet<_> = foreign
        .map(|one| format!("{} to {}", if one.udp { "UDP" } else { "a connection" }, one.to))
        .collect();
    foreign.into_iter().collect()
}

fn before(state: &State) -> anyhow::Result<usize> {
    Ok(state.snowflake.as_ref().context("snowflake was not set up")?.before)
}

/// Waits until `done` says of what was sent that it is enough.
fn wait(resident: &Resident, skip: usize, done: impl Fn(&[Sent<'_>]) -> bool) -> anyhow::Result<bool> {
    let deadline = Deadline::seconds(ASKED);
    loop {
        if since(resident, skip, &done)? {
            return Ok(true);
        }
        if deadline.left().is_none() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn asks_through_its_front(state: &mut State) -> Verdict {
    let skip = before(state)?;
    wait(&state.resident, skip, |sent| sent.iter().any(is_hello) && sent.iter().any(is_stun))?;
    let findings = since(&state.resident, skip, |sent| {
        let mut findings = others(sent);
        if !sent.iter().any(is_hello) {
            findings.push(format!("no TLS handshake for {FRONT} to {FRONT_ADDRESS}"));
        }
        if !sent.iter().any(is_stun) {
            findings.push(format!("no STUN to {STUN}"));
        }
        findings
    })?;
    none_of(&findings)
}

/// The transport lives with Tor, and its own open ports are those that the self-test knows.
fn is_confined(state: &mut State) -> Verdict {
    let mut findings = state.resident.confines("snowflake-clien")?;
    let listeners = state.resident.appliance.run("cipolla selftest listeners_exact_set")?;
    if !listeners.status.success() {
        findings.push(format!("{}{}", listeners.stdout, listeners.stderr));
    }
    none_of(&findings)
}

/// A name without an address is asked for at Tor's own port, which is not the transport's to ask. Settings of this kind
/// are refused; this is what happens if they were not.
fn asks_for_no_names(state: &mut State) -> Verdict {
    before(state)?;
    let asked =
        "journalctl -b -k -o cat | grep 'nft lo drop: .*DPT=53 .*UID='\"$(id -u debian-tor)\" | wc -l";
    let earlier = state.resident.appliance.read(asked)?;
    let script = format!("sed -i /{FRONT}/d /etc/tor/hosts && systemctl restart tor@default");
    state.resident.appliance.read(&script)?;
    let skip = state.resident.packets()?;
    let script = format!(
        "for n in $(seq {}); do [ $({asked}) -gt {} ] && break; sleep 1; done; {asked}",
        ASKED - 20,
        earlier.trim()
    );
    let later = state.resident.appliance.read(&script)?;
    let mut findings = since(&state.resident, skip, |sent| {
        let mut findings = others(sent);
        findings.extend(sent.iter().find(|one| one.connect).map(|one| format!("a connection to {}", one.to)));
        findings
    })?;
    if later.trim().parse::<u32>()? <= earlier.trim().parse::<u32>()? {
        findings.push("the transport did not ask, so nothing was shown".to_owned());
    }
    none_of(&findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 11), 9001);

    fn sent(to: SocketAddrV4, udp: bool, payload: &[u8]) -> Sent<'_> {
        Sent { to, udp, connect: !udp && payload.is_empty(), payload }
    }

    #[test]
    fn the_questions_are_recognised() {
        let hello = [&[0x16, 3, 1][..], b"..front.example.."].concat();
        assert!(is_hello(&sent(FRONT_ADDRESS, false, &hello)));
        assert!(!is_hello(&sent(RELAY, false, &hello)));
        assert!(!is_hello(&sent(FRONT_ADDRESS, false, b"\x16broker.example")));
        let binding = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        assert!(is_stun(&sent(STUN, true, &binding)));
        assert!(!is_stun(&sent(STUN, true, b"\0\x01\0\0none")));
    }

    #[test]
    fn other_conversations_are_told() {
        let dns = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 53);
        let fine =
            [sent(STUN, true, b""), sent(FRONT_ADDRESS, false, b""), sent(RELAY, false, b"the last words")];
        assert_eq!(others(&fine), [] as [String; 0]);
        assert_eq!(
            others(&[sent(dns, true, b"x"), sent(RELAY, false, b"")]),
            ["UDP to 10.77.0.1:53", "a connection to 10.77.0.11:9001"]
        );
    }
}
