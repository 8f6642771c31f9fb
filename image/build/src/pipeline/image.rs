//! disk and manifest: the parts become one raw image under its final name, and a description of it.

use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use recipe::{ContentSizes, Plan};
use serde::{Deserialize, Serialize};

use super::filesystems::layout;
use super::{Builder, Facts};
use crate::disk::assemble::{self, Parts};
use crate::disk::bios;
use crate::disk::layout::{Layout, Role};
use crate::rootfs::write::Listed;
use crate::solve::Solution;
use crate::store::{Entry, Ingredients, replace_file};

const CODE_VERSION: u32 = 2;

/// A finished image.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// The raw disk image.
    pub path: Utf8PathBuf,
    /// Its description.
    pub manifest: Utf8PathBuf,
    /// Bytes, holes included.
    pub size: u64,
    /// Bytes that take space.
    pub allocated: u64,
    /// SHA-256.
    pub sha256: String,
    /// Partitions.
    pub parts: Vec<PartSize>,
    /// Whether this run made it.
    pub fresh: bool,
}

/// One partition, for the table at the end of a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartSize {
    /// Number in the table.
    pub number: u32,
    /// Name in the table.
    pub name: String,
    /// What it holds.
    pub content: String,
    /// Offset of its first byte.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
    /// Bytes its content needs.
    pub used: u64,
}

/// Results that may still be missing in a dry run.
pub(super) struct Stages<'a> {
    pub(super) solution: Option<&'a Solution>,
    pub(super) rootfs: Option<&'a Entry>,
    pub(super) root: Option<&'a Entry>,
    pub(super) boot: Option<&'a Entry>,
    pub(super) data: Option<&'a Entry>,
}

/// All results that an image is made of.
pub(super) struct Made<'a> {
    solution: &'a Solution,
    rootfs: &'a Entry,
    root: &'a Entry,
    boot: &'a Entry,
    data: &'a Entry,
}

impl<'a> Stages<'a> {
    pub(super) fn whole(self) -> Option<Made<'a>> {
        Some(Made {
            solution: self.solution?,
            rootfs: self.rootfs?,
            root: self.root?,
            boot: self.boot?,
            data: self.data?,
        })
    }
}

/// What the cache remembers of an image that it put into an output folder: enough to see that it is untouched.
#[derive(Serialize, Deserialize)]
struct Stamp {
    key: String,
    sha256: String,
    /// Length and time of the last change; nobody edits an image by accident without changing one of them.
    state: (u64, u128),
}

#[derive(Serialize)]
struct Manifest<'a> {
    schema: u32,
    name: String,
    version: String,
    arch: String,
    build_id: &'a str,
    source_date: u64,
    image: ManifestImage<'a>,
    partitions: &'a [PartSize],
    packages: Vec<ManifestPackage<'a>>,
    root_files: Vec<Listed>,
}

#[derive(Serialize)]
struct ManifestImage<'a> {
    file: String,
    size: u64,
    sha256: &'a str,
}

#[derive(Serialize)]
struct ManifestPackage<'a> {
    name: &'a str,
    version: &'a str,
    arch: &'a str,
    sha256: &'a str,
}

