//! Looking at the services from the outside, through Tor.
//!
//! For each service: is its descriptor in the network (`HSFETCH` and the events `HS_DESC`, control-spec)? That
//! answers for services with client authorization, too, since the outer layer needs no key. Services without it are also
//! connected to, through Tor's own SOCKS socket, until a server answers: at mx the mail server, at client the web server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::plan::{Seen, Service};
use crate::access_check;
use crate::fs::Fs;
use crate::onions::Onion;
use crate::tor_control::{self, Conversation};

/// `SocksPort` in torrc: in Tor's own folder, which nobody else can enter.
const SOCKS: &str = "/var/lib/tor/socks";
/// How long the network's relays are waited for.
const FETCH_PATIENCE: Duration = Duration::from_secs(60);
/// So many relays without it are enough; a descriptor is at six, some of which may have started a moment ago.
const ASKED: usize = 3;
/// How long a connection to oneself may take, in both directions through Tor.
const CONNECT_PATIENCE: Duration = Duration::from_secs(90);

/// Whether Tor is connected, without asking the network.
pub(super) fn connection() -> Seen {
    match tor_control::standing() {
        Err(error) => Seen::Silent(format!("{error:#}")),
        Ok(tor) if !tor.is_connected() => Seen::Connecting(tor.percent),
        Ok(_) => Seen::Connected(Vec::new()),
    }
}

/// Whether Tor is connected and all services can be reached.
///
/// # Errors
/// When the appliance's own addresses cannot be read.
pub(super) fn everything(fs: &dyn Fs) -> Result<Seen> {
    let seen = connection();
    if seen != Seen::Connected(Vec::new()) {
        return Ok(seen);
    }
    let mut services = Vec::new();
    for onion in Onion::ALL {
        let address = onion.address(fs)?.to_string();
        let mut service = descriptor(&address).unwrap_or_else(|error| Service::Unknown(format!("{error:#}")));
        // Key files that are wrong are for others to tell; then nobody is let in.
        let open = access_check::clients(fs, onion).is_ok_and(|clients| clients.is_empty());
        if let Some(server) = Server::behind(onion).filter(|_| open && service == Service::Reachable) {
            service = server
                .answers(&address)
                .map_or_else(|error| Service::Unreachable(format!("{error:#}")), |()| Service::Reachable);
        }
        services.push((onion.name().to_owned(), service));
    }
    Ok(Seen::Connected(services))
}

/// Whether the network has the service's descriptor.
fn descriptor(address: &str) -> Result<Service> {
    let name = address.trim_end_matches(".onion");
    // Two conversations: an event may come before the answer to a question.
    let (mut events, mut tor) = (Conversation::open()?, Conversation::open()?);
    events.ask("SETEVENTS HS_DESC")?;
    let fetch = format!("HSFETCH {name}");
    tor.ask(&fetch)?;
    let deadline = Instant::now() + FETCH_PATIENCE;
    let mut answers = Answers::default();
    while let Some(event) = events.event(deadline.saturating_duration_since(Instant::now()))? {
        match answers.hear(&event, name) {
            Heard::Enough(service) => return Ok(service),
            // Tor asks one relay, and never one again that it asked not long ago.
            Heard::NotThere => drop(tor.ask(&fetch)?),
            Heard::Nothing => {}
        }
    }
    Ok(answers.verdict())
}

/// What an event says about a descriptor.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The result.
    Enough(Service),
    /// One relay does not have it; others may.
    NotThere,
    /// Nothing, or not enough.
    Nothing,
}

/// What relays said about one descriptor.
#[derive(Debug, Default)]
struct Answers {
    /// How many do not have it.
    without: usize,
    /// What else was said last.
    other: Option<String>,
}

impl Answers {
    /// Hears one event: `650 HS_DESC ACTION ADDRESS AUTH RELAY [ID] [REASON=…]`.
    fn hear(&mut self, event: &str, name: &str) -> Heard {
        let mut words = event.split(' ');
        let (Some("650"), Some("HS_DESC"), Some(action), Some(address)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Heard::Nothing;
        };
        if address != name {
            return Heard::Nothing;
        }
        let reason = words.find_map(|word| word.strip_prefix("REASON=")).unwrap_or("UNKNOWN");
        match (action, reason) {
            ("RECEIVED", _) => return Heard::Enough(Service::Reachable),
            // Nobody is left to be asked, or nobody who was not asked not long ago.
            ("FAILED", "QUERY_NO_HSDIR" | "QUERY_RATE_LIMITED") => return Heard::Enough(self.verdict()),
            ("FAILED", "NOT_FOUND") => {
                self.without += 1;
                return if self.without < ASKED { Heard::NotThere } else { Heard::Enough(self.verdict()) };
            }
            ("FAILED", other) => self.other = Some(other.to_ascii_lowercase().replace('_', " ")),
            _ => {}
        }
        Heard::Nothing
    }

