//! What this machine lacks for building and testing images, all at once, each with the command that mends it.
//!
//! Little is asked of the host: Debian's package tools, util-linux, the archive keys, and for an ordinary user
//! subordinate ids and user namespaces. Everything else comes from the tools trees.

use std::process::Command;

use anyhow::{Result, bail};
use camino::Utf8Path;
use rustix::process::geteuid;
use serde::Serialize;

use crate::exec::{Cmd, Log, quote};
use crate::solve::KEYRING;
use crate::store::Cache;

/// Bytes that a first build and its tests leave in the cache and in `target`, with some air.
const DISK: u64 = 12 << 30;
/// A bootstrap keeps its tree in memory.
const MEMORY: u64 = 3 << 30;

/// One thing that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, and what needs it.
    pub problem: String,
    /// The command that mends it; empty when only a person can.
    pub fix: Vec<String>,
    /// Whether the command needs root.
    pub root: bool,
    /// What a person can do when there is no command.
    pub advice: String,
}

impl Finding {
    fn by_hand(problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { problem: problem.into(), fix: vec![], root: false, advice: advice.into() }
    }

    fn command(problem: impl Into<String>, fix: &[&str], root: bool) -> Self {
        let fix = fix.iter().map(|w| (*w).to_owned()).collect();
        Finding { problem: problem.into(), fix, root, advice: String::new() }
    }

    /// The command as a line to paste, with `sudo` where it is needed.
    pub fn line(&self) -> String {
        let words: Vec<String> = self.fix.iter().map(|w| quote(w)).collect();
        let sudo = if self.root && !geteuid().is_root() { "sudo " } else { "" };
        format!("{sudo}{}", words.join(" "))
    }
}

/// A program and the Debian package it is in.
const PROGRAMS: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("git", "git"),
];
/// Programs that only an ordinary user needs.
const USER_PROGRAMS: &[(&str, &str)] = &[("newuidmap", "uidmap"), ("newgidmap", "uidmap")];

/// Programs that only tests need; subordinate ids also as root, who builds as an ordinary user to compare.
const CHECK_PROGRAMS: &[(&str, &str)] =
    &[("shellcheck", "shellcheck"), ("openssl", "openssl"), ("perl", "perl"), ("newuidmap", "uidmap")];

/// Looks at everything. `checks` asks also for what `make check` needs.
///
/// # Errors
/// The cache folder cannot be asked for its free space.
pub fn examine(cache: &Cache, checks: bool) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let root = geteuid().is_root();
    let mut packages: Vec<&str> = Vec::new();
    let mut programs: Vec<&str> = Vec::new();
    let wanted = PROGRAMS.iter().chain(if root { &[][..] } else { USER_PROGRAMS }).chain(if checks {
        CHECK_PROGRAMS
    } else {
        &[][..]
    });
    for (program, package) in wanted {
        if !in_path(program) {
            programs.push(program);
            packages.push(package);
        }
    }
    if !Utf8Path::new(KEYRING).exists() {
        programs.push("Debian's archive keys");
        packages.push("debian-archive-keyring");
    }
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        let mut fix = vec!["apt-get", "install", "--yes", "--no-install-recommends"];
        fix.extend(&packages);
        findings.push(Finding::command(
            format!("missing: {}", programs.join(", ")),
            &["apt-get", "update"],
            true,
        ));
        findings.push(Finding::command(format!("missing: {}", programs.join(", ")), &fix, true));
    }
    if checks && !in_path("cargo-deny") {
        findings.push(Finding::command(
            "missing: cargo-deny, which checks licences and sources of our dependencies",
            // Without optimisation: it runs for seconds, and compiling it is what takes minutes.
            &["cargo", "install", "--locked", "--quiet", "--debug", "cargo-deny"],
            false,
        ));
    }
    if !root && programs.is_empty() {
        findings.extend(subordinate_ids());
    }
    if in_path("unshare") && (root || in_path("newuidmap")) {
        findings.extend(namespaces(root));
    }
    if checks {
        findings.extend(tun());
    }
    let free = rustix::fs::statvfs(cache.root().as_std_path())?;
    let free = free.f_bavail * free.f_frsize;
    if free < DISK && !cache.root().join("store").exists() {
        findings.push(Finding::by_hand(
            format!(
                "{} has {} GB free; a first build and its tests want {}",
                cache.root(),
                free >> 30,
                DISK >> 30
            ),
            "make room, or set CIPOLLA_CACHE to a folder on another disk",
        ));
    }
    if let Some(memory) = memory()
        && memory < MEMORY
    {
        findings.push(Finding::by_hand(
            format!("{} MB of memory; a bootstrap wants {}", memory >> 20, MEMORY >> 20),
            "build on a larger machine, or add swap",
        ));
    }
    Ok(findings)
}

