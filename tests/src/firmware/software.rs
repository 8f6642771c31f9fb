//! The installed packages of a booted appliance.

use std::collections::BTreeMap;

use super::State;
use crate::check::{PASS, Verdict, fail, none_of};
use crate::image::Manifest;

/// What the image leaves out of packages on purpose, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("/boot/", "the kernel lies in the slot's folder on the boot partition"),
    ("/usr/share/doc/", "documentation; licences stay"),
    ("/usr/share/man/", "manual pages"),
    ("/usr/share/info/", "manuals"),
    ("/usr/share/locale/", "translations"),
    ("/usr/share/lintian/", "for package checkers"),
    ("/usr/share/bug/", "for bug reports from Debian's own tool"),
    ("/usr/lib/python3/dist-packages/fail2ban/tests/", "tests with keys in them"),
    ("/usr/share/perl/", "the full Perl; perl-base stays"),
    ("/usr/lib/x86_64-linux-gnu/perl/", "the full Perl; perl-base stays"),
    ("/usr/lib/x86_64-linux-gnu/libperl.so", "the full Perl; perl-base stays"),
    ("/usr/share/rspamd/www/", "a web page that nobody serves"),
];

/// Folders below a kernel's modules that are left out.
const NO_DRIVERS: &[(&str, &str)] = &[
    ("/kernel/sound/", "a mail server makes no sound"),
    ("/kernel/drivers/media/", "cameras and television"),
    ("/kernel/drivers/gpu/drm/", "accelerated graphics; the console needs none"),
];

/// What the image replaces in packages on purpose, and why.
const REPLACED: &[(&str, &str)] =
    &[("/usr/lib/os-release", "names the image and its version (os-release(5))")];

pub(super) fn dpkg_database_usable(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let place = state.appliance.read("readlink -f /var/lib/dpkg")?;
    if place.trim() != "/usr/lib/sysimage/dpkg" {
        findings.push(format!("/var/lib/dpkg is {}, so it does not belong to the slot", place.trim()));
    }
    let list = state.appliance.read("dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n'")?;
    if list.lines().count() < 50 {
        findings.push(format!("dpkg knows only {} packages", list.lines().count()));
    }
    let odd = list.lines().filter(|line| !line.starts_with("ii "));
    findings.extend(odd.map(|line| format!("not properly installed: {line}")));
    let audit = state.appliance.run("dpkg --audit")?;
    if !audit.status.success() || !audit.stdout.trim().is_empty() {
        findings.push(format!("dpkg --audit: {}{}", audit.stdout, audit.stderr));
    }
    none_of(&findings)
}

/// The files of all packages are as Debian shipped them, except what is left out, and configuration, which the
/// image's own settings replace and the golden listing of `/etc` holds.
pub(super) fn packages_are_intact(state: &mut State) -> Verdict {
    // dpkg says 1 when there is anything to say.
    let output = state.appliance.run("dpkg --verify; true")?;
    if !output.stderr.trim().is_empty() {
        return fail(output.stderr);
    }
    none_of(&damaged(&output.stdout))
}

/// The lines of `dpkg --verify` that count (dpkg(1)): nine flags or `missing`, a `c` for configuration, a path.
fn damaged(report: &str) -> Vec<String> {
    let counts = |line: &&str| {
        let path = line.find(" /").map_or("", |at| &line[at + 1..]);
        let words: Vec<_> = line.split_whitespace().collect();
        let configuration = words.get(1) == Some(&"c");
        let meant = if words.first() == Some(&"missing") {
            let driver = |(folder, _): &(&str, &str)| path.contains(folder);
            LEFT_OUT.iter().any(|(folder, _)| path.starts_with(folder))
                || path.starts_with("/usr/lib/modules/") && NO_DRIVERS.iter().any(driver)
        } else {
            REPLACED.iter().any(|(file, _)| path == *file)
        };
        !line.trim().is_empty() && !configuration && !meant
    };
    report.lines().filter(counts).map(str::to_owned).collect()
}

/// What the kernel sees of the root file system is what the builder says it wrote, owners and modes included.
pub(super) fn owners_match_manifest(state: &mut State) -> Verdict {
    let manifest = Manifest::load(&state.ctx)?;
    // `/` itself and what lies under mounts is not the root file system's.
    let script = "find / -xdev -mindepth 1 -printf '%p\\t%y\\t%m\\t%U\\t%G\\n'";
    let seen = state.appliance.read(script)?;
    let mut seen: BTreeMap<&str, &str> = seen.lines().filter_map(|line| line.split_once('\t')).collect();
    // A mount point shows the folder that is mounted there.
    let mounts = state.appliance.read("findmnt --noheadings --list --output TARGET")?;
    let mounts: Vec<_> = mounts.lines().map(str::trim).filter(|mount| *mount != "/").collect();
    let mut findings = Vec::new();
    let mut compared = 0_usize;
    for file in manifest.root_files()? {
        let path = file.path.as_str();
        let covered = mounts.iter().any(|mount| path == *mount || path.starts_with(&format!("{mount}/")));
        let found = seen.remove(path);
        if covered || path == "/" {
            continue;
        }
        let want = format!("{}\t{:o}\t{}\t{}", file.kind.find_letter(), file.mode()?, file.uid, file.gid);
        compared += 1;
        match found {
            Some(line) if line == want => {}
            Some(line) => findings.push(format!("{path}: {} instead of {}", words(line), words(&want))),
            None => findings.push(format!("{path} is missing")),
        }
    }
    findings.extend(
        seen.keys()
            .filter(|path| !mounts.contains(path))
            .map(|path| format!("{path} is not in the manifest")),
    );
    if compared < 1000 {
        findings.push(format!("only {compared} files could be compared"));
    }
    if findings.is_empty() { PASS } else { none_of(&shortened(findings)) }
}

fn words(line: &str) -> String {
    line.replace('\t', " ")
}

/// A wrong rule makes a thousand wrong files; the first ones tell.
fn shortened(mut findings: Vec<String>) -> Vec<String> {
    let more = findings.len().saturating_sub(40);
    findings.truncate(40);
    if more > 0 {
        findings.push(format!("and {more} more"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_damage_counts() {
        let report = "missing     /usr/share/man/man1/ls.1.gz\n\
                      missing     /usr/bin/ls\n\
                      ??5?????? c /etc/issue\n\
                      ??5??????   /usr/bin/cp\n\
                      ??5??????   /usr/lib/os-release\n\
                      missing     /usr/lib/os-release\n\
                      missing   c /etc/motd\n";
        let want = ["missing     /usr/bin/ls", "??5??????   /usr/bin/cp", "missing     /usr/lib/os-release"];
        assert_eq!(damaged(report), want);
    }
}
