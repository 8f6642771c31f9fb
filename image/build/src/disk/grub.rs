//! The text files on the boot partition that make GRUB decide as [`super::slots`] says, and where files go there.
//!
//! Two loaders read the same `grub/grub.cfg`:
//! - BIOS: an image made by `grub-mkimage -O i386-pc` from [`BIOS_MODULES`] and [`bios_early_config`]; all it needs
//!   is in it, no module file lies on the boot partition;
//! - UEFI: Debian's signed shim and GRUB. The signed GRUB has the folder `/EFI/debian` built in and looks there for
//!   `grub.cfg`, on the partition it was loaded from, also when it was started from `EFI/BOOT`. Under Secure Boot
//!   it loads no module, so the script uses only what is built in.
//!
//! Never: a decision that is not in [`super::slots`].

use recipe::Arch;
use thiserror::Error;

use super::grubenv::Slot;
use super::ids::{DiskIds, VolumeId};

/// The boot menu: `grub/grub.cfg`. The same for every recipe and architecture.
pub const GRUB_CFG: &str = include_str!("grub/grub.cfg");

/// Modules of the BIOS image, for `grub-mkimage`. It adds what they depend on.
pub const BIOS_MODULES: &[&str] = &[
    // disk and file system
    "biosdisk",
    "part_gpt",
    "fat",
    "search",
    "search_fs_uuid",
    // the script
    "normal",
    "configfile",
    "test",
    "true",
    "echo",
    "loadenv",
    // console
    "terminal",
    "serial",
    "keystatus",
    "sleep",
    "minicmd",
    // the ways out
    "linux",
    "reboot",
    "halt",
];

/// `-p` of `grub-mkimage`: partition 2 of the disk that the BIOS booted from, whatever its number.
pub const BIOS_PREFIX: &str = "(,gpt2)/grub";

/// Longest kernel command line on amd64 and arm64, its final zero included (`COMMAND_LINE_SIZE`).
const MAX_CMDLINE: usize = 2048;

/// Names on the boot partition, relative to its root.
pub mod path {
    /// The boot menu.
    pub const GRUB_CFG: &str = "grub/grub.cfg";
    /// GRUB's environment block.
    pub const GRUB_ENV: &str = "grub/grubenv";
    /// Where Debian's signed GRUB looks first.
    pub const EFI_GRUB_CFG: &str = "EFI/debian/grub.cfg";
    /// The owner's settings.
    pub const SETTINGS: &str = "cipolla.toml";
}

/// The removable path of UEFI (section 3.5.1.1): names of shim, GRUB and `MokManager`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EfiFiles {
    /// What the firmware starts: shim (`shim*.efi.signed`).
    pub shim: &'static str,
    /// What shim starts: GRUB (`grub*.efi.signed`).
    pub grub: &'static str,
    /// What shim starts to enrol keys: `MokManager` (`mm*.efi.signed`).
    pub mok_manager: &'static str,
}

/// The names for an architecture.
pub const fn efi_files(arch: Arch) -> EfiFiles {
    match arch {
        Arch::Amd64 => EfiFiles {
            shim: "EFI/BOOT/BOOTX64.EFI",
            grub: "EFI/BOOT/grubx64.efi",
            mok_manager: "EFI/BOOT/mmx64.efi",
        },
        Arch::Arm64 => EfiFiles {
            shim: "EFI/BOOT/BOOTAA64.EFI",
            grub: "EFI/BOOT/grubaa64.efi",
            mok_manager: "EFI/BOOT/mmaa64.efi",
        },
    }
}

/// Names in a slot's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFiles {
    /// The kernel.
    pub kernel: String,
    /// Debian's initramfs.
    pub initrd: String,
    /// Ours, unpacked over it.
    pub initrd_cipolla: String,
    /// The kernel command line for GRUB.
    pub config: String,
    /// The kernel command line as plain text, for the Raspberry Pi's firmware.
    pub cmdline: String,
}

/// The names for a slot.
pub fn slot_files(slot: Slot) -> SlotFiles {
    SlotFiles {
        kernel: format!("{slot}/vmlinuz"),
        initrd: format!("{slot}/initrd"),
        initrd_cipolla: format!("{slot}/initrd-cipolla"),
        config: format!("{slot}/slot.cfg"),
        cmdline: format!("{slot}/cmdline.txt"),
    }
}

