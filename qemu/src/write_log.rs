//! The record of all that a machine did to its disk, in the order in which it was done.
//!
//! QEMU's driver `blklogwrites` writes it, in the format of the kernel's dm-log-writes
//! (Documentation/admin-guide/device-mapper/log-writes.rst): a header, then one sector for each request, followed by
//! the data of a write. A request is in it before the guest learns that it is done, so a flush stands behind every
//! write that it vouches for. From the record a disk can be made as a power cut at any moment would have left it,
//! without the machine. The record is only read here; which requests a cut loses is the caller's decision.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{Error, Result};

/// The header's first eight bytes, as a number.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// How much is copied at once, in bytes.
const STEP: usize = 1 << 20;

/// What a machine asks of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes are written. Until the next flush a disk may lose them.
    Write,
    /// Bytes are of no use any more; they read as zeros.
    Discard,
    /// All that was done before it is to survive a power cut.
    Flush,
}

/// One request of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// What it was.
    pub request: Request,
    /// The first byte of the disk that it touches.
    pub offset: u64,
    /// How many bytes it touches.
    pub length: u64,
    /// Where its data lies in the record.
    data: u64,
}

impl Logged {
    /// A request; `data` is where in the record its data lies.
    #[must_use]
    pub fn new(request: Request, offset: u64, length: u64, data: u64) -> Self {
        Self { request, offset, length, data }
    }
}

/// A record that nobody writes to any more.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    path: PathBuf,
    requests: Vec<Logged>,
}

impl WriteLog {
    /// Opens a record and reads its table. The last requests of a machine that was killed may be missing: the header
    /// counts up to the last flush.
    ///
    /// # Errors
    /// When it cannot be read, or is no such record.
    pub fn load(path: &Path) -> Result<Self> {
        let (mut file, _) = fs_err::File::open(path).map_err(Error::io("opening", path))?.into_parts();
        let requests = table(&mut file).map_err(Error::io("reading the record of writes", path))?;
        Ok(Self { file, path: path.to_owned(), requests })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that was done, in order.
    #[must_use]
    pub fn requests(&self) -> &[Logged] {
        &self.requests
    }

    /// The first bytes that a write carried, at most `limit`.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn content(&self, write: &Logged, limit: u64) -> Result<Vec<u8>> {
        let length = if write.request == Request::Write { write.length.min(limit) } else { 0 };
        let mut content = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.read(&mut content, write.data)?;
        Ok(content)
    }

    fn read(&self, block: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(block, at).map_err(Error::io("reading the record of writes", &self.path))
    }

    /// Does to `target` what a request did to the disk. `target` holds the bytes `part` of the disk and stays sparse;
    /// what lies outside of it is left out. Only the request's first `limit` bytes are done: the power may go in the
    /// middle of a write.
    ///
    /// # Errors
    /// When the record cannot be read or `target` cannot be written.
    pub fn repeat(&self, one: &Logged, limit: u64, part: &Range<u64>, target: &File) -> Result<()> {
        let end = (one.offset + one.length.min(limit)).min(part.end);
        let mut at = one.offset.max(part.start);
        let failed = |error: std::io::Error| Error::io("writing a disk after", &self.path)(error);
        let clear = |from: u64, length: u64| {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(target, how, from, length).map_err(|errno| failed(errno.into()))
        };
        match one.request {
            Request::Flush => {}
            Request::Discard if at < end => clear(at - part.start, end - at)?,
            Request::Discard => {}
            Request::Write => {
                let mut block = vec![0; STEP];
                while at < end {
                    let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(STEP);
                    let block = &mut block[..length];
                    self.read(block, one.data + (at - one.offset))?;
                    if block.iter().all(|byte| *byte == 0) {
                        clear(at - part.start, length as u64)?;
                    } else {
                        target.write_all_at(block, at - part.start).map_err(failed)?;
                    }
                    at += length as u64;
                }
            }
        }
        Ok(())
    }
}

