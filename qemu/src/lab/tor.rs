//! A private Tor network of real `tor` processes, and clients of it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::control::Control;
use super::torrc::{DIR_PORT, OBFS4_PORT, OR_PORT, Role, torrc};
use super::traffic::Traffic;
use super::{Lab, Programs};
use crate::process::Process;
use crate::{Deadline, Error, Result, RunDir};

/// Directory authorities: more than half of them have to agree.
const AUTHORITIES: u8 = 3;

/// Further relays. With the authorities there are eight places for the descriptor of an onion service, and
/// enough for a circuit of three relays between any two of them.
const RELAYS: u8 = 5;

/// Where the bridge is. It is not among [`TorNetwork::endpoints`].
const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 30);

/// A running Tor network without exits. Its relays always have something to say to each other, as those of the real one.
///
/// It ends with this value (unless the lab is kept), and with its lab in any case.
pub struct TorNetwork {
    // Dropped in this order.
    _traffic: Traffic,
    relays: Vec<(Ipv4Addr, Daemon)>,
    authorities: Vec<String>,
}

impl TorNetwork {
    /// Makes keys and starts all relays; does not wait until the authorities have agreed on a first consensus,
    /// which takes half a minute. [`TorNetwork::client`] does.
    ///
    /// # Errors
    /// When keys cannot be made or a Tor does not start.
    pub fn start(lab: &Lab, deadline: Deadline) -> Result<Self> {
        let folder = lab.run_dir().file("tor");
        if folder.exists() {
            // Keys and state of an earlier run would be those of another network.
            fs_err::remove_dir_all(&folder).map_err(Error::io("removing", &folder))?;
        }
        let places: Vec<_> = (1..=AUTHORITIES + RELAYS)
            .map(|number| {
                let address = Ipv4Addr::new(10, 77, 0, 10 + number);
                match number.checked_sub(AUTHORITIES) {
                    None | Some(0) => (format!("auth{number}"), address, Role::Authority(address)),
                    Some(relay) => (format!("relay{relay}"), address, Role::Relay(address)),
                }
            })
            .collect();
        for (_, address, _) in &places {
            lab.add_address(*address)?;
        }
        let run_dirs = places.iter().map(|(name, ..)| RunDir::create(&folder.join(name)));
        let run_dirs = run_dirs.collect::<Result<Vec<_>>>()?;
        // A key of an authority has 3072 bits and takes up to a second.
        let authorities = std::thread::scope(|scope| {
            let made = places.iter().zip(&run_dirs).take(usize::from(AUTHORITIES));
            let made: Vec<_> = made
                .map(|((name, address, _), dir)| {
                    scope.spawn(|| authority(lab.programs(), name, *address, dir))
                })
                .collect();
            let joined = made
                .into_iter()
                .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.collect::<Result<Vec<_>>>()
        })?;
        let mut relays = Vec::new();
        for ((name, address, role), dir) in places.iter().zip(run_dirs) {
            relays.push((*address, Daemon::spawn(lab, name, *role, dir, &authorities)?));
        }
        let talking = relays.iter_mut().map(|(_, relay)| {
            let fingerprint = relay.fingerprint(deadline)?;
            Ok((fingerprint, relay.connect(None, deadline)?))
        });
        let traffic = Traffic::start(talking.collect::<Result<_>>()?);
        Ok(Self { _traffic: traffic, relays, authorities })
    }

    /// The values of torrc's `DirAuthority` for whoever wants to use this network. They have to set
    /// `TestingTorNetwork` as well: it changes how long an onion service has which descriptor.
    #[must_use]
    pub fn dir_authorities(&self) -> &[String] {
        &self.authorities
    }

    /// Every address and port that belongs to this network.
    #[must_use]
    pub fn endpoints(&self) -> Vec<SocketAddrV4> {
        let authorities = self.relays.iter().take(usize::from(AUTHORITIES));
        let directories = authorities.map(|(address, _)| SocketAddrV4::new(*address, DIR_PORT));
        self.relays
            .iter()
            .map(|(address, _)| SocketAddrV4::new(*address, OR_PORT))
            .chain(directories)
            .collect()
    }

