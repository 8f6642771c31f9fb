//! The few questions that the agent puts to Tor through its control socket (Tor control protocol).
//!
//! A unix socket, authenticated with Tor's cookie; nothing here leaves the machine.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;

const SOCKET: &str = "/run/tor/control";
const COOKIE: &str = "/run/tor/control.authcookie";
/// No answer within this time is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far Tor is with connecting, in percent.
///
/// # Errors
/// When Tor does not run or does not answer.
pub fn bootstrap() -> Result<u8> {
    let lines = ask("GETINFO status/bootstrap-phase")?;
    progress(&lines).context("Tor's answer names no progress")
}

fn progress(lines: &[String]) -> Option<u8> {
    lines.iter().find_map(|line| {
        let (_, rest) = line.split_once("PROGRESS=")?;
        rest.split(' ').next()?.parse().ok()
    })
}

/// Authenticates, sends one command and returns the lines of its answer.
fn ask(command: &str) -> Result<Vec<String>> {
    let cookie = std::fs::read(COOKIE).with_context(|| format!("reading {COOKIE}"))?;
    let mut stream = UnixStream::connect(SOCKET).with_context(|| format!("connecting to {SOCKET}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    exchange(&mut stream, &mut reader, &format!("AUTHENTICATE {}", HEXLOWER.encode(&cookie)))?;
    exchange(&mut stream, &mut reader, command)
}

/// Sends one line and reads up to the last line of the answer, which has a space after its code.
fn exchange(stream: &mut impl Write, reader: &mut impl BufRead, command: &str) -> Result<Vec<String>> {
    stream.write_all(format!("{command}\r\n").as_bytes()).context("speaking to Tor")?;
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).context("listening to Tor")? == 0 {
            bail!("Tor closed the connection");
        }
        let line = line.trim_end().to_owned();
        let last = line.as_bytes().get(3) == Some(&b' ');
        let good = line.starts_with("250");
        lines.push(line);
        if last && good {
            return Ok(lines);
        }
        if !good {
            bail!("Tor answered: {}", lines.concat());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end() {
        let answer =
            "250-status/bootstrap-phase=NOTICE BOOTSTRAP PROGRESS=85 TAG=ap SUMMARY=\"x\"\r\n250 OK\r\nmore";
        let lines = exchange(&mut Vec::new(), &mut answer.as_bytes(), "GETINFO x").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(progress(&lines), Some(85));
    }

    #[test]
    fn a_refusal_is_an_error() {
        let error = exchange(&mut Vec::new(), &mut "515 Bad authentication\r\n".as_bytes(), "x").unwrap_err();
        assert!(error.to_string().contains("Bad authentication"));
    }
}
