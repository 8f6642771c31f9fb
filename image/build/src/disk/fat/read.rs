//! Reading a FAT inside an image, for checks on finished images: an implementation independent of the writer.
//!
//! Never: a write; the file is opened read-only.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use fatfs::{DateTime, Dir, FileSystem, FsOptions};

/// One entry of a boot partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name from the root, such as `grub/grub.cfg`.
    pub path: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Length in bytes; 0 for folders.
    pub len: u64,
    /// Year, month, day, hour, minute, second of the last change.
    pub modified: [u16; 6],
}

/// A FAT inside a file: an image of its own (offset 0), or a partition of a disk image.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The file.
    pub file: &'a Utf8Path,
    /// Bytes before the file system.
    pub offset: u64,
    /// Length of the file system in bytes.
    pub len: u64,
}

/// Every file and folder, sorted by name.
///
/// # Errors
/// There is no FAT at that place, or it cannot be read.
pub fn list(place: Place<'_>) -> Result<Vec<Entry>> {
    let fs = open(place)?;
    let mut found = Vec::new();
    walk(&fs.root_dir(), "", &mut found).with_context(|| format!("listing the FAT in {}", place.file))?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The content of a file of at most `limit` bytes.
///
/// # Errors
/// There is no FAT at that place, no such file in it, or it is longer.
pub fn read(place: Place<'_>, name: &str, limit: u64) -> Result<Vec<u8>> {
    let fs = open(place)?;
    let file = fs.root_dir().open_file(name);
    let file = file.with_context(|| format!("opening {name} in the FAT in {}", place.file))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {name} from the FAT in {}", place.file))?;
    if bytes.len() as u64 > limit {
        bail!("reading {name} from the FAT in {}: longer than {limit} bytes", place.file);
    }
    Ok(bytes)
}

pub(super) fn open(place: Place<'_>) -> Result<FileSystem<Window>> {
    let mut window = Window {
        file: fs_err::File::open(place.file)?.into_file(),
        offset: place.offset,
        len: place.len,
        at: 0,
    };
    window.rewind()?;
    FileSystem::new(window, FsOptions::new().update_accessed_date(false))
        .with_context(|| format!("opening the FAT in {} at byte {}", place.file, place.offset))
}

fn walk<T: Read + Write + Seek>(folder: &Dir<'_, T>, prefix: &str, found: &mut Vec<Entry>) -> io::Result<()> {
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let path = format!("{prefix}{name}");
        let DateTime { date, time } = entry.modified();
        if entry.is_dir() {
            walk(&entry.to_dir(), &format!("{path}/"), found)?;
        }
        found.push(Entry {
            path,
            folder: entry.is_dir(),
            len: entry.len(),
            modified: [date.year, date.month, date.day, time.hour, time.min, time.sec],
        });
    }
    Ok(())
}

/// A part of a file, read-only. fatfs asks for `Write` even where it only reads.
pub(super) struct Window {
    file: File,
    offset: u64,
    len: u64,
    at: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let n = self.file.read(&mut buffer[..wanted])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.file.seek(SeekFrom::Start(self.offset + self.at))?;
        Ok(self.at)
    }
}

impl Write for Window {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
