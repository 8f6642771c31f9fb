//! The system under the services.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::{Ground, Outcome, status};
use crate::commands::clock;
use crate::fs::{Fs, Kind};
use crate::tor_control;

/// Programs of Postfix that run in its jail (column `chroot` of master.cf).
const JAILED: [&str; 12] = [
    "smtpd",
    "cleanup",
    "pickup",
    "trivial-rewrite",
    "lmtp",
    "smtp",
    "tlsmgr",
    "bounce",
    "anvil",
    "scache",
    "showq",
    "error",
];
const JAIL: &str = "/var/spool/postfix";

fn text(fs: &dyn Fs, path: &str) -> Result<String> {
    let content = fs.read(Utf8Path::new(path))?.with_context(|| format!("{path} is missing"))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

pub(super) fn chroot(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return Ok(Outcome::skipped("this image has no mail server"));
    }
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc").context("listing processes")? {
        let path = entry.context("listing processes")?.path();
        // A process may end while it is looked at; kernel threads have no program.
        let link =
            |name: &str| std::fs::read_link(path.join(name)).ok().and_then(|p| Utf8PathBuf::try_from(p).ok());
        if let (Some(program), Some(root)) = (link("exe"), link("root")) {
            processes.push((program, root));
        }
    }
    Ok(Outcome::of(outside(&processes)))
}

/// Processes of Postfix that should be jailed and are not.
fn outside(processes: &[(Utf8PathBuf, Utf8PathBuf)]) -> Vec<String> {
    let name = |program: &Utf8PathBuf| {
        let name = program.strip_prefix("/usr/lib/postfix/sbin").ok()?.as_str();
        JAILED.contains(&name).then(|| name.to_owned())
    };
    let jailed: Vec<_> =
        processes.iter().filter_map(|(program, root)| Some((name(program)?, root))).collect();
    if jailed.is_empty() {
        return vec!["no process of Postfix runs that could be jailed".into()];
    }
    jailed
        .iter()
        .filter(|(_, root)| *root != JAIL)
        .map(|(name, root)| format!("{name} has the root {root}"))
        .collect()
}

/// Programs that judge the configuration which is in place.
const VALIDATORS: [&[&str]; 6] = [
    &["postfix", "check"],
    &["doveconf", "-n"],
    &["nft", "-c", "-f", "/etc/nftables.conf"],
    &["sshd", "-t"],
    &[
        "tor",
        "--defaults-torrc",
        "/usr/share/tor/tor-service-defaults-torrc",
        "-f",
        "/etc/tor/torrc",
        "--verify-config",
    ],
    &["nginx", "-t", "-q"],
];

pub(super) fn validators(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for argv in VALIDATORS.iter().filter(|argv| ground.machine.programs.has(argv[0])) {
        let ran = ground.machine.programs.run(argv)?;
        if !ran.success {
            // Tor complains on standard output, at the end of what it tells.
            let said = if ran.stderr.trim().is_empty() { &ran.stdout } else { &ran.stderr };
            let last: Vec<_> = said.trim().lines().rev().take(2).collect();
            wrong.push(format!("{}: {}", argv[0], last.into_iter().rev().collect::<Vec<_>>().join(" ")));
        }
    }
    Ok(Outcome::of(wrong))
}

pub(super) fn ssh(ground: &Ground<'_, '_>) -> Result<Outcome> {
    Ok(Outcome::of(weak_ssh(&ground.ask(&["sshd", "-T"])?)))
}

/// Ways to log in without a key, in the answer to `sshd -T`.
fn weak_ssh(answer: &str) -> Vec<String> {
    let options: BTreeMap<_, _> = answer.lines().filter_map(|line| line.split_once(' ')).collect();
    let wanted: [(&str, &[&str]); 4] = [
        ("passwordauthentication", &["no"]),
        ("kbdinteractiveauthentication", &["no"]),
        ("permitemptypasswords", &["no"]),
        ("permitrootlogin", &["without-password", "prohibit-password", "no"]),
    ];
    let is_good = |name: &str, good: &[&str]| options.get(name).is_some_and(|value| good.contains(value));
    wanted
        .iter()
        .filter(|(name, good)| !is_good(name, good))
        .map(|(name, good)| format!("{name} is not {}", good[0]))
        .collect()
}

