//! Block 0: GRUB's boot code, and four partition entries for firmware that does not know GPT.
//!
//! Never: CHS addresses that mean something; the entries carry the values that say "use the LBA".

use recipe::Arch;

use super::layout::{BLOCK, Layout, Partition, Role};

/// Bytes that a boot loader may use; the disk signature and the entries follow.
pub const BOOT_CODE: usize = 440;
/// Where the first of the four entries lies.
const ENTRIES: usize = 446;
/// Partition type of the entry that guards a GPT (UEFI 2.10, section 5.2.3).
const TYPE_GPT: u8 = 0xee;
/// FAT32, addressed by LBA.
const TYPE_FAT32_LBA: u8 = 0x0c;
/// "Beyond what CHS can say".
const CHS_END: [u8; 3] = [0xff, 0xff, 0xff];

/// The 512 bytes of block 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mbr([u8; BLOCK]);

impl Mbr {
    /// The one for a layout: protective on amd64, hybrid on arm64, where the ROM of the Raspberry Pi 3 and Zero 2 W
    /// looks for a FAT in the MBR only.
    pub fn for_layout(layout: &Layout) -> Self {
        match (layout.arch, layout.partition(Role::Boot)) {
            (Arch::Arm64, Some(boot)) => Mbr::hybrid(boot),
            _ => Mbr::protective(layout.sectors),
        }
    }

    /// One entry that covers the whole disk (UEFI 2.10, table 5.4). `sectors` is the disk's length in blocks.
    pub fn protective(sectors: u64) -> Self {
        // Larger than 2 TiB: all ones, as the specification asks.
        let covered = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
        // CHS 0/0/2 is LBA 1 on any geometry; the specification gives these bytes.
        Mbr::empty().with_entry(0, TYPE_GPT, [0x00, 0x02, 0x00], 1, covered)
    }

    /// Entry 1 is the boot partition as FAT32; entry 2 guards the GPT's header in LBA 1 and nothing else, since
    /// entries must not overlap. Linux and UEFI see the guard and use the GPT.
    pub fn hybrid(boot: &Partition) -> Self {
        let start = u32::try_from(boot.first_lba).unwrap_or(u32::MAX);
        let length = u32::try_from(boot.sectors).unwrap_or(u32::MAX);
        Mbr::empty().with_entry(0, TYPE_FAT32_LBA, CHS_END, start, length).with_entry(
            1,
            TYPE_GPT,
            [0x00, 0x02, 0x00],
            1,
            1,
        )
    }

    /// The same entries behind GRUB's boot code. The disk signature stays zero: PARTUUIDs come from the GPT.
    #[must_use]
    pub fn with_boot_code(mut self, code: &[u8; BOOT_CODE]) -> Self {
        self.0[..BOOT_CODE].copy_from_slice(code);
        self
    }

    /// The bytes to write at the start of the disk.
    pub const fn as_bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    fn empty() -> Self {
        let mut bytes = [0; BLOCK];
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        Mbr(bytes)
    }

    /// Byte 0, "active", stays zero: UEFI wants it so, GRUB and the Pi do not look.
    fn with_entry(mut self, index: usize, kind: u8, chs_start: [u8; 3], start: u32, length: u32) -> Self {
        let at = ENTRIES + index * 16;
        self.0[at + 1..at + 4].copy_from_slice(&chs_start);
        self.0[at + 4] = kind;
        self.0[at + 5..at + 8].copy_from_slice(&CHS_END);
        self.0[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        self.0[at + 12..at + 16].copy_from_slice(&length.to_le_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::small;
    use super::*;

    /// (type, start, length) of the four entries.
    fn entries(mbr: &Mbr) -> Vec<(u8, u32, u32)> {
        let number = |at: usize| u32::from_le_bytes(mbr.0[at..at + 4].try_into().unwrap());
        (0..4).map(|i| ENTRIES + i * 16).map(|at| (mbr.0[at + 4], number(at + 8), number(at + 12))).collect()
    }

    #[test]
    fn amd64_is_protective() {
        let layout = small(Arch::Amd64);
        let mbr = Mbr::for_layout(&layout);
        let covered = u32::try_from(layout.sectors - 1).unwrap();
        assert_eq!(entries(&mbr), [(0xee, 1, covered), (0, 0, 0), (0, 0, 0), (0, 0, 0)]);
        assert_eq!(mbr.as_bytes()[510..], [0x55, 0xaa]);
        assert_eq!(entries(&Mbr::protective(1 << 40))[0], (0xee, 1, u32::MAX));
    }

    #[test]
    fn arm64_is_hybrid() {
        let layout = small(Arch::Arm64);
        let boot = layout.partition(Role::Boot).unwrap();
        let mbr = Mbr::for_layout(&layout);
        let expected = (0x0c, u32::try_from(boot.first_lba).unwrap(), u32::try_from(boot.sectors).unwrap());
        assert_eq!(entries(&mbr), [expected, (0xee, 1, 1), (0, 0, 0), (0, 0, 0)]);
    }

    #[test]
    fn boot_code_leaves_signature_and_entries() {
        let plain = Mbr::protective(4096);
        let coded = plain.clone().with_boot_code(&[0x90; BOOT_CODE]);
        assert_eq!(coded.as_bytes()[..BOOT_CODE], [0x90; BOOT_CODE]);
        assert_eq!(coded.as_bytes()[BOOT_CODE..], plain.as_bytes()[BOOT_CODE..]);
    }
}
