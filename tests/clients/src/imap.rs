//! IMAP (RFC 9051): one command at a time, with literals.

use anyhow::bail;
use qemu::Deadline;

use crate::{Channel, Talk};

/// What came back for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Untagged responses, without the `*` and with their literals in place.
    pub untagged: Vec<Vec<u8>>,
    /// `OK`, `NO` or `BAD`.
    pub status: String,
    /// What follows it.
    pub text: String,
}

impl Answer {
    /// Whether the server agreed.
    #[must_use]
    pub fn agreed(&self) -> bool {
        self.status == "OK"
    }
}

/// A dialogue with a mailbox.
pub struct Imap {
    talk: Talk,
    number: u32,
}

impl Imap {
    /// Takes over a connection and reads the greeting.
    ///
    /// # Errors
    /// What comes is no greeting.
    pub fn greeted(channel: Channel) -> anyhow::Result<(Self, String)> {
        let mut imap = Self { talk: Talk::new(channel), number: 0 };
        let greeting = imap.talk.line()?;
        Ok((imap, greeting))
    }

    /// Sets until when everything that follows has to be done.
    pub fn until(&mut self, deadline: Deadline) {
        self.talk.until(deadline);
    }

    /// The lines beneath, for what no command should look like.
    pub fn talk(&mut self) -> &mut Talk {
        &mut self.talk
    }

    /// Sends a command, without its tag, and reads everything up to its end.
    ///
    /// # Errors
    /// The connection is gone, or the server breaks the protocol.
    pub fn command(&mut self, line: &str) -> anyhow::Result<Answer> {
        let tag = self.send(line)?;
        self.answer(&tag)
    }

    /// Sends a command that ends in a literal, such as APPEND (RFC 9051, 4.3).
    ///
    /// # Errors
    /// As [`Imap::command`]. A server that refuses the literal is no error.
    pub fn command_with(&mut self, line: &str, literal: &[u8]) -> anyhow::Result<Answer> {
        let tag = self.send(&format!("{line} {{{}}}", literal.len()))?;
        let mut untagged = Vec::new();
        loop {
            let response = self.response()?;
            if response.starts_with(b"+") {
                break;
            }
            match finished(&tag, &response) {
                Some((status, text)) => return Ok(Answer { untagged, status, text }),
                None => untagged.push(response),
            }
        }
        self.talk.send_bytes(&[literal, b"\r\n"].concat())?;
        self.answer(&tag)
    }

    /// Sends a command that has to be agreed to.
    ///
    /// # Errors
    /// As [`Imap::command`], or the server does not agree.
    pub fn demand(&mut self, line: &str) -> anyhow::Result<Answer> {
        let answer = self.command(line)?;
        if answer.agreed() {
            return Ok(answer);
        }
        bail!(self.talk.story(&format!("refused: {} {}", answer.status, answer.text)))
    }

    /// Logs in.
    ///
    /// # Errors
    /// As [`Imap::command`].
    pub fn login(&mut self, user: &str, password: &str) -> anyhow::Result<Answer> {
        self.command(&format!("LOGIN {} {}", quoted(user), quoted(password)))
    }

    /// Selects a mailbox and returns how many messages are in it.
    ///
    /// # Errors
    /// As [`Imap::demand`], or the server does not say how many.
    pub fn select(&mut self, mailbox: &str) -> anyhow::Result<u32> {
        let answer = self.demand(&format!("SELECT {}", quoted(mailbox)))?;
        let count = answer
            .untagged
            .iter()
            .find_map(|line| std::str::from_utf8(line).ok()?.strip_suffix(" EXISTS")?.parse().ok());
        match count {
            Some(count) => Ok(count),
            None => bail!(self.talk.story("the server does not say how many messages there are")),
        }
    }