/// `EFI/debian/grub.cfg`: hands over to `grub/grub.cfg`. The partition that GRUB was loaded from is tried first; the
/// search serves firmware that does not say which one that was.
pub fn efi_config(boot: VolumeId) -> String {
    format!(
        "# Debian's signed GRUB starts here.\n\
         if [ ! -s /grub/grub.cfg ]; then search --no-floppy --fs-uuid --set=root {boot}; fi\n\
         set prefix=($root)/grub\n\
         configfile /grub/grub.cfg\n"
    )
}

/// The configuration embedded in the BIOS image (`grub-mkimage -c`). It runs before scripts work, so it holds plain
/// commands only: find the boot partition, on the disk that booted if it is there.
pub fn bios_early_config(boot: VolumeId) -> String {
    format!("search.fs_uuid {boot} root $root\nset prefix=($root)/grub\n")
}

/// A kernel parameter that cannot be written into all the places a command line goes to.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// A character that GRUB's script, the kernel or `cmdline.txt` would read as something else.
    #[error(
        "checking kernel parameter {parameter:?}: {character:?} has a meaning to GRUB or the kernel; leave it out"
    )]
    Character {
        /// The parameter.
        parameter: String,
        /// The first bad character.
        character: char,
    },
    /// An empty parameter.
    #[error("checking the kernel parameters: one is empty; remove it")]
    Empty,
    /// A parameter that the builder sets.
    #[error("checking kernel parameter {0:?}: the builder sets it for each slot; remove it")]
    Reserved(String),
    /// Too long for the kernel.
    #[error("writing the kernel command line: {0} bytes, but the kernel reads {max} at most", max = MAX_CMDLINE - 1)]
    TooLong(usize),
}

/// A kernel command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline(String);

