//! Lines over a channel, and what was said.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, bail};
use qemu::Deadline;

use crate::Channel;

/// More than a server may send at once, in bytes.
const MOST: usize = 64 << 20;

/// How much of what was said is remembered for a failure.
const MEMORY: usize = 40;

/// A dialogue in lines.
pub struct Talk {
    channel: Channel,
    /// Bytes that came after what was read last.
    rest: Vec<u8>,
    /// What was said last: `C: …`, `S: …`.
    said: Vec<String>,
}

impl Talk {
    /// Starts with nothing said.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel, rest: Vec::new(), said: Vec::new() }
    }

    /// Sets until when everything that follows has to be done.
    pub fn until(&mut self, deadline: Deadline) {
        self.channel.until(deadline);
    }

    /// The connection beneath, and nothing that was read from it and not looked at; for TLS in mid-dialogue.
    ///
    /// # Errors
    /// The server said more than was read.
    pub fn into_channel(self) -> anyhow::Result<Channel> {
        if !self.rest.is_empty() {
            bail!("the server said more than it was asked: {:?}", String::from_utf8_lossy(&self.rest));
        }
        Ok(self.channel)
    }

    /// Sends a line; the line end is added.
    ///
    /// # Errors
    /// The connection is gone, or the time is up.
    pub fn send(&mut self, line: &str) -> anyhow::Result<()> {
        self.note(format!("C: {line}"));
        self.write(format!("{line}\r\n").as_bytes())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone, or the time is up.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.note(format!("C: ({} bytes)", bytes.len()));
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let sent = self.channel.write_all(bytes).and_then(|()| self.channel.flush());
        sent.with_context(|| self.story("sending"))
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// As for sending.
    pub fn line(&mut self) -> anyhow::Result<String> {
        let bytes = self.take(|rest| rest.iter().position(|byte| *byte == b'\n').map(|at| at + 1))?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches(['\r', '\n']).to_owned();
        self.note(format!("S: {line}"));
        Ok(line)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// As for sending.
    pub fn bytes(&mut self, count: usize) -> anyhow::Result<Vec<u8>> {
        let bytes = self.take(|rest| (rest.len() >= count).then_some(count))?;
        self.note(format!("S: ({count} bytes)"));
        Ok(bytes)
    }

    /// Waits until the server closes the connection, whatever it still says; `false` if it has not by the
    /// deadline.
    pub fn wait_closed(&mut self) -> bool {
        loop {
            match self.channel.read(&mut [0; 4096]) {
                Ok(1..) => {}
                // A reset is an end, and so is TLS that ends without saying so.
                Ok(0) => return true,
                Err(error) => return error.kind() != std::io::ErrorKind::TimedOut,
            }
        }
    }

    fn take(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(end) = end(&self.rest) {
                return Ok(self.rest.drain(..end).collect());
            }
            if self.rest.len() > MOST {
                bail!(self.story("the server talks without end"));
            }
            let mut block = [0; 1 << 14];
            let count = self.channel.read(&mut block).with_context(|| self.story("reading"))?;
            if count == 0 {
                bail!(self.story("the server closed the connection"));
            }
            self.rest.extend_from_slice(&block[..count]);
        }
    }

    fn note(&mut self, line: String) {
        if self.said.len() == MEMORY {
            self.said.remove(0);
        }
        self.said.push(line);
    }

    /// What happened, with the dialogue so far.
    #[must_use]
    pub fn story(&self, what: &str) -> String {
        format!("{what}, after:\n{}", self.said.join("\n"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Wire;

    /// A dialogue with a server that has already said `answers`, and the server's end.
    pub(crate) fn with(answers: &[u8]) -> (Talk, UnixStream) {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(answers).unwrap();
        (Talk::new(Channel::Plain(Wire::new(near, Deadline::seconds(5)))), far)
    }

    /// What the client said before it went away.
    pub(crate) fn heard(mut far: UnixStream) -> String {
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn lines_and_bytes_take_turns() {
        let (mut talk, far) = with(b"one\r\nabctwo\n");
        assert_eq!(talk.line().unwrap(), "one");
        assert_eq!(talk.bytes(3).unwrap(), b"abc");
        assert_eq!(talk.line().unwrap(), "two");
        drop(far);
        let error = talk.line().unwrap_err().to_string();
        assert_eq!(error, "the server closed the connection, after:\nS: one\nS: (3 bytes)\nS: two");
        assert!(talk.wait_closed());
    }

    #[test]
    fn what_was_not_read_is_not_lost_silently() {
        let (mut talk, _far) = with(b"220 go\r\n250 injected\r\n");
        talk.line().unwrap();
        assert!(talk.into_channel().is_err());
    }
}
