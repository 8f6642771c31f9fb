//! `cipolla digest`: the last day, for the owner, and word of an attack while it lasts.
//!
//! Reads the journal, systemd, the firewall, Tor and the appliance's own files; changes nothing but a note of when
//! it last warned. By mail it goes to `postmaster`, which is the owner, through the local queue, so it waits if the
//! mailbox is full or Dovecot away. It holds numbers and no address but the server's: a digest lies in a mailbox for
//! years and is copied to every device.

mod journal;
mod tally;
mod text;

use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use data_encoding::BASE64;
use identity::tls::{self, Renewal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use tally::{Reasons, Tally};

use super::status::{self, utc};
use super::{clock, watch};
use crate::fs::{Access, Replace, atomic};
use crate::machine::Machine;
use crate::onions::Onion;
use crate::pem::Pair;
use journal::Entry;

/// What the check of integrity last found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// It did not run since the start.
    NotYet,
    /// Everything is as recorded.
    Unchanged,
    /// Something differs.
    Changed,
    /// It could not compare.
    Failed,
}

/// One certificate and the days it has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// The service.
    pub service: &'static str,
    /// Whole days; `None` if it is due, expired or not yet valid.
    pub days_left: Option<u64>,
}

/// The summary of a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Digest {
    /// How many hours it is about.
    pub hours: u32,
    /// What the journal tells.
    pub tally: Tally,
    /// How the appliance is now.
    pub status: status::Report,
    /// What the check of integrity found.
    pub integrity: Option<Integrity>,
    /// The server certificates.
    pub certificates: Vec<Certificate>,
    /// Packets that the firewall dropped since its rules were loaded.
    pub dropped: Option<u64>,
    /// Whether the clock agrees with the Tor network's, if that is known.
    pub clock_agrees: Option<bool>,
    /// When all onion services were last seen to be reachable, in seconds since 1970.
    pub reachable_at: Option<u64>,
    /// What the watch over Tor did in the period.
    pub repairs: Vec<watch::plan::Taken>,
}

/// Counts the last `hours` of the journal.
///
/// # Errors
/// When journalctl(1) fails.
pub fn count(machine: &Machine<'_>, hours: u32) -> Result<Tally> {
    let mut tally = Tally::default();
    if !machine.programs.has("journalctl") {
        return Ok(tally);
    }
    let argv = journal::command(hours);
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    let ran = machine.programs.each_line(&argv, &mut |line| {
        if let Some(entry) = Entry::parse(line) {
            tally.count(&entry);
        }
    })?;
    if !ran.success {
        bail!("reading the journal: journalctl failed and says why above");
    }
    Ok(tally)
}

/// Finds out everything about the last `hours`.
///
/// # Errors
/// When the journal or the appliance's own files cannot be read.
pub fn read(machine: &Machine<'_>, hours: u32) -> Result<Digest> {
    let now = machine.now.duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    let memory = watch::remembered(machine.fs)?;
    let begin = now.saturating_sub(u64::from(hours) * 3600);
    Ok(Digest {
        hours,
        tally: count(machine, hours)?,
        status: status::read(machine)?,
        integrity: integrity(machine)?,
        certificates: certificates(machine)?,
        dropped: dropped(machine)?,
        clock_agrees: clock::look(machine)?.agrees(),
        reachable_at: memory.proved,
        repairs: memory.taken.into_iter().filter(|taken| taken.at >= begin).collect(),
    })
}

fn integrity(machine: &Machine<'_>) -> Result<Option<Integrity>> {
    if !machine.programs.has("systemctl") {
        return Ok(None);
    }
    let properties = "--property=LoadState,ExecMainStatus,ExecMainExitTimestampMonotonic";
    let ran = machine.programs.run(&["systemctl", "show", properties, "cipolla-integrity.service"])?;
    Ok(last_integrity(&ran.stdout))
}

