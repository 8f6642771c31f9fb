//! The boot partition's file system: FAT32 with label CIPOLLA, made from a list of files.
//!
//! Written here and not with a crate: fatfs 0.3 gives `.` and `..` long names, which `fsck.fat` rejects, and it
//! cannot know the whole content beforehand. Knowing it makes the writer short: every folder and file gets one run
//! of clusters in sorted order, so nothing is ever searched, extended or moved. fatfs reads images back ([`list`],
//! [`read()`]) and is the writer's oracle.
//!
//! Deterministic: names in sorted order, one fixed time, a given volume id. The image is a sparse file; contents
//! pass through a small buffer.
//!
//! Never: a mount, `mkfs.fat` or mtools.

mod name;
mod plan;
mod read;
mod time;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use camino::Utf8PathBuf;

use super::ids::VolumeId;
use plan::Plan;
pub use read::{Entry, Place, list, read};

/// The volume's name: what a person sees after plugging the disk into a computer.
pub const LABEL: &str = "CIPOLLA";

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From memory.
    Bytes(Vec<u8>),
    /// From a file.
    File(Utf8PathBuf),
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        Source::Bytes(text.as_bytes().to_vec())
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        Source::Bytes(text.into_bytes())
    }
}

/// The files of a boot partition by name, such as `grub/grub.cfg`. Folders are implied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    files: BTreeMap<String, Source>,
}

impl Tree {
    /// An empty one.
    pub fn new() -> Self {
        Tree::default()
    }

    /// Adds a file.
    ///
    /// # Errors
    /// The name is no clean relative path, has a character that FAT forbids, or differs from another name in case
    /// only (FAT does not tell them apart).
    pub fn add(&mut self, name: impl Into<String>, source: impl Into<Source>) -> Result<&mut Self> {
        let name = name.into();
        for part in name.split('/') {
            ensure!(
                !matches!(part, "" | "." | "..")
                    && part.len() <= 255
                    && !part.ends_with(['.', ' '])
                    && part.chars().all(|c| c.is_ascii_graphic() && !"\"*:<>?\\|".contains(c)),
                "adding {name:?} to the boot partition: {part:?} is no name that FAT can hold"
            );
        }
        for taken in self.files.keys() {
            ensure!(!clash(taken, &name), "adding {name} to the boot partition: it clashes with {taken}");
        }
        self.files.insert(name, source.into());
        Ok(self)
    }

    /// The files in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.files.iter().map(|(name, source)| (name.as_str(), source))
    }
}

/// Whether two names cannot both be files: the same, or one a folder of the other, or folders that differ in case.
fn clash(a: &str, b: &str) -> bool {
    let (mut left, mut right) = (a.split('/').peekable(), b.split('/').peekable());
    loop {
        match (left.next(), right.next()) {
            (Some(x), Some(y)) if x == y => {
                if left.peek().is_none() || right.peek().is_none() {
                    return true;
                }
            }
            (Some(x), Some(y)) => return x.eq_ignore_ascii_case(y),
            _ => return true,
        }
    }
}

/// What the file system is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Length of the partition in bytes.
    pub size: u64,
    /// The volume id.
    pub id: VolumeId,
    /// Seconds since 1970, for every entry. FAT knows 1980 to 2107, in steps of two seconds; outside of that the
    /// nearest value is taken.
    pub time: u64,
}

/// Writes the file system into an empty file, which gets the partition's length.
///
/// # Errors
/// The size makes no FAT32, a source cannot be read or changes meanwhile, the files do not fit, or writing fails.
pub fn write(image: &File, options: Options, tree: &Tree) -> Result<()> {
    let mut sizes = BTreeMap::new();
    for (name, source) in tree.iter() {
        let size = match source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File(path) => fs_err::metadata(path).with_context(|| adding(name))?.len(),
        };
        let size =
            u32::try_from(size).with_context(|| format!("{}: FAT files end at 4 GiB", adding(name)))?;
        sizes.insert(name, size);
    }
    let plan = Plan::new(options, &sizes)?;
    image.set_len(options.size).context("sizing the boot file system")?;
    for (offset, bytes) in plan.metadata() {
        image.write_all_at(&bytes, offset).context("writing the boot file system's tables")?;
    }
    for (name, source) in tree.iter() {
        let Some(offset) = plan.offset(name) else { continue }; // an empty file has no place
        copy(source, u64::from(sizes[name]), image, offset).with_context(|| adding(name))?;
    }
    Ok(())
}

fn adding(name: &str) -> String {
    format!("adding {name} to the boot file system")
}

fn copy(source: &Source, size: u64, image: &File, offset: u64) -> Result<()> {
    match source {
        Source::Bytes(bytes) => image.write_all_at(bytes, offset).context("writing"),
        Source::File(path) => {
            let mut from = fs_err::File::open(path)?;
            let mut buffer = vec![0; 1 << 20];
            let mut done = 0;
            loop {
                let n = from.read(&mut buffer)?;
                if n == 0 {
                    ensure!(done == size, "reading {path}: it changed while it was copied");
                    return Ok(());
                }
                ensure!(done + n as u64 <= size, "reading {path}: it changed while it was copied");
                image.write_all_at(&buffer[..n], offset + done).context("writing")?;
                done += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests;
