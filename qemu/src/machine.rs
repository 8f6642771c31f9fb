//! A running machine: owns the process, its logs and its three lines out.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use crate::console::Console;
use crate::process::{POLL, Process, dies_with_us, last_words};
use crate::programs::command_line;
use crate::qmp::Qmp;
use crate::shell::{Output, Shell};
use crate::spec::{MachineSpec, Serial};
use crate::{Deadline, Error, Programs, Result, RunDir, argv, disk, guest};

/// How long QEMU may take to open its sockets; it does so before it loads anything large.
const START: Duration = Duration::from_secs(60);

/// Lines of the console that go into a failure.
const TAIL: usize = 30;

/// Whether the machine outlives the [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Dropping the [`Machine`] ends it, and so does the end of this program.
    No,
    /// It stays up; [`Machine::how_to_reach`] says how to get to it and how to end it.
    Yes,
}

/// A running machine.
///
/// Unless kept, it ends with this value. The order on drop: QEMU's whole process group is killed, then the
/// process is waited for, then the console's reader ends by itself as its socket closes. Logs stay in the run
/// directory. QEMU also dies with the *thread* that spawned it (`PR_SET_PDEATHSIG`, prctl(2)), so a killed
/// test leaves nothing behind; spawn from a thread that lives as long as the machine.
pub struct Machine {
    process: Process,
    console: Console,
    qmp: Qmp,
    shell: Option<Shell>,
    run_dir: RunDir,
    replay: String,
    wrapper: Vec<std::ffi::OsString>,
}

impl Machine {
    /// Prepares the run directory, starts QEMU paused, connects to it, and lets it run: no byte of the console
    /// is missed.
    ///
    /// # Errors
    /// When the specification does not fit together, a file cannot be written, or QEMU does not start.
    pub fn spawn(spec: &MachineSpec, programs: &Programs, run_dir: RunDir, keep: Keep) -> Result<Self> {
        if spec.serial != Serial::Socket {
            return Err(Error::Spec("a watched machine needs its serial port on a socket".to_owned()));
        }
        let line = prepare(spec, programs, &run_dir)?;
        let mut paused = match keep {
            Keep::No => dies_with_us(&line, &programs.wrapper),
            Keep::Yes => line.clone(),
        };
        paused.push("-S".into());
        let mut process = Process::spawn("QEMU", &paused, Stdio::null(), &run_dir.qemu_log())?;
        let deadline = Deadline::after(START);
        let console = process.connect(&run_dir.serial_socket(), deadline)?;
        let qmp = process.connect(&run_dir.qmp_socket(), deadline)?;
        let shell = spec.shell.then(|| process.connect(&run_dir.shell_socket(), deadline)).transpose()?;
        let console = Console::new(console).map_err(Error::io("reading", &run_dir.serial_socket()))?;
        let mut qmp = Qmp::new(qmp, &run_dir.qmp_log(), deadline)?;
        let shell = shell.map(Shell::new).transpose()?;
        qmp.resume(deadline)?;
        // Until here nobody but this function could have ended it.
        process.keep(keep);
        let (replay, wrapper) = (command_line(&line), programs.wrapper.clone());
        Ok(Self { process, console, qmp, shell, run_dir, replay, wrapper })
    }

    /// The run directory with the logs.
    #[must_use]
    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// The serial console.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// QEMU's control socket.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// QEMU's command line, for the shell.
    #[must_use]
    pub fn replay(&self) -> &str {
        &self.replay
    }

    /// Waits until `text` shows on the console ([`Console::wait_for`]).
    ///
    /// # Errors
    /// [`Error::Machine`] with the evidence.
    pub fn wait_for(&mut self, text: &str, deadline: Deadline) -> Result<()> {
        let seen = self.console.wait_for(text, deadline);
        seen.map_err(|error| self.explain(error))
    }