    /// Starts a Tor that uses this network and waits until it could build a circuit. `name` is also its folder's
    /// in the lab's run directory.
    ///
    /// # Errors
    /// [`Error::Deadline`]; [`Error::Ended`] with the last words of the Tor that has ended.
    pub fn client(&mut self, lab: &Lab, name: &str, deadline: Deadline) -> Result<TorClient> {
        // A Tor that finds no consensus asks again later and later. So it does not start before there is one.
        for (_, authority) in self.relays.iter_mut().take(usize::from(AUTHORITIES)) {
            authority.wait_joined(deadline)?;
        }
        let dir = RunDir::create(&lab.run_dir().file("tor").join(name))?;
        let mut daemon = Daemon::spawn(lab, name, Role::Client, dir, &self.authorities)?;
        daemon.wait_joined(deadline)?;
        Ok(TorClient { daemon, renewed: None })
    }

    /// Starts a bridge into this network that speaks obfs4 and is in no directory. It joins the network by and by;
    /// clients that come earlier try again. There can be one.
    ///
    /// # Errors
    /// When it does not start, or its transport does not.
    pub fn bridge(&self, lab: &Lab, deadline: Deadline) -> Result<TorBridge> {
        lab.add_address(BRIDGE)?;
        let dir = RunDir::create(&lab.run_dir().file("tor").join("bridge"))?;
        let mut daemon = Daemon::spawn(lab, "bridge", Role::Bridge(BRIDGE), dir, &self.authorities)?;
        let fingerprint = daemon.fingerprint(deadline)?;
        // obfs4proxy makes its key when it starts, and writes what clients have to know.
        let file = daemon.dir.file("data/pt_state/obfs4_bridgeline.txt");
        let arguments = daemon.process.wait("obfs4proxy's bridge line", deadline, || {
            Ok(fs_err::read_to_string(&file).ok().and_then(|text| obfs4_arguments(&text)))
        })?;
        let address = SocketAddrV4::new(BRIDGE, OBFS4_PORT);
        let line = format!("obfs4 {address} {fingerprint} {arguments}");
        Ok(TorBridge { _daemon: daemon, address, line })
    }

    /// How relays that have ended did so. There should be none.
    #[must_use]
    pub fn casualties(&mut self) -> Vec<String> {
        self.relays.iter_mut().filter_map(|(_, relay)| relay.process.end_story()).collect()
    }
}

/// An obfs4 bridge.
///
/// It ends with this value (unless the lab is kept), and with its lab in any case.
pub struct TorBridge {
    _daemon: Daemon,
    address: SocketAddrV4,
    line: String,
}

impl TorBridge {
    /// Its line for clients, without the word `Bridge`.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Where it takes obfs4.
    #[must_use]
    pub const fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

/// What follows the fingerprint in the last line of obfs4proxy's `obfs4_bridgeline.txt`, once that is complete.
fn obfs4_arguments(text: &str) -> Option<String> {
    let line = text.strip_suffix('\n')?.lines().last()?;
    let arguments = line.strip_prefix("Bridge obfs4 ")?.split_once("cert=")?.1;
    Some(format!("cert={}", arguments.trim_end()))
}

/// A Tor that uses the network, for a test: a SOCKS proxy, and a publisher of onion services.
///
/// It ends with this value (unless the lab is kept), and with its lab in any case.
pub struct TorClient {
    daemon: Daemon,
    /// When it last forgot everything.
    renewed: Option<Instant>,
}

/// Tor puts off a `NEWNYM` that comes sooner after another (`MAX_SIGNEWNYM_RATE`, with a second for rounding). It would
/// then forget what was done in between.
const BETWEEN_IDENTITIES: Duration = Duration::from_secs(11);

impl TorClient {
    /// The Unix socket on which it speaks SOCKS 5. Every pair of user name and password is a circuit of its own
    /// (`IsolateSOCKSAuth`).
    #[must_use]
    pub fn socks(&self) -> PathBuf {
        self.daemon.dir.file("socks")
    }

