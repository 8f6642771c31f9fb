//! Placing GRUB for machines with a BIOS. Pure: two images and a partition in, patched bytes out.
//!
//! The firmware loads block 0 (`boot.img`), which loads the one block at the address in its bytes 0x5c. That is the
//! first block of the core image, whose own list at its end says where the rest is. GRUB 2.12, `boot.S`,
//! `diskboot.S` and `util/setup.c`.
//!
//! Not done, and not needed: the Reed–Solomon redundancy that grub-install may add behind the core. grub-mkimage
//! leaves its length at zero, and the loader then skips the repair.
//!
//! Never: file access.

use thiserror::Error;

use super::layout::{BLOCK, Partition};
use super::mbr::BOOT_CODE;

/// `boot.img`: u64 LE, block of the core's first 512 bytes (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const CORE_ADDRESS: usize = 0x5c;
/// `boot.img`: a jump that skips the repair of a wrong drive number (`GRUB_BOOT_MACHINE_DRIVE_CHECK`).
const DRIVE_CHECK: usize = 0x66;
/// Core, first block: the entry of its block list: u64 start, u16 length, u16 segment. Lists grow downwards.
const LIST_START: usize = 0x1f4;
const LIST_LENGTH: usize = 0x1fc;
const LIST_SEGMENT: usize = 0x1fe;
/// Length field of the next entry; zero ends the list.
const LIST_NEXT_LENGTH: usize = LIST_LENGTH - 12;
/// The first block lies at 0x8000, so the rest goes to segment 0x820.
const REST_SEGMENT: u16 = 0x820;

/// GRUB's boot code, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BiosBoot {
    /// For the start of block 0; partition entries and disk signature come behind it.
    pub code: [u8; BOOT_CODE],
    /// For the start of the BIOS boot partition.
    pub core: Vec<u8>,
}

/// Images that are not what grub-mkimage and grub-pc-bin make.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BiosError {
    /// `boot.img` is not a boot block.
    #[error(
        "reading boot.img: {0} bytes, or no 55 aa at its end; GRUB's i386-pc/boot.img of 512 bytes is wanted"
    )]
    NotABootBlock(usize),
    /// `boot.img` of another GRUB.
    #[error("reading boot.img: no jump at byte 0x66; it is not GRUB 2's i386-pc/boot.img")]
    UnknownBootBlock,
    /// The core image has no second block.
    #[error("reading the core image: {0} bytes is too short; make it with grub-mkimage -O i386-pc")]
    CoreTooShort(usize),
    /// The block list is not the single entry that grub-mkimage writes for an image that lies in one piece.
    #[error(
        "reading the core image: its block list says {length} blocks to segment {segment:#x} instead of \
         {expected} to {REST_SEGMENT:#x}; make it with grub-mkimage -O i386-pc"
    )]
    UnknownBlockList {
        /// Blocks named by the list.
        length: u16,
        /// Where they are to be loaded.
        segment: u16,
        /// Blocks behind the first one.
        expected: usize,
    },
    /// The partition is too small.
    #[error("placing the core image: {bytes} bytes do not fit in a partition of {room}; embed fewer modules")]
    CoreTooLarge {
        /// Length of the core image.
        bytes: usize,
        /// Length of the partition.
        room: u64,
    },
}

/// Ties `boot.img` and the core image to a partition that lies in one piece.
///
/// # Errors
/// An image is not of the expected kind, or the core does not fit.
pub fn place(boot_img: &[u8], core_img: &[u8], partition: &Partition) -> Result<BiosBoot, BiosError> {
    if boot_img.len() != BLOCK || !boot_img.ends_with(&[0x55, 0xaa]) {
        return Err(BiosError::NotABootBlock(boot_img.len()));
    }
    if boot_img[DRIVE_CHECK] != 0xeb {
        return Err(BiosError::UnknownBootBlock);
    }
    let mut code = [0; BOOT_CODE];
    code.copy_from_slice(&boot_img[..BOOT_CODE]);
    code[CORE_ADDRESS..CORE_ADDRESS + 8].copy_from_slice(&partition.first_lba.to_le_bytes());
    // Some BIOSes pass 0 as the number of a hard disk; without the jump GRUB mends it (grub-install does the same).
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);

    if core_img.len() <= BLOCK {
        return Err(BiosError::CoreTooShort(core_img.len()));
    }
    let field = |at: usize| u16::from_le_bytes([core_img[at], core_img[at + 1]]);
    let expected = core_img.len().div_ceil(BLOCK) - 1;
    let (length, segment) = (field(LIST_LENGTH), field(LIST_SEGMENT));
    if usize::from(length) != expected || segment != REST_SEGMENT || field(LIST_NEXT_LENGTH) != 0 {
        return Err(BiosError::UnknownBlockList { length, segment, expected });
    }
    if core_img.len() as u64 > partition.len() {
        return Err(BiosError::CoreTooLarge { bytes: core_img.len(), room: partition.len() });
    }
    let mut core = core_img.to_vec();
    core[LIST_START..LIST_START + 8].copy_from_slice(&(partition.first_lba + 1).to_le_bytes());
    Ok(BiosBoot { code, core })
}

