//! What a whole browser connected to, by Chromium's own network log (`--log-net-log`): also what no page asked for.
//!
//! Source: Chromium's `net/log/net_log_event_type_list.h`. The log holds no cookies and no passwords by default.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

/// What the log names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetLog {
    /// Every URL that was fetched.
    pub urls: BTreeSet<String>,
    /// Every address that a TCP connection was tried to or that a UDP packet was sent to, as `address:port`: behind
    /// a proxy, the proxy's only.
    pub addresses: BTreeSet<String>,
}

#[derive(Deserialize)]
struct File {
    constants: Constants,
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Constants {
    #[serde(rename = "logEventTypes")]
    types: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: u64,
    #[serde(default)]
    params: Value,
    source: Source,
}

#[derive(Deserialize)]
struct Source {
    id: u64,
}

impl NetLog {
    /// Reads the log of a browser that has ended.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what [`NetLog::parse`] expects.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        Self::parse(&fs_err::read_to_string(file)?).with_context(|| format!("reading {}", file.display()))
    }

    /// Reads the log's text.
    ///
    /// # Errors
    /// When it is cut off, or lacks an event type that this module knows: Chromium has renamed it then.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let file: File = serde_json::from_str(text)?;
        let number = |name: &str| {
            let number = file.constants.types.get(name).copied();
            number.with_context(|| format!("finding the event type {name}"))
        };
        let (fetch, tcp) = (number("URL_REQUEST_START_JOB")?, number("TCP_CONNECT_ATTEMPT")?);
        let (udp, udp_sent) = (number("UDP_CONNECT")?, number("UDP_BYTES_SENT")?);
        let mut log = NetLog::default();
        let mut udp_peers = BTreeMap::new();
        for event in &file.events {
            // The event that ends an attempt repeats no address.
            let text = |field: &str| event.params[field].as_str().map(str::to_owned);
            let kind = event.kind;
            if kind == fetch {
                log.urls.extend(text("url"));
            } else if kind == tcp {
                log.addresses.extend(text("address"));
            } else if kind == udp {
                // Sends nothing: to find out whether there is IPv6, Chromium asks the kernel for a route in this way.
                udp_peers.extend(text("address").map(|address| (event.source.id, address)));
            } else if kind == udp_sent {
                let peer = text("address").or_else(|| udp_peers.get(&event.source.id).cloned());
                log.addresses.insert(peer.unwrap_or_else(|| "an unknown address, by UDP".to_owned()));
            }
        }
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: &str = r#"{"logEventTypes":{"URL_REQUEST_START_JOB":1,"TCP_CONNECT_ATTEMPT":2,"UDP_CONNECT":3,
        "UDP_BYTES_SENT":4}}"#;

    fn parse(events: &str) -> anyhow::Result<NetLog> {
        NetLog::parse(&format!("{{\"constants\":{TYPES},\"events\":{events}}}"))
    }

    #[test]
    fn urls_and_addresses() {
        let log = parse(
            r#"[{"type":1,"params":{"url":"http://a/"},"source":{"id":1}},
            {"type":2,"params":{"address":"127.0.0.1:80"},"source":{"id":2}}, {"type":2,"source":{"id":2}},
            {"type":9,"params":{"url":"http://b/"},"source":{"id":3}}]"#,
        )
        .unwrap();
        assert_eq!(log.urls, BTreeSet::from(["http://a/".to_owned()]));
        assert_eq!(log.addresses, BTreeSet::from(["127.0.0.1:80".to_owned()]));
    }

    #[test]
    fn a_udp_socket_counts_once_it_sends() {
        let connect = r#"{"type":3,"params":{"address":"[2001:db8::1]:443"},"source":{"id":5}}"#;
        assert!(parse(&format!("[{connect}]")).unwrap().addresses.is_empty());
        let sent = r#"{"type":4,"params":{"byte_count":9},"source":{"id":5}}"#;
        let log = parse(&format!("[{connect},{sent}]")).unwrap();
        assert_eq!(log.addresses, BTreeSet::from(["[2001:db8::1]:443".to_owned()]));
        assert_eq!(parse(&format!("[{sent}]")).unwrap().addresses.len(), 1);
    }

    #[test]
    fn a_log_that_says_nothing_is_not_taken_for_silence() {
        assert!(parse("[{").is_err());
        let renamed = TYPES.replace("TCP_CONNECT_ATTEMPT", "TCP_TRY");
        let error = NetLog::parse(&format!("{{\"constants\":{renamed},\"events\":[]}}")).unwrap_err();
        assert_eq!(error.to_string(), "finding the event type TCP_CONNECT_ATTEMPT");
    }
}
