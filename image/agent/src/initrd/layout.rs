//! The folders of the data partition and the machine-id.
//!
//! Never touches what is inside these folders: that is [`super::factory`]'s (for `/var`) or the owner's.

use anyhow::{Context, Result};
use camino::Utf8Path;

use crate::fs::{Access, Fs, Replace, atomic};

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
    if fs.read(path)?.is_some_and(|id| is_machine_id(&id)) {
        return Ok(());
    }
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("asking the kernel for random bytes for the machine-id")?;
    atomic::put(fs, path, format_machine_id(random).as_bytes(), Access::root(0o444), Replace::Allowed)
}

/// A random (version 4) UUID without dashes, as machine-id(5) wants it.
fn format_machine_id(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    format!("{:032x}\n", u128::from_be_bytes(random))
}

fn is_machine_id(content: &[u8]) -> bool {
    let id = content.strip_suffix(b"\n").unwrap_or(content);
    let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    id.len() == 32 && id.iter().all(hex) && id.iter().any(|b| *b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_a_random_uuid() {
        let id = format_machine_id([0xff; 16]);
        assert_eq!(id, "ffffffffffff4fffbfffffffffffffff\n");
        assert!(is_machine_id(id.as_bytes()));
        assert!(is_machine_id(format_machine_id([0; 16]).as_bytes()));
    }

    #[test]
    fn what_is_not_a_machine_id_is_replaced() {
        for wrong in [
            "",
            "uninitialized\n",
            "00000000000000000000000000000000\n",
            "FFFFFFFFFFFF4FFFBFFFFFFFFFFFFFFF\n",
        ] {
            assert!(!is_machine_id(wrong.as_bytes()), "{wrong:?}");
        }
    }
}
