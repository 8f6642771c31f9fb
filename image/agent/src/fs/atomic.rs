//! How a file appears: whole and durable, or not at all.
//!
//! Temporary file in the same folder → write → fsync → rename → fsync of the folder. The temporary name
//! follows from the final one, so that what a power cut left behind is found and removed by the next run.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::io::Errno;

use super::{Access, Fs, Kind, Replace};

const TEMPORARY_SUFFIX: &str = ".cipolla-new";

/// The temporary name of `path`: hidden, in the same folder, with an ending that no daemon reads.
#[must_use]
pub fn temporary(path: &Utf8Path) -> Utf8PathBuf {
    let name = path.file_name().unwrap_or_default();
    path.with_file_name(format!(".{name}{TEMPORARY_SUFFIX}"))
}

/// Whether a name in a folder is one of ours that a power cut left behind, or what postmap(1) made of one.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    let name = name.strip_suffix(".lmdb").unwrap_or(name);
    name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX)
}

/// Puts a file in place. After `Ok` it survives a power cut; after `Err` or a cut the old state holds, and
/// at most a temporary file remains, which the next call removes.
///
/// # Errors
/// From the file system; with [`Replace::Never`] also when `path` exists.
pub fn put(fs: &dyn Fs, path: &Utf8Path, content: &[u8], access: Access, replace: Replace) -> Result<()> {
    let temporary = temporary(path);
    if fs.entry(&temporary)?.is_some() {
        fs.remove(&temporary)?;
    }
    let written = fs
        .create(&temporary, content, access)
        .and_then(|()| fs.sync(&temporary))
        .and_then(|()| fs.rename(&temporary, path, replace));
    if let Err(error) = written {
        // A full disk must not keep a secret's half. Should this fail too, the next run sees the leftover.
        let _ = fs.remove(&temporary);
        let full = is_disk_full(&error);
        return Err(error).with_context(|| match full {
            true => {
                format!("writing {path} (the disk it lies on is full: make room there, then start again)")
            }
            false => format!("writing {path}"),
        });
    }
    fs.sync(parent(path))
}

/// Whether something could not be written for want of room.
fn is_disk_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
            || cause.downcast_ref::<Errno>() == Some(&Errno::NOSPC)
    })
}

/// Makes sure that a folder is there with these bits and owner. Its parent must exist.
///
/// # Errors
/// From the file system, or when the path names something else than a folder.
pub fn ensure_dir(fs: &dyn Fs, path: &Utf8Path, access: Access) -> Result<()> {
    match fs.entry(path)? {
        None => {
            fs.mkdir(path, access)?;
            fs.sync(parent(path))
        }
        Some(entry) if entry.kind != Kind::Directory => {
            bail!("{path} is not a folder: something else has its name; move it away and start again")
        }
        Some(entry) if !entry.has(access) => fs.set_access(path, access),
        Some(_) => Ok(()),
    }
}

/// The folder that holds `path`.
#[must_use]
pub fn parent(path: &Utf8Path) -> &Utf8Path {
    path.parent().unwrap_or(Utf8Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_leaves_is_known_by_its_name() {
        assert_eq!(temporary(Utf8Path::new("/a/users")), "/a/.users.cipolla-new");
        for name in [".users.cipolla-new", ".senders.cipolla-new.lmdb"] {
            assert!(is_temporary(name), "{name}");
        }
        for name in ["senders.lmdb", ".cipolla", "users.cipolla-new", "senders.cipolla-new.lmdb"] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = || anyhow::Error::from(std::io::Error::from(Errno::NOSPC)).context("writing");
        assert!(is_disk_full(&full()) && is_disk_full(&anyhow::Error::from(Errno::NOSPC).context("syncing")));
        assert!(!is_disk_full(&anyhow::Error::from(Errno::ACCESS)));
    }
}
