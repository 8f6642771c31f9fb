//! Whether a password that somebody chose is good enough.
//!
//! The appliance generates passwords unless the owner insists. A chosen one must be long, and must not be one
//! that guessing programs try early: they begin with lists of leaked passwords and with words, names, dates,
//! keyboard rows and repetitions, alone and combined. The estimate of that order is zxcvbn's (Wheeler, USENIX
//! Security 2016), which also counts the owner's own names as easy words.
//!
//! **What it costs.** zxcvbn with its word lists and regular expressions adds 2.8 MB to the agent (1.1 MB
//! compressed); the pages are only read while a password is being set. A plain list of leaked passwords would be
//! smaller but next to useless behind the length rule: nearly all entries are shorter than twelve characters,
//! and what people make of them to get past the rule is on no list.
//!
//! zxcvbn also takes the time that it needs, for a figure that is dropped here; the verdict does not depend on
//! the clock.

use crate::mailbox::LocalPart;
use thiserror::Error;
use zxcvbn::Score;
use zxcvbn::feedback::Feedback;

/// The shortest password that is accepted, in characters.
pub const MIN_CHARS: usize = 12;
/// The longest, in characters: [what bcrypt takes into account](crate::htpasswd::MAX_PASSWORD), so that one
/// rule serves mail and web.
pub const MAX_CHARS: usize = crate::htpasswd::MAX_PASSWORD;
/// The highest, "very unguessable" in zxcvbn's words: at least 10^10 guesses. One below, it lets pass any three
/// common words.
const MIN_SCORE: Score = Score::Four;
/// Words that everybody would try here first.
const OWN_WORDS: [&str; 4] = ["cipolla", "onion", "tor", "mail"];

/// Why a chosen password is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Fewer than [`MIN_CHARS`] characters.
    #[error("a password has at least {MIN_CHARS} characters, this one has {got}")]
    TooShort {
        /// Characters found.
        got: usize,
    },
    /// More than [`MAX_CHARS`] characters.
    #[error("a password has at most {MAX_CHARS} characters, this one has {got}")]
    TooLong {
        /// Characters found.
        got: usize,
    },
    /// Something that another keyboard or program would send as other bytes, or not at all.
    #[error(
        "a password has only letters without accents, digits, spaces and the signs of an English keyboard, \
         since devices send other characters in different ways"
    )]
    Character,
    /// A space where programs drop it.
    #[error("a password does not begin or end with a space, since some programs remove it")]
    OuterSpace,
    /// Guessed too soon.
    #[error("this password would be guessed early: {advice}")]
    Guessable {
        /// What is weak about it and what would be better.
        advice: String,
    },
}

/// Accepts or refuses a password that the owner of mailbox `local` chose.
///
/// # Errors
/// The first rule that the password breaks, in words for the person who chose it. The password is not repeated.
pub fn check(password: &str, local: &LocalPart) -> Result<(), PolicyError> {
    if password.chars().any(|c| !matches!(c, ' '..='~')) {
        return Err(PolicyError::Character);
    }
    if password.trim_matches(' ').len() != password.len() {
        return Err(PolicyError::OuterSpace);
    }
    match password.len() {
        ..MIN_CHARS => return Err(PolicyError::TooShort { got: password.len() }),
        MIN_CHARS..=MAX_CHARS => {}
        got => return Err(PolicyError::TooLong { got }),
    }
    let mut known: Vec<&str> = local.as_str().split(['.', '_', '-']).collect();
    known.push(local.as_str());
    known.extend(OWN_WORDS);
    let estimate = zxcvbn::zxcvbn(password, &known);
    if estimate.score() < MIN_SCORE {
        return Err(PolicyError::Guessable { advice: advice(estimate.feedback()) });
    }
    Ok(())
}

fn advice(feedback: Option<&Feedback>) -> String {
    let warning = feedback.and_then(Feedback::warning).map(|warning| warning.to_string());
    let suggestions = feedback.into_iter().flat_map(Feedback::suggestions).map(ToString::to_string);
    let said: Vec<_> = warning.into_iter().chain(suggestions).collect();
    if said.is_empty() { "take more words, and less common ones".to_owned() } else { said.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    fn check_for(local: &str, password: &str) -> Result<(), PolicyError> {
        check(password, &local.parse().unwrap())
    }

    #[test]
    fn common_passwords_are_refused_even_when_lengthened() {
        for password in [
            "password1234",
            "passwordpassword",
            "qwertyuiop123",
            "123456789012",
            "aaaaaaaaaaaaaa",
            "P@ssw0rd1234!",
            "iloveyou2026",
            "letmeinletmein",
            "abcdefghijkl",
            "zaq1zaq1zaq1",
            "Football2024",
            "administrator1",
        ] {
            assert!(
                matches!(check_for("aurelia", password), Err(PolicyError::Guessable { .. })),
                "{password}"
            );
        }
    }

    #[test]
    fn names_of_the_owner_and_of_the_thing_are_easy_words() {
        for password in
            ["aurelia.zbinden1", "zbindenaurelia", "cipollacipolla", "mailonion123", "aureliazbinden2"]
        {
            let refused = check_for("aurelia.zbinden", password);
            assert!(matches!(refused, Err(PolicyError::Guessable { .. })), "{password}");
        }
    }

    #[test]
    fn good_passwords_pass() {
        for password in ["vuKq9-mmZe2_xb", "copper lantern drifts sideways", "7 Geigen im Nebel."] {
            assert_eq!(check_for("aurelia", password), Ok(()), "{password}");
        }
    }

    #[test]
    fn form_is_checked_first() {
        assert_eq!(check_for("a", "short"), Err(PolicyError::TooShort { got: 5 }));
        assert_eq!(check_for("a", &"xK3".repeat(24)), Err(PolicyError::TooLong { got: 72 }));
        assert_eq!(check_for("a", "längere Wörter überall"), Err(PolicyError::Character));
        assert_eq!(check_for("a", "tab\tin the middle"), Err(PolicyError::Character));
        assert_eq!(check_for("a", "copper lantern drifts "), Err(PolicyError::OuterSpace));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn generated_passphrases_pass(seed: [u8; 32]) {
            let passphrase = crate::passphrase::generate(&mut rand_chacha::ChaCha20Rng::from_seed(seed), 77);
            prop_assert_eq!(check_for("aurelia", passphrase.as_str()), Ok(()));
        }

        #[test]
        fn no_text_makes_it_panic_or_is_repeated(password: String) {
            if let Err(error) = check_for("aurelia", &password) {
                prop_assert!(password.len() < 4 || !error.to_string().contains(&password));
            }
        }
    }
}
