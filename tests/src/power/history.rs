//! What the record of a disk's writes tells: what the appliance promised, and when.
//!
//! The record holds marks, which `guest.py` writes to an unused partition. A mark stands behind everything that was
//! written before the appliance gave its word, whatever the emulated clocks and the caller's own threads do.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow, ensure};
use qemu::{Logged, Request, WriteLog};

use crate::left::checksums;

/// What a mark begins with; its length in bytes and the end of the line follow.
const MARK: &[u8] = b"cipolla-mark ";

/// Marks are written in whole blocks, in bytes.
const BLOCK: u64 = 4096;

/// Path on the data partition to checksum.
pub(super) type Sums = BTreeMap<String, String>;

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Says {
    /// A command has ended, or the first start has: these are the files now.
    State(Sums),
    /// From here on mail comes.
    Mail,
    /// This message was accepted.
    Accepted(String),
    /// From here on the owner changes settings.
    Changes,
}

impl Says {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (word, rest) = text.split_once(['\n', ' ']).unwrap_or((text, ""));
        match word {
            "state" => Ok(Self::State(checksums(rest))),
            "mail" => Ok(Self::Mail),
            "accepted" => Ok(Self::Accepted(rest.to_owned())),
            "changes" => Ok(Self::Changes),
            _ => Err(anyhow!("a mark of an unknown kind: {text:?}")),
        }
    }
}

/// A time in the record is a number of requests: how many of them were done.
pub(super) type Time = usize;

/// What the appliance did and promised, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Files as they were at these times, and until the next change began. The first is the end of the first start.
    pub(super) states: Vec<(Time, Sums)>,
    /// Messages that were accepted.
    pub(super) accepted: Vec<(Time, String)>,
    /// When mail began to come.
    pub(super) mail: Time,
    /// When the owner began to change settings.
    pub(super) changes: Time,
}

impl History {
    /// Reads the marks of a record.
    pub(super) fn read(log: &WriteLog) -> anyhow::Result<Self> {
        let mut marks = Vec::new();
        for (number, one) in log.requests().iter().enumerate() {
            let may_be = one.request == Request::Write && one.length % BLOCK == 0;
            if may_be && log.content(one, MARK.len() as u64)? == MARK {
                // The word was given before this write.
                marks.push((number, mark(log, one)?));
            }
        }
        Self::of(marks)
    }

    fn of(marks: Vec<(Time, Says)>) -> anyhow::Result<Self> {
        let mut history = Self::default();
        for (at, says) in marks {
            match says {
                Says::State(sums) => history.states.push((at, sums)),
                Says::Mail => history.mail = at,
                Says::Accepted(token) => history.accepted.push((at, token)),
                Says::Changes => history.changes = at,
            }
        }
        let in_order = 0 < history.mail && history.mail < history.changes && history.changes < history.end();
        ensure!(in_order, "the record does not hold first start, mail and changes, in this order");
        ensure!(!history.accepted.is_empty(), "no message was accepted");
        Ok(history)
    }

    /// Whether the request is a mark.
    pub(super) fn is_mark(&self, at: Time) -> bool {
        at == self.mail
            || at == self.changes
            || self.states.iter().any(|(time, _)| *time == at)
            || self.accepted.iter().any(|(time, _)| *time == at)
    }

    /// The end of the first start.
    pub(super) fn booted(&self) -> Time {
        self.states.first().map_or(0, |(at, _)| *at)
    }

    /// When the last command had ended.
    pub(super) fn end(&self) -> Time {
        self.states.last().map_or(0, |(at, _)| *at)
    }

    /// What the files may be at that time: as after the last command that had ended, or as after the one that was
    /// about to. `None` stands for a machine whose first start was not over.
    pub(super) fn possible(&self, at: Time) -> [Option<&Sums>; 2] {
        let done = self.states.iter().take_while(|(end, _)| *end <= at).count();
        let state = |number: usize| self.states.get(number).map(|(_, sums)| sums);
        let last = done.checked_sub(1).and_then(state);
        [last, state(done).or(last)]
    }

    /// The messages that were accepted before that time.
    pub(super) fn accepted(&self, at: Time) -> impl Iterator<Item = &str> {
        self.accepted.iter().filter(move |(time, _)| *time <= at).map(|(_, token)| token.as_str())
    }
}

fn mark(log: &WriteLog, one: &Logged) -> anyhow::Result<Says> {
    let content = log.content(one, u64::MAX)?;
    let text = text(&content).with_context(|| format!("reading a mark at byte {}", one.offset))?;
    Says::parse(text)
}

/// The text of a mark.
fn text(content: &[u8]) -> anyhow::Result<&str> {
    let rest = content.strip_prefix(MARK).context("it has no head")?;
    let end = rest.iter().position(|byte| *byte == b'\n').context("its head does not end")?;
    let length: usize = std::str::from_utf8(&rest[..end])?.parse()?;
    let text = rest.get(end + 1..end + 1 + length).context("it was cut short")?;
    Ok(std::str::from_utf8(text)?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Four states, at 10 and 14 and 40 and 50: `old` changes in the last one. Mail from 15 on, changes from 30 on.
    pub(in crate::power) fn history() -> History {
        let state = |old: &str| Says::State(checksums(&format!("aa  key\n{old}  old\n")));
        let accepted = |token: &str| Says::Accepted(token.to_owned());
        let marks = vec![
            (10, state("01")),
            (14, state("01")),
            (15, Says::Mail),
            (20, accepted("power-webmail-0")),
            (25, accepted("power-stranger-0")),
            (30, Says::Changes),
            (40, state("01")),
            (50, state("02")),
        ];
        History::of(marks).unwrap()
    }

    #[test]
    fn marks_are_read() {
        let mut content = b"cipolla-mark 8\naccepted and zeros".to_vec();
        assert_eq!(text(&content).unwrap(), "accepted");
        content.truncate(20);
        assert_eq!(text(&content).unwrap_err().to_string(), "it was cut short");
        assert_eq!(Says::parse("accepted x-1").unwrap(), Says::Accepted("x-1".to_owned()));
        assert_eq!(Says::parse("mail").unwrap(), Says::Mail);
        let Says::State(sums) = Says::parse("state\n0a  x/y\n").unwrap() else { panic!() };
        assert_eq!(sums["x/y"], "0a");
        assert!(Says::parse("else").is_err());
    }

    #[test]
    fn what_is_possible_when() {
        let history = history();
        let old = |at| history.possible(at).map(|state| state.map(|sums| sums["old"].as_str()));
        assert_eq!(old(9), [None, Some("01")]);
        assert_eq!(old(39), [Some("01"), Some("01")]);
        assert_eq!(old(40), [Some("01"), Some("02")]);
        assert_eq!(old(50), [Some("02"), Some("02")]);
        assert_eq!(history.accepted(19).count(), 0);
        assert_eq!(history.accepted(20).collect::<Vec<_>>(), ["power-webmail-0"]);
        assert!(History::of(vec![(1, Says::Mail), (2, Says::Changes)]).is_err());
    }
}
