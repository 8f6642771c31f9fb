//! Where each partition of the image lies. Pure: sizes and identifiers in, a [`Layout`] out.
//!
//! ```text
//! LBA 0      1 MiB   2 MiB                                             end
//!  | MBR GPT | bios | boot          | root-a        | data | backup GPT |
//! ```
//!
//! The numbers and names are the same on every architecture. Partition 5, `root-b`, is not in the file:
//! systemd-repart makes it at first boot behind `data`, which grows ([`root_b`] says what it must be).
//!
//! Never: file access.

use recipe::Arch;
use thiserror::Error;

use super::ids::{DiskIds, Guid};

/// Bytes of a logical block, as a length in memory.
pub const BLOCK: usize = 512;
/// Bytes of a logical block, as a length on disk.
pub const SECTOR: u64 = BLOCK as u64;
/// Every partition starts and ends on a multiple of this many bytes, so it suits flash and RAID stripes.
pub const ALIGNMENT: u64 = 1 << 20;

/// GRUB's core for machines with a BIOS; GRUB itself defines this type.
const TYPE_BIOS_BOOT: Guid = Guid::new(0x2168_6148_6449_6E6F_744E_6565_6445_4649);
/// "Linux reserved": nothing mounts it, formats it or looks into it.
const TYPE_LINUX_RESERVED: Guid = Guid::new(0x8DA6_3339_0007_60C0_C436_083A_C823_0908);
/// EFI system partition (UEFI 2.10, table 5.7).
const TYPE_ESP: Guid = Guid::new(0xC12A_7328_F81F_11D2_BA4B_00A0_C93E_C93B);
/// Root partition for 64-bit x86 (Discoverable Partitions Specification).
const TYPE_ROOT_X86_64: Guid = Guid::new(0x4F68_BCE3_E8CD_4DB1_96E7_FBCA_F984_B709);
/// Root partition for 64-bit ARM (Discoverable Partitions Specification).
const TYPE_ROOT_ARM64: Guid = Guid::new(0xB921_B045_1DF0_41C3_AF44_4C6F_280D_3FAE);
/// Generic Linux data: the one Linux type that systemd-gpt-auto-generator never mounts by itself.
const TYPE_LINUX_DATA: Guid = Guid::new(0x0FC6_3DAF_8483_4772_8E79_3D69_D847_7DE4);

/// Bit 60 of the Discoverable Partitions Specification: mount read-only. Bit 59, "grow the file system", stays
/// clear: erofs does not grow.
const READ_ONLY: u64 = 1 << 60;

/// FAT32 needs 65,525 clusters; below this a FAT of 512-byte clusters would be FAT16.
const MIN_BOOT: u64 = 40 << 20;

/// Sizes of the partitions that the recipe chooses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The boot partition.
    pub boot: u64,
    /// Each slot's root partition.
    pub root: u64,
    /// The data partition as shipped; it grows at first boot.
    pub data: u64,
}

/// What a partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// GRUB's core on amd64; on arm64 reserved and empty, so that the numbers agree.
    Bios,
    /// The FAT with boot loaders, kernels and the owner's settings.
    Boot,
    /// Slot a's root file system.
    RootA,
    /// Everything that changes.
    Data,
    /// Slot b's root file system; made at first boot.
    RootB,
}

impl Role {
    /// The partitions of the image file, in the order of their numbers.
    pub const SHIPPED: [Role; 4] = [Role::Bios, Role::Boot, Role::RootA, Role::Data];

    /// The partition's number, from 1.
    pub const fn number(self) -> u32 {
        match self {
            Role::Bios => 1,
            Role::Boot => 2,
            Role::RootA => 3,
            Role::Data => 4,
            Role::RootB => 5,
        }
    }

    /// The partition's name (its PARTLABEL).
    pub const fn name(self) -> &'static str {
        match self {
            Role::Bios => "bios",
            Role::Boot => "boot",
            Role::RootA => "root-a",
            Role::Data => "data",
            Role::RootB => "root-b",
        }
    }

    const fn type_guid(self, arch: Arch) -> Guid {
        match (self, arch) {
            (Role::Bios, Arch::Amd64) => TYPE_BIOS_BOOT,
            (Role::Bios, Arch::Arm64) => TYPE_LINUX_RESERVED,
            (Role::Boot, _) => TYPE_ESP,
            (Role::RootA | Role::RootB, Arch::Amd64) => TYPE_ROOT_X86_64,
            (Role::RootA | Role::RootB, Arch::Arm64) => TYPE_ROOT_ARM64,
            (Role::Data, _) => TYPE_LINUX_DATA,
        }
    }

    const fn id(self, ids: &DiskIds) -> Guid {
        match self {
            Role::Bios => ids.bios,
            Role::Boot => ids.boot,
            Role::RootA => ids.root_a,
            Role::Data => ids.data,
            Role::RootB => ids.root_b,
        }
    }

    const fn attributes(self) -> u64 {
        match self {
            Role::RootA | Role::RootB => READ_ONLY,
            Role::Bios | Role::Boot | Role::Data => 0,
        }
    }
}

