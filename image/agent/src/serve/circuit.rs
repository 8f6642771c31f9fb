//! `cipolla close-circuit ADDRESS`: takes an offender's circuit away. fail2ban's ban action.
//!
//! Who may give Tor orders may give it any. fail2ban reads what strangers write, so it may not: it tells a number to
//! `cipolla circuit-server`, which systemd starts for each, as Tor's user, and which can do nothing but this.
//!
//! Tor writes the number of a circuit into the address that servers see (`HiddenServiceExportCircuitID haproxy`,
//! tor(1)): `fc00:dead:beef:4dad::HHHH:LLLL`. Closing the circuit ends all connections in it, and nobody else's.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::str::{self, FromStr};

use anyhow::{Context, Result, bail};
use thiserror::Error;

use super::line;
use crate::tor_control;

/// Where `cipolla circuit-server` is asked (`cipolla-circuit.socket`); root's alone.
const SOCKET: &str = "/run/cipolla-circuit/socket";
/// The longest line of the conversation with it, in bytes.
const MAX_LINE: usize = 1024;
/// What it says when the circuit is closed. Anything else is the reason why not.
const CLOSED: &str = "closed";

/// The first six groups of a circuit's address.
const PREFIX: [u16; 6] = [0xfc00, 0xdead, 0xbeef, 0x4dad, 0, 0];
/// Tor's answer when the circuit is not there (control protocol, "Unrecognized entity").
const UNKNOWN_CIRCUIT: u16 = 552;

/// The number of a circuit, as Tor's control protocol writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circuit(NonZeroU32);

/// Why a text is not the address of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a circuit's address lies in fc00:dead:beef:4dad::/96 and its number is not 0")]
pub struct CircuitError;

