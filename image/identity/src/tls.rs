//! Certificates: a certification authority of the appliance's own, and the server certificates it signs.
//!
//! Onion services need no TLS to be safe, but mail programs insist on it. The owner imports the authority once;
//! server certificates can then be renewed without anybody noticing. Importing it endangers nothing else:
//!
//! - *name constraints*, critical: it can only vouch for the appliance's own onion addresses, and for no IP
//!   address at all;
//! - *extended key usage*: only for TLS servers, neither for mail signatures nor for programs;
//! - *path length 0*: it cannot make further authorities.
//!
//! Both keys are ECDSA on P-256, which every mail program knows. Signatures are deterministic (RFC 6979), so a
//! weak generator at a later renewal cannot give the key away.
//!
//! A certificate shows all its names to whoever connects, and an authority's certificate shows all that it may
//! vouch for. So names that must not be linked do not share an authority: the owner's unlisted client service has
//! one, and the public mail address has a certificate that is [signed by itself](Leaf::self_signed).

mod authority;
mod leaf;
mod validity;

pub use authority::CertificateAuthority;
pub use leaf::Leaf;
pub use validity::{
    CA_DAYS, CA_NOT_BEFORE, LEAF_BACKDATED_DAYS, LEAF_DAYS, RENEW_DAYS, Renewal, renewal, renewal_within,
};

use crate::onion::OnionAddress;
use der::{Decode, Encode};
use p256::ecdsa::SigningKey;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::SystemTime;
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use zeroize::Zeroizing;

/// Why a certificate cannot be made or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A certificate without names would be refused by every client.
    #[error("a certificate needs at least one onion address")]
    NoNames,
    /// The authority's name constraints leave it out.
    #[error("the appliance's authority was not made for {0}")]
    NotPermitted(OnionAddress),
    /// A clock that cannot be right.
    #[error("the clock says a time before 2025 or after 9998; set it before certificates are made")]
    Clock,
    /// The authority's own time is over.
    #[error("the appliance's authority has expired; a new one must be made and imported")]
    AuthorityExpired,
    /// Not a certificate, or a damaged one.
    #[error("the certificate cannot be read: {0}")]
    Certificate(der::Error),
    /// Not a private key, or a damaged one. The reason is left out, lest it show a part of the key.
    #[error("the private key cannot be read: it must be an unencrypted P-256 key in PKCS #8 PEM")]
    Key,
    /// Files of two different pairs.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A name in a certificate that is no onion address.
    #[error("the certificate names something other than onion addresses")]
    ForeignName,
    /// The encoder failed, which no valid input leads to.
    #[error("the certificate cannot be made: {0}")]
    Build(#[from] x509_cert::builder::Error),
}

/// The SHA-256 hash of a certificate, as mail programs show it: 32 bytes in hexadecimal with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.0.map(|byte| format!("{byte:02X}"));
        f.pad(&hex.join(":"))
    }
}

/// The onion addresses for which a certificate in DER is valid, in its order.
///
/// # Errors
/// If it cannot be read, or names anything else.
pub fn names(der: &[u8]) -> Result<Vec<OnionAddress>, TlsError> {
    let certificate = Certificate::from_der(der).map_err(TlsError::Certificate)?;
    let extension = certificate.tbs_certificate().get_extension().map_err(TlsError::Certificate)?;
    let (_, SubjectAltName(names)) = extension.ok_or(TlsError::ForeignName)?;
    names.iter().map(onion).collect()
}

fn onion(name: &GeneralName) -> Result<OnionAddress, TlsError> {
    match name {
        GeneralName::DnsName(name) => name.as_str().parse().map_err(|_| TlsError::ForeignName),
        _ => Err(TlsError::ForeignName),
    }
}

/// An onion address as a DNS name in a certificate.
fn dns_name(address: &OnionAddress) -> der::Result<GeneralName> {
    der::asn1::Ia5String::new(&address.to_string()).map(GeneralName::DnsName)
}

/// A certificate with its secret key.
struct Pair {
    key: SigningKey,
    certificate: Certificate,
    der: Vec<u8>,
}

impl Pair {
    fn new(key: SigningKey, certificate: Certificate) -> Result<Self, TlsError> {
        let der = certificate.to_der().map_err(TlsError::Certificate)?;
        Ok(Self { key, certificate, der })
    }

    /// Reads both files and makes sure that they belong together.
    fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        use der::DecodePem;
        let certificate = Certificate::from_pem(certificate).map_err(TlsError::Certificate)?;
        let key = SigningKey::from_pkcs8_pem(key).map_err(|_| TlsError::Key)?;
        let public = key.verifying_key().to_public_key_der().map_err(|_| TlsError::Key)?;
        let certified = certificate.tbs_certificate().subject_public_key_info().to_der();
        if certified.map_err(TlsError::Certificate)? != public.as_bytes() {
            return Err(TlsError::KeyMismatch);
        }
        Self::new(key, certificate)
    }

    fn certificate_pem(&self) -> Result<String, TlsError> {
        use der::EncodePem;
        self.certificate.to_pem(LineEnding::LF).map_err(TlsError::Certificate)
    }

    fn key_pem(&self) -> Result<Zeroizing<String>, TlsError> {
        self.key.to_pkcs8_pem(LineEnding::LF).map_err(|_| TlsError::Key)
    }

    fn not_after(&self) -> SystemTime {
        self.certificate.tbs_certificate().validity().not_after.to_system_time()
    }
}
