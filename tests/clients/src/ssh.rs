//! A passage for programs that cannot speak SOCKS over a Unix socket, such as ssh(1): they connect to a socket
//! file, and are at the service.
//!
//! ```text
//! ssh -o ProxyCommand='socat - UNIX-CONNECT:<socket>' root@<onion>
//! ```

use std::io::copy;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use qemu::Deadline;

use crate::Door;

/// A socket file that leads to an onion service. It is removed with this value; connections that are open then
/// stay until one side closes them. The thread that listens stays with the program.
pub struct Passage {
    socket: PathBuf,
}

impl Passage {
    /// Opens a passage at `socket`. Each connection to it waits at most `limit` for the service; `circuit` names the
    /// circuit that the connection with this number, from 0, belongs to.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(
        socket: &Path,
        door: &Door,
        circuit: impl Fn(usize) -> String + Send + 'static,
        onion: &str,
        port: u16,
        limit: std::time::Duration,
    ) -> anyhow::Result<Self> {
        // Left by an earlier run.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).with_context(|| format!("opening {}", socket.display()))?;
        let (door, onion) = (door.clone(), onion.to_owned());
        std::thread::spawn(move || {
            for (number, near) in listener.incoming().map_while(Result::ok).enumerate() {
                let (door, circuit, onion) = (door.clone(), circuit(number), onion.clone());
                std::thread::spawn(move || {
                    // If there is no way, the program sees a closed connection.
                    let far = door.connect(&circuit, &onion, port, Deadline::after(limit));
                    if let Ok(far) = far.and_then(crate::Channel::into_socket) {
                        join(&near, &far);
                    }
                });
            }
        });
        Ok(Self { socket: socket.to_owned() })
    }

    /// The socket file.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        // A file that is gone already needs no removal.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Carries bytes both ways until both sides have said all.
fn join(near: &UnixStream, far: &UnixStream) {
    let carry = |mut from: &UnixStream, mut to: &UnixStream| {
        // Whatever ends one direction, the other side learns that there is no more.
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    // The door's deadline was for the way there.
    let unlimited = far.set_read_timeout(None).and_then(|()| far.set_write_timeout(None));
    if unlimited.is_ok() {
        std::thread::scope(|scope| {
            scope.spawn(|| carry(near, far));
            carry(far, near);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn both_directions_are_carried_to_their_end() {
        let (near, mut program) = UnixStream::pair().unwrap();
        let (far, mut service) = UnixStream::pair().unwrap();
        let joined = std::thread::spawn(move || join(&near, &far));
        program.write_all(b"question").unwrap();
        program.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        service.read_to_string(&mut text).unwrap();
        service.write_all(b" answer").unwrap();
        drop(service);
        program.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question answer");
        joined.join().unwrap();
    }
}
