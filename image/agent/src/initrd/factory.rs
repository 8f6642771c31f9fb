//! `/var` as the image ships it, completed on the data partition.
//!
//! `/usr/share/factory/var` holds what packages expect in `/var`. What the data partition lacks is copied
//! with owner, mode and time; what it has is never changed, and no link is followed. Copies are made in a
//! folder of their own, synced, and only then renamed into place, so a power cut leaves no half file under a
//! final name. A stamp of the image's build id saves the walk on later boots.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use rustix::fs::{AtFlags, CWD, Gid, RenameFlags, Timespec, Timestamps, Uid};

use crate::fs::{Access, Fs, Replace, atomic};

const STAMP: &str = "/data/.factory-build";
const STAGING: &str = "data/.factory-new";

/// Copies what `/data/var` lacks. Without a build id the walk is made on every boot.
///
/// # Errors
/// From the file system, or when the image ships something else than files, folders and links.
pub(super) fn complete(root: &Utf8Path, fs: &dyn Fs, build: Option<&str>) -> Result<()> {
    let stamp = Utf8Path::new(STAMP);
    if build.is_some() && fs.read(stamp)?.as_deref() == build.map(str::as_bytes) {
        return Ok(());
    }
    let (source, target) = (root.join("usr/share/factory/var"), root.join("data/var"));
    let staging = root.join(STAGING);
    // Left by a power cut: copies only.
    match std::fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {staging}"));
        }
        _ => {}
    }
    let mut missing = Vec::new();
    find_missing(source.as_std_path(), target.as_std_path(), Path::new(""), &mut missing)?;
    if !missing.is_empty() {
        std::fs::create_dir(&staging).with_context(|| format!("making the folder {staging}"))?;
        put_in_place(source.as_std_path(), target.as_std_path(), staging.as_std_path(), &missing)?;
        std::fs::remove_dir(&staging).with_context(|| format!("removing {staging}"))?;
    }
    match build {
        Some(build) => atomic::put(fs, stamp, build.as_bytes(), Access::root(0o644), Replace::Allowed),
        None => Ok(()),
    }
}

/// Collects the topmost paths that `source` has and `target` lacks, relative to both.
fn find_missing(source: &Path, target: &Path, at: &Path, missing: &mut Vec<PathBuf>) -> Result<()> {
    let (from, to) = (source.join(at), target.join(at));
    match to.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            missing.push(at.to_owned());
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("looking at {}", to.display())),
        // Something is there. Only two real folders are compared further.
        Ok(there) if !there.is_dir() || !metadata(&from)?.is_dir() => return Ok(()),
        Ok(_) => {}
    }
    for name in names(&from)? {
        find_missing(source, target, &at.join(name), missing)?;
    }
    Ok(())
}

/// Copies all, makes the copies durable, and gives them their names.
fn put_in_place(source: &Path, target: &Path, staging: &Path, missing: &[PathBuf]) -> Result<()> {
    let staged = |number: usize| staging.join(number.to_string());
    for (number, path) in missing.iter().enumerate() {
        copy(&join(source, path), &staged(number))?;
    }
    sync(staging)?;
    for (number, path) in missing.iter().enumerate() {
        let (from, to) = (staged(number), join(target, path));
        rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE)
            .with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
    }
    sync(staging)
}

/// `base` itself for the empty path: a joined empty path would end with a slash.
fn join(base: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { base.to_owned() } else { base.join(path) }
}

/// Copies one file, link or folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let metadata = metadata(from)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        std::fs::create_dir(to).with_context(|| format!("making the folder {}", to.display()))?;
        for name in names(from)? {
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else if kind.is_symlink() {
        std::fs::read_link(from)
            .and_then(|target| symlink(target, to))
            .with_context(|| format!("copying the link {}", from.display()))?;
    } else if kind.is_file() {
        File::create_new(to)
            .and_then(|mut file| io::copy(&mut File::open(from)?, &mut file))
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    } else {
        bail!("{} is neither file, folder nor link: the image must not ship it", from.display());
    }
    apply_metadata(to, &metadata).with_context(|| format!("setting owner, mode and time of {}", to.display()))
}

