//! From a [`MachineSpec`] to QEMU's command line. Pure: touches no file and starts nothing.
//!
//! Options are those of qemu-system(1), version 10. Nothing comes by default (`-nodefaults`), so a machine is
//! what is written here and the guest sees the same hardware everywhere.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use crate::spec::{Credential, Disk, MachineSpec, Nic, Serial};
use crate::{Accel, Arch, Error, Firmware, Programs, Result, RunDir, guest};

/// QEMU's limit for a name in `fw_cfg`, without the final NUL (`FW_CFG_MAX_FILE_PATH`).
const FW_CFG_NAME_LIMIT: usize = 55;

/// The command line of a machine, wrapper first.
///
/// # Errors
/// [`Error::Spec`] when the parts do not fit together, such as a BIOS on arm64.
pub fn argv(spec: &MachineSpec, programs: &Programs, run: &RunDir) -> Result<Vec<OsString>> {
    let mut line = Line(programs.line(&programs.qemu_system));
    line.words(["-nodefaults", "-no-user-config", "-display", "none"]);
    machine(&mut line, spec);
    firmware(&mut line, spec, programs, run)?;
    disk(&mut line, spec, run);
    devices(&mut line, spec, run);
    network(&mut line, spec);
    for value in &spec.smbios {
        line.words(["-smbios", value.as_str()]);
    }
    for file in credential_files(spec, run)? {
        line.option(file.option, &[&file.prefix, &comma(&file.path)]);
    }
    line.0.extend(spec.extra.iter().cloned());
    Ok(line.0)
}

fn machine(line: &mut Line, spec: &MachineSpec) {
    let secure = spec.firmware == Firmware::UefiSecureBoot;
    let machine = match (spec.arch, secure) {
        (Arch::Amd64, true) => "q35,smm=on",
        (Arch::Amd64, false) => "q35",
        (Arch::Arm64, _) => "virt",
    };
    let (accel, cpu) = match (spec.accel, spec.arch) {
        (Accel::Kvm, _) => ("kvm", "host"),
        // With these two flags, Linux and the C library copy and clear memory with `rep movsb` and `rep stosb`, which are
        // emulated byte by byte: a twelfth of what a start costs.
        (Accel::Tcg, Arch::Amd64) => ("tcg,thread=multi", "max,erms=off,fsrm=off"),
        // Real pointer authentication is slow to emulate; the implementation-defined kind is not.
        (Accel::Tcg, Arch::Arm64) => ("tcg,thread=multi", "max,pauth-impdef=on"),
    };
    line.words(["-machine", machine, "-accel", accel, "-cpu", cpu]);
    line.words(["-smp", &spec.cpus.to_string(), "-m", &spec.memory_mib.to_string()]);
    if secure && spec.arch == Arch::Amd64 {
        // Only code in system management mode may write the variable store.
        line.words(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        // OVMF built with SMM does not support it.
        line.words(["-global", "ICH9-LPC.disable_s3=1"]);
    }
}

fn firmware(line: &mut Line, spec: &MachineSpec, programs: &Programs, run: &RunDir) -> Result<()> {
    let code = match spec.firmware {
        Firmware::Bios if spec.arch == Arch::Arm64 => {
            return Err(Error::Spec("arm64 has no BIOS; choose UEFI".to_owned()));
        }
        Firmware::Bios => return Ok(()),
        Firmware::Uefi => &programs.ovmf_code,
        Firmware::UefiSecureBoot => &programs.ovmf_code_secboot,
    };
    let flash = |unit: &str| format!("if=pflash,unit={unit},format=raw,");
    line.option("-drive", &[OsStr::new(&flash("0")), "readonly=on,file=".as_ref(), &comma(code)]);
    line.option("-drive", &[OsStr::new(&flash("1")), "file=".as_ref(), &comma(&run.vars())]);
    Ok(())
}

/// The variable store a machine starts with; `None` without UEFI.
pub(crate) fn vars_template<'a>(spec: &MachineSpec, programs: &'a Programs) -> Option<&'a Path> {
    match spec.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => Some(&programs.ovmf_vars),
        Firmware::UefiSecureBoot => Some(&programs.ovmf_vars_ms),
    }
}

