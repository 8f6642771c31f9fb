//! Whether hardware virtualisation works, found out by using it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    Arch, Deadline, Disk, Error, Firmware, Keep, Machine, MachineSpec, Programs, Result, RunDir, guest,
};

/// Who runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor itself, through KVM.
    Kvm,
    /// QEMU's translator; ten to thirty times slower.
    Tcg,
}

/// What [`probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What to use.
    pub accel: Accel,
    /// Why, for the person who waits.
    pub why: String,
}

/// How long the probe's guest may take; it needs a few milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// How long the image may take to show GRUB's line under KVM; under any firmware it is there in two seconds.
const LOADER: Duration = Duration::from_secs(15);

/// How long the image may take to its login prompt under KVM. A KVM that takes longer is not faster than
/// QEMU's translator.
const BOOT: Duration = Duration::from_secs(60);

/// The disk of the trial: as small as the image likes it.
const DISK: u64 = 6 << 30;

/// What the probe's guest says.
const WORD: &str = "cipolla runs here";

/// Finds out whether KVM runs a guest of this architecture: a machine that consists of a few instructions of
/// firmware has to say a word, and then `image` has to start. That the device node exists proves nothing, since
/// containers and nested machines often have one that does not work; and where KVM emulates what the processor cannot
/// do, a word may pass and a boot loader hang. The answer is found once per process. `folder` takes the firmware file
/// and the trial's logs, and must be visible inside the lab's tree, as the image.
#[must_use]
pub fn probe(programs: &Programs, arch: Arch, folder: &Path, image: &Path) -> Probe {
    static AMD64: OnceLock<Probe> = OnceLock::new();
    static ARM64: OnceLock<Probe> = OnceLock::new();
    let known = match arch {
        Arch::Amd64 => &AMD64,
        Arch::Arm64 => &ARM64,
    };
    known.get_or_init(|| find_out(programs, arch, folder, image)).clone()
}

fn find_out(programs: &Programs, arch: Arch, folder: &Path, image: &Path) -> Probe {
    let emulated = |why: String| Probe { accel: Accel::Tcg, why: format!("emulated: {why}") };
    if Arch::host() != Some(arch) {
        return emulated(format!("this computer is not {arch}"));
    }
    let device = Path::new("/dev/kvm");
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
        return emulated(format!("opening {}: {error}", device.display()));
    }
    match silence(programs, arch, folder) {
        Ok(None) => match trial(programs, arch, folder, image) {
            Ok(()) => Probe { accel: Accel::Kvm, why: "KVM started the image".to_owned() },
            Err(error) => {
                emulated(format!("KVM ran a test guest, and not the image: {}", first_line(&error)))
            }
        },
        Ok(Some(instead)) => emulated(format!("KVM did not run a test guest within {LIMIT:?}{instead}")),
        Err(error) => emulated(format!("trying KVM: {error}")),
    }
}

/// Runs the probe's guest. `None` if it spoke in time, else what QEMU said instead, ready to be appended.
fn silence(programs: &Programs, arch: Arch, folder: &Path) -> Result<Option<String>> {
    fs_err::create_dir_all(folder).map_err(Error::io("creating", folder))?;
    let file = folder.join(format!("probe-{arch}.rom"));
    fs_err::write(&file, firmware(arch)).map_err(Error::io("writing", &file))?;
    let mut command = programs.command(&programs.qemu_system);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "64", "-accel", "kvm"]);
    match arch {
        Arch::Amd64 => command.args(["-machine", "q35", "-cpu", "max", "-debugcon", "stdio", "-bios"]),
        Arch::Arm64 => command.args(["-machine", "virt", "-cpu", "max", "-serial", "stdio", "-bios"]),
    };
    command.arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| Error::Program {
        command: programs.qemu_system.display().to_string(),
        problem: error.to_string(),
    })?;
    let (send, receive) = mpsc::channel();
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        // Whatever goes wrong with reading, the word has not been said.
        let _ = output.map(|output| BufReader::new(output).read_line(&mut line));
        let _ = send.send(line);
    });
    let said = receive.recv_timeout(LIMIT).is_ok_and(|line| line.trim_end() == WORD);
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // The group still exists, since the child has not been waited for.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = reader.join();
    let output = child.wait_with_output().map_err(Error::io("waiting for", &programs.qemu_system))?;
    let words = String::from_utf8_lossy(&output.stderr);
    let instead = words.lines().next_back().map_or(String::new(), |line| format!(": {line}"));
    Ok((!said).then_some(instead))
}