#[cfg(test)]
mod tests {
    use recipe::Arch;

    use super::super::layout::{Role, tests::small};
    use super::*;

    fn partition() -> Partition {
        *small(Arch::Amd64).partition(Role::Bios).unwrap()
    }

    fn boot_img() -> Vec<u8> {
        let mut image = vec![0xcc; BLOCK];
        image[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0xeb, 0x05]);
        image[510..].copy_from_slice(&[0x55, 0xaa]);
        image
    }

    fn core_img(bytes: usize) -> Vec<u8> {
        let mut image = vec![0; bytes];
        let rest = u16::try_from(bytes.div_ceil(BLOCK) - 1).unwrap();
        image[LIST_START] = 2; // grub-mkimage's own guess
        image[LIST_LENGTH..LIST_LENGTH + 2].copy_from_slice(&rest.to_le_bytes());
        image[LIST_SEGMENT..LIST_SEGMENT + 2].copy_from_slice(&REST_SEGMENT.to_le_bytes());
        image
    }

    #[test]
    fn both_addresses_are_set_and_nothing_else_changes() {
        let (boot, core) = (boot_img(), core_img(100_000));
        let placed = place(&boot, &core, &partition()).unwrap();
        assert_eq!(placed.code[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(placed.core[0x1f4..0x1fc], 2049u64.to_le_bytes());

        let changed = |old: &[u8], new: &[u8]| -> Vec<usize> {
            old.iter().zip(new).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect()
        };
        assert_eq!(
            changed(&boot, &placed.code),
            [0x5c, 0x5d, 0x5e, 0x5f, 0x60, 0x61, 0x62, 0x63, 0x66, 0x67]
        );
        assert_eq!(changed(&core, &placed.core), [0x1f4, 0x1f5]);
        assert_eq!(core.len(), placed.core.len());
    }

    #[test]
    fn the_core_may_fill_the_partition_but_no_more() {
        let room = usize::try_from(partition().len()).unwrap();
        assert!(place(&boot_img(), &core_img(room), &partition()).is_ok());
        assert_eq!(
            place(&boot_img(), &core_img(room + 1), &partition()),
            Err(BiosError::CoreTooLarge { bytes: room + 1, room: 1 << 20 })
        );
    }

    #[test]
    fn other_images_are_refused() {
        let partition = partition();
        let core = core_img(10_000);
        assert_eq!(place(&boot_img()[..511], &core, &partition), Err(BiosError::NotABootBlock(511)));
        let mut unsigned = boot_img();
        unsigned[511] = 0;
        assert_eq!(place(&unsigned, &core, &partition), Err(BiosError::NotABootBlock(512)));
        let mut foreign = boot_img();
        foreign[DRIVE_CHECK] = 0x90;
        assert_eq!(place(&foreign, &core, &partition), Err(BiosError::UnknownBootBlock));
        assert_eq!(place(&boot_img(), &core[..512], &partition), Err(BiosError::CoreTooShort(512)));

        let mut truncated = core.clone();
        truncated.truncate(9_000);
        assert_eq!(
            place(&boot_img(), &truncated, &partition),
            Err(BiosError::UnknownBlockList { length: 19, segment: 0x820, expected: 17 })
        );
        let mut two_entries = core;
        two_entries[LIST_NEXT_LENGTH] = 1;
        assert!(matches!(
            place(&boot_img(), &two_entries, &partition),
            Err(BiosError::UnknownBlockList { .. })
        ));
    }
}