    /// The address in the lab's network on which it speaks SOCKS 5 over TCP, for programs that run there and know no
    /// Unix sockets, such as a browser.
    ///
    /// # Errors
    /// When Tor does not answer, or has no such port.
    pub fn tcp_socks(&mut self, deadline: Deadline) -> Result<SocketAddrV4> {
        let answer = self.daemon.control(deadline)?.ask("GETINFO net/listeners/socks", deadline)?;
        let port = answer.iter().find_map(|line| listener(line));
        port.ok_or_else(|| Error::Protocol { peer: "Tor", line: answer.join(" / ") })
    }

    /// Lets it use an onion service that wants client authorization. `key` is the private x25519 key, 32 bytes.
    ///
    /// # Errors
    /// When Tor refuses.
    pub fn authorize(&mut self, onion: &str, key: &[u8; 32], deadline: Deadline) -> Result<()> {
        let service = onion.strip_suffix(".onion").unwrap_or(onion);
        let key = data_encoding::BASE64.encode(key);
        self.ask(&format!("ONION_CLIENT_AUTH_ADD {service} x25519:{key}"), deadline)
    }

    /// Forgets the key given to [`TorClient::authorize`].
    ///
    /// # Errors
    /// When Tor refuses.
    pub fn forget(&mut self, onion: &str, deadline: Deadline) -> Result<()> {
        let service = onion.strip_suffix(".onion").unwrap_or(onion);
        self.ask(&format!("ONION_CLIENT_AUTH_REMOVE {service}"), deadline)
    }

    /// Forgets all circuits, what was learnt about onion services and the keys of [`TorClient::authorize`], as a new user
    /// would know nothing. When it returns, that is done; Tor does it once in ten seconds.
    ///
    /// # Errors
    /// When Tor refuses.
    pub fn new_identity(&mut self, deadline: Deadline) -> Result<()> {
        if let Some(renewed) = self.renewed {
            std::thread::sleep(BETWEEN_IDENTITIES.saturating_sub(renewed.elapsed()));
        }
        self.ask("SIGNAL NEWNYM", deadline)?;
        self.renewed = Some(Instant::now());
        Ok(())
    }

    /// Makes an onion service that leads from `port` to a Unix socket, and waits until a first directory has its
    /// descriptor. It lives as long as this Tor. Returns its address.
    ///
    /// # Errors
    /// When Tor refuses, or the descriptor is not taken in time.
    pub fn publish(&mut self, port: u16, socket: &Path, deadline: Deadline) -> Result<String> {
        let daemon = &mut self.daemon;
        let control = daemon.control(deadline)?;
        control.ask("SETEVENTS HS_DESC", deadline)?;
        let command =
            format!("ADD_ONION NEW:ED25519-V3 Flags=DiscardPK Port={port},unix:{}", socket.display());
        let answer = control.ask(&command, deadline)?;
        let Some(service) = answer.iter().find_map(|line| line.strip_prefix("ServiceID=")) else {
            return Err(Error::Protocol { peer: "Tor", line: answer.join(" / ") });
        };
        let uploaded = format!("HS_DESC UPLOADED {service} ");
        let what = format!("the descriptor of {service}.onion to be published");
        let published =
            control.wait_event(&what, deadline, |event| event.starts_with(&uploaded).then_some(()));
        daemon.quiet(published)?;
        Ok(format!("{service}.onion"))
    }

    /// From now on it also writes down what it does about onion services: domain `rend` in detail (tor(1), `Log`).
    /// Returns the file, which grows.
    ///
    /// # Errors
    /// When Tor refuses.
    pub fn log_onions(&mut self, deadline: Deadline) -> Result<PathBuf> {
        let file = self.daemon.dir.file("onions.log");
        // This replaces the lines of torrc.
        let detail = format!("[rend]debug file {}", file.display());
        self.ask(&format!("SETCONF Log=\"notice stdout\" Log=\"{detail}\""), deadline)?;
        Ok(file)
    }