    fn verdict(&self) -> Service {
        match (self.without, &self.other) {
            (0, None) => Service::Unknown("no relay answered".into()),
            (0, Some(other)) => Service::Unknown(other.clone()),
            (n, _) => Service::Unreachable(format!("its descriptor is not published; {n} relays were asked")),
        }
    }
}

/// Who must answer behind a service.
#[derive(Debug, Clone, Copy)]
enum Server {
    /// Postfix, which speaks first (RFC 5321).
    Mail,
    /// nginx, which answers whoever has no password with 401 (RFC 9110).
    Web,
}

impl Server {
    /// The one to talk to. (SSH is never without client authorization.)
    const fn behind(onion: Onion) -> Option<Self> {
        match onion {
            Onion::Mx => Some(Self::Mail),
            Onion::Client => Some(Self::Web),
            Onion::Admin => None,
        }
    }

    /// Connects to it through Tor and hears its first words.
    fn answers(self, address: &str) -> Result<()> {
        let mut stream = UnixStream::connect(SOCKS).with_context(|| format!("connecting to {SOCKS}"))?;
        stream.set_read_timeout(Some(CONNECT_PATIENCE))?;
        stream.set_write_timeout(Some(CONNECT_PATIENCE))?;
        socks(&mut stream, address, if matches!(self, Self::Mail) { 25 } else { 80 })?;
        self.talk(&mut stream, address)
    }

    fn talk(self, stream: &mut (impl Read + Write), address: &str) -> Result<()> {
        let (name, question, wanted) = match self {
            Self::Mail => ("mail server", String::new(), "220 "),
            Self::Web => {
                ("web server", format!("HEAD / HTTP/1.0\r\nHost: {address}\r\n\r\n"), "HTTP/1.1 401")
            }
        };
        stream.write_all(question.as_bytes()).with_context(|| format!("asking the {name}"))?;
        let mut words = vec![0; wanted.len()];
        stream.read_exact(&mut words).with_context(|| format!("the {name} does not answer"))?;
        if words != wanted.as_bytes() {
            bail!("the {name} answers {}", String::from_utf8_lossy(&words).trim());
        }
        match self {
            // A client that leaves without a word would be counted as a broken one.
            Self::Mail => stream.write_all(b"QUIT\r\n").context("leaving the mail server"),
            Self::Web => Ok(()),
        }
    }
}

