//! What can go wrong with a machine. The variants are those a test tells apart.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, already worded for the person who reads the test's output.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder of the host could not be used.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, in gerund style.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The socket's path does not fit into a socket address (108 bytes, unix(7)).
    #[error(
        "creating a socket in {}: its path would be longer than {limit} bytes; choose a run folder with a shorter path",
        path.display()
    )]
    PathTooLong {
        /// The run directory.
        path: PathBuf,
        /// The longest path that fits, in bytes.
        limit: usize,
    },
    /// A helper program could not be started or failed.
    #[error("running `{command}`: {problem}")]
    Program {
        /// The command, copy-pasteable.
        command: String,
        /// Its exit status with what it wrote to stderr, or why it did not start.
        problem: String,
    },
    /// The specification asks for something that does not exist.
    #[error("describing the machine: {0}")]
    Spec(String),
    /// Nothing happened in time.
    #[error("waiting for {what}: not seen within {waited:.1?}")]
    Deadline {
        /// What was awaited.
        what: String,
        /// For how long.
        waited: Duration,
    },
    /// The console shows that the guest is lost; waiting longer is pointless.
    #[error("waiting for {what}: the console shows {name}: {line:?}")]
    Lost {
        /// What was awaited.
        what: String,
        /// The entry of [`crate::guest::BADNESS`].
        name: &'static str,
        /// The line that matched.
        line: String,
    },
    /// QEMU ended, or closed the connection.
    #[error("waiting for {what}: {how}")]
    Ended {
        /// What was awaited.
        what: String,
        /// Exit status with QEMU's own words, as far as known.
        how: String,
    },
    /// QEMU or Tor refused a command on its control socket.
    #[error("sending {command} to {peer}: {answer}")]
    Refused {
        /// Who.
        peer: &'static str,
        /// The command.
        command: String,
        /// The description of the error that came back.
        answer: String,
    },
    /// The other end broke the protocol.
    #[error("talking to {peer}: unexpected {line:?}")]
    Protocol {
        /// Who.
        peer: &'static str,
        /// What came.
        line: String,
    },
    /// A failure of a running machine, with the evidence.
    #[error(
        "{cause}\n  last lines of {console}:\n{tail}\n  the same machine by hand:\n    {replay}",
        console = console.display()
    )]
    Machine {
        /// What failed.
        cause: Box<Error>,
        /// The kept console log.
        console: PathBuf,
        /// The console's last lines, indented.
        tail: String,
        /// QEMU's command line, copy-pasteable.
        replay: String,
    },
}

impl Error {
    /// The failure itself, without the evidence around it.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Machine { cause, .. } => cause,
            other => other,
        }
    }

    /// For `map_err`: names the file of an I/O error.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}
