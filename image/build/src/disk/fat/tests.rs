//! Tests of the boot file system on images of their own.

use super::*;

const SIZE: u64 = 48 << 20;
const OPTIONS: Options = Options { size: SIZE, id: VolumeId(0x1234_abcd), time: 1_700_000_001 };

fn sample() -> Tree {
    let mut tree = Tree::new();
    tree.add("grub/grub.cfg", "set timeout=1\n").unwrap();
    tree.add("EFI/BOOT/BOOTX64.EFI", Source::Bytes(vec![7; 100_000])).unwrap();
    tree.add("EFI/debian/grub.cfg", "configfile\n").unwrap();
    tree.add("a/vmlinuz", Source::Bytes((0..3_000_000u32).map(|i| (i % 251) as u8).collect())).unwrap();
    tree.add("a/initrd-cipolla", Source::Bytes(Vec::new())).unwrap();
    tree.add("cipolla.toml", "schema = 1\n").unwrap();
    tree
}

struct Made {
    _folder: tempfile::TempDir,
    path: Utf8PathBuf,
}

impl Made {
    fn new(options: Options, tree: &Tree) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = Utf8PathBuf::from_path_buf(folder.path().join("boot.img")).unwrap();
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        write(&file, options, tree)?;
        Ok(Made { _folder: folder, path })
    }

    fn place(&self) -> Place<'_> {
        Place { file: &self.path, offset: 0, len: SIZE }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

#[test]
fn what_goes_in_comes_out() {
    let made = Made::new(OPTIONS, &sample()).unwrap();
    let rows: Vec<_> =
        list(made.place()).unwrap().into_iter().map(|entry| (entry.path, entry.folder, entry.len)).collect();
    let expected: Vec<_> = [
        ("EFI", true, 0),
        ("EFI/BOOT", true, 0),
        ("EFI/BOOT/BOOTX64.EFI", false, 100_000),
        ("EFI/debian", true, 0),
        ("EFI/debian/grub.cfg", false, 11),
        ("a", true, 0),
        ("a/initrd-cipolla", false, 0),
        ("a/vmlinuz", false, 3_000_000),
        ("cipolla.toml", false, 11),
        ("grub", true, 0),
        ("grub/grub.cfg", false, 14),
    ]
    .map(|(path, folder, len)| (path.to_owned(), folder, len))
    .into();
    assert_eq!(rows, expected);
    for (name, source) in sample().iter() {
        let Source::Bytes(bytes) = source else { continue };
        assert!(read(made.place(), name, 4 << 20).unwrap() == *bytes, "{name}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (first, second) = (Made::new(OPTIONS, &sample()).unwrap(), Made::new(OPTIONS, &sample()).unwrap());
    assert!(first.bytes() == second.bytes());
}

#[test]
fn a_file_source_equals_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().join("kernel")).unwrap();
    let bytes = vec![9; 2_500_000];
    std::fs::write(&path, &bytes).unwrap();
    let mut from_file = Tree::new();
    from_file.add("a/vmlinuz", Source::File(path)).unwrap();
    let mut from_memory = Tree::new();
    from_memory.add("a/vmlinuz", Source::Bytes(bytes)).unwrap();
    assert!(
        Made::new(OPTIONS, &from_file).unwrap().bytes() == Made::new(OPTIONS, &from_memory).unwrap().bytes()
    );
}

#[test]
fn it_is_fat32_with_our_label_id_and_time() {
    let made = Made::new(OPTIONS, &sample()).unwrap();
    let bytes = made.bytes();
    assert_eq!(&bytes[0x52..0x5a], b"FAT32   ");
    assert_eq!(&bytes[0x47..0x52], b"CIPOLLA    ");
    assert_eq!(bytes[0x43..0x47], 0x1234_abcd_u32.to_le_bytes());
    assert_eq!(
        read::open(made.place()).unwrap().read_volume_label_from_root_dir().unwrap().as_deref(),
        Some(LABEL)
    );
    for entry in list(made.place()).unwrap() {
        assert_eq!(entry.modified, [2023, 11, 14, 22, 13, 20], "{}", entry.path);
    }
}

#[test]
fn the_image_is_sparse() {
    use std::os::unix::fs::MetadataExt as _;
    let made = Made::new(OPTIONS, &sample()).unwrap();
    let meta = std::fs::metadata(&made.path).unwrap();
    assert_eq!(meta.len(), SIZE);
    assert!(meta.blocks() * 512 < 8 << 20, "{} bytes on disk", meta.blocks() * 512);
}

#[test]
fn a_full_partition_and_a_small_one_are_errors() {
    let mut large = Tree::new();
    large.add("a/vmlinuz", Source::Bytes(vec![1; 47 << 20])).unwrap();
    large.add("a/initrd", Source::Bytes(vec![1; 4 << 20])).unwrap();
    let error = format!("{:#}", Made::new(OPTIONS, &large).err().unwrap());
    assert!(error.starts_with("laying out the boot file system: "), "{error}");
    assert!(Made::new(Options { size: 16 << 20, ..OPTIONS }, &sample()).is_err());
}

#[test]
fn a_missing_source_is_named() {
    let mut tree = Tree::new();
    tree.add("a/vmlinuz", Source::File("/nonexistent/vmlinuz".into())).unwrap();
    let error = format!("{:#}", Made::new(OPTIONS, &tree).err().unwrap());
    assert!(error.contains("a/vmlinuz") && error.contains("/nonexistent/vmlinuz"), "{error}");
}

#[test]
fn names_that_fat_cannot_hold_are_refused() {
    let mut tree = sample();
    for bad in ["", "/a", "a//b", "../x", "a:b", "a*", "x.", "x ", "é", "a\nb"] {
        assert!(tree.add(bad, "").is_err(), "{bad:?}");
    }
    for clashing in ["A/initrd", "GRUB/x", "grub/GRUB.cfg", "grub", "cipolla.toml/x", "grub/grub.cfg"] {
        assert!(tree.add(clashing, "").is_err(), "{clashing:?}");
    }
    tree.add("b/vmlinuz", "").unwrap();
}
