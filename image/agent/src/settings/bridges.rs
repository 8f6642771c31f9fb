//! Bridge lines, and the addresses of the names in them.
//!
//! There is no name service before Tor. So whatever a line makes a program connect to is known here as an address: the
//! bridge itself, or for snowflake the host that its broker is asked through. A line with a name of unknown address, or
//! with a word of unknown effect, is refused; nothing is looked up.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use serde::Serialize;

use super::values::torrc_line;

/// Where TCP connections to a bridge, or to a bridge's broker, go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BridgeAddress {
    /// Address.
    pub ip: Ipv4Addr,
    /// TCP port.
    pub port: u16,
}

impl From<SocketAddrV4> for BridgeAddress {
    fn from(address: SocketAddrV4) -> Self {
        Self { ip: *address.ip(), port: address.port() }
    }
}

/// A pluggable transport of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// obfs4proxy: TCP to the bridge that looks like nothing.
    Obfs4,
    /// snowflake-client: HTTPS to a broker, then WebRTC over UDP to volunteers that the broker names.
    Snowflake,
}

/// A line for torrc's `Bridge`, understood.
#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) line: String,
    /// None: a plain bridge.
    pub(super) transport: Option<Transport>,
    /// Where TCP goes because of it.
    pub(super) connects: Vec<BridgeAddress>,
}

/// Reads a bridge as Tor's bridge distribution writes it. `hosts` has the addresses of names, as [`host`] accepts them.
pub(super) fn bridge(text: &str, hosts: &[String]) -> Result<Bridge, String> {
    torrc_line(text)?;
    let mut words = text.split(' ').filter(|word| !word.is_empty()).peekable();
    let transport = match words.next_if(|word| word.starts_with(|c: char| c.is_ascii_alphabetic())) {
        None => None,
        Some("obfs4") => Some(Transport::Obfs4),
        Some("snowflake") => Some(Transport::Snowflake),
        Some("Bridge") => return Err("leave out the word Bridge at the beginning".into()),
        Some(other) => {
            return Err(format!(
                "the transport {other} is not in this image; obfs4, snowflake and plain bridges are"
            ));
        }
    };
    let word = words.next().unwrap_or_default();
    let address = match word.parse() {
        Ok(SocketAddr::V4(address)) => address.into(),
        Ok(SocketAddr::V6(_)) => {
            return Err("IPv6 is off on the wire; use a bridge with an IPv4 address".into());
        }
        Err(_) => return Err(format!("{word:?} is not an address with port; copy the whole bridge line")),
    };
    fingerprint(words.next().unwrap_or_default()).map_err(|error| format!("after the address, {error}"))?;
    let connects = match transport {
        // The address of such a line is a placeholder that nobody connects to.
        Some(Transport::Snowflake) => Snowflake::read(words)?.connects(hosts)?,
        _ => vec![address],
    };
    Ok(Bridge { line: text.to_owned(), transport, connects })
}

fn fingerprint(word: &str) -> Result<(), String> {
    if word.len() == 40 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(format!("{word:?} is not a bridge's fingerprint, which has 40 hexadecimal digits"))
}

/// The words behind a snowflake bridge's fingerprint that decide who is connected to.
#[derive(Default)]
struct Snowflake<'l> {
    /// The broker.
    url: Option<&'l str>,
    /// What is connected to in its place.
    front: Option<&'l str>,
    /// Another service between front and broker.
    ampcache: Option<&'l str>,
    /// STUN servers.
    ice: Option<&'l str>,
}

