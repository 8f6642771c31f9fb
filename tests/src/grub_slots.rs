//! The real GRUB against the table of slot decisions: which slot boots, and what is left in the environment
//! block. Linux is never started: the machine is ended at GRUB's line.
//!
//! The table is [`build::disk::slots::cases`], to which the pure decision is held as well. GRUB has written the
//! block before it prints its line, so ending the machine there loses nothing.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use build::disk::grubenv::Block;
use build::disk::slots::{Case, cases};
use qemu::{Deadline, Disk, Error, Firmware, Keep, Machine, MachineSpec, Probe, Programs, RunDir, guest};

use crate::Context;
use crate::check::{Check, Evidence, Phase, Scenario, Verdict, check, none_of};
use crate::image::{self, Partition};

/// GRUB's line comes within a second under a BIOS and within ten under UEFI, emulated.
const LINE: u64 = 120;

/// How long GRUB has to stay in its menu when there is nothing to boot. A reset would come at once.
const STAYS: u64 = 5;

/// Files that make a slot bootable.
const SLOT_FILES: [&str; 4] = ["vmlinuz", "initrd", "initrd-cipolla", "slot.cfg"];

/// Cases that UEFI repeats: that GRUB reads the block, writes it, and finds nothing to boot.
const UEFI_CASES: [&str; 4] = ["as shipped", "b to be tried", "b tried, not confirmed", "both gone"];

/// The table under one firmware.
pub(crate) struct GrubSlots {
    firmware: Firmware,
}

impl GrubSlots {
    pub(crate) fn new(firmware: Firmware) -> Self {
        Self { firmware }
    }
}

/// The part of the image that GRUB sees.
pub(crate) struct Bench {
    ctx: Context,
    probe: Probe,
    firmware: Firmware,
    boot: Partition,
    run_dir: PathBuf,
    kept: Option<Machine>,
    last_console: Vec<String>,
}

impl Scenario for GrubSlots {
    type State = Bench;

    fn name(&self) -> Cow<'static, str> {
        format!("grub_slots_{}", self.firmware).into()
    }

    fn about(&self) -> Cow<'static, str> {
        format!("GRUB's choice of a slot, under {}", self.firmware).into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<Bench> {
        let partitions = image::partitions(&ctx.image, &ctx.programs)?;
        Ok(Bench {
            ctx: ctx.clone(),
            probe: probe.clone(),
            firmware: self.firmware,
            boot: image::named(&partitions, "boot")?.clone(),
            run_dir: ctx.run_root.join(self.name().as_ref()),
            kept: None,
            last_console: Vec::new(),
        })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<Bench>> {
        let wanted = |case: &Case| self.firmware == Firmware::Bios || UEFI_CASES.contains(&case.name);
        let checks = cases().into_iter().filter(wanted).map(row).collect();
        vec![Phase::of(checks)]
    }

    fn evidence(&self, state: &mut Bench) -> Vec<Evidence> {
        vec![("console of the last case that failed".to_owned(), std::mem::take(&mut state.last_console))]
    }

    fn reach(&self, state: &Bench) -> Option<String> {
        state.kept.as_ref().map(Machine::how_to_reach)
    }
}

/// A row of the table as a check.
fn row(case: Case) -> Check<Bench> {
    let words: String = case.name.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    let name = words.split_whitespace().collect::<Vec<_>>().join("_");
    check(name, &[], move |bench: &mut Bench| bench.judge(&case))
}

impl Bench {
    fn judge(&mut self, case: &Case) -> Verdict {
        let run_dir = RunDir::create(&self.run_dir)?;
        let disk = run_dir.file("disk.raw");
        // Up to the end of the boot partition is all that GRUB reads; the table's second copy is beyond.
        let size = fs_err::metadata(&self.ctx.image)?.len();
        qemu::copy_sparse(&self.ctx.image, &disk, self.boot.start + self.boot.size, size)?;
        let programs = self.ctx.programs.clone();
        let fat = Fat { programs: &programs, name: image::fat(&disk, &self.boot) };
        fat.prepare(case, &run_dir)?;

        let mut spec = MachineSpec::new(self.ctx.arch, self.firmware, self.probe.accel);
        spec.memory_mib = 512;
        spec.cpus = 1;
        spec.disk = Some(Disk::Raw(disk));
        let keep = if self.ctx.keep { Keep::Yes } else { Keep::No };
        let mut machine = Machine::spawn(&spec, &programs, run_dir.clone(), keep)?;
        let mut findings = self.watch(&mut machine, case)?;
        if !findings.is_empty() {
            self.last_console = machine.console().tail(20);
        }
        if self.ctx.keep && !findings.is_empty() {
            self.kept = Some(machine);
        } else {
            machine.keep(Keep::No);
            drop(machine);
        }
        findings.extend(fat.left(case, &run_dir)?);
        none_of(&findings)
    }