    /// Waits for a line of the console ([`Console::wait_line`]).
    ///
    /// # Errors
    /// [`Error::Machine`] with the evidence.
    pub fn wait_line<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let seen = self.console.wait_line(what, deadline, pick);
        seen.map_err(|error| self.explain(error))
    }

    /// Waits until the guest's shell is there. It starts early in the boot, long before the login prompt.
    ///
    /// # Errors
    /// [`Error::Machine`] with the evidence; [`Error::Spec`] inside if the machine has no shell.
    pub fn wait_shell(&mut self, deadline: Deadline) -> Result<()> {
        self.with_shell(|shell, lost| shell.greet(deadline, lost))
    }

    /// Runs a script in the guest as root, once the shell is there. A script that fails is no error here: look
    /// at [`Output::status`].
    ///
    /// # Errors
    /// [`Error::Machine`] with the evidence if the guest does not answer.
    pub fn run(&mut self, script: &str, deadline: Deadline) -> Result<Output> {
        self.with_shell(|shell, lost| {
            shell.greet(deadline, lost)?;
            shell.run(script, deadline, lost)
        })
    }

    fn with_shell<T>(
        &mut self,
        talk: impl FnOnce(&mut Shell, &dyn Fn() -> Option<Error>) -> Result<T>,
    ) -> Result<T> {
        let Some(shell) = &mut self.shell else {
            return Err(Error::Spec("this machine was made without a shell".to_owned()));
        };
        let console = &self.console;
        let said = talk(shell, &|| console.lost("the shell in the guest"));
        said.map_err(|error| self.explain(error))
    }

    /// Asks the guest to restart in order. Wait for the console or the shell afterwards.
    ///
    /// # Errors
    /// [`Error::Machine`] if the guest does not take the request.
    pub fn reboot(&mut self, deadline: Deadline) -> Result<()> {
        self.ask("systemctl reboot --no-block", deadline)
    }

    /// Resets the machine without a word to the guest: what the guest has not handed to its disk is lost. Wait for the
    /// console or the shell afterwards.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn hard_reset(&mut self, deadline: Deadline) -> Result<()> {
        self.qmp.reset(deadline)?;
        if let Some(shell) = &mut self.shell {
            shell.cut_off();
        }
        Ok(())
    }

    /// Asks the guest to power off in order and waits until QEMU has ended.
    ///
    /// # Errors
    /// [`Error::Machine`] if it does not, or if QEMU ends badly.
    pub fn power_off(&mut self, deadline: Deadline) -> Result<()> {
        self.ask("systemctl poweroff --no-block", deadline)?;
        let status = self.wait_powered_off(deadline)?;
        if status.success() {
            return Ok(());
        }
        let how = format!("QEMU ended with {status}: {}", last_words(&self.run_dir.qemu_log()));
        Err(self.explain(Error::Ended { what: "the machine to power off".to_owned(), how }))
    }

    fn ask(&mut self, script: &str, deadline: Deadline) -> Result<()> {
        let answer = self.with_shell(|shell, lost| {
            shell.greet(deadline, lost)?;
            shell.part(script, deadline, lost)
        })?;
        match answer {
            Some(output) if !output.status.success() => {
                let problem = format!("{}: {}", output.status, output.stderr.trim());
                Err(self.explain(Error::Program { command: script.to_owned(), problem }))
            }
            _ => Ok(()),
        }
    }

    /// Cuts the power: QEMU is killed, and what the guest had not flushed is lost. Afterwards the disk is free for
    /// others.
    ///
    /// # Errors
    /// When QEMU does not end in time.
    pub fn cut_power(&mut self, deadline: Deadline) -> Result<()> {
        self.process.kill();
        // That waited for the wrapper, which may be gone before QEMU is.
        self.console.wait_closed(deadline)
    }

    /// Ends QEMU in order and waits for it, without a word to the guest. The record of the disk's writes is then whole.
    ///
    /// # Errors
    /// As [`Qmp::execute`], or when QEMU does not end in time.
    pub fn freeze(mut self, deadline: Deadline) -> Result<()> {
        self.qmp.execute("stop", &serde_json::json!({}), deadline)?;
        self.qmp.quit(deadline)?;
        self.wait_powered_off(deadline).map(drop)
    }

    /// Waits until QEMU has ended by itself, as it does when the guest powers off.
    ///
    /// # Errors
    /// [`Error::Machine`] when the time is up.
    pub fn wait_powered_off(&mut self, deadline: Deadline) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.process.ended()? {
                return Ok(status);
            }
            let Some(left) = deadline.left() else {
                let what = "the machine to power off".to_owned();
                return Err(self.explain(Error::Deadline { what, waited: deadline.waited() }));
            };
            std::thread::sleep(POLL.min(left));
        }
    }

    /// Takes a picture of the screen into the run directory.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn screenshot(&mut self, name: &str, deadline: Deadline) -> Result<std::path::PathBuf> {
        let file = self.run_dir.file(name);
        self.qmp.screenshot(&file, deadline)?;
        Ok(file)
    }

    /// What is known of a fault of the emulator's own, which says nothing about the guest: the last words of one that
    /// ended (a failed assertion in QEMU), or the kernel's about a processor without a timer.
    #[must_use]
    pub fn crashed(&mut self) -> Option<String> {
        if let Some(Error::Lost { name: guest::STUCK, line, .. }) = self.console.lost("") {
            return Some(format!("{}: {line}", guest::STUCK));
        }
        self.process.end_story().filter(|story| story.contains("Assertion `"))
    }

    /// Decides whether the machine outlives this value. Whether it also survives the end of this program was
    /// decided when it was spawned.
    pub fn keep(&mut self, keep: Keep) {
        self.process.keep(keep);
    }

    /// For a person: where the machine's console and control socket are, and how to end it.
    #[must_use]
    pub fn how_to_reach(&self) -> String {
        let socat = |socket: &Path| {
            let mut line = self.wrapper.clone();
            line.extend(["socat".into(), "STDIO,raw,echo=0,escape=0x1d".into()]);
            line.push(format!("UNIX-CONNECT:{}", socket.display()).into());
            command_line(&line)
        };
        format!(
            "the machine is up\n\
             \x20 console (leave with Ctrl-]):  {}\n\
             \x20 what it said so far:          less -R {}\n\
             \x20 QEMU's control socket (QMP):  {}\n\
             \x20 end it:                       kill -- -{}\n",
            socat(&self.run_dir.serial_socket()),
            self.run_dir.console_log().display(),
            self.run_dir.qmp_socket().display(),
            self.process.id(),
        )
    }

    /// Puts the evidence around a failure.
    fn explain(&mut self, cause: Error) -> Error {
        let cause = match (cause, self.process.end_story()) {
            (Error::Ended { what, .. }, Some(how)) => Error::Ended { what, how },
            (cause, _) => cause,
        };
        Error::Machine {
            cause: Box::new(cause),
            console: self.run_dir.console_log(),
            tail: self
                .console
                .tail(TAIL)
                .iter()
                .map(|line| format!("    | {line}"))
                .collect::<Vec<_>>()
                .join("\n"),
            replay: self.replay.clone(),
        }
    }

    pub(crate) fn screen(&self) -> &Console {
        &self.console
    }
}