impl Circuit {
    /// The circuit that an address stands for, if it does.
    #[must_use]
    pub fn of(address: Ipv6Addr) -> Option<Self> {
        let [prefix @ .., high, low] = address.segments();
        let number = NonZeroU32::new(u32::from(high) << 16 | u32::from(low))?;
        (prefix == PREFIX).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl FromStr for Circuit {
    type Err = CircuitError;

    fn from_str(text: &str) -> Result<Self, CircuitError> {
        text.parse().ok().and_then(Self::of).ok_or(CircuitError)
    }
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Has the circuit closed by `cipolla circuit-server`.
///
/// # Errors
/// When it cannot be reached, and when Tor cannot or refuses.
pub fn ask(circuit: Circuit) -> Result<()> {
    let stream = UnixStream::connect(SOCKET).with_context(|| format!("connecting to {SOCKET}"))?;
    asked(&mut BufReader::new(&stream), &mut &stream, circuit)
}

fn asked(input: &mut impl BufRead, output: &mut impl Write, circuit: Circuit) -> Result<()> {
    writeln!(output, "{circuit}").context("asking for a circuit to be closed")?;
    let answer = line(input, MAX_LINE).context("reading the answer about a circuit")?;
    match answer.as_deref().map(|answer| String::from_utf8_lossy(answer)).as_deref() {
        Some(CLOSED) => Ok(()),
        Some(reason) => bail!("{reason}"),
        None => bail!("closing circuit {circuit}: no answer; see: journalctl -t cipolla"),
    }
}

/// The other side: reads the number of one circuit and answers in one line.
///
/// # Errors
/// When it is not a number, when `close` fails (the other side was told then), and when reading or writing fails.
pub fn serve(
    input: &mut impl BufRead,
    output: &mut impl Write,
    close: impl FnOnce(Circuit) -> Result<()>,
) -> Result<()> {
    let number = line(input, MAX_LINE).context("reading which circuit to close")?.unwrap_or_default();
    let number = str::from_utf8(&number).ok().and_then(|number| number.parse().ok());
    let result = number.map(Circuit).context("expected the number of a circuit").and_then(close);
    let answer = result.as_ref().map_or_else(|error| format!("{error:#}"), |()| CLOSED.to_owned());
    writeln!(output, "{}", answer.lines().next().unwrap_or_default()).context("answering about a circuit")?;
    result
}

/// Closes the circuit at the running Tor.
///
/// # Errors
/// When Tor cannot be reached or refuses.
pub fn close(circuit: Circuit) -> Result<()> {
    let (mut stream, mut reader) = tor_control::connect()?;
    converse(&mut reader, &mut stream, &tor_control::cookie()?, circuit)
}

/// The whole conversation. A circuit that is gone already counts as closed.
fn converse(
    input: &mut impl BufRead,
    output: &mut impl Write,
    cookie: &[u8],
    circuit: Circuit,
) -> Result<()> {
    tor_control::authenticate(input, output, cookie)?;
    let reply = tor_control::exchange(input, output, &format!("CLOSECIRCUIT {circuit}"))?;
    if reply.code != UNKNOWN_CIRCUIT {
        reply.good().with_context(|| format!("closing circuit {circuit}"))?;
    }
    // Tor hangs up at once; whether it says so does not matter any more.
    let _ = tor_control::exchange(input, output, "QUIT");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(answers: &str) -> (String, Result<()>) {
        let mut said = Vec::new();
        let circuit = "fc00:dead:beef:4dad::1:2".parse().unwrap();
        let result = converse(&mut answers.as_bytes(), &mut said, &[0xab, 0xcd], circuit);
        (String::from_utf8(said).unwrap(), result)
    }

    #[test]
    fn the_number_is_in_the_last_two_groups() {
        let number = |text: &str| text.parse::<Circuit>().map(|circuit| circuit.to_string());
        assert_eq!(number("fc00:dead:beef:4dad::1:2").unwrap(), "65538");
        assert_eq!(number("fc00:dead:beef:4dad::5c").unwrap(), "92");
        assert_eq!(number("FC00:DEAD:BEEF:4DAD:0:0:FFFF:FFFF").unwrap(), "4294967295");
        for wrong in [
            "fc00:dead:beef:4dad::",
            "fc00:dead:beef:4dad:1::2",
            "fc00:dead:beef:4dad:0:1:0:2",
            "fc00:dead:beef:4dae::1",
            "127.0.0.1",
            "::1",
            "fc00:dead:beef:4dad::1%lo",
            "fc00:dead:beef:4dad::1\r\nSIGNAL HALT",
            "",
        ] {
            assert_eq!(number(wrong), Err(CircuitError), "{wrong:?}");
        }
    }

    #[test]
    fn one_number_goes_in_and_one_line_comes_out() {
        let serve = |input: &[u8], close: fn(Circuit) -> Result<()>| {
            let mut output = Vec::new();
            let result = serve(&mut &*input, &mut output, close);
            (String::from_utf8(output).unwrap(), result.is_ok())
        };
        let good = |circuit: Circuit| {
            assert_eq!(circuit.number(), 92);
            Ok(())
        };
        assert_eq!(serve(b"92\n93\n", good), ("closed\n".into(), true));
        assert_eq!(serve(b"92\n", |_| bail!("Tor\nclosed")), ("Tor\n".into(), false));
        for wrong in [&b"0\n"[..], b"", b"\n", b"92\rSIGNAL HALT\n", b"4294967296\n", b"\xff\n"] {
            let answer = serve(wrong, |_| unreachable!());
            assert_eq!(answer, ("expected the number of a circuit\n".into(), false), "{wrong:?}");
        }
        assert_eq!(serve(b"92", good), (String::new(), false), "broken off");
    }

    #[test]
    fn the_answer_is_passed_on() {
        let ask = |answer: &str| {
            let mut said = Vec::new();
            let result = asked(&mut answer.as_bytes(), &mut said, "fc00:dead:beef:4dad::5c".parse().unwrap());
            assert_eq!(said, b"92\n");
            result.map_err(|error| error.to_string())
        };
        assert_eq!(ask("closed\n"), Ok(()));
        assert_eq!(ask("Tor answered: 510\n"), Err("Tor answered: 510".into()));
        assert!(ask("").unwrap_err().contains("no answer"));
    }

    #[test]
    fn a_circuit_is_closed() {
        let (said, result) = talk("250 OK\r\n250 OK\r\n250 closing connection\r\n");
        assert_eq!(said, "AUTHENTICATE abcd\r\nCLOSECIRCUIT 65538\r\nQUIT\r\n");
        assert!(result.is_ok());
    }

    #[test]
    fn a_circuit_that_is_gone_counts_as_closed() {
        let (said, result) = talk("250 OK\r\n552 Unknown circuit \"65538\"\r\n");
        assert!(result.is_ok() && said.ends_with("QUIT\r\n"));
    }

    #[test]
    fn what_tor_refuses_is_an_error() {
        for (answers, why) in [
            (
                "515 Authentication failed: Wrong length on authentication cookie.\r\n",
                "515 Authentication failed",
            ),
            ("250 OK\r\n510 Unrecognized command\r\n", "closing circuit 65538: Tor answered: 510"),
            ("250 OK\r\n", "Tor closed the connection"),
            ("", "Tor closed the connection"),
            ("gibberish\r\n", "Tor answered: gibberish"),
        ] {
            let error = format!("{:#}", talk(answers).1.unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        // Nothing is asked of a Tor that does not know us.
        assert_eq!(talk("515 no\r\n").0, "AUTHENTICATE abcd\r\n");
    }
}
