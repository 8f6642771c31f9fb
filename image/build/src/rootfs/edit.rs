//! What is done to the bootstrapped tree: pure functions from tree to tree, in the order in which `lay` calls them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use super::tree::{Kind, Node, Source, Tree};

/// Where what the image ships in `/var` waits for the first boot.
pub const FACTORY_VAR: &str = "usr/share/factory/var";
/// dpkg's database: it describes the slot, so it lives in it.
pub const DPKG: &str = "usr/lib/sysimage/dpkg";

/// Left by the bootstrap and never shipped: secrets, host details, caches, backups. A `/` at the end means the files
/// below that folder; the folders stay, since packages own them.
const DROPPED: &[&str] = &[
    "vmlinuz",
    "vmlinuz.old",
    "initrd.img",
    "initrd.img.old",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/.pwd.lock",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/aliases.db",
    // Debian's copy holds a key made while the package was configured; the agent writes this file.
    "etc/roundcube/config.inc.php",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "var/backups/",
    "var/cache/apt/",
    "var/cache/debconf/passwords.dat",
    "var/cache/ldconfig/",
    "var/cache/man/",
    "var/lib/apt/",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
    "var/lib/initramfs-tools/",
    // Checksums and copies of such files, for upgrades of packages in place, which a slot never sees.
    "var/lib/ucf/",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/log/",
    "root/",
];

/// Places of the running system: nothing below them ships, folders neither.
const EMPTIED: &[&str] = &["boot/", "dev/", "proc/", "run/", "sys/", "tmp/", "var/tmp/"];

/// Files by the start of their name.
const DROPPED_PREFIXES: &[&str] = &["etc/ssh/ssh_host_"];

/// Removes everything that must not ship, and what the recipe strips.
pub fn drop_unwanted(tree: &mut Tree, is_stripped: impl Fn(&str) -> bool) {
    let below = |path: &str, dir: &str| path.len() > dir.len() && path.starts_with(dir);
    tree.retain(|path, node| {
        let is_file = node.kind != Kind::Dir;
        let dropped =
            DROPPED.iter().any(|d| if d.ends_with('/') { is_file && below(path, d) } else { path == d })
                || EMPTIED.iter().any(|d| below(path, d))
                || DROPPED_PREFIXES.iter().any(|p| path.starts_with(p));
        !dropped
    });
    tree.retain(|path, node| node.kind == Kind::Dir || !is_stripped(&format!("/{path}")));
    // A stripped folder goes when nothing is left in it.
    let mut kept = std::collections::BTreeSet::new();
    for (path, node) in tree.iter() {
        if node.kind != Kind::Dir || !is_stripped(&format!("/{path}")) {
            kept.extend(ancestors(path).map(str::to_owned));
        }
    }
    tree.retain(|path, node| {
        node.kind != Kind::Dir || !is_stripped(&format!("/{path}")) || kept.contains(path)
    });
}

/// Moves dpkg's database into the slot and the rest of `/var` to the factory folder.
pub fn relocate(tree: &mut Tree) {
    let moved = |path: &str| -> Option<String> {
        for (from, to) in [("var/lib/dpkg", DPKG), ("var", FACTORY_VAR)] {
            if path == from {
                return Some(to.to_owned());
            }
            if let Some(rest) = path.strip_prefix(from).and_then(|r| r.strip_prefix('/')) {
                return Some(format!("{to}/{rest}"));
            }
        }
        None
    };
    let old = std::mem::take(tree);
    for (path, mut node) in old {
        if let Kind::Hardlink(target) = &mut node.kind
            && let Some(new) = moved(target)
        {
            *target = new;
        }
        if path == "var" {
            tree.insert(path.clone(), Node { xattrs: Vec::new(), ..node.clone() });
        }
        tree.insert(moved(&path).unwrap_or(path), node);
    }
}

/// What an overlay, or the builder itself, lays into the tree.
#[derive(Clone, Debug)]
pub struct Laid {
    /// Path without a leading slash.
    pub path: String,
    /// The node to put there.
    pub node: Node,
    /// For a folder that exists: whether its owner and mode replace those of the package.
    pub explicit: bool,
}

