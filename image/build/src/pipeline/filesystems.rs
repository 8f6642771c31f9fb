//! root, data and boot: the three file systems of the disk, each as a file.

use anyhow::{Context as _, Result};
use recipe::{Arch, Firmware, Plan};

use super::{Builder, Facts, line};
use crate::disk::bios;
use crate::disk::cpio::Archive;
use crate::disk::fat;
use crate::disk::grub::{self, Cmdline};
use crate::disk::grubenv::{GrubEnv, Slot};
use crate::disk::ids::DiskIds;
use crate::disk::layout::{Layout, Sizes};
use crate::exec::Cmd;
use crate::store::{Entry, Ingredients, sha256_file};
use crate::tools;

const ROOT_VERSION: u32 = 1;
const DATA_VERSION: u32 = 1;
const BOOT_VERSION: u32 = 1;

/// What an owner finds on the boot partition.
const SETTINGS: &str = include_str!("cipolla.toml");

pub(super) fn disk_ids(plan: &Plan) -> DiskIds {
    DiskIds::derive(plan.name().as_str(), plan.arch(), plan.version().as_ref())
}

pub(super) fn layout(plan: &Plan) -> Result<Layout> {
    let disk = plan.disk();
    let sizes = Sizes { boot: disk.boot().bytes(), root: disk.root().bytes(), data: disk.data().bytes() };
    Ok(Layout::new(plan.arch(), sizes, &disk_ids(plan))?)
}