/// One partition of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What it is for; gives number and name.
    pub role: Role,
    /// The partition type.
    pub type_guid: Guid,
    /// Its PARTUUID.
    pub id: Guid,
    /// Attribute bits of the table's entry.
    pub attributes: u64,
    /// First logical block.
    pub first_lba: u64,
    /// Length in logical blocks.
    pub sectors: u64,
}

impl Partition {
    /// Bytes from the start of the disk.
    pub const fn offset(&self) -> u64 {
        self.first_lba * SECTOR
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.sectors * SECTOR
    }

    /// Whether it has no block at all; a [`Layout`] never holds such a one.
    pub const fn is_empty(&self) -> bool {
        self.sectors == 0
    }

    /// Last logical block, included.
    pub const fn last_lba(&self) -> u64 {
        self.first_lba + self.sectors - 1
    }
}

/// What systemd-repart must make of partition 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootB {
    /// `Type=`
    pub type_guid: Guid,
    /// `UUID=`
    pub id: Guid,
    /// `Label=`
    pub name: &'static str,
    /// `ReadOnly=yes` sets these bits.
    pub attributes: u64,
}

/// The facts of partition 5.
pub fn root_b(arch: Arch, ids: &DiskIds) -> RootB {
    let role = Role::RootB;
    RootB {
        type_guid: role.type_guid(arch),
        id: role.id(ids),
        name: role.name(),
        attributes: role.attributes(),
    }
}

/// A whole disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The architecture it is for.
    pub arch: Arch,
    /// The disk's GUID.
    pub disk: Guid,
    /// In the order of [`Role::SHIPPED`].
    partitions: [Partition; 4],
    /// Length of the image in logical blocks.
    pub sectors: u64,
}

/// Sizes that make no disk.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// A size is zero or not a multiple of [`ALIGNMENT`].
    #[error("partition {name}: {bytes} bytes is not a whole number of MiB; round it up to {rounded}")]
    Unaligned {
        /// The partition's name.
        name: &'static str,
        /// The size asked for.
        bytes: u64,
        /// The next size that would do.
        rounded: u64,
    },
    /// The boot partition cannot hold a FAT32.
    #[error("partition boot: {bytes} bytes is too small for FAT32; give it at least {MIN_BOOT}")]
    BootTooSmall {
        /// The size asked for.
        bytes: u64,
    },
    /// The sum does not fit in 64 bits.
    #[error("adding up the partitions: the disk would be larger than 2^64 bytes")]
    TooLarge,
}

impl Layout {
    /// Lays the partitions one behind the other.
    ///
    /// # Errors
    /// A size is not a whole number of MiB, the boot partition is too small for FAT32, or the sum overflows.
    pub fn new(arch: Arch, sizes: Sizes, ids: &DiskIds) -> Result<Self, LayoutError> {
        if sizes.boot < MIN_BOOT {
            return Err(LayoutError::BootTooSmall { bytes: sizes.boot });
        }
        let mut end = ALIGNMENT; // MBR, table header and entries fit before this.
        let mut place = |role: Role| {
            let bytes = match role {
                Role::Bios => ALIGNMENT,
                Role::Boot => sizes.boot,
                Role::RootA | Role::RootB => sizes.root,
                Role::Data => sizes.data,
            };
            if bytes == 0 || !bytes.is_multiple_of(ALIGNMENT) {
                let rounded =
                    bytes.max(1).checked_next_multiple_of(ALIGNMENT).ok_or(LayoutError::TooLarge)?;
                return Err(LayoutError::Unaligned { name: role.name(), bytes, rounded });
            }
            let start = end;
            end = end.checked_add(bytes).ok_or(LayoutError::TooLarge)?;
            Ok(Partition {
                role,
                type_guid: role.type_guid(arch),
                id: role.id(ids),
                attributes: role.attributes(),
                first_lba: start / SECTOR,
                sectors: bytes / SECTOR,
            })
        };
        let [bios, boot, root_a, data] = Role::SHIPPED;
        let partitions = [place(bios)?, place(boot)?, place(root_a)?, place(data)?];
        // The backup table takes 33 blocks; a whole MiB keeps the image's length round.
        let total = end.checked_add(ALIGNMENT).ok_or(LayoutError::TooLarge)?;
        Ok(Layout { arch, disk: ids.disk, partitions, sectors: total / SECTOR })
    }

