//! The two architectures that Cipolla builds.

use super::keyword;

/// A Debian architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit PC.
    Amd64,
    /// 64-bit ARM: UEFI machines and the Raspberry Pi.
    Arm64,
}

keyword!(Arch, "architecture", { Amd64 => "amd64", Arm64 => "arm64" });

impl Arch {
    /// Debian's name, as in `dpkg --print-architecture`. The same as [`Self::as_str`].
    #[must_use]
    pub const fn debian_name(self) -> &'static str {
        self.as_str()
    }

    /// The multiarch triplet, as in `/usr/lib/x86_64-linux-gnu`.
    #[must_use]
    pub const fn gnu_triplet(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// The kernel's name for it, as `uname -m` prints; QEMU and systemd use it too.
    #[must_use]
    pub const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The architecture this program runs on, if Cipolla knows it.
    #[must_use]
    pub fn host() -> Option<Self> {
        Self::ALL.iter().copied().find(|arch| arch.machine() == std::env::consts::ARCH)
    }
}
