//! The way to an onion service: SOCKS 5 (RFC 1928) with a user name (RFC 1929) over Tor's Unix socket.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use qemu::Deadline;

use crate::Channel;
use crate::channel::Wire;

/// A Tor's SOCKS socket.
#[derive(Clone, Debug)]
pub struct Door {
    socket: PathBuf,
}

/// Tor's answer when there is no way to a service (RFC 1928, and Tor's `ExtendedErrors`, tor(1)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u8);

impl Refused {
    /// Tor's word for all that has no other: also that its time is up (`SocksTimeout`, tor(1): two minutes).
    pub const GENERAL: Self = Self(1);
    /// Nobody publishes such a service.
    pub const NOT_FOUND: Self = Self(0xf0);
    /// None of the service's introduction points knows it any more.
    pub const NOT_INTRODUCED: Self = Self(0xf2);
    /// The service wants client authorization, and Tor has no key for it.
    pub const NO_KEY: Self = Self(0xf4);
    /// The service wants client authorization, and Tor's key is wrong.
    pub const WRONG_KEY: Self = Self(0xf5);
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            1 => "general failure",
            4 => "host unreachable",
            5 => "connection refused by the service",
            6 => "time is up",
            0xf0 => "the service's descriptor is not to be found",
            0xf1 => "the service's descriptor is not valid",
            0xf2 => "no introduction point answers",
            0xf3 => "no meeting point was found",
            0xf4 => "client authorization is missing",
            0xf5 => "client authorization is wrong",
            0xf6 => "not a valid onion address",
            0xf7 => "the service did not answer in time",
            _ => "refused",
        };
        write!(f, "{words} (SOCKS reply {:#04x})", self.0)
    }
}

impl std::error::Error for Refused {}

/// How long a service that there is may be without a descriptor.
const NEW_DESCRIPTOR: Duration = Duration::from_secs(300);

/// Until Tor is asked again. (It asks a directory that had nothing only once in five seconds, with `TestingTorNetwork`.)
const AGAIN: Duration = Duration::from_millis(500);

impl Door {
    /// The Unix socket of a `SocksPort`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Connects to a port of an onion service. Connections with the same `circuit` name may share a circuit;
    /// those with different names never do, so to the service they are different clients.
    ///
    /// Where the service's descriptor is not found, asks again, for as long as a new one may take: a service has a new one
    /// with each time period (rend-spec-v3), in other directories, and in a private network a period lasts some minutes.
    /// Asks once more where the failure is Tor's own: it made no circuit in its time, as happens on a computer that has no
    /// time for all of them, or lost the one that it had.
    ///
    /// # Errors
    /// [`Refused`] if Tor says no.
    pub fn connect(
        &self,
        circuit: &str,
        onion: &str,
        port: u16,
        deadline: Deadline,
    ) -> anyhow::Result<Channel> {
        let (since, mut failures) = (Instant::now(), 0);
        let again = |refused| {
            failures += usize::from(refused == Refused::GENERAL);
            may_pass(refused, since.elapsed(), failures)
        };
        self.connect_while(again, circuit, onion, port, deadline)
    }

