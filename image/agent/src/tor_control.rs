//! The few things that the agent asks of Tor through its control socket (Tor control protocol).
//!
//! A unix socket, authenticated with Tor's cookie; nothing here leaves the machine.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;

const SOCKET: &str = "/run/tor/control";
const COOKIE: &str = "/run/tor/control.authcookie";
/// No answer within this time is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// What Tor answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The code of its last line; 250 is good.
    pub code: u16,
    /// All its lines, codes included.
    pub lines: Vec<String>,
}

impl Reply {
    /// The answer, if it is a good one.
    ///
    /// # Errors
    /// When it is not; the error quotes it.
    pub fn good(self) -> Result<Self> {
        match self.code {
            250 => Ok(self),
            _ => bail!("Tor answered: {}", self.lines.join(" ")),
        }
    }
}

/// How Tor stands with its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How far it came with connecting, in percent. It stays at 100 when everything is lost again.
    pub percent: u8,
    /// Whether a circuit could be built since the start and since the clock last jumped.
    pub circuit: bool,
    /// From when until when its consensus is valid, each as `YYYY-MM-DD HH:MM:SS` in UTC; also of one that it does not
    /// use because that time is not now.
    pub consensus: Option<(String, String)>,
    /// By how many seconds the clock is ahead in the eyes of a directory authority, as long as that is Tor's last
    /// problem with connecting.
    pub skew: Option<i64>,
    /// Whether that problem is that Tor itself ends connections to relays while they are being made.
    pub hangs_up: bool,
}

impl Standing {
    /// Whether Tor can be used.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.percent == 100 && self.circuit
    }

    /// From the lines of the answer to [`standing`]'s question.
    fn parse(lines: &[String]) -> Result<Self> {
        let value =
            |key: &str| lines.iter().find_map(|line| line.get(4..)?.strip_prefix(key)?.strip_prefix('='));
        let phase = value("status/bootstrap-phase").unwrap_or_default();
        let word = |key: &str| Some(phase.split_once(key)?.1.split([' ', '"']).next().unwrap_or_default());
        let percent = word(" PROGRESS=").and_then(|percent| percent.parse().ok());
        let reason = word(" REASON=");
        let filled = |key: &str| value(key).filter(|value| !value.is_empty()).map(str::to_owned);
        Ok(Self {
            percent: percent.context("Tor's answer names no progress")?,
            circuit: value("status/circuit-established") == Some("1"),
            consensus: filled("consensus/valid-after").zip(filled("consensus/valid-until")),
            skew: word("WARNING=\"Clock skew ")
                .filter(|_| reason == Some("CLOCK_SKEW"))
                .and_then(|skew| skew.parse().ok()),
            hangs_up: reason == Some("DONE"),
        })
    }
}

/// How Tor stands with its network (`GETINFO`, control-spec).
///
/// # Errors
/// When Tor does not run or does not answer.
pub fn standing() -> Result<Standing> {
    let keys =
        "status/bootstrap-phase status/circuit-established consensus/valid-after consensus/valid-until";
    Standing::parse(&Conversation::open()?.ask(&format!("GETINFO {keys}"))?)
}

/// Lets Tor forget what it learnt about other onion services (`NEWNYM`, control-spec). Of a peer that lost its power it
/// may know introduction points that lead nowhere, and it waits at each as long as a program lets it.
///
/// # Errors
/// When Tor does not run or does not answer.
pub fn forget_peers() -> Result<()> {
    Conversation::open()?.ask("SIGNAL NEWNYM").map(drop)
}

