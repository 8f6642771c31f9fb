//! The texts that are handed over.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use camino::Utf8Path;
use identity::onion::OnionAddress;
use identity::ssh::OwnerKey;
use identity::tls::Fingerprint;
use zeroize::Zeroizing;

use super::qr;
use crate::credentials::Credential;
use crate::fs::Fs;
use crate::image::Image;
use crate::onions::Onion;
use crate::paths;
use crate::pem::{KeyAndCertificate, Pair};
use crate::settings::{Imap, Settings};

/// What the console says while the appliance knows no SSH key: there is no password for root.
const NOBODY: &str = "Nobody can log in here yet: no SSH key of yours is known. Switch off, add it to\n\
    cipolla.toml on the boot partition (with all other settings), start again:\n\n    \
    [owner]\n    ssh_keys = [\"ssh-ed25519 AAAA... you@laptop\"]\n\n";

/// What identifies the appliance to its owner. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Version of the image.
    pub version: String,
    /// First mailbox.
    pub owner: String,
    /// The mail domain.
    pub mx: OnionAddress,
    /// For the owner's devices.
    pub client: OnionAddress,
    /// For SSH.
    pub admin: OnionAddress,
    /// Of the SSH host key, as OpenSSH shows it.
    pub ssh: String,
    /// Of the appliance's certificate authority.
    pub authority: Fingerprint,
    /// Whether mail programs may connect.
    pub mail_programs: bool,
}

impl Card {
    /// Reads it from a complete identity.
    ///
    /// # Errors
    /// When a part of the identity is missing or damaged.
    pub fn load(fs: &dyn Fs, settings: &Settings) -> Result<Self> {
        let ssh = fs.read(Utf8Path::new(paths::SSH_HOST_PUBLIC_KEY))?.unwrap_or_default();
        let ssh: OwnerKey = String::from_utf8_lossy(&ssh)
            .trim()
            .parse()
            .with_context(|| format!("reading {}", paths::SSH_HOST_PUBLIC_KEY))?;
        let authority = KeyAndCertificate::load(fs, Pair::Authority)?
            .with_context(|| format!("{} is missing or damaged", Pair::Authority.source()))?;
        Ok(Self {
            version: Image::load(fs)?.version.unwrap_or_default(),
            owner: settings.owner.mailbox.clone(),
            mx: Onion::Mx.address(fs)?,
            client: Onion::Client.address(fs)?,
            admin: Onion::Admin.address(fs)?,
            ssh: ssh.fingerprint(),
            authority: authority.authority()?.fingerprint(),
            mail_programs: settings.mail.imap == Imap::Onion,
        })
    }

    /// Addresses and fingerprints, at most 79 columns wide.
    fn addresses(&self) -> String {
        let Self { owner, mx, client, admin, ssh, authority, .. } = self;
        let hex = authority.to_string();
        let (first, second) = hex.split_at_checked(48).unwrap_or((&hex, ""));
        format!(
            "Your address    {owner}@\n                {mx}\n\
             Your devices    {client}\n\
             Administration  {admin}\n\n\
             SSH host key    {ssh}\n\
             Certificate     {first}\n                {second}\n"
        )
    }

    /// `WELCOME.txt`, with line ends that every editor understands.
    #[must_use]
    pub fn welcome(&self) -> String {
        let mut text = format!("Cipolla {}\n\n{}\n", self.version, self.addresses());
        let _ = write!(
            text,
            "The passwords are not here. They are on the appliance's own screen until you acknowledge them\n\
             (cipolla ack). If your settings named an SSH or age key, they are also in credentials.age:\n\n    \
             age --decrypt --identity ~/.ssh/id_ed25519 credentials.age\n\n\
             Webmail, in Tor Browser:  http://{}\n\n\
             CIPOLLA-CA.crt is for mail programs: import it there as an authority. Its SHA-256 fingerprint is the line\n\
             Certificate above.\n",
            self.client
        );
        text.replace('\n', "\r\n")
    }

    /// What getty shows. Backslashes would be escapes there; there are none.
    ///
    /// # Errors
    /// When a credential cannot be read.
    pub fn console(&self, fs: &dyn Fs) -> Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(format!("\nCipolla {}\n\n{}\n", self.version, self.addresses()));
        let credentials = self.credentials(fs)?;
        let claimed = fs.entry(Utf8Path::new(paths::AUTHORIZED_KEYS))?.is_some();
        if credentials.is_empty() {
            text.push_str(if claimed { "Help: cipolla --help\n\n" } else { NOBODY });
            return Ok(text);
        }
        text.push_str(&credentials);
        text.push_str("\nThe webmail's address, for a phone with Tor Browser:\n\n");
        text.push_str(&qr::code(&format!("http://{}", self.client))?);
        text.push_str(
            "\nWrite the passwords down. They are shown here until you log in and type:\ncipolla ack\n\n",
        );
        if !claimed {
            text.push_str(NOBODY);
        }
        Ok(text)
    }

    /// Addresses and credentials, for `credentials.age` and `cipolla show-credentials`.
    ///
    /// # Errors
    /// When a credential cannot be read.
    pub fn with_credentials(&self, fs: &dyn Fs) -> Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(format!("Cipolla {}\n\n{}\n", self.version, self.addresses()));
        text.push_str(&self.credentials(fs)?);
        Ok(text)
    }

    /// The credentials that wait for the owner; empty if none does.
    fn credentials(&self, fs: &dyn Fs) -> Result<Zeroizing<String>> {
        let Self { owner, mx, client, admin, .. } = self;
        let mut text = Zeroizing::new(String::with_capacity(2048));
        if let Some(password) = Credential::Mailbox.load(fs)? {
            let programs = if self.mail_programs { "mail programs and webmail" } else { "webmail" };
            let _ =
                writeln!(text, "Mailbox ({programs})\n  user      {owner}@{mx}\n  password  {}", *password);
        }
        if let Some(password) = Credential::Web.load(fs)? {
            let _ = writeln!(
                text,
                "In front of the webmail http://{client}\n  user      {owner}\n  password  {}",
                *password
            );
        }
        if let Some(key) = Credential::Admin.load(fs)? {
            let label = admin.label();
            let _ = writeln!(
                text,
                "Administration: a line for a file ending in .auth_private in Tor's ClientOnionAuthDir\n  \
                 {label}:descriptor:x25519:{}",
                *key
            );
        }
        Ok(text)
    }
}
