//! Root shell in the guest, over the port that [`crate::guest::shell_credentials`] opens.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use data_encoding::BASE64;

use crate::guest::SHELL_HELLO;
use crate::lines::Lines;
use crate::{Deadline, Error, Result};

/// How much longer than the guest's own limit an answer may take: the limit is kept by `timeout` in the guest,
/// which kills a script 5 s after asking it to end.
const ANSWER_GRACE: Duration = Duration::from_secs(20);

/// The shell's end on the host.
pub struct Shell {
    lines: Lines,
    /// The guest's boot identifier, once the shell has said hello in this boot.
    boot: Option<String>,
    number: u64,
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// Whether it ended with 0.
    #[must_use]
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            124 => f.write_str("exit status 124 (out of time)"),
            code => write!(f, "exit status {code}"),
        }
    }
}

/// What a script left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status.
    pub status: Status,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Shell {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        Ok(Self { lines: Lines::new(stream, None)?, boot: None, number: 0 })
    }

    /// Waits for the shell to start, if it has not in this boot.
    pub(crate) fn greet(&mut self, deadline: Deadline, lost: &dyn Fn() -> Option<Error>) -> Result<()> {
        while self.boot.is_none() {
            let line = self.lines.receive("the shell in the guest", deadline, lost)?;
            // Anything else is the late answer to a script of the boot before.
            self.boot = line.strip_prefix(SHELL_HELLO).map(str::to_owned);
        }
        Ok(())
    }

    /// The guest was restarted from outside: the shell has to say hello again.
    pub(crate) fn cut_off(&mut self) {
        self.boot = None;
    }

    /// Runs a script with `/bin/sh`, as root, with empty stdin, in a folder of its own under `/run`.
    pub(crate) fn run(
        &mut self,
        script: &str,
        deadline: Deadline,
        lost: &dyn Fn() -> Option<Error>,
    ) -> Result<Output> {
        let (what, deadline) = self.send(script, deadline)?;
        loop {
            let line = self.lines.receive(&what, deadline, lost)?;
            if let Some(boot) = line.strip_prefix(SHELL_HELLO) {
                self.boot = Some(boot.to_owned());
                return Err(Error::Ended { what, how: "the guest restarted".to_owned() });
            }
            match answer(&line) {
                Some((number, output)) if number == self.number => return Ok(output),
                Some(_) => {}
                None if line.is_empty() => {}
                None => return Err(Error::Protocol { peer: "the shell in the guest", line }),
            }
        }
    }

    /// Runs a script that ends this shell, such as a restart. Its answer may be lost, cut off, or come in time;
    /// `None` means it did not come. From then on the shell has to say hello again.
    pub(crate) fn part(
        &mut self,
        script: &str,
        deadline: Deadline,
        lost: &dyn Fn() -> Option<Error>,
    ) -> Result<Option<Output>> {
        let (what, deadline) = self.send(script, deadline)?;
        self.boot = None;
        loop {
            let line = match self.lines.receive(&what, deadline, lost) {
                Ok(line) => line,
                Err(Error::Ended { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            if let Some(boot) = line.strip_prefix(SHELL_HELLO) {
                self.boot = Some(boot.to_owned());
                return Ok(None);
            }
            if let Some((number, output)) = answer(&line)
                && number == self.number
            {
                return Ok(Some(output));
            }
        }
    }

    /// Sends a script; says what is then awaited, and until when.
    fn send(&mut self, script: &str, deadline: Deadline) -> Result<(String, Deadline)> {
        let what = format!("`{}` in the guest", summary(script));
        let limit = deadline.left().unwrap_or_default().as_secs().max(1);
        self.number += 1;
        let request = format!("{} {limit} {}", self.number, BASE64.encode(script.as_bytes()));
        self.lines.send(&what, &request)?;
        Ok((what, Deadline::after(Duration::from_secs(limit) + ANSWER_GRACE)))
    }
}

/// Reads `done NUMBER STATUS =BASE64 =BASE64`.
fn answer(line: &str) -> Option<(u64, Output)> {
    let mut words = line.split(' ');
    if words.next()? != "done" {
        return None;
    }
    let number = words.next()?.parse().ok()?;
    let status = Status(words.next()?.parse().ok()?);
    let mut text = || {
        let bytes = BASE64.decode(words.next()?.strip_prefix('=')?.as_bytes()).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (text()?, text()?);
    Some((number, Output { status, stdout, stderr }))
}

/// A script's first line, cut to fit a message.
fn summary(script: &str) -> String {
    let line = script.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn answers_are_read() {
        let (number, output) = answer("done 7 3 =b3V0Cg== =").unwrap();
        assert_eq!((number, output.status), (7, Status(3)));
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", ""));
        assert!(answer("done 7 3 =b3V0Cg==").is_none());
        assert!(answer("hello").is_none());
    }

    #[test]
    fn late_answers_and_restarts_are_told_apart() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut shell = Shell::new(near).unwrap();
        far.write_all(b"done 9 0 = =\nhello 1234\n").unwrap();
        shell.greet(Deadline::seconds(5), &|| None).unwrap();
        far.write_all(b"done 0 0 = =\ndone 1 0 =eA== =\n").unwrap();
        assert_eq!(shell.run("printf x", Deadline::seconds(5), &|| None).unwrap().stdout, "x");
        far.write_all(b"hello 5678\n").unwrap();
        let error = shell.run("reboot", Deadline::seconds(5), &|| None).unwrap_err();
        assert!(error.to_string().ends_with("the guest restarted"), "{error}");
    }

    #[test]
    fn a_parting_script_may_be_cut_off() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut shell = Shell::new(near).unwrap();
        let soon = || Deadline::seconds(5);
        far.write_all(b"\nhello 1\n").unwrap();
        shell.greet(soon(), &|| None).unwrap();
        far.write_all(b"done 1 1 = =\n").unwrap();
        assert_eq!(shell.part("reboot", soon(), &|| None).unwrap().unwrap().status, Status(1));
        far.write_all(b"\nhello 2\n").unwrap();
        shell.greet(soon(), &|| None).unwrap();
        far.write_all(b"done 2 0 =\nhello 3\n").unwrap();
        assert!(shell.part("reboot", soon(), &|| None).unwrap().is_none());
        shell.greet(soon(), &|| None).unwrap();
        drop(far);
        assert!(shell.part("poweroff", soon(), &|| None).unwrap_or(None).is_none());
    }

    /// The guest's loop itself, run by this machine's shell on a socket in place of the port.
    #[test]
    fn the_guests_loop_keeps_the_protocol() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("exec 3<&0\n{}", crate::guest::SHELL_LOOP);
        let (near, far) = UnixStream::pair().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .env("RUNTIME_DIRECTORY", folder.path())
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(far.try_clone().unwrap())))
            .spawn()
            .unwrap();
        drop(far);
        let mut lines = BufReader::new(near.try_clone().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "");
        assert!(lines.next().unwrap().unwrap().starts_with(SHELL_HELLO));
        let mut shell = Shell::new(near.try_clone().unwrap()).unwrap();
        let output =
            shell.run("echo a b; echo 'c%d\\' >&2; exit 3", Deadline::seconds(20), &|| None).unwrap();
        assert_eq!(
            (output.status.0, output.stdout.as_str(), output.stderr.as_str()),
            (3, "a b\n", "c%d\\\n")
        );
        drop((shell, lines));
        near.shutdown(std::net::Shutdown::Both).unwrap();
        child.wait().unwrap();
    }
}
