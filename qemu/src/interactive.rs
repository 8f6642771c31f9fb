//! A machine for a person: their terminal is its serial console.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitStatus;

use crate::programs::command_of;
use crate::spec::{MachineSpec, Serial};
use crate::{Error, Keep, Machine, Programs, Result, RunDir, command_line, machine, process};

/// How a person watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// The terminal is the console, both ways.
    Terminal,
    /// The console is only shown, on stdout; nothing can be typed. For logs and scripts.
    Headless,
}

/// Runs a machine until it powers off or the person leaves, and returns QEMU's exit status. What to press is
/// printed first, on stderr. The specification's `serial` is set as `attach` needs it.
///
/// # Errors
/// As [`Machine::spawn`].
pub fn interactive(
    spec: &MachineSpec,
    programs: &Programs,
    run_dir: RunDir,
    attach: Attach,
) -> Result<ExitStatus> {
    let mut spec = spec.clone();
    match attach {
        Attach::Terminal => {
            spec.serial = Serial::Terminal;
            terminal(&spec, programs, &run_dir)
        }
        Attach::Headless => {
            spec.serial = Serial::Socket;
            headless(&spec, programs, run_dir)
        }
    }
}

fn terminal(spec: &MachineSpec, programs: &Programs, run_dir: &RunDir) -> Result<ExitStatus> {
    let line = machine::prepare(spec, programs, run_dir)?;
    eprintln!(
        "The machine's console follows. Ctrl-C goes to the machine.\n\
         \x20 Ctrl-A X   end the machine at once, as a power cut would\n\
         \x20 Ctrl-A C   QEMU's own prompt and back; `system_powerdown` there presses the power button\n\
         \x20 Ctrl-A H   the other keys\n\
         The log is {}\n",
        run_dir.console_log().display()
    );
    let stdin = std::io::stdin();
    // QEMU puts the terminal into raw mode and back, but not back if it is killed.
    let saved = stdin.is_terminal().then(|| rustix::termios::tcgetattr(&stdin).ok()).flatten();
    let status = command_of(&process::dies_with_us(&line, &programs.wrapper)).status();
    if let Some(saved) = saved {
        let _ = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &saved);
    }
    status.map_err(|error| Error::Program { command: command_line(&line), problem: error.to_string() })
}

fn headless(spec: &MachineSpec, programs: &Programs, run_dir: RunDir) -> Result<ExitStatus> {
    eprintln!(
        "The machine runs without a terminal; Ctrl-C here ends it, as a power cut would.\n\
         The log is {}\n",
        run_dir.console_log().display()
    );
    let mut machine = Machine::spawn(spec, programs, run_dir, Keep::No)?;
    machine.screen().stream(|text| {
        // If nobody reads any more, the machine still runs, and its log is complete.
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    });
    machine.wait_powered_off(crate::Deadline::seconds(60))
}