    /// The open streams: the number of the circuit that each one uses, and where it leads (`NAME:PORT`).
    ///
    /// # Errors
    /// When Tor does not answer.
    pub fn streams(&mut self, deadline: Deadline) -> Result<Vec<(u64, String)>> {
        let answer = self.daemon.control(deadline)?.ask("GETINFO stream-status", deadline)?;
        // StreamID SP StreamStatus SP CircuitID SP Target (control-spec, GETINFO).
        let lines = answer.iter().flat_map(|part| part.strip_prefix("stream-status=").unwrap_or("").lines());
        let streams = lines.filter_map(|line| {
            let mut words = line.split(' ').skip(2);
            Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
        });
        Ok(streams.collect())
    }

    fn ask(&mut self, command: &str, deadline: Deadline) -> Result<()> {
        self.daemon.control(deadline)?.ask(command, deadline).map(drop)
    }
}

/// The TCP address in a line `net/listeners/socks="127.0.0.1:9050" "unix:/…"` (control-spec, GETINFO).
fn listener(line: &str) -> Option<SocketAddrV4> {
    line.strip_prefix("net/listeners/socks=")?.split(' ').find_map(|word| word.trim_matches('"').parse().ok())
}

/// One running `tor`.
struct Daemon {
    name: String,
    process: Process,
    control: Option<Control>,
    dir: RunDir,
}

impl Daemon {
    fn spawn(lab: &Lab, name: &str, role: Role, dir: RunDir, authorities: &[String]) -> Result<Self> {
        let file = dir.file("torrc");
        fs_err::write(&file, torrc(role, name, dir.path(), authorities))
            .map_err(Error::io("writing", &file))?;
        let mut line = lab.programs().line("tor");
        line.extend(["-f".into(), file.into_os_string()]);
        let mut process = Process::spawn(&format!("Tor {name}"), &line, Stdio::null(), &dir.file("tor.log"))?;
        process.keep(lab.keep);
        Ok(Self { name: name.to_owned(), process, control: None, dir })
    }

    /// Its control socket, as soon as there is one.
    fn control(&mut self, deadline: Deadline) -> Result<&mut Control> {
        let control = match self.control.take() {
            Some(control) => control,
            None => self.connect(Some(&self.dir.file("control.log")), deadline)?,
        };
        Ok(self.control.insert(control))
    }

    /// One more connection to its control socket.
    fn connect(&mut self, log: Option<&Path>, deadline: Deadline) -> Result<Control> {
        let stream = self.process.connect(&self.dir.file("control"), deadline)?;
        Control::new(stream, log, deadline)
    }

    /// What relays call it, if it is one.
    fn fingerprint(&mut self, deadline: Deadline) -> Result<String> {
        let answer = self.control(deadline)?.ask("GETINFO fingerprint", deadline)?;
        let fingerprint = answer.iter().find_map(|line| line.strip_prefix("fingerprint="));
        fingerprint
            .map(str::to_owned)
            .ok_or_else(|| Error::Protocol { peer: "Tor", line: answer.join(" / ") })
    }

    /// Waits until it could build a circuit.
    fn wait_joined(&mut self, deadline: Deadline) -> Result<()> {
        let what = format!("Tor {} to have joined the network", self.name);
        let control = self.control(deadline)?;
        control.ask("SETEVENTS STATUS_CLIENT", deadline)?;
        let now = control.ask("GETINFO status/bootstrap-phase", deadline)?;
        let done = |text: &str| text.contains(" PROGRESS=100 ").then_some(());
        let joined = match now.iter().find_map(|line| done(line)) {
            Some(()) => Ok(()),
            None => control.wait_event(&what, deadline, done),
        };
        self.quiet(joined)
    }

