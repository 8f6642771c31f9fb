//! An appliance in the lab, looked at from outside: what it sends, what it answers, who can reach it. It is that of the
//! scenario `mail`, at its end.

mod lan_ssh;
mod pow;
mod snowflake;

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use clients::Smtp;
use qemu::{Deadline, Programs};

use crate::Context;
use crate::appliance::Appliance;
use crate::check::{Evidence, PASS, Phase, Verdict, check, fail, gate, none_of};
use crate::firmware::switched_off;
use crate::vantage::Vantage;
use crate::world::{Resident, World};

/// From the login prompt to a reachable onion service, and for one connection to it.
const ONION: u64 = 300;

/// Fields are dropped in this order.
pub(crate) struct State {
    resident: Resident,
    world: World,
    snowflake: Option<snowflake::Snowflake>,
    /// The lab's tools, in its network.
    tools: Vantage,
    /// The scenario's folder.
    folder: PathBuf,
}

impl State {
    /// An appliance that is up, and the lab that it is in.
    pub(crate) fn new(
        (resident, world): (Resident, World),
        scanners: Vec<OsString>,
        folder: PathBuf,
    ) -> Self {
        let tools = Vantage { namespace: world.lab().network(), tree: scanners };
        Self { resident, world, snowflake: None, tools, folder }
    }

    pub(crate) fn evidence(&mut self) -> Vec<Evidence> {
        self.resident.evidence()
    }

    pub(crate) fn reach(&self) -> String {
        self.resident.appliance.machine.how_to_reach() + &self.world.lab().how_to_reach()
    }
}

/// What is seen from outside. Its end takes the firewall away.
pub(crate) fn phases(ctx: &Context) -> Vec<Phase<State>> {
    let checks = vec![
        gate("smtp_banner_through_tor", &["R2"], smtp_banner_through_tor),
        check("proof_of_work_is_offered", &["R19"], pow::proof_of_work_is_offered),
        check("lan_scan_zero_open_tcp_udp_v4_v6", &["R1", "R2", "R50"], lan_scan),
        check("capture_holds_only_tor_and_dhcp", &["R1", "R4", "R5", "R6"], only_tor_and_dhcp),
        check("egress_denied_for_every_user", &["R1", "R4", "R6"], egress_denied_for_every_user),
        check("tor_stopped_nothing_leaves", &["R1", "R4", "R6", "R38"], tor_stopped_nothing_leaves),
    ];
    // What would make the checks above pass without reason.
    let controls = vec![
        check("the_scanner_sees_open_ports", &[], the_scanner_sees_open_ports),
        check("the_record_sees_leaks", &[], the_record_sees_leaks),
        check("the_scanner_sees_this_machine", &[], the_scanner_sees_this_machine),
    ];
    vec![
        Phase::of(checks),
        snowflake::phase(),
        lan_ssh::phase(),
        Phase::of(controls),
        Phase::of(switched_off(ctx)).within(appliance),
    ]
}

#[expect(clippy::unnecessary_wraps, reason = "a part of a state may be missing")]
fn appliance(state: &mut State) -> anyhow::Result<&mut Appliance> {
    Ok(&mut state.resident.appliance)
}

fn smtp_banner_through_tor(state: &mut State) -> Verdict {
    let deadline = Deadline::seconds(ONION);
    let onion = state.resident.onion("mx")?;
    let channel = state.world.connect_anew("stranger", &onion, 25, deadline)?;
    let (mut smtp, greeting) = Smtp::greeted(channel)?;
    let took = state.resident.since.elapsed();
    note(state, &format!("from power-on to the mail server's greeting through Tor: {}", seconds(took)))?;
    let quit = smtp.command("QUIT")?;
    if greeting.code == 220 && quit.code == 221 {
        return PASS;
    }
    fail(format!("the mail server says {greeting}, and to QUIT {quit}"))
}

