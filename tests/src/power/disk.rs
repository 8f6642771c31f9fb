//! Disks as cuts left them, made from the image and the record of writes.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qemu::{RunDir, WriteLog};

use super::cut::Kept;
use super::history::Time;
use crate::Context;
use crate::appliance::DISK;
use crate::{image, left};

/// The data partition as it goes through time, from one cut to a later one.
pub(super) struct DataDisk<'l> {
    log: &'l WriteLog,
    /// The bytes of the disk that it holds.
    part: Range<u64>,
    /// Everything that a flush vouches for.
    durable: PathBuf,
    /// How many requests of the record are in there.
    done: Time,
    /// What the cut of the moment left.
    cut: PathBuf,
}

impl<'l> DataDisk<'l> {
    /// The partition as the image ships it.
    pub(super) fn start(ctx: &Context, run_dir: &RunDir, log: &'l WriteLog) -> anyhow::Result<Self> {
        let (start, size) = left::data_partition(ctx)?;
        let partitions = image::partitions(&ctx.image, &ctx.programs)?;
        let shipped = image::named(&partitions, "data")?;
        let durable = run_dir.file("durable.img");
        let mut file = fs_err::File::create(&durable)?;
        std::io::copy(&mut image::section(&ctx.image, shipped.start, shipped.size)?, &mut file)?;
        file.set_len(size)?;
        Ok(Self { log, part: start..DISK, durable, done: 0, cut: run_dir.file("cut.img") })
    }

    /// The partition after a cut, which must not be earlier than the one before.
    pub(super) fn after(&mut self, ctx: &Context, kept: &Kept) -> anyhow::Result<&Path> {
        let requests = self.log.requests();
        let durable = write(&self.durable)?;
        for one in &requests[self.done..kept.durable] {
            self.log.repeat(one, u64::MAX, &self.part, &durable)?;
        }
        self.done = kept.durable;
        let copy = ["--sparse=always".as_ref(), self.durable.as_os_str(), self.cut.as_os_str()];
        ctx.programs.output("cp", copy)?;
        let cut = write(&self.cut)?;
        for (number, limit) in &kept.later {
            self.log.repeat(&requests[*number], *limit, &self.part, &cut)?;
        }
        Ok(&self.cut)
    }
}

impl Drop for DataDisk<'_> {
    fn drop(&mut self) {
        // What stays behind is in the way of nothing: the next run writes over it.
        let _ = fs_err::remove_file(&self.durable);
        let _ = fs_err::remove_file(&self.cut);
    }
}

/// Makes the whole disk after a cut, for a machine.
pub(super) fn whole(ctx: &Context, log: &WriteLog, kept: &Kept, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        fs_err::remove_file(to)?;
    }
    let length = fs_err::metadata(&ctx.image)?.len();
    qemu::copy_sparse(&ctx.image, to, length, DISK)?;
    let disk = write(to)?;
    let requests = log.requests();
    for one in &requests[..kept.durable] {
        log.repeat(one, u64::MAX, &(0..DISK), &disk)?;
    }
    for (number, limit) in &kept.later {
        log.repeat(&requests[*number], *limit, &(0..DISK), &disk)?;
    }
    Ok(())
}

fn write(path: &Path) -> anyhow::Result<File> {
    Ok(fs_err::OpenOptions::new().write(true).open(path)?.into_parts().0)
}
