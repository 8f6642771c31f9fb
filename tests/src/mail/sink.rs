//! A mail server that takes everything, to be published as an onion to which the appliance can write.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context as _;
use qemu::Deadline;

/// A message that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// As in the envelope, with angle brackets.
    pub(super) recipients: Vec<String>,
    pub(super) message: String,
}

/// The server. Its threads stay with the program.
pub(super) struct Sink {
    taken: Receiver<Taken>,
}

impl Sink {
    /// Listens on a Unix socket.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(super) fn open(socket: &Path) -> anyhow::Result<Self> {
        // Left by an earlier run.
        let _ = fs_err::remove_file(socket);
        let listener =
            UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
        let (sender, taken) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                // A client that breaks off is missed by whoever waits for its message.
                std::thread::spawn(move || serve(&stream, &sender));
            }
        });
        Ok(Self { taken })
    }

    /// The next message.
    ///
    /// # Errors
    /// When none comes in time.
    pub(super) fn wait(&self, deadline: Deadline) -> anyhow::Result<Taken> {
        let left = deadline.left().unwrap_or_default();
        self.taken.recv_timeout(left).context("waiting for mail at the other onion")
    }
}

/// One dialogue (RFC 5321), in which everything is agreed to.
fn serve(mut stream: &UnixStream, sender: &Sender<Taken>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    stream.write_all(b"220 sink ESMTP\r\n")?;
    let mut recipients = Vec::new();
    while let Some(line) = lines.next().transpose()? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "RCPT" => {
                let address = line.split_once(':').map_or("", |(_, rest)| rest.trim());
                recipients.push(address.split(' ').next().unwrap_or_default().to_owned());
                "250 taken"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n")?;
                let body = lines.by_ref().map_while(Result::ok).take_while(|line| line != ".");
                let message = body.collect::<Vec<_>>().join("\n");
                // Nobody waits any more once the check is over.
                let _ = sender.send(Taken { recipients: std::mem::take(&mut recipients), message });
                "250 taken"
            }
            "QUIT" => "221 bye",
            _ => "250 sink",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes())?;
        if verb == "QUIT" {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_message_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("sink");
        let sink = Sink::open(&socket).unwrap();
        let mut client = UnixStream::connect(&socket).unwrap();
        client
            .write_all(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<x@y.onion> SIZE=1\r\nDATA\r\nSubject: z\r\n\r\n.\r\nQUIT\r\n")
            .unwrap();
        let taken = sink.wait(Deadline::seconds(20)).unwrap();
        assert_eq!(
            (taken.recipients, taken.message.as_str()),
            (vec!["<x@y.onion>".to_owned()], "Subject: z\n")
        );
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        let codes: Vec<_> = said.lines().map(|line| &line[..3]).collect();
        assert_eq!(codes, ["220", "250", "250", "250", "354", "250", "221"]);
    }
}