pub(super) fn root_read_only(ground: &Ground<'_, '_>) -> Result<Outcome> {
    Ok(Outcome::of(writable_mounts(&text(ground.machine.fs, "/proc/self/mounts")?)))
}

/// Whether the root can be written, or a set-user program can lie where it can (`proc_mounts(5)`).
fn writable_mounts(mounts: &str) -> Vec<String> {
    // The last mount on a place is the one that counts.
    let options = |place: &str| {
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields
            .filter(|fields| fields.get(1) == Some(&place))
            .filter_map(|f| f.get(3).map(|o| (*o).to_owned()))
            .next_back()
    };
    let has = |options: &str, wanted: &str| options.split(',').any(|option| option == wanted);
    let mut wrong = Vec::new();
    if !options("/").is_some_and(|found| has(&found, "ro")) {
        wrong.push("the root file system can be written".into());
    }
    for place in ["/data", "/var", "/home", "/root"] {
        if let Some(found) = options(place)
            && !has(&found, "nosuid")
        {
            wrong.push(format!("{place} lets set-user programs run"));
        }
    }
    wrong
}

pub(super) fn drift(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let drift = status(ground)?.drift;
    Ok(Outcome::of(drift.iter().map(|path| format!("{path} was changed by hand")).collect()))
}

/// Programs that run with other rights than those of who starts them, and their modes.
const SETUID: [(&str, u32); 15] = [
    ("/usr/bin/chage", 0o2755),
    ("/usr/bin/chfn", 0o4755),
    ("/usr/bin/chsh", 0o4755),
    ("/usr/bin/expiry", 0o2755),
    ("/usr/bin/gpasswd", 0o4755),
    ("/usr/bin/mount", 0o4755),
    ("/usr/bin/passwd", 0o4755),
    ("/usr/bin/ssh-agent", 0o2755),
    ("/usr/bin/su", 0o4755),
    ("/usr/bin/umount", 0o4755),
    ("/usr/lib/dbus-1.0/dbus-daemon-launch-helper", 0o4754),
    ("/usr/lib/openssh/ssh-keysign", 0o4755),
    ("/usr/sbin/postdrop", 0o2555),
    ("/usr/sbin/postqueue", 0o2555),
    ("/usr/sbin/unix_chkpwd", 0o2755),
];

pub(super) fn setuid(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut wrong = Vec::new();
    let mut folders = vec![Utf8PathBuf::from("/usr")];
    while let Some(folder) = folders.pop() {
        for name in ground.machine.fs.list(&folder)? {
            let path = folder.join(name);
            match ground.machine.fs.entry(&path)? {
                Some(entry) if entry.kind == Kind::Directory => folders.push(path),
                Some(entry) if entry.kind == Kind::File && entry.mode & 0o6000 != 0 => {
                    wrong.extend(foreign_setuid(&path, entry.mode));
                }
                _ => {}
            }
        }
    }
    Ok(Outcome::of(wrong))
}

fn foreign_setuid(path: &Utf8Path, mode: u32) -> Option<String> {
    let known = SETUID.iter().any(|(name, bits)| path == *name && mode == *bits);
    (!known).then(|| format!("{path} has mode {mode:o}"))
}

pub(super) fn sysctls(ground: &Ground<'_, '_>) -> Result<Outcome> {
    const WANTED: &str = "/usr/lib/sysctl.d/50-cipolla.conf";
    let fs = ground.machine.fs;
    let mut wrong = Vec::new();
    for (key, wanted) in settings(&text(fs, WANTED)?) {
        // A kernel that does not know a key cannot do what the key forbids.
        let path = Utf8Path::new("/proc/sys").join(key.replace('.', "/"));
        let Some(found) = fs.read(&path)? else { continue };
        let found = String::from_utf8_lossy(&found).split_whitespace().collect::<Vec<_>>().join(" ");
        if found != wanted {
            wrong.push(format!("{key} is {found}, not {wanted}"));
        }
    }
    Ok(Outcome::of(wrong))
}

/// Keys and values of a file for sysctl.d(5).
fn settings(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().into(), value.trim().into()))
        .collect()
}

pub(super) fn apparmor(_ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut labels = Vec::new();
    for entry in std::fs::read_dir("/proc").context("listing processes")? {
        let path = entry.context("listing processes")?.path();
        // A process may end while it is looked at.
        labels.extend(std::fs::read_to_string(path.join("attr/apparmor/current")));
    }
    Ok(Outcome::of(not_enforced(&labels)))
}

