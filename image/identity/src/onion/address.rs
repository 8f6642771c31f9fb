//! Onion addresses: reading, checking and writing them (rend-spec-v3, section "Encoding onion addresses").

use curve25519_dalek::edwards::CompressedEdwardsY;
use data_encoding::{BASE32_NOPAD, DecodeKind};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Sha3_256};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The only version of onion services that Tor still carries.
const VERSION: u8 = 3;
/// Characters before `.onion`: 32 bytes of key, 2 of checksum, 1 of version, in base32.
const LABEL_LEN: usize = 56;
/// Characters of an address of the retired version 2.
const LABEL_LEN_V2: usize = 16;
const SUFFIX: &str = ".onion";

/// The address of a version 3 onion service, known to be well-formed: its checksum is right and its public key
/// is a point that Tor accepts. Upper case is accepted when reading; it is always written in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OnionAddress {
    public: [u8; 32],
}

/// Why a text is not the address of a version 3 onion service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text does not end in `.onion`.
    #[error("an onion address ends in .onion")]
    Suffix,
    /// A name in front of the address, such as `www.`.
    #[error("an onion address is {LABEL_LEN} characters and .onion, without a further name in front of it")]
    Subdomain,
    /// Sixteen characters: the old kind, which stopped working in 2021.
    #[error(
        "this is an address of the retired version 2, which Tor no longer reaches; ask its owner for the new one"
    )]
    RetiredV2,
    /// Not 56 characters before `.onion`.
    #[error("an onion address has {LABEL_LEN} characters before .onion, this one has {got}")]
    Length {
        /// Characters before `.onion`.
        got: usize,
    },
    /// A character that base32 does not use.
    #[error("character {position} ({character:?}) cannot be in an onion address: only a to z and 2 to 7 can")]
    Alphabet {
        /// The character found.
        character: char,
        /// Its place, counted from 1.
        position: usize,
    },
    /// The version byte is another.
    #[error(
        "an onion address has version {VERSION}, this one says {got}; its last characters may be mistyped"
    )]
    Version {
        /// The version byte.
        got: u8,
    },
    /// The two checksum bytes do not match the key.
    #[error("the checksum of this onion address does not match: a character is mistyped or missing")]
    Checksum,
    /// Right checksum, but no usable public key.
    #[error("this onion address holds no usable public key, although its checksum matches")]
    Point,
}

impl OnionAddress {
    /// The address of a service whose public key is already known to be good.
    pub(super) const fn from_trusted_public(public: [u8; 32]) -> Self {
        Self { public }
    }

    /// The address of the service with this ed25519 public key.
    ///
    /// # Errors
    /// [`AddressError::Point`] if the bytes are not the one valid encoding of a point of prime order. Tor
    /// refuses other points: several addresses could otherwise name the same service.
    pub fn from_public_key(public: [u8; 32]) -> Result<Self, AddressError> {
        let point = CompressedEdwardsY(public).decompress().ok_or(AddressError::Point)?;
        let canonical = point.compress().to_bytes() == public;
        if canonical && !point.is_small_order() && point.is_torsion_free() {
            Ok(Self { public })
        } else {
            Err(AddressError::Point)
        }
    }

    /// The service's ed25519 public key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public
    }

    /// The 56 characters before `.onion`, in lower case.
    #[must_use]
    pub fn label(&self) -> String {
        let mut bytes = [0; 35];
        bytes[..32].copy_from_slice(&self.public);
        bytes[32..34].copy_from_slice(&checksum(&self.public));
        bytes[34] = VERSION;
        BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
    }

    /// Reads the 56 characters before `.onion`.
    ///
    /// # Errors
    /// Says what is wrong with them, see [`AddressError`].
    pub fn from_label(label: &str) -> Result<Self, AddressError> {
        let bytes = decode(label)?;
        let (public, rest) = bytes.split_at(32);
        let public: [u8; 32] = public.try_into().map_err(|_| AddressError::Length { got: label.len() })?;
        if rest[2] != VERSION {
            return Err(AddressError::Version { got: rest[2] });
        }
        if rest[..2] != checksum(&public) {
            return Err(AddressError::Checksum);
        }
        Self::from_public_key(public)
    }
}

/// The 35 bytes behind 56 characters of base32.
fn decode(label: &str) -> Result<Vec<u8>, AddressError> {
    if label.contains('.') {
        return Err(AddressError::Subdomain);
    }
    let wrong = label.chars().enumerate().find(|(_, c)| !matches!(c, 'a'..='z' | 'A'..='Z' | '2'..='7'));
    if let Some((index, character)) = wrong {
        return Err(AddressError::Alphabet { character, position: index + 1 });
    }
    match label.len() {
        LABEL_LEN => {}
        LABEL_LEN_V2 => return Err(AddressError::RetiredV2),
        got => return Err(AddressError::Length { got }),
    }
    BASE32_NOPAD.decode(label.to_ascii_uppercase().as_bytes()).map_err(|error| match error.kind {
        DecodeKind::Symbol => AddressError::Alphabet {
            character: char::from(label.as_bytes()[error.position]),
            position: error.position + 1,
        },
        _ => AddressError::Length { got: label.len() },
    })
}

/// The first two bytes of SHA3-256 over a fixed text, the key and the version.
fn checksum(public: &[u8; 32]) -> [u8; 2] {
    let mut hash = Sha3_256::new();
    hash.update(b".onion checksum");
    hash.update(public);
    hash.update([VERSION]);
    let hash = hash.finalize();
    [hash[0], hash[1]]
}

/// Whether a text is the full address (`….onion`) of a version 3 onion service, in upper or lower case.
///
/// This is the reference for every other place that checks an address, such as Postfix's access maps.
#[must_use]
pub fn is_valid_v3(text: &str) -> bool {
    text.parse::<OnionAddress>().is_ok()
}

impl FromStr for OnionAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let split = text.len().checked_sub(SUFFIX.len()).and_then(|at| text.split_at_checked(at));
        match split {
            Some((label, suffix)) if suffix.eq_ignore_ascii_case(SUFFIX) => Self::from_label(label),
            _ => Err(AddressError::Suffix),
        }
    }
}

impl TryFrom<String> for OnionAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OnionAddress> for String {
    fn from(address: OnionAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for OnionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{SUFFIX}", self.label()))
    }
}

impl fmt::Debug for OnionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnionAddress({self})")
    }
}