    /// A message of the selected mailbox, by its place from 1, without marking it as read.
    ///
    /// # Errors
    /// As [`Imap::demand`], or there is no such message.
    pub fn message(&mut self, place: u32) -> anyhow::Result<Vec<u8>> {
        let answer = self.demand(&format!("FETCH {place} (BODY.PEEK[])"))?;
        let found = answer.untagged.into_iter().find_map(|response| {
            let start = response.windows(7).position(|part| part == b"BODY[] ")?;
            let open = start + response[start..].iter().position(|byte| *byte == b'{')?;
            let line = open + response[open..].iter().position(|byte| *byte == b'\n')? + 1;
            let size = literal(&response[open..line])?;
            response.get(line..line + size).map(<[u8]>::to_vec)
        });
        match found {
            Some(message) => Ok(message),
            None => bail!(self.talk.story(&format!("there is no message {place}"))),
        }
    }

    fn send(&mut self, line: &str) -> anyhow::Result<String> {
        self.number += 1;
        let tag = format!("a{}", self.number);
        self.talk.send(&format!("{tag} {line}"))?;
        Ok(tag)
    }

    fn answer(&mut self, tag: &str) -> anyhow::Result<Answer> {
        let mut untagged = Vec::new();
        loop {
            let response = self.response()?;
            if let Some((status, text)) = finished(tag, &response) {
                return Ok(Answer { untagged, status, text });
            }
            match response.strip_prefix(b"* ") {
                Some(response) => untagged.push(response.to_vec()),
                None => bail!(self.talk.story("the server breaks the protocol")),
            }
        }
    }

    /// One response: a line, and as long as it ends in a literal, that and the next line.
    fn response(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut all = self.talk.line()?.into_bytes();
        let mut from = 0;
        while let Some(size) = literal(&all[from..]) {
            all.extend_from_slice(b"\r\n");
            all.extend(self.talk.bytes(size)?);
            from = all.len();
            all.extend(self.talk.line()?.into_bytes());
        }
        Ok(all)
    }
}

/// The size of the literal that a line announces at its end.
fn literal(line: &[u8]) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    line.strip_suffix('}')?.rsplit_once('{')?.1.parse().ok()
}

/// The status and text of a response that ends a command.
fn finished(tag: &str, response: &[u8]) -> Option<(String, String)> {
    let rest = response.strip_prefix(tag.as_bytes())?.strip_prefix(b" ")?;
    let rest = String::from_utf8_lossy(rest);
    let (status, text) = rest.split_once(' ').unwrap_or((&rest, ""));
    Some((status.to_owned(), text.to_owned()))
}

/// A quoted string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::tests::{heard, with};

    #[test]
    fn literals_come_whole() {
        let (talk, far) = with(
            b"* 2 EXISTS\r\n* OK [UIDVALIDITY 1] x\r\na1 OK selected\r\n\
              * 1 FETCH (FLAGS (\\Seen) BODY[] {10}\r\nA: {3}\r\n\r\n UID 4)\r\na2 OK done\r\n",
        );
        let mut imap = Imap { talk, number: 0 };
        assert_eq!(imap.select("INBOX").unwrap(), 2);
        assert_eq!(imap.message(1).unwrap(), b"A: {3}\r\n\r\n");
        drop(imap);
        assert_eq!(heard(far), "a1 SELECT \"INBOX\"\r\na2 FETCH 1 (BODY.PEEK[])\r\n");
    }

    #[test]
    fn refusals_are_answers() {
        let (talk, far) = with(b"a1 NO [AUTHENTICATIONFAILED] no\r\na2 NO too large\r\n");
        let mut imap = Imap { talk, number: 0 };
        let answer = imap.login("ada", "a \"b\"").unwrap();
        assert!(!answer.agreed());
        assert_eq!(answer.text, "[AUTHENTICATIONFAILED] no");
        assert!(!imap.command_with("APPEND INBOX", b"x").unwrap().agreed());
        drop(imap);
        assert_eq!(heard(far), "a1 LOGIN \"ada\" \"a \\\"b\\\"\"\r\na2 APPEND INBOX {1}\r\n");
    }
}
