//! What machine is wanted: data only.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Accel, Arch, Firmware, guest};

/// A machine. Start from [`MachineSpec::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// Processor architecture; decides the machine type.
    pub arch: Arch,
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// Hardware virtualisation or emulation; ask [`crate::probe`].
    pub accel: Accel,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u8,
    /// The disk, if any.
    pub disk: Option<Disk>,
    /// Whether all that the machine does to its disk is recorded ([`crate::WriteLog`]), in
    /// [`crate::RunDir::write_log`].
    pub record_writes: bool,
    /// systemd system credentials (systemd.system-credentials(7)).
    pub credentials: Vec<Credential>,
    /// Network cards; none by default, so that nothing can leave by accident.
    pub nics: Vec<Nic>,
    /// Where the first serial port goes.
    pub serial: Serial,
    /// Whether a root shell on a virtio-serial port is injected ([`guest::shell_credentials`]).
    pub shell: bool,
    /// Further values of QEMU's `-smbios`.
    pub smbios: Vec<String>,
    /// Further QEMU arguments, put last, as they are.
    pub extra: Vec<OsString>,
}

impl MachineSpec {
    /// 1 GiB of memory, two processors, no disk, no network, serial on a socket, no shell.
    #[must_use]
    pub fn new(arch: Arch, firmware: Firmware, accel: Accel) -> Self {
        Self {
            arch,
            firmware,
            accel,
            memory_mib: 1024,
            cpus: 2,
            disk: None,
            record_writes: false,
            credentials: Vec::new(),
            nics: Vec::new(),
            serial: Serial::Socket,
            shell: false,
            smbios: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// The caller's credentials and, if wanted, those that make the shell.
    pub(crate) fn all_credentials(&self) -> Vec<Credential> {
        let mut all = self.credentials.clone();
        if self.shell {
            all.extend(guest::shell_credentials());
        }
        all
    }
}

/// The machine's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// A qcow2 layer in the run directory over a raw image that is never written.
    Overlay {
        /// The raw image.
        base: PathBuf,
        /// Size the guest sees, in bytes; at least the image's.
        size: u64,
        /// Whether a layer left by an earlier run in the same directory is used again.
        reuse: bool,
    },
    /// A raw file that the guest writes to.
    Raw(PathBuf),
}

impl Disk {
    /// A fresh layer over `base` that the guest sees as a disk of `size` bytes.
    pub fn overlay(base: impl Into<PathBuf>, size: u64) -> Self {
        Self::Overlay { base: base.into(), size, reuse: false }
    }
}

/// A named secret or setting handed to the guest's systemd by the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Name, such as `cipolla.settings`.
    pub name: String,
    /// Content, at most a few kilobytes.
    pub value: Vec<u8>,
}

impl Credential {
    /// A credential.
    pub fn new(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// A network card (virtio).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nic {
    /// QEMU's built-in NAT with DHCP; needs no privileges.
    User {
        /// Cuts the guest off from everything but the built-in DHCP server.
        restrict: bool,
    },
    /// An existing tap device of the network namespace that QEMU runs in.
    Tap {
        /// The tap's name.
        interface: String,
        /// The card's address, `52:54:00:xx:xx:xx`.
        mac: String,
        /// Where QEMU records every packet (pcap), if wanted.
        capture: Option<PathBuf>,
    },
}

/// Where the first serial port goes. It is also logged to the run directory's `console.log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// A socket of the run directory, for [`crate::Console`].
    Socket,
    /// QEMU's own terminal, shared with its monitor: Ctrl-A is the escape.
    Terminal,
}
