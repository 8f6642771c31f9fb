//! Decides what of a listing is laid down, by whom it is owned, and what must not be there. Pure.

use std::collections::BTreeMap;

use super::walk::Found;
use super::{Entry, Kind, Overlay};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::owners::{Mode, Owners};
use crate::types::Arch;

/// The folder at the top of a tree that belongs to the initramfs.
const INITRAMFS: &str = "/initramfs";
/// Paths named in one finding before the rest is only counted.
const SHOWN: usize = 8;

/// What must not be in an overlay, whatever the owner table says.
pub(super) fn misplaced(listing: &[Found]) -> impl Iterator<Item = Diagnostic> {
    listing.iter().filter_map(misplaced_one)
}

/// At most one finding for a thing.
fn misplaced_one(found: &Found) -> Option<Diagnostic> {
    let refuse = |message: String, help: &str| {
        Some(Diagnostic::error(message).in_file(found.source.as_str()).help(help))
    };
    let name = found.path.rsplit('/').next().unwrap_or_default();
    let path = found.path.as_str();
    if matches!(name, ".gitkeep" | ".gitignore") {
        let help = "remove it; systemd-tmpfiles (tmpfiles.d(5)) makes empty folders at boot";
        return refuse(format!("`{name}` is for git, not for the appliance"), help);
    }
    if name.ends_with('~') || name.ends_with(".swp") || name.starts_with(".#") || name == ".DS_Store" {
        return refuse(format!("`{name}` is what an editor or a desktop left behind"), "remove the file");
    }
    let is_host_key = path.starts_with("/etc/ssh/ssh_host_") && name.contains("_key");
    if matches!(path, "/etc/shadow" | "/etc/gshadow" | "/etc/machine-id") || is_host_key {
        let help = "remove the file: every appliance makes its own on first boot";
        return refuse(format!("`{path}` must be different on every appliance"), help);
    }
    if let Some(secret) = found.secret {
        let help = "remove the file, and treat the secret as lost: an image holds none";
        return refuse(format!("`{path}` holds {secret}"), help);
    }
    if path == INITRAMFS && found.kind != Kind::Dir {
        return refuse("`initramfs` is not a folder".to_owned(), "it holds what goes into the initramfs");
    }
    let inner = inside_initramfs(path);
    let top = &inner.unwrap_or(path)[1..];
    if matches!(top, "bin" | "sbin" | "lib" | "lib32" | "lib64" | "libx32") {
        let help = format!("move its content to usr/{top}/ beside it");
        return refuse(format!("`/{top}` is a link to `/usr/{top}` in Debian"), &help);
    }
    if inner.is_none() && matches!(top, "dev" | "proc" | "run" | "sys" | "tmp") {
        let help = "remove it; systemd-tmpfiles (tmpfiles.d(5)) makes files there at boot";
        return refuse(format!("`/{top}` is empty when the appliance starts"), help);
    }
    match &found.kind {
        Kind::Symlink { target } if climbs_out(path, target) => refuse(
            format!("link `{path}` to `{target}` points out of its tree"),
            "write the target as an absolute path of the appliance",
        ),
        Kind::File { .. } | Kind::Dir | Kind::Symlink { .. } => None,
    }
}

/// The path within the initramfs, absolute there, of what belongs to it.
fn inside_initramfs(path: &str) -> Option<&str> {
    path.strip_prefix(INITRAMFS).filter(|inner| inner.starts_with('/'))
}

/// Whether a relative link has more `..` than there are folders above it. In the initramfs, its root counts.
fn climbs_out(path: &str, target: &str) -> bool {
    if target.starts_with('/') {
        return false;
    }
    let mut depth = inside_initramfs(path).unwrap_or(path).matches('/').count() - 1;
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// Merges the trees: folders join, a later file wins over an earlier one only where a rule allows it.
pub(super) fn lay<'l>(
    listing: &'l [Found],
    owners: &Owners,
    findings: &mut Diagnostics,
) -> BTreeMap<&'l str, &'l Found> {
    let mut laid: BTreeMap<&str, &Found> = BTreeMap::new();
    for found in listing {
        let Some(earlier) = laid.get(found.path.as_str()) else {
            laid.insert(&found.path, found);
            continue;
        };
        match (&earlier.kind, &found.kind) {
            (Kind::Dir, Kind::Dir) => {}
            (Kind::Dir, _) | (_, Kind::Dir) => {
                let what = |found: &Found| match found.kind {
                    Kind::File { .. } => "file",
                    Kind::Dir => "folder",
                    Kind::Symlink { .. } => "link",
                };
                let message = format!(
                    "`{}` is a {} in one tree, a {} in another",
                    found.path,
                    what(earlier),
                    what(found)
                );
                findings.push(clash(message, earlier, found).help("rename or remove one of the two"));
            }
            _ if owners.attributes(&found.path).may_override => {
                laid.insert(&found.path, found);
            }
            _ => {
                let help = format!(
                    "keep it in one tree; or, if the later one shall win, add `override = true` to a rule for `{}` in owners.toml",
                    found.path
                );
                let message = format!("`{}` is in two overlay trees", found.path);
                findings.push(clash(message, earlier, found).help(help));
            }
        }
    }
    laid
}

