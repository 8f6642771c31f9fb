//! The folders of the data partition and the machine-id.
//!
//! Never touches what is inside these folders: that is [`super::factory`]'s (for `/var`) or the owner's.

use anyhow::Result;
use camino::Utf8Path;
use identity::machine_id::MachineId;

use crate::fs::{Access, Fs, Replace, atomic};
use crate::machine;

/// Top of the data partition. `var` is missing on purpose: its first appearance is one rename, made by
/// [`super::factory`].
const FOLDERS: [(&str, u32); 6] = [
    ("/data/etc", 0o755),
    // The upper folder's own bits become those of the merged /etc.
    ("/data/etc/upper", 0o755),
    ("/data/etc/work", 0o700),
    ("/data/home", 0o755),
    ("/data/root", 0o700),
    ("/data/srv", 0o755),
];

/// machine-id(5), in the upper layer of `/etc`.
const MACHINE_ID: &str = "/data/etc/upper/machine-id";

/// Makes the folders that are missing and sets the owner and bits of all.
pub(super) fn folders(fs: &dyn Fs) -> Result<()> {
    FOLDERS
        .iter()
        .try_for_each(|(path, mode)| atomic::ensure_dir(fs, Utf8Path::new(path), Access::root(*mode)))
}

/// Makes a machine-id if there is no valid one.
pub(super) fn machine_id(fs: &dyn Fs) -> Result<()> {
    let path = Utf8Path::new(MACHINE_ID);
    let known = fs.read(path)?;
    if known.is_some_and(|id| std::str::from_utf8(&id).is_ok_and(|id| id.parse::<MachineId>().is_ok())) {
        return Ok(());
    }
    let id = MachineId::generate(&mut *machine::system_rng()).file();
    atomic::put(fs, path, id.as_bytes(), Access::root(0o444), Replace::Allowed)
}
