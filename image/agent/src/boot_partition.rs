//! The boot partition of the running machine: found, mounted while needed, unmounted again.
//!
//! It is the partition named `boot` on the disk that holds the data partition, whatever other disks are
//! there. It is mounted read-only and made writable only to write: a FAT is not safe against power cuts.

use std::cell::Cell;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::machine::BootPartition;
use crate::paths;

/// No boot partition is needed.
#[derive(Debug, Clone, Copy)]
pub struct NoBootPartition;

impl BootPartition for NoBootPartition {
    fn is_there(&self) -> bool {
        false
    }

    fn make_writable(&self) -> Result<()> {
        bail!("there is no boot partition")
    }
}

/// A mounted boot partition, or the reason why there is none. Unmounted when dropped.
#[derive(Debug)]
pub struct MountedBootPartition {
    mounted: Result<(), String>,
    writable: Cell<bool>,
}

impl MountedBootPartition {
    /// Finds and mounts it. Only the running system has one, and only root can mount it.
    #[must_use]
    pub fn find(root: &Utf8Path) -> Self {
        let mounted = if root == "/" && rustix::process::geteuid().is_root() {
            mount().map_err(|error| format!("{error:#}"))
        } else {
            Err("only the running appliance has a boot partition".to_owned())
        };
        Self { mounted, writable: Cell::new(false) }
    }
}

impl BootPartition for MountedBootPartition {
    fn is_there(&self) -> bool {
        self.mounted.is_ok()
    }

    fn make_writable(&self) -> Result<()> {
        if let Err(reason) = &self.mounted {
            bail!("{reason}");
        }
        if !self.writable.get() {
            rustix::mount::mount_remount(paths::BOOT, flags(), c"umask=0077")
                .context("making the boot partition writable")?;
            self.writable.set(true);
        }
        Ok(())
    }
}

impl Drop for MountedBootPartition {
    fn drop(&mut self) {
        if self.mounted.is_ok() {
            // Nothing can be done about a failure here; the file system is synced by every write.
            let _ = rustix::mount::unmount(paths::BOOT, UnmountFlags::DETACH);
        }
    }
}

fn flags() -> MountFlags {
    MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NOATIME
}

fn mount() -> Result<()> {
    let device = find_device()?;
    std::fs::create_dir_all(paths::BOOT).with_context(|| format!("making the folder {}", paths::BOOT))?;
    let flags = flags() | MountFlags::RDONLY;
    rustix::mount::mount(device.as_str(), paths::BOOT, "vfat", flags, c"umask=0077")
        .with_context(|| format!("mounting the boot partition {device}"))
}

/// The device node of the partition `boot` beside the data partition.
fn find_device() -> Result<Utf8PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let number = device_number(&mounts, "/data").context("the data partition is not mounted on /data")?;
    let data = std::fs::canonicalize(format!("/sys/dev/block/{number}"))
        .with_context(|| format!("looking for the block device {number}"))?;
    let disk = data.parent().context("the data partition belongs to no disk")?;
    for entry in std::fs::read_dir(disk).with_context(|| format!("reading {}", disk.display()))? {
        let uevent = entry?.path().join("uevent");
        let Ok(uevent) = std::fs::read_to_string(uevent) else { continue };
        if let Some(name) = partition_node(&uevent, "boot") {
            return Ok(Utf8Path::new("/dev").join(name));
        }
    }
    bail!("the disk {} has no partition named boot", disk.display())
}

/// The device number (`major:minor`) of what is mounted on `target`, from `proc_pid_mountinfo(5)`.
fn device_number<'m>(mountinfo: &'m str, target: &str) -> Option<&'m str> {
    mountinfo.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (number, _root, place) = (fields.next()?, fields.next()?, fields.next()?);
        (place == target).then_some(number)
    })
}

/// The node's name, if this is the uevent of the partition with that name.
fn partition_node<'u>(uevent: &'u str, name: &str) -> Option<&'u str> {
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    (value("PARTNAME")? == name).then(|| value("DEVNAME"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_partition_is_found_among_mounts() {
        let mounts = "21 1 254:3 / / ro - erofs /dev/vda3 ro\n22 21 254:4 / /data rw - ext4 /dev/vda4 rw\n\
                      23 21 254:4 /var /var rw - ext4 /dev/vda4 rw\n";
        assert_eq!(device_number(mounts, "/data"), Some("254:4"));
        assert_eq!(device_number(mounts, "/nowhere"), None);
    }

    #[test]
    fn the_partition_is_known_by_its_name() {
        let uevent = "MAJOR=254\nMINOR=2\nDEVNAME=vda2\nDEVTYPE=partition\nPARTN=2\nPARTNAME=boot\n";
        assert_eq!(partition_node(uevent, "boot"), Some("vda2"));
        assert_eq!(partition_node(uevent, "data"), None);
        assert_eq!(partition_node("DEVNAME=vda\nDEVTYPE=disk\n", "boot"), None);
    }
}
