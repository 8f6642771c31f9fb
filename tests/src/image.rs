//! The image file and its manifest, opened without root and without mounting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use qemu::{Programs, RunDir};
use serde::Deserialize;

use crate::Context;

/// A partition, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) name: String,
    /// Its type, in capitals as sfdisk writes it.
    pub(crate) kind: String,
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// What `sfdisk --json` prints, in sectors.
#[derive(Deserialize)]
struct Dump {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    label: String,
    sectorsize: u64,
    partitions: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    start: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
}

/// Reads the partition table by sfdisk, which had no part in writing it.
pub(crate) fn partitions(image: &Path, programs: &Programs) -> anyhow::Result<Vec<Partition>> {
    let json = programs.output("sfdisk", ["--json".as_ref(), image.as_os_str()])?;
    parse_partitions(&json).with_context(|| format!("reading the partition table of {}", image.display()))
}

fn parse_partitions(json: &[u8]) -> anyhow::Result<Vec<Partition>> {
    let table = serde_json::from_slice::<Dump>(json)?.partitiontable;
    if table.label != "gpt" {
        return Err(anyhow!("the partition table is {}, not gpt", table.label));
    }
    let bytes = |row: Row| Partition {
        name: row.name,
        kind: row.kind.to_uppercase(),
        start: row.start * table.sectorsize,
        size: row.size * table.sectorsize,
    };
    Ok(table.partitions.into_iter().map(bytes).collect())
}

/// The partition of that name.
pub(crate) fn named<'a>(partitions: &'a [Partition], name: &str) -> anyhow::Result<&'a Partition> {
    partitions
        .iter()
        .find(|one| one.name == name)
        .ok_or_else(|| anyhow!("there is no partition named {name}"))
}

/// A part of a file, for reading.
pub(crate) fn section(file: &Path, start: u64, size: u64) -> anyhow::Result<impl Read> {
    let mut opened = fs_err::File::open(file)?;
    opened.seek(SeekFrom::Start(start))?;
    Ok(opened.take(size))
}

/// mtools' name of the boot partition: an image file and an offset.
pub(crate) fn fat(image: &Path, boot: &Partition) -> OsString {
    let mut name = image.as_os_str().to_owned();
    name.push(format!("@@{}", boot.start));
    name
}

/// The image taken apart: partitions in place, the two file systems that hold files as folders.
pub(crate) struct Opened {
    pub(crate) ctx: Context,
    pub(crate) partitions: Vec<Partition>,
    /// Folder of the root file system's files; modes are kept, owners are not.
    pub(crate) root: PathBuf,
    /// Folder of the boot partition's files.
    pub(crate) boot: PathBuf,
}

impl Opened {
    /// Takes the image apart in the run folder.
    pub(crate) fn open(ctx: &Context, name: &str) -> anyhow::Result<Self> {
        // A run directory is closed to others: there are programs with setuid bits in it.
        let run_dir = RunDir::create(&ctx.run_root.join(name))?;
        let partitions = partitions(&ctx.image, &ctx.programs)?;
        let root = empty(&run_dir.file("root"), &ctx.programs)?;
        let boot = empty(&run_dir.file("boot"), &ctx.programs)?;
        fs_err::create_dir_all(&boot)?;

        let fs = named(&partitions, "root-a")?;
        let mut extract = OsString::from("--extract=");
        extract.push(&root);
        let arguments: [OsString; 5] = [
            format!("--offset={}", fs.start).into(),
            extract,
            "--no-preserve-owner".into(),
            "--preserve-perms".into(),
            ctx.image.clone().into(),
        ];
        ctx.programs.output("fsck.erofs", arguments)?;
        let fs = fat(&ctx.image, named(&partitions, "boot")?);
        let arguments =
            ["-s".into(), "-n".into(), "-i".into(), fs, "::/".into(), boot.clone().into_os_string()];
        ctx.programs.output("mcopy", arguments)?;
        Ok(Self { ctx: ctx.clone(), partitions, root, boot })
    }

