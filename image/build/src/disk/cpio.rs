//! A writer of initramfs archives: cpio in the "newc" format, as the kernel unpacks it
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Everything belongs to root, inodes count from 1, times are one fixed value, names are sorted; folders that a name
//! needs are added. An archive is small and made in memory.
//!
//! Never: device nodes, hard links, anything read from a file system.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const TRAILER: &str = "TRAILER!!!";

enum Node {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
}

/// An archive in the making.
#[derive(Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// An empty one.
    pub fn new() -> Self {
        Archive::default()
    }

    /// Adds a folder with permission bits such as `0o755`. Folders that are only implied get 0755.
    ///
    /// # Errors
    /// The name is not a clean relative path, or it is taken.
    pub fn folder(&mut self, name: &str, mode: u32) -> Result<&mut Self> {
        self.add(name, Node::Folder { mode: permissions(name, mode)? })
    }

    /// Adds a regular file with permission bits such as `0o644`.
    ///
    /// # Errors
    /// The name is not a clean relative path, or it is taken; the content is 4 GiB or more.
    pub fn file(&mut self, name: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Result<&mut Self> {
        let bytes = bytes.into();
        ensure!(u32::try_from(bytes.len()).is_ok(), "adding {name} to the archive: cpio files end at 4 GiB");
        self.add(name, Node::File { mode: permissions(name, mode)?, bytes })
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// The name is not a clean relative path, or it is taken; the target is empty.
    pub fn link(&mut self, name: &str, target: &str) -> Result<&mut Self> {
        ensure!(!target.is_empty(), "adding {name} to the archive: the link has no target");
        self.add(name, Node::Link { target: target.to_owned() })
    }

    /// The uncompressed archive. `time` is seconds since 1970, for every entry.
    pub fn render(&self, time: u32) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (name, node)) in (1..).zip(&self.nodes) {
            let (mode, links, data): (_, _, &[u8]) = match node {
                Node::Folder { mode } => (FOLDER | mode, 2, &[]),
                Node::File { mode, bytes } => (FILE | mode, 1, bytes),
                Node::Link { target } => (LINK | 0o777, 1, target.as_bytes()),
            };
            entry(&mut out, name, &Head { inode, mode, links, time }, data);
        }
        entry(&mut out, TRAILER, &Head { inode: 0, mode: 0, links: 1, time: 0 }, &[]);
        out
    }

    fn add(&mut self, name: &str, node: Node) -> Result<&mut Self> {
        let clean = !name.is_empty()
            && name != TRAILER
            && !name.contains('\0')
            && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        ensure!(clean, "adding {name:?} to the archive: a relative path without . and .. is wanted");
        for (at, _) in name.match_indices('/') {
            let parent = &name[..at];
            match self.nodes.get(parent) {
                None => {
                    self.nodes.insert(parent.to_owned(), Node::Folder { mode: 0o755 });
                }
                Some(Node::Folder { .. }) => {}
                Some(_) => bail!("adding {name} to the archive: {parent} is no folder"),
            }
        }
        ensure!(!self.nodes.contains_key(name), "adding {name} to the archive: the name is taken");
        self.nodes.insert(name.to_owned(), node);
        Ok(self)
    }
}

fn permissions(name: &str, mode: u32) -> Result<u32> {
    ensure!(mode <= 0o7777, "adding {name} to the archive: {mode:o} is more than permission bits");
    Ok(mode)
}

struct Head {
    inode: u32,
    mode: u32,
    links: u32,
    time: u32,
}

/// Header of 13 numbers of eight hex digits, name with its zero, data; name and data each end on a multiple of 4.
fn entry(out: &mut Vec<u8>, name: &str, head: &Head, data: &[u8]) {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let numbers = [
        head.inode,
        head.mode,
        0, // uid
        0, // gid
        head.links,
        head.time,
        length(data.len()),
        0, // the device it came from, and the device it is
        0,
        0,
        0,
        length(name.len() + 1),
        0, // no checksum in this format
    ];
    out.extend_from_slice(b"070701");
    for number in numbers {
        out.extend_from_slice(format!("{number:08X}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {

    use super::*;

    /// (name, mode, inode, data), by a reader that knows only the format.
    fn list(mut bytes: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let total = bytes.len();
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let number = |i: usize| {
                u32::from_str_radix(std::str::from_utf8(&bytes[6 + i * 8..14 + i * 8]).unwrap(), 16).unwrap()
            };
            let (inode, mode, size, name_size) =
                (number(0), number(1), number(6) as usize, number(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let data = (110 + name_size).next_multiple_of(4);
            let end = (data + size).next_multiple_of(4);
            let content = bytes[data..data + size].to_vec();
            bytes = &bytes[end..];
            assert_eq!((total - bytes.len()) % 4, 0);
            if name == TRAILER {
                assert!(bytes.is_empty());
                return found;
            }
            found.push((name, mode, inode, content));
        }
    }

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive
            .file("scripts/cipolla", 0o644, "mountroot() { :; }\n")
            .unwrap()
            .file("bin/x", 0o755, [1, 2, 3])
            .unwrap()
            .link("bin/y", "x")
            .unwrap()
            .folder("run", 0o700)
            .unwrap();
        archive
    }

    #[test]
    fn entries_are_sorted_numbered_and_complete() {
        let rows = list(&sample().render(1_700_000_000));
        let short: Vec<_> =
            rows.iter().map(|(name, mode, inode, data)| (name.as_str(), *mode, *inode, data.len())).collect();
        assert_eq!(
            short,
            [
                ("bin", 0o040_755, 1, 0),
                ("bin/x", 0o100_755, 2, 3),
                ("bin/y", 0o120_777, 3, 1),
                ("run", 0o040_700, 4, 0),
                ("scripts", 0o040_755, 5, 0),
                ("scripts/cipolla", 0o100_644, 6, 19),
            ]
        );
        assert_eq!(rows[2].3, b"x");
    }

    #[test]
    fn the_header_to_the_byte() {
        let mut archive = Archive::new();
        archive.file("ab", 0o600, "hello").unwrap();
        let expected = concat!(
            "070701",
            "00000001",
            "00008180",
            "00000000",
            "00000000",
            "00000001",
            "0000002A",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000003",
            "00000000",
            "ab\0\0\0\0",
            "hello\0\0\0",
            "070701",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000B",
            "00000000",
            "TRAILER!!!\0\0\0\0",
        );
        let bytes = archive.render(42);
        assert_eq!(String::from_utf8_lossy(&bytes).trim_end_matches('\0'), expected.trim_end_matches('\0'));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let mut archive = sample();
        for bad in ["", "/bin", "a//b", "a/", "./a", "../a", "a/../b", "TRAILER!!!", "a\0b"] {
            assert!(archive.file(bad, 0o644, "").is_err(), "{bad:?}");
        }
        assert!(archive.file("bin/x", 0o644, "").is_err(), "taken");
        assert!(archive.file("bin/x/z", 0o644, "").is_err(), "below a file");
        assert!(archive.file("w", 0o100_644, "").is_err(), "mode with a type");
    }
}