/// Lays an entry down; folders on the way are made, root's and 0755.
///
/// # Errors
/// A folder would replace a file or the other way round, or the path goes through a symbolic link.
pub fn lay(tree: &mut Tree, laid: Laid) -> Result<()> {
    let Laid { path, node, explicit } = laid;
    for dir in ancestors(&path) {
        match tree.get(dir).map(|n| &n.kind) {
            Some(Kind::Dir) => {}
            Some(Kind::Symlink(target)) => {
                bail!("/{path} goes through the link /{dir} -> {target}: use the path behind the link");
            }
            Some(_) => bail!("/{path} needs a folder /{dir}, which is a file in the image"),
            None => {
                let made =
                    Node { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, xattrs: vec![], mtime: node.mtime };
                tree.insert(dir.to_owned(), made);
            }
        }
    }
    match (tree.get_mut(&path), &node.kind) {
        (Some(Node { kind: Kind::Dir, .. }), Kind::Dir) if !explicit => {}
        (Some(old @ Node { kind: Kind::Dir, .. }), Kind::Dir) => *old = node,
        (Some(Node { kind: Kind::Dir, .. }), _) => {
            bail!("/{path} is a folder in the image, and a file is laid there")
        }
        (Some(_), Kind::Dir) => bail!("/{path} is a file in the image, and a folder is laid there"),
        (_, _) => {
            tree.insert(path, node);
        }
    }
    Ok(())
}

/// `a`, `a/b` for `a/b/c`.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// The links that `systemctl enable` would make, read from the unit's `[Install]` (systemd.unit(5)).
///
/// # Errors
/// The unit has no `[Install]` section that says where it belongs.
pub fn enable(unit: &str, unit_path: &str, text: &str) -> Result<Vec<(String, String)>> {
    let mut links = Vec::new();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| section == "[Install]") else { continue };
        for name in value.split_whitespace() {
            let place = match key.trim() {
                "WantedBy" => format!("{name}.wants/{unit}"),
                "RequiredBy" => format!("{name}.requires/{unit}"),
                "UpheldBy" => format!("{name}.upholds/{unit}"),
                "Alias" => name.to_owned(),
                _ => continue,
            };
            links.push((format!("etc/systemd/system/{place}"), format!("/{unit_path}")));
        }
    }
    if links.is_empty() {
        bail!(
            "/{unit_path} has no [Install] section with WantedBy=, RequiredBy= or Alias=, so it cannot be enabled"
        );
    }
    Ok(links)
}

/// Where a unit's file is: for `name@instance.type` that of the template.
pub fn unit_path(tree: &Tree, unit: &str) -> Result<String> {
    let template = match unit.split_once('@') {
        Some((name, rest)) => rest.rsplit_once('.').map(|(_, kind)| format!("{name}@.{kind}")),
        None => None,
    };
    ["etc/systemd/system", "usr/lib/systemd/system"]
        .iter()
        .flat_map(|dir| {
            [Some(unit), template.as_deref()].into_iter().flatten().map(move |n| format!("{dir}/{n}"))
        })
        .find(|path| matches!(tree.get(path).map(|n| &n.kind), Some(Kind::File { .. })))
        .with_context(|| format!("no unit file of the image is named {unit}: check [units] in the recipe"))
}

/// The days since 1970 on which passwords were last changed, pinned to the source date (shadow(5)).
pub fn pin_shadow(text: &str, source_date: u64) -> String {
    let day = (source_date / 86_400).to_string();
    let mut out = String::new();
    for line in text.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields.len() > 2 && !fields[2].is_empty() {
            fields[2] = &day;
        }
        out.push_str(&fields.join(":"));
        out.push('\n');
    }
    out
}

/// Ids by name, from `etc/passwd` or `etc/group`: third field by first.
pub fn ids(text: &str) -> BTreeMap<String, u32> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

