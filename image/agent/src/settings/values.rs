//! Conversions of single values, each with an error that says what would be right.
//!
//! Values end up in configuration files of other programs, so whatever is accepted here has no character
//! that could end a line or a quoted text there.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Serialize, Serializer};

/// What ends or quotes a value in one of the formats that templates write: torrc, main.cf, nftables, nginx, PHP.
const SPECIAL: &str = "\"'`;#$\\{}";

/// An IPv4 network: address and prefix length, host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network4 {
    address: Ipv4Addr,
    prefix: u8,
}

impl fmt::Display for Network4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Network4 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn address_and_prefix(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|p| (1..=32).contains(p))?;
    Some((address.parse().ok()?, prefix))
}

const fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - prefix as u32)
}

pub(super) fn network(text: &str) -> Result<Network4, String> {
    let (address, prefix) = address_and_prefix(text)
        .ok_or_else(|| format!("{text:?} is not an IPv4 network; write it like 192.168.1.0/24"))?;
    let base = Ipv4Addr::from_bits(address.to_bits() & mask(prefix));
    if base != address {
        return Err(format!("{text:?} has host bits set; the network is {base}/{prefix}"));
    }
    if !(address.is_private() || address.is_link_local() || prefix == 32) {
        return Err(format!(
            "{text:?} is not a local network; outside of 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16 only a \
             single address (/32) is accepted"
        ));
    }
    Ok(Network4 { address, prefix })
}

pub(super) fn interface_address(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let (address, prefix) = address_and_prefix(text).ok_or_else(|| {
        format!("{text:?} is not an address with prefix length; write it like 192.0.2.10/24")
    })?;
    let host = address.to_bits() & !mask(prefix);
    let unusable = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    if unusable || prefix < 31 && (host == 0 || host == !mask(prefix)) {
        return Err(format!("{text:?} cannot be the address of a machine"));
    }
    Ok((address, prefix))
}

/// Whether two addresses are in one network of this prefix length.
pub(super) fn same_network(one: Ipv4Addr, other: Ipv4Addr, prefix: u8) -> bool {
    one.to_bits() & mask(prefix) == other.to_bits() & mask(prefix)
}

pub(super) fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IPv4 address; write it like 192.0.2.1"))
}

/// A line for torrc: printable ASCII without what means something to Tor or to another program that reads it.
pub(super) fn torrc_line(text: &str) -> Result<(), String> {
    match text.chars().find(|c| !matches!(c, ' '..='~') || SPECIAL.contains(*c)) {
        Some(strange) => Err(format!("the character {strange:?} cannot be in such a line")),
        None if text.trim() != text || text.is_empty() => {
            Err("the line is empty or has spaces around it".into())
        }
        None => Ok(()),
    }
}

/// A line for torrc's `DirAuthority`.
pub(super) fn dir_authority(text: &str) -> Result<String, String> {
    torrc_line(text)?;
    if text.split(' ').any(|word| word.parse::<SocketAddr>().is_ok()) && text.contains("v3ident=") {
        Ok(text.to_owned())
    } else {
        Err("a directory authority reads: NAME orport=PORT v3ident=FINGERPRINT ADDRESS:PORT FINGERPRINT"
            .into())
    }
}

/// The room of a mailbox, like `500M` or `2G`, as Dovecot reads it too.
///
/// # Errors
/// Says what would be right.
pub fn quota(text: &str) -> Result<String, String> {
    let digits = text.strip_suffix(['M', 'G', 'T']).unwrap_or_default();
    match digits.parse::<u32>() {
        Ok(1..=9999) if !digits.starts_with(['0', '+']) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not a size; write a number and M, G or T, like 500M or 2G")),
    }
}

pub(super) fn country(text: &str) -> Result<String, String> {
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a country code; write two capital letters, like DE"))
    }
}

/// The name of a wireless network, whatever characters it has: it is written down as hexadecimal digits.
pub(super) fn ssid(text: &str) -> Result<String, String> {
    if (1..=32).contains(&text.len()) && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("the name of a network has 1 to 32 bytes, and no control characters".into())
    }
}

/// A WPA passphrase or pre-shared key (IEEE 802.11, annex J.4). The error does not quote it. Quotes and backslashes
/// are fine: `wpa_supplicant.conf(5)` reads up to the last quote of the line and knows no escapes in it.
pub(super) fn passphrase(text: &str) -> Result<String, String> {
    let passphrase = (8..=63).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    let key = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if passphrase || key {
        Ok(text.to_owned())
    } else {
        Err("a WPA passphrase has 8 to 63 ASCII characters; a key has 64 hexadecimal digits".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(network("192.168.1.0/24").unwrap().to_string(), "192.168.1.0/24");
        assert!(network("192.168.1.5/24").unwrap_err().contains("192.168.1.0/24"));
        assert!(network("0.0.0.0/0").is_err());
        assert!(network("8.8.8.0/24").is_err());
        assert!(network("192.168.1.0").is_err());
    }

    #[test]
    fn interface_addresses() {
        assert!(interface_address("192.0.2.10/24").is_ok());
        for wrong in ["192.0.2.0/24", "192.0.2.255/24", "127.0.0.1/8", "192.0.2.10", "192.0.2.10/33"] {
            assert!(interface_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wireless_networks() {
        for right in ["home", "Ada\u{2019}s", "a \"b\" \\c #d", "0123456789abcdef0123456789abcdef"] {
            assert_eq!(ssid(right).unwrap(), right);
        }
        for wrong in [
            "",
            "a\nb",
            "0123456789abcdef0123456789abcdefg",
            "\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}x",
        ] {
            assert!(ssid(wrong).is_err(), "{wrong:?}");
        }
        let (longest, key) = ("x".repeat(63), "0aF9".repeat(16));
        for right in ["correct horse", "p\"a\\ss #w0rd", longest.as_str(), key.as_str()] {
            assert_eq!(passphrase(right).unwrap(), right);
        }
        for wrong in ["short12", "tab\there", "umla\u{fc}te", "line\nline", &"g".repeat(64), &"0".repeat(65)]
        {
            let said = passphrase(wrong).unwrap_err();
            assert!(!said.contains(wrong), "{said}");
        }
        assert!(country("DE").is_ok());
        for wrong in ["", "de", "DEU", "D1"] {
            assert!(country(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn quotas() {
        assert!(quota("500M").is_ok() && quota("2G").is_ok());
        for wrong in ["", "2", "2GB", "0G", "-1G", "+1G", "99999G", "2 G"] {
            assert!(quota(wrong).is_err(), "{wrong}");
        }
    }
}
