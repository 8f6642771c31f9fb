//! What makes this appliance different from every other one, and that it stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::{State, disk, first};
use crate::appliance::Appliance;
use crate::check::{PASS, Verdict, fail, none_of};
use crate::image::{LONG_WORD, NAME_PLACES};
use crate::left::checksums;

/// Where each file under `/data` and `/etc` may change from boot to boot, and why.
const CHANGING: &[(&str, &str)] = &[
    ("/data/var/log/", "logs"),
    ("/data/var/lib/systemd/random-seed", "made anew on every boot by design"),
    ("/data/var/lib/systemd/timers/", "when timers last ran"),
    ("/data/var/lib/systemd/timesync/clock", "the time of the last boot"),
    ("/data/var/lib/logrotate/", "when logs were last rotated"),
    ("/data/var/lib/private/systemd/", "state of systemd's own dynamic users"),
    ("/data/var/cache/", "caches"),
    ("/data/var/lib/dovecot/instances", "when Dovecot last started"),
    ("/data/var/lib/postfix/master.lock", "the number of Postfix's process"),
    ("/data/var/spool/postfix/pid/", "the number of Postfix's process"),
    ("/data/var/lib/rspamd/", "rspamd's compiled patterns and counters"),
    ("/data/var/lib/tor/state", "what Tor learns of the network"),
    ("/data/var/lib/tor/cached", "what Tor learns of the network"),
    ("/data/var/tmp/", "temporary files"),
    ("/data/etc/work/", "the overlay's own scratch folder"),
    ("/data/etc/upper/.updated", "systemd's mark that /etc was looked at"),
    ("/data/var/.updated", "systemd's mark that /var was looked at"),
];

/// What is remembered of a boot.
pub(super) struct Snapshot {
    machine_id: String,
    host_keys: String,
    /// Path to checksum.
    pub(super) files: BTreeMap<String, String>,
    pub(super) table: String,
}

/// Prints every host key, or why there is none.
const HOST_KEYS: &str =
    "cd /etc/ssh && for key in ssh_host_*_key.pub; do ssh-keygen -lf \"$key\" 2>&1; done; true";

impl Snapshot {
    pub(super) fn take(appliance: &mut Appliance) -> anyhow::Result<Self> {
        let script = "find /data -xdev -type f -exec sha256sum {} +";
        let files = checksums(&appliance.read(script)?);
        Ok(Self {
            machine_id: appliance.read("cat /etc/machine-id")?,
            host_keys: appliance.read(HOST_KEYS)?,
            files,
            table: appliance.read(disk::TABLE)?,
        })
    }
}

pub(super) fn machine_id_is_made(state: &mut State) -> Verdict {
    let id = state.appliance.read("cat /etc/machine-id")?;
    let id = id.trim();
    let good =
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0');
    if !good {
        return fail(format!("/etc/machine-id holds {id:?}"));
    }
    // Read by programs that keep it for longer than a file would last on a temporary file system.
    let kept = state.appliance.read("findmnt --noheadings --output TARGET --target /etc/machine-id")?;
    if kept.trim() == "/etc" {
        PASS
    } else {
        fail(format!("/etc/machine-id is only mounted: {}", kept.trim()))
    }
}

