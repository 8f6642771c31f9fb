//! SSH behind the admin service; who sees that at all is the subject of `attack`. And the client service as one that
//! only devices with a key see.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clients::{Passage, Refused};
use data_encoding::BASE32_NOPAD;
use qemu::Deadline;
use serde::Deserialize;

use super::State;
use super::forward::Forward;
use crate::Context;
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::{Account, DIALOGUE, ONION};
use crate::vantage::{Output, ssh_audit, words};

/// The owner's private key, in the folder of [`State`].
const KEY: &str = "id_ed25519";

/// What an owner does over SSH.
const ADMINISTRATION: &[(&str, &str)] = &[
    ("use cipolla", "cipolla user list | grep ada"),
    ("read the journal", "journalctl -n 1 --no-pager"),
    ("read the log of the kernel", "dmesg | tail -n 1"),
    ("ask for a service", "systemctl is-active tor@default.service"),
    ("look into a service", "readlink /proc/$(systemctl show -P MainPID tor@default.service)/exe | grep tor"),
    ("see the firewall", "nft list table inet cipolla | grep drop"),
    ("set the clock", "date -s \"$(date -uR)\""),
    ("change a value of the kernel", "sysctl -w kernel.panic=30"),
    (
        "mount for everybody to see",
        "mount -t tmpfs none /mnt && grep ' /mnt tmpfs' /proc/1/mounts && umount /mnt",
    ),
    ("read the disk", "head -c 512 $(findmnt -no SOURCE /data) | wc -c | grep 512"),
];

/// What nobody does there.
const REFUSED: &[(&str, &str)] = &[
    ("load a driver", "modprobe dummy"),
    ("make a namespace", "unshare --net true"),
    ("gain from a setuid program", "grep 'NoNewPrivs:.0' /proc/self/status"),
];

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("ssh_login_with_the_settings_key", &["R3"], ssh_login),
        check("session_can_administer", &["R3", "R53"], session_can_administer),
        check("ssh_audit_clean", &["R3", "R53"], ssh_audit_clean),
        check("client_service_can_be_closed", &["R2", "R3"], client_service_can_be_closed),
    ]
}

/// Makes the owner's SSH key and returns its public half.
pub(crate) fn make_key(ctx: &Context, folder: &Path) -> anyhow::Result<String> {
    let (key, public) = (folder.join(KEY), folder.join(format!("{KEY}.pub")));
    for old in [&key, &public] {
        if old.exists() {
            fs_err::remove_file(old)?;
        }
    }
    let mut arguments = words(["-q", "-t", "ed25519", "-N", "", "-C", "ada@laptop", "-f"]);
    arguments.push(key.into());
    ctx.programs.output("ssh-keygen", arguments)?;
    Ok(fs_err::read_to_string(public)?.trim().to_owned())
}

/// A file of known hosts with the key that the appliance has.
fn known_hosts(state: &mut State) -> anyhow::Result<PathBuf> {
    let key = state.resident.appliance.read("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")?;
    let file = state.folder.join("known_hosts");
    fs_err::write(&file, format!("{} {key}", state.site.admin))?;
    Ok(file)
}

/// Shows the owner's key of the service to the lab's Tor, and waits until the service answers.
fn reach(state: &mut State) -> anyhow::Result<()> {
    let (onion, key) = (state.site.admin.clone(), state.site.admin_key);
    state.world.client()?.authorize(&onion, &key, Deadline::seconds(60))?;
    state.site.door.connect_when_up("ada's ssh", &onion, 22, Deadline::seconds(ONION)).map(drop)
}

/// Runs a command over SSH as root, with these options on top.
fn ssh(state: &State, known: &Path, options: &[&str], command: &str) -> anyhow::Result<Output> {
    let (socket, site) = (state.folder.join("ssh"), &state.site);
    let limit = Duration::from_secs(DIALOGUE);
    let passage = Passage::open(&socket, &site.door, |_| "ada's ssh".to_owned(), &site.admin, 22, limit)?;
    let proxy = format!("ProxyCommand=socat - UNIX-CONNECT:{}", passage.socket().display());
    let known = format!("UserKnownHostsFile={}", known.display());
    let target = format!("root@{}", site.admin);
    let mut argv = vec!["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"];
    argv.extend(["-o", &proxy, "-o", &known]);
    argv.extend(options);
    argv.extend([&target, command]);
    state.tool(&argv, DIALOGUE)
}

