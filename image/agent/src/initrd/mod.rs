//! What happens between the initramfs and PID 1: the read-only root gets its writable parts.
//!
//! The boot script of the initramfs finds the data partition, enters the root file system with chroot(8)
//! and runs `cipolla initrd`. The story: check the data partition, mount it, complete its layout, then put
//! the overlay on `/etc` and bind `/var`, `/home`, `/root` and `/srv`. Every step may be repeated. Nothing is
//! decided here about identity, except that the machine gets its machine-id: without one, systemd would
//! take the boot for its own first boot and apply presets.

mod factory;
mod layout;
mod mounts;

use std::process::Command;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;

use crate::fs::RealFs;
use crate::image::Image;

/// Folders that live on the data partition and are bound to their usual place.
const BOUND: [&str; 4] = ["var", "home", "root", "srv"];

/// Makes the root file system ready for PID 1.
///
/// # Errors
/// On anything that leaves a writable part missing. The boot must not go on then: programs would find
/// an appliance without identity, or write secrets to memory only.
pub fn run(root: &Utf8Path, device: &Utf8Path) -> Result<()> {
    check_file_system(device)?;
    mounts::data(root, device)?;
    lay_out(root)?;
    mounts::etc(root)?;
    for name in BOUND {
        mounts::bind(root, name)?;
    }
    Ok(())
}

/// Completes the layout of a mounted data partition, without mounting anything.
///
/// # Errors
/// From the file system.
pub fn lay_out(root: &Utf8Path) -> Result<()> {
    let fs = RealFs::open(root)?;
    let image = Image::load(&fs)?;
    layout::folders(&fs)?;
    factory::complete(root, &fs, image.build.as_deref()).context("laying out /var")?;
    layout::machine_id(&fs)
}

/// Runs e2fsck(8), which repairs what needs no decision. A clean file system costs a few milliseconds.
fn check_file_system(device: &Utf8Path) -> Result<()> {
    let program = "/usr/sbin/e2fsck";
    let output = Command::new(program)
        .args(["-p", device.as_str()])
        .output()
        .with_context(|| format!("starting {program} on {device}"))?;
    // e2fsck(8): bit 1 repaired, bit 2 "reboot if it was mounted", which it was not.
    match output.status.code() {
        Some(0..=3) => Ok(()),
        _ => bail!(
            "checking the data partition {device}: {program} ended with {}\n{}{}\
             The data could not be repaired without decisions. Copy the disk first, then repair it by hand \
             from another system: e2fsck -f {device}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        ),
    }
}