    /// Ends the events that were asked for, and puts what is known around a failure.
    fn quiet<T>(&mut self, result: Result<T>) -> Result<T> {
        let asked = match &mut self.control {
            Some(control) => control.ask("SETEVENTS", Deadline::seconds(10)),
            None => Ok(Vec::new()),
        };
        result.and_then(|found| asked.map(|_| found)).map_err(|error| self.explain(error))
    }

    /// Says what became of Tor if it has ended.
    fn explain(&mut self, cause: Error) -> Error {
        match (cause, self.process.end_story()) {
            (Error::Ended { what, .. }, Some(how)) => Error::Ended { what, how },
            (cause, _) => cause,
        }
    }
}

/// Makes the keys of a directory authority and returns its value for `DirAuthority`.
fn authority(programs: &Programs, name: &str, address: Ipv4Addr, dir: &RunDir) -> Result<String> {
    let data = dir.file("data");
    let keys = data.join("keys");
    fs_err::create_dir_all(&keys).map_err(Error::io("creating", &keys))?;
    for folder in [&data, &keys] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(folder, mode).map_err(Error::io("closing to others", folder))?;
    }
    let certificate = keys.join("authority_certificate");
    let mut arguments: Vec<std::ffi::OsString> =
        ["--create-identity-key", "-m", "12", "--passphrase-fd", "0", "-a"].map(Into::into).to_vec();
    arguments.push(format!("{address}:{DIR_PORT}").into());
    for (option, file) in [("-i", "authority_identity_key"), ("-s", "authority_signing_key")] {
        arguments.extend([option.into(), keys.join(file).into()]);
    }
    arguments.extend(["-c".into(), certificate.clone().into()]);
    programs.output_of("tor-gencert", arguments, b"a key of a test network\n")?;
    let text = fs_err::read_to_string(&certificate).map_err(Error::io("reading", &certificate))?;
    let protocol = |line: String| Error::Protocol { peer: "tor-gencert", line };
    let identity = text.lines().find_map(|line| line.strip_prefix("fingerprint "));
    let identity = identity.ok_or_else(|| protocol(text.clone()))?;

    // Tor makes the relay's keys when it is asked for their fingerprint. For that it wants a network to exist.
    let nobody = "nobody 127.0.0.1:1 0000000000000000000000000000000000000000".to_owned();
    let file = dir.file("torrc");
    fs_err::write(&file, torrc(Role::Relay(address), name, dir.path(), &[nobody]))
        .map_err(Error::io("writing", &file))?;
    let arguments = ["--hush".as_ref(), "--list-fingerprint".as_ref(), "-f".as_ref(), file.as_os_str()];
    let answer = programs.output("tor", arguments)?;
    let answer = String::from_utf8_lossy(&answer);
    let fingerprint = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let fingerprint = fingerprint.ok_or_else(|| protocol(answer.to_string()))?.replace(' ', "");
    Ok(format!("{name} orport={OR_PORT} v3ident={identity} {address}:{DIR_PORT} {fingerprint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_line_is_read_when_it_is_complete() {
        let text = "# obfs4 torrc client bridge line\n#\n\
                    Bridge obfs4 <IP ADDRESS>:<PORT> <FINGERPRINT> cert=AbC+/1 iat-mode=0\n";
        assert_eq!(obfs4_arguments(text).unwrap(), "cert=AbC+/1 iat-mode=0");
        assert_eq!(obfs4_arguments(&text[..text.len() - 5]), None);
        assert_eq!(obfs4_arguments("# obfs4 torrc client bridge line\n"), None);
    }

    #[test]
    fn the_tcp_port_is_found_among_the_listeners() {
        let line = "net/listeners/socks=\"unix:/run/x/socks\" \"127.0.0.1:40123\"";
        assert_eq!(listener(line), Some("127.0.0.1:40123".parse().unwrap()));
        assert_eq!(listener("net/listeners/socks=\"unix:/run/x/socks\""), None);
        assert_eq!(listener("OK"), None);
    }
}