    /// As [`Door::connect`], with Tor's first answer, whatever it is.
    ///
    /// # Errors
    /// As [`Door::connect`].
    pub fn connect_once(
        &self,
        circuit: &str,
        onion: &str,
        port: u16,
        deadline: Deadline,
    ) -> anyhow::Result<Channel> {
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("connecting to {}", self.socket.display()))?;
        let mut wire = Wire::new(stream, deadline);
        greet(&mut wire, circuit, onion, port)
            .with_context(|| format!("connecting to {onion}:{port} on circuit {circuit:?}"))?;
        Ok(Channel::Plain(wire))
    }

    /// As [`Door::connect`], for a service that may not be known yet: as long as its descriptor is not found or
    /// it does not answer, asks again.
    ///
    /// # Errors
    /// As [`Door::connect`], once the time is up.
    pub fn connect_when_up(
        &self,
        circuit: &str,
        onion: &str,
        port: u16,
        deadline: Deadline,
    ) -> anyhow::Result<Channel> {
        self.connect_while(|_| true, circuit, onion, port, deadline)
    }

    /// Asks until Tor agrees, the time is up or the refusal is not one after which to ask `again`.
    fn connect_while(
        &self,
        mut again: impl FnMut(Refused) -> bool,
        circuit: &str,
        onion: &str,
        port: u16,
        deadline: Deadline,
    ) -> anyhow::Result<Channel> {
        loop {
            let answer = self.connect_once(circuit, onion, port, deadline);
            let refused = answer.as_ref().err().and_then(|error| error.downcast_ref().copied());
            if deadline.left().is_none() || !refused.is_some_and(&mut again) {
                return answer;
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// Whether a refusal after so long, and after so many general failures with it, says nothing of a service that is there.
fn may_pass(refused: Refused, waited: Duration, failures: usize) -> bool {
    match refused {
        Refused::NOT_FOUND => waited < NEW_DESCRIPTOR,
        Refused::GENERAL => failures <= 1,
        _ => false,
    }
}

/// Asks for a connection, through to the answer.
fn greet(wire: &mut (impl Read + Write), circuit: &str, host: &str, port: u16) -> anyhow::Result<()> {
    let short = |text: &str| u8::try_from(text.len()).map_err(|_| anyhow!("longer than 255 bytes: {text}"));
    // Version 5, one method: user name and password.
    wire.write_all(&[5, 1, 2])?;
    let answer = bytes::<2>(wire)?;
    if answer != [5, 2] {
        bail!("Tor does not take a user name: {answer:02x?}");
    }
    wire.write_all(&[&[1, short(circuit)?], circuit.as_bytes(), &[1], b"-"].concat())?;
    let answer = bytes::<2>(wire)?;
    if answer != [1, 0] {
        bail!("Tor does not take the user name: {answer:02x?}");
    }
    // Version 5, connect, reserved, address is a name.
    wire.write_all(&[&[5, 1, 0, 3, short(host)?], host.as_bytes(), &port.to_be_bytes()].concat())?;
    let [version, reply, _, kind] = bytes::<4>(wire)?;
    if version != 5 {
        bail!("Tor answers with version {version}");
    }
    if reply != 0 {
        return Err(Refused(reply).into());
    }
    // The bound address says nothing, but it has to be read.
    match kind {
        1 => bytes::<6>(wire).map(drop),
        4 => bytes::<18>(wire).map(drop),
        _ => bail!("Tor answers with an address of kind {kind}"),
    }
}

fn bytes<const N: usize>(wire: &mut impl Read) -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    wire.read_exact(&mut bytes).context("reading Tor's answer")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What the client sends when Tor answers `answers`.
    fn greeted(answers: &[u8]) -> (anyhow::Result<()>, Vec<u8>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(answers).unwrap();
        let mut wire = Wire::new(near, Deadline::seconds(5));
        let result = greet(&mut wire, "one", "x.onion", 25);
        drop(wire);
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).unwrap();
        (result, sent)
    }

    #[test]
    fn a_name_travels_with_the_circuit() {
        let (result, sent) = greeted(&[5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        result.unwrap();
        assert_eq!(sent, b"\x05\x01\x02\x01\x03one\x01-\x05\x01\x00\x03\x07x.onion\x00\x19");
    }

    #[test]
    fn refusals_are_told_apart() {
        let error = greeted(&[5, 2, 1, 0, 5, 0xf4, 0, 1]).0.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Refused::NO_KEY));
        assert_eq!(error.to_string(), "client authorization is missing (SOCKS reply 0xf4)");
    }

    /// What [`Door::connect`] comes to when Tor answers so, one after the other, and is gone then; and how many it used.
    fn asked(replies: &[u8]) -> (anyhow::Result<Channel>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socks");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::scope(|scope| {
            let tor = scope.spawn(move || {
                let mut used = 0;
                for (reply, stream) in replies.iter().zip(listener.incoming()) {
                    let mut stream = stream.unwrap();
                    // As `greet` speaks: a greeting, a name, a request for `x.onion`.
                    for (length, answer) in [(3, &[5, 2][..]), (7, &[1, 0]), (14, &[5, *reply, 0, 1])] {
                        stream.read_exact(&mut vec![0; length]).unwrap();
                        stream.write_all(answer).unwrap();
                    }
                    used += 1;
                    // A refused client has read enough and is gone; the other reads the address.
                    if *reply == 0 {
                        stream.write_all(&[0; 6]).unwrap();
                    }
                }
                used
            });
            let answer = Door::new(socket).connect("one", "x.onion", 25, Deadline::seconds(30));
            (answer, tor.join().unwrap())
        })
    }

    #[test]
    fn what_says_nothing_of_the_service_may_pass() {
        let after = |refused, seconds| may_pass(refused, Duration::from_secs(seconds), 0);
        assert_eq!([0, 299, 300].map(|waited| after(Refused::NOT_FOUND, waited)), [true, true, false]);
        // Tor's own, once: at once or after its two minutes.
        let failed = |seconds, failures| may_pass(Refused::GENERAL, Duration::from_secs(seconds), failures);
        assert!(failed(0, 1) && failed(120, 1) && !failed(1, 2) && !failed(240, 2));
        assert!(!after(Refused::NO_KEY, 120) && !after(Refused::WRONG_KEY, 0));
    }

    #[test]
    fn what_tor_did_not_find_or_make_is_asked_for_again() {
        let not_found = Refused::NOT_FOUND.0;
        let (answer, used) = asked(&[not_found, not_found, 0]);
        answer.unwrap();
        assert_eq!(used, 3);
        let general = Refused::GENERAL.0;
        let (answer, used) = asked(&[general, not_found, 0]);
        answer.unwrap();
        assert_eq!(used, 3);
        let (answer, used) = asked(&[general, general]);
        assert_eq!(answer.err().unwrap().downcast_ref(), Some(&Refused::GENERAL));
        assert_eq!(used, 2);
        let (answer, used) = asked(&[Refused::NO_KEY.0]);
        assert_eq!(answer.err().unwrap().downcast_ref(), Some(&Refused::NO_KEY));
        assert_eq!(used, 1);
    }
}
