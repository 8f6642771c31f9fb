//! The files of the root file system, as the manifest lists them and as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::check::{Verdict, none_of};
use crate::golden;
use crate::image::{Kind, Manifest, Opened, RootFile};

/// Findings shown at most.
const SHOWN: usize = 40;

/// Every file that the manifest lists is in the file system as listed, and nothing else is.
pub(super) fn manifest_matches_root(image: &mut Opened) -> Verdict {
    let manifest = Manifest::load(&image.ctx)?;
    let listed = manifest.root_files()?;
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for file in listed {
        names.insert(file.path.trim_start_matches('/').to_owned());
        if let Some(difference) = difference(&image.root, file)? {
            findings.push(format!("{}: {difference}", file.path));
        }
    }
    for entry in WalkDir::new(&image.root).min_depth(1).sort_by_file_name() {
        let entry = entry.context("walking the root file system")?;
        let name = entry.path().strip_prefix(&image.root)?.to_string_lossy().into_owned();
        if !names.contains(&name) {
            findings.push(format!("/{name} is not in the manifest"));
        }
    }
    let more = findings.len().saturating_sub(SHOWN);
    findings.truncate(SHOWN);
    if more > 0 {
        findings.push(format!("and {more} more"));
    }
    none_of(&findings)
}

/// Where a listed path lies in the folder of extracted files.
fn place(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn difference(root: &Path, listed: &RootFile) -> anyhow::Result<Option<String>> {
    let place = place(root, &listed.path);
    let Ok(found) = fs_err::symlink_metadata(&place) else { return Ok(Some("is missing".to_owned())) };
    let kind = found.file_type();
    let same_kind = match listed.kind {
        Kind::File | Kind::Hardlink => kind.is_file(),
        Kind::Dir => kind.is_dir(),
        Kind::Symlink => kind.is_symlink(),
    };
    if !same_kind {
        return Ok(Some(format!("is {kind:?}, not {:?}", listed.kind)));
    }
    if listed.kind == Kind::Symlink {
        let target = fs_err::read_link(&place)?;
        let want = listed.target.as_deref().map(Path::new);
        return Ok((want != Some(&target)).then(|| format!("leads to {}", target.display())));
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode != listed.mode()? {
        return Ok(Some(format!("has the mode {mode:04o}, not {:04o}", listed.mode()?)));
    }
    if listed.kind != Kind::File {
        return Ok(None);
    }
    let (size, sum) = (found.len(), checksum(&place)?);
    let same = size == listed.size && listed.sha256.as_deref() == Some(&sum);
    Ok((!same).then(|| format!("has {size} bytes with the checksum {sum}")))
}

fn checksum(file: &Path) -> anyhow::Result<String> {
    let mut opened = fs_err::File::open(file)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match opened.read(&mut block)? {
            0 => return Ok(HEXLOWER.encode(&hash.finalize())),
            count => hash.update(&block[..count]),
        }
    }
}

/// A line of a listing: mode, owners, what, path last.
fn line(file: &RootFile) -> anyhow::Result<String> {
    let what = match file.kind {
        Kind::Dir => "dir".to_owned(),
        Kind::File if OF_EVERY_UPDATE.contains(&file.path.as_str()) => "of Debian's version".to_owned(),
        Kind::Symlink | Kind::Hardlink => format!("-> {}", file.target.as_deref().unwrap_or("?")),
        Kind::File => file.sha256.as_deref().unwrap_or("?").chars().take(16).collect(),
    };
    let xattrs: String = file.xattrs.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    Ok(format!("{:04o} {}:{} {what} {xattrs}{}", file.mode()?, file.uid, file.gid, file.path))
}

/// Which programs run with another's rights: setuid, setgid, and file capabilities.
pub(super) fn setuid_set_is_known(image: &mut Opened) -> Verdict {
    let manifest = Manifest::load(&image.ctx)?;
    let mut lines = Vec::new();
    for file in manifest.root_files()? {
        let program = matches!(file.kind, Kind::File | Kind::Hardlink);
        if program && (file.mode()? & 0o6000 != 0 || file.xattrs.contains_key("security.capability")) {
            // Without the checksum: a new version of the program is no news here.
            lines.push(format!("{:04o} {}:{} {}", file.mode()?, file.uid, file.gid, file.path));
        }
    }
    lines.sort_by(|one, two| one.split(' ').next_back().cmp(&two.split(' ').next_back()));
    golden::compare(&image.ctx, "setuid.txt", &lines)
}

pub(super) fn nothing_world_writable(image: &mut Opened) -> Verdict {
    let manifest = Manifest::load(&image.ctx)?;
    let mut findings = Vec::new();
    for file in manifest.root_files()? {
        let mode = file.mode()?;
        let sticky = file.kind == Kind::Dir && mode & 0o1000 != 0;
        if file.kind != Kind::Symlink && mode & 0o002 != 0 && !sticky {
            findings.push(format!("{mode:04o} {}", file.path));
        }
    }
    none_of(&findings)
}

/// What every update of Debian changes, and nobody reads as configuration: its own number, and where libraries are. The
/// manifest has the checksums.
const OF_EVERY_UPDATE: [&str; 2] = ["/etc/debian_version", "/etc/ld.so.cache"];

/// The configuration that ships, byte for byte, with modes and owners: a change of it is meant, or Debian's and to be read.
pub(super) fn config_golden_per_arch(image: &mut Opened) -> Verdict {
    let manifest = Manifest::load(&image.ctx)?;
    let config = manifest.root_files()?.iter().filter(|file| file.path.starts_with("/etc/"));
    let lines: Vec<_> = config.map(line).collect::<anyhow::Result<_>>()?;
    golden::compare(&image.ctx, "etc.txt", &lines)
}

/// Programs that have no place in an appliance, by the names they go by, and why.
const PROGRAMS: &[(&str, &str)] = &[
    ("gcc", "a compiler"),
    ("cc", "a compiler"),
    ("g++", "a compiler"),
    ("clang", "a compiler"),
    ("tcc", "a compiler"),
    ("rustc", "a compiler"),
    ("go", "a compiler"),
    ("as", "an assembler"),
    ("ld", "a linker"),
    ("make", "a build tool"),
    ("gdb", "a debugger"),
    ("strace", "a debugger"),
    ("tcpdump", "a packet sniffer"),
    ("telnet", "telnet"),
    ("in.telnetd", "telnet"),
    ("telnetd", "telnet"),
    ("inetd", "an internet superserver"),
    ("rsh", "remote shells without encryption"),
    ("rlogin", "remote shells without encryption"),
    ("ftp", "file transfer without encryption"),
    ("tftpd", "file transfer without encryption"),
    ("pop3", "POP3"),
    ("pop3-login", "POP3"),
    ("avahi-daemon", "announces itself to the network"),
    ("rpcbind", "a network service nobody asked for"),
    ("cupsd", "a network service nobody asked for"),
];

/// Packages likewise, by the beginnings of their names.
const PACKAGES: &[&str] = &[
    "gcc-1",
    "g++",
    "clang",
    "rustc",
    "golang",
    "binutils",
    "build-essential",
    "libc6-dev",
    "linux-libc-dev",
    "make",
    "gdb",
    "strace",
    "tcpdump",
    "telnet",
    "inetutils-telnet",
    "dovecot-pop3d",
    "rsh-",
    "avahi",
    "rpcbind",
    "cups",
];

/// Packages that begin like those but are only what their names say: the compiler's run-time library.
const HARMLESS: &[&str] = &["gcc-14-base", "gcc-15-base"];

pub(super) fn no_compiler_no_pop3_no_telnet(image: &mut Opened) -> Verdict {
    let unwanted: BTreeMap<_, _> = PROGRAMS.iter().copied().collect();
    let mut findings = Vec::new();
    for entry in WalkDir::new(image.root.join("usr")).sort_by_file_name() {
        let entry = entry.context("walking the root file system")?;
        let name = entry.file_name().to_string_lossy();
        let folder = entry.path().parent().and_then(Path::file_name).unwrap_or_default();
        let program = ["bin", "sbin", "libexec", "dovecot"].iter().any(|one| *one == folder);
        // Compilers go by names with a target before and a version behind.
        let plain = name.rsplit("-gnu-").next().unwrap_or(&name);
        let plain = plain.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
        if let Some(why) = unwanted.get(plain).filter(|_| program) {
            findings.push(format!("{why}: {}", entry.path().strip_prefix(&image.root)?.display()));
        }
    }
    let status = fs_err::read_to_string(image.root.join("usr/lib/sysimage/dpkg/status"))?;
    findings.extend(packages(&status));
    none_of(&findings)
}

fn packages(status: &str) -> Vec<String> {
    let names = status.lines().filter_map(|line| line.strip_prefix("Package: "));
    let bad =
        names.filter(|name| PACKAGES.iter().any(|start| name.starts_with(start)) && !HARMLESS.contains(name));
    bad.map(|name| format!("the package {name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_and_found_are_compared() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs_err::write(root.join("a"), "x").unwrap();
        fs_err::set_permissions(root.join("a"), std::fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink("a", root.join("l")).unwrap();
        let listed = |json: &str| -> RootFile { serde_json::from_str(json).unwrap() };
        let sum = HEXLOWER.encode(&Sha256::digest(b"x"));
        let file = |mode: &str, sum: &str| {
            listed(&format!(
                r#"{{"path":"/a","kind":"file","mode":"{mode}","uid":0,"gid":0,"size":1,"sha256":"{sum}"}}"#
            ))
        };
        assert_eq!(difference(root, &file("0644", &sum)).unwrap(), None);
        assert_eq!(difference(root, &file("0600", &sum)).unwrap().unwrap(), "has the mode 0644, not 0600");
        assert!(difference(root, &file("0644", "00")).unwrap().is_some());
        let link = r#"{"path":"/l","kind":"symlink","mode":"0777","uid":0,"gid":0,"size":0,"target":"b"}"#;
        assert_eq!(difference(root, &listed(link)).unwrap().unwrap(), "leads to a");
        let gone = r#"{"path":"/d","kind":"dir","mode":"0755","uid":0,"gid":0,"size":0}"#;
        assert_eq!(difference(root, &listed(gone)).unwrap().unwrap(), "is missing");
        let shown = |file: &RootFile| line(file).unwrap();
        assert_eq!(shown(&file("0644", &sum)), format!("0644 0:0 {} /a", &sum[..16]));
        let mut cache = file("0644", &sum);
        cache.path = OF_EVERY_UPDATE[1].to_owned();
        assert_eq!(shown(&cache), "0644 0:0 of Debian's version /etc/ld.so.cache");
    }

    #[test]
    fn packages_are_known_by_their_beginnings() {
        let status =
            "Package: gcc-14-base\nPackage: gcc-14\nPackage: libc6\nPackage: telnet\nVersion: gcc-1\n";
        assert_eq!(packages(status), ["the package gcc-14", "the package telnet"]);
    }
}
