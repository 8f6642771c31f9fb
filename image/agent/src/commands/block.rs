//! `cipolla block add|remove|list`: senders whose mail is refused.
//!
//! Circuits have no lasting identity, so what can be refused is a sender's address or a whole onion. The table
//! (access(5)) is its own source: lines and comments that the owner wrote by hand stay.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use identity::onion::{AddressError, OnionAddress};
use serde::Serialize;
use thiserror::Error;

use super::alias::parse;
use crate::fs::Fs;
use crate::machine::Machine;
use crate::mailboxes::Writer;
use crate::mailboxes::tables::Table;
use crate::onions::Onion;
use crate::paths;

/// The table's name.
const TABLE: &str = "blocked";
/// What Postfix does with a sender in it.
const ACTION: &str = "REJECT";

/// Who is refused: everybody at an onion, or one address there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The part before the `@`, in lower case; `None` for everybody.
    local: Option<String>,
    onion: OnionAddress,
}

/// Why a text names no sender.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SenderError {
    /// The part before the `@` holds what a table cannot.
    #[error(
        "only letters, digits and . _ + = ~ - can be before the @ here; block the whole onion address instead"
    )]
    Local,
    /// The onion address.
    #[error(transparent)]
    Onion(#[from] AddressError),
}

impl FromStr for Sender {
    type Err = SenderError;

    fn from_str(text: &str) -> Result<Self, SenderError> {
        let (local, onion) = match text.rsplit_once('@') {
            Some((local, onion)) => (Some(local.to_ascii_lowercase()), onion),
            None => (None, text),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+=~-".contains(c);
        let fits = |local: &String| {
            (1..=64).contains(&local.len()) && local.chars().all(plain) && !local.starts_with('-')
        };
        if !local.iter().all(fits) {
            return Err(SenderError::Local);
        }
        Ok(Self { local, onion: onion.parse()? })
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.local {
            Some(local) => write!(f, "{local}@{}", self.onion),
            None => self.onion.fmt(f),
        }
    }
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Address or onion.
    pub sender: String,
    /// What Postfix does; `REJECT`, unless the owner wrote something else by hand.
    pub action: String,
}

/// The key of a line that is neither empty nor a comment nor the continuation of another (postmap(1)).
fn key(line: &str) -> Option<&str> {
    let entry = !line.starts_with(['#', ' ', '\t']);
    line.split_whitespace().next().filter(|_| entry)
}

fn with(text: &str, senders: &[Sender]) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for sender in senders.iter().map(ToString::to_string) {
        if !text.lines().filter_map(key).any(|known| known.eq_ignore_ascii_case(&sender)) {
            text += &format!("{sender} {ACTION}\n");
        }
    }
    text
}

fn without(text: &str, senders: &[Sender]) -> String {
    let named = |line: &str| {
        key(line)
            .is_some_and(|key| senders.iter().any(|sender| key.eq_ignore_ascii_case(&sender.to_string())))
    };
    let mut gone = false;
    let stays = |line: &&str| {
        // Continuations go with the line that they continue.
        gone = named(line) || gone && line.starts_with([' ', '\t']);
        !gone
    };
    text.split_inclusive('\n').filter(stays).collect()
}

fn load(fs: &dyn Fs) -> Result<String> {
    let path = Utf8Path::new(paths::MAIL).join(TABLE);
    String::from_utf8(fs.read(&path)?.unwrap_or_default()).with_context(|| format!("{path} is not UTF-8"))
}

fn edit(
    machine: &Machine<'_>,
    senders: &[String],
    change: impl FnOnce(&str, &[Sender]) -> String,
) -> Result<bool> {
    let senders = parse(senders, Sender::from_str)?;
    let ours = Onion::Mx.address(machine.fs)?;
    if senders.iter().any(|sender| sender.onion == ours) {
        bail!(
            "{ours} is this appliance: strangers cannot write as it anyway, and your own users are not to be blocked"
        );
    }
    let writer = Writer::lock(machine)?;
    let before = load(machine.fs)?;
    let text = change(&before, &senders);
    if text != before {
        writer.put_table(&Table { name: TABLE, text: text.clone() })?;
    }
    Ok(text != before)
}

/// Refuses mail of these senders from now on. Returns whether that is new.
///
/// # Errors
/// When one of them is none, or from the file system.
pub fn add(machine: &Machine<'_>, senders: &[String]) -> Result<bool> {
    edit(machine, senders, with)
}

/// Takes mail of these senders again. Returns whether one of them was refused.
///
/// # Errors
/// When one of them is none, or from the file system.
pub fn remove(machine: &Machine<'_>, senders: &[String]) -> Result<bool> {
    edit(machine, senders, without)
}

/// All senders whose mail is refused.
///
/// # Errors
/// When the table cannot be read.
pub fn list(machine: &Machine<'_>) -> Result<Vec<Entry>> {
    let entry = |line: &str| {
        let sender = key(line)?.to_owned();
        let action = line[sender.len()..].trim().to_owned();
        Some(Entry { sender, action })
    };
    Ok(load(machine.fs)?.lines().filter_map(entry).collect())
}

/// The list as the owner reads it.
#[must_use]
pub fn text(list: &[Entry]) -> String {
    if list.is_empty() {
        return "nobody is blocked\n".to_owned();
    }
    let line = |Entry { sender, action }: &Entry| match action.as_str() {
        ACTION => format!("{sender}\n"),
        other => format!("{sender}  {other}\n"),
    };
    list.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::onion::OnionKey;

    #[test]
    fn senders_are_addresses_or_onions() {
        let onion = OnionKey::from_seed(&[3; 32]).address().to_string();
        let sender = |text: &str| text.parse::<Sender>().map(|sender| sender.to_string());
        assert_eq!(sender(&onion.to_uppercase()).unwrap(), onion);
        assert_eq!(sender(&format!("Spam+x@{onion}")).unwrap(), format!("spam+x@{onion}"));
        for wrong in ["", "#x", "a b", "a\nb", "\"a\"", "-a", "é"] {
            assert_eq!(sender(&format!("{wrong}@{onion}")), Err(SenderError::Local), "{wrong}");
        }
        assert_eq!(sender("spam@example.com"), Err(SenderError::Onion(AddressError::Suffix)));
    }

    #[test]
    fn what_was_written_by_hand_stays() {
        let [one, two] = [3, 4].map(|seed| OnionKey::from_seed(&[seed; 32]).address().to_string());
        let senders = [one.parse().unwrap(), format!("x@{two}").parse().unwrap()];
        let by_hand = format!("# mine\n\n{} 550 go\n  away\nfriend@{two} OK", one.to_uppercase());
        let more = with(&by_hand, &senders);
        assert_eq!(more, format!("{by_hand}\nx@{two} REJECT\n"));
        assert_eq!(with(&more, &senders), more, "twice is once");
        assert_eq!(without(&more, &senders), format!("# mine\n\nfriend@{two} OK\n"));
    }
}
