//! [`Fs`] on a real file system, below a root folder.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use camino::Utf8Path;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::{Access, Entry, Fs, Kind, Lock, Owner, Replace, Space};

/// The file system below a folder. On the appliance that folder is `/`; in tests any other.
#[derive(Debug)]
pub struct RealFs {
    root: OwnedFd,
    /// Whether files get their owners: an ordinary user cannot give files away.
    owners: bool,
}

impl RealFs {
    /// Opens the root folder.
    ///
    /// # Errors
    /// When it is not a folder or cannot be opened.
    pub fn open(root: &Utf8Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root.as_std_path(), flags, Mode::empty())
            .with_context(|| format!("opening the root folder {root}"))?;
        Ok(Self { root: fd, owners: rustix::process::geteuid().is_root() })
    }

    /// Opens a path that may not leave the root; `NO_SYMLINKS` is up to the caller.
    fn open_at(&self, path: &Utf8Path, flags: OFlags, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path == "/" { "." } else { path.as_str() };
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// The folder of `path`, reached without links, and the last name.
    fn folder<'p>(&self, path: &'p Utf8Path) -> rustix::io::Result<(OwnedFd, &'p str)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = super::atomic::parent(path);
        Ok((self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?, name))
    }

    fn give(&self, fd: &OwnedFd, access: Access) -> rustix::io::Result<()> {
        if self.owners {
            let Owner { uid, gid } = access.owner;
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // After the change of owner, which clears some bits.
        rustix::fs::fchmod(fd, Mode::from_raw_mode(access.mode))
    }
}

impl Fs for RealFs {
    fn read(&self, path: &Utf8Path) -> Result<Option<Vec<u8>>> {
        let fd = match self.open_at(path, OFlags::RDONLY, ResolveFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            opened => opened.with_context(|| format!("opening {path}"))?,
        };
        let mut content = Vec::new();
        File::from(fd).read_to_end(&mut content).with_context(|| format!("reading {path}"))?;
        Ok(Some(content))
    }

    fn entry(&self, path: &Utf8Path) -> Result<Option<Entry>> {
        let stat = self
            .folder(path)
            .and_then(|(folder, name)| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW));
        let stat = match stat {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            stat => stat.with_context(|| format!("looking at {path}"))?,
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            _ => Kind::Other,
        };
        let owner = self.owners.then_some(Owner { uid: stat.st_uid, gid: stat.st_gid });
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        // A time before 1970 is a broken clock's; it counts as old.
        let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
        let modified =
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(stat.st_mtime_nsec);
        Ok(Some(Entry { kind, size, modified, mode: stat.st_mode & 0o7777, owner }))
    }

    fn list(&self, dir: &Utf8Path) -> Result<Vec<String>> {
        let fd = match self.open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            opened => opened.with_context(|| format!("opening the folder {dir}"))?,
        };
        let mut names = Vec::new();
        for entry in Dir::new(fd).with_context(|| format!("reading the folder {dir}"))? {
            let entry = entry.with_context(|| format!("reading the folder {dir}"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn mkdir(&self, path: &Utf8Path, access: Access) -> Result<()> {
        let made = self.folder(path).and_then(|(folder, name)| {
            rustix::fs::mkdirat(&folder, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
            self.give(&fd, access)
        });
        made.with_context(|| format!("making the folder {path}"))
    }

    fn create(&self, path: &Utf8Path, content: &[u8], access: Access) -> Result<()> {
        let opened = self.folder(path).and_then(|(folder, name)| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?;
            self.give(&fd, access)?;
            Ok(fd)
        });
        let fd = opened.with_context(|| format!("creating {path}"))?;
        File::from(fd).write_all(content).with_context(|| format!("writing {path}"))
    }

    fn set_access(&self, path: &Utf8Path, access: Access) -> Result<()> {
        let changed = self.folder(path).and_then(|(folder, name)| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.give(&rustix::fs::openat(&folder, name, flags, Mode::empty())?, access)
        });
        changed.with_context(|| format!("setting owner and mode of {path}"))
    }

    fn sync(&self, path: &Utf8Path) -> Result<()> {
        self.open_at(path, OFlags::RDONLY, ResolveFlags::NO_SYMLINKS)
            .and_then(rustix::fs::fsync)
            .with_context(|| format!("syncing {path} to disk"))
    }

    fn rename(&self, from: &Utf8Path, to: &Utf8Path, replace: Replace) -> Result<()> {
        let flags = match replace {
            Replace::Allowed => RenameFlags::empty(),
            Replace::Never => RenameFlags::NOREPLACE,
        };
        let renamed = self.folder(from).and_then(|(from_folder, from_name)| {
            let (to_folder, to_name) = self.folder(to)?;
            rustix::fs::renameat_with(from_folder, from_name, to_folder, to_name, flags)
        });
        renamed.with_context(|| format!("renaming {from} to {to}"))
    }

    fn overwrite(&self, path: &Utf8Path, size: usize) -> Result<()> {
        let opened = self.folder(path).and_then(|(folder, name)| {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&folder, name, flags, Mode::empty())
        });
        let fd = opened.with_context(|| format!("opening {path}"))?;
        File::from(fd).write_all(&vec![b' '; size]).with_context(|| format!("overwriting {path}"))
    }

    fn lock(&self, dir: &Utf8Path) -> Result<Lock> {
        let fd = self
            .open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
            .and_then(|fd| rustix::fs::flock(&fd, FlockOperation::LockExclusive).map(|()| fd))
            .with_context(|| format!("locking {dir}"))?;
        Ok(Lock::of(fd))
    }

    fn space(&self, path: &Utf8Path) -> Result<Option<Space>> {
        let fd = match self.open_at(path, OFlags::RDONLY, ResolveFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            opened => opened.with_context(|| format!("opening {path}"))?,
        };
        let stat = rustix::fs::fstatvfs(fd).with_context(|| format!("asking for the room on {path}"))?;
        let (total, free) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
        Ok(Some(Space { total, free }))
    }

    fn remove(&self, path: &Utf8Path) -> Result<()> {
        self.folder(path)
            .and_then(|(folder, name)| rustix::fs::unlinkat(folder, name, AtFlags::empty()))
            .with_context(|| format!("removing {path}"))
    }
}
