//! Searching for an onion key whose address begins with chosen characters.
//!
//! Making a whole key per try would be slow. Instead the search starts at one random key and walks: adding
//! eight to the secret scalar moves the public key by eight times the base point, which is a single point
//! addition, and the costly inversion that turns a point into bytes is shared by a whole batch. Eight, because
//! the lowest three bits of a scalar must stay zero. The result is an expanded key without a seed; Tor stores
//! expanded keys and takes it like any other.
//!
//! Only one key of a walk ever leaves this module, with a nonce prefix drawn for it alone: two published keys
//! whose scalars differ by a known amount would endanger each other.

use crate::ed25519;
use crate::onion::OnionKey;
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::EdwardsPoint;
use rand_core::CryptoRng;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// Points that share one inversion. Larger batches gain little more and need more stack.
const BATCH: usize = 128;
/// Tries between two calls of the progress function: around a tenth of a second on the slowest machine.
const REPORT_EVERY: u64 = 16_384;

/// Base32 in lower case: the place of a character is its value (RFC 4648 §6).
const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz234567";

/// The characters that an address shall begin with: one to five of `a` to `z` and `2` to `7`.
///
/// Each one multiplies the work by 32. Five are the limit because six would take a small machine hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VanityPrefix {
    /// Five bits per character, the first character highest.
    bits: u32,
    len: usize,
}

/// Why a text cannot be the beginning of an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Empty, or more than five characters.
    #[error("a vanity prefix has 1 to {} characters, this one has {got}", VanityPrefix::MAX_LEN)]
    Length {
        /// Characters found.
        got: usize,
    },
    /// A character that base32 does not use.
    #[error("{character:?} cannot be in an onion address: only a to z and 2 to 7 can")]
    Alphabet {
        /// The character found.
        character: char,
    },
}

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Keys looked at so far.
    pub tries: u64,
    /// Keys that have to be looked at on average; see [`VanityPrefix::expected_tries`].
    pub expected: u64,
}

/// How a search ended.
#[derive(Debug)]
pub enum Outcome {
    /// A key was found.
    Found {
        /// The key. Its address begins with the prefix.
        key: OnionKey,
        /// Keys looked at.
        tries: u64,
    },
    /// The budget was used up, or the progress function broke off.
    Stopped {
        /// Keys looked at.
        tries: u64,
    },
}

impl VanityPrefix {
    /// The longest prefix that is accepted.
    pub const MAX_LEN: usize = 5;

    /// The number of keys after which a match is found on average: 32 to the power of the length. One search in
    /// twenty needs three times as many.
    #[must_use]
    pub fn expected_tries(&self) -> u64 {
        1 << (5 * self.len)
    }

    fn matches(&self, public: &[u8; 32]) -> bool {
        let first = u32::from_be_bytes([public[0], public[1], public[2], public[3]]);
        first >> (32 - 5 * self.len) == self.bits
    }
}

impl FromStr for VanityPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let len = text.chars().count();
        if !(1..=Self::MAX_LEN).contains(&len) {
            return Err(PrefixError::Length { got: len });
        }
        let bits = text.chars().try_fold(0, |bits, character| {
            let value =
                ALPHABET.find(character.to_ascii_lowercase()).ok_or(PrefixError::Alphabet { character })?;
            u32::try_from(value)
                .map(|value| bits << 5 | value)
                .map_err(|_| PrefixError::Alphabet { character })
        })?;
        Ok(Self { bits, len })
    }
}

impl fmt::Display for VanityPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.len).rev().try_for_each(|place| {
            let value = (self.bits >> (5 * place)) & 31;
            f.write_str(&ALPHABET[value as usize..=value as usize])
        })
    }
}