fn ssh_login(state: &mut State) -> Verdict {
    reach(state)?;
    let known = known_hosts(state)?;
    let key = state.folder.join(KEY).display().to_string();
    let command = "id -un; cipolla --version";
    let mut findings = Vec::new();
    let let_in = ssh(state, &known, &["-i", &key], command)?;
    if !let_in.stdout.starts_with("root\ncipolla ") {
        findings.push(format!("with the key: {}{}", let_in.stdout, let_in.stderr));
    }
    for method in ["password", "keyboard-interactive"] {
        let method = format!("PreferredAuthentications={method}");
        let refused = ssh(state, &known, &["-o", "PubkeyAuthentication=no", "-o", &method], command)?;
        if refused.status.success() || !refused.stderr.contains("Permission denied (publickey)") {
            findings.push(format!("with {method}: {}{}", refused.stdout, refused.stderr));
        }
    }
    none_of(&findings)
}

/// What the sandbox of `ssh.service` leaves to a session, and what not: it has to administer.
fn session_can_administer(state: &mut State) -> Verdict {
    reach(state)?;
    let known = known_hosts(state)?;
    let key = state.folder.join(KEY).display().to_string();
    let tasks =
        ADMINISTRATION.iter().map(|(task, command)| format!("({command}) >&2 || echo 'cannot {task}'\n"));
    let rest = REFUSED.iter().map(|(deed, command)| format!("({command}) >&2 && echo 'can {deed}'\n"));
    let script: String = tasks.chain(rest).chain(["echo end".to_owned()]).collect();
    let output = ssh(state, &known, &["-i", &key], &script)?;
    if output.stdout == "end\n" {
        return PASS;
    }
    fail(format!("{}{}", output.stdout, output.stderr))
}

fn ssh_audit_clean(state: &mut State) -> Verdict {
    let onion = state.site.admin.clone();
    let forward = Forward::open(state, &onion, 22, 2)?;
    let argv = ssh_audit::argv(forward.address);
    let output = state.scanners.output(&argv, Deadline::seconds(ONION))?;
    let audit = ssh_audit::parse(&output.stdout).context(output.stderr)?;
    let mut findings = audit.failures;
    findings.extend(audit.warnings);
    if ["debian", "ubuntu", "deb1"].iter().any(|word| audit.banner.to_lowercase().contains(word)) {
        findings.push(format!("the banner is {}", audit.banner));
    }
    none_of(&findings)
}

/// What `cipolla access add` says to programs.
#[derive(Deserialize)]
struct Grant {
    /// In base32.
    private_key: String,
    closed_now: bool,
}

/// From the first device's key on, strangers do not see the service; the device does; and the appliance's own watch is
/// not confused. With the last key gone, everybody sees it again.
fn client_service_can_be_closed(state: &mut State) -> Verdict {
    let (onion, soon) = (state.site.client.clone(), || Deadline::seconds(60));
    let mut findings = Vec::new();
    let grant = state.resident.appliance.read("cipolla --json access add laptop")?;
    let grant: Grant = serde_json::from_str(&grant).context("reading what the owner is told")?;
    if !grant.closed_now {
        findings.push("the owner is not told that the service is closed now".to_owned());
    }
    let seen = without_key(state, &onion)?;
    if seen != Some(Refused::NO_KEY) {
        findings.push(format!("without a key: {seen:?}"));
    }
    let key = BASE32_NOPAD.decode(grant.private_key.trim().as_bytes()).context("decoding the key")?;
    let key = <[u8; 32]>::try_from(key).map_err(|key| anyhow!("the key has {} bytes", key.len()))?;
    state.world.client()?.authorize(&onion, &key, soon())?;
    let site = &state.site;
    site.door.connect_when_up("laptop", &onion, 993, Deadline::seconds(ONION))?;
    let account = Account { local: "ada", password: &site.password };
    site.mailbox("laptop", account)?.demand("LOGOUT")?;
    let look = state.resident.appliance.machine.run("cipolla watch --look", Deadline::seconds(ONION))?;
    if !look.status.success() || look.stdout.matches("can be reached").count() != 3 {
        findings.push(format!("the watch says {}{}", look.stdout, look.stderr));
    }
    state.resident.appliance.read("cipolla access revoke laptop")?;
    state.world.connect_anew("anybody again", &onion, 993, Deadline::seconds(ONION))?;
    none_of(&findings)
}

/// What a client without a key comes to, once the new descriptor is in the network; `None`: it is let in.
fn without_key(state: &mut State, onion: &str) -> anyhow::Result<Option<Refused>> {
    let deadline = Deadline::seconds(ONION);
    loop {
        // What it learnt before would still open the door, and so would the old descriptor.
        state.world.client()?.new_identity(Deadline::seconds(60))?;
        let seen = state.site.door.connect_once("nobody", onion, 993, deadline);
        let seen = match seen {
            Ok(_) => None,
            Err(error) => Some(error.downcast::<Refused>()?),
        };
        if seen == Some(Refused::NO_KEY) || deadline.left().is_none() {
            return Ok(seen);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
