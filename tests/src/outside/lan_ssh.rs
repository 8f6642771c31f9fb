//! SSH without Tor, for networks that the owner's settings name and for nobody else.

use std::net::Ipv4Addr;

use qemu::Deadline;

use super::{State, nmap, open, scans};
use crate::check::{Check, PASS, Phase, Verdict, check, fail, none_of};
use crate::vantage::{Output, words};
use crate::world::{Bridges, Owner};

/// The lab's network, in which the appliance is.
const NETWORK: &str = "10.77.0.0/24";

/// Machines of that network beside the gateway: somebody who guesses, and one who may come alone.
const GUESSER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 60);
const ALONE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 61);

/// One connection, on an emulated machine, in seconds.
const DIALOGUE: u64 = 90;

/// From the first wrong key to the ban, in seconds: sshd itself makes the guesser wait (`PerSourcePenalties`).
const GUESSING: u64 = 300;

pub(super) fn phase() -> Phase<State> {
    let checks: Vec<Check<State>> = vec![
        check("lan_ssh_opens_one_port", &["R2", "R3"], opens_one_port),
        check("lan_ssh_takes_keys_only", &["R3"], takes_keys_only),
        check("lan_ssh_guesser_is_banned", &["R3", "R19"], guesser_is_banned),
        check("lan_ssh_for_named_networks_only", &["R2", "R3"], named_networks_only),
    ];
    Phase::after(enter, checks)
}

/// The owner names the network in which the lab is, and a key.
fn enter(state: &mut State) -> anyhow::Result<()> {
    for address in [GUESSER, ALONE] {
        state.world.lab().add_address(address)?;
    }
    for name in ["owner", "other"] {
        let file = state.folder.join(name);
        // Of an earlier run.
        let _ = fs_err::remove_file(&file);
        let mut argv = words(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]);
        argv.push(file.into());
        let made = state.tools.output(&argv, Deadline::seconds(DIALOGUE))?;
        anyhow::ensure!(made.status.success(), "making a key: {}", made.stderr);
    }
    name_network(state, NETWORK)
}

/// Puts settings into effect that let this network in.
fn name_network(state: &mut State, network: &str) -> anyhow::Result<()> {
    let key = fs_err::read_to_string(state.folder.join("owner.pub"))?.trim().to_owned();
    let owner = Owner { ssh_keys: &[key], ..Owner::from("ada") };
    let settings = state.world.settings(&owner, &Bridges::default())?;
    let script = format!(
        "cat >/root/lan.toml <<'END'\n{settings}[admin]\nlan_networks = [\"{network}\"]\nEND\n\
         cipolla settings apply /root/lan.toml && \
         timeout 60 sh -c 'until ss -Hltn | grep -q 0.0.0.0:22; do sleep 0.2; done'"
    );
    state.resident.appliance.read(&script).map(drop)
}

/// Runs a command over SSH from an address of the lab, with one of the keys.
fn ssh(state: &State, from: Ipv4Addr, key: &str, options: &[&str]) -> anyhow::Result<Output> {
    let (from, key) = (from.to_string(), state.folder.join(key).display().to_string());
    let target = format!("root@{}", state.resident.address());
    let mut argv = vec!["ssh", "-F", "none", "-b", &from, "-i", &key, "-o", "IdentitiesOnly=yes"];
    argv.extend(["-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "UserKnownHostsFile=/dev/null"]);
    argv.extend(["-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]);
    argv.extend(options);
    argv.extend([&target, "id -un"]);
    state.tools.output(&words(argv), Deadline::seconds(DIALOGUE))
}

/// Of all TCP ports and the usual UDP ports, one answers, and over IPv6 none.
fn opens_one_port(state: &mut State) -> Verdict {
    let found = scans(state, &["-p-", "--min-rate=6000"], &["--top-ports=100", "--min-rate=300"])?;
    let wanted = [vec!["tcp port 22 is open".to_owned()], vec![], vec![], vec![]];
    if found == wanted {
        return PASS;
    }
    fail(format!("the four scans find {found:?}, not {wanted:?}"))
}

fn takes_keys_only(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let let_in = ssh(state, qemu::GATEWAY, "owner", &[])?;
    if let_in.stdout != "root\n" {
        findings.push(format!("with the owner's key: {}{}", let_in.stdout, let_in.stderr));
    }
    let password = ["-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password"];
    let refused = ssh(state, qemu::GATEWAY, "owner", &password)?;
    if refused.status.success() || !refused.stderr.contains("Permission denied (publickey)") {
        findings.push(format!("with a password: {}{}", refused.stdout, refused.stderr));
    }
    none_of(&findings)
}

/// Whoever tries keys loses the way in, for half an hour; others keep it.
fn guesser_is_banned(state: &mut State) -> Verdict {
    let banned = format!("nft list set inet cipolla banned | grep -F '{GUESSER} '; true");
    let deadline = Deadline::seconds(GUESSING);
    let mut tries = 0;
    while state.resident.appliance.read(&banned)?.is_empty() {
        if deadline.left().is_none() {
            return fail(format!("{tries} tries with a wrong key, and nobody is banned"));
        }
        let guess = ssh(state, GUESSER, "other", &[])?;
        if guess.status.success() {
            return fail("a key that nobody named opens the appliance");
        }
        tries += 1;
    }
    let mut findings = Vec::new();
    if tries < 5 {
        findings.push(format!("banned after {tries} tries only"));
    }
    let bans = state.resident.appliance.read("cipolla bans --json")?;
    if !bans.contains("\"sshd\"") || !bans.contains(&format!("\"{GUESSER}\"")) {
        findings.push(format!("`cipolla bans` does not tell: {bans}"));
    }
    let shut_out = ssh(state, GUESSER, "owner", &[])?;
    if shut_out.status.success() || !shut_out.stderr.contains("timed out") {
        findings
            .push(format!("the banned address with the right key: {}{}", shut_out.stdout, shut_out.stderr));
    }
    let other = ssh(state, qemu::GATEWAY, "owner", &[])?;
    if other.stdout != "root\n" {
        findings.push(format!("another address meanwhile: {}{}", other.stdout, other.stderr));
    }
    // New settings, as when the owner adds a network, do not let the guesser in.
    name_network(state, "10.77.0.0/25")?;
    if state.resident.appliance.read(&banned)?.is_empty() {
        findings.push("new settings end the ban".to_owned());
    }
    state.resident.appliance.read(&format!("cipolla unban {GUESSER}"))?;
    if !state.resident.appliance.read(&banned)?.is_empty() {
        findings.push("`cipolla unban` leaves the address in the set".to_owned());
    }
    none_of(&findings)
}

/// With a single address named, its neighbours meet a shut port.
fn named_networks_only(state: &mut State) -> Verdict {
    name_network(state, &format!("{ALONE}/32"))?;
    let mut findings = Vec::new();
    let address = state.resident.address().to_string();
    findings.extend(open(&nmap(state.world.lab().programs(), &["-sS", "-p22", &address])?));
    let let_in = ssh(state, ALONE, "owner", &[])?;
    if let_in.stdout != "root\n" {
        findings.push(format!("the address that is named: {}{}", let_in.stdout, let_in.stderr));
    }
    none_of(&findings)
}
