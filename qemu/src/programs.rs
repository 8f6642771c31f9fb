//! Where QEMU, its firmware and the other lab programs are.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Arch, Error, Result};

/// The lab's programs. They live in a Debian tree of their own, entered through [`Programs::wrapper`]; the
/// disk image and the run directory must be visible under the same names inside and outside that tree. The
/// paths here are those inside.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Argument vector put before every program to enter the tree; may be empty. It has to stay in the process
    /// group it was started in, or a machine's processes could outlive the test.
    pub wrapper: Vec<OsString>,
    /// `qemu-system-x86_64` or `qemu-system-aarch64`.
    pub qemu_system: PathBuf,
    /// `qemu-img`.
    pub qemu_img: PathBuf,
    /// EDK II's code without Secure Boot.
    pub ovmf_code: PathBuf,
    /// EDK II's code that enforces Secure Boot.
    pub ovmf_code_secboot: PathBuf,
    /// Variable store without keys.
    pub ovmf_vars: PathBuf,
    /// Variable store with Microsoft's keys enrolled.
    pub ovmf_vars_ms: PathBuf,
}

impl Programs {
    /// The paths of Debian 13's packages `qemu-system-x86`, `qemu-system-arm`, `qemu-utils`, `ovmf` and
    /// `qemu-efi-aarch64`.
    #[must_use]
    pub fn debian(arch: Arch, wrapper: Vec<OsString>) -> Self {
        let (system, firmware) = match arch {
            Arch::Amd64 => (
                "/usr/bin/qemu-system-x86_64",
                [
                    "/usr/share/OVMF/OVMF_CODE_4M.fd",
                    "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
                    "/usr/share/OVMF/OVMF_VARS_4M.fd",
                    "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
                ],
            ),
            Arch::Arm64 => (
                "/usr/bin/qemu-system-aarch64",
                [
                    "/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd",
                    "/usr/share/AAVMF/AAVMF_CODE.secboot.fd",
                    "/usr/share/AAVMF/AAVMF_VARS.fd",
                    "/usr/share/AAVMF/AAVMF_VARS.ms.fd",
                ],
            ),
        };
        let [ovmf_code, ovmf_code_secboot, ovmf_vars, ovmf_vars_ms] = firmware.map(PathBuf::from);
        let (qemu_system, qemu_img) = (system.into(), "/usr/bin/qemu-img".into());
        Self { wrapper, qemu_system, qemu_img, ovmf_code, ovmf_code_secboot, ovmf_vars, ovmf_vars_ms }
    }

    /// A program of the tree as an argument vector, wrapper first.
    pub fn line(&self, program: impl AsRef<OsStr>) -> Vec<OsString> {
        let mut line = self.wrapper.clone();
        line.push(program.as_ref().to_owned());
        line
    }

    /// A program of the tree, to be given arguments and started by the caller. Standard streams are
    /// [`Command`]'s defaults, except stdin, which is empty.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = command_of(&self.line(program));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program of the tree to its end and returns what it wrote to stdout.
    ///
    /// # Errors
    /// When it does not start, or ends with anything but success: [`Error::Program`] with its stderr.
    pub fn output<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Vec<u8>> {
        self.output_of(program, arguments, &[])
    }

    /// As [`Programs::output`], for a program that reads `input` from stdin. `input` has to fit into a pipe
    /// (64 KiB, pipe(7)).
    ///
    /// # Errors
    /// As [`Programs::output`].
    pub(crate) fn output_of<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Result<Vec<u8>> {
        let mut command = self.command(program);
        command.args(arguments);
        let failed = |command: &Command, problem: String| Error::Program {
            command: shell_words::join(
                std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy),
            ),
            problem,
        };
        let run = |command: &mut Command| {
            let (read, mut write) = std::io::pipe()?;
            write.write_all(input)?;
            drop(write);
            command.stdin(read).output()
        };
        let output = run(&mut command).map_err(|error| failed(&command, error.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(failed(&command, format!("{}: {}", output.status, words.trim())))
    }
}

/// A command from an argument vector. Panics never: an empty vector starts the empty name, which fails.
pub(crate) fn command_of(line: &[OsString]) -> Command {
    let mut command = Command::new(line.first().map_or(OsStr::new(""), OsString::as_os_str));
    command.args(line.iter().skip(1));
    command
}

/// An argument vector as a line for the shell.
#[must_use]
pub fn command_line(line: &[OsString]) -> String {
    shell_words::join(line.iter().map(|word| word.to_string_lossy()))
}

/// `setpriv` of the host, if there is one: with it a program dies when the thread that started it dies.
pub(crate) fn setpriv() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("setpriv")).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapper_comes_first() {
        let programs = Programs::debian(Arch::Amd64, vec!["chroot".into(), "/lab tree".into()]);
        assert_eq!(command_line(&programs.line("sfdisk")), "chroot '/lab tree' sfdisk");
    }

    #[test]
    fn a_failing_program_is_named_with_its_words() {
        let programs = Programs::debian(Arch::Amd64, Vec::new());
        let error = programs.output("sh", ["-c", "echo no such disk >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3: no such disk"), "{text}");
        let missing = programs.output("/no/such/program", ["x"]).unwrap_err();
        assert!(missing.to_string().starts_with("running `/no/such/program x`: "), "{missing}");
    }
}
