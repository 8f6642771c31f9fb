//! The GUID partition table, primary and backup, written and read back.
//!
//! Never: block 0, which is [`super::mbr`]'s.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, ensure};
use gptman::{GPT, GPTHeader, GPTPartitionEntry};

use super::ids::Guid;
use super::layout::{Layout, SECTOR};

/// Writes both tables into a disk that already has the layout's length.
///
/// # Errors
/// The disk cannot be read or written, or has another length than the layout.
pub fn write(disk: &mut (impl Read + Write + Seek), layout: &Layout) -> Result<()> {
    check_length(disk, layout)?;
    let mut table =
        GPT::new_from(disk, SECTOR, layout.disk.to_gpt_bytes()).context("preparing the partition table")?;
    for partition in layout.partitions() {
        table[partition.role.number()] = entry(partition);
    }
    table.write_into(disk).context("writing the partition table")?;
    Ok(())
}

/// Reads both tables back and compares every field with the layout.
///
/// # Errors
/// A table is unreadable, its checksum is wrong, or it says something else than the layout.
pub fn verify(disk: &mut (impl Read + Seek), layout: &Layout) -> Result<()> {
    check_length(disk, layout)?;
    let last = layout.sectors - 1;
    for (what, own, other) in [("primary", 1, last), ("backup", last, 1)] {
        disk.seek(SeekFrom::Start(own * SECTOR)).with_context(|| format!("seeking the {what} table"))?;
        // Reading checks the header's checksum, read_partitions that of the entries.
        let header =
            GPTHeader::read_from(disk).with_context(|| format!("reading the {what} table's header"))?;
        let entries = header
            .read_partitions(disk, SECTOR)
            .with_context(|| format!("reading the {what} table's entries"))?;
        ensure!(
            header.primary_lba == own && header.backup_lba == other,
            "checking the {what} table: its header names blocks {} and {} instead of {own} and {other}",
            header.primary_lba,
            header.backup_lba
        );
        let disk_id = Guid::from_gpt_bytes(header.disk_guid);
        ensure!(
            disk_id == layout.disk,
            "checking the {what} table: disk GUID {disk_id} instead of {}",
            layout.disk
        );
        ensure!(
            header.first_usable_lba <= layout.partitions()[0].first_lba
                && layout.partitions().iter().all(|partition| partition.last_lba() <= header.last_usable_lba),
            "checking the {what} table: a partition lies outside the usable blocks {} to {}",
            header.first_usable_lba,
            header.last_usable_lba
        );
        let mut expected = vec![GPTPartitionEntry::empty(); entries.len()];
        for partition in layout.partitions() {
            expected[partition.role.number() as usize - 1] = entry(partition);
        }
        ensure!(
            entries == expected,
            "checking the {what} table: its entries differ from the layout:\n{:#?}",
            entries.iter().filter(|entry| entry.is_used()).collect::<Vec<_>>()
        );
    }
    Ok(())
}

fn entry(partition: &super::layout::Partition) -> GPTPartitionEntry {
    GPTPartitionEntry {
        partition_type_guid: partition.type_guid.to_gpt_bytes(),
        unique_partition_guid: partition.id.to_gpt_bytes(),
        starting_lba: partition.first_lba,
        ending_lba: partition.last_lba(),
        attribute_bits: partition.attributes,
        partition_name: partition.role.name().into(),
    }
}

fn check_length(disk: &mut impl Seek, layout: &Layout) -> Result<()> {
    let length = disk.seek(SeekFrom::End(0)).context("measuring the disk image")?;
    ensure!(
        length == layout.len(),
        "checking the disk image: it has {length} bytes, the layout {}",
        layout.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use recipe::Arch;

    use super::super::layout::tests::small;
    use super::*;

    fn disk(layout: &Layout) -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(layout.len()).unwrap();
        file
    }

    #[test]
    fn both_tables_read_back_as_written() {
        for arch in [Arch::Amd64, Arch::Arm64] {
            let layout = small(arch);
            let mut file = disk(&layout);
            write(&mut file, &layout).unwrap();
            verify(&mut file, &layout).unwrap();
        }
    }

    #[test]
    fn nothing_but_the_tables_is_written() {
        let layout = small(Arch::Amd64);
        let mut file = disk(&layout);
        write(&mut file, &layout).unwrap();
        let mut block = [1; 512];
        file.rewind().unwrap();
        file.read_exact(&mut block).unwrap();
        assert_eq!(block, [0; 512], "block 0 belongs to the MBR");
        let first = layout.partitions()[0].offset();
        let mut inside = vec![1; usize::try_from(layout.len() - first - 33 * 512).unwrap()];
        file.seek(SeekFrom::Start(first)).unwrap();
        file.read_exact(&mut inside).unwrap();
        assert!(inside.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn damage_is_found_in_either_table() {
        let layout = small(Arch::Amd64);
        for at in [512 + 16, 1024 + 40, layout.len() - 512 + 60, layout.len() - 33 * 512 + 8] {
            let mut file = disk(&layout);
            write(&mut file, &layout).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[0xa5]).unwrap();
            assert!(verify(&mut file, &layout).is_err(), "byte {at} changed unseen");
        }
    }

    #[test]
    fn a_disk_of_another_length_is_refused() {
        let layout = small(Arch::Amd64);
        let mut file = disk(&layout);
        file.set_len(layout.len() + 512).unwrap();
        let error = write(&mut file, &layout).unwrap_err().to_string();
        assert!(error.starts_with("checking the disk image: it has "), "{error}");
    }
}