/// Runs the fixes, in order, and examines again.
///
/// # Errors
/// A fix failed, or something is left that only a person can mend.
pub fn fix(findings: &[Finding], cache: &Cache, checks: bool, log: &Log, tell: &dyn Fn(&str)) -> Result<()> {
    for finding in findings.iter().filter(|f| !f.fix.is_empty()) {
        tell(&finding.line());
        let mut words = finding.fix.clone();
        if finding.root && !geteuid().is_root() {
            if !in_path("sudo") {
                bail!("{}; run as root: {}", finding.problem, finding.line());
            }
            words.insert(0, "sudo".into());
        }
        Cmd::new(&words[0]).args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive").run_attached(log)?;
    }
    let left = examine(cache, checks)?;
    if !left.is_empty() {
        let lines: Vec<String> =
            left.iter().map(|f| format!("{}; {}{}", f.problem, f.line(), f.advice)).collect();
        bail!("still lacking:\n  {}", lines.join("\n  "));
    }
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin"].map(std::path::PathBuf::from);
    let found = std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).is_file());
    found || (program == "cargo-deny" && home_cargo_bin(program))
}

fn home_cargo_bin(program: &str) -> bool {
    std::env::var_os("HOME")
        .is_some_and(|home| std::path::Path::new(&home).join(".cargo/bin").join(program).is_file())
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let value = |name: &str| -> Option<u64> {
        let line = text.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some(value("MemTotal:")? + value("SwapTotal:").unwrap_or(0))
}

/// The device that a lab's machines get their network cards from. Debian leaves it open to every user.
fn tun() -> Option<Finding> {
    const TUN: &str = "/dev/net/tun";
    let problem = |why: &str| format!("{TUN} {why}; the machines of a test network need it");
    match std::fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Some(Finding::command(problem("is closed to this user"), &["chmod", "0666", TUN], true))
        }
        Err(error) => Some(Finding::command(problem(&error.to_string()), &["modprobe", "tun"], true)),
    }
}

fn subordinate_ids() -> Option<Finding> {
    let user = user_name()?;
    let uid = geteuid().as_raw().to_string();
    let enough = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            matches!(fields.as_slice(), [who, _, count] if (*who == user || *who == uid)
                && count.parse::<u64>().is_ok_and(|c| c >= 65536))
        })
    };
    if enough("/etc/subuid") && enough("/etc/subgid") {
        return None;
    }
    Some(Finding::command(
        format!(
            "{user} has no 65536 subordinate ids in /etc/subuid and /etc/subgid, for the owners in the image"
        ),
        &["usermod", "--add-subuids", "524288-589823", "--add-subgids", "524288-589823", &user],
        true,
    ))
}

fn user_name() -> Option<String> {
    let uid = geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2) == Some(&uid.as_str())).then(|| fields[0].to_owned())
    })
}

/// Makes a namespace as a build would, and sees.
fn namespaces(root: bool) -> Option<Finding> {
    let mut command = Command::new("unshare");
    if !root {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--net", "--", "true"]);
    let output = command.output().ok()?;
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let problem = format!("the kernel refuses the namespaces that a build runs in: {said}");
    for (knob, wanted) in [
        ("kernel.unprivileged_userns_clone", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "0"),
        ("user.max_user_namespaces", "15000"),
    ] {
        let file = format!("/proc/sys/{}", knob.replace('.', "/"));
        let now = std::fs::read_to_string(file).unwrap_or_else(|_| wanted.into());
        let off = if knob.starts_with("user.") { now.trim() == "0" } else { now.trim() != wanted };
        if off && !root {
            return Some(Finding::command(problem, &["sysctl", "-w", &format!("{knob}={wanted}")], true));
        }
    }
    Some(Finding::by_hand(
        problem,
        "in a container, allow user and mount namespaces, or build on the machine itself",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_can_be_pasted() {
        let finding = Finding::command("x", &["apt-get", "install", "uid map"], false);
        assert_eq!(finding.line(), "apt-get install 'uid map'");
    }

    #[test]
    fn what_every_machine_has_is_found() {
        assert!(in_path("sh") && !in_path("no-such-program-anywhere"));
        assert!(memory().unwrap() > 1 << 20);
    }
}
