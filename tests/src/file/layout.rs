//! Partition table, boot code, loaders, root file system: where things lie.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use qemu::Arch;

use crate::check::{PASS, Verdict, fail, none_of};
use crate::image::{Opened, Partition, section};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Two programs that had no part in writing the table find nothing wrong with it.
pub(super) fn partition_table_valid(image: &mut Opened) -> Verdict {
    let mut findings = Vec::new();
    let file = image.ctx.image.as_os_str();
    for (program, option, good) in
        [("sfdisk", "--verify", "No errors detected."), ("sgdisk", "--verify", "No problems found.")]
    {
        let output = image.ctx.programs.command(program).arg(option).arg(file).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() || !said.contains(good) || !errors.trim().is_empty() {
            findings.push(format!(
                "{program} {option}: {}\n{}\n{}",
                output.status,
                said.trim(),
                errors.trim()
            ));
        }
    }
    none_of(&findings)
}

/// What the table has to hold: name, type, and size in MiB where it is fixed.
fn expected(arch: Arch) -> Vec<(&'static str, &'static str, Option<u64>)> {
    let root = match arch {
        Arch::Amd64 => "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        Arch::Arm64 => "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    };
    let bios = ("bios", "21686148-6449-6E6F-744E-656564454649", Some(1));
    let all = [
        ("boot", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", Some(512)),
        ("root-a", root, Some(1024)),
        ("data", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", Some(64)),
    ];
    (arch == Arch::Amd64).then_some(bios).into_iter().chain(all).collect()
}

pub(super) fn partitions_are_ours(image: &mut Opened) -> Verdict {
    let mut findings = Vec::new();
    let expected = expected(image.ctx.arch);
    let names: Vec<_> = image.partitions.iter().map(|one| one.name.as_str()).collect();
    if names != expected.iter().map(|one| one.0).collect::<Vec<_>>() {
        findings.push(format!("the partitions are {}", names.join(", ")));
    }
    for (name, kind, size) in expected {
        let Ok(found) = image.partition(name) else { continue };
        if found.kind != kind {
            findings.push(format!("{name} has the type {}", found.kind));
        }
        if found.start % MIB != 0 {
            findings.push(format!("{name} starts at byte {}, not at a MiB", found.start));
        }
        if size.is_some_and(|size| size * MIB != found.size) {
            findings.push(format!("{name} has {} bytes", found.size));
        }
    }
    none_of(&findings)
}

/// GRUB's first sector finds the core image, and that one finds its own rest (GRUB, `boot.S` and
/// `diskboot.S`: a sector number at 0x5c of the first sector, and in the last block list entry of the core's
/// first sector).
pub(super) fn bios_boot_code_in_place(image: &mut Opened) -> Verdict {
    let bios = image.partition("bios")?;
    let mut first = [0; 512];
    section(&image.ctx.image, 0, SECTOR)?.read_exact(&mut first)?;
    let mut core = [0; 512];
    section(&image.ctx.image, bios.start, SECTOR)?.read_exact(&mut core)?;
    none_of(&boot_code(&first, &core, bios))
}

fn boot_code(first: &[u8; 512], core: &[u8; 512], bios: &Partition) -> Vec<String> {
    let number = |bytes: &[u8], at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(number)
    };
    let mut findings = Vec::new();
    if first[510..] != [0x55, 0xaa] {
        findings.push("the first sector is not marked as bootable".to_owned());
    }
    if first[..0x5a].iter().all(|byte| *byte == 0) {
        findings.push("the first sector holds no boot code".to_owned());
    }
    let (points, start) = (number(first, 0x5c), bios.start / SECTOR);
    if points != start {
        findings.push(format!("the boot code looks for GRUB's core at sector {points}; it is at {start}"));
    }
    let rest = number(core, 0x1f4);
    if rest != start + 1 {
        findings.push(format!("GRUB's core looks for its rest at sector {rest}; it is at {}", start + 1));
    }
    findings
}

/// The removable-media names of the UEFI specification (2.10, 3.5.1.1) and what shim starts next.
pub(super) fn esp_has_both_loaders(image: &mut Opened) -> Verdict {
    let names = match image.ctx.arch {
        Arch::Amd64 => ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi"],
        Arch::Arm64 => ["EFI/BOOT/BOOTAA64.EFI", "EFI/BOOT/grubaa64.efi"],
    };
    let mut findings = Vec::new();
    for name in names {
        let Some(file) = find_ignoring_case(&image.boot, name) else {
            findings.push(format!("there is no {name} on the boot partition"));
            continue;
        };
        match signature_size(&fs_err::read(&file)?) {
            Ok(0) => findings.push(format!("{name} carries no signature")),
            Ok(_) => {}
            Err(error) => findings.push(format!("{name} is no UEFI program: {error}")),
        }
    }
    none_of(&findings)
}

/// FAT keeps names in the case they were given and finds them in any.
fn find_ignoring_case(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    name.split('/').try_fold(folder.to_owned(), |folder, part| {
        let entries = fs_err::read_dir(folder).ok()?.filter_map(Result::ok);
        entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|own| own.eq_ignore_ascii_case(part)))
    })
}

