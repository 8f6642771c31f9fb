//! Tests of whole images, small ones.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;

use camino::Utf8PathBuf;
use recipe::Arch;

use super::super::layout::tests::small;
use super::super::mbr::BOOT_CODE;
use super::*;

struct Work {
    folder: tempfile::TempDir,
}

impl Work {
    fn new() -> Self {
        Work { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Utf8Path {
        self.folder.path().try_into().unwrap()
    }

    /// A file of that length with pieces of data at the given places.
    fn part(&self, name: &str, len: u64, pieces: &[(u64, &[u8])]) -> Utf8PathBuf {
        let path = self.path().join(name);
        let mut file = File::create(&path).unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in pieces {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(bytes).unwrap();
        }
        path
    }
}

fn whole(work: &Work, layout: &Layout) -> NamedTempFile {
    let boot = work.part("boot", 48 << 20, &[(0, b"boot"), (20 << 20, &[5; 70_000])]);
    let root = work.part("root", 1_234_567, &[(1_000_000, b"root")]);
    let data = work.part("data", 2 << 20, &[]);
    let bios = BiosBoot { code: [0x90; BOOT_CODE], core: vec![3; 5000] };
    let bios = (layout.arch == Arch::Amd64).then_some(&bios);
    let parts = Parts { bios, boot: &boot, root: &root, data: &data };
    assemble(layout, &parts, work.path()).unwrap()
}

#[test]
fn every_part_lies_at_its_place() {
    let (work, layout) = (Work::new(), small(Arch::Amd64));
    let image = whole(&work, &layout);
    let bytes = std::fs::read(image.path()).unwrap();
    let at = |role: Role, by: usize, len: usize| {
        let start = usize::try_from(layout.partition(role).unwrap().offset()).unwrap() + by;
        &bytes[start..start + len]
    };
    assert_eq!(bytes.len() as u64, layout.len());
    assert_eq!(bytes[..BOOT_CODE], [0x90; BOOT_CODE]);
    assert_eq!(bytes[450], 0xee);
    assert_eq!(at(Role::Bios, 0, 5000), [3; 5000]);
    assert_eq!(at(Role::Boot, 0, 4), b"boot");
    assert_eq!(at(Role::Boot, 20 << 20, 70_000), [5; 70_000]);
    assert_eq!(at(Role::RootA, 1_000_000, 4), b"root");
    let set = bytes[2 << 20..bytes.len() - 33 * 512].iter().filter(|byte| **byte != 0).count();
    assert_eq!(set, 4 + 70_000 + 4, "nothing else is written");
}

#[test]
fn holes_stay_holes_and_the_file_is_readable_by_others() {
    let (work, layout) = (Work::new(), small(Arch::Arm64));
    let image = whole(&work, &layout);
    let meta = image.as_file().metadata().unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "{} bytes on disk", meta.blocks() * 512);
    assert_eq!(meta.permissions().mode() & 0o777, 0o644);
}

#[test]
fn the_hash_is_that_of_the_bytes() {
    let (work, layout) = (Work::new(), small(Arch::Amd64));
    let image = whole(&work, &layout);
    let bytes = std::fs::read(image.path()).unwrap();
    assert_eq!(sha256(image.as_file()).unwrap(), data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)));
    let empty = work.part("hole", 3 << 20, &[]);
    let expected = Sha256::digest(vec![0; 3 << 20]);
    assert_eq!(sha256(&File::open(empty).unwrap()).unwrap(), data_encoding::HEXLOWER.encode(&expected));
}

#[test]
fn two_runs_give_the_same_bytes() {
    let (work, layout) = (Work::new(), small(Arch::Amd64));
    let hash = |image: NamedTempFile| sha256(image.as_file()).unwrap();
    assert_eq!(hash(whole(&work, &layout)), hash(whole(&work, &layout)));
}

#[test]
fn a_part_that_is_too_large_is_named_and_nothing_is_left() {
    let (work, layout) = (Work::new(), small(Arch::Amd64));
    let boot = work.part("boot", 48 << 20, &[]);
    let root = work.part("root", (4 << 20) + 1, &[]);
    let parts = Parts { bios: None, boot: &boot, root: &root, data: &boot };
    let error = assemble(&layout, &parts, work.path()).unwrap_err().to_string();
    assert!(error.contains("4194305 bytes do not fit in partition root-a of 4194304"), "{error}");
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 2, "the temporary file is gone");
}

#[test]
fn a_missing_part_is_named() {
    let (work, layout) = (Work::new(), small(Arch::Amd64));
    let gone = work.path().join("gone");
    let parts = Parts { bios: None, boot: &gone, root: &gone, data: &gone };
    let error = format!("{:#}", assemble(&layout, &parts, work.path()).unwrap_err());
    assert!(error.contains(gone.as_str()), "{error}");
}

#[test]
fn content_does_not_depend_on_holes() {
    let work = Work::new();
    let len = (5 << 20) + 17;
    let pieces: [(u64, &[u8]); 4] = [(0, b"a"), (4095, b"bc"), (3 << 20, &[0; 9000]), (len - 3, b"end")];
    let sparse = work.part("sparse", len, &pieces);
    let dense = work.path().join("dense");
    std::fs::write(&dense, std::fs::read(&sparse).unwrap()).unwrap();
    for path in [sparse, dense] {
        assert_eq!(content_bytes(&File::open(&path).unwrap()).unwrap(), 3 * BLOCK as u64, "{path}");
    }
    let empty = work.part("empty", 1 << 20, &[]);
    assert_eq!(content_bytes(&File::open(empty).unwrap()).unwrap(), 0);
}