/// Keeps a figure beside the logs.
fn note(state: &State, line: &str) -> anyhow::Result<()> {
    let file = state.resident.appliance.machine.run_dir().file("figures.txt");
    Ok(fs_err::write(file, format!("{line}\n"))?)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Every TCP port, and the UDP ports that something usually listens on, from another machine of the same LAN.
fn lan_scan(state: &mut State) -> Verdict {
    let found = scans(state, &["-p-", "--min-rate=6000"], &["--top-ports=200", "--min-rate=300"])?;
    none_of(&found.concat())
}

/// Scans these ports of the machine: TCP and UDP over IPv4, then both over IPv6. What each scan found.
fn scans(state: &State, tcp: &[&str], udp: &[&str]) -> anyhow::Result<Vec<Vec<String>>> {
    let v4 = state.resident.address().to_string();
    let v6 = format!("{}%br0", state.resident.link_local());
    let programs = state.world.lab().programs();
    let scan = |target: &str, family: Option<&str>, kind: &str, ports: &[&str]| {
        let arguments = [kind, "--max-retries=1"].into_iter().chain(ports.iter().copied());
        let arguments: Vec<_> = arguments.chain(family).chain([target]).collect();
        Ok(open(&nmap(programs, &arguments)?))
    };
    // A scan waits for answers that do not come, and nothing hinders another one from waiting, too.
    std::thread::scope(|scope| {
        let ways = [(v4.as_str(), None), (v6.as_str(), Some("-6"))];
        let kinds = [("-sS", tcp), ("-sU", udp)];
        let all = ways.map(|(target, family)| {
            kinds.map(|(kind, ports)| scope.spawn(move || scan(target, family, kind, ports)))
        });
        let join = |one: ScopedJoinHandle<'_, anyhow::Result<Vec<String>>>| {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        all.into_iter().flatten().map(join).collect()
    })
}

/// Scans from the lab; the report is nmap's line format.
fn nmap(programs: &Programs, arguments: &[&str]) -> anyhow::Result<String> {
    let all = ["-n", "-Pn", "-oG", "-", "--host-timeout=240s"].iter().chain(arguments);
    let report = programs.output("nmap", all)?;
    Ok(String::from_utf8_lossy(&report).into_owned())
}

/// What a scan found, from nmap's line format (`-oG`): everything that answered, even by refusing, and scans
/// that did not come to their end.
fn open(report: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !report.contains("# Nmap done") || report.contains("Timeout") {
        findings.push(format!("the scan did not come to its end: {report}"));
    }
    for line in report.lines() {
        let Some((_, ports)) = line.split_once("Ports: ") else { continue };
        let ports = ports.split('\t').next().unwrap_or_default();
        // PORT/STATE/PROTOCOL/…; a UDP port that keeps silent is `open|filtered`.
        findings.extend(ports.split(", ").filter_map(|port| {
            let (number, rest) = port.split_once('/')?;
            let (state, rest) = rest.split_once('/')?;
            let protocol = rest.split('/').next()?;
            let silent = matches!(state, "filtered" | "open|filtered");
            (!silent).then(|| format!("{protocol} port {} is {state}", number.trim()))
        }));
    }
    findings.extend(report.lines().filter(|line| line.contains("Ignored State: closed")).map(str::to_owned));
    findings
}

fn only_tor_and_dhcp(state: &mut State) -> Verdict {
    let tally = state.world.judge(&state.resident)?;
    let mut findings = tally.findings;
    if tally.tor == 0 || tally.dhcp == 0 {
        findings.push(format!("{} packets to relays and {} of DHCP: too few", tally.tor, tally.dhcp));
    }
    none_of(&findings)
}

/// Every user of the appliance tries to send a name's question and to connect to something that is no relay.
/// Tor's own user may connect to anything, so it only asks. `LEAK` is where to.
const TRY_TO_LEAK: &str = r#"
while IFS=: read -r user _ uid gid _; do
  (
    ask="echo leak >/dev/udp/$LEAK/53"
    call="echo leak >/dev/tcp/$LEAK/8080"
    [ "$user" = debian-tor ] && call=:
    setpriv --reuid="$uid" --regid="$gid" --clear-groups timeout 3 bash -c "$ask; $call" 2>/dev/null
    echo "$user tried"
  ) &
done </etc/passwd
wait"#;

fn egress_denied_for_every_user(state: &mut State) -> Verdict {
    let users = state.resident.appliance.read("wc -l </etc/passwd")?;
    let tried = state.resident.appliance.read(&try_to_leak())?;
    if tried.lines().count().to_string() != users.trim() {
        return fail(format!("of {} users these tried: {}", users.trim(), tried.replace('\n', ", ")));
    }
    only_tor_and_dhcp(state)
}

/// The script with which every user tries to reach the lab's gateway.
pub(crate) fn try_to_leak() -> String {
    format!("LEAK={}\n{TRY_TO_LEAK}", qemu::GATEWAY)
}

/// Without Tor, mail to somebody else waits; nobody asks for the name elsewhere.
fn tor_stopped_nothing_leaves(state: &mut State) -> Verdict {
    let other = "lbtgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztmn5ad.onion";
    // The watchdog would start it again.
    let units = "cipolla-watch.timer cipolla-watch.service tor@default.service";
    state.resident.appliance.read(&format!("postsuper -d ALL 2>/dev/null; systemctl stop {units}"))?;
    let before = state.world.judge(&state.resident)?.tor_connects;
    let send = format!("printf 'Subject: x\\n\\nx\\n' | sendmail -f '' nobody@{other}; postqueue -f; true");
    state.resident.appliance.read(&send)?;
    // The deferral is the sign that the mail server has tried.
    let script =
        "timeout 90 sh -c 'until postqueue -j | grep -q delay_reason; do sleep 1; done'; postqueue -j";
    let queue = state.resident.appliance.read(script)?;
    let asked = state.resident.appliance.run(&try_to_leak());
    let tally = state.world.judge(&state.resident)?;
    state.resident.appliance.read("systemctl start tor@default.service cipolla-watch.timer")?;
    asked?;
    let mut findings = tally.findings;
    if !queue.contains("delay_reason") {
        findings.push(format!("the message was not deferred: {queue}"));
    }
    if tally.tor_connects > before {
        findings.push(format!("{} connections to relays without Tor", tally.tor_connects - before));
    }
    none_of(&findings)
}

/// A scanner that finds nothing may be blind.
fn the_scanner_sees_open_ports(state: &mut State) -> Verdict {
    let relay = state.world.relay()?;
    let (address, port) = (relay.ip().to_string(), relay.port().to_string());
    let found = open(&nmap(state.world.lab().programs(), &["-sS", "-p", &port, &address])?);
    if found == [format!("tcp port {port} is open")] {
        return PASS;
    }
    fail(format!("a scan of the relay {relay} finds {found:?}"))
}

/// A record without findings may be of something else.
fn the_record_sees_leaks(state: &mut State) -> Verdict {
    state.resident.appliance.read("nft flush ruleset")?;
    state.resident.appliance.read(&try_to_leak())?;
    let findings = state.world.judge(&state.resident)?.findings;
    let sees = |what: &str| findings.iter().any(|finding| finding.contains(what));
    let gateway = qemu::GATEWAY;
    if sees(&format!("to {gateway} port 53")) && sees(&format!("to {gateway} port 8080")) {
        return PASS;
    }
    fail(format!("without a firewall the record shows only {findings:?}"))
}

/// Two programs that listen for everybody, once the firewall is gone and the kernel speaks IPv6 on the wire.
const LISTEN: &str = r#"nft flush ruleset
for card in /sys/class/net/e*; do
  card=${card##*/}
  sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.$card.disable_ipv6=0
  ip -6 address replace "$ADDRESS/64" dev $card nodad
done
cat >/run/listen.py <<'END'
import socket
tcp = socket.create_server(('', 7001), family=socket.AF_INET6, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(('', 7002))
while True:
    _, peer = udp.recvfrom(9)
    udp.sendto(b'x', peer)
END
setsid python3 /run/listen.py </dev/null >/run/listen.log 2>&1 &
timeout 60 sh -c 'until ss -Hlun | grep -q :7002; do sleep 0.2; done' || { cat /run/listen.log >&2; false; }"#;

/// The scans of [`lan_scan`] see this very machine: one open port of each protocol over each family.
fn the_scanner_sees_this_machine(state: &mut State) -> Verdict {
    let listen = format!("ADDRESS={}\n{LISTEN}", state.resident.link_local());
    state.resident.appliance.read(&listen)?;
    let found = scans(state, &["-p7001"], &["-p7002"])?;
    let wanted = ["tcp port 7001 is open", "udp port 7002 is open"].map(|port| vec![port.to_owned()]);
    if found == [wanted.clone(), wanted].concat() {
        return PASS;
    }
    fail(format!("with the firewall away, one open port of each kind: {found:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_is_good() {
        let silent = "Host: 10.77.0.101 ()\tStatus: Up\n\
             Host: 10.77.0.101 ()\tPorts: 53/open|filtered/udp//domain///\tIgnored State: filtered (65535)\n\
             # Nmap done at x -- 1 IP address (1 host up) scanned\n";
        assert_eq!(open(silent), [] as [String; 0]);
        let loud = "Host: 10.77.0.101 ()\tPorts: 22/open/tcp//ssh///, 25/closed/tcp//smtp///\t\
             Ignored State: filtered (65533)\n# Nmap done\n";
        assert_eq!(open(loud), ["tcp port 22 is open", "tcp port 25 is closed"]);
        assert_eq!(open("Host: x ()\tPorts: \tIgnored State: closed (9)\n# Nmap done").len(), 1);
        assert_eq!(open("").len(), 1);
    }
}
