//! SSH behind the admin service. Who sees the service at all is the subject of `attack`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clients::Passage;
use qemu::Deadline;

use super::State;
use super::forward::Forward;
use crate::Context;
use crate::check::{Check, Verdict, check, none_of};
use crate::site::{DIALOGUE, ONION};
use crate::vantage::{ssh_audit, words};

/// The owner's private key, in the scenario's folder.
const KEY: &str = "id_ed25519";

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("ssh_login_with_the_settings_key", &["R3"], ssh_login),
        check("ssh_audit_clean", &["R3", "R53"], ssh_audit_clean),
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

/// A file of known hosts with the key that the appliance has.
fn known_hosts(state: &mut State) -> anyhow::Result<PathBuf> {
    let key = state.resident.appliance.read("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")?;
    let file = state.folder.join("known_hosts");
    fs_err::write(&file, format!("{} {key}", state.site()?.admin))?;
    Ok(file)
}

fn ssh_login(state: &mut State) -> Verdict {
    let known = known_hosts(state)?;
    let (onion, key) = (state.site()?.admin.clone(), state.site()?.admin_key);
    state.world.client()?.authorize(&onion, &key, Deadline::seconds(60))?;
    let (socket, site) = (state.folder.join("ssh"), state.site()?);
    site.door.connect_when_up("ada's ssh", &onion, 22, Deadline::seconds(ONION))?;
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