pub(super) fn ssh_host_key_is_made(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let keys = state.appliance.read("ls /etc/ssh | grep '^ssh_host_'; true")?;
    if keys.split_whitespace().ne(["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]) {
        return fail(format!("host keys in /etc/ssh: {}", keys.replace('\n', " ")));
    }
    let mode = state.appliance.read("stat -c '%a %U:%G' /etc/ssh/ssh_host_ed25519_key")?;
    if mode.trim() != "600 root:root" {
        findings.push(format!("the host key is {}", mode.trim()));
    }
    let derived = "ssh-keygen -yf /etc/ssh/ssh_host_ed25519_key | cut -d' ' -f1,2";
    let public = "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub";
    if state.appliance.read(derived)? != state.appliance.read(public)? {
        findings.push("the public host key does not belong to the private one".to_owned());
    }
    none_of(&findings)
}

/// Nothing of the computer that built the image or runs the test: not its names, not its identity.
pub(super) fn no_host_identity(state: &mut State) -> Verdict {
    let mut words: BTreeMap<String, String> = state.ctx.forbidden.clone();
    if let Ok(id) = fs_err::read_to_string("/etc/machine-id")
        && !id.trim().is_empty()
    {
        words.insert("this computer's machine-id".to_owned(), id.trim().to_owned());
    }
    let mut findings = Vec::new();
    for (what, word) in words.iter().filter(|(_, word)| !word.is_empty()) {
        let word = word.replace('\'', "");
        let places = if word.len() >= LONG_WORD {
            "/etc /data /run/systemd /proc/cmdline".to_owned()
        } else {
            NAME_PLACES.iter().map(|place| format!("/{place} ")).collect()
        };
        let script = format!("grep -rsIlwF --exclude-dir=log -e '{word}' {places}");
        let output = state.appliance.run(&script)?;
        findings.extend(output.stdout.lines().map(|file| format!("{what} ({word:?}) is in {file}")));
    }
    let name = state.appliance.read("uname -n")?;
    if words.values().any(|word| word == name.trim()) {
        findings.push(format!("the appliance is named {}", name.trim()));
    }
    none_of(&findings)
}

/// What the agent still wants to do now that it has run, if anything.
fn plans(state: &mut State) -> anyhow::Result<Option<String>> {
    let plan = state.appliance.run("cipolla boot --dry-run")?;
    let nothing = plan.status.success() && plan.stdout.trim() == "nothing to do";
    Ok((!nothing).then(|| format!("cipolla boot --dry-run: {}\n{}{}", plan.status, plan.stdout, plan.stderr)))
}

pub(super) fn boot_plans_nothing(state: &mut State) -> Verdict {
    plans(state)?.map_or(PASS, fail)
}

pub(super) fn second_boot_is_quiet(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    findings.extend(plans(state)?);
    let said = state.appliance.read("journalctl -b -u cipolla-boot.service -t cipolla -o cat --no-pager")?;
    if said.lines().ne(["nothing to do"]) {
        findings.push(format!("cipolla boot said on the second boot: {}", said.trim()));
    }
    let now = Snapshot::take(&mut state.appliance)?.files;
    findings.extend(differences(&first(state)?.files, &now));
    none_of(&findings)
}

/// Which files came, went or changed, except those that may.
fn differences(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let paths: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let stays = |path: &&&String| !CHANGING.iter().any(|(prefix, _)| path.starts_with(prefix));
    let different = paths.iter().filter(stays).filter_map(|path| match (before.get(*path), now.get(*path)) {
        (Some(one), Some(two)) if one == two => None,
        (Some(_), Some(_)) => Some(format!("{path} changed")),
        (None, _) => Some(format!("{path} is new")),
        (_, None) => Some(format!("{path} is gone")),
    });
    different.collect()
}

pub(super) fn identity_survives_reboot(state: &mut State) -> Verdict {
    let machine_id = state.appliance.read("cat /etc/machine-id")?;
    let host_keys = state.appliance.read(HOST_KEYS)?;
    let first = first(state)?;
    let mut findings = Vec::new();
    if machine_id != first.machine_id {
        findings.push(format!("machine-id was {} and is {}", first.machine_id.trim(), machine_id.trim()));
    }
    if host_keys != first.host_keys {
        findings.push(format!("host keys were\n{}and are\n{host_keys}", first.host_keys));
    }
    none_of(&findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_change_may_change() {
        let files = |list: &[(&str, &str)]| {
            list.iter().map(|(path, sum)| ((*path).to_owned(), (*sum).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let before = files(&[("/data/a", "1"), ("/data/b", "1"), ("/data/var/log/x", "1"), ("/data/c", "1")]);
        let now = files(&[("/data/a", "1"), ("/data/b", "2"), ("/data/var/log/x", "2"), ("/data/d", "1")]);
        let want = ["/data/b changed", "/data/c is gone", "/data/d is new"];
        assert_eq!(differences(&before, &now), want);
    }
}
