//! The identifiers of a disk: GUIDs, file system UUIDs, the FAT volume id.
//!
//! All are derived by SHA-256 from the recipe's name and the architecture, never from its version: an update writes
//! a root file system whose command line must name the partitions of a disk that an older version made. Only the
//! root file system's own UUID carries the version as well, so that two slots of one machine differ; nothing finds
//! a slot by it. The price: two disks of the same recipe have equal identifiers, so a machine should hold one.
//!
//! Never: random or time-based values. They would make two builds differ.

use std::fmt;

use recipe::Arch;
use sha2::{Digest as _, Sha256};

/// A GUID or UUID, kept in the byte order in which it is printed (RFC 9562, section 4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

impl Guid {
    /// From the number one reads: `Guid::new(0x21686148_6449_6E6F_744E_656564454649)`.
    pub const fn new(value: u128) -> Self {
        Guid(value.to_be_bytes())
    }

    /// The order of a GUID partition table: the first three fields little-endian (UEFI 2.10, appendix A).
    pub const fn to_gpt_bytes(self) -> [u8; 16] {
        let b = self.0;
        [b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
    }

    /// From the order of a GUID partition table.
    pub const fn from_gpt_bytes(b: [u8; 16]) -> Self {
        // Swapping twice restores, so one permutation serves both ways.
        Guid(Guid(b).to_gpt_bytes())
    }
}

/// Lower case with hyphens, as the kernel writes PARTUUIDs.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// The volume id of a FAT file system; its "UUID" to `blkid`, GRUB and `/dev/disk/by-uuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeId(pub u32);

/// Upper-case `1234-ABCD`, as `blkid` prints and GRUB's `search --fs-uuid` wants it.
impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}-{:04X}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Every identifier of one recipe's disk on one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIds {
    /// The disk's GUID in the table's header.
    pub disk: Guid,
    /// PARTUUID of partition 1.
    pub bios: Guid,
    /// PARTUUID of the boot partition.
    pub boot: Guid,
    /// PARTUUID of slot a's root.
    pub root_a: Guid,
    /// PARTUUID of slot b's root, which systemd-repart makes at first boot.
    pub root_b: Guid,
    /// PARTUUID of the data partition.
    pub data: Guid,
    /// File system UUID of the erofs that this version ships.
    pub root_fs: Guid,
    /// File system UUID of the data partition's ext4.
    pub data_fs: Guid,
    /// ext4's `hash_seed`; left alone, `mke2fs` would draw a random one.
    pub data_hash_seed: Guid,
    /// Volume id of the boot partition's FAT.
    pub boot_fs: VolumeId,
}

impl DiskIds {
    /// Derives all of them. `version` reaches [`Self::root_fs`] only.
    pub fn derive(recipe: &str, arch: Arch, version: &str) -> Self {
        let seed = format!("{recipe}/{arch}");
        let uuid = |purpose: &str| uuid_v8(&seed, purpose);
        let [a, b, c, d, ..] = digest(&seed, "boot file system");
        DiskIds {
            disk: uuid("disk"),
            bios: uuid("partition bios"),
            boot: uuid("partition boot"),
            root_a: uuid("partition root-a"),
            root_b: uuid("partition root-b"),
            data: uuid("partition data"),
            root_fs: uuid(&format!("root file system {version}")),
            data_fs: uuid("data file system"),
            data_hash_seed: uuid("data hash seed"),
            boot_fs: VolumeId(u32::from_be_bytes([a, b, c, d])),
        }
    }
}

fn digest(seed: &str, purpose: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update("cipolla disk identifiers 1\0");
    hash.update(seed);
    hash.update("\0");
    hash.update(purpose);
    hash.finalize().into()
}

/// Version 8, "custom": the version for values made from a hash of one's own choice (RFC 9562, section 5.8).
fn uuid_v8(seed: &str, purpose: &str) -> Guid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(seed, purpose)[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Guid(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn guids(ids: &DiskIds) -> [Guid; 9] {
        [
            ids.disk,
            ids.bios,
            ids.boot,
            ids.root_a,
            ids.root_b,
            ids.data,
            ids.root_fs,
            ids.data_fs,
            ids.data_hash_seed,
        ]
    }

    #[test]
    fn the_values_of_the_mail_recipe_never_change() {
        // A change here cuts every appliance in the field off from its updates.
        let ids = DiskIds::derive("mail", Arch::Amd64, "0.1.0");
        assert_eq!(
            [ids.root_a, ids.root_b, ids.data].map(|id| id.to_string()),
            [
                "044ff267-8aaf-81f9-9402-372da4a0c32c",
                "35a35f4c-7f4a-827f-b86c-272b27026465",
                "d3417e82-96ab-8910-aab1-c5aee5501f98",
            ]
        );
    }

    #[test]
    fn each_is_a_distinct_uuid_of_version_8() {
        let mail = guids(&DiskIds::derive("mail", Arch::Amd64, "1"));
        let arm = guids(&DiskIds::derive("mail", Arch::Arm64, "1"));
        let gateway = guids(&DiskIds::derive("gateway", Arch::Amd64, "1"));
        let all = [mail, arm, gateway].concat();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for id in all {
            let text = id.to_string();
            assert_eq!(&text[14..15], "8", "{text}");
            assert!("89ab".contains(&text[19..20]), "{text}");
        }
    }

    #[test]
    fn a_new_version_changes_the_root_file_system_only() {
        let old = DiskIds::derive("mail", Arch::Amd64, "1");
        let new = DiskIds::derive("mail", Arch::Amd64, "2");
        assert_ne!(old.root_fs, new.root_fs);
        assert_eq!(DiskIds { root_fs: new.root_fs, ..old }, new);
    }

    #[test]
    fn gpt_order_is_mixed_endian() {
        let bios_boot = Guid::new(0x2168_6148_6449_6E6F_744E_6565_6445_4649);
        assert_eq!(&bios_boot.to_gpt_bytes(), b"Hah!IdontNeedEFI");
        assert_eq!(Guid::from_gpt_bytes(*b"Hah!IdontNeedEFI"), bios_boot);
        assert_eq!(bios_boot.to_string(), "21686148-6449-6e6f-744e-656564454649");
    }

    #[test]
    fn a_volume_id_reads_as_blkid_prints_it() {
        assert_eq!(VolumeId(0x0012_abcd).to_string(), "0012-ABCD");
    }
}
