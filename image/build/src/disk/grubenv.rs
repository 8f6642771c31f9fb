//! GRUB's environment block: 1024 bytes of `name=value` lines on the boot partition.
//!
//! GRUB can only write over bytes that are there, so the file has a fixed length and is padded with `#`. Reading
//! follows GRUB 2.12 (`grub-core/lib/envblk.c`), which takes any length and stops quietly at a line that does not
//! end; what GRUB would make of a damaged file is what [`Block::parse`] makes of it.
//!
//! Never: a verdict on which slot to boot; that is [`super::slots`].

use std::fmt;

/// Length of a block as GRUB's own tools make it.
pub const LEN: usize = 1024;
/// The first line; without it GRUB reads nothing.
const HEADER: &[u8] = b"# GRUB Environment Block\n";

/// A root file system and the folder on the boot partition that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The one that ships.
    A,
    /// The one that the first update fills.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Slot; 2] = [Slot::A, Slot::B];

    /// The one that this is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// `a` or `b`: the folder's name and the variable's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Slot::ALL.into_iter().find(|slot| slot.as_str() == text)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a trial has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialState {
    /// To be booted next time.
    Pending,
    /// Booted once. The system confirms by making the slot the confirmed one; found again, the trial has failed.
    Used,
}

/// A slot to be tried once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Which.
    pub slot: Slot,
    /// How far it has come.
    pub state: TrialState,
}

/// The variables, as far as they make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrubEnv {
    /// The confirmed slot: variable `slot`.
    pub slot: Slot,
    /// The trial: variables `trial` and `trial_state`.
    pub trial: Option<Trial>,
}

impl GrubEnv {
    /// What an image ships: slot a, no trial.
    pub const SHIPPED: GrubEnv = GrubEnv { slot: Slot::A, trial: None };

    /// The block, exactly as GRUB's own tools would leave it. All three variables are always there, so that GRUB
    /// never needs more room than it had.
    pub fn render(&self) -> [u8; LEN] {
        let (trial, state) = match self.trial {
            None => ("", ""),
            Some(Trial { slot, state: TrialState::Pending }) => (slot.as_str(), "pending"),
            Some(Trial { slot, state: TrialState::Used }) => (slot.as_str(), "used"),
        };
        let mut block = [b'#'; LEN];
        let lines = format!("slot={}\ntrial={trial}\ntrial_state={state}\n", self.slot);
        let end = HEADER.len() + lines.len();
        block[..HEADER.len()].copy_from_slice(HEADER);
        block[HEADER.len()..end].copy_from_slice(lines.as_bytes());
        block
    }
}

/// What a file's bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// No header, or no confirmed slot: nothing in it can be relied on.
    Damaged,
    /// A confirmed slot, and a trial if `trial` and `trial_state` both make sense. `tidy` is false if they do not
    /// and are not empty either; whoever can write should clear them.
    Readable {
        /// The variables.
        env: GrubEnv,
        /// Whether every variable had a known value.
        tidy: bool,
    },
}

impl Block {
    /// Reads a block as GRUB does. A missing file is like an empty one.
    pub fn parse(bytes: &[u8]) -> Self {
        // GRUB counts the header's terminating zero: a file of the bare header is too short for it.
        if bytes.len() <= HEADER.len() || !bytes.starts_with(HEADER) {
            return Block::Damaged;
        }
        let (mut slot, mut trial, mut state) = (String::new(), String::new(), String::new());
        for (name, value) in Lines(&bytes[HEADER.len()..]) {
            match name {
                b"slot" => slot = value,
                b"trial" => trial = value,
                b"trial_state" => state = value,
                _ => {}
            }
        }
        let Some(slot) = Slot::parse(&slot) else {
            return Block::Damaged;
        };
        let known = match (Slot::parse(&trial), state.as_str()) {
            (Some(slot), "pending") => Some(Trial { slot, state: TrialState::Pending }),
            (Some(slot), "used") => Some(Trial { slot, state: TrialState::Used }),
            _ => None,
        };
        let tidy = known.is_some() || (trial.is_empty() && state.is_empty());
        Block::Readable { env: GrubEnv { slot, trial: known }, tidy }
    }
}

