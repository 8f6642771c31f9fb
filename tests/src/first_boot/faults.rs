//! Faults while the appliance runs: configuration that its programs refuse, and a disk that is full.

use anyhow::Context as _;

use super::{State, keys};
use crate::check::{Verdict, fail, none_of};

/// Each file that has a validator, and the program that must refuse it.
const VALIDATED: [(&str, &str); 8] = [
    ("/etc/nftables.conf", "nft"),
    ("/etc/tor/torrc", "tor"),
    ("/etc/ssh/sshd_config.d/50-cipolla.conf", "sshd"),
    ("/etc/postfix/main.cf", "postconf"),
    ("/etc/dovecot/dovecot.conf", "doveconf"),
    ("/etc/rspamd/rspamd.conf", "rspamadm"),
    ("/etc/nginx/nginx.conf", "nginx"),
    ("/etc/roundcube/config.inc.php", "php"),
];

/// A line that none of these programs can read, in no way an expression of the templates' own language.
const NONSENSE: &str = "cipolla_nonsense ( [";

const TEMPLATES: &str = "/usr/share/cipolla/templates";

/// With broken templates, as a broken update might bring them, every program refuses its file, the agent says so
/// and leaves what was there.
pub(super) fn refused(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let paths: Vec<_> = VALIDATED.iter().map(|(path, _)| *path).collect();
    let sums = format!("sha256sum {}", paths.join(" "));
    let before = appliance.read(&sums)?;
    let mut script = "mkdir -p /run/cipolla-test\n".to_owned();
    for (number, path) in paths.iter().enumerate() {
        let (template, copy) = (format!("{TEMPLATES}{path}.j2"), format!("/run/cipolla-test/{number}.j2"));
        script +=
            &format!("{{ cat {template}; echo '{NONSENSE}'; }} >{copy} && mount --bind {copy} {template}\n");
    }
    script += "cipolla boot; status=$?\n";
    for path in &paths {
        script += &format!("umount {TEMPLATES}{path}.j2\n");
    }
    let output = appliance.run(&format!("{script}exit $status"))?;
    let mut findings = Vec::new();
    if !output.status.success() {
        findings.push(format!("cipolla boot: {}: {}", output.status, output.stderr.trim()));
    }
    for (path, program) in VALIDATED {
        let words = format!("{path} was refused, so the previous one stays: {program} refuses it:");
        if !output.stdout.contains(&words) {
            findings.push(format!("{program} did not refuse a nonsensical {path}"));
        }
    }
    if appliance.read(&sums)? != before {
        findings.push("a refused file took the place of the good one".to_owned());
    }
    let after = appliance.read("cipolla boot")?;
    if after.trim() != "nothing to do" {
        findings.push(format!("with good templates again, the agent wants to {}", after.trim()));
    }
    if !findings.is_empty() {
        findings.push(format!("it said:\n{}", output.stdout.trim()));
    }
    none_of(&findings)
}

/// Fills the data partition to the last block, root's reserve too, then takes a file away that the agent can
/// derive again, and fills what that gave back.
const FILL: &str = "cd /data
fallocate -l $(df -B1 --output=avail /data | tail -n1) fill-1 2>/dev/null
cat /dev/zero >fill-2 2>/dev/null
rm /var/lib/tor/mx/hostname
cat /dev/zero >fill-3 2>/dev/null
df -B1 --output=avail /data | tail -n1";

/// A disk without room: the start fails, names the file and the reason, and loses nothing; with room again it
/// completes.
pub(super) fn disk_full(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let before = keys::identity(appliance)?;
    let left = appliance.read(FILL)?;
    let output = appliance.run("cipolla boot");
    // Whatever that showed, the machine is wanted afterwards.
    appliance.read("rm -f /data/fill-1 /data/fill-2 /data/fill-3 && sync")?;
    let output = output?;
    if left.trim() != "0" {
        return fail(format!("the disk was not full: {} bytes were left", left.trim()));
    }
    let mut findings = Vec::new();
    if output.status.success() {
        findings.push(format!("with a full disk the start succeeded: {}", output.stdout.trim()));
    }
    for word in ["/var/lib/tor/mx/hostname", "the disk it lies on is full", "No space left on device"] {
        if !output.stderr.contains(word) {
            findings.push(format!("the message does not say {word:?}: {}", output.stderr.trim()));
        }
    }
    let told = appliance.read("cipolla boot").context("starting with room again")?;
    if !told.contains("derive the address of the onion service mx: done") {
        findings.push(format!("with room again the agent said: {}", told.trim()));
    }
    let now = keys::identity(appliance)?;
    for (path, sum) in &before {
        if now.get(path) != Some(sum) {
            findings.push(format!("{path} is another one, or gone"));
        }
    }
    none_of(&findings)
}
