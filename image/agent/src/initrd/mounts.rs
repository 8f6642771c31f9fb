//! The mounts that make a read-only root writable where it must be.
//!
//! Only mount(2): no program is started, nothing is created. A place that is mounted already is left alone,
//! so that a person who repaired something in the emergency shell can run the step again.

use std::ffi::CString;

use anyhow::{Context, Result};
use camino::Utf8Path;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::MountFlags;

/// The overlay keeps to plain files: without redirects, indices or metadata-only copies, the lower layer may
/// be another image after an update (Linux, overlayfs documentation, "Changes to underlying filesystems").
const OVERLAY_OPTIONS: &str = "redirect_dir=nofollow,index=off,metacopy=off,xino=off";

/// Mounts the data partition. Every bind inherits its flags.
pub(super) fn data(root: &Utf8Path, device: &Utf8Path) -> Result<()> {
    let target = root.join("data");
    if is_mounted(&target)? {
        return Ok(());
    }
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    // A file system with errors becomes read-only: programs then fail loudly instead of losing mail.
    rustix::mount::mount(device.as_str(), target.as_str(), "ext4", flags, Some(c"errors=remount-ro"))
        .with_context(|| {
            format!(
                "mounting the data partition {device} on {target}: is it the partition of this disk, and does \
                 the initramfs hold the ext4 module?"
            )
        })
}

/// Puts the overlay on `/etc`: below the image's files, above what this appliance changed.
pub(super) fn etc(root: &Utf8Path) -> Result<()> {
    let target = root.join("etc");
    if is_mounted(&target)? {
        return Ok(());
    }
    let options = format!(
        "lowerdir={target},upperdir={data}/upper,workdir={data}/work,{OVERLAY_OPTIONS}",
        data = root.join("data/etc"),
    );
    let options = CString::new(options).context("building the overlay's options")?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    rustix::mount::mount("overlay", target.as_str(), "overlay", flags, Some(options.as_c_str())).with_context(
        || format!("mounting the overlay on {target}: does the initramfs hold the overlay module?"),
    )
}

/// Binds a folder of the data partition to its usual place.
pub(super) fn bind(root: &Utf8Path, name: &str) -> Result<()> {
    let (source, target) = (root.join("data").join(name), root.join(name));
    if is_mounted(&target)? {
        return Ok(());
    }
    rustix::mount::mount_bind(source.as_str(), target.as_str())
        .with_context(|| format!("binding {source} to {target}"))
}

/// Whether something is mounted exactly here.
fn is_mounted(path: &Utf8Path) -> Result<bool> {
    let stat = rustix::fs::statx(CWD, path.as_str(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .with_context(|| format!("looking at {path}: the image must have this folder"))?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