/// Owner, then mode (a change of owner clears bits), then time.
fn apply_metadata(path: &Path, metadata: &Metadata) -> Result<()> {
    let here = path.symlink_metadata()?;
    if (here.uid(), here.gid()) != (metadata.uid(), metadata.gid()) {
        let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !metadata.is_symlink() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn metadata(path: &Path) -> Result<Metadata> {
    path.symlink_metadata().with_context(|| format!("looking at {}", path.display()))
}

/// Names in a folder, sorted: the same order on every run.
fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>> {
    let read = || -> io::Result<Vec<_>> {
        let mut names =
            std::fs::read_dir(dir)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    };
    read().with_context(|| format!("reading the folder {}", dir.display()))
}

/// Makes the whole file system durable: one call for all copies instead of one per file.
fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| Ok(rustix::fs::syncfs(dir)?))
        .with_context(|| format!("syncing {} to disk", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;
    use std::fs;

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let factory = dir.path().join("usr/share/factory/var");
            fs::create_dir_all(factory.join("lib/tor/deep")).unwrap();
            fs::create_dir_all(dir.path().join("data")).unwrap();
            fs::write(factory.join("lib/tor/deep/file"), "shipped").unwrap();
            fs::set_permissions(factory.join("lib/tor"), fs::Permissions::from_mode(0o2700)).unwrap();
            symlink("/run", factory.join("run")).unwrap();
            Self { dir }
        }

        fn root(&self) -> &Utf8Path {
            Utf8Path::from_path(self.dir.path()).unwrap()
        }

        fn complete(&self, build: Option<&str>) -> Result<()> {
            complete(self.root(), &RealFs::open(self.root()).unwrap(), build)
        }

        fn var(&self, path: &str) -> PathBuf {
            self.dir.path().join("data/var").join(path)
        }
    }

    #[test]
    fn everything_is_copied_with_mode_and_time() {
        let fixture = Fixture::new();
        fixture.complete(Some("one")).unwrap();
        assert_eq!(fs::read_to_string(fixture.var("lib/tor/deep/file")).unwrap(), "shipped");
        assert_eq!(fs::read_link(fixture.var("run")).unwrap(), Path::new("/run"));
        let (there, here) = (
            fs::metadata(fixture.dir.path().join("usr/share/factory/var/lib/tor")).unwrap(),
            fs::metadata(fixture.var("lib/tor")).unwrap(),
        );
        assert_eq!(there.mode(), here.mode());
        assert_eq!((there.mtime(), there.mtime_nsec()), (here.mtime(), here.mtime_nsec()));
        assert!(!fixture.dir.path().join(STAGING).exists());
    }

    #[test]
    fn what_is_there_stays_and_links_are_not_followed() {
        let fixture = Fixture::new();
        let outside = fixture.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir_all(fixture.var("lib")).unwrap();
        symlink(&outside, fixture.var("lib/tor")).unwrap();
        fs::write(fixture.var("run"), "changed").unwrap();
        fixture.complete(Some("one")).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(fixture.var("run")).unwrap(), "changed");
    }

    #[test]
    fn the_same_build_is_walked_once_and_a_new_one_again() {
        let fixture = Fixture::new();
        fixture.complete(Some("one")).unwrap();
        fs::remove_file(fixture.var("run")).unwrap();
        fixture.complete(Some("one")).unwrap();
        assert!(fixture.var("run").symlink_metadata().is_err());
        fixture.complete(Some("two")).unwrap();
        assert!(fixture.var("run").symlink_metadata().is_ok());
    }

    #[test]
    fn without_a_build_id_every_boot_completes() {
        let fixture = Fixture::new();
        fixture.complete(None).unwrap();
        fs::remove_file(fixture.var("run")).unwrap();
        fixture.complete(None).unwrap();
        assert!(fixture.var("run").symlink_metadata().is_ok());
    }

    #[test]
    fn copies_left_by_a_power_cut_are_removed() {
        let fixture = Fixture::new();
        fs::create_dir_all(fixture.dir.path().join(STAGING).join("0/half")).unwrap();
        fixture.complete(Some("one")).unwrap();
        assert!(!fixture.dir.path().join(STAGING).exists());
        assert!(fixture.var("lib/tor/deep/file").exists());
    }

    #[test]
    fn a_pipe_in_the_image_is_refused() {
        let fixture = Fixture::new();
        let pipe = fixture.dir.path().join("usr/share/factory/var/pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let error = format!("{:#}", fixture.complete(Some("one")).unwrap_err());
        assert!(error.contains("must not ship it"), "{error}");
    }
}