/// Starts the image under each firmware, the plainest up to its login prompt. (Secure Boot has OVMF in system management
/// mode, of which a KVM may be incapable that can do all the rest.)
fn trial(programs: &Programs, arch: Arch, folder: &Path, image: &Path) -> Result<()> {
    let (plain, other) = match arch {
        Arch::Amd64 => (Firmware::Bios, Some(Firmware::UefiSecureBoot)),
        Arch::Arm64 => (Firmware::Uefi, None),
    };
    let run_dir = RunDir::create(&folder.join(format!("probe-{}", std::process::id())))?;
    let start = |firmware| -> Result<Machine> {
        let mut spec = MachineSpec::new(arch, firmware, Accel::Kvm);
        spec.disk = Some(Disk::overlay(image, DISK));
        let mut machine = Machine::spawn(&spec, programs, run_dir.clone(), Keep::No)?;
        machine.wait_for(guest::GRUB_SLOT, Deadline::after(LOADER))?;
        Ok(machine)
    };
    let started = start(plain)
        .and_then(|mut machine| machine.wait_for(guest::LOGIN_PROMPT, Deadline::after(BOOT)))
        .and_then(|()| other.map_or(Ok(()), |firmware| start(firmware).map(drop)));
    // Nobody reads what it wrote, and a folder that stays does no harm.
    let _ = fs_err::remove_dir_all(run_dir.path());
    started
}

/// What went wrong, without the evidence that follows: it is in no report.
fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A firmware that says the word and halts.
fn firmware(arch: Arch) -> Vec<u8> {
    let word = [WORD.as_bytes(), b"\n\0"].concat();
    match arch {
        Arch::Amd64 => amd64_firmware(&word),
        Arch::Arm64 => arm64_firmware(&word),
    }
}

/// 64 KiB of ROM that ends at 4 GiB. The processor starts 16 bytes before its end, in real mode, with the ROM
/// also at f000:0000. Port 0xe9 is QEMU's debug console.
fn amd64_firmware(word: &[u8]) -> Vec<u8> {
    const CODE: &[u8] = &[
        0xfc, //                   cld
        0xbe, 0x20, 0x00, //       mov si, 0x20
        0x2e, 0xac, //       next: cs lodsb
        0x84, 0xc0, //             test al, al
        0x74, 0x04, //             jz halt
        0xe6, 0xe9, //             out 0xe9, al
        0xeb, 0xf6, //             jmp next
        0xf4, //             halt: hlt
        0xeb, 0xfd, //             jmp halt
    ];
    const START: &[u8] = &[0xea, 0x00, 0x00, 0x00, 0xf0]; // jmp f000:0000
    let mut rom = vec![0; 1 << 16];
    rom[..CODE.len()].copy_from_slice(CODE);
    rom[0x20..0x20 + word.len()].copy_from_slice(word);
    rom[0xfff0..0xfff0 + START.len()].copy_from_slice(START);
    rom
}

/// Flash of the `virt` machine, at address 0, where the processor starts. Its serial port is a PL011 at
/// `0x0900_0000`.
fn arm64_firmware(word: &[u8]) -> Vec<u8> {
    const CODE: &[u32] = &[
        0xd2a1_2000, //       movz x0, #0x900, lsl #16
        0x1000_00e1, //       adr  x1, word
        0x3840_1422, // next: ldrb w2, [x1], #1
        0x3400_0062, //       cbz  w2, halt
        0x3900_0002, //       strb w2, [x0]
        0x17ff_fffd, //       b    next
        0xd503_207f, // halt: wfi
        0x17ff_ffff, //       b    halt
    ];
    let mut rom: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
    rom.extend_from_slice(word);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_lies_where_the_processor_looks() {
        let rom = firmware(Arch::Amd64);
        assert_eq!(rom.len(), 1 << 16);
        assert_eq!(rom[0xfff0..0xfff5], [0xea, 0, 0, 0, 0xf0]);
        assert!(rom[0x20..].starts_with(WORD.as_bytes()));
        assert!(firmware(Arch::Arm64)[32..].starts_with(WORD.as_bytes()));
    }

    #[test]
    fn a_silent_qemu_is_no_kvm() {
        let folder = tempfile::tempdir().unwrap();
        let mut programs = Programs::debian(Arch::Amd64, Vec::new());
        programs.qemu_system = "true".into();
        let instead = silence(&programs, Arch::Amd64, folder.path()).unwrap();
        assert_eq!(instead.as_deref(), Some(""));
        programs.qemu_system = "/no/such/qemu".into();
        assert!(silence(&programs, Arch::Amd64, folder.path()).is_err());
    }
}