/// From systemd's properties of the unit; AIDE's exit status says in its three lowest bits what differs.
fn last_integrity(properties: &str) -> Option<Integrity> {
    let value = |key: &str| properties.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if value("LoadState")? != "loaded" {
        return None;
    }
    if value("ExecMainExitTimestampMonotonic")? == "0" {
        return Some(Integrity::NotYet);
    }
    Some(match value("ExecMainStatus")?.parse::<u32>().ok()? {
        0 => Integrity::Unchanged,
        1..=7 => Integrity::Changed,
        _ => Integrity::Failed,
    })
}

fn certificates(machine: &Machine<'_>) -> Result<Vec<Certificate>> {
    let mut certificates = Vec::new();
    for pair in [Pair::Mx, Pair::Client] {
        let Some(bytes) = machine.fs.read(&pair.certificate())? else { continue };
        let der = first_certificate(&String::from_utf8_lossy(&bytes))
            .with_context(|| format!("{} holds no certificate", pair.certificate()))?;
        let renewal = tls::renewal(machine.now, &der)
            .with_context(|| format!("reading the certificate {}", pair.certificate()))?;
        let days_left = match renewal {
            Renewal::Fine { days_left } => Some(days_left),
            Renewal::Due | Renewal::Expired | Renewal::NotYetValid => None,
        };
        certificates.push(Certificate { service: pair.name(), days_left });
    }
    Ok(certificates)
}

/// The first certificate of a PEM file, in DER (RFC 7468).
pub(super) fn first_certificate(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let body: String = body.split_whitespace().collect();
    BASE64.decode(body.as_bytes()).ok()
}

fn dropped(machine: &Machine<'_>) -> Result<Option<u64>> {
    if !machine.programs.has("nft") {
        return Ok(None);
    }
    let ran = machine.programs.run(&["nft", "-j", "list", "table", "inet", "cipolla"])?;
    Ok(ran.success.then(|| dropped_packets(&ran.stdout)).flatten())
}

/// The sum of the counters of all rules that drop (libnftables-json(5)).
fn dropped_packets(ruleset: &str) -> Option<u64> {
    let ruleset: Value = serde_json::from_str(ruleset).ok()?;
    let rules = ruleset["nftables"].as_array()?.iter().filter_map(|object| object["rule"]["expr"].as_array());
    let drops = rules.filter(|rule| rule.iter().any(|statement| statement.get("drop").is_some()));
    Some(drops.flatten().filter_map(|statement| statement["counter"]["packets"].as_u64()).sum())
}

/// So many bans in an hour are an attack.
const ALERT_BANS: usize = 10;
/// So many wrong passwords in an hour are one. An owner with three forgotten devices stays below.
const ALERT_WRONG: usize = 60;
/// After a warning there is silence for so long, in seconds.
const ALERT_SILENCE: u64 = 6 * 3600;
/// When the last warning was.
const ALERTED: &str = "/run/cipolla/alerted.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Alerted {
    at: u64,
}

/// Whether the last hour calls for a warning.
#[must_use]
fn alert_due(tally: &Tally, alerted: Option<u64>, now: u64) -> bool {
    let attack = tally.bans >= ALERT_BANS || tally.wrong_total() >= ALERT_WRONG;
    // A warning from the future was given by a clock that was wrong.
    let silent = alerted.is_some_and(|at| (at..at + ALERT_SILENCE).contains(&now));
    attack && !silent
}

/// Warns the owner by mail if somebody is guessing passwords right now and no warning went out lately. Returns the
/// warning.
///
/// # Errors
/// When the journal cannot be read or the mail not handed over.
pub fn alert(machine: &Machine<'_>) -> Result<Option<String>> {
    let now = machine.now.duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    let tally = count(machine, 1)?;
    let alerted = machine.fs.read(Utf8Path::new(ALERTED))?;
    let alerted = alerted.and_then(|bytes| serde_json::from_slice::<Alerted>(&bytes).ok());
    if !alert_due(&tally, alerted.map(|alerted| alerted.at), now) {
        return Ok(None);
    }
    let warning = text::warning(&tally);
    mail(machine, "Somebody is guessing passwords", &warning)?;
    let content = serde_json::to_vec(&Alerted { at: now }).context("noting the warning")?;
    atomic::put(machine.fs, Utf8Path::new(ALERTED), &content, Access::root(0o600), Replace::Allowed)?;
    Ok(Some(warning))
}