    pub(crate) fn partition(&self, name: &str) -> anyhow::Result<&Partition> {
        named(&self.partitions, name)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !self.ctx.keep {
            // What stays behind is in the way of nothing: the next run empties it first.
            let _ = empty(&self.root, &self.ctx.programs);
            let _ = empty(&self.boot, &self.ctx.programs);
        }
    }
}

/// Removes a folder of an earlier run, whose folders may be closed even to their owner.
fn empty(folder: &Path, programs: &Programs) -> anyhow::Result<PathBuf> {
    if folder.exists() {
        programs.output("chmod", ["-R".as_ref(), "u+rwX".as_ref(), folder.as_os_str()])?;
        fs_err::remove_dir_all(folder)?;
    }
    Ok(folder.to_owned())
}

/// Where programs write down the name of the computer they are on, below the root. Elsewhere a short name is
/// part of innocent words, so only longer ones can be looked for.
pub(crate) const NAME_PLACES: &[&str] = &[
    "etc/aliases",
    "etc/dhcpcd.conf",
    "etc/hostname",
    "etc/hosts",
    "etc/issue",
    "etc/issue.net",
    "etc/mailname",
    "etc/motd",
    "etc/network",
    "etc/postfix/main.cf",
    "etc/resolv.conf",
    "etc/ssh",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/tor",
    "root",
    "usr/lib/os-release",
    "var/lib/dbus",
];

/// Words shorter than this are looked for in [`NAME_PLACES`] only.
pub(crate) const LONG_WORD: usize = 7;

/// What a path of the root file system is, by the manifest's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Hardlink,
}

impl Kind {
    /// The letter of find(1) for what it is once written.
    pub(crate) fn find_letter(self) -> char {
        match self {
            Self::File | Self::Hardlink => 'f',
            Self::Dir => 'd',
            Self::Symlink => 'l',
        }
    }
}

/// One path of the root file system, as the manifest lists it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RootFile {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// Octal permission bits.
    mode: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) sha256: Option<String>,
    pub(crate) target: Option<String>,
    /// Extended attributes, values in hex.
    #[serde(default)]
    pub(crate) xattrs: BTreeMap<String, String>,
}

impl RootFile {
    /// The permission bits.
    pub(crate) fn mode(&self) -> anyhow::Result<u32> {
        u32::from_str_radix(&self.mode, 8).with_context(|| format!("reading the mode of {}", self.path))
    }
}

/// The part of the manifest that tests look at.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    root_files: Option<Vec<RootFile>>,
}

impl Manifest {
    /// Reads the manifest that belongs to the image.
    pub(crate) fn load(ctx: &Context) -> anyhow::Result<Self> {
        let file =
            ctx.image_manifest.as_deref().ok_or_else(|| anyhow!("the image came without a manifest"))?;
        let text = fs_err::read(file)?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))
    }

    /// Every path of the root file system.
    pub(crate) fn root_files(&self) -> anyhow::Result<&[RootFile]> {
        self.root_files.as_deref().ok_or_else(|| anyhow!("the manifest has no list root_files"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_become_bytes() {
        let json = br#"{"partitiontable": {"label":"gpt", "unit":"sectors", "sectorsize":512, "partitions": [
            {"node":"x1", "start":2048, "size":4096, "type":"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "name":"boot"}]}}"#;
        let all = parse_partitions(json).unwrap();
        let boot = named(&all, "boot").unwrap();
        assert_eq!((boot.start, boot.size), (1 << 20, 2 << 20));
        assert_eq!(boot.kind, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert!(named(&all, "data").is_err());
        assert_eq!(fat(Path::new("/i.img"), boot), "/i.img@@1048576");
        assert!(
            parse_partitions(br#"{"partitiontable": {"label":"dos", "sectorsize":512, "partitions":[]}}"#)
                .is_err()
        );
    }

    #[test]
    fn the_manifest_is_read() {
        let text = r#"{"schema": 1, "root_files": [{"path": "/etc", "kind": "dir", "mode": "0755", "uid": 0,
            "gid": 0, "size": 0}]}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        let files = manifest.root_files().unwrap();
        assert_eq!((files[0].kind, files[0].mode().unwrap()), (Kind::Dir, 0o755));
        assert!(serde_json::from_str::<Manifest>("{}").unwrap().root_files().is_err());
    }
}
