//! A key and its certificate in one file, so that they can only change together.
//!
//! Servers want them in two files. The one file, in the private folder, is the truth; the two are derived
//! from it, and derived again if a power cut came between them.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use identity::tls::{CertificateAuthority, Leaf};
use zeroize::Zeroizing;

use crate::fs::Fs;
use crate::paths;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// A pair of key and certificate that the appliance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    /// The appliance's own authority; its key never leaves the private folder.
    Authority,
    /// For the mx service: signed by itself, so that it names nothing but its address.
    Mx,
    /// For the client service: signed by the appliance's authority.
    Client,
}

impl Pair {
    /// Its name in file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authority => "ca",
            Self::Mx => "mx",
            Self::Client => "client",
        }
    }

    /// The file that holds both.
    #[must_use]
    pub fn source(self) -> Utf8PathBuf {
        Utf8Path::new(paths::PRIVATE).join(format!("{}.pem", self.name()))
    }

    /// The certificate for servers and owner.
    #[must_use]
    pub fn certificate(self) -> Utf8PathBuf {
        Utf8Path::new(paths::TLS).join(format!("{}.crt", self.name()))
    }

    /// The key for servers; none of the authority.
    #[must_use]
    pub fn key(self) -> Option<Utf8PathBuf> {
        (self != Self::Authority).then(|| Utf8Path::new(paths::TLS).join(format!("{}.key", self.name())))
    }
}

/// A key and a certificate chain, in PEM.
pub struct KeyAndCertificate {
    /// PKCS #8.
    pub key: Zeroizing<String>,
    /// The certificate and, if it has one to be sent along, its authority's.
    pub certificate: String,
}

impl KeyAndCertificate {
    /// Takes the content of a source file apart; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (key, certificate) = text.split_at_checked(text.find(CERTIFICATE)?)?;
        (!key.is_empty())
            .then(|| Self { key: Zeroizing::new(key.to_owned()), certificate: certificate.to_owned() })
    }

    /// The content of a source file.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.key.len() + self.certificate.len()));
        text.push_str(&self.key);
        text.push_str(&self.certificate);
        text
    }

    /// Reads a pair; `None` if it is not there or not readable as a pair.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn load(fs: &dyn Fs, pair: Pair) -> Result<Option<Self>> {
        let Some(bytes) = fs.read(&pair.source())?.map(Zeroizing::new) else { return Ok(None) };
        Ok(std::str::from_utf8(&bytes).ok().and_then(Self::parse))
    }

    /// Only the first certificate, without what is sent along.
    #[must_use]
    pub fn own_certificate(&self) -> &str {
        match self.certificate[1..].find(CERTIFICATE) {
            Some(next) => &self.certificate[..=next],
            None => &self.certificate,
        }
    }

    /// Understands the pair as an authority.
    ///
    /// # Errors
    /// When it is none.
    pub fn authority(&self) -> Result<CertificateAuthority> {
        CertificateAuthority::from_pem(&self.certificate, &self.key)
            .with_context(|| format!("reading {}: restore it from a backup", Pair::Authority.source()))
    }

    /// Understands the pair as a server's.
    ///
    /// # Errors
    /// When it is none.
    pub fn leaf(&self) -> Result<Leaf> {
        Leaf::from_pem(self.own_certificate(), &self.key).context("reading a server's certificate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_file_comes_apart_as_it_was_put_together() {
        let pair = KeyAndCertificate {
            key: Zeroizing::new("-----BEGIN PRIVATE KEY-----\nk\n-----END PRIVATE KEY-----\n".into()),
            certificate: format!("{CERTIFICATE}\none\n{CERTIFICATE}\ntwo\n"),
        };
        let again = KeyAndCertificate::parse(&pair.text()).unwrap();
        assert_eq!(again.key, pair.key);
        assert_eq!(again.certificate, pair.certificate);
        assert_eq!(again.own_certificate(), format!("{CERTIFICATE}\none\n"));
    }

    #[test]
    fn half_a_file_is_no_pair() {
        assert!(KeyAndCertificate::parse(CERTIFICATE).is_none());
        assert!(KeyAndCertificate::parse("-----BEGIN PRIVATE KEY-----\n").is_none());
    }
}
