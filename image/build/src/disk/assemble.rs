//! Puts the parts together: one raw, sparse image file.
//!
//! The image is made under a temporary name beside its final place; the caller renames it. Holes of the parts stay
//! holes.
//!
//! Never: the final name, a part held in memory, a loop device.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use anyhow::{Context as _, Result, bail, ensure};
use camino::Utf8Path;
use rustix::fs::SeekFrom as RawSeek;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::bios::BiosBoot;
use super::gpt;
use super::layout::{Layout, Partition, Role};
use super::mbr::Mbr;

const BUFFER: usize = 1 << 20;
/// What [`content_bytes`] counts in. A buffer holds whole blocks.
const BLOCK: usize = 4096;

/// The contents of a disk: files with the file systems, which may be shorter than their partitions.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// GRUB for BIOS; `None` where there is none.
    pub bios: Option<&'a BiosBoot>,
    /// The boot partition's FAT.
    pub boot: &'a Utf8Path,
    /// The root file system.
    pub root: &'a Utf8Path,
    /// The data partition's ext4.
    pub data: &'a Utf8Path,
}

/// Makes the image in `folder` and returns it under its temporary name, complete and synced to disk. Dropping the
/// result removes the file.
///
/// # Errors
/// A part cannot be read or is larger than its partition, or writing fails.
pub fn assemble(layout: &Layout, parts: &Parts<'_>, folder: &Utf8Path) -> Result<NamedTempFile> {
    let mut image = tempfile::Builder::new()
        .prefix(".disk-")
        .suffix(".img.tmp")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(|| format!("creating the disk image in {folder}"))?;
    let disk = image.as_file_mut();
    disk.set_len(layout.len()).context("sizing the disk image")?;

    let mut mbr = Mbr::for_layout(layout);
    if let Some(BiosBoot { code, core }) = parts.bios {
        mbr = mbr.with_boot_code(code);
        let place = partition(layout, Role::Bios)?;
        fits(place, core.len() as u64, "GRUB's core image")?;
        disk.write_all_at(core, place.offset()).context("writing GRUB's core image")?;
    }
    disk.write_all_at(mbr.as_bytes(), 0).context("writing the master boot record")?;
    gpt::write(disk, layout)?;
    for (role, path) in [(Role::Boot, parts.boot), (Role::RootA, parts.root), (Role::Data, parts.data)] {
        let place = partition(layout, role)?;
        let part = fs_err::File::open(path)?.into_file();
        let len = part.metadata().with_context(|| format!("measuring {path}"))?.len();
        fits(place, len, path.as_str())?;
        copy_sparse(&part, len, disk, place.offset())
            .with_context(|| format!("copying {path} into partition {}", role.name()))?;
    }
    gpt::verify(disk, layout)?;
    disk.sync_all().context("syncing the disk image")?;
    Ok(image)
}

fn partition(layout: &Layout, role: Role) -> Result<&Partition> {
    layout
        .partition(role)
        .with_context(|| format!("placing partition {}: it is not in the layout", role.name()))
}

fn fits(place: &Partition, len: u64, what: &str) -> Result<()> {
    ensure!(
        len <= place.len(),
        "placing {what}: {len} bytes do not fit in partition {} of {}; enlarge it in the recipe's [disk]",
        place.role.name(),
        place.len()
    );
    Ok(())
}

/// Stretches of a file that are not holes: `(start, end)` in bytes. A file system without holes has one.
struct Stretches<'a> {
    file: &'a File,
    at: u64,
    len: u64,
}

impl Iterator for Stretches<'_> {
    type Item = io::Result<(u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.len {
            return None;
        }
        let find = || -> io::Result<Option<(u64, u64)>> {
            let start = match rustix::fs::seek(self.file, RawSeek::Data(self.at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(None), // only a hole is left
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(self.file, RawSeek::Hole(start))?;
            Ok(Some((start, end.min(self.len))))
        };
        match find() {
            Ok(Some((start, end))) => {
                self.at = end;
                Some(Ok((start, end)))
            }
            Ok(None) => {
                self.at = self.len;
                None
            }
            Err(error) => {
                self.at = self.len;
                Some(Err(error))
            }
        }
    }
}

/// Copies `len` bytes of `from` to `offset` in `to`, which must be a hole there.
fn copy_sparse(from: &File, len: u64, to: &File, offset: u64) -> Result<()> {
    let mut in_kernel = true;
    let mut buffer = Vec::new();
    for stretch in (Stretches { file: from, at: 0, len }) {
        let (mut at, end) = stretch.context("looking for data")?;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            if in_kernel {
                let (mut source, mut target) = (at, offset + at);
                match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
                    Ok(0) => bail!("reading at byte {at}: the file became shorter"),
                    Ok(copied) => at += copied as u64,
                    Err(Errno::INTR) => {}
                    // Another file system, or one that cannot: by hand.
                    Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {
                        in_kernel = false;
                        buffer.resize(BUFFER, 0);
                    }
                    Err(error) => return Err(io::Error::from(error)).context("copying"),
                }
            } else {
                let piece = &mut buffer[..left.min(BUFFER)];
                from.read_exact_at(piece, at).context("reading")?;
                to.write_all_at(piece, offset + at).context("writing")?;
                at += piece.len() as u64;
            }
        }
    }
    Ok(())
}

/// Bytes of a file in blocks of 4 KiB that are not all zero. What a file system allocates for a file depends on
/// that file system; this depends on the content alone.
///
/// # Errors
/// The file cannot be read.
pub fn content_bytes(file: &File) -> Result<u64> {
    let len = file.metadata().context("measuring a part of the disk")?.len();
    let mut buffer = vec![0; BUFFER];
    let mut next = 0;
    let mut used = 0;
    for stretch in (Stretches { file, at: 0, len }) {
        let (start, end) = stretch.context("looking for data in a part of the disk")?;
        // Where holes begin and end is the file system's choice too.
        let mut at = (start - start % BLOCK as u64).max(next);
        while at < end {
            let wanted = usize::try_from(len - at).unwrap_or(BUFFER).min(BUFFER);
            let piece = &mut buffer[..wanted];
            file.read_exact_at(piece, at).context("reading a part of the disk")?;
            let blocks = piece.chunks(BLOCK).filter(|block| block.iter().any(|byte| *byte != 0));
            used += (blocks.count() * BLOCK) as u64;
            at += wanted as u64;
        }
        next = at.max(next);
    }
    Ok(used.min(len))
}

/// SHA-256 of a file, in lower-case hex. Holes are not read; their zeros still pass through the hash, since SHA-256
/// has no short cut for them.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(file: &File) -> Result<String> {
    let len = file.metadata().context("measuring the disk image")?.len();
    let zeros = vec![0; BUFFER];
    let mut buffer = vec![0; BUFFER];
    let mut hash = Sha256::new();
    let skip = |hash: &mut Sha256, mut bytes: u64| {
        while bytes > 0 {
            let piece = bytes.min(BUFFER as u64);
            hash.update(&zeros[..usize::try_from(piece).unwrap_or(BUFFER)]);
            bytes -= piece;
        }
    };
    let mut done = 0;
    for stretch in (Stretches { file, at: 0, len }) {
        let (mut at, end) = stretch.context("looking for data in the disk image")?;
        skip(&mut hash, at - done);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            file.read_exact_at(&mut buffer[..wanted], at).context("reading the disk image")?;
            hash.update(&buffer[..wanted]);
            at += wanted as u64;
        }
        done = end;
    }
    skip(&mut hash, len - done);
    Ok(data_encoding::HEXLOWER.encode(&hash.finalize()))
}

#[cfg(test)]
mod tests;
