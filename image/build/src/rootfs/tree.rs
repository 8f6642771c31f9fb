//! A file tree as data: every path with its metadata, and where its bytes are. Pure but for reading the tar index.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use crate::exec::interrupted;

/// Where a regular file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the bootstrap's tar, at this offset.
    Base(u64),
    /// In a file of the host: the overlay, the agent.
    Host(Utf8PathBuf),
    /// Here: what the builder itself writes.
    Bytes(Vec<u8>),
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A regular file of so many bytes.
    File {
        /// Where the bytes are.
        source: Source,
        /// How many.
        size: u64,
    },
    /// A symbolic link with this target.
    Symlink(String),
    /// Another name of the file at this path.
    Hardlink(String),
    /// A device, fifo or socket: never shipped, kept only to be dropped by name.
    Special,
}

/// One path of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Extended attributes: name and value.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Paths without a leading slash, in the order of their bytes: parents come before their children.
pub type Tree = BTreeMap<String, Node>;

/// Reads the index of a tar: everything but the bytes of its files.
///
/// # Errors
/// The tar is damaged, or holds a path that is not UTF-8 or leads out of the tree.
pub fn index(tar: &Utf8Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(fs_err::File::open(tar)?);
    for entry in archive.entries_with_seek().with_context(|| format!("reading {tar}"))? {
        interrupted()?;
        let mut entry = entry.with_context(|| format!("reading {tar}"))?;
        let path = clean(&utf8(&entry.path_bytes(), tar)?, tar)?;
        if path.is_empty() {
            continue;
        }
        let link = match entry.link_name_bytes() {
            Some(bytes) => utf8(&bytes, tar)?,
            None => String::new(),
        };
        let mut xattrs = Vec::new();
        if let Some(extensions) =
            entry.pax_extensions().with_context(|| format!("reading {path} in {tar}"))?
        {
            for extension in extensions {
                let extension = extension.with_context(|| format!("reading {path} in {tar}"))?;
                if let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) {
                    xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
                }
            }
        }
        xattrs.sort();
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Dir,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                Kind::File { source: Source::Base(entry.raw_file_position()), size: entry.size() }
            }
            tar::EntryType::Symlink => Kind::Symlink(link),
            tar::EntryType::Link => Kind::Hardlink(clean(&link, tar)?),
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => Kind::Special,
            other => bail!("{path} in {tar} is of an unknown kind {other:?}"),
        };
        if header.entry_type() == tar::EntryType::GNUSparse {
            bail!("{path} in {tar} is stored sparsely, which the rootfs stage does not read");
        }
        let id = |value: std::io::Result<u64>| -> Result<u32> {
            u32::try_from(value?).with_context(|| format!("the owner of {path} in {tar}"))
        };
        let node = Node {
            kind,
            mode: header.mode()? & 0o7777,
            uid: id(header.uid())?,
            gid: id(header.gid())?,
            mtime: header.mtime()?,
            xattrs,
        };
        tree.insert(path, node);
    }
    Ok(tree)
}

fn utf8(bytes: &[u8], tar: &Utf8Path) -> Result<String> {
    let text = std::str::from_utf8(bytes);
    Ok(text
        .with_context(|| format!("{tar} holds a name that is not UTF-8: {}", bytes.escape_ascii()))?
        .to_owned())
}

fn clean(path: &str, tar: &Utf8Path) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        bail!("{tar} holds a path that leads out of the tree: {path}");
    }
    Ok(parts.join("/"))
}

/// Opens what a [`Source`] names, for streaming.
///
/// # Errors
/// The file cannot be opened.
pub fn open<'a>(source: &'a Source, size: u64, base: &'a Utf8Path) -> Result<Box<dyn Read + 'a>> {
    Ok(match source {
        Source::Base(offset) => {
            let mut file = fs_err::File::open(base)?;
            file.seek(SeekFrom::Start(*offset))?;
            Box::new(file.take(size))
        }
        Source::Host(path) => Box::new(fs_err::File::open(path)?),
        Source::Bytes(bytes) => Box::new(bytes.as_slice()),
    })
}

/// The text of a small file of the tree, such as `etc/passwd`.
///
/// # Errors
/// There is no such file, it is larger than 4 MiB, or not UTF-8.
pub fn text(tree: &Tree, path: &str, base: &Utf8Path) -> Result<String> {
    let Some(Node { kind: Kind::File { source, size }, .. }) = tree.get(path) else {
        bail!("the image has no file /{path}");
    };
    if *size > 4 << 20 {
        bail!("/{path} is too large to be configuration");
    }
    let mut text = String::new();
    open(source, *size, base)?.read_to_string(&mut text).with_context(|| format!("reading /{path}"))?;
    Ok(text)
}
