//! Passphrases made of common words, for people to read off a screen and type.
//!
//! The words are the 2,048 of BIP 39's English list: three to eight letters each, told apart by their first
//! four. Each word is drawn on its own and uniformly, so each adds exactly 11 bits. (The result is not a BIP 39
//! mnemonic: it has no checksum.)

use bip39::Language;
use rand_core::CryptoRng;
use std::fmt;
use zeroize::Zeroizing;

/// What one word adds: the list has 2^11 words.
const BITS_PER_WORD: u32 = 11;
/// The longest word of the list, and a hyphen.
const MAX_WORD: usize = 9;

/// Entropy of a passphrase unless there is reason for another, in bits: seven words. Guessing it takes 10^22
/// tries on average, out of reach even for who holds the hash.
pub const DEFAULT_BITS: u32 = 77;
/// The least that [`generate`] gives, in bits: four words.
pub const MIN_BITS: u32 = 44;
/// The most that [`generate`] gives, in bits: eight words, the most that
/// [bcrypt always takes into account](crate::htpasswd::MAX_PASSWORD).
pub const MAX_BITS: u32 = 88;

/// A generated passphrase: words in lower case, joined by hyphens.
pub struct Passphrase {
    text: Zeroizing<String>,
    words: u32,
}

/// Makes a passphrase of at least `bits` bits of entropy, rounded up to whole words; `bits` outside
/// [`MIN_BITS`]..=[`MAX_BITS`] is moved to the nearer end.
pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R, bits: u32) -> Passphrase {
    let words = bits.clamp(MIN_BITS, MAX_BITS).div_ceil(BITS_PER_WORD);
    let list = Language::English.word_list();
    // Room for the longest words, so that the text never moves and leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(words as usize * MAX_WORD));
    for _ in 0..words {
        if !text.is_empty() {
            text.push('-');
        }
        // The length of the list is a power of two: every word has the same chance.
        text.push_str(list[rng.next_u32() as usize % list.len()]);
    }
    Passphrase { text, words }
}

impl Passphrase {
    /// The passphrase in clear.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How much an attacker who knows the list and the method has to guess, in bits.
    #[must_use]
    pub const fn entropy_bits(&self) -> u32 {
        self.words * BITS_PER_WORD
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passphrase({} bits, …)", self.entropy_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_core::SeedableRng;
    use std::collections::BTreeSet;

    fn rng(seed: [u8; 32]) -> rand_chacha::ChaCha20Rng {
        rand_chacha::ChaCha20Rng::from_seed(seed)
    }

    proptest! {
        #[test]
        fn entropy_is_at_least_what_was_asked_for(seed: [u8; 32], bits in MIN_BITS..=MAX_BITS) {
            let passphrase = generate(&mut rng(seed), bits);
            prop_assert!(passphrase.entropy_bits() >= bits);
            prop_assert!(passphrase.entropy_bits() < bits + BITS_PER_WORD);
            let words: Vec<_> = passphrase.as_str().split('-').collect();
            prop_assert_eq!(words.len() * BITS_PER_WORD as usize, passphrase.entropy_bits() as usize);
            prop_assert!(words.iter().all(|word| Language::English.word_list().contains(word)));
        }

        #[test]
        fn debug_shows_no_word(seed: [u8; 32]) {
            let passphrase = generate(&mut rng(seed), DEFAULT_BITS);
            prop_assert_eq!(format!("{passphrase:?}"), "Passphrase(77 bits, …)");
        }
    }

    #[test]
    fn list_is_what_the_entropy_is_computed_from() {
        let list = Language::English.word_list();
        assert_eq!(list.len(), 1 << BITS_PER_WORD);
        assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len());
        assert!(list.iter().all(|word| (3..MAX_WORD).contains(&word.len()) && word.is_ascii()));
    }

    #[test]
    fn every_word_comes_up() {
        let mut rng = rng([7; 32]);
        let text: Vec<_> = (0..5000).map(|_| generate(&mut rng, MAX_BITS)).collect();
        let seen: BTreeSet<_> = text.iter().flat_map(|passphrase| passphrase.as_str().split('-')).collect();
        assert_eq!(seen.len(), 2048);
    }

    #[test]
    fn the_longest_passphrase_fits_into_bcrypt() {
        assert!(MAX_BITS.div_ceil(BITS_PER_WORD) as usize * MAX_WORD - 1 <= crate::htpasswd::MAX_PASSWORD);
    }
}