/// Asks a SOCKS 5 server for a connection (RFC 1928, RFC 1929).
fn socks(stream: &mut (impl Read + Write), host: &str, port: u16) -> Result<()> {
    const TALKING: &str = "talking to Tor's SOCKS socket";
    // Streams with a user of their own get a circuit of their own (IsolateSOCKSAuth).
    stream.write_all(&[5, 1, 2]).context(TALKING)?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).context(TALKING)?;
    if answer != [5, 2] {
        bail!("Tor's SOCKS socket takes no user name");
    }
    stream.write_all(b"\x01\x05watch\x01x").context(TALKING)?;
    stream.read_exact(&mut answer).context(TALKING)?;
    let length = u8::try_from(host.len()).context("the address is too long")?;
    let request = [&[5, 1, 0, 3, length], host.as_bytes(), &port.to_be_bytes()].concat();
    stream.write_all(&request).context(TALKING)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).context("Tor did not get through in time")?;
    match head[1] {
        0 => {}
        // Tor's own meanings: proposal 304, given here because they also serve without `ExtendedErrors`.
        1 => bail!("Tor could not connect"),
        4 => bail!("Tor could not find or reach the service"),
        5 => bail!("the service refuses the connection: its program does not listen"),
        6 => bail!("the connection through Tor took too long"),
        other => bail!("Tor could not connect (SOCKS answer {other})"),
    }
    let rest = if head[3] == 4 { 18 } else { 6 };
    stream.read_exact(&mut [0; 18][..rest]).context(TALKING)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const NAME: &str = "fa4ihb4fp3vmfksp4qhv5hurrjofv4cmfuwjh6f6qlgculvns274vdid";

    fn hear(events: &[&str]) -> (Option<Service>, Service) {
        let mut answers = Answers::default();
        let result = events.iter().find_map(|event| match answers.hear(&event.replace("NAME", NAME), NAME) {
            Heard::Enough(service) => Some(service),
            Heard::NotThere | Heard::Nothing => None,
        });
        (result, answers.verdict())
    }

    #[test]
    fn a_received_descriptor_is_enough() {
        let (result, _) = hear(&[
            "650 HS_DESC REQUESTED NAME NO_AUTH $AB~relay0 id HSDIR_INDEX=00",
            "650 HS_DESC FAILED NAME NO_AUTH $AB~relay0 id REASON=NOT_FOUND",
            "650 HS_DESC UPLOADED other UNKNOWN $CD~relay1",
            "650 HS_DESC RECEIVED NAME NO_AUTH $CD~relay1 id",
        ]);
        assert_eq!(result, Some(Service::Reachable));
    }

    #[test]
    fn a_descriptor_that_nobody_has_is_missing() {
        let not_found = "650 HS_DESC FAILED NAME NO_AUTH $AB~relay0 id REASON=NOT_FOUND";
        let end = "650 HS_DESC FAILED NAME NO_AUTH UNKNOWN REASON=QUERY_NO_HSDIR";
        let (result, _) = hear(&[not_found, not_found, end]);
        assert!(matches!(result, Some(Service::Unreachable(why)) if why.contains("2 relays")));
        let (result, verdict) = hear(&[not_found]);
        assert!(result.is_none() && matches!(verdict, Service::Unreachable(_)));
        let (result, _) = hear(&[not_found; 3]);
        assert!(matches!(result, Some(Service::Unreachable(why)) if why.contains("3 relays")));
        let mut answers = Answers::default();
        assert_eq!(answers.hear(&not_found.replace("NAME", NAME), NAME), Heard::NotThere);
    }

    #[test]
    fn an_answer_that_says_nothing_is_none() {
        let (result, _) = hear(&["650 HS_DESC FAILED NAME NO_AUTH UNKNOWN REASON=QUERY_NO_HSDIR"]);
        assert!(matches!(result, Some(Service::Unknown(_))), "asked too often");
        let (_, verdict) = hear(&["650 HS_DESC FAILED NAME NO_AUTH $AB~r id REASON=UNEXPECTED"]);
        assert_eq!(verdict, Service::Unknown("unexpected".into()));
        assert!(matches!(hear(&[]).1, Service::Unknown(_)));
    }

    struct Peer(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Peer {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.1.write(buffer)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn peer(answer: &[u8]) -> Peer {
        Peer(io::Cursor::new(answer.to_vec()), Vec::new())
    }

    #[test]
    fn servers_are_heard() {
        let mut web = peer(b"HTTP/1.1 401 Unauthorized\r\n\r\n");
        Server::Web.talk(&mut web, "a.onion").unwrap();
        assert_eq!(web.1, b"HEAD / HTTP/1.0\r\nHost: a.onion\r\n\r\n");
        let mut mail = peer(b"220 a.onion ESMTP\r\n");
        Server::Mail.talk(&mut mail, "a.onion").unwrap();
        assert_eq!(mail.1, b"QUIT\r\n");
        let said = |server: Server, answer: &[u8]| {
            format!("{:#}", server.talk(&mut peer(answer), "a.onion").unwrap_err())
        };
        assert!(said(Server::Web, b"").starts_with("the web server does not answer"));
        assert_eq!(said(Server::Web, b"HTTP/1.1 502 Bad"), "the web server answers HTTP/1.1 502");
        assert_eq!(said(Server::Mail, b"421 busy"), "the mail server answers 421");
    }

    #[test]
    fn socks_is_spoken() {
        let mut good = peer(b"\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00");
        socks(&mut good, "a.onion", 25).unwrap();
        assert_eq!(good.1, b"\x05\x01\x02\x01\x05watch\x01x\x05\x01\x00\x03\x07a.onion\x00\x19");
        let error = socks(&mut peer(b"\x05\x02\x01\x00\x05\x04\x00\x01"), "a.onion", 25).unwrap_err();
        assert!(error.to_string().contains("reach the service"), "{error}");
        assert!(socks(&mut peer(b"\x05\xff"), "a.onion", 25).is_err());
    }
}