impl<'l> Snowflake<'l> {
    /// Takes the words that snowflake-client 2.5.1 knows. It ignores all others, so they are refused: who writes
    /// `fronts=` for newer ones would tell the broker's name to everybody on the way.
    fn read(words: impl Iterator<Item = &'l str>) -> Result<Self, String> {
        let mut read = Self::default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "url" => once(&mut read.url, key, value)?,
                "front" => once(&mut read.front, key, value)?,
                "ampcache" => once(&mut read.ampcache, key, value)?,
                "ice" => once(&mut read.ice, key, value)?,
                "fingerprint" => fingerprint(value)?,
                // Which ClientHello to imitate. An unknown one ends the attempt.
                "utls-imitate" if is_identifier(value) => {}
                "utls-nosni" if matches!(value, "true" | "false" | "yes" | "no") => {}
                "fronts" => {
                    return Err(
                        "this image's snowflake-client knows one front only; choose one of them and \
                                write front=NAME"
                            .into(),
                    );
                }
                _ => {
                    return Err(format!(
                        "{word:?} is no word of a snowflake bridge; known are url, front, ampcache, ice, \
                         fingerprint, utls-imitate and utls-nosni"
                    ));
                }
            }
        }
        Ok(read)
    }

    /// Where its TCP connections go. Its UDP goes to the STUN servers, and to volunteers that nobody knows before.
    fn connects(&self, hosts: &[String]) -> Result<Vec<BridgeAddress>, String> {
        let url = self.url.ok_or("url=, the broker's address, is missing")?;
        let (broker, port) = https(url)?;
        let ice = self.ice.ok_or("ice=, the STUN servers, is missing")?;
        ice.split(',').try_for_each(stun_server)?;
        if self.ampcache.is_some_and(|cache| https(cache).is_err()) {
            return Err("ampcache= must be an address that begins with https://".into());
        }
        let (name, port) = match (self.front, self.ampcache) {
            (Some(front), _) => (front, 443),
            (None, None) => (broker, port),
            (None, Some(_)) => return Err("ampcache= needs front=, the name to connect to".into()),
        };
        if let Ok(ip) = name.parse() {
            return Ok(vec![BridgeAddress { ip, port }]);
        }
        host_name(name)?;
        let known: Vec<_> = hosts.iter().filter_map(|line| address_of(line, name)).collect();
        if known.is_empty() {
            return Err(format!(
                "{name} needs an address, since there is no name service before Tor; add \"ADDRESS {name}\" to \
                 `bridge_hosts`"
            ));
        }
        Ok(known.into_iter().map(|ip| BridgeAddress { ip, port }).collect())
    }
}

fn once<'l>(place: &mut Option<&'l str>, key: &str, value: &'l str) -> Result<(), String> {
    match place.replace(value) {
        None if !value.is_empty() => Ok(()),
        None => Err(format!("{key}= has no value")),
        Some(_) => Err(format!("{key}= is there twice")),
    }
}

fn is_identifier(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Host and port of an https URL.
fn https(url: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("{url:?} is not a broker's address; it begins with https:// and a name");
    let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        None => (authority, 443),
    };
    host_name(host).map_err(|_| wrong())?;
    Ok((host, port))
}

/// A STUN server, by address: `stun:192.0.2.1:3478`.
fn stun_server(text: &str) -> Result<(), String> {
    let address = text.strip_prefix("stun:").unwrap_or_default();
    match address.parse::<SocketAddrV4>() {
        Ok(address) if address.port() == 53 => {
            Err(format!("{text:?} has the port of name servers, which the firewall keeps shut"))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "{text:?} is not a STUN server by address; write stun:ADDRESS:PORT, since there is no name service \
             before Tor"
        )),
    }
}

/// A name, or an address, which has the same characters.
fn host_name(name: &str) -> Result<(), String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a host's name"))
    }
}

/// An address and its names, as in hosts(5).
pub(super) fn host(text: &str) -> Result<String, String> {
    torrc_line(text)?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let address = words.next().unwrap_or_default();
    if address.parse::<Ipv4Addr>().is_err() {
        return Err(format!(
            "{address:?} is not an IPv4 address; write an address and its name, as in hosts(5)"
        ));
    }
    let names: Vec<_> = words.collect();
    if names.is_empty() {
        return Err(format!("after {address} comes the name that has this address"));
    }
    names.iter().try_for_each(|name| host_name(name))?;
    Ok(text.to_owned())
}

