//! Weak algorithms of an SSH server, by `ssh-audit`.
//!
//! Source: ssh-audit(1), option `--json`. The rate test, which floods the server with connections, is left out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;

use serde::Deserialize;

use super::words;

/// What ssh-audit says, as far as it is judged.
#[derive(Deserialize)]
struct Report {
    banner: Banner,
    kex: Vec<Algorithm>,
    key: Vec<Algorithm>,
    enc: Vec<Algorithm>,
    mac: Vec<Algorithm>,
}

#[derive(Deserialize)]
struct Banner {
    raw: String,
}

#[derive(Deserialize)]
struct Algorithm {
    algorithm: String,
    notes: BTreeMap<String, Vec<String>>,
}

/// What was found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The server's first line.
    pub banner: String,
    /// `kex NAME: why` for every algorithm that ssh-audit says to be broken.
    pub failures: Vec<String>,
    /// The same for those that it warns of.
    pub warnings: Vec<String>,
}

/// The command that looks at one port. Its exit status repeats the findings (0 none, 2 warnings, 3 failures); 1 and
/// others mean that it could not look.
#[must_use]
pub fn argv(address: SocketAddr) -> Vec<OsString> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    words(["ssh-audit", "--json", "--skip-rate-test", "--port", &port, &host])
}

/// Reads the JSON output.
///
/// # Errors
/// When it is not what ssh-audit writes about a server it could talk to.
pub fn parse(text: &str) -> anyhow::Result<Audit> {
    let report: Report = serde_json::from_str(text)?;
    let all = [("kex", &report.kex), ("key", &report.key), ("enc", &report.enc), ("mac", &report.mac)];
    let notes = |level: &str| -> Vec<String> {
        let named = all.iter().flat_map(|(kind, list)| list.iter().map(move |one| (kind, one)));
        named
            .filter_map(|(kind, one)| Some((kind, &one.algorithm, one.notes.get(level)?)))
            .map(|(kind, name, why)| format!("{kind} {name}: {}", why.join("; ")))
            .collect()
    };
    Ok(Audit { banner: report.banner.raw.clone(), failures: notes("fail"), warnings: notes("warn") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Debian's dropbear with an Ed25519 key.
    const RECORDED: &str = include_str!("recorded/ssh-audit.json");

    #[test]
    fn a_recorded_server() {
        let audit = parse(RECORDED).unwrap();
        assert_eq!(audit.banner, "SSH-2.0-dropbear_2025.89");
        assert_eq!(audit.failures.len(), 3);
        assert!(audit.failures[0].starts_with("kex ecdh-sha2-nistp521: using elliptic curves"));
        assert!(audit.warnings.contains(&"mac hmac-sha2-256: using encrypt-and-MAC mode".to_owned()));
    }

    #[test]
    fn no_answer_is_no_audit() {
        assert!(parse("").is_err());
        assert!(parse("{\"banner\": {\"raw\": \"x\"}}").is_err());
    }
}