/// Walks a record's entries.
fn table(file: &mut File) -> std::io::Result<Vec<Logged>> {
    let broken = |what: &str| IoError::new(ErrorKind::InvalidData, what.to_owned());
    let [magic, version, count, sector] = numbers(file)?;
    if (magic, version) != (MAGIC, VERSION) {
        return Err(broken("this is no record of writes; was the machine ended in order?"));
    }
    // A field of 32 bits, with zeros behind it.
    let sector = u64::from(u32::try_from(sector).map_err(|_| broken("its sector size is none"))?);
    let mut requests = Vec::new();
    let mut at = sector;
    for _ in 0..count {
        file.seek(SeekFrom::Start(at))?;
        let [first, sectors, flags, _] = numbers(file)?;
        let request = match flags {
            0 | FUA => Request::Write,
            FLUSH => Request::Flush,
            DISCARD => Request::Discard,
            _ => return Err(broken("an entry is neither write nor flush nor discard")),
        };
        let (data, length) = (at + sector, sectors * sector);
        at = if request == Request::Write { data + length } else { data };
        requests.push(Logged::new(request, first * sector, length, data));
    }
    Ok(requests)
}

/// Four numbers of 64 bits, the lowest byte first.
fn numbers(file: &mut File) -> std::io::Result<[u64; 4]> {
    let mut bytes = [[0; 8]; 4];
    file.read_exact(bytes.as_flattened_mut())?;
    Ok(bytes.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;

    fn sector(numbers: [u64; 4]) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        bytes
    }

    /// A write of two sectors at 1, a flush, a discard of sector 2, a write of zeros at 1.
    fn record(folder: &Path) -> PathBuf {
        let mut bytes = sector([MAGIC, VERSION, 4, 512]);
        bytes.extend(sector([1, 2, 0, 0]));
        bytes.extend([7; 2 * SECTOR]);
        bytes.extend(sector([0, 0, FLUSH, 0]));
        bytes.extend(sector([2, 1, DISCARD, 0]));
        bytes.extend(sector([1, 1, 0, 0]));
        bytes.extend([0; SECTOR]);
        let path = folder.join("writes.log");
        fs_err::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_disk_is_made_again_request_by_request() {
        let folder = tempfile::tempdir().unwrap();
        let log = WriteLog::load(&record(folder.path())).unwrap();
        let kinds: Vec<_> = log.requests().iter().map(|one| one.request).collect();
        assert_eq!(kinds, [Request::Write, Request::Flush, Request::Discard, Request::Write]);
        let path = folder.path().join("disk");
        let target = File::create_new(&path).unwrap();
        target.set_len(4 * SECTOR as u64).unwrap();
        let mut seen = Vec::new();
        for one in log.requests() {
            log.repeat(one, u64::MAX, &(0..2048), &target).unwrap();
            let disk = fs_err::read(&path).unwrap();
            seen.push(disk.chunks(SECTOR).map(|sector| sector[0]).collect::<Vec<_>>());
        }
        assert_eq!(seen, [[0, 7, 7, 0], [0, 7, 7, 0], [0, 7, 0, 0], [0, 0, 0, 0]]);
        assert_eq!(log.content(&log.requests()[0], 3).unwrap(), [7; 3]);
    }

    #[test]
    fn a_torn_write_and_a_part_of_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let log = WriteLog::load(&record(folder.path())).unwrap();
        let path = folder.path().join("disk");
        let target = File::create_new(&path).unwrap();
        target.set_len(1024).unwrap();
        let write = log.requests()[0];
        // The part begins within the write, and half of the rest is lost.
        log.repeat(&write, 1024 - 256, &(1024..2048), &target).unwrap();
        let disk = fs_err::read(&path).unwrap();
        assert_eq!((disk[255], disk[256]), (7, 0));
        log.repeat(&write, u64::MAX, &(4096..8192), &target).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), disk);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs_err::write(&path, [1; 4096]).unwrap();
        let error = WriteLog::load(&path).unwrap_err().to_string();
        assert!(error.contains("this is no record of writes"), "{error}");
    }
}
