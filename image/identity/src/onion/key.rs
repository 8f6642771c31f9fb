//! The key of an onion service and the three files in which Tor keeps it.
//!
//! Tor stores the *expanded* key, not the seed it came from: a fixed header of 32 bytes, then the key. A key
//! found by a vanity search has no seed at all, so the expanded form is the only one that fits every key.

use super::address::OnionAddress;
use crate::ed25519::{self, Expanded};
use rand_core::CryptoRng;
use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

const SECRET_HEADER: &str = "== ed25519v1-secret: type0 ==\0\0\0";
const PUBLIC_HEADER: &str = "== ed25519v1-public: type0 ==\0\0\0";

/// The secret key of one onion service.
pub struct OnionKey {
    expanded: Expanded,
    public: [u8; 32],
}

/// Why the content of a key file is not what Tor wrote or would read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Another number of bytes: a file cut short, or not a key file.
    #[error("an onion key file of this kind has {expected} bytes, this one has {got}")]
    Length {
        /// Bytes that the file must have.
        expected: usize,
        /// Bytes that it has.
        got: usize,
    },
    /// The first 32 bytes are not the header.
    #[error("the file does not begin with {:?}", expected.trim_end_matches('\0'))]
    Header {
        /// The header that must stand there.
        expected: &'static str,
    },
    /// The scalar lacks the fixed bits, so these bytes never were an ed25519 key.
    #[error(
        "the bytes after the header are not an expanded ed25519 key (its fixed bits are wrong): the file is damaged"
    )]
    Clamping,
    /// A public key file that holds no valid key.
    #[error("the bytes after the header are not a usable public key: the file is damaged")]
    Point,
}

impl OnionKey {
    /// Makes a new key.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key that RFC 8032 derives from a seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::from_expanded(ed25519::expand(seed))
    }

    /// The key of a clamped scalar and a nonce prefix.
    pub(crate) fn from_expanded(expanded: Expanded) -> Self {
        let public = ed25519::public_key(&expanded);
        Self { expanded, public }
    }

    /// Reads the content of `hs_ed25519_secret_key`.
    ///
    /// # Errors
    /// If the length, the header or the fixed bits of the key are wrong. A key whose other bits have changed
    /// cannot be told from an intact one by this file alone: compare [`OnionKey::address`] with the address on
    /// record, or [`OnionKey::public_key_file`] with the file beside it.
    pub fn from_secret_key_file(content: &[u8]) -> Result<Self, KeyFileError> {
        let body: &[u8; 64] = body(content, SECRET_HEADER)?;
        if !ed25519::is_clamped(&body[..32]) {
            return Err(KeyFileError::Clamping);
        }
        let mut expanded = ed25519::blank();
        expanded.copy_from_slice(body);
        Ok(Self::from_expanded(expanded))
    }

    /// The content of `hs_ed25519_secret_key`: to be owned by Tor, mode 0600.
    #[must_use]
    pub fn secret_key_file(&self) -> Zeroizing<[u8; 96]> {
        let mut file = Zeroizing::new([0; 96]);
        file[..32].copy_from_slice(SECRET_HEADER.as_bytes());
        file[32..].copy_from_slice(&**self.expanded);
        file
    }

    /// The content of `hs_ed25519_public_key`.
    #[must_use]
    pub fn public_key_file(&self) -> [u8; 64] {
        let mut file = [0; 64];
        file[..32].copy_from_slice(PUBLIC_HEADER.as_bytes());
        file[32..].copy_from_slice(&self.public);
        file
    }

    /// The content of `hostname`: the address and a newline.
    #[must_use]
    pub fn hostname_file(&self) -> String {
        format!("{}\n", self.address())
    }

    /// The address of the service that this key makes.
    #[must_use]
    pub const fn address(&self) -> OnionAddress {
        OnionAddress::from_trusted_public(self.public)
    }
}

impl OnionAddress {
    /// Reads the content of `hs_ed25519_public_key`.
    ///
    /// # Errors
    /// If the length or the header is wrong, or the key is not a valid point.
    pub fn from_public_key_file(content: &[u8]) -> Result<Self, KeyFileError> {
        let public: &[u8; 32] = body(content, PUBLIC_HEADER)?;
        Self::from_public_key(*public).map_err(|_| KeyFileError::Point)
    }
}

/// What follows the header, if length and header are right.
fn body<'a, const N: usize>(content: &'a [u8], header: &'static str) -> Result<&'a [u8; N], KeyFileError> {
    let wrong_length = KeyFileError::Length { expected: header.len() + N, got: content.len() };
    let Some((found, rest)) = content.split_at_checked(header.len()) else { return Err(wrong_length) };
    if found != header.as_bytes() {
        return Err(KeyFileError::Header { expected: header });
    }
    rest.try_into().map_err(|_| wrong_length)
}

impl fmt::Debug for OnionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnionKey({}, …)", self.address())
    }
}
