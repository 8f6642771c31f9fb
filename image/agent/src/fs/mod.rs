//! The one door to the file system.
//!
//! [`Fs`] is deliberately low: each method is one step that a power cut can separate from the next. What is
//! durable and what is not is the caller's business; [`atomic`] holds the only recipe for it. [`RealFs`]
//! works below a root folder; the tests have a second implementation that forgets what was not synced.

pub mod atomic;
mod real;

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use anyhow::Result;
use camino::Utf8Path;

pub use real::RealFs;

/// User and group of a file, as numbers of the appliance's own passwd(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// root:root.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Who may do what with a file: owner and permission bits (`0o7777`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: Owner,
}

impl Access {
    /// root:root with `mode`.
    #[must_use]
    pub const fn root(mode: u32) -> Self {
        Self { mode, owner: Owner::ROOT }
    }
}

/// What kind of thing a path names; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A link, socket, device or pipe: nothing that the agent makes or writes through.
    Other,
}

/// What lstat(2) says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// Its length in bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: SystemTime,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner; `None` where owners are not kept (an ordinary user working on a folder of his).
    pub owner: Option<Owner>,
}

impl Entry {
    /// Whether bits and, where they are kept, owner are these.
    #[must_use]
    pub fn has(&self, access: Access) -> bool {
        self.mode == access.mode && self.owner.is_none_or(|o| o == access.owner)
    }
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What programs may still use.
    pub free: u64,
}

/// A held folder. Dropping it lets others go on.
#[derive(Debug, Default)]
#[must_use]
pub struct Lock {
    _fd: Option<OwnedFd>,
}

impl Lock {
    /// Holds `fd`, which is locked.
    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self { _fd: Some(fd) }
    }
}

/// Whether a rename may take the place of an existing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// The old file gives way.
    Allowed,
    /// An existing file stays and the rename fails: for keys.
    Never,
}

/// File operations on absolute paths of the appliance. Errors name the path.
///
/// Paths of changing operations may not pass through symbolic links: folders such as `/var/lib/tor` belong
/// to daemons, and a daemon must not be able to direct root's writes elsewhere.
pub trait Fs {
    /// The content of a file; `None` if there is none. Follows links, below the root only.
    ///
    /// # Errors
    /// Whatever keeps an existing file from being read.
    fn read(&self, path: &Utf8Path) -> Result<Option<Vec<u8>>>;

    /// What the path names; `None` if nothing.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    fn entry(&self, path: &Utf8Path) -> Result<Option<Entry>>;

    /// Names in a folder, sorted; empty if there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn list(&self, dir: &Utf8Path) -> Result<Vec<String>>;

    /// Makes a folder. Its parent must exist.
    ///
    /// # Errors
    /// When it exists already or cannot be made.
    fn mkdir(&self, path: &Utf8Path, access: Access) -> Result<()>;

    /// Makes a file with this content, neither file nor name being durable yet. Nobody but the owner can
    /// open it before it has its final access.
    ///
    /// # Errors
    /// When it exists already or cannot be written.
    fn create(&self, path: &Utf8Path, content: &[u8], access: Access) -> Result<()>;

    /// Gives an existing file or folder these bits and owner.
    ///
    /// # Errors
    /// When it is a link or cannot be changed.
    fn set_access(&self, path: &Utf8Path, access: Access) -> Result<()>;

    /// Makes a file's content, or a folder's names, durable (fsync(2)).
    ///
    /// # Errors
    /// When the disk says no.
    fn sync(&self, path: &Utf8Path) -> Result<()>;

    /// Gives a file its final name. Both names must be on one file system.
    ///
    /// # Errors
    /// With [`Replace::Never`] also when `to` exists.
    fn rename(&self, from: &Utf8Path, to: &Utf8Path, replace: Replace) -> Result<()>;

    /// Writes `size` spaces over the beginning of an existing file, in place.
    ///
    /// # Errors
    /// When it is a link or cannot be written.
    fn overwrite(&self, path: &Utf8Path, size: usize) -> Result<()>;

    /// Waits until nobody else holds this folder, and holds it until the result is dropped.
    ///
    /// # Errors
    /// When there is no such folder.
    fn lock(&self, dir: &Utf8Path) -> Result<Lock>;

    /// How much room there is on the file system that holds `path`; `None` if the path is not there.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn space(&self, path: &Utf8Path) -> Result<Option<Space>>;

    /// Removes a file's name.
    ///
    /// # Errors
    /// When there is none.
    fn remove(&self, path: &Utf8Path) -> Result<()>;
}