/// Mails the digest to the owner.
///
/// # Errors
/// When Postfix does not take it.
pub fn send(machine: &Machine<'_>, digest: &Digest) -> Result<()> {
    mail(machine, &digest.subject(), &digest.text())
}

/// Hands a message for the owner to Postfix. Its sender is empty, so that a message that cannot be delivered is not
/// answered by another.
fn mail(machine: &Machine<'_>, subject: &str, body: &str) -> Result<()> {
    let domain = Onion::Mx.address(machine.fs)?;
    let owner = format!("postmaster@{domain}");
    let message = format!(
        "From: Your mail server <{owner}>\nTo: <{owner}>\nSubject: {subject}\nAuto-Submitted: auto-generated\n\
         MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{body}"
    );
    let ran = machine.programs.feed(&["sendmail", "-i", "-f", "", "--", &owner], &message)?;
    if !ran.success {
        bail!("handing a message for the owner to Postfix: {}", ran.stderr.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_check_of_integrity_is_known() {
        let properties = |status: u8, at: u8| {
            format!("ExecMainStatus={status}\nExecMainExitTimestampMonotonic={at}\nLoadState=loaded\n")
        };
        assert_eq!(last_integrity(&properties(0, 0)), Some(Integrity::NotYet));
        assert_eq!(last_integrity(&properties(0, 9)), Some(Integrity::Unchanged));
        assert_eq!(last_integrity(&properties(5, 9)), Some(Integrity::Changed));
        assert_eq!(last_integrity(&properties(18, 9)), Some(Integrity::Failed));
        assert_eq!(last_integrity("LoadState=not-found\n"), None);
    }

    #[test]
    fn dropped_packets_are_summed_up() {
        let ruleset = r#"{"nftables": [{"metainfo": {"version": "1.1.3"}},
            {"rule": {"chain": "input", "expr": [{"counter": {"packets": 3, "bytes": 9}}, {"drop": null}]}},
            {"rule": {"chain": "input", "expr": [{"counter": {"packets": 7, "bytes": 9}}, {"accept": null}]}},
            {"rule": {"chain": "output", "expr": [{"counter": {"packets": 4, "bytes": 9}}, {"drop": null}]}}]}"#;
        assert_eq!(dropped_packets(ruleset), Some(7));
        assert_eq!(dropped_packets("Error"), None);
    }

    #[test]
    fn a_warning_is_given_once_in_six_hours() {
        let attack = Tally { bans: ALERT_BANS, ..Tally::default() };
        let guesses = Tally { wrong: Reasons::from([("SSH", ALERT_WRONG)]), ..Tally::default() };
        let typing = Tally { bans: 1, wrong: Reasons::from([("SSH", 9)]), ..Tally::default() };
        assert!(alert_due(&attack, None, 1000) && alert_due(&guesses, None, 1000));
        assert!(!alert_due(&typing, None, 1000));
        assert!(!alert_due(&attack, Some(1000), 1000 + ALERT_SILENCE - 1));
        assert!(alert_due(&attack, Some(1000), 1000 + ALERT_SILENCE));
        assert!(alert_due(&attack, Some(9000), 1000), "the clock was set back");
    }

    #[test]
    fn a_certificate_is_found_in_its_file() {
        let pem = "-----BEGIN CERTIFICATE-----\nAQID\nBA==\n-----END CERTIFICATE-----\nmore";
        assert_eq!(first_certificate(pem).unwrap(), [1, 2, 3, 4]);
        assert_eq!(first_certificate("nothing"), None);
    }
}
