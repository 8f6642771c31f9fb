//! Reads overlay trees from disk into a sorted listing. Follows no link, decides nothing about owners.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use camino::{Utf8Path, Utf8PathBuf};
use walkdir::WalkDir;

use super::Kind;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::owners::Owners;
use crate::source::{Located, Source, Spot};
use crate::suggest;
use crate::types::{Arch, TreeName};

/// One thing found in a tree.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Absolute path as the tree has it: `/etc/hosts`, `/initramfs/init`.
    pub(super) path: String,
    /// Where it was found.
    pub(super) source: Utf8PathBuf,
    pub(super) kind: Kind,
    /// What kind of secret its content is, if it is one.
    pub(super) secret: Option<&'static str>,
    /// Where the recipe names the tree; the tree of the architecture is named nowhere.
    pub(super) tree: Option<Spot>,
}

/// All trees in the order in which they are laid; within a tree by path.
pub(super) fn walk(
    overlay_dir: &Utf8Path,
    trees: &[Located<TreeName>],
    arch: Arch,
    findings: &mut Diagnostics,
) -> Vec<Found> {
    let mut listing = vec![];
    for tree in trees {
        let dir = overlay_dir.join(tree.value.as_str());
        match std::fs::symlink_metadata(&dir) {
            Ok(metadata) if metadata.is_dir() => {
                walk_tree(&dir, Some(&tree.spot), &mut listing, findings);
            }
            Ok(_) => findings.push(
                Diagnostic::error(format!("overlay tree {dir} is not a folder"))
                    .at(tree.spot.clone(), "named here")
                    .help("a tree is a folder of its own, not a file or a link"),
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                findings.push(missing_tree(overlay_dir, tree));
            }
            Err(error) => findings.push(
                Diagnostic::error(format!("opening overlay tree {dir}: {error}"))
                    .at(tree.spot.clone(), "named here"),
            ),
        }
    }
    let own = overlay_dir.join(arch.as_str());
    if std::fs::symlink_metadata(&own).is_ok_and(|metadata| metadata.is_dir()) {
        walk_tree(&own, None, &mut listing, findings);
    }
    listing
}

fn missing_tree(overlay_dir: &Utf8Path, tree: &Located<TreeName>) -> Diagnostic {
    let mut there: Vec<String> = (overlay_dir.read_dir_utf8().into_iter().flatten().flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| name.parse::<TreeName>().is_ok())
        .collect();
    there.sort();
    let there: Vec<&str> = there.iter().map(String::as_str).collect();
    let finding = Diagnostic::error(format!("overlay tree `{}` does not exist", tree.value));
    let finding =
        finding.at(tree.spot.clone(), format!("no folder {}", overlay_dir.join(tree.value.as_str())));
    if there.is_empty() {
        finding.help(format!("{overlay_dir} holds no tree: make the folder, or remove the name"))
    } else {
        finding.help(suggest::one_of("trees", tree.value.as_str(), &there))
    }
}

/// The owner table beside the trees.
pub(super) fn owners(overlay_dir: &Utf8Path, findings: &mut Diagnostics) -> Option<Owners> {
    let file = overlay_dir.join("owners.toml");
    let source = match std::fs::read(&file) {
        Ok(bytes) => Source::from_bytes(file.as_str(), &bytes),
        Err(error) => Err(Diagnostic::error(format!("opening owner table {file}: {error}"))
            .help("it says who owns what the overlay lays down: see the reference, module `owners`")
            .into()),
    };
    match source {
        Ok(source) => Owners::read(&source, findings),
        Err(problems) => {
            findings.append(problems);
            None
        }
    }
}

fn walk_tree(tree_dir: &Utf8Path, tree: Option<&Spot>, listing: &mut Vec<Found>, findings: &mut Diagnostics) {
    for entry in WalkDir::new(tree_dir).min_depth(1).follow_links(false).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(tree_dir.as_std_path()).display().to_string();
                let cause = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                findings.push(Diagnostic::error(format!("reading overlay {path}: {cause}")));
                continue;
            }
        };
        match found(&entry, tree_dir, tree) {
            Ok(found) => listing.push(found),
            Err(problems) => findings.append(problems),
        }
    }
}