fn disk(line: &mut Line, spec: &MachineSpec, run: &RunDir) {
    let (format, file) = match &spec.disk {
        None => return,
        Some(Disk::Overlay { .. }) => ("qcow2", run.overlay()),
        Some(Disk::Raw(file)) => ("raw", file.clone()),
    };
    // Write-back keeps the guest's flushes meaningful, so a killed machine is an honest power cut.
    let cache = "cache=writeback,discard=unmap";
    if spec.record_writes {
        // The record lies above the disk's format, so it holds what the guest wrote, and where. It has to be whole
        // only when the machine has ended, so its own flushes are left out.
        let prefix = format!(
            "if=none,id=disk0,driver=blklogwrites,{cache},file.discard=unmap,file.driver={format},file.file.driver=file,\
             file.file.filename="
        );
        let log = ",log.driver=file,log.cache.no-flush=on,log.filename=";
        line.option("-drive", &[OsStr::new(&prefix), &comma(&file), log.as_ref(), &comma(&run.write_log())]);
    } else {
        let prefix = format!("if=none,id=disk0,format={format},{cache},file=");
        line.option("-drive", &[OsStr::new(&prefix), &comma(&file)]);
    }
    line.words(["-device", "virtio-blk-pci,drive=disk0,bootindex=1"]);
}

fn devices(line: &mut Line, spec: &MachineSpec, run: &RunDir) {
    line.words(["-device", "virtio-rng-pci"]);
    match spec.arch {
        Arch::Amd64 => line.words(["-device", "VGA"]),
        Arch::Arm64 => {
            line.words(["-device", "virtio-gpu-pci", "-device", "qemu-xhci", "-device", "usb-kbd"]);
        }
    }
    let log = comma(&run.console_log());
    match spec.serial {
        Serial::Socket => {
            let socket = comma(&run.serial_socket());
            let listen: &OsStr = ",server=on,wait=off,logfile=".as_ref();
            line.option("-chardev", &["socket,id=serial0,path=".as_ref(), &socket, listen, &log]);
        }
        Serial::Terminal => {
            line.option("-chardev", &["stdio,id=serial0,mux=on,signal=off,logfile=".as_ref(), &log]);
            line.words(["-mon", "chardev=serial0"]);
        }
    }
    line.words(["-serial", "chardev:serial0"]);
    let listen: &OsStr = ",server=on,wait=off".as_ref();
    line.option("-chardev", &["socket,id=qmp0,path=".as_ref(), &comma(&run.qmp_socket()), listen]);
    line.words(["-mon", "chardev=qmp0,mode=control"]);
    if spec.shell {
        line.option("-chardev", &["socket,id=shell0,path=".as_ref(), &comma(&run.shell_socket()), listen]);
        line.words(["-device", "virtio-serial-pci", "-device"]);
        line.words([format!("virtserialport,chardev=shell0,name={}", guest::SHELL_PORT).as_str()]);
    }
}

fn network(line: &mut Line, spec: &MachineSpec) {
    if spec.nics.is_empty() {
        line.words(["-nic", "none"]);
    }
    for (number, nic) in spec.nics.iter().enumerate() {
        let id = format!("net{number}");
        match nic {
            Nic::User { restrict } => {
                let restrict = if *restrict { "on" } else { "off" };
                line.words(["-netdev", &format!("user,id={id},restrict={restrict}")]);
                line.words(["-device", &format!("virtio-net-pci,netdev={id}")]);
            }
            Nic::Tap { interface, mac, capture } => {
                line.words(["-netdev", &format!("tap,id={id},ifname={interface},script=no,downscript=no")]);
                line.words(["-device", &format!("virtio-net-pci,netdev={id},mac={mac}")]);
                if let Some(file) = capture {
                    let prefix = format!("filter-dump,id=dump{number},netdev={id},file=");
                    line.option("-object", &[OsStr::new(&prefix), &comma(file)]);
                }
            }
        }
    }
}

/// A file that carries a credential, and the option that hands it to the guest.
pub(crate) struct CredentialFile {
    pub(crate) option: &'static str,
    prefix: OsString,
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
}

/// How each credential travels: as an SMBIOS string on amd64, in `fw_cfg` on arm64 (there without ACPI and
/// SMBIOS too, as on boards with a device tree). A name too long for `fw_cfg` travels as an SMBIOS string on
/// arm64 as well. Through files, since command lines are visible to every user and limited in length.
pub(crate) fn credential_files(spec: &MachineSpec, run: &RunDir) -> Result<Vec<CredentialFile>> {
    spec.all_credentials().into_iter().map(|credential| credential_file(spec.arch, credential, run)).collect()
}

fn credential_file(arch: Arch, credential: Credential, run: &RunDir) -> Result<CredentialFile> {
    let Credential { name, value } = credential;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_@~\\".contains(c);
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::Spec(format!(
            "credential name {name:?}: only letters, digits and .-_@~\\ make a name, at most 255 of them"
        )));
    }
    let path = run.credentials().join(&name);
    let fw_cfg = format!("opt/io.systemd.credentials/{name}");
    if arch == Arch::Arm64 && fw_cfg.len() <= FW_CFG_NAME_LIMIT {
        let prefix = format!("name={fw_cfg},file=").into();
        return Ok(CredentialFile { option: "-fw_cfg", prefix, path, content: value });
    }
    let content = format!("io.systemd.credential.binary:{name}={}", BASE64.encode(&value)).into_bytes();
    Ok(CredentialFile { option: "-smbios", prefix: "type=11,path=".into(), path, content })
}