/// What is wrong with the profiles under which processes run, such as `system_tor (enforce)` or `unconfined`. Profiles of
/// programs that do not run are not looked at: Debian ships many for programs that are not even installed.
fn not_enforced(labels: &[String]) -> Vec<String> {
    if labels.is_empty() {
        return vec!["AppArmor is not active".into()];
    }
    let modes = labels.iter().filter_map(|label| label.trim().rsplit_once(' '));
    let complaining = modes.filter(|(_, mode)| *mode == "(complain)");
    let mut wrong: Vec<_> = complaining.map(|(name, _)| format!("{name} only complains")).collect();
    if !labels.iter().any(|label| label.trim() == "system_tor (enforce)") {
        wrong.push("Tor does not run under system_tor, enforced".into());
    }
    wrong
}

/// Services that strangers' bytes reach, and what watches them.
const EXPOSED: [(&str, &str); 7] = [
    ("tor", "tor@default.service"),
    ("postfix", "postfix.service"),
    ("doveadm", "dovecot.service"),
    ("rspamd", "rspamd.service"),
    ("nginx", "nginx.service"),
    ("php-fpm8.4", "php8.4-fpm.service"),
    ("fail2ban-client", "fail2ban.service"),
];
/// The exposure at which systemd-analyze(1) begins to say more than "OK", of 10.
const BUDGET: f64 = 3.0;

pub(super) fn exposure(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for (_, unit) in EXPOSED.iter().filter(|(program, _)| ground.machine.programs.has(program)) {
        wrong.extend(exposed(unit, &ground.ask(&["systemd-analyze", "security", "--no-pager", unit])?));
    }
    Ok(Outcome::of(wrong))
}

/// What is wrong with a unit, by the last line of what systemd-analyze(1) says:
/// `→ Overall exposure level for x.service: 2.8 OK`.
fn exposed(unit: &str, said: &str) -> Option<String> {
    let last = said.trim().lines().next_back().unwrap_or_default();
    match last.split_whitespace().find_map(|word| word.parse::<f64>().ok()) {
        Some(level) if level < BUDGET => None,
        Some(level) => Some(format!("{unit} has an exposure of {level}")),
        None => Some(format!("{unit} has no exposure: {last}")),
    }
}

pub(super) fn swap(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let swaps = text(ground.machine.fs, "/proc/swaps")?;
    Ok(Outcome::of(
        swaps.lines().skip(1).map(|line| format!("secrets may be swapped out to {line}")).collect(),
    ))
}

pub(super) fn units(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let failed = ground.ask(&["systemctl", "--failed", "--no-legend", "--plain"])?;
    let names = failed.lines().filter_map(|line| line.split_whitespace().next());
    Ok(Outcome::of(names.map(|name| format!("{name} failed; see: journalctl -b -u {name}")).collect()))
}

