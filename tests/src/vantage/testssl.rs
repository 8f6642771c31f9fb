//! Findings about a TLS port, by `testssl.sh`.
//!
//! Source: testssl(1). No names are looked up, and nothing outside is asked about certificates.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use super::words;

/// How grave a finding is, in testssl's words and order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Neither good nor bad.
    Info,
    /// Could be better.
    Low,
    /// Should be better.
    Medium,
    /// Bad.
    High,
    /// Very bad.
    Critical,
    /// testssl itself could not do something it wanted to.
    Warn,
    /// testssl failed.
    Fatal,
}

/// One finding. testssl adds fields such as `cve` now and then.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Finding {
    /// testssl's name for what was looked at, such as `LUCKY13`.
    pub id: String,
    /// How grave.
    pub severity: Severity,
    /// What was found.
    pub finding: String,
}

/// How long a server may take for a line before TLS begins, in seconds; testssl gives up after the second one that is
/// late. By itself it waits ten, and a new circuit to an emulated machine takes longer on a busy computer.
const GREETING: u64 = 60;

/// Which of testssl's tests are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Protocols and certificate: some seconds.
    Quick,
    /// Ciphers, their order, forward secrecy and the known vulnerabilities, too. Simulated clients, HTTP headers and
    /// the rating are left out: they say nothing about a mail port.
    Full,
}

/// The command that looks at one port and writes `json`, which must not exist yet. `starttls` is a protocol such as
/// `smtp`; `None`: TLS from the first byte. `name` is what the server is called in SNI and certificate.
#[must_use]
pub fn argv(
    address: SocketAddr,
    name: &str,
    starttls: Option<&str>,
    depth: Depth,
    json: &Path,
) -> Vec<OsString> {
    let mut line =
        words(["env", &format!("STARTTLS_SLEEP={GREETING}"), "testssl", "--quiet", "--color", "0"]);
    line.extend(words(["--warnings", "off", "--nodns", "none"]));
    line.extend(words(["--connect-timeout", "60", "--openssl-timeout", "60", "--disable-rating"]));
    line.extend(words(["--ip", &address.ip().to_string(), "--jsonfile"]));
    line.push(json.into());
    line.extend(match depth {
        Depth::Quick => words(["--protocols", "--server-defaults"]),
        Depth::Full => words([
            "--protocols",
            "--server-defaults",
            "--std",
            "--fs",
            "--server-preference",
            "--vulnerable",
        ]),
    });
    if let Some(protocol) = starttls {
        line.extend(words(["--starttls", protocol]));
    }
    line.push(format!("{name}:{}", address.port()).into());
    line
}

/// Reads the JSON file.
///
/// # Errors
/// When it is not what testssl writes, or holds nothing about the protocols: then testssl did not get that far.
pub fn parse(text: &str) -> anyhow::Result<Vec<Finding>> {
    let findings: Vec<Finding> = serde_json::from_str(text)?;
    anyhow::ensure!(
        findings.iter().any(|one| one.id == "TLS1_2"),
        "testssl came to no finding about TLS 1.2; it said: {:?}",
        findings.iter().map(|one| &one.finding).collect::<Vec<_>>()
    );
    Ok(findings)
}

/// Findings above `severity`, without those whose id is in `accepted`. What testssl could not do counts as grave,
/// except that its OpenSSL lacks GOST.
#[must_use]
pub fn above<'a>(findings: &'a [Finding], severity: Severity, accepted: &[&str]) -> Vec<&'a Finding> {
    let grave = |one: &&Finding| one.severity > severity && one.id != "engine_problem";
    findings.iter().filter(grave).filter(|one| !accepted.contains(&one.id.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full run against `openssl s_server` with a self-signed certificate without alternative names.
    const RECORDED: &str = include_str!("recorded/testssl.json");

    #[test]
    fn a_recorded_run() {
        let findings = parse(RECORDED).unwrap();
        let ids = |severity, accepted: &[&str]| -> Vec<String> {
            above(&findings, severity, accepted).into_iter().map(|one| one.id.clone()).collect()
        };
        assert!(ids(Severity::Low, &[]).contains(&"cert_chain_of_trust".to_owned()));
        assert!(!ids(Severity::Low, &["cert_chain_of_trust"]).contains(&"cert_chain_of_trust".to_owned()));
        assert!(!ids(Severity::Low, &[]).contains(&"LUCKY13".to_owned()));
        assert!(ids(Severity::Info, &[]).contains(&"LUCKY13".to_owned()));
        assert!(!ids(Severity::Ok, &[]).contains(&"engine_problem".to_owned()));
    }

    #[test]
    fn a_server_out_of_reach_is_no_good_news() {
        assert!(parse("[]").unwrap_err().to_string().contains("no finding about TLS 1.2"));
        assert!(parse("[{\"id\": \"TLS1_2\", \"severity\": \"ODD\", \"finding\": \"\"}]").is_err());
    }

    #[test]
    fn starttls_and_name() {
        let at = "10.1.0.2:25".parse().unwrap();
        let line = argv(at, "a.onion", Some("smtp"), Depth::Quick, "/run/t.json".as_ref());
        let line = qemu::command_line(&line);
        assert!(line.ends_with("--protocols --server-defaults --starttls smtp a.onion:25"), "{line}");
        assert!(line.contains("--ip 10.1.0.2 --jsonfile /run/t.json"), "{line}");
    }
}