/// Looks for a key whose address begins with `prefix`, among at most `budget` keys (rounded up to whole
/// batches).
///
/// `progress` is called at the start and then every few thousand tries; it stops the search by returning
/// [`ControlFlow::Break`], which is how a caller bounds the time. Searches with different generators can run on
/// several threads side by side.
pub fn search<R: CryptoRng + ?Sized>(
    prefix: VanityPrefix,
    rng: &mut R,
    budget: u64,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Outcome {
    let expected = prefix.expected_tries();
    let mut walk = Walk::start(rng);
    let mut tries = 0;
    let mut next_report = 0;
    while tries < budget {
        if tries >= next_report {
            next_report += REPORT_EVERY;
            if progress(Progress { tries, expected }).is_break() {
                break;
            }
        }
        let found = walk.batch(prefix);
        tries += BATCH as u64;
        let Some(steps) = found else { continue };
        if let Some(key) = walk.key_after(steps, rng) {
            return Outcome::Found { key, tries };
        }
        // The walk left the range of valid scalars, which happens to about one in 2^230: begin another.
        walk = Walk::start(rng);
    }
    Outcome::Stopped { tries }
}

/// A walk along keys, eight apart.
struct Walk {
    scalar: Box<Zeroizing<[u8; 32]>>,
    point: EdwardsPoint,
    stride: EdwardsPoint,
    steps: u64,
}

impl Walk {
    fn start<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut scalar = Box::new(Zeroizing::new([0; 32]));
        rng.fill_bytes(&mut **scalar);
        ed25519::clamp(&mut **scalar);
        let point = ed25519::public_point(&scalar);
        Self { scalar, point, stride: ED25519_BASEPOINT_POINT.mul_by_cofactor(), steps: 0 }
    }

    /// Takes one batch of steps. Gives the number of steps from the start to the first match in it.
    fn batch(&mut self, prefix: VanityPrefix) -> Option<u64> {
        let points: [EdwardsPoint; BATCH] = std::array::from_fn(|_| {
            let here = self.point;
            self.point += self.stride;
            here
        });
        let first = self.steps;
        self.steps += BATCH as u64;
        let hit = EdwardsPoint::compress_batch(&points)
            .iter()
            .position(|public| prefix.matches(public.as_bytes()))?;
        Some(first + hit as u64)
    }

    /// The key that lies `steps` from the start, unless the addition ran into the fixed bits of the scalar.
    fn key_after<R: CryptoRng + ?Sized>(&self, steps: u64, rng: &mut R) -> Option<OnionKey> {
        let mut expanded = ed25519::blank();
        expanded[..32].copy_from_slice(&**self.scalar);
        add(&mut expanded[..32], u128::from(steps) * 8);
        rng.fill_bytes(&mut expanded[32..]);
        ed25519::is_clamped(&expanded[..32]).then(|| OnionKey::from_expanded(expanded))
    }
}

/// Adds to a little-endian number, dropping what does not fit.
fn add(number: &mut [u8], amount: u128) {
    let mut carry = amount;
    for byte in number {
        carry += u128::from(*byte);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addition_carries_through_every_byte() {
        let mut number = [0xff; 32];
        number[31] = 0x40;
        add(&mut number, 1);
        assert_eq!(number[..31], [0; 31]);
        assert_eq!(number[31], 0x41);
    }

    #[test]
    fn addition_drops_what_does_not_fit() {
        let mut number = [0xff; 32];
        add(&mut number, 8);
        assert_eq!(number[0], 7);
        assert_eq!(number[1..], [0; 31]);
    }

    #[test]
    fn a_walk_that_would_break_the_fixed_bits_gives_no_key() {
        let mut rng = <rand_chacha::ChaCha20Rng as rand_core::SeedableRng>::from_seed([1; 32]);
        let mut walk = Walk::start(&mut rng);
        walk.scalar.copy_from_slice(&[0xf8; 32]);
        walk.scalar[1..31].fill(0xff);
        walk.scalar[31] = 0x7f;
        assert!(walk.key_after(0, &mut rng).is_some());
        assert!(walk.key_after(1, &mut rng).is_none());
    }
}
