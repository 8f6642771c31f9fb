//! The names of mailboxes: the part before the `@`, and the whole address.
//!
//! Far fewer names are accepted than RFC 5321 allows. A name ends up in file paths, map files, command lines and
//! on paper, and two names must not be the same to one program and different to another; so there is one
//! spelling, in lower case, and no character that means something elsewhere. `+` is left out because it
//! separates a mailbox from a detail.

use crate::onion::{AddressError, OnionAddress};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Names that RFC 2142 gives to roles, and names that would make others take a sender for the system.
const RESERVED: &[&str] = &[
    "abuse",
    "admin",
    "administrator",
    "bin",
    "daemon",
    "double-bounce",
    "ftp",
    "hostmaster",
    "info",
    "list",
    "mail",
    "mailer-daemon",
    "marketing",
    "news",
    "no-reply",
    "nobody",
    "noc",
    "noreply",
    "operator",
    "postmaster",
    "root",
    "sales",
    "security",
    "support",
    "sysadmin",
    "system",
    "tor",
    "usenet",
    "uucp",
    "vmail",
    "webmaster",
    "www",
    "www-data",
];

/// The part of a mail address before the `@`: 1 to 64 of `a` to `z`, `0` to `9`, `.`, `_` and `-`, beginning
/// and ending with a letter or digit, without two dots in a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalPart(String);

/// Why a text cannot name a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LocalPartError {
    /// Empty, or longer than RFC 5321 §4.5.3.1.1 allows.
    #[error("a mailbox name has 1 to {} characters, this one has {got}", LocalPart::MAX_LEN)]
    Length {
        /// Characters found.
        got: usize,
    },
    /// Upper case, which some programs take for another name.
    #[error("a mailbox name is written in lower case: {suggestion}")]
    UpperCase {
        /// The same name in lower case.
        suggestion: String,
    },
    /// A character outside the accepted set.
    #[error("{character:?} cannot be in a mailbox name: only a to z, 0 to 9, dot, underscore and hyphen can")]
    Character {
        /// The character found.
        character: char,
    },
    /// Begins or ends with punctuation.
    #[error("a mailbox name begins and ends with a letter or digit")]
    Edge,
    /// Two dots in a row.
    #[error("a mailbox name has no two dots in a row")]
    Dots,
}

impl LocalPart {
    /// The longest name (RFC 5321 §4.5.3.1.1).
    pub const MAX_LEN: usize = 64;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name belongs to a role, such as `postmaster`. Mail for such a name reaches the owner; it is
    /// not to be a person's own mailbox.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.as_str())
    }
}

impl FromStr for LocalPart {
    type Err = LocalPartError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let got = text.chars().count();
        if !(1..=Self::MAX_LEN).contains(&got) {
            return Err(LocalPartError::Length { got });
        }
        let strange = |c: &char| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-');
        if let Some(character) = text.chars().find(strange) {
            return Err(LocalPartError::Character { character });
        }
        if text.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(LocalPartError::UpperCase { suggestion: text.to_ascii_lowercase() });
        }
        let edge = |c: char| !c.is_ascii_alphanumeric();
        if text.starts_with(edge) || text.ends_with(edge) {
            return Err(LocalPartError::Edge);
        }
        if text.contains("..") {
            return Err(LocalPartError::Dots);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for LocalPart {
    type Error = LocalPartError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LocalPart> for String {
    fn from(local: LocalPart) -> Self {
        local.0
    }
}

impl fmt::Display for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A mail address on an onion service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mailbox {
    /// The part before the `@`.
    pub local: LocalPart,
    /// The onion service that takes the mail.
    pub onion: OnionAddress,
}

/// Why a text is not a mail address on an onion service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MailboxError {
    /// No `@`.
    #[error("a mail address reads NAME@ADDRESS.onion")]
    NoAt,
    /// The part before the `@`.
    #[error(transparent)]
    Local(#[from] LocalPartError),
    /// The part after the `@`.
    #[error(transparent)]
    Onion(#[from] AddressError),
}

impl FromStr for Mailbox {
    type Err = MailboxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (local, onion) = text.rsplit_once('@').ok_or(MailboxError::NoAt)?;
        Ok(Self { local: local.parse()?, onion: onion.parse()? })
    }
}

impl TryFrom<String> for Mailbox {
    type Error = MailboxError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Mailbox> for String {
    fn from(mailbox: Mailbox) -> Self {
        mailbox.to_string()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.local, self.onion))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onion::OnionKey;
    use proptest::prelude::*;

    #[test]
    fn reserved_list_is_sorted_and_could_all_be_names() {
        assert!(RESERVED.is_sorted());
        for name in RESERVED {
            assert!(name.parse::<LocalPart>().is_ok_and(|local| local.is_reserved()), "{name}");
        }
        assert!(!"aurelia".parse::<LocalPart>().unwrap().is_reserved());
    }

    #[test]
    fn every_wrong_name_says_what_is_wrong() {
        use LocalPartError as E;
        let cases: &[(&str, E)] = &[
            ("", E::Length { got: 0 }),
            (&"a".repeat(65), E::Length { got: 65 }),
            ("Aurelia", E::UpperCase { suggestion: "aurelia".into() }),
            ("a+b", E::Character { character: '+' }),
            ("a@b", E::Character { character: '@' }),
            ("a b", E::Character { character: ' ' }),
            ("a\u{0}", E::Character { character: '\0' }),
            ("äpfel", E::Character { character: 'ä' }),
            ("../x", E::Character { character: '/' }),
            (".a", E::Edge),
            ("a.", E::Edge),
            ("-rf", E::Edge),
            ("a..b", E::Dots),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<LocalPart>(), Err(error.clone()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_names_come_back_unchanged(text in "[a-z0-9]([a-z0-9_-]{0,20}[.]?[a-z0-9]){0,2}", seed: [u8; 32]) {
            let local: LocalPart = text.parse().unwrap();
            prop_assert_eq!(local.as_str(), &text);
            let mailbox = Mailbox { local, onion: OnionKey::from_seed(&seed).address() };
            prop_assert_eq!(mailbox.to_string().parse::<Mailbox>(), Ok(mailbox.clone()));
            let json = serde_json::to_string(&mailbox).unwrap();
            prop_assert_eq!(serde_json::from_str::<Mailbox>(&json).unwrap(), mailbox);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<LocalPart>();
            let _ = text.parse::<Mailbox>();
        }
    }

    #[test]
    fn an_address_elsewhere_is_refused() {
        assert_eq!("nobody".parse::<Mailbox>(), Err(MailboxError::NoAt));
        assert_eq!("a@example.org".parse::<Mailbox>(), Err(MailboxError::Onion(AddressError::Suffix)));
    }
}
