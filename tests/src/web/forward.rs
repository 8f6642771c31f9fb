//! A TCP port in the lab's network that leads to an onion service, for tools that know no SOCKS.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use clients::Passage;

use super::State;
use crate::site::DIALOGUE;
use crate::vantage::scenario::first_line;
use crate::vantage::{Group, words};

/// A port on loopback in the lab's network. It ends with this value.
pub(super) struct Forward {
    _socat: Group,
    _passage: Passage,
    pub(super) address: SocketAddr,
}

impl Forward {
    /// Opens a port that leads to `port` of `onion`. So many connections in a row are one client to the service.
    pub(super) fn open(state: &State, onion: &str, port: u16, together: usize) -> anyhow::Result<Self> {
        let socket = state.folder.join(format!("port{port}"));
        let circuit = move |number: usize| format!("scanner of {port}, {}", number / together);
        let limit = Duration::from_secs(DIALOGUE);
        let passage = Passage::open(&socket, &state.site.door, circuit, onion, port, limit)?;
        let argv = words([
            "socat",
            "-d",
            "-d",
            "TCP-LISTEN:0,bind=127.0.0.1,fork",
            &format!("UNIX-CONNECT:{}", socket.display()),
        ]);
        let mut socat = state.scanners.spawn(&argv, Stdio::null(), Stdio::null(), Stdio::piped())?;
        let line = first_line(&mut socat, " listening on ")?;
        let port = line.rsplit_once(':').and_then(|(_, port)| port.trim().parse().ok());
        let port: u16 = port.with_context(|| format!("reading socat's line {line:?}"))?;
        Ok(Self { _socat: socat, _passage: passage, address: (Ipv4Addr::LOCALHOST, port).into() })
    }
}