/// Makes the name that sorts first the file of each set of hard links, so that a tar reader meets it first; a link
/// whose file was dropped takes its bytes over.
///
/// # Errors
/// A hard link leads to a path that never was a file.
pub fn settle_hardlinks(tree: &mut Tree, dropped: &Tree) -> Result<()> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, node) in tree.iter() {
        if let Kind::Hardlink(target) = &node.kind {
            sets.entry(target.clone()).or_default().push(path.clone());
        }
    }
    for (target, mut names) in sets {
        let content = match (tree.get(&target), dropped.get(&target)) {
            (Some(node), _) => {
                names.push(target.clone());
                node.clone()
            }
            (None, Some(node)) => node.clone(),
            (None, None) => bail!("/{} is a hard link to /{target}, which does not exist", names[0]),
        };
        if !matches!(content.kind, Kind::File { .. }) {
            bail!("/{} is a hard link to /{target}, which is no file", names[0]);
        }
        names.sort();
        for (n, name) in names.iter().enumerate() {
            let kind = if n == 0 { content.kind.clone() } else { Kind::Hardlink(names[0].clone()) };
            tree.insert(name.clone(), Node { kind, ..content.clone() });
        }
    }
    Ok(())
}

/// A file made by the builder: root's, 0644.
pub fn own_file(path: &str, bytes: impl Into<Vec<u8>>, mtime: u64) -> Laid {
    let bytes = bytes.into();
    let kind = Kind::File { size: bytes.len() as u64, source: Source::Bytes(bytes) };
    Laid {
        path: path.to_owned(),
        node: Node { kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: vec![] },
        explicit: true,
    }
}

/// A link made by the builder.
pub fn own_link(path: &str, target: &str, mtime: u64) -> Laid {
    let node =
        Node { kind: Kind::Symlink(target.to_owned()), mode: 0o777, uid: 0, gid: 0, mtime, xattrs: vec![] };
    Laid { path: path.to_owned(), node, explicit: true }
}

