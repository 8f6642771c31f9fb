//! The appliance's onion services and where their files are (tor(1), "FILES").

use std::fmt;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use identity::onion::OnionAddress;

use crate::fs::Fs;

/// One onion service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Onion {
    /// The mail domain: public, port 25.
    Mx,
    /// For the owner's devices: unlisted.
    Client,
    /// SSH: always with client authorization.
    Admin,
}

impl Onion {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mx, Self::Client, Self::Admin];

    /// Its name in commands and paths.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }

    /// Its `HiddenServiceDir`.
    #[must_use]
    pub fn dir(self) -> Utf8PathBuf {
        Utf8Path::new("/var/lib/tor").join(self.name())
    }

    /// The secret key: what the service is.
    #[must_use]
    pub fn secret_key(self) -> Utf8PathBuf {
        self.dir().join("hs_ed25519_secret_key")
    }

    /// The public key, derived.
    #[must_use]
    pub fn public_key(self) -> Utf8PathBuf {
        self.dir().join("hs_ed25519_public_key")
    }

    /// The address, derived.
    #[must_use]
    pub fn hostname(self) -> Utf8PathBuf {
        self.dir().join("hostname")
    }

    /// Clients that may see the service; with none, everybody may.
    #[must_use]
    pub fn authorized_clients(self) -> Utf8PathBuf {
        self.dir().join("authorized_clients")
    }

    /// The address, from the public key file.
    ///
    /// # Errors
    /// When there is no such file or it is damaged.
    pub fn address(self, fs: &dyn Fs) -> Result<OnionAddress> {
        let path = self.public_key();
        let content =
            fs.read(&path)?.with_context(|| format!("{path} is missing; run `cipolla boot` as root"))?;
        OnionAddress::from_public_key_file(&content).with_context(|| {
            format!("reading {path}: remove it and run `cipolla boot`, which derives it again")
        })
    }
}

impl fmt::Display for Onion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
