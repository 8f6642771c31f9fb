//! The admin service: who sees it, and SSH behind it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clients::{Passage, Refused, Talk};
use data_encoding::BASE32_NOPAD;
use qemu::Deadline;

use super::State;
use super::forward::Forward;
use crate::Context;
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::{DIALOGUE, ONION};
use crate::vantage::{ssh_audit, words};

/// The owner's private key, in the scenario's folder.
const KEY: &str = "id_ed25519";

/// What makes the service visible.
const AUTHORIZED: &str = "/var/lib/tor/admin/authorized_clients";

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("client_auth_required", &["R3"], client_auth_required),
        check("ssh_login_with_the_settings_key", &["R3"], ssh_login),
        check("ssh_audit_clean", &["R3", "R53"], ssh_audit_clean),
        check("broken_auth_file_fails_closed", &["R3"], broken_auth_file),
    ]
}

/// Makes the owner's SSH key and returns its public half.
pub(super) fn make_key(ctx: &Context, folder: &Path) -> anyhow::Result<String> {
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

/// The key that the hand-over shows.
fn handed_over(state: &mut State) -> anyhow::Result<[u8; 32]> {
    let text = state.resident.appliance.read("cat /var/lib/cipolla/private/credentials/admin")?;
    let bytes =
        BASE32_NOPAD.decode(text.trim().as_bytes()).context("decoding the key of the admin service")?;
    bytes.try_into().map_err(|bytes: Vec<u8>| anyhow::anyhow!("the key has {} bytes", bytes.len()))
}

/// SSH's first line, or why there is none.
fn banner(state: &State, circuit: &str, deadline: Deadline) -> anyhow::Result<Result<String, Refused>> {
    let site = state.site()?;
    loop {
        match site.door.connect(circuit, &site.admin, 22, deadline) {
            Ok(channel) => return Ok(Ok(Talk::new(channel).line()?)),
            Err(error) => match error.downcast_ref::<Refused>().copied() {
                Some(refused @ (Refused::NO_KEY | Refused::WRONG_KEY)) => return Ok(Err(refused)),
                Some(refused) if deadline.left().is_none() => return Ok(Err(refused)),
                // The descriptor is not published yet, or the service does not answer yet.
                Some(_) => std::thread::sleep(Duration::from_millis(500)),
                None => return Err(error),
            },
        }
    }
}

fn client_auth_required(state: &mut State) -> Verdict {
    let onion = state.site()?.admin.clone();
    let key = handed_over(state)?;
    let soon = Deadline::seconds(60);
    let mut findings = Vec::new();
    let refused = banner(state, "nobody", Deadline::seconds(ONION))?;
    if refused != Err(Refused::NO_KEY) {
        findings.push(format!("without a key: {refused:?}"));
    }
    state.world.client()?.authorize(&onion, &[0x42; 32], soon)?;
    let refused = banner(state, "a thief", Deadline::seconds(ONION))?;
    if refused != Err(Refused::WRONG_KEY) {
        findings.push(format!("with a wrong key: {refused:?}"));
    }
    state.world.client()?.forget(&onion, soon)?;
    state.world.client()?.authorize(&onion, &key, soon)?;
    let let_in = banner(state, "ada", Deadline::seconds(ONION))?;
    if !let_in.as_ref().is_ok_and(|line| line.starts_with("SSH-2.0-")) {
        findings.push(format!("with the key: {let_in:?}"));
    }
    none_of(&findings)
}

/// A file of known hosts with the key that the appliance has.
fn known_hosts(state: &mut State) -> anyhow::Result<PathBuf> {
    let key = state.resident.appliance.read("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")?;
    let file = state.folder.join("known_hosts");
    fs_err::write(&file, format!("{} {key}", state.site()?.admin))?;
    Ok(file)
}

fn ssh_login(state: &mut State) -> Verdict {
    let known = known_hosts(state)?;
    let (socket, site) = (state.folder.join("ssh"), state.site()?);
    let limit = Duration::from_secs(DIALOGUE);
    let passage = Passage::open(&socket, &site.door, |_| "ada's ssh".to_owned(), &site.admin, 22, limit)?;
    let proxy = format!("ProxyCommand=socat - UNIX-CONNECT:{}", passage.socket().display());
    let (known, key) = (format!("UserKnownHostsFile={}", known.display()), state.folder.join(KEY));
    let (key, target) = (key.display().to_string(), format!("root@{}", site.admin));
    let fixed = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"];
    let login = |options: &[&str]| -> anyhow::Result<crate::vantage::Output> {
        let mut argv = fixed.to_vec();
        argv.extend(["-o", &proxy, "-o", &known]);
        argv.extend(options);
        argv.extend([&target, "id -un; cipolla --version"]);
        state.tool(&argv, DIALOGUE)
    };
    let mut findings = Vec::new();
    let let_in = login(&["-i", &key])?;
    if !let_in.stdout.starts_with("root\ncipolla ") {
        findings.push(format!("with the key: {}{}", let_in.stdout, let_in.stderr));
    }
    for method in ["password", "keyboard-interactive"] {
        let method = format!("PreferredAuthentications={method}");
        let refused = login(&["-o", "PubkeyAuthentication=no", "-o", &method])?;
        if refused.status.success() || !refused.stderr.contains("Permission denied (publickey)") {
            findings.push(format!("with {method}: {}{}", refused.stdout, refused.stderr));
        }
    }
    none_of(&findings)
}

fn ssh_audit_clean(state: &mut State) -> Verdict {
    let onion = state.site()?.admin.clone();
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

/// Tor would take a key file that it cannot read for none, and a service without key files for a public one.
fn broken_auth_file(state: &mut State) -> Verdict {
    let files = state.resident.appliance.read(&format!("ls {AUTHORIZED}"))?;
    let [file] = files.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("the admin service has the key files {files:?}");
    };
    let path = format!("{AUTHORIZED}/{file}");
    // The watchdog would start Tor again.
    let breaking = format!(
        "systemctl stop cipolla-watch.timer cipolla-watch.service; cp -a {path} /run/kept.auth && echo broken >{path}"
    );
    state.resident.appliance.read(&breaking)?;
    let found = broken(state);
    let mending = format!(
        "cp -a /run/kept.auth {path} && rm /run/kept.auth && systemctl reset-failed tor@default.service && \
         systemctl restart tor@default.service && systemctl start cipolla-watch.timer"
    );
    state.resident.appliance.read(&mending)?;
    let findings = found?;
    let (onion, key, soon) = (state.site()?.admin.clone(), handed_over(state)?, Deadline::seconds(60));
    // All that Tor knew of the service is out of date. It forgets the keys, too.
    state.world.client()?.new_identity(soon)?;
    state.world.client()?.authorize(&onion, &key, soon)?;
    let back = banner(state, "ada again", Deadline::seconds(ONION))?;
    ensure!(
        back.is_ok(),
        "with the file mended, the service does not come back: {back:?}; before: {findings:?}"
    );
    let site = state.site()?;
    site.door.connect_when_up("ada again", &site.client, 80, Deadline::seconds(ONION))?;
    if findings.is_empty() { PASS } else { fail(findings.join("\n")) }
}

/// What is wrong while the file is broken. The lab's Tor has lost its key afterwards.
fn broken(state: &mut State) -> anyhow::Result<Vec<String>> {
    let (onion, soon) = (state.site()?.admin.clone(), Deadline::seconds(60));
    let mut findings = Vec::new();
    state.world.client()?.forget(&onion, soon)?;
    state.world.client()?.new_identity(soon)?;
    for verb in ["reload", "restart"] {
        let done = state.resident.appliance.run(&format!("systemctl {verb} tor@default.service"))?;
        if done.status.success() {
            findings.push(format!("{verb} of Tor takes a broken key file for good"));
        }
        // Long enough for a new descriptor to be published, if there were one.
        let seen = banner(state, &format!("nobody after {verb}"), Deadline::seconds(30))?;
        if seen.is_ok() {
            findings.push(format!("after {verb} everybody sees the service: {seen:?}"));
        }
    }
    Ok(findings)
}
