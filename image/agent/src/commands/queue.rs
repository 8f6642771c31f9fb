//! `cipolla queue list|show|retry|hold|release|delete`: mail that waits.
//!
//! Postfix's own programs do the work: postqueue(1), postcat(1), postsuper(1).

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::alias::parse;
use super::failures;
use crate::machine::Machine;

/// The name of a message in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueId(String);

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this is not the name of a message in the queue; see: cipolla queue list")]
pub struct QueueIdError;

impl FromStr for QueueId {
    type Err = QueueIdError;

    /// Letters and digits only (postconf(5), `enable_long_queue_ids`): no option, and not postsuper's word `ALL`.
    fn from_str(text: &str) -> Result<Self, QueueIdError> {
        let fits = (6..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits { Ok(Self(text.to_owned())) } else { Err(QueueIdError) }
    }
}

/// A message that waits, as `postqueue -j` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its name.
    #[serde(rename(deserialize = "queue_id"))]
    pub id: String,
    /// Where it is: `active`, `deferred`, `hold`, `incoming`.
    #[serde(rename(deserialize = "queue_name"))]
    pub queue: String,
    /// When it came, in seconds since 1970.
    #[serde(rename(deserialize = "arrival_time"))]
    pub arrived: u64,
    /// Its size in bytes.
    #[serde(rename(deserialize = "message_size"))]
    pub size: u64,
    /// The sender of the envelope; empty for a notice.
    pub sender: String,
    /// Who is still to get it.
    pub recipients: Vec<Recipient>,
}

/// One recipient of a message that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The address.
    pub address: String,
    /// Why it has not got it yet.
    #[serde(default, rename(deserialize = "delay_reason"))]
    pub reason: Option<String>,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sender = if self.sender.is_empty() { "the mail server" } else { &self.sender };
        let size = self.size.div_ceil(1024);
        writeln!(f, "{}  {}  {size} KiB  from {}", self.id, self.queue, printable(sender))?;
        for Recipient { address, reason } in &self.recipients {
            writeln!(f, "  to {}", printable(address))?;
            if let Some(reason) = reason {
                // In plain words first, then in Postfix's own.
                if let Some(meaning) = failures::meaning(reason) {
                    writeln!(f, "     {meaning}")?;
                }
                writeln!(f, "     {}", printable(reason))?;
            }
        }
        Ok(())
    }
}

/// A stranger's text without what would steer the owner's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '?' } else { c }).collect()
}

/// Runs one of Postfix's programs.
fn run(machine: &Machine<'_>, argv: &[&str]) -> Result<String> {
    let program = argv.first().copied().unwrap_or_default();
    if !machine.programs.has(program) {
        bail!("this appliance has no mail server");
    }
    let ran = machine.programs.run(argv)?;
    if !ran.success {
        bail!("{program} says: {}", ran.stderr.trim());
    }
    Ok(ran.stdout)
}

fn messages(listing: &str) -> Result<Vec<Message>> {
    let message = |line: &str| serde_json::from_str(line).context("reading what postqueue says");
    listing.lines().filter(|line| !line.trim().is_empty()).map(message).collect()
}

/// All messages that wait.
///
/// # Errors
/// When the queue cannot be read.
pub fn list(machine: &Machine<'_>) -> Result<Vec<Message>> {
    messages(&run(machine, &["postqueue", "-j"])?)
}

/// The list as the owner reads it.
#[must_use]
pub fn text(messages: &[Message], now: SystemTime) -> String {
    if messages.is_empty() {
        return "no mail waits\n".to_owned();
    }
    let mut text = String::new();
    for message in messages {
        let arrived = SystemTime::UNIX_EPOCH + Duration::from_secs(message.arrived);
        let minutes = now.duration_since(arrived).unwrap_or_default().as_secs() / 60;
        let _ = write!(text, "{message}  waits for {} h {} min\n\n", minutes / 60, minutes % 60);
    }
    text
}

/// The headers of a message.
///
/// # Errors
/// When there is no such message.
pub fn show(machine: &Machine<'_>, id: &str) -> Result<String> {
    let [id] = &ids(machine, &[id.to_owned()])?[..] else { bail!("one message is shown at a time") };
    Ok(printable(&run(machine, &["postcat", "-qh", id])?))
}

/// Tries again to deliver these messages, or all. What is to be done before, `first`, is only done if the messages are
/// there.
///
/// # Errors
/// When there is no such message.
pub fn retry(machine: &Machine<'_>, wanted: &[String], first: impl FnOnce()) -> Result<()> {
    let ids = ids(machine, wanted)?;
    first();
    if wanted.is_empty() {
        run(machine, &["postqueue", "-f"])?;
    }
    ids.iter().try_for_each(|id| run(machine, &["postqueue", "-i", id]).map(drop))
}

/// Keeps messages until they are released.
///
/// # Errors
/// When there is no such message.
pub fn hold(machine: &Machine<'_>, wanted: &[String]) -> Result<()> {
    ids(machine, wanted)?.iter().try_for_each(|id| run(machine, &["postsuper", "-h", id]).map(drop))
}

/// Lets messages that were held go on.
///
/// # Errors
/// When there is no such message.
pub fn release(machine: &Machine<'_>, wanted: &[String]) -> Result<()> {
    ids(machine, wanted)?.iter().try_for_each(|id| run(machine, &["postsuper", "-H", id]).map(drop))
}

/// Deletes messages. Nobody is told.
///
/// # Errors
/// When there is no such message.
pub fn delete(machine: &Machine<'_>, wanted: &[String]) -> Result<()> {
    ids(machine, wanted)?.iter().try_for_each(|id| run(machine, &["postsuper", "-d", id]).map(drop))
}

/// The names, each of a message that is in the queue: postsuper says nothing about others.
fn ids(machine: &Machine<'_>, wanted: &[String]) -> Result<Vec<String>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let there = list(machine)?;
    parse(wanted, |id| {
        let QueueId(id) = id.parse()?;
        if there.iter().any(|message| message.id == id) { Ok(id) } else { Err(QueueIdError) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_an_option_or_all() {
        assert!("4gC7Xk1b0zz9xQ".parse::<QueueId>().is_ok());
        for wrong in ["", "ALL", "-d", "4gC7X-", "4gC7 Xk", "../etc", "a\nb1234"] {
            assert_eq!(wrong.parse::<QueueId>(), Err(QueueIdError), "{wrong:?}");
        }
    }

    #[test]
    fn what_postqueue_says_is_understood() {
        let listing = concat!(
            r#"{"queue_name": "deferred", "queue_id": "4gC7Xk1b0zz9xQ", "arrival_time": 3600, "message_size": 1500, "#,
            r#""forced_expire": false, "sender": "", "recipients": [{"address": "a@b.onion", "delay_reason": "#,
            r#""lost connection with \u001b[2J"}, {"address": "c@d.onion"}]}"#,
            "\n"
        );
        let messages = messages(listing).unwrap();
        assert_eq!(messages[0].recipients.len(), 2);
        let text = text(&messages, SystemTime::UNIX_EPOCH + Duration::from_secs(3600 * 5 + 60));
        assert_eq!(
            text,
            "4gC7Xk1b0zz9xQ  deferred  2 KiB  from the mail server\n  to a@b.onion\n     \
             the other server does not answer; it may be asleep\n     lost connection with ?[2J\n  to c@d.onion\n  \
             waits for 4 h 1 min\n\n"
        );
    }
}
