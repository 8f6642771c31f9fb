//! A socket that carries lines both ways, with a deadline on every read.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::{Deadline, Error, Result};

/// How often a wait looks at other signs, such as the console, that it is pointless.
const LOOK_AROUND: Duration = Duration::from_millis(250);

/// A line protocol over a Unix socket.
pub(crate) struct Lines {
    stream: UnixStream,
    /// Bytes that came after the last full line.
    rest: Vec<u8>,
    log: Option<File>,
}

impl Lines {
    /// Takes over a connected socket; both directions are written to `log`.
    pub(crate) fn new(stream: UnixStream, log: Option<&Path>) -> Result<Self> {
        let log = log.map(|path| File::create(path).map_err(Error::io("creating", path))).transpose()?;
        Ok(Self { stream, rest: Vec::new(), log })
    }

    fn note(&mut self, direction: &str, line: &[u8]) {
        if let Some(log) = &mut self.log {
            // The log is a courtesy: a full disk must not change what a test finds.
            let _ = log.write_all(&[direction.as_bytes(), line, b"\n"].concat());
        }
    }

    /// Sends one line.
    pub(crate) fn send(&mut self, what: &str, line: &str) -> Result<()> {
        self.note("> ", line.as_bytes());
        let bytes = [line.as_bytes(), b"\n"].concat();
        self.stream.write_all(&bytes).map_err(|error| ended(what, &error.to_string()))
    }

    /// The next line. `lost` is asked now and then whether waiting has become pointless.
    pub(crate) fn receive(
        &mut self,
        what: &str,
        deadline: Deadline,
        lost: &dyn Fn() -> Option<Error>,
    ) -> Result<String> {
        loop {
            if let Some(line) = self.take_line() {
                self.note("< ", &line);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if let Some(error) = lost() {
                return Err(error);
            }
            let Some(left) = deadline.left() else {
                return Err(Error::Deadline { what: what.to_owned(), waited: deadline.waited() });
            };
            self.stream
                .set_read_timeout(Some(left.min(LOOK_AROUND)))
                .map_err(|error| ended(what, &error.to_string()))?;
            let mut block = [0; 1 << 16];
            match self.stream.read(&mut block) {
                Ok(0) => return Err(ended(what, "the connection was closed")),
                Ok(count) => self.rest.extend_from_slice(&block[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ended(what, &error.to_string())),
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.rest.drain(..=end).collect();
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }
}

fn ended(what: &str, how: &str) -> Error {
    Error::Ended { what: what.to_owned(), how: how.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_whole_and_deadlines_hold() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(near, None).unwrap();
        far.write_all(b"one\r\ntw").unwrap();
        let soon = || Deadline::after(Duration::from_millis(50));
        assert_eq!(lines.receive("a line", soon(), &|| None).unwrap(), "one");
        let error = lines.receive("a line", soon(), &|| None).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        far.write_all(b"o\n").unwrap();
        assert_eq!(lines.receive("a line", soon(), &|| None).unwrap(), "two");
        drop(far);
        let error = lines.receive("a line", soon(), &|| None).unwrap_err();
        assert!(matches!(error, Error::Ended { .. }), "{error}");
    }
}
