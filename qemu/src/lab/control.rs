//! A client of Tor's control protocol (control-spec), as far as tests need it.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::lines::Lines;
use crate::{Deadline, Error, Result};

/// Who errors talk about.
const PEER: &str = "Tor";

/// Control over a running Tor.
pub(super) struct Control {
    lines: Lines,
    events: VecDeque<String>,
}

impl Control {
    /// Takes over a connected socket of a Tor that asks for no password. What is said is written to `log`.
    pub(super) fn new(stream: UnixStream, log: Option<&Path>, deadline: Deadline) -> Result<Self> {
        let mut control = Self { lines: Lines::new(stream, log)?, events: VecDeque::new() };
        control.ask("AUTHENTICATE", deadline)?;
        Ok(control)
    }

    /// Runs a command and returns the lines of the answer, without codes. Errors name the command by its first
    /// word, since there may be a key behind it.
    pub(super) fn ask(&mut self, command: &str, deadline: Deadline) -> Result<Vec<String>> {
        let name = command.split(' ').next().unwrap_or_default();
        let what = format!("Tor's answer to {name}");
        self.lines.send(&what, command)?;
        let mut answer = Vec::new();
        loop {
            let (last, code, text) = self.reply(&what, deadline)?;
            match code.as_str() {
                "650" => self.events.push_back(text),
                // Done; 251 and 252 say that it was done before, or more than was asked for.
                "250" | "251" | "252" => answer.push(text),
                _ => {
                    let answer = format!("{code} {text}");
                    return Err(Error::Refused { peer: PEER, command: name.to_owned(), answer });
                }
            }
            if last && code.starts_with("25") {
                return Ok(answer);
            }
        }
    }

    /// Waits for an event that `pick` takes, also one that came while a command waited for its answer. Events
    /// that it does not take are dropped.
    pub(super) fn wait_event<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => match self.reply(what, deadline)? {
                    (_, code, text) if code == "650" => text,
                    (_, code, text) => {
                        return Err(Error::Protocol { peer: PEER, line: format!("{code} {text}") });
                    }
                },
            };
            if let Some(found) = pick(&event) {
                return Ok(found);
            }
        }
    }

    /// One line of a reply: whether it is the last, code, text. Data behind a `+` is further lines of the text.
    fn reply(&mut self, what: &str, deadline: Deadline) -> Result<(bool, String, String)> {
        let line = self.lines.receive(what, deadline, &|| None)?;
        let (Some(code), Some(mark), Some(text)) = (line.get(..3), line.get(3..4), line.get(4..)) else {
            return Err(Error::Protocol { peer: PEER, line });
        };
        let mut text = text.to_owned();
        if mark == "+" {
            loop {
                let more = self.lines.receive(what, deadline, &|| None)?;
                if more == "." {
                    break;
                }
                text = text + "\n" + &more;
            }
        }
        Ok((mark == " ", code.to_owned(), text))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    /// Plays Tor: answers each command by the next of `answers`.
    fn tor(answers: &'static [&'static str]) -> Result<Control> {
        let (near, mut far) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut commands = BufReader::new(far.try_clone().unwrap()).lines();
            for answer in answers {
                if commands.next().is_none() {
                    break;
                }
                far.write_all(answer.as_bytes()).unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        Control::new(near, Some(&folder.path().join("control.log")), Deadline::seconds(5))
    }

    #[test]
    fn answers_and_events_are_told_apart() {
        let mut tor = tor(&[
            "250 OK\r\n",
            "650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=5\r\n250-version=1\r\n250+x=\r\n250 no\r\n.\r\n250 OK\r\n\
             650 BYE\r\n",
        ])
        .unwrap();
        let soon = || Deadline::seconds(5);
        assert_eq!(tor.ask("GETINFO version x", soon()).unwrap(), ["version=1", "x=\n250 no", "OK"]);
        let progress =
            tor.wait_event("progress", soon(), |event| event.split_once("PROGRESS=").map(|p| p.1.to_owned()));
        assert_eq!(progress.unwrap(), "5");
        assert_eq!(tor.wait_event("the end", soon(), |event| Some(event.to_owned())).unwrap(), "BYE");
    }

    #[test]
    fn done_has_several_codes() {
        let mut tor = tor(&["250 OK\r\n", "252 Registered client and decrypted desc\r\n"]).unwrap();
        let answer = tor.ask("ONION_CLIENT_AUTH_ADD aa x25519:secret", Deadline::seconds(5)).unwrap();
        assert_eq!(answer, ["Registered client and decrypted desc"]);
    }

    #[test]
    fn refusals_carry_the_words_and_no_key() {
        let mut tor = tor(&["250 OK\r\n", "512 Failed to decode x25519 private key\r\n"]).unwrap();
        let error = tor.ask("ONION_CLIENT_AUTH_ADD aa x25519:secret", Deadline::seconds(5)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sending ONION_CLIENT_AUTH_ADD to Tor: 512 Failed to decode x25519 private key"
        );
    }
}
