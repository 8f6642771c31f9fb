//! Names in FAT directories: the 8.3 name that every entry has, and the long name before it where that says more.

use std::collections::BTreeSet;

/// Characters of a long name in one entry.
const LONG_PIECE: usize = 13;
/// Bytes of a directory entry.
pub(super) const ENTRY: usize = 32;

/// Name and extension, padded with spaces.
pub(super) type Short = [u8; 11];

/// The names of one folder's entries, in the same order. `names` are ASCII and differ in more than case.
pub(super) fn short_names(names: &[&str]) -> Vec<Short> {
    let exact: Vec<Option<Short>> = names.iter().map(|name| exact(name)).collect();
    let mut taken: BTreeSet<Short> = exact.iter().flatten().copied().collect();
    names.iter().zip(exact).map(|(name, exact)| exact.unwrap_or_else(|| numbered(name, &mut taken))).collect()
}

/// How many entries a name takes: the short one, and the long ones before it.
pub(super) fn entries(name: &str, short: &Short) -> usize {
    1 + long_pieces(name, short)
}

/// The long entries of a name, last piece first, as they stand before the short entry.
pub(super) fn long_entries(name: &str, short: &Short) -> Vec<[u8; ENTRY]> {
    let pieces = long_pieces(name, short);
    // UTF-16 with one zero behind the name, then ones.
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(LONG_PIECE) {
        units.push(0);
    }
    units.resize(pieces * LONG_PIECE, 0xffff);
    let checksum = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let numbered = (1u8..).zip(units.chunks(LONG_PIECE).take(pieces));
    let mut found: Vec<_> = numbered
        .map(|(number, piece)| {
            let last = usize::from(number) == pieces;
            let mut entry = [0; ENTRY];
            entry[0] = if last { number | 0x40 } else { number };
            entry[11] = 0x0f; // read-only, hidden, system and volume label at once: "long name"
            entry[13] = checksum;
            let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
            for (at, unit) in places.zip(piece) {
                entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            entry
        })
        .collect();
    found.reverse();
    found
}

fn long_pieces(name: &str, short: &Short) -> usize {
    if plain(short) == name { 0 } else { name.len().div_ceil(LONG_PIECE) }
}

/// A short name as one reads it: `GRUB.CFG`.
fn plain(short: &Short) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match text(&short[8..]) {
        extension if extension.is_empty() => text(&short[..8]),
        extension => format!("{}.{extension}", text(&short[..8])),
    }
}

/// The name in capitals, if it fits 8.3 as it is.
fn exact(name: &str) -> Option<Short> {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let fits = |part: &str, room: usize| part.len() <= room && part.chars().all(allowed);
    // A dot at the end was refused before, so an empty extension means that there is no dot.
    (!base.is_empty() && fits(base, 8) && fits(extension, 3)).then(|| padded(base, extension))
}

/// The beginning of the name with `~1`, or the first free number.
fn numbered(name: &str, taken: &mut BTreeSet<Short>) -> Short {
    let (base, extension) = match name.rsplit_once('.') {
        Some((base, extension)) if !base.is_empty() => (base, extension),
        _ => (name, ""),
    };
    let only_allowed = |part: &str| part.chars().filter(|c| allowed(*c)).collect::<String>();
    let (base, mut extension) = (only_allowed(base), only_allowed(extension));
    extension.truncate(3);
    let mut number = 1u32;
    loop {
        let tail = format!("~{number}");
        let head = &base[..base.len().min(8 - tail.len().min(8))];
        let candidate = padded(&format!("{head}{tail}"), &extension);
        if taken.insert(candidate) {
            return candidate;
        }
        number += 1;
    }
}

fn padded(base: &str, extension: &str) -> Short {
    let mut short = [b' '; 11];
    for (to, from) in short[..8].iter_mut().zip(base.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    for (to, from) in short[8..].iter_mut().zip(extension.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    short
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shorts(names: &[&str]) -> Vec<String> {
        short_names(names).iter().map(|short| String::from_utf8_lossy(short).into_owned()).collect()
    }

    #[test]
    fn short_names_are_unique_and_fit() {
        assert_eq!(
            shorts(&[
                "BOOTX64.EFI",
                "grubx64.efi",
                "a",
                "initrd-cipolla",
                "initrd-cipolla.old",
                "vmlinuz",
                ".x"
            ]),
            [
                "BOOTX64 EFI",
                "GRUBX64 EFI",
                "A          ",
                "INITRD~1   ",
                "INITRD~1OLD",
                "VMLINUZ    ",
                "X~1        "
            ]
        );
        assert_eq!(
            shorts(&["cipolla-one", "cipolla-two", "CIPOLL~1", "a+b.toml"]),
            ["CIPOLL~2   ", "CIPOLL~3   ", "CIPOLL~1   ", "AB~1    TOM"]
        );
        let many: Vec<String> = (0..200).map(|i| format!("bcm2711-rpi-{i}.dtb")).collect();
        let names: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(shorts(&names).into_iter().collect::<BTreeSet<_>>().len(), 200);
    }

    #[test]
    fn only_a_name_that_says_more_takes_long_entries() {
        for (name, expected) in
            [("BOOTX64.EFI", 1), ("EFI", 1), ("grub", 2), ("cmdline.txt", 2), ("initrd-cipolla", 3)]
        {
            assert_eq!(entries(name, &short_names(&[name])[0]), expected, "{name}");
            assert_eq!(long_entries(name, &short_names(&[name])[0]).len(), expected - 1, "{name}");
        }
    }

    #[test]
    fn long_entries_to_the_byte() {
        let short = short_names(&["initrd-cipolla"])[0];
        let [last, first] = long_entries("initrd-cipolla", &short)[..] else { panic!("two entries") };
        assert_eq!((first[0], last[0]), (1, 0x42));
        assert_eq!(first[1..11], *b"i\0n\0i\0t\0r\0");
        assert_eq!(first[14..26], *b"d\0-\0c\0i\0p\0o\0");
        assert_eq!(first[28..32], *b"l\0l\0");
        assert_eq!(last[1..11], [b'a', 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(first[13], last[13]);
    }
}
