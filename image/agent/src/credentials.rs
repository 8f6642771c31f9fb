//! One-time credentials: the secrets that the owner must get to know.
//!
//! Each is kept in a file of the private folder from the moment it is made until the owner acknowledges it.
//! What servers use (hashes, public keys) is derived from that file, so a power cut between the two steps
//! changes nothing: the same secret is derived from again.

use std::fmt;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use identity::client_auth::ClientAuth;
use identity::passphrase;
use identity::rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::fs::{Access, Fs, Replace, atomic};
use crate::paths;

/// A secret for the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// The password of the first mailbox.
    Mailbox,
    /// The password in front of the webmail.
    Web,
    /// The key that makes the admin service visible.
    Admin,
}

impl Credential {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mailbox, Self::Web, Self::Admin];

    /// Its name in paths.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mailbox => "mailbox",
            Self::Web => "web",
            Self::Admin => "admin",
        }
    }

    /// Its file.
    #[must_use]
    pub fn path(self) -> Utf8PathBuf {
        Utf8Path::new(paths::CREDENTIALS).join(self.name())
    }

    /// Makes the secret and stores it. An existing one stays and is an error.
    ///
    /// # Errors
    /// From the file system.
    pub fn make(self, fs: &dyn Fs, rng: &mut dyn CryptoRng) -> Result<()> {
        let secret = match self {
            Self::Mailbox | Self::Web => {
                Zeroizing::new(passphrase::generate(rng, passphrase::DEFAULT_BITS).as_str().to_owned())
            }
            Self::Admin => ClientAuth::generate(rng).private_key(),
        };
        atomic::put(fs, &self.path(), secret.as_bytes(), Access::root(0o600), Replace::Never)
    }

    /// The secret, if it is waiting to be acknowledged.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn load(self, fs: &dyn Fs) -> Result<Option<Zeroizing<String>>> {
        let Some(bytes) = fs.read(&self.path())?.map(Zeroizing::new) else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is damaged", self.path()))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    /// The secret, which must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn require(self, fs: &dyn Fs) -> Result<Zeroizing<String>> {
        self.load(fs)?.with_context(|| format!("{} is missing", self.path()))
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mailbox => "the password of the first mailbox",
            Self::Web => "the password in front of the webmail",
            Self::Admin => "the key to the admin service",
        })
    }
}

/// Forgets all credentials: the owner knows them now. Returns whether there were any.
///
/// # Errors
/// From the file system.
pub fn acknowledge(fs: &dyn Fs) -> Result<bool> {
    let dir = Utf8Path::new(paths::CREDENTIALS);
    let names = fs.list(dir)?;
    for name in &names {
        fs.remove(&dir.join(name))?;
    }
    if !names.is_empty() {
        fs.sync(dir)?;
    }
    Ok(!names.is_empty())
}