/// A folder made by the builder: root's, with this mode.
pub fn own_dir(path: &str, mode: u32, mtime: u64) -> Laid {
    Laid {
        path: path.to_owned(),
        node: Node { kind: Kind::Dir, mode, uid: 0, gid: 0, mtime, xattrs: vec![] },
        explicit: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: Kind) -> Node {
        Node { kind, mode: 0o644, uid: 7, gid: 8, mtime: 1, xattrs: vec![] }
    }

    fn file(n: u64) -> Node {
        node(Kind::File { source: Source::Base(n), size: 1 })
    }

    fn tree(items: &[(&str, Node)]) -> Tree {
        items.iter().map(|(p, n)| ((*p).to_owned(), n.clone())).collect()
    }

    #[test]
    fn secrets_and_host_details_go() {
        let mut t = tree(&[
            ("boot", node(Kind::Dir)),
            ("boot/vmlinuz-6", file(1)),
            ("dev/null", node(Kind::Special)),
            ("etc/passwd", file(2)),
            ("etc/passwd-", file(3)),
            ("etc/roundcube/config.inc.php", file(7)),
            ("etc/ssh/ssh_host_ed25519_key", file(4)),
            ("usr/share/man", node(Kind::Dir)),
            ("usr/share/man/man1", node(Kind::Dir)),
            ("usr/share/man/man1/x.gz", file(5)),
            ("var/lib/ucf/cache/:etc:roundcube:config.inc.php", file(8)),
            ("var/log", node(Kind::Dir)),
            ("var/log/dpkg.log", file(6)),
            ("var/log/tor", node(Kind::Dir)),
            ("run/lock", node(Kind::Dir)),
        ]);
        drop_unwanted(&mut t, |p| p.starts_with("/usr/share/man/"));
        let left: Vec<&str> = t.keys().map(String::as_str).collect();
        assert_eq!(left, ["boot", "etc/passwd", "usr/share/man", "var/log", "var/log/tor"]);
    }

    #[test]
    fn var_moves_and_dpkg_stays_with_the_slot() {
        let mut t = tree(&[
            ("var", node(Kind::Dir)),
            ("var/lib", node(Kind::Dir)),
            ("var/lib/dpkg", node(Kind::Dir)),
            ("var/lib/dpkg/status", file(1)),
            ("var/lib/dpkg/status-link", node(Kind::Hardlink("var/lib/dpkg/status".into()))),
            ("various", file(2)),
        ]);
        relocate(&mut t);
        let paths: Vec<&str> = t.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "usr/lib/sysimage/dpkg",
                "usr/lib/sysimage/dpkg/status",
                "usr/lib/sysimage/dpkg/status-link",
                "usr/share/factory/var",
                "usr/share/factory/var/lib",
                "var",
                "various"
            ]
        );
        assert_eq!(
            t["usr/lib/sysimage/dpkg/status-link"].kind,
            Kind::Hardlink("usr/lib/sysimage/dpkg/status".into())
        );
    }

    #[test]
    fn laying_keeps_a_packages_folder_unless_told() {
        let mut t = tree(&[
            ("etc", node(Kind::Dir)),
            ("bin", node(Kind::Symlink("usr/bin".into()))),
            ("etc/f", file(1)),
        ]);
        lay(&mut t, Laid { explicit: false, ..own_dir("etc", 0o700, 9) }).unwrap();
        assert_eq!((t["etc"].uid, t["etc"].mode), (7, 0o644));
        lay(&mut t, own_dir("etc", 0o700, 9)).unwrap();
        assert_eq!((t["etc"].uid, t["etc"].mode), (0, 0o700));
        lay(&mut t, own_file("opt/a/b", "x", 9)).unwrap();
        assert_eq!(t["opt/a"].mode, 0o755);
        let through = lay(&mut t, own_file("bin/x", "x", 9)).unwrap_err().to_string();
        assert!(through.contains("goes through the link /bin -> usr/bin"), "{through}");
        assert!(lay(&mut t, own_file("etc", "x", 9)).is_err());
        assert!(lay(&mut t, own_dir("etc/f", 0o755, 9)).is_err());
        assert!(lay(&mut t, own_file("etc/f/g", "x", 9)).is_err());
    }

    #[test]
    fn enabling_reads_install() {
        let text = "[Unit]\nWantedBy=no.target\n[Install]\nWantedBy=multi-user.target sys.target\nAlias=sshd.service\n";
        let links = enable("ssh.service", "usr/lib/systemd/system/ssh.service", text).unwrap();
        let places: Vec<&str> = links.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(
            places,
            [
                "etc/systemd/system/multi-user.target.wants/ssh.service",
                "etc/systemd/system/sys.target.wants/ssh.service",
                "etc/systemd/system/sshd.service"
            ]
        );
        assert!(enable("a.service", "usr/lib/systemd/system/a.service", "[Unit]\n").is_err());
    }

    #[test]
    fn templates_are_found_by_instance() {
        let t = tree(&[("usr/lib/systemd/system/getty@.service", file(1))]);
        assert_eq!(unit_path(&t, "getty@tty1.service").unwrap(), "usr/lib/systemd/system/getty@.service");
        assert!(unit_path(&t, "nothing.service").is_err());
    }

    #[test]
    fn shadow_days_are_pinned() {
        assert_eq!(
            pin_shadow("root:*:20000:0:::::\nx:!::::::\n", 86_400 * 3),
            "root:*:3:0:::::\nx:!::::::\n"
        );
    }

    #[test]
    fn hard_links_follow_the_first_name() {
        let mut t = tree(&[
            ("b", file(1)),
            ("a", node(Kind::Hardlink("b".into()))),
            ("c", node(Kind::Hardlink("b".into()))),
        ]);
        settle_hardlinks(&mut t, &Tree::new()).unwrap();
        assert!(matches!(t["a"].kind, Kind::File { .. }));
        assert_eq!(t["b"].kind, Kind::Hardlink("a".into()));
        let mut orphan = tree(&[("a", node(Kind::Hardlink("gone".into())))]);
        settle_hardlinks(&mut orphan.clone(), &Tree::new()).unwrap_err();
        settle_hardlinks(&mut orphan, &tree(&[("gone", file(5))])).unwrap();
        assert!(matches!(orphan["a"].kind, Kind::File { .. }));
    }
}