/// Points at the trees in the recipe and names both files. The tree of the architecture is named nowhere.
fn clash(message: String, earlier: &Found, later: &Found) -> Diagnostic {
    let lays = |found: &Found| format!("lays down {}", found.source);
    let finding = Diagnostic::error(message);
    match (&earlier.tree, &later.tree) {
        (Some(first), Some(second)) => {
            finding.at(second.clone(), lays(later)).also(first.clone(), lays(earlier))
        }
        (Some(first), None) => finding
            .at(first.clone(), lays(earlier))
            .note(format!("the tree of the architecture {}", lays(later))),
        (None, _) => finding.in_file(later.source.as_str()).note(lays(earlier)),
    }
}

/// Gives every path its owner and mode, and parts the initramfs from the root file system.
pub(super) fn own(
    laid: BTreeMap<&str, &Found>,
    owners: &Owners,
    arch: Arch,
    findings: &mut Diagnostics,
) -> Overlay {
    let (mut root, mut initramfs, mut unowned) = (vec![], vec![], vec![]);
    for (path, found) in laid {
        match own_one(found, owners) {
            Err(missing) => unowned.push((missing, found)),
            Ok(entry) => match inside_initramfs(path) {
                Some(inner) => initramfs.push(Entry { target: inner[1..].to_owned(), ..entry }),
                None if path == INITRAMFS => {}
                None => root.push(entry),
            },
        }
    }
    findings.extend(report_unowned(&unowned, owners));
    Overlay { arch, root, initramfs }
}

/// The entry with its owner, or the names of the attributes that no rule gives.
fn own_one(found: &Found, owners: &Owners) -> Result<Entry, Vec<&'static str>> {
    let attributes = owners.attributes(&found.path);
    let (key, mode) = match found.kind {
        Kind::File { .. } => ("file", attributes.file),
        Kind::Dir => ("dir", attributes.dir),
        Kind::Symlink { .. } => ("", Some(Mode::SYMLINK)),
    };
    let missing = || {
        let checks = [
            (attributes.user.is_none(), "user"),
            (attributes.group.is_none(), "group"),
            (mode.is_none(), key),
        ];
        checks.into_iter().filter(|(is_missing, _)| *is_missing).map(|(_, name)| name).collect()
    };
    match (&attributes.user, &attributes.group, mode) {
        (Some(user), Some(group), Some(mode)) => Ok(Entry {
            target: found.path.clone(),
            source: found.source.clone(),
            kind: found.kind.clone(),
            user: user.clone(),
            group: group.clone(),
            mode,
            is_explicit: attributes.is_explicit && found.kind == Kind::Dir,
        }),
        _ => Err(missing()),
    }
}

/// One finding for all paths that lack the same attributes.
fn report_unowned(unowned: &[(Vec<&'static str>, &Found)], owners: &Owners) -> Vec<Diagnostic> {
    let mut groups: BTreeMap<&[&str], Vec<&Found>> = BTreeMap::new();
    for (missing, found) in unowned {
        groups.entry(missing).or_default().push(found);
    }
    let report = |(missing, list): (&[&str], Vec<&Found>)| {
        let first = list[0].path.as_str();
        let others = match list.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let keys = crate::suggest::listing(missing.iter().copied());
        let example =
            missing.iter().map(|key| format!("{key} = \"{}\"", usual(key))).collect::<Vec<_>>().join(", ");
        let finding = Diagnostic::error(format!("no owner rule covers `{first}`{others}: {keys} missing"))
            .at(owners.end(), "no rule up to here matches")
            .help(format!("add a [[rule]] with path = \"{first}\", {example}"));
        let sources = list.iter().take(SHOWN).map(|found| format!("from {}", found.source));
        let rest = list.len().saturating_sub(SHOWN);
        let rest = (rest > 0).then(|| format!("and {rest} more"));
        sources.chain(rest).fold(finding, Diagnostic::note)
    };
    groups.into_iter().map(report).collect()
}

fn usual(key: &str) -> &'static str {
    match key {
        "file" => "0644",
        "dir" => "0755",
        _ => "root",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_stay_inside() {
        assert!(!climbs_out("/etc/a", "b"));
        assert!(!climbs_out("/etc/a", "../usr/b"));
        assert!(climbs_out("/etc/a", "../../b"));
        assert!(climbs_out("/a", ".."));
        assert!(!climbs_out("/etc/a", "x/../b"));
        assert!(!climbs_out("/etc/a", "/dev/null"));
        assert!(climbs_out("/initramfs/a", "../etc"));
        assert!(!climbs_out("/initramfs/etc/a", "../b"));
    }
}
