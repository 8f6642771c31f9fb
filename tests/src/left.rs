//! What a power cut left on the data partition, read from outside as the next boot finds it.
//!
//! Nothing is mounted: e2fsck replays the journal as `cipolla initrd` lets it do, debugfs copies the files out. The
//! partition is a file of its own, which is changed by that.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use qemu::Programs;

use crate::Context;
use crate::image;

/// Files that must never change once they are there, as places of the data partition.
pub(crate) const LASTING: [&str; 7] = [
    "var/lib/tor/mx",
    "var/lib/tor/client",
    "var/lib/tor/admin",
    "var/lib/cipolla/private",
    "var/lib/cipolla/tls",
    "var/lib/cipolla/web",
    "etc/upper/ssh",
];

/// Within those places: lists that grow as the start goes on.
const GROWING: [&str; 2] =
    ["var/lib/cipolla/private/rendered.json", "var/lib/cipolla/private/credentials/encrypted-to"];

/// Whether a file of the data partition must never change once it is there, unless the owner wants it.
pub(crate) fn is_lasting(path: &str) -> bool {
    LASTING.iter().any(|place| path.starts_with(place)) && !GROWING.contains(&path) && !is_half_written(path)
}

/// Whether a name is that of the agent's half-written files, or of what postmap makes of them (`atomic::is_temporary`
/// in the agent).
pub(crate) fn is_half_written(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = name.strip_suffix(".lmdb").unwrap_or(name);
    name.starts_with('.') && name.ends_with(".cipolla-new")
}

/// Arguments: the partition's file, a folder for what is in it, an expression (grep -E), places of the partition. The
/// repair is the boot's; whoever finds fault afterwards would have found a damage that no boot repairs. It prints
/// what was wrong, one line each, then the tables of files and of words, each behind an empty line.
const READ: &str = r#"set -eu
data=$1 folder=$2 words=$3
shift 3
rm -rf "$folder"
mkdir "$folder"
status=0
e2fsck -p "$data" >"$folder/fsck.txt" 2>&1 || status=$?
if test $status -gt 3; then
  echo "e2fsck -p, as a boot runs it, ended with $status"
  cat "$folder/fsck.txt"
fi
e2fsck -fn "$data" >"$folder/fsck.txt" 2>&1 || { echo "after e2fsck -p, e2fsck -fn ended with $?"; cat "$folder/fsck.txt"; }
mkdir "$folder/out"
cd "$folder/out"
for place; do
  mkdir -p "./$(dirname "$place")"
  echo "rdump \"/$place\" \"./$(dirname "$place")\""
done >../commands
debugfs -f ../commands "$data" >../debugfs.txt 2>&1
echo
find . -type f -printf '%m %P\n'
echo
find . -type f -exec sha256sum {} +
echo
grep -raoEZ "$words" . | tr '\000' ' '
cd /
rm -rf "$folder""#;

/// A file of the data partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its permission bits.
    pub(crate) mode: u32,
    /// SHA-256 of its content.
    pub(crate) sum: String,
}

/// What a cut left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// What is wrong with the file system, in e2fsck's words; empty if a boot can repair it without losing a bit.
    pub(crate) damage: Vec<String>,
    /// Files by their path on the data partition.
    pub(crate) files: BTreeMap<String, File>,
    /// Words that were looked for, with the file they are in.
    pub(crate) words: Vec<(String, String)>,
}

impl Left {
    /// Repairs the data partition in the file `data` as a boot does, and reads what lies in `places`. `scratch` is a
    /// folder that is made and removed; `words` is an expression (grep -E).
    pub(crate) fn read(
        programs: &Programs,
        data: &Path,
        scratch: &Path,
        words: &str,
        places: &[&str],
    ) -> anyhow::Result<Self> {
        let arguments = ["-c".as_ref(), READ.as_ref(), "sh".as_ref(), data.as_os_str(), scratch.as_os_str()];
        let rest = std::iter::once(words).chain(places.iter().copied()).map(AsRef::as_ref);
        let listed = programs.output("sh", arguments.into_iter().chain(rest))?;
        Self::parse(&String::from_utf8_lossy(&listed))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut tables = text.splitn(2, "\n\n");
        // Without damage the text begins with the line that is empty.
        let (damage, rest) = match (text.strip_prefix('\n'), tables.next(), tables.next()) {
            (Some(rest), ..) => ("", rest),
            (None, Some(damage), Some(rest)) => (damage, rest),
            _ => return Err(anyhow!("the tables of files are missing: {text}")),
        };
        let mut tables = rest.split("\n\n");
        let (modes, sums) = (tables.next().unwrap_or_default(), tables.next().unwrap_or_default());
        let mut sums = checksums(sums);
        let mut file = |line: &str| {
            let (mode, path) = line.split_once(' ')?;
            let file = File { mode: u32::from_str_radix(mode, 8).ok()?, sum: sums.remove(path)? };
            Some((path.to_owned(), file))
        };
        let files = modes
            .lines()
            .map(|line| file(line).with_context(|| format!("a file without mode or sum: {line:?}")))
            .collect::<anyhow::Result<_>>()?;
        let words = tables.next().unwrap_or_default().lines().filter_map(|line| line.rsplit_once(' '));
        let words = words.map(|(path, word)| (word.to_owned(), path.trim_start_matches("./").to_owned()));
        Ok(Self { damage: damage.lines().map(str::to_owned).collect(), files, words: words.collect() })
    }
}

/// `sha256sum`'s lines, by path.
pub(crate) fn checksums(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once("  "));
    lines.map(|(sum, path)| (path.trim_start_matches("./").to_owned(), sum.to_owned())).collect()
}

/// Where the data partition of the tests' disk lies, in bytes: its start, and how much of the disk follows. It may or
/// may not have grown when the power went; its file system knows its own length.
pub(crate) fn data_partition(ctx: &Context) -> anyhow::Result<(u64, u64)> {
    let partitions = image::partitions(&ctx.image, &ctx.programs)?;
    let start = image::named(&partitions, "data")?.start;
    Ok((start, crate::appliance::DISK - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_partition_and_a_damaged_one() {
        let tables = "\n100700 a/b c\n\n0f  ./a/b c\n\n./a/b c word-1\n";
        let tables = tables.replace("100700", "700");
        let left = Left::parse(&tables).unwrap();
        assert!(left.damage.is_empty());
        assert_eq!(left.files["a/b c"], File { mode: 0o700, sum: "0f".to_owned() });
        assert_eq!(left.words, [("word-1".to_owned(), "a/b c".to_owned())]);
        let damaged = Left::parse(&format!("e2fsck -p ended with 4\nInode 7\n{tables}")).unwrap();
        assert_eq!(damaged.damage, ["e2fsck -p ended with 4", "Inode 7"]);
        assert_eq!(damaged.files, left.files);
        assert!(Left::parse("\n700 x\n\n\n\n").is_err());
        assert_eq!(Left::parse("\n\n\n").unwrap(), Left::default());
    }

    #[test]
    fn what_lasts() {
        assert!(is_lasting("var/lib/tor/mx/hostname"));
        assert!(is_lasting("var/lib/cipolla/private/ca.pem"));
        assert!(!is_lasting("var/lib/cipolla/private/rendered.json"));
        assert!(!is_lasting("var/lib/tor/mx/.hostname.cipolla-new"));
        assert!(!is_lasting("var/lib/tor/state"));
    }
}