pub(super) fn integrity(ground: &Ground<'_, '_>) -> Result<Outcome> {
    /// The timer makes the record within this time of the start, in seconds.
    const MADE: f64 = 2.0 * 3600.0;
    let fs = ground.machine.fs;
    if fs.entry(Utf8Path::new("/var/lib/aide/aide.db"))?.is_some() {
        return Ok(Outcome::Passed);
    }
    let uptime = text(fs, "/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().unwrap_or_default().parse().context("reading /proc/uptime")?;
    if uptime < MADE {
        return Ok(Outcome::skipped("the record is made within two hours of the first start"));
    }
    Ok(Outcome::Failed(vec!["there is no record; see: systemctl status cipolla-integrity".into()]))
}

pub(super) fn tor(_ground: &Ground<'_, '_>) -> Result<Outcome> {
    let tor = tor_control::standing()?;
    let wrong = match (tor.is_connected(), tor.percent) {
        (true, _) => Vec::new(),
        (false, 100) => vec!["Tor has no circuit any more".to_owned()],
        (false, percent) => vec![format!("Tor is at {percent} %")],
    };
    Ok(Outcome::of(wrong))
}

pub(super) fn clock(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let verdict = clock::look(ground.machine)?;
    if verdict == clock::Verdict::Unknown {
        return Ok(Outcome::skipped("Tor has not heard how late it is"));
    }
    Ok(Outcome::of(verdict.complaint(ground.machine).into_iter().collect()))
}

pub(super) fn entropy(ground: &Ground<'_, '_>) -> Result<Outcome> {
    // Since Linux 5.18 the pool counts 256 bits once it was seeded, and never fewer again.
    let bits: u32 = text(ground.machine.fs, "/proc/sys/kernel/random/entropy_avail")?.trim().parse()?;
    Ok(Outcome::of(if bits >= 256 { Vec::new() } else { vec![format!("the kernel has {bits} bits of 256")] }))
}

pub(super) fn disk(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let Some(space) = ground.machine.fs.space(Utf8Path::new("/var"))? else {
        return Ok(Outcome::Failed(vec!["/var is missing".into()]));
    };
    let percent = space.free * 100 / space.total.max(1);
    Ok(Outcome::of(if percent >= 10 { Vec::new() } else { vec![format!("{percent} % are free")] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_outside_of_the_jail_is_named() {
        let process = |program: &str, root: &str| (Utf8PathBuf::from(program), Utf8PathBuf::from(root));
        let jailed = process("/usr/lib/postfix/sbin/pickup", JAIL);
        let others = [process("/usr/lib/postfix/sbin/qmgr", "/"), process("/usr/lib/dovecot/lmtp", "/")];
        let good = [&others[..], &[jailed]].concat();
        assert!(outside(&good).is_empty());
        let bad = [&good[..], &[process("/usr/lib/postfix/sbin/smtpd", "/")]].concat();
        assert_eq!(outside(&bad), ["smtpd has the root /"]);
        assert_eq!(outside(&others).len(), 1, "nothing to look at is no pass");
    }

    #[test]
    fn only_keys_open_ssh() {
        let good = "port 22\npasswordauthentication no\nkbdinteractiveauthentication no\npermitemptypasswords no\n\
                    permitrootlogin without-password\n";
        assert!(weak_ssh(good).is_empty());
        let bad = good.replace("passwordauthentication no", "passwordauthentication yes");
        assert_eq!(weak_ssh(&bad), ["passwordauthentication is not no"]);
        assert_eq!(weak_ssh("").len(), 4);
    }

    #[test]
    fn the_root_is_read_only_and_data_runs_no_set_user_programs() {
        let good = "/dev/vda3 / erofs ro,relatime 0 0\n/dev/vda4 /data ext4 rw,nosuid,nodev 0 0\n\
                    /dev/vda4 /var ext4 rw,nosuid,nodev 0 0\n";
        assert!(writable_mounts(good).is_empty());
        let wrong =
            writable_mounts("/dev/vda3 / ext4 rw,errors=remount-ro 0 0\n/dev/vda4 /var ext4 rw 0 0\n");
        assert_eq!(wrong, ["the root file system can be written", "/var lets set-user programs run"]);
    }

    #[test]
    fn an_unknown_set_user_program_is_named() {
        assert_eq!(foreign_setuid(Utf8Path::new("/usr/bin/su"), 0o4755), None);
        assert!(foreign_setuid(Utf8Path::new("/usr/bin/su"), 0o6755).is_some());
        assert!(foreign_setuid(Utf8Path::new("/usr/bin/pkexec"), 0o4755).is_some());
    }

    #[test]
    fn sysctl_files_are_read() {
        let found = settings("# why\nkernel.sysrq = 0\n; no\n\nkernel.core_pattern = |/bin/false\n");
        assert_eq!(found[0], ("kernel.sysrq".into(), "0".into()));
        assert_eq!(found[1], ("kernel.core_pattern".into(), "|/bin/false".into()));
    }

    #[test]
    fn exposure_is_on_the_last_line() {
        let said =
            |level: &str| format!("  NAME  EXPOSURE\n\n→ Overall exposure level for x.service: {level} OK\n");
        assert_eq!(exposed("x.service", &said("2.9")), None);
        assert_eq!(exposed("x.service", &said("9.6")).unwrap(), "x.service has an exposure of 9.6");
        assert!(exposed("x.service", "").is_some());
    }

    #[test]
    fn profiles_are_enforced() {
        let labels = |labels: &[&str]| labels.iter().map(|label| format!("{label}\n")).collect::<Vec<_>>();
        assert!(not_enforced(&labels(&["unconfined", "system_tor (enforce)"])).is_empty());
        assert_eq!(not_enforced(&labels(&["system_tor (complain)"])).len(), 2);
        assert_eq!(not_enforced(&[]), ["AppArmor is not active"]);
    }
}
