//! A client of QEMU's machine protocol (QMP): JSON, one message a line.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::lines::Lines;
use crate::{Deadline, Error, Result};

/// Control over a running QEMU.
pub struct Qmp {
    lines: Lines,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Takes over a connected socket and leaves the negotiation mode.
    pub(crate) fn new(stream: UnixStream, log: &Path, deadline: Deadline) -> Result<Self> {
        let mut qmp = Self { lines: Lines::new(stream, Some(log))?, events: VecDeque::new() };
        let greeting = qmp.message("QEMU's greeting", deadline)?;
        if greeting.get("QMP").is_none() {
            return Err(Error::Protocol { peer: "QEMU", line: greeting.to_string() });
        }
        qmp.execute("qmp_capabilities", &json!({}), deadline)?;
        Ok(qmp)
    }

    fn message(&mut self, what: &str, deadline: Deadline) -> Result<Value> {
        let line = self.lines.receive(what, deadline, &|| None)?;
        serde_json::from_str(&line).map_err(|_| Error::Protocol { peer: "QEMU", line })
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's own words; [`Error::Ended`] or [`Error::Deadline`] without an answer.
    pub fn execute(&mut self, command: &str, arguments: &Value, deadline: Deadline) -> Result<Value> {
        let what = format!("QEMU's answer to {command}");
        self.lines.send(&what, &json!({"execute": command, "arguments": arguments}).to_string())?;
        loop {
            let mut message = self.message(&what, deadline)?;
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = message.get("error") {
                let words =
                    error.get("desc").and_then(Value::as_str).map_or(error.to_string(), str::to_owned);
                return Err(Error::Refused { peer: "QEMU", command: command.to_owned(), answer: words });
            }
            self.events.push_back(message);
        }
    }

    /// Waits for an event such as `SHUTDOWN` or `RESET`, also one that came before the call, and returns it.
    /// Events of other names that came before it are dropped.
    ///
    /// # Errors
    /// [`Error::Ended`] or [`Error::Deadline`].
    pub fn wait_event(&mut self, name: &str, deadline: Deadline) -> Result<Value> {
        let what = format!("QEMU's event {name}");
        loop {
            let message = match self.events.pop_front() {
                Some(event) => event,
                None => self.message(&what, deadline)?,
            };
            if message.get("event").and_then(Value::as_str) == Some(name) {
                return Ok(message);
            }
        }
    }

    /// Lets a machine that was started paused run.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn resume(&mut self, deadline: Deadline) -> Result<()> {
        self.execute("cont", &json!({}), deadline).map(drop)
    }

    /// What the machine does: `running`, `paused`, `shutdown`, `guest-panicked` …
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn status(&mut self, deadline: Deadline) -> Result<String> {
        let answer = self.execute("query-status", &json!({}), deadline)?;
        let status = answer.get("status").and_then(Value::as_str).map(str::to_owned);
        status.ok_or_else(|| Error::Protocol { peer: "QEMU", line: answer.to_string() })
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn power_button(&mut self, deadline: Deadline) -> Result<()> {
        self.execute("system_powerdown", &json!({}), deadline).map(drop)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn reset(&mut self, deadline: Deadline) -> Result<()> {
        self.execute("system_reset", &json!({}), deadline).map(drop)
    }

    /// Ends QEMU at once, as a power cut would.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn quit(&mut self, deadline: Deadline) -> Result<()> {
        match self.execute("quit", &json!({}), deadline) {
            // QEMU may be gone before its answer is.
            Err(Error::Ended { .. }) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Takes a picture of the screen as a PNG file.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn screenshot(&mut self, file: &Path, deadline: Deadline) -> Result<()> {
        let arguments = json!({"filename": file.to_string_lossy(), "format": "png"});
        self.execute("screendump", &arguments, deadline).map(drop)
    }

    /// Presses keys together, by QEMU's names (`ctrl`, `alt`, `f2`, `ret` …).
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn press(&mut self, keys: &[&str], deadline: Deadline) -> Result<()> {
        let keys: Vec<_> = keys.iter().map(|key| json!({"type": "qcode", "data": key})).collect();
        self.execute("send-key", &json!({"keys": keys}), deadline).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    /// Plays QEMU's side: answers each command by the next of `answers`.
    fn qemu(answers: &'static [&'static str]) -> Qmp {
        let (near, mut far) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            far.write_all(b"{\"QMP\":{\"capabilities\":[]}}\r\n").unwrap();
            let mut commands = BufReader::new(far.try_clone().unwrap()).lines();
            for answer in ["{\"return\":{}}"].iter().chain(answers) {
                if commands.next().is_none() {
                    break;
                }
                far.write_all(format!("{answer}\r\n").as_bytes()).unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        Qmp::new(near, &folder.path().join("qmp.log"), Deadline::seconds(5)).unwrap()
    }

    #[test]
    fn answers_and_events_are_told_apart() {
        let mut qmp = qemu(&["{\"event\":\"RESET\",\"data\":{}}\n{\"return\":{\"status\":\"running\"}}"]);
        let soon = || Deadline::seconds(5);
        assert_eq!(qmp.status(soon()).unwrap(), "running");
        qmp.wait_event("RESET", soon()).unwrap();
        assert!(matches!(qmp.wait_event("RESET", soon()), Err(Error::Ended { .. })));
    }

    #[test]
    fn refusals_carry_the_words() {
        let mut qmp = qemu(&["{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such key\"}}"]);
        let error = qmp.press(&["x"], Deadline::seconds(5)).unwrap_err();
        assert_eq!(error.to_string(), "sending send-key to QEMU: no such key");
    }
}
