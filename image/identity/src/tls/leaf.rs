//! Server certificates.

use super::{Fingerprint, Pair, TlsError, dns_name, validity};
use crate::onion::OnionAddress;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::elliptic_curve::Generate;
use rand_core::CryptoRng;
use std::fmt;
use std::time::SystemTime;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::oid::db::rfc5280::ID_KP_SERVER_AUTH;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};
use x509_cert::time::Validity;
use zeroize::Zeroizing;

/// A server certificate with its secret key, made by [`super::CertificateAuthority::issue`] or signed by itself.
pub struct Leaf {
    pair: Pair,
}

impl Leaf {
    /// Makes a certificate that nobody vouches for, with a new key: for a service whose clients know it by its
    /// address alone. It names that address and nothing else; an authority's name in it would tell what kind of
    /// appliance this is.
    ///
    /// # Errors
    /// If `now` cannot be right.
    pub fn self_signed<R: CryptoRng + ?Sized>(
        name: OnionAddress,
        now: SystemTime,
        rng: &mut R,
    ) -> Result<Self, TlsError> {
        Self::sign(None, &[name], validity::of_self_signed(now)?, rng)
    }

    /// Signed by the authority or, without one, by itself.
    pub(super) fn sign<R: CryptoRng + ?Sized>(
        authority: Option<&Pair>,
        names: &[OnionAddress],
        validity: Validity,
        rng: &mut R,
    ) -> Result<Self, TlsError> {
        let first = names.first().ok_or(TlsError::NoNames)?;
        let key = SigningKey::generate_from_rng(rng);
        let public = SubjectPublicKeyInfo::from_key(key.verifying_key()).map_err(builder::Error::from)?;
        let subject: Name = format!("CN={first}").parse().map_err(TlsError::Certificate)?;
        let issuer =
            authority.map_or(&subject, |authority| authority.certificate.tbs_certificate().subject()).clone();
        let profile = LeafProfile { issuer, subject, names };
        let builder = CertificateBuilder::new(profile, SerialNumber::generate(rng), validity, public)?;
        let signer = authority.map_or(&key, |authority| &authority.key);
        let certificate = builder.build::<_, DerSignature>(signer)?;
        Ok(Self { pair: Pair::new(key, certificate)? })
    }

    /// Reads the files that [`Leaf::certificate_pem`] and [`Leaf::key_pem`] made.
    ///
    /// # Errors
    /// If one cannot be read, or they do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        Pair::from_pem(certificate, key).map(|pair| Self { pair })
    }

    /// The certificate in PEM: all that a server sends, without the authority's.
    ///
    /// # Errors
    /// If the encoder fails, which no certificate made here leads to.
    pub fn certificate_pem(&self) -> Result<String, TlsError> {
        self.pair.certificate_pem()
    }

    /// The certificate in DER, for [`super::renewal`] and [`super::names`].
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.pair.der
    }

    /// The secret key in PKCS #8 PEM: for the servers that use it alone, mode 0600 or 0640.
    ///
    /// # Errors
    /// If the encoder fails, which no key made here leads to.
    pub fn key_pem(&self) -> Result<Zeroizing<String>, TlsError> {
        self.pair.key_pem()
    }

    /// What a mail program shows of a server whose authority was not imported.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.pair.der)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leaf({}, …)", self.fingerprint())
    }
}

/// What stands in a server certificate.
struct LeafProfile<'a> {
    issuer: Name,
    subject: Name,
    names: &'a [OnionAddress],
}

impl BuilderProfile for LeafProfile<'_> {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        public: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let subject = tbs.subject();
        let names = self.names.iter().map(dns_name).collect::<Result<_, _>>()?;
        Ok(vec![
            BasicConstraints { ca: false, path_len_constraint: None }.to_extension(subject, &[])?,
            KeyUsage(KeyUsages::DigitalSignature.into()).to_extension(subject, &[])?,
            ExtendedKeyUsage(vec![ID_KP_SERVER_AUTH]).to_extension(subject, &[])?,
            SubjectAltName(names).to_extension(subject, &[])?,
            SubjectKeyIdentifier::try_from(public)?.to_extension(subject, &[])?,
            AuthorityKeyIdentifier::try_from(issuer)?.to_extension(subject, &[])?,
        ])
    }
}
