//! Commands that other programs of the appliance run: Postfix, fail2ban and systemd.

use std::io::{stdin, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use crate::machine::Machine;
use crate::serve::{circuit, password, policy, tarpit};

/// How long Tor has to close a circuit, from beginning to end.
const CIRCUIT_TIME: Duration = Duration::from_secs(10);
/// How long a change of password may take, thinking included.
const PASSWORD_TIME: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum Serve {
    /// Answer Postfix: can there be a server at this onion address? Reads requests from standard input.
    ///
    /// Postfix runs it (master.cf) and asks about every sender or recipient. It looks at the address only: 56
    /// characters, their checksum and version. No file is read, and nothing is asked of a network.
    #[command(after_help = "Example:\n  \
        printf 'recipient=ada@example.com\\n\\n' | cipolla policy recipient")]
    Policy {
        /// The address to look at.
        #[arg(value_enum)]
        side: policy::Side,
    },
    /// Have the Tor circuit of an offender closed. fail2ban runs it; root only.
    ///
    /// Servers see a circuit as an address in `fc00:dead:beef:4dad::/96`. All connections in it end, and nobody
    /// else's. Exit status 0: it is closed, 1: Tor did not do it, 2: this is not the address of a circuit.
    #[command(after_help = "Example:\n  cipolla close-circuit fc00:dead:beef:4dad::5c")]
    CloseCircuit {
        /// The address that a server saw.
        #[arg(value_name = "ADDRESS")]
        circuit: circuit::Circuit,
    },
    /// Close the one Tor circuit whose number comes on standard input. systemd runs it on a socket, as Tor's user.
    ///
    /// It is what `close-circuit` asks, so that nothing that reads strangers' text may give Tor orders.
    #[command(
        after_help = "Example:\n  echo 92 | setpriv --reuid=debian-tor --clear-groups cipolla circuit-server"
    )]
    CircuitServer,
    /// Change a mailbox's password for the webmail (poppassd protocol). systemd runs it on a socket; root only.
    ///
    /// The present password is asked for; a wrong one is answered after three seconds. A new one has at least 12
    /// characters and is not guessed early.
    #[command(after_help = "Example:\n  \
        printf 'user ada\\npass OLD\\nnewpass NEW\\nquit\\n' | cipolla password-server")]
    PasswordServer,
    /// Hold back the answers to wrong passwords, per account. systemd runs it on a socket; Dovecot asks.
    ///
    /// The first wrong password of an account costs nothing here, the next 2 seconds, then 4, 8 and so on up to 60;
    /// ten minutes without one take a step back. Right passwords never come here. It knows nothing after a restart.
    #[command(after_help = "Example:\n  \
        systemctl restart cipolla-tarpit    (forgives everybody; `cipolla tarpit` wants a socket of systemd's)")]
    Tarpit,
}

/// Runs what needs no files of the appliance; hands the machine to what does.
pub(super) fn run(
    command: &Serve,
    with_machine: impl FnOnce(&dyn Fn(&Machine<'_>) -> Result<()>) -> Result<()>,
) -> Result<ExitCode> {
    match command {
        Serve::Policy { side } => policy::serve(*side, stdin().lock(), stdout().lock())?,
        Serve::CloseCircuit { circuit } => {
            end_after(CIRCUIT_TIME, "Tor did not answer");
            circuit::ask(*circuit)?;
        }
        Serve::CircuitServer => {
            end_after(CIRCUIT_TIME, "Tor did not answer");
            circuit::serve(&mut stdin().lock(), &mut stdout().lock(), circuit::close)?;
        }
        Serve::PasswordServer => {
            end_after(PASSWORD_TIME, "the webmail took longer than a minute");
            with_machine(&|machine| password::run(machine))?;
        }
        Serve::Tarpit => tarpit::run()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the program when the time is over. Files change by rename, so none is left half written.
fn end_after(limit: Duration, reason: &'static str) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("cipolla: {reason}");
        std::process::exit(1);
    });
}