    /// What GRUB says, and for a machine without a bootable slot, that it stays up.
    fn watch(&mut self, machine: &mut Machine, case: &Case) -> anyhow::Result<Vec<String>> {
        let line = machine.wait_line("GRUB's line about the slot", Deadline::seconds(LINE), |line| {
            // On UEFI a firmware console may show a line twice, joined.
            let start =
                [guest::GRUB_SLOT, guest::GRUB_NO_SLOT].iter().filter_map(|text| line.rfind(text)).max()?;
            Some(line[start..].trim_end().to_owned())
        });
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                self.last_console = machine.console().tail(20);
                return Err(error.into());
            }
        };
        if line != case.line {
            return Ok(vec![format!("GRUB said {line:?}, not {:?}", case.line)]);
        }
        if line != guest::GRUB_NO_SLOT {
            return Ok(Vec::new());
        }
        match machine.qmp().wait_event("RESET", Deadline::seconds(STAYS)) {
            Err(Error::Deadline { .. }) => Ok(Vec::new()),
            Ok(_) => Ok(vec!["the machine reset itself instead of staying in the menu".to_owned()]),
            Err(error) => Err(error.into()),
        }
    }
}

/// A FAT file system inside a disk file, by mtools.
struct Fat<'a> {
    programs: &'a Programs,
    name: OsString,
}

impl Fat<'_> {
    fn run(&self, program: &str, options: &[&str], arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut line: Vec<OsString> = options.iter().map(Into::into).collect();
        line.extend(["-i".into(), self.name.clone()]);
        line.extend(arguments.iter().map(OsString::from));
        Ok(self.programs.output(program, line)?)
    }

    /// Whether a file is there.
    fn has(&self, file: &str) -> bool {
        self.run("mdir", &["-b"], &[file]).is_ok()
    }

    fn put(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let from = from.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", from.display()))?;
        self.run("mcopy", &["-o"], &[from, to]).map(drop)
    }

    fn remove(&self, file: &str) -> anyhow::Result<()> {
        if self.has(file) { self.run("mdel", &[], &[file]).map(drop) } else { Ok(()) }
    }

    /// Makes the boot partition what the case says.
    fn prepare(&self, case: &Case, run_dir: &RunDir) -> anyhow::Result<()> {
        if !self.has("::/b") {
            self.run("mmd", &[], &["::/b"])?;
        }
        // Nothing is started, so what lies in slot b need not be a kernel, only not be empty.
        let filler = run_dir.file("filler");
        fs_err::write(&filler, "# filler\n")?;
        for (slot, there) in [("a", case.a), ("b", case.b)] {
            for file in SLOT_FILES {
                let path = format!("::/{slot}/{file}");
                if there && !self.has(&path) {
                    self.put(&filler, &path)?;
                }
            }
            if !there {
                self.remove(&format!("::/{slot}/vmlinuz"))?;
            }
        }
        match &case.grubenv {
            None => self.remove("::/grub/grubenv"),
            Some(bytes) => {
                let file = run_dir.file("grubenv");
                fs_err::write(&file, bytes)?;
                self.put(&file, "::/grub/grubenv")
            }
        }
    }

    /// How the environment block differs from what the case wants to be left.
    fn left(&self, case: &Case, run_dir: &RunDir) -> anyhow::Result<Vec<String>> {
        let bytes = if self.has("::/grub/grubenv") {
            let file = run_dir.file("grubenv.after");
            let name = file.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", file.display()))?;
            self.run("mcopy", &["-n", "-o"], &["::/grub/grubenv", name]).context("reading the block back")?;
            Some(fs_err::read(&file)?)
        } else {
            None
        };
        Ok(leftover(case, bytes.as_deref()).into_iter().collect())
    }
}

fn leftover(case: &Case, bytes: Option<&[u8]>) -> Option<String> {
    let Some(want) = case.after else {
        let same = bytes == case.grubenv.as_deref();
        return (!same).then(|| "GRUB changed the block, which it should have left alone".to_owned());
    };
    let found = Block::parse(bytes.unwrap_or_default());
    let good = Block::Readable { env: want, tidy: true };
    (found != good).then(|| format!("GRUB left {found:?} in the block, not {want:?}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use build::disk::grubenv::GrubEnv;

    use super::*;

    #[test]
    fn the_rows_for_uefi_exist_and_names_are_unique() {
        let all = cases();
        assert!(UEFI_CASES.iter().all(|name| all.iter().any(|case| case.name == *name)));
        let count = all.len();
        let names: BTreeSet<_> = all.into_iter().map(|case| row(case).name).collect();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn what_is_left_is_compared() {
        let case = cases().into_iter().find(|case| case.name == "b to be tried").unwrap();
        let want = case.after.unwrap();
        assert_eq!(leftover(&case, Some(&want.render())), None);
        assert!(leftover(&case, Some(&GrubEnv::SHIPPED.render())).is_some());
        assert!(leftover(&case, None).is_some());
        let case = cases().into_iter().find(|case| case.name == "zeros").unwrap();
        assert_eq!(leftover(&case, case.grubenv.as_deref()), None);
        assert!(leftover(&case, None).is_some());
    }
}
