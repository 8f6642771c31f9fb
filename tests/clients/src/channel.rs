//! Bytes both ways, with a deadline on every operation, with or without TLS.

use std::io::{ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;

use qemu::Deadline;

/// A Unix socket whose reads and writes end at a deadline.
pub struct Wire {
    stream: UnixStream,
    deadline: Deadline,
}

impl Wire {
    /// Takes over a connected socket.
    #[must_use]
    pub fn new(stream: UnixStream, deadline: Deadline) -> Self {
        Self { stream, deadline }
    }

    fn left(&self) -> Result<std::time::Duration> {
        self.deadline.left().ok_or_else(|| self.late())
    }

    fn late(&self) -> std::io::Error {
        let waited = self.deadline.waited();
        std::io::Error::new(ErrorKind::TimedOut, format!("nothing came or went within {waited:.1?}"))
    }

    fn in_time<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.late(),
            _ => error,
        })
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        let result = self.stream.read(buffer);
        self.in_time(result)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let result = self.stream.write(bytes);
        self.in_time(result)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A connection to a service.
pub enum Channel {
    /// As it comes.
    Plain(Wire),
    /// Inside TLS.
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Wire>>),
}

impl Channel {
    /// Sets until when everything that follows has to be done.
    pub fn until(&mut self, deadline: Deadline) {
        self.wire().deadline = deadline;
    }

    /// What is beneath, whose socket can be used for something else, if nothing was put around it.
    ///
    /// # Errors
    /// There is TLS around it.
    pub fn into_socket(self) -> anyhow::Result<UnixStream> {
        match self {
            Self::Plain(wire) => Ok(wire.stream),
            Self::Tls(_) => Err(anyhow::anyhow!("this connection has TLS; its socket alone is of no use")),
        }
    }

    fn wire(&mut self) -> &mut Wire {
        match self {
            Self::Plain(wire) => wire,
            Self::Tls(stream) => &mut stream.sock,
        }
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Plain(wire) => wire.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Plain(wire) => wire.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Plain(wire) => wire.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_at_the_deadline() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(near, Deadline::after(std::time::Duration::from_millis(30)));
        let error = wire.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("nothing came or went"), "{error}");
    }
}