/// A file name as a value of a QEMU option: commas are doubled.
fn comma(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes();
    OsString::from_vec(
        bytes.iter().flat_map(|byte| std::iter::repeat_n(*byte, 1 + usize::from(*byte == b','))).collect(),
    )
}

/// The line as it grows.
struct Line(Vec<OsString>);

impl Line {
    fn words<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.0.extend(words.into_iter().map(OsString::from));
    }

    fn option(&mut self, name: &str, parts: &[&OsStr]) {
        self.words([name]);
        self.0.push(parts.iter().copied().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spec: &MachineSpec) -> String {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        let programs = Programs::debian(spec.arch, vec!["chroot".into(), "/lab".into()]);
        let line = crate::command_line(&argv(spec, &programs, &run).unwrap());
        line.replace(&run.path().display().to_string(), "/run").replace(" -", "\n-")
    }

    fn spec(arch: Arch, firmware: Firmware) -> MachineSpec {
        let mut spec = MachineSpec::new(arch, firmware, Accel::Tcg);
        spec.disk = Some(Disk::overlay("/images/appliance.img", 6 << 30));
        spec.credentials = vec![Credential::new("cipolla.settings", "schema = 1\n")];
        spec
    }

    #[test]
    fn amd64_bios() {
        insta::assert_snapshot!(shown(&spec(Arch::Amd64, Firmware::Bios)));
    }

    #[test]
    fn amd64_uefi_with_shell_and_kvm() {
        let mut spec = spec(Arch::Amd64, Firmware::Uefi);
        spec.accel = Accel::Kvm;
        spec.shell = true;
        insta::assert_snapshot!(shown(&spec));
    }

    #[test]
    fn amd64_secure_boot() {
        insta::assert_snapshot!(shown(&spec(Arch::Amd64, Firmware::UefiSecureBoot)));
    }

    #[test]
    fn arm64_uefi_with_shell() {
        let mut spec = spec(Arch::Arm64, Firmware::Uefi);
        spec.shell = true;
        insta::assert_snapshot!(shown(&spec));
    }

    #[test]
    fn arm64_secure_boot_has_no_smm() {
        insta::assert_snapshot!(shown(&spec(Arch::Arm64, Firmware::UefiSecureBoot)));
    }

    #[test]
    fn terminal_raw_disk_and_networks() {
        let mut spec = MachineSpec::new(Arch::Amd64, Firmware::Bios, Accel::Tcg);
        spec.disk = Some(Disk::Raw("/images/one,two.img".into()));
        spec.serial = Serial::Terminal;
        let capture = Some("/run/lan.pcap".into());
        spec.nics = vec![
            Nic::User { restrict: true },
            Nic::Tap { interface: "tap0".into(), mac: "52:54:00:00:00:01".into(), capture },
        ];
        spec.smbios = vec!["type=1,serial=7".into()];
        spec.extra = vec!["-no-reboot".into()];
        insta::assert_snapshot!(shown(&spec));
    }

    #[test]
    fn recorded_writes() {
        let mut spec = spec(Arch::Amd64, Firmware::Bios);
        spec.record_writes = true;
        insta::assert_snapshot!(shown(&spec));
    }

    #[test]
    fn arm64_has_no_bios() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        let spec = MachineSpec::new(Arch::Arm64, Firmware::Bios, Accel::Tcg);
        let error = argv(&spec, &Programs::debian(Arch::Arm64, Vec::new()), &run).unwrap_err();
        assert_eq!(error.to_string(), "describing the machine: arm64 has no BIOS; choose UEFI");
    }

    #[test]
    fn credentials_by_their_way() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        let one = |arch, name: &str| credential_file(arch, Credential::new(name, "x"), &run);
        let short = one(Arch::Arm64, "cipolla.settings").unwrap();
        assert_eq!((short.option, short.content.as_slice()), ("-fw_cfg", b"x".as_slice()));
        let long = one(Arch::Arm64, "systemd.unit-dropin.sysinit.target").unwrap();
        assert_eq!(long.option, "-smbios");
        let smbios = one(Arch::Amd64, "cipolla.settings").unwrap();
        assert_eq!(smbios.content, b"io.systemd.credential.binary:cipolla.settings=eA==");
        assert!(one(Arch::Amd64, "../x").is_err());
        assert!(one(Arch::Amd64, "a,b").is_err());
    }
}
