//! SSH keys: the host key that OpenSSH uses to identify the appliance, and the owner's public keys that it lets
//! in.
//!
//! Only Ed25519 is made. For the owner's keys everything that OpenSSH accepts today is accepted, hardware keys
//! included, but not DSA and not RSA below 2048 bits.

use crate::ed25519;
use rand_core::CryptoRng;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// The smallest RSA modulus that is accepted, in bits.
const MIN_RSA_BITS: usize = 2048;

/// The appliance's own Ed25519 key.
pub struct HostKey {
    key: PrivateKey,
}

/// Why a host key cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HostKeyError {
    /// Not an OpenSSH private key, or a damaged one.
    #[error("the text is not an intact OpenSSH private key: {reason}")]
    Format {
        /// What the decoder found.
        reason: String,
    },
    /// A key with a passphrase, which a host key cannot have.
    #[error("the private key is encrypted; a host key must not be")]
    Encrypted,
    /// Another algorithm.
    #[error("the host key is {algorithm}, only ssh-ed25519 is used here")]
    Algorithm {
        /// The algorithm's name.
        algorithm: String,
    },
    /// The two halves of the key do not belong together.
    #[error("the public half of the host key does not belong to its secret half: the file is damaged")]
    Mismatch,
    /// A line break in the comment.
    #[error("a comment on a key is one line of printable text")]
    Comment,
}

impl HostKey {
    /// Makes a new key. The comment, such as `root@cipolla`, stands in both files; it is public.
    ///
    /// # Errors
    /// [`HostKeyError::Comment`] if the comment has control characters.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R, comment: &str) -> Result<Self, HostKeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&seed, comment)
    }

    /// The key that RFC 8032 derives from a seed.
    ///
    /// # Errors
    /// [`HostKeyError::Comment`] if the comment has control characters.
    pub fn from_seed(seed: &[u8; 32], comment: &str) -> Result<Self, HostKeyError> {
        if comment.contains(char::is_control) {
            return Err(HostKeyError::Comment);
        }
        let public = Ed25519PublicKey(ed25519::public_key(&ed25519::expand(seed)));
        let pair = Ed25519Keypair { public, private: Ed25519PrivateKey::from_bytes(seed) };
        let key = PrivateKey::new(KeypairData::Ed25519(pair), comment).map_err(damaged)?;
        Ok(Self { key })
    }

    /// Reads the content of `ssh_host_ed25519_key`.
    ///
    /// # Errors
    /// If it is not an intact, unencrypted Ed25519 key; see [`HostKeyError`].
    pub fn from_private_key_file(text: &str) -> Result<Self, HostKeyError> {
        let key = PrivateKey::from_openssh(text).map_err(damaged)?;
        if key.is_encrypted() {
            return Err(HostKeyError::Encrypted);
        }
        let Some(pair) = key.key_data().ed25519() else {
            return Err(HostKeyError::Algorithm { algorithm: key.algorithm().to_string() });
        };
        let derived = ed25519::public_key(&ed25519::expand(pair.private.as_ref()));
        if derived != pair.public.0 || key.public_key().key_data() != &KeyData::Ed25519(pair.public) {
            return Err(HostKeyError::Mismatch);
        }
        Ok(Self { key })
    }

    /// The content of `ssh_host_ed25519_key`: to be owned by root, mode 0600.
    ///
    /// # Errors
    /// [`HostKeyError::Format`] if the encoder fails, which no key made here leads to.
    pub fn private_key_file(&self) -> Result<Zeroizing<String>, HostKeyError> {
        self.key.to_openssh(LineEnding::LF).map_err(damaged)
    }

    /// The content of `ssh_host_ed25519_key.pub`: one line.
    ///
    /// # Errors
    /// [`HostKeyError::Format`] if the encoder fails, which no key made here leads to.
    pub fn public_key_file(&self) -> Result<String, HostKeyError> {
        let line = self.key.public_key().to_openssh().map_err(damaged)?;
        Ok(format!("{line}\n"))
    }

    /// The fingerprint as `ssh` shows it on the first connection: `SHA256:` and 43 characters.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }
}

/// By value, to fit `map_err`.
#[expect(clippy::needless_pass_by_value, reason = "map_err hands the error over")]
fn damaged(error: ssh_key::Error) -> HostKeyError {
    HostKeyError::Format { reason: error.to_string() }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({}, …)", self.fingerprint())
    }
}

/// One public key of the owner, from a line as in `~/.ssh/id_ed25519.pub` or `authorized_keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerKey {
    key: PublicKey,
}