impl Cmdline {
    /// The one of a slot: what finds root and data, then the recipe's parameters.
    ///
    /// # Errors
    /// A parameter has a character outside letters, digits and `_ - . , : = / @ + %`, is one of the builder's own,
    /// or the line is too long.
    pub fn new(slot: Slot, ids: &DiskIds, parameters: &[impl AsRef<str>]) -> Result<Self, CmdlineError> {
        let root = match slot {
            Slot::A => ids.root_a,
            Slot::B => ids.root_b,
        };
        let mut line = format!(
            "boot=cipolla root=PARTUUID={root} cipolla.data=PARTUUID={} cipolla.slot={slot} ro",
            ids.data
        );
        for parameter in parameters {
            let parameter = parameter.as_ref();
            let name = parameter.split('=').next().unwrap_or_default();
            if name.is_empty() {
                return Err(CmdlineError::Empty);
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:=/@+%".contains(c);
            if let Some(character) = parameter.chars().find(|c| !plain(*c)) {
                return Err(CmdlineError::Character { parameter: parameter.to_owned(), character });
            }
            if matches!(name, "boot" | "root" | "cipolla.data" | "cipolla.slot" | "ro" | "rw") {
                return Err(CmdlineError::Reserved(parameter.to_owned()));
            }
            line.push(' ');
            line.push_str(parameter);
        }
        if line.len() >= MAX_CMDLINE {
            return Err(CmdlineError::TooLong(line.len()));
        }
        Ok(Cmdline(line))
    }

    /// The line, without a newline.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `slot.cfg`: one assignment that [`GRUB_CFG`] sources.
    pub fn slot_config(&self) -> String {
        format!(
            "# Kernel command line of this slot; read by /grub/grub.cfg.\nset cipolla_cmdline='{}'\n",
            self.0
        )
    }

    /// `cmdline.txt`: the line and a newline; the Pi's firmware reads the first line only.
    pub fn text(&self) -> String {
        format!("{}\n", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots;
    use super::*;

    fn ids() -> DiskIds {
        DiskIds::derive("mail", Arch::Amd64, "1")
    }

    #[test]
    fn a_command_line_names_its_slot() {
        let ids = ids();
        let line = Cmdline::new(Slot::B, &ids, &["console=tty0", "quiet"]).unwrap();
        assert_eq!(
            line.as_str(),
            format!(
                "boot=cipolla root=PARTUUID={} cipolla.data=PARTUUID={} cipolla.slot=b ro console=tty0 quiet",
                ids.root_b, ids.data
            )
        );
        assert!(line.slot_config().ends_with(&format!("\nset cipolla_cmdline='{}'\n", line.as_str())));
        assert_eq!(line.text(), format!("{}\n", line.as_str()));
    }

    #[test]
    fn parameters_that_would_break_out_are_refused() {
        for bad in ["a b", "x='", "x=\"", "x=$root", "x;reboot", "x\n", "x\\", "x{", "x*", "é", "#x"] {
            assert!(
                matches!(Cmdline::new(Slot::A, &ids(), &[bad]), Err(CmdlineError::Character { .. })),
                "{bad:?}"
            );
        }
        assert_eq!(Cmdline::new(Slot::A, &ids(), &["ok", ""]), Err(CmdlineError::Empty));
        assert_eq!(
            Cmdline::new(Slot::A, &ids(), &["root=/dev/sda"]),
            Err(CmdlineError::Reserved("root=/dev/sda".to_owned()))
        );
        let long = "x".repeat(2048);
        assert!(matches!(Cmdline::new(Slot::A, &ids(), &[long]), Err(CmdlineError::TooLong(_))));
    }

    #[test]
    fn the_menu_uses_no_command_that_the_loaders_lack() {
        // Commands of the modules that are built into both Debian's signed GRUB 2.12 and our BIOS image, and the
        // script language's own words. `fwsetup` is UEFI's and guarded by a test of the platform.
        let known = [
            "if",
            "elif",
            "then",
            "else",
            "fi",
            "function",
            "set",
            "[",
            "true",
            "echo",
            "source",
            "load_env",
            "save_env",
            "serial",
            "terminal_input",
            "terminal_output",
            "linux",
            "initrd",
            "menuentry",
            "start_slot",
            "fwsetup",
            "reboot",
            "halt",
            "}",
        ];
        for line in GRUB_CFG.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            // Every word in command position: at the start, behind `;`, `{`, `then`, `else`, `if` or `elif`.
            let mut command = true;
            for word in line.split_whitespace() {
                if command {
                    assert!(known.contains(&word.trim_end_matches(';')), "{word:?} in {line:?}");
                }
                command = word.ends_with(';') || matches!(word, "if" | "elif" | "then" | "else" | "{");
            }
        }
    }

    #[test]
    fn the_menu_prints_the_lines_of_the_cases() {
        for case in slots::cases() {
            let line = case.line.trim_start_matches("cipolla: ");
            let reason = line.split_once('(').map_or(line, |(_, reason)| reason.trim_end_matches(')'));
            let asked = reason
                .replace("slot a has", "slot $slot has")
                .replace("slot b has", "slot $slot has")
                .replace("slot a", "slot $chosen")
                .replace("slot b", "slot $chosen");
            assert!(GRUB_CFG.contains(&asked), "{asked:?}");
        }
    }

    #[test]
    fn the_menu_tests_for_the_files_that_it_starts() {
        for slot in Slot::ALL {
            let SlotFiles { kernel, initrd, initrd_cipolla, config, .. } = slot_files(slot);
            let test = format!("-s /{kernel} -a -s /{initrd} -a -s /{initrd_cipolla} -a -s /{config} ]");
            assert!(GRUB_CFG.contains(&test), "{test}");
        }
        for name in [path::GRUB_ENV, path::GRUB_CFG] {
            assert!(GRUB_CFG.contains(name) || efi_config(VolumeId(0)).contains(name), "{name}");
        }
    }

    #[test]
    fn the_menu_is_plain_text() {
        assert!(GRUB_CFG.is_ascii() && GRUB_CFG.ends_with('\n') && !GRUB_CFG.contains(['\t', '\r']));
    }

    #[test]
    fn both_loaders_look_for_the_boot_partition_by_its_id() {
        let id = VolumeId(0x1234_abcd);
        assert!(efi_config(id).contains("--fs-uuid --set=root 1234-ABCD;"));
        assert!(bios_early_config(id).starts_with("search.fs_uuid 1234-ABCD root $root\n"));
    }
}