/// The address in a line of [`host`], if it is this name's.
fn address_of(line: &str, name: &str) -> Option<Ipv4Addr> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let address = words.next()?.parse().ok()?;
    words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: &str = "0123456789ABCDEF0123456789ABCDEF01234567";

    fn refused(line: &str) -> String {
        bridge(line, &["192.0.2.10 front.example".to_owned()]).unwrap_err()
    }

    fn address(ip: [u8; 4], port: u16) -> BridgeAddress {
        BridgeAddress { ip: ip.into(), port }
    }

    #[test]
    fn obfs4_and_plain() {
        let obfs4 = bridge(&format!("obfs4 192.0.2.7:443 {PRINT} cert=abc iat-mode=0"), &[]).unwrap();
        assert_eq!(obfs4.transport, Some(Transport::Obfs4));
        assert_eq!(obfs4.connects, [address([192, 0, 2, 7], 443)]);
        let plain = bridge(&format!("192.0.2.7:443 {PRINT}"), &[]).unwrap();
        assert_eq!((plain.transport, plain.connects.len()), (None, 1));
        assert!(refused(&format!("meek 192.0.2.7:443 {PRINT}")).contains("meek"));
        assert!(refused(&format!("Bridge 192.0.2.7:443 {PRINT}")).contains("leave out"));
        assert!(refused(&format!("[2001:db8::1]:443 {PRINT}")).contains("IPv6"));
        assert!(refused(&format!("bridge.example:443 {PRINT}")).contains("transport"));
        assert!(refused("obfs4 192.0.2.7:443 cert=abc").contains("40 hexadecimal digits"));
        assert!(bridge(&format!("192.0.2.7:443 {PRINT}\nExitRelay 1"), &[]).is_err());
    }

    #[test]
    fn snowflake_connects_to_the_front() {
        let hosts =
            ["192.0.2.10 front.example other.example", "192.0.2.11  Front.Example"].map(str::to_owned);
        let line = |rest: &str| format!("snowflake 192.0.2.3:80 {PRINT} fingerprint={PRINT} {rest}");
        let read = |rest: &str| bridge(&line(rest), &hosts).map(|bridge| bridge.connects);
        let ice = "ice=stun:192.0.2.30:3478,stun:192.0.2.31:443";
        let both = vec![address([192, 0, 2, 10], 443), address([192, 0, 2, 11], 443)];
        assert_eq!(
            read(&format!(
                "url=https://broker.example:8443/ front=front.example utls-imitate=hellofirefox_auto {ice}"
            )),
            Ok(both.clone())
        );
        assert_eq!(
            read(&format!(
                "url=https://broker.example/ ampcache=https://cache.example/ front=front.example {ice}"
            )),
            Ok(both)
        );
        // Without a front it is the broker itself.
        let other = vec![address([192, 0, 2, 10], 8443)];
        assert_eq!(read(&format!("url=https://other.example:8443/x {ice}")), Ok(other));
        let literal = vec![address([198, 51, 100, 1], 443)];
        assert_eq!(read(&format!("url=https://198.51.100.1/ {ice}")), Ok(literal));
    }

    #[test]
    fn snowflake_is_refused_in_doubt() {
        let line = |rest: &str| refused(&format!("snowflake 192.0.2.3:80 {PRINT} {rest}"));
        let good = "url=https://b.example/ front=front.example ice=stun:192.0.2.30:3478";
        for (rest, says) in [
            ("front=front.example ice=stun:192.0.2.30:3478", "url="),
            ("url=https://b.example/ front=front.example", "ice="),
            ("url=https://b.example/ front=front.example ice=stun:stun.example:3478", "by address"),
            ("url=https://b.example/ front=front.example ice=turn:192.0.2.30:3478", "by address"),
            ("url=https://b.example/ front=front.example ice=stun:192.0.2.30", "by address"),
            ("url=https://b.example/ front=front.example ice=stun:192.0.2.30:53", "name servers"),
            ("url=http://b.example/ front=front.example ice=stun:192.0.2.30:3478", "https://"),
            ("url=https://b.example/ ice=stun:192.0.2.30:3478", "b.example needs an address"),
            ("url=https://b.example/ front=no.example ice=stun:192.0.2.30:3478", "\"ADDRESS no.example\""),
            ("url=https://front.example@evil/ ice=stun:192.0.2.30:3478", "https://"),
            ("url=https://b.example/ ampcache=https://c.example/ ice=stun:192.0.2.30:3478", "needs front="),
            (&format!("{good} fronts=a.example,b.example"), "one front only"),
            (&format!("{good} sqsqueue=https://x.example/"), "no word of a snowflake bridge"),
            (&format!("{good} front=front.example"), "twice"),
            (&format!("{good} fingerprint=12"), "fingerprint"),
            (&format!("{good} utls-nosni=maybe"), "no word of a snowflake bridge"),
        ] {
            let error = line(rest);
            assert!(error.contains(says), "{rest}: {error}");
        }
        assert!(bridge(&format!("snowflake 192.0.2.3:80 {PRINT} {good}"), &[]).is_err());
    }

    #[test]
    fn hosts() {
        assert!(host("192.0.2.10 front.example www.front.example").is_ok());
        for wrong in
            ["", "front.example", "192.0.2.10", "2001:db8::1 a.example", "192.0.2.10 a_b", "192.0.2.10 -a"]
        {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
