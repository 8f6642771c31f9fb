//! Which computer, and which firmware starts it.

use std::fmt;

/// The guest's processor architecture, by Debian's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// x86-64: QEMU's `q35` machine.
    Amd64,
    /// `AArch64`: QEMU's `virt` machine.
    Arm64,
}

impl Arch {
    /// Debian's name of the architecture.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The architecture this program runs on, if it is one of ours.
    #[must_use]
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What runs before the boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// `SeaBIOS`; amd64 only.
    Bios,
    /// EDK II without enforced signatures: OVMF on amd64, AAVMF on arm64.
    Uefi,
    /// EDK II with Microsoft's keys enrolled and Secure Boot enforced.
    UefiSecureBoot,
}

impl Firmware {
    /// Short name for files and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::UefiSecureBoot => "uefi_secure_boot",
        }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