/// Writes everything that has to be there before QEMU starts and returns its command line.
pub(crate) fn prepare(
    spec: &MachineSpec,
    programs: &Programs,
    run_dir: &RunDir,
) -> Result<Vec<std::ffi::OsString>> {
    let line = argv(spec, programs, run_dir)?;
    let folder = run_dir.credentials();
    fs_err::create_dir_all(&folder).map_err(Error::io("creating", &folder))?;
    for file in argv::credential_files(spec, run_dir)? {
        fs_err::write(&file.path, &file.content).map_err(Error::io("writing", &file.path))?;
    }
    if let Some(disk) = &spec.disk {
        disk::prepare(disk, programs, run_dir)?;
    }
    if spec.record_writes {
        // QEMU wants it to be there, and writes over what an earlier machine left.
        let log = run_dir.write_log();
        fs_err::File::create(&log).map_err(Error::io("creating", &log))?;
    }
    let again = matches!(&spec.disk, Some(crate::Disk::Overlay { reuse: true, .. }));
    if let Some(template) = argv::vars_template(spec, programs)
        && !(again && run_dir.vars().exists())
    {
        // The template may exist inside the lab's tree only, so a program of that tree copies it.
        programs.output("cp", [template.as_os_str(), run_dir.vars().as_os_str()])?;
    }
    let file = run_dir.argv_file();
    fs_err::write(&file, command_line(&line) + "\n").map_err(Error::io("writing", &file))?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lab whose QEMU is a shell script.
    fn lab(folder: &Path, qemu: &str) -> Programs {
        use std::os::unix::fs::PermissionsExt as _;
        let file = folder.join("qemu");
        fs_err::write(&file, format!("#!/bin/sh\n{qemu}\n")).unwrap();
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut programs = Programs::debian(crate::Arch::Amd64, Vec::new());
        programs.qemu_system = file;
        programs
    }

    fn spawn(qemu: &str) -> Error {
        let folder = tempfile::tempdir().unwrap();
        let spec = MachineSpec::new(crate::Arch::Amd64, crate::Firmware::Bios, crate::Accel::Tcg);
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        let result = Machine::spawn(&spec, &lab(folder.path(), qemu), run, Keep::No);
        result.map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_qemu_that_fails_is_quoted() {
        let error = spawn("echo 'qemu: no such machine' >&2; exit 1").to_string();
        assert_eq!(error, "waiting for QEMU to start: QEMU ended with exit status: 1: qemu: no such machine");
    }
}