    /// The partitions in the order of their numbers.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition of that role; `None` for [`Role::RootB`], which the file does not hold.
    pub fn partition(&self, role: Role) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.role == role)
    }

    /// Length of the image in bytes.
    pub const fn len(&self) -> u64 {
        self.sectors * SECTOR
    }

    /// Never true: an image has at least its tables.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    pub(crate) fn ids(arch: Arch) -> DiskIds {
        DiskIds::derive("mail", arch, "1")
    }

    pub(crate) fn small(arch: Arch) -> Layout {
        let sizes = Sizes { boot: 48 * MIB, root: 4 * MIB, data: 2 * MIB };
        Layout::new(arch, sizes, &ids(arch)).unwrap()
    }

    #[test]
    fn the_disk_of_the_design() {
        let sizes = Sizes { boot: 512 * MIB, root: 1024 * MIB, data: 64 * MIB };
        let layout = Layout::new(Arch::Amd64, sizes, &ids(Arch::Amd64)).unwrap();
        let rows: Vec<_> = layout
            .partitions()
            .iter()
            .map(|p| (p.role.number(), p.role.name(), p.offset() / MIB, p.len() / MIB, p.attributes))
            .collect();
        assert_eq!(
            rows,
            [
                (1, "bios", 1, 1, 0),
                (2, "boot", 2, 512, 0),
                (3, "root-a", 514, 1024, 0x1000_0000_0000_0000),
                (4, "data", 1538, 64, 0),
            ]
        );
        assert_eq!(layout.len(), 1603 * MIB);
        let types: Vec<_> = layout.partitions().iter().map(|p| p.type_guid.to_string()).collect();
        assert_eq!(
            types,
            [
                "21686148-6449-6e6f-744e-656564454649",
                "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
                "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
                "0fc63daf-8483-4772-8e79-3d69d8477de4",
            ]
        );
    }

    #[test]
    fn arm64_keeps_the_numbers_and_changes_the_types() {
        let layout = small(Arch::Arm64);
        let numbers: Vec<_> = layout.partitions().iter().map(|p| p.role.number()).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!(layout.partitions()[0].type_guid, TYPE_LINUX_RESERVED);
        assert_eq!(layout.partitions()[2].type_guid, TYPE_ROOT_ARM64);
        assert_eq!(root_b(Arch::Arm64, &ids(Arch::Arm64)).type_guid, TYPE_ROOT_ARM64);
    }

    #[test]
    fn wrong_sizes_are_named() {
        let ids = ids(Arch::Amd64);
        let new = |boot, root, data| Layout::new(Arch::Amd64, Sizes { boot, root, data }, &ids);
        assert_eq!(new(8 * MIB, MIB, MIB), Err(LayoutError::BootTooSmall { bytes: 8 * MIB }));
        assert_eq!(
            new(64 * MIB, MIB + 1, MIB).unwrap_err().to_string(),
            "partition root-a: 1048577 bytes is not a whole number of MiB; round it up to 2097152"
        );
        assert_eq!(
            new(64 * MIB, MIB, 0),
            Err(LayoutError::Unaligned { name: "data", bytes: 0, rounded: MIB })
        );
        assert_eq!(new(64 * MIB, u64::MAX - MIB + 1, MIB), Err(LayoutError::TooLarge));
    }

    proptest! {
        #[test]
        fn partitions_touch_and_never_overlap(boot in 40u64..9000, root in 1u64..9000, data in 1u64..9000) {
            let sizes = Sizes { boot: boot * MIB, root: root * MIB, data: data * MIB };
            let layout = Layout::new(Arch::Amd64, sizes, &ids(Arch::Amd64)).unwrap();
            let mut next = ALIGNMENT / SECTOR;
            for partition in layout.partitions() {
                prop_assert_eq!(partition.first_lba, next);
                prop_assert_eq!(partition.offset() % ALIGNMENT, 0);
                next = partition.last_lba() + 1;
            }
            prop_assert!(next + 33 <= layout.sectors);
        }
    }
}