/// Size of a UEFI program's certificate table (Microsoft PE format: data directory 4).
fn signature_size(program: &[u8]) -> anyhow::Result<u32> {
    let number = |at: usize| -> anyhow::Result<u32> {
        let bytes = program.get(at..at + 4).context("it ends in its header")?;
        Ok(u32::from_le_bytes(bytes.try_into()?))
    };
    let header = usize::try_from(number(0x3c)?)?;
    ensure!(program.get(header..header + 4) == Some(b"PE\0\0"), "it has no PE header");
    let optional = header + 24;
    ensure!(number(optional)? & 0xffff == 0x20b, "it is not of the 64-bit kind");
    number(optional + 112 + 4 * 8 + 4)
}

/// The superblock is at byte 1024 (Linux, `erofs_fs.h`): magic, block size as a power of two at 12, number of
/// blocks at 36.
pub(super) fn root_is_erofs_and_fits(image: &mut Opened) -> Verdict {
    let root = image.partition("root-a")?;
    let mut superblock = [0; 128];
    section(&image.ctx.image, root.start + 1024, 128)?.read_exact(&mut superblock)?;
    let number = |at: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|n| superblock[at + n])));
    if number(0) != 0xe0f5_e1e2 {
        return fail("root-a holds no erofs");
    }
    let size = number(36) << superblock[12];
    if size == 0 || size > root.size {
        return fail(format!("the file system has {size} bytes, its partition {}", root.size));
    }
    // Opening the image has read every byte of it by fsck.erofs already.
    if image.root.join("usr/bin/cipolla").exists() {
        PASS
    } else {
        fail("there is no /usr/bin/cipolla in it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_code_points_at_the_core() {
        let bios = Partition { name: "bios".into(), kind: String::new(), start: 2048 * SECTOR, size: MIB };
        let (mut first, mut core) = ([0; 512], [0; 512]);
        assert_eq!(boot_code(&first, &core, &bios).len(), 4);
        first[0] = 0xeb;
        first[510..].copy_from_slice(&[0x55, 0xaa]);
        first[0x5c..0x64].copy_from_slice(&2048u64.to_le_bytes());
        core[0x1f4..0x1fc].copy_from_slice(&2049u64.to_le_bytes());
        assert!(boot_code(&first, &core, &bios).is_empty());
    }

    #[test]
    fn signatures_are_found() {
        let mut program = vec![0; 512];
        program[0x3c] = 0x80;
        program[0x80..0x84].copy_from_slice(b"PE\0\0");
        program[0x98..0x9a].copy_from_slice(&0x20bu16.to_le_bytes());
        assert_eq!(signature_size(&program).unwrap(), 0);
        program[0x98 + 112 + 36] = 9;
        assert_eq!(signature_size(&program).unwrap(), 9);
        assert!(signature_size(b"MZ").is_err());
    }
}