/// Opens a conversation with the running Tor: where to write, and where to read.
///
/// # Errors
/// When Tor does not listen.
pub fn connect() -> Result<(UnixStream, BufReader<UnixStream>)> {
    let stream = UnixStream::connect(SOCKET).with_context(|| format!("connecting to {SOCKET}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let reader = BufReader::new(stream.try_clone()?);
    Ok((stream, reader))
}

/// An authenticated conversation, for more than one question.
pub(crate) struct Conversation {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Conversation {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// When Tor does not run or does not answer.
    pub(crate) fn open() -> Result<Self> {
        let (mut stream, mut reader) = connect()?;
        authenticate(&mut reader, &mut stream, &cookie()?)?;
        Ok(Self { stream, reader })
    }

    /// Sends one command and returns the lines of its answer.
    ///
    /// # Errors
    /// When Tor refuses it or does not answer.
    pub(crate) fn ask(&mut self, command: &str) -> Result<Vec<String>> {
        Ok(exchange(&mut self.reader, &mut self.stream, command)?.good()?.lines)
    }

    /// The next event that was subscribed to (`SETEVENTS`), or `None` after `patience`.
    ///
    /// # Errors
    /// When Tor closes the connection.
    pub(crate) fn event(&mut self, patience: Duration) -> Result<Option<String>> {
        self.stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        self.stream.set_read_timeout(Some(PATIENCE))?;
        match read {
            Ok(0) => bail!("Tor closed the connection"),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error).context("listening to Tor"),
        }
    }
}

/// What proves to Tor that its files may be read.
///
/// # Errors
/// When they may not.
pub fn cookie() -> Result<Vec<u8>> {
    std::fs::read(COOKIE).with_context(|| format!("reading {COOKIE}"))
}

/// Shows the cookie.
///
/// # Errors
/// When Tor does not accept it.
pub fn authenticate(input: &mut impl BufRead, output: &mut impl Write, cookie: &[u8]) -> Result<()> {
    exchange(input, output, &format!("AUTHENTICATE {}", HEXLOWER.encode(cookie)))?.good()?;
    Ok(())
}

/// Sends one line and reads up to the last line of the answer, which has a space after its code. No command used
/// here has answers with data lines (`250+`).
///
/// # Errors
/// When the connection breaks, or the answer is none.
pub fn exchange(input: &mut impl BufRead, output: &mut impl Write, command: &str) -> Result<Reply> {
    output.write_all(format!("{command}\r\n").as_bytes()).context("speaking to Tor")?;
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).context("listening to Tor")? == 0 {
            bail!("Tor closed the connection");
        }
        let line = line.trim_end().to_owned();
        // An event may come in between; whoever waits for one asks again.
        if line.starts_with("650") {
            continue;
        }
        let code = line.get(..3).and_then(|code| code.parse().ok());
        let (Some(code), Some(separator @ (b' ' | b'-'))) = (code, line.as_bytes().get(3)) else {
            bail!("Tor answered: {line}");
        };
        let last = *separator == b' ';
        lines.push(line);
        if last {
            return Ok(Reply { code, lines });
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
        let reply = exchange(&mut answer.as_bytes(), &mut Vec::new(), "GETINFO x").unwrap();
        assert_eq!((reply.code, reply.lines.len()), (250, 2));
        assert_eq!(Standing::parse(&reply.lines).unwrap().percent, 85);
    }

    /// As Tor 0.4.9 answers.
    fn standing(phase: &str, circuit: u8, consensus: (&str, &str)) -> Standing {
        let (after, until) = consensus;
        let lines = [
            format!("250-status/bootstrap-phase={phase}"),
            format!("250-status/circuit-established={circuit}"),
            format!("250-consensus/valid-after={after}"),
            format!("250-consensus/valid-until={until}"),
            "250 OK".to_owned(),
        ];
        Standing::parse(&lines).unwrap()
    }

    #[test]
    fn a_connected_tor() {
        let tor = standing(
            "NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY=\"Done\"",
            1,
            ("2026-11-22 03:04:40", "2026-11-22 03:05:20"),
        );
        assert!(tor.is_connected() && tor.consensus.is_some() && tor.skew.is_none() && !tor.hangs_up);
        assert!(!Standing { circuit: false, ..tor }.is_connected());
    }

    #[test]
    fn a_clock_that_authorities_complain_about() {
        let tor = standing(
            "WARN BOOTSTRAP PROGRESS=40 TAG=loading_keys SUMMARY=\"Loading authority key certs\" WARNING=\"Clock skew \
             -183596 in microdesc flavor consensus from CONSENSUS\" REASON=CLOCK_SKEW COUNT=14 RECOMMENDATION=warn \
             HOSTID=\"?\" HOSTADDR=\"?\"",
            0,
            ("2026-11-22 03:02:20", "2026-11-22 03:03:00"),
        );
        assert_eq!((tor.percent, tor.skew, tor.is_connected()), (40, Some(-183_596), false));
    }

    #[test]
    fn a_tor_that_takes_no_certificate() {
        let tor = standing(
            "WARN BOOTSTRAP PROGRESS=14 TAG=handshake SUMMARY=\"Handshaking with a relay\" WARNING=\"DONE\" REASON=DONE \
             COUNT=11 RECOMMENDATION=warn HOSTID=\"42\" HOSTADDR=\"10.77.0.12:9001\"",
            0,
            ("", ""),
        );
        assert_eq!((tor.hangs_up, tor.consensus, tor.skew), (true, None, None));
    }

    #[test]
    fn a_refusal_is_an_error() {
        let error =
            authenticate(&mut "515 Bad authentication\r\n".as_bytes(), &mut Vec::new(), b"x").unwrap_err();
        assert!(error.to_string().contains("Bad authentication"));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for wrong in ["HTTP/1.1 400\r\n", "25\r\n", "250\r\n", "250+x\r\n", "é\r\n"] {
            let error = exchange(&mut wrong.as_bytes(), &mut Vec::new(), "x").unwrap_err().to_string();
            assert!(error.starts_with("Tor answered: "), "{error}");
        }
    }
}
