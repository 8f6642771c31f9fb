//! The command line as data. The help texts are the reference.

use std::num::NonZeroUsize;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};
use recipe::Arch;

/// Builds, runs and tests Cipolla's appliance images.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, propagate_version = true)]
#[command(
    after_help = "The usual way:\n  make image    doctor --fix, then build\n  make run      build, then boot it \
                        in QEMU\n  make test     everything CI runs\n\nEnvironment:\n  CIPOLLA_CACHE      where the \
                        store and the package pool live (default ~/.cache/cipolla)\n  SOURCE_DATE_EPOCH  the \
                        newest time in the image, when the recipe names none\n  CIPOLLA_SEED       when the power goes in the \
                        tests (default 1)\n  CIPOLLA_WRITES     a record that the scenario power left, to be judged \
                        again\n  NO_COLOR           no colours"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb understands.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// The recipe.
    #[arg(long, value_name = "FILE", default_value = "recipes/mail.toml", global = true)]
    pub(crate) recipe: Utf8PathBuf,
    /// The image's architecture [default: this machine's].
    #[arg(long, value_parser = arch, global = true, value_name = "amd64|arm64")]
    pub(crate) arch: Option<Arch>,
    /// Show every command, ready to paste.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

fn arch(text: &str) -> Result<Arch, String> {
    text.parse().map_err(|_| "it is amd64 or arm64".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Say what this machine lacks, all at once, each with the command that mends it.
    #[command(after_help = "Example:\n  cargo xtask doctor --fix")]
    Doctor {
        #[command(flatten)]
        common: Common,
        /// Run those commands.
        #[arg(long)]
        fix: bool,
        /// Also what `make check` needs.
        #[arg(long)]
        checks: bool,
    },
    /// Show the stages of a build, hit or miss and why. Changes nothing, asks no mirror.
    #[command(after_help = "Example:\n  cargo xtask plan --recipe recipes/mail.toml")]
    Plan {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        out: Out,
    },
    /// Build the image.
    #[command(
        after_help = "Examples:\n  cargo xtask build\n  cargo xtask build --refresh     # newest package versions\n  \
                            cargo xtask build -v --out /srv/images"
    )]
    Build {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        out: Out,
        #[command(flatten)]
        packages: Packages,
    },
    /// Boot the newest image in QEMU, with the owner's console on this terminal. The image file stays as it is.
    #[command(
        after_help = "Leave with Ctrl-A then X.\n\nExamples:\n  cargo xtask run\n  cargo xtask run --headless   # \
                            only shows the console, until Ctrl-C"
    )]
    Run {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        out: Out,
        /// Do not attach this terminal.
        #[arg(long)]
        headless: bool,
        /// The machine's firmware.
        #[arg(long, value_enum, default_value_t = Firmware::Bios)]
        firmware: Firmware,
    },
    /// Run the tests: unit, golden, image, boot.
    #[command(after_help = "Examples:\n  cargo xtask test                 # everything\n  cargo xtask test \
                            firmware_bios   # what matches\n  cargo xtask test firmware_bios --keep   # leave the \
                            machine up\n  cargo xtask test --lanes 1       # one scenario after the other\n  cargo xtask \
                            test --repeat 3      # what does not always say the same")]
    Test {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        out: Out,
        #[command(flatten)]
        packages: Packages,
        /// Only checks whose `scenario::check` contains one of these; `unit` means the unit and golden tests, `oracle`
        /// those of keys against the real Tor and OpenSSH.
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
        /// Make the checks of `cargo xtask check` as well, while the image is built.
        #[arg(long)]
        checks: bool,
        /// Leave machines up after a scenario and say how to reach them.
        #[arg(long)]
        keep: bool,
        /// How many machines of 1 GiB are up at a time; a scenario has one or two. [default: three for two cores, at
        /// most 6]
        #[arg(long, value_name = "N")]
        lanes: Option<NonZeroUsize>,
        /// Make all scenarios so many times in a row and tell which checks did not say the same each time.
        #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN, hide_default_value = true, conflicts_with = "keep")]
        repeat: NonZeroUsize,
    },
    /// The fast checks: format, clippy, docs, dependencies, shell scripts, unit tests.
    #[command(after_help = "Example:\n  cargo xtask check")]
    Check {
        #[command(flatten)]
        common: Common,
        /// Leave out the unit tests, which `cargo xtask test` runs as well.
        #[arg(long)]
        no_unit_tests: bool,
    },
    /// Time cold, no-op, one-overlay-file and one-package builds, beside plain mmdebstrap in the same run, and the
    /// agent's part of a first boot, for which there is a limit.
    #[command(
        after_help = "Examples:\n  cargo xtask bench --runs 3\n  cargo xtask bench --runs 0   # the first boot alone"
    )]
    Bench {
        #[command(flatten)]
        common: Common,
        /// Runs of each kind of build; the table shows medians. 0: no builds, only the first boot.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
}

/// Where images go.
#[derive(Args, Clone, Debug)]
pub(crate) struct Out {
    /// Folder of the image and its manifest.
    #[arg(long, value_name = "DIR", default_value = "target/images")]
    pub(crate) out: Utf8PathBuf,
}

/// Where packages come from.
#[derive(Args, Clone, Debug)]
pub(crate) struct Packages {
    /// Debian mirror [default: the recipe's, else that of this machine's apt].
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
    /// Ask the mirror again which package versions are current.
    #[arg(long)]
    pub(crate) refresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Firmware {
    /// `SeaBIOS`.
    Bios,
    /// OVMF.
    Uefi,
    /// OVMF with Secure Boot enforced.
    SecureBoot,
}