fn found(entry: &walkdir::DirEntry, tree_dir: &Utf8Path, tree: Option<&Spot>) -> Result<Found, Diagnostics> {
    let refuse = |message: &str, help: &str| {
        Diagnostics::from(Diagnostic::error(message).in_file(entry.path().display().to_string()).help(help))
    };
    let failed = |what: &str, error: &std::io::Error| {
        Diagnostics::from(Diagnostic::error(format!("{what} {}: {error}", entry.path().display())))
    };
    let Some(source) = Utf8Path::from_path(entry.path()) else {
        return Err(refuse("file name that is not UTF-8 in the overlay", "rename the file"));
    };
    let file_type = entry.file_type();
    let mut secret = None;
    let kind = if file_type.is_dir() {
        Kind::Dir
    } else if file_type.is_symlink() {
        let target = std::fs::read_link(source).map_err(|error| failed("reading link", &error))?;
        let target = target.into_os_string().into_string();
        let target = target.map_err(|_| refuse("link to a name that is not UTF-8", "make the link again"))?;
        Kind::Symlink { target }
    } else if file_type.is_file() {
        let (size, found) = scan(source.as_std_path()).map_err(|error| failed("reading", &error))?;
        secret = found;
        Kind::File { size }
    } else {
        let what = match file_type {
            _ if file_type.is_fifo() => "fifo",
            _ if file_type.is_socket() => "socket",
            _ => "device",
        };
        let message = format!("{what} in the overlay");
        return Err(refuse(
            &message,
            "remove it; systemd-tmpfiles (tmpfiles.d(5)) makes such things at boot",
        ));
    };
    let below = source.strip_prefix(tree_dir).expect("the walk stays below the tree");
    Ok(Found { path: format!("/{below}"), source: source.to_owned(), kind, secret, tree: tree.cloned() })
}

/// The size of a file, and the kind of secret in it.
fn scan(path: &Path) -> std::io::Result<(u64, Option<&'static str>)> {
    /// Longer than any header looked for, so that one which spans two blocks is seen.
    const OVERLAP: usize = 128;
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    let (mut kept, mut size, mut secret) = (0, 0, None);
    loop {
        let count = file.read(&mut buffer[kept..])?;
        if count == 0 {
            return Ok((size, secret));
        }
        size += count as u64;
        let filled = kept + count;
        secret = secret.or_else(|| secret_in(&buffer[..filled]));
        kept = filled.min(OVERLAP);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

/// Headers of private keys: PEM (RFC 7468) and PGP, Tor's onion service keys, age identities.
fn secret_in(bytes: &[u8]) -> Option<&'static str> {
    const FIXED: [(&[u8], &str); 3] = [
        (b"== ed25519v1-secret: type0 ==", "the secret key of an onion service"),
        (b"== ed25519v1-secret: type1 ==", "the secret key of a Tor relay"),
        (b"AGE-SECRET-KEY-1", "an age identity"),
    ];
    let fixed =
        FIXED.into_iter().find(|(header, _)| bytes.windows(header.len()).any(|window| window == *header));
    fixed.map(|(_, what)| what).or_else(|| has_pem_private_key(bytes).then_some("a private key"))
}

fn has_pem_private_key(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const KEY: &[u8] = b"PRIVATE KEY";
    let starts = bytes.windows(BEGIN.len()).enumerate().filter(|(_, window)| *window == BEGIN);
    starts.map(|(at, _)| &bytes[at + BEGIN.len()..]).any(|rest| {
        let label =
            rest.iter().take(64).take_while(|&&b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ');
        let label = &rest[..label.count()];
        label.windows(KEY.len()).any(|window| window == KEY)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn private_keys_are_seen_wherever_they_stand() {
        assert!(secret_in(b"x\n-----BEGIN OPENSSH PRIVATE KEY-----\n").is_some());
        assert!(secret_in(b"-----BEGIN PRIVATE KEY-----").is_some());
        assert!(secret_in(b"-----BEGIN PGP PRIVATE KEY BLOCK-----").is_some());
        assert!(secret_in(b"-----BEGIN CERTIFICATE-----").is_none());
        assert!(secret_in(b"-----BEGIN PUBLIC KEY-----\nPRIVATE KEY").is_none());
        assert!(secret_in(b"").is_none());
        for offset in [0, 1, 65_500, 65_530, 65_536, 131_060] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![b'.'; offset]).unwrap();
            file.write_all(b"-----BEGIN EC PRIVATE KEY-----").unwrap();
            assert_eq!(
                scan(file.path()).unwrap(),
                (offset as u64 + 30, Some("a private key")),
                "at {offset}"
            );
        }
    }
}