/// Why a line is not a public key that is let in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OwnerKeyError {
    /// The secret half was pasted.
    #[error(
        "this is a PRIVATE key, which belongs to you alone: remove it from here, consider it known to others, \
         and give the line from the file ending in .pub of a new key"
    )]
    Private,
    /// The export format of `PuTTY` and some other programs.
    #[error("this is a public key in another format: give it as one line, ssh-keygen -i -f FILE converts it")]
    OtherFormat,
    /// Options before the key.
    #[error(
        "options before the key are not supported: begin the line with the key type, such as ssh-ed25519"
    )]
    Options,
    /// An unknown first word.
    #[error("{word:?} is not a key type; a public key begins like: ssh-ed25519 AAAA…")]
    KeyType {
        /// The first word of the line.
        word: String,
    },
    /// Cut short or altered.
    #[error("the key after {algorithm} is damaged or incomplete ({reason}); copy the whole line again")]
    Damaged {
        /// The first word of the line.
        algorithm: String,
        /// What the decoder found.
        reason: String,
    },
    /// DSA, or RSA with too small a modulus.
    #[error("{algorithm} keys of this size are no longer safe; make one with: ssh-keygen -t ed25519")]
    Weak {
        /// The algorithm's name.
        algorithm: String,
    },
}

impl OwnerKey {
    /// The line for `authorized_keys`, without a newline.
    #[must_use]
    pub fn line(&self) -> String {
        self.key.to_string()
    }

    /// The fingerprint as `ssh-keygen -l` shows it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The comment at the end of the line, often `user@computer`; may be empty.
    #[must_use]
    pub fn comment(&self) -> &str {
        self.key.comment()
    }

    /// The key type, such as `ssh-ed25519`.
    #[must_use]
    pub fn algorithm(&self) -> String {
        self.key.algorithm().to_string()
    }
}

impl FromStr for OwnerKey {
    type Err = OwnerKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let line = text.trim();
        if line.contains("PRIVATE KEY") || line.starts_with("PuTTY-User-Key-File") {
            return Err(OwnerKeyError::Private);
        }
        if line.starts_with("---- BEGIN SSH2") || line.starts_with("-----BEGIN") {
            return Err(OwnerKeyError::OtherFormat);
        }
        let mut words = line.splitn(3, [' ', '\t']).map(str::trim);
        let word = words.next().unwrap_or_default();
        let Some(algorithm) = known_algorithm(word) else {
            let options = line.split([' ', '\t']).any(|word| known_algorithm(word).is_some());
            return Err(if options {
                OwnerKeyError::Options
            } else {
                OwnerKeyError::KeyType { word: shorten(word) }
            });
        };
        // One space between the parts, as the decoder wants it.
        let joined =
            words.filter(|part| !part.is_empty()).fold(word.to_owned(), |line, part| line + " " + part);
        let key: PublicKey = joined.parse().map_err(|error: ssh_key::Error| OwnerKeyError::Damaged {
            algorithm: word.to_owned(),
            reason: error.to_string(),
        })?;
        if is_weak(&key) {
            return Err(OwnerKeyError::Weak { algorithm: algorithm.to_string() });
        }
        Ok(Self { key })
    }
}

/// Reads lines as in `authorized_keys`. Empty lines and lines beginning with `#` are passed over.
///
/// # Errors
/// Every bad line, with its number counted from 1.
pub fn parse_authorized_keys(text: &str) -> Result<Vec<OwnerKey>, Vec<(usize, OwnerKeyError)>> {
    let (mut keys, mut problems) = (Vec::new(), Vec::new());
    let lines = text.lines().map(str::trim).zip(1..);
    for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
        match line.parse() {
            Ok(key) => keys.push(key),
            Err(problem) => problems.push((number, problem)),
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

/// The algorithm that a word names, unless it is unknown to OpenSSH.
fn known_algorithm(word: &str) -> Option<Algorithm> {
    Algorithm::new(word).ok().filter(|algorithm| !matches!(algorithm, Algorithm::Other(_)))
}

fn is_weak(key: &PublicKey) -> bool {
    match key.key_data() {
        KeyData::Dsa(_) => true,
        KeyData::Rsa(rsa) => rsa.n.as_positive_bytes().is_none_or(|n| n.len() * 8 < MIN_RSA_BITS),
        _ => false,
    }
}

/// The beginning of a word, short enough for a message and not enough to repeat a secret.
fn shorten(word: &str) -> String {
    let short: String = word.chars().take(20).collect();
    if short.len() < word.len() { short + "…" } else { short }
}