impl Builder<'_> {
    pub(super) fn image(
        &self,
        plan: &Plan,
        made: Option<Made<'_>>,
        out: &Utf8Path,
        line: &str,
    ) -> Result<Option<Image>> {
        let stage = "disk";
        let Some(made) = made else {
            self.verdict(stage, Some("follows from the above".into()))?;
            return Ok(None);
        };
        let date = self.date(plan)?;
        let mut list = Ingredients::new(CODE_VERSION);
        list.add("the root", made.root.fact("root.erofs")?)
            .add("the boot partition", made.boot.fact("boot.fat")?);
        list.add("the data partition", made.data.fact("data.ext4")?)
            .add("the version", plan.version().to_string());
        list.add("the BIOS boot code", made.boot.fact("core.img").unwrap_or_default());
        list.add("the packages", made.solution.digest()).add("the listing", made.rootfs.fact("root.tar")?);
        list.add("the layout", crate::store::sha256(format!("{:?}", layout(plan)?).as_bytes()));

        let name = plan.file_stem();
        let path = out.join(format!("{name}.img"));
        let manifest = out.join(format!("{name}.manifest.json"));
        let stamp_file = self.stamp_file(&path);
        let key = list.key();
        let content = sizes(plan, &made)?;
        let layout = layout(plan)?;
        let parts = part_table(&layout, &content);
        let done = |sha256: String, fresh| -> Result<Option<Image>> {
            let meta = fs_err::metadata(&path)?;
            Ok(Some(Image {
                size: meta.len(),
                allocated: std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
                path: path.clone(),
                manifest: manifest.clone(),
                sha256,
                parts: parts.clone(),
                fresh,
            }))
        };
        if let Some(stamp) = read_stamp(&stamp_file)
            && stamp.key == key.as_str()
            && Some(stamp.state) == state_of(&path)
            && manifest.exists()
        {
            self.verdict(stage, None)?;
            if self.dry {
                return Ok(None);
            }
            self.progress.hit(stage);
            return done(stamp.sha256, false);
        }
        let reason = match self.cache.look_up(line, stage, &list) {
            crate::store::Lookup::Miss(reason) => reason,
            crate::store::Lookup::Hit(_) => format!("{path} is not there, or was changed"),
        };
        self.verdict(stage, Some(reason.clone()))?;
        if self.dry {
            return Ok(None);
        }
        self.progress.begin(stage, &reason);
        let started = std::time::Instant::now();
        let findings = plan.disk().check_capacity(content);
        if findings.has_errors() {
            return Err(findings.into());
        }
        for finding in &findings {
            self.progress.note(finding.message());
        }
        fs_err::create_dir_all(out)?;
        let bios = bios_boot(&layout, &made)?;
        let files = Parts {
            bios: bios.as_ref(),
            boot: &made.boot.file("boot.fat"),
            root: &made.root.file("root.erofs"),
            data: &made.data.file("data.ext4"),
        };
        let image = assemble::assemble(&layout, &files, out)?;
        let sha256 = assemble::sha256(image.as_file())?;
        let description = Manifest {
            schema: 1,
            name: plan.name().to_string(),
            version: plan.version().to_string(),
            arch: plan.arch().to_string(),
            build_id: made.rootfs.fact("build-id")?,
            source_date: date,
            image: ManifestImage { file: format!("{name}.img"), size: layout.len(), sha256: &sha256 },
            partitions: &parts,
            packages: made.solution.packages.iter().map(described).collect(),
            root_files: serde_json::from_slice(&fs_err::read(made.rootfs.file("listing.json"))?)?,
        };
        let mut text = serde_json::to_vec_pretty(&description)?;
        text.push(b'\n');
        // The description goes first: an image under its final name always has one.
        replace_file(&manifest, &text)?;
        image.persist(&path).with_context(|| format!("putting {path} in place"))?;
        let state = state_of(&path).with_context(|| format!("{path} vanished"))?;
        if let Some(folder) = stamp_file.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let stamp = Stamp { key: key.as_str().to_owned(), sha256: sha256.clone(), state };
        replace_file(&stamp_file, &serde_json::to_vec(&stamp)?)?;
        let scratch = self.cache.scratch(stage)?;
        self.cache.store(stage, &list, scratch, Facts::from([("sha256".into(), sha256.clone())]))?;
        self.cache.note(line, stage, &list)?;
        self.progress.end(stage, started.elapsed());
        done(sha256, true)
    }

    fn stamp_file(&self, path: &Utf8Path) -> Utf8PathBuf {
        let name = crate::store::sha256(path.as_str().as_bytes());
        self.cache.root().join("images").join(format!("{}.json", &name[..16]))
    }
}

fn described(package: &crate::solve::Package) -> ManifestPackage<'_> {
    ManifestPackage {
        name: &package.name,
        version: &package.version,
        arch: &package.arch,
        sha256: &package.sha256,
    }
}

fn bios_boot(layout: &Layout, made: &Made<'_>) -> Result<Option<bios::BiosBoot>> {
    let core = made.boot.file("core.img");
    if !core.exists() {
        return Ok(None);
    }
    let Some(place) = layout.partition(Role::Bios) else { bail!("GRUB for BIOS has no partition to go to") };
    Ok(Some(bios::place(&fs_err::read(made.boot.file("boot.img"))?, &fs_err::read(core)?, place)?))
}

fn sizes(plan: &Plan, made: &Made<'_>) -> Result<ContentSizes> {
    let content = |entry: &Entry, name: &str| -> Result<u64> {
        let path = entry.file(name);
        assemble::content_bytes(fs_err::File::open(&path)?.file())
            .with_context(|| format!("measuring {path}"))
    };
    let root = made.root.fact("size")?.parse().context("the noted size of the root")?;
    // The other slot's folder will need as much again.
    let boot = content(made.boot, "boot.fat")? * 2;
    Ok(ContentSizes { boot, root, data: content(made.data, "data.ext4")?.min(plan.disk().data().bytes()) })
}

fn part_table(layout: &Layout, content: &ContentSizes) -> Vec<PartSize> {
    let describe = |role| match role {
        Role::Bios => ("GRUB for BIOS", 0),
        Role::Boot => ("FAT32: loaders, slot a", content.boot / 2),
        Role::RootA | Role::RootB => ("erofs, read-only", content.root),
        Role::Data => ("ext4, grows to the disk", content.data),
    };
    let row = |(role, part): (Role, &crate::disk::layout::Partition)| {
        let (what, used) = describe(role);
        PartSize {
            number: role.number(),
            name: role.name().into(),
            content: what.into(),
            offset: part.offset(),
            size: part.len(),
            used,
        }
    };
    Role::SHIPPED.iter().filter_map(|r| layout.partition(*r).map(|p| (*r, p))).map(row).collect()
}

fn read_stamp(path: &Utf8Path) -> Option<Stamp> {
    serde_json::from_slice(&fs_err::read(path).ok()?).ok()
}

fn state_of(path: &Utf8Path) -> Option<(u64, u128)> {
    let meta = fs_err::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos()))
}