/// The assignments of a block, in GRUB's reading.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = (&'a [u8], String);

    fn next(&mut self) -> Option<Self::Item> {
        while self.0.first() == Some(&b'#') {
            let (_, rest) = split_at_newline(self.0)?;
            self.0 = rest;
        }
        let equals = self.0.iter().position(|byte| *byte == b'=')?;
        let (name, rest) = (&self.0[..equals], &self.0[equals + 1..]);
        // A value that does not end before the file does was cut off; GRUB drops it and stops.
        let (value, rest) = split_at_newline(rest)?;
        self.0 = rest;
        let mut text = Vec::with_capacity(value.len());
        let mut bytes = value.iter();
        while let Some(byte) = bytes.next() {
            text.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
        }
        // A zero byte ends a C string.
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        Some((name, String::from_utf8_lossy(&text[..end]).into_owned()))
    }
}

/// Splits at the first newline that no backslash precedes.
fn split_at_newline(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'\n' => return Some((&bytes[..at], &bytes[at + 1..])),
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(lines: &str) -> Vec<u8> {
        let mut bytes = [HEADER, lines.as_bytes()].concat();
        bytes.resize(LEN, b'#');
        bytes
    }

    fn readable(slot: Slot, trial: Option<(Slot, TrialState)>, tidy: bool) -> Block {
        Block::Readable {
            env: GrubEnv { slot, trial: trial.map(|(slot, state)| Trial { slot, state }) },
            tidy,
        }
    }

    #[test]
    fn the_shipped_block_to_the_byte() {
        let expected = block("slot=a\ntrial=\ntrial_state=\n");
        assert_eq!(GrubEnv::SHIPPED.render().as_slice(), expected);
    }

    #[test]
    fn every_state_survives_render_and_parse() {
        for slot in Slot::ALL {
            let states = [TrialState::Pending, TrialState::Used];
            let trials = Slot::ALL.into_iter().flat_map(|slot| states.map(|state| Trial { slot, state }));
            for trial in trials.map(Some).chain([None]) {
                let env = GrubEnv { slot, trial };
                assert_eq!(Block::parse(&env.render()), Block::Readable { env, tidy: true });
            }
        }
    }

    #[test]
    fn damage() {
        let good = GrubEnv::SHIPPED.render();
        let mut oversized = good.to_vec();
        oversized.extend([b'#'; 3000]);
        let mut crlf = b"# GRUB Environment Block\r\n".to_vec();
        crlf.extend_from_slice(&good[HEADER.len()..]);
        let cases: &[(&str, &[u8], Block)] = &[
            ("missing or empty", b"", Block::Damaged),
            ("zeros", &[0; LEN], Block::Damaged),
            ("ones", &[0xff; LEN], Block::Damaged),
            ("header only", HEADER, Block::Damaged),
            ("header and padding", &block(""), Block::Damaged),
            ("text of another system", &crlf, Block::Damaged),
            ("cut in the header", &good[..10], Block::Damaged),
            ("cut in the slot's value", &good[..HEADER.len() + 5], Block::Damaged),
            ("cut behind the slot", &good[..HEADER.len() + 7], readable(Slot::A, None, true)),
            ("oversized", &oversized, readable(Slot::A, None, true)),
            ("unknown slot", &block("slot=c\ntrial=\ntrial_state=\n"), Block::Damaged),
            ("empty slot", &block("slot=\ntrial=b\ntrial_state=pending\n"), Block::Damaged),
            ("no equals sign", &block("slot\n"), Block::Damaged),
            ("capital", &block("slot=A\n"), Block::Damaged),
        ];
        for (what, bytes, expected) in cases {
            assert_eq!(Block::parse(bytes), *expected, "{what}");
        }
    }

    #[test]
    fn a_trial_that_makes_no_sense_is_none() {
        let used = Some((Slot::B, TrialState::Used));
        let cases = [
            ("slot=a\ntrial=x\ntrial_state=pending\n", readable(Slot::A, None, false)),
            ("slot=a\ntrial=b\ntrial_state=maybe\n", readable(Slot::A, None, false)),
            ("slot=b\ntrial=\ntrial_state=used\n", readable(Slot::B, None, false)),
            ("slot=a\ntrial=b\ntrial_state=\n", readable(Slot::A, None, false)),
            ("slot=a\n", readable(Slot::A, None, true)),
            ("trial_state=used\nother=1\ntrial=b\nslot=a\n", readable(Slot::A, used, true)),
            ("slot=b\nslot=a\n", readable(Slot::A, None, true)),
            ("# note\nslot=\\b\n", readable(Slot::B, None, true)),
        ];
        for (lines, expected) in cases {
            assert_eq!(Block::parse(&block(lines)), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(tail in prop::collection::vec(any::<u8>(), 0..200), header: bool) {
            let bytes = if header { [HEADER, tail.as_slice()].concat() } else { tail };
            let _ = Block::parse(&bytes);
        }
    }
}
