//! Everything that the agent takes from outside itself, in one hand.
//!
//! Files, programs, randomness, time: the story of a boot is told with these and nothing else, so a test can
//! bring its own.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use camino::Utf8PathBuf;
use identity::rand_core::CryptoRng;

use crate::fs::Fs;
use crate::programs::Programs;

/// The boot partition (FAT), mounted read-only at [`crate::paths::BOOT`].
pub trait BootPartition {
    /// Whether there is one, mounted.
    fn is_there(&self) -> bool;

    /// Lets files on it be changed from now on.
    ///
    /// # Errors
    /// When there is none, or it cannot be written.
    fn make_writable(&self) -> Result<()>;
}

/// A machine to work on.
pub struct Machine<'m> {
    /// Its files.
    pub fs: &'m dyn Fs,
    /// Its programs.
    pub programs: &'m dyn Programs,
    /// Its boot partition.
    pub boot_partition: &'m dyn BootPartition,
    /// A source of secrets.
    pub rng: RefCell<Box<dyn CryptoRng + 'm>>,
    /// The time now.
    pub now: SystemTime,
    /// How long the machine has been running, which no setting of the clock changes.
    pub uptime: Duration,
    /// The folder with the system credentials, if systemd passed any.
    pub credentials: Option<Utf8PathBuf>,
}

impl std::fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("now", &self.now).finish_non_exhaustive()
    }
}

/// How long this machine has been running (`CLOCK_BOOTTIME`, `clock_gettime(2)`).
#[must_use]
pub fn uptime() -> Duration {
    // The kernel counts from zero on; a time that is none would be its own fault.
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).try_into().unwrap_or_default()
}

/// The kernel's random numbers, waiting for its generator to be seeded.
///
/// Without them nothing can be made, so their failure (a kernel older than any supported) is a panic.
#[must_use]
pub fn system_rng() -> Box<dyn CryptoRng> {
    Box::new(identity::rand_core::UnwrapErr(getrandom::SysRng))
}