impl Builder<'_> {
    /// `root.erofs`: read-only, and not compressed: the release file is, once and better, and neither a build nor a
    /// boot pays for it.
    pub(super) fn root(
        &self,
        plan: &Plan,
        rootfs: Option<&Entry>,
        tools: Option<&Entry>,
    ) -> Result<Option<Entry>> {
        let (line, stage) = (line(plan), "root");
        let uuid = disk_ids(plan).root_fs.to_string();
        let ingredients = match (rootfs, tools) {
            (Some(rootfs), Some(tools)) => {
                let mut list = Ingredients::new(ROOT_VERSION);
                list.add("the root tar", rootfs.fact("root.tar")?);
                list.add("the tools", tools.fact("solution")?);
                list.add("the file system's UUID", uuid.as_str());
                list.add("the source date", self.date(plan)?.to_string());
                Some(list)
            }
            _ => None,
        };
        self.stage(&line, stage, ingredients, |work| {
            let rootfs = rootfs.context("the stage before has a result")?;
            let tools = tools.context("the stage before has a result")?;
            let date = self.date(plan)?;
            let space = self.space(tools, work).read_only(&rootfs.file("root.tar"), "/root.tar");
            Cmd::new("mkfs.erofs")
                .args(["--quiet", "--tar=f", "-Enoinline_data", "-L", "root"])
                .args([format!("-T{date}"), format!("-U{uuid}")])
                .args(["/work/root.erofs", "/root.tar"])
                .within(&space)
                .run(work.log)?;
            let file = work.dir.join("root.erofs");
            let size = fs_err::metadata(&file)?.len();
            Ok(Facts::from([("root.erofs".into(), sha256_file(&file)?), ("size".into(), size.to_string())]))
        })
    }

    /// `data.ext4`: empty, small, and made to grow while mounted.
    ///
    /// Room for group descriptors is reserved up to 1 TiB: a resize needs a journal credit for each reserved block,
    /// and with all that ext4 allows they would not fit into this journal. Beyond, the kernel goes on with `meta_bg`.
    pub(super) fn data(&self, plan: &Plan, tools: Option<&Entry>) -> Result<Option<Entry>> {
        let (line, stage) = (line(plan), "data");
        let ids = disk_ids(plan);
        // mke2fs keeps what the last -E says, so there is one.
        let extended = format!(
            "hash_seed={},resize={},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0",
            ids.data_hash_seed,
            (1_u64 << 40) / 4096 - 1
        );
        let mut args: Vec<String> = ["-q", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "1"]
            .iter()
            .map(|a| (*a).to_owned())
            .collect();
        args.extend(["-J", "size=16", "-L", "data", "-U"].map(str::to_owned));
        args.extend([ids.data_fs.to_string(), "-E".into(), extended, "/work/data.ext4".into()]);
        args.push(format!("{}k", plan.disk().data().bytes() / 1024));
        let ingredients = match tools {
            Some(tools) => {
                let mut list = Ingredients::new(DATA_VERSION);
                list.add("the tools", tools.fact("solution")?).add("mke2fs's arguments", args.join(" "));
                list.add("the source date", self.date(plan)?.to_string());
                Some(list)
            }
            None => None,
        };
        self.stage(&line, stage, ingredients, |work| {
            let tools = tools.context("the stage before has a result")?;
            Cmd::new("mke2fs")
                .args(&args)
                .env("SOURCE_DATE_EPOCH", self.date(plan)?.to_string())
                .within(&self.space(tools, work))
                .run(work.log)?;
            Ok(Facts::from([("data.ext4".into(), sha256_file(&work.dir.join("data.ext4"))?)]))
        })
    }

    /// `boot.fat`, and for a BIOS `code.img` and `core.img`.
    pub(super) fn boot(
        &self,
        plan: &Plan,
        base: Option<&Entry>,
        tools: Option<&Entry>,
    ) -> Result<Option<Entry>> {
        let (line, stage) = (line(plan), "boot");
        let cmdline = Cmdline::new(Slot::A, &disk_ids(plan), &words(plan))?;
        let initramfs = initramfs_overlay(plan)?;
        let ingredients = match (base, tools) {
            (Some(base), Some(tools)) => {
                let mut list = Ingredients::new(BOOT_VERSION);
                list.add("the kernel", base.fact("vmlinuz")?).add("the initramfs", base.fact("initrd")?);
                list.add("the tools", tools.fact("solution")?);
                list.add("the kernel command line", cmdline.as_str());
                list.add("the boot menu", crate::store::sha256(grub::GRUB_CFG.as_bytes()));
                list.add("the settings template", crate::store::sha256(SETTINGS.as_bytes()));
                list.add("the size", plan.disk().boot().bytes().to_string());
                for entry in plan.initramfs_overlay() {
                    let name = entry.source().strip_prefix(&self.repo).unwrap_or(entry.source());
                    let mode = entry.mode().bits();
                    let content =
                        if entry.source().is_file() { sha256_file(entry.source())? } else { String::new() };
                    list.add(name.as_str(), crate::store::sha256(format!("{mode:o} {content}").as_bytes()));
                }
                list.add("the source date", self.date(plan)?.to_string());
                Some(list)
            }
            _ => None,
        };
        self.stage(&line, stage, ingredients, |work| {
            let base = base.context("the stage before has a result")?;
            let tools = tools.context("the stage before has a result")?;
            let date = self.date(plan)?;
            let tree = tools::tree_of(tools);
            let ids = disk_ids(plan);
            let slot = grub::slot_files(Slot::A);
            let mut files = fat::Tree::new();
            files.add(slot.kernel, fat::Source::File(base.file("vmlinuz")))?;
            files.add(slot.initrd, fat::Source::File(base.file("initrd")))?;
            let time = u32::try_from(date).context("the source date is after 2106")?;
            files.add(slot.initrd_cipolla, fat::Source::Bytes(initramfs.render(time)))?;
            files.add(slot.config, cmdline.slot_config())?;
            files.add(slot.cmdline, cmdline.text())?;
            files.add(grub::path::GRUB_CFG, grub::GRUB_CFG)?;
            files.add(grub::path::GRUB_ENV, fat::Source::Bytes(GrubEnv::SHIPPED.render().to_vec()))?;
            files.add(grub::path::SETTINGS, SETTINGS)?;
            if plan.firmware().contains(&Firmware::Uefi) {
                files.add(grub::path::EFI_GRUB_CFG, grub::efi_config(ids.boot_fs))?;
                let to = grub::efi_files(plan.arch());
                for (name, source) in
                    [to.shim, to.grub, to.mok_manager].into_iter().zip(efi_sources(plan.arch()))
                {
                    files.add(name, fat::Source::File(tree.join(source)))?;
                }
            }
            let image = fs_err::OpenOptions::new()
                .create_new(true)
                .read(true)
                .write(true)
                .open(work.dir.join("boot.fat"))?
                .into_parts()
                .0;
            let size = plan.disk().boot().bytes();
            fat::write(&image, fat::Options { size, id: ids.boot_fs, time: date }, &files)?;
            let mut facts = Facts::from([("boot.fat".into(), sha256_file(&work.dir.join("boot.fat"))?)]);
            if plan.firmware().contains(&Firmware::Bios) {
                self.grub_core(plan, tools, work)?;
                facts.insert("core.img".into(), sha256_file(&work.dir.join("core.img"))?);
            }
            Ok(facts)
        })
    }

    fn grub_core(&self, plan: &Plan, tools: &Entry, work: &super::Work<'_>) -> Result<()> {
        fs_err::write(work.dir.join("early.cfg"), grub::bios_early_config(disk_ids(plan).boot_fs))?;
        Cmd::new("grub-mkimage")
            .args(["-O", "i386-pc", "-p", grub::BIOS_PREFIX, "-c", "/work/early.cfg", "-o", "/work/core.img"])
            .args(grub::BIOS_MODULES)
            .within(&self.space(tools, work))
            .run(work.log)?;
        let boot_img = fs_err::read(tools::tree_of(tools).join("usr/lib/grub/i386-pc/boot.img"))?;
        fs_err::write(work.dir.join("boot.img"), &boot_img)?;
        // Placed again when the disk is put together; here only so that an error shows in this stage.
        let layout = layout(plan)?;
        let place =
            layout.partition(crate::disk::layout::Role::Bios).context("a BIOS disk has a BIOS partition")?;
        bios::place(&boot_img, &fs_err::read(work.dir.join("core.img"))?, place)?;
        Ok(())
    }
}

fn words(plan: &Plan) -> Vec<String> {
    plan.cmdline().iter().map(|a| a.as_str().to_owned()).collect()
}

/// Debian's signed shim, GRUB and `MokManager` in the tools tree, in the order of [`grub::EfiFiles`].
fn efi_sources(arch: Arch) -> [&'static str; 3] {
    match arch {
        Arch::Amd64 => [
            "usr/lib/shim/shimx64.efi.signed",
            "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
            "usr/lib/shim/mmx64.efi.signed",
        ],
        Arch::Arm64 => [
            "usr/lib/shim/shimaa64.efi.signed",
            "usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed",
            "usr/lib/shim/mmaa64.efi.signed",
        ],
    }
}

fn initramfs_overlay(plan: &Plan) -> Result<Archive> {
    let mut archive = Archive::new();
    for entry in plan.initramfs_overlay() {
        let (name, mode) = (entry.target(), entry.mode().bits());
        match entry.kind() {
            recipe::overlay::Kind::Dir => archive.folder(name, mode)?,
            recipe::overlay::Kind::Symlink { target } => archive.link(name, target)?,
            recipe::overlay::Kind::File { .. } => archive.file(name, mode, fs_err::read(entry.source())?)?,
        };
    }
    Ok(archive)
}
