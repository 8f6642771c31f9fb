//! The appliance's certification authority.

use super::{Fingerprint, Leaf, Pair, TlsError, dns_name, validity};
use crate::onion::OnionAddress;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::elliptic_curve::Generate;
use rand_core::CryptoRng;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::OctetString;
use x509_cert::der::flagset::FlagSet;
use x509_cert::der::{self, oid::db::rfc5280::ID_KP_SERVER_AUTH};
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, NameConstraints, SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};
use zeroize::Zeroizing;

/// A certification authority that can only vouch for the onion addresses it was made for, with its secret key.
pub struct CertificateAuthority {
    pair: Pair,
    permitted: Vec<OnionAddress>,
}

impl CertificateAuthority {
    /// Makes a new authority for exactly these addresses, valid for [`super::CA_DAYS`] from now.
    ///
    /// # Errors
    /// If there is no address, or `now` cannot be right.
    pub fn generate<R: CryptoRng + ?Sized>(
        permitted: &[OnionAddress],
        now: SystemTime,
        rng: &mut R,
    ) -> Result<Self, TlsError> {
        if permitted.is_empty() {
            return Err(TlsError::NoNames);
        }
        let validity = validity::of_authority(now)?;
        let key = SigningKey::generate_from_rng(rng);
        let public = SubjectPublicKeyInfo::from_key(key.verifying_key()).map_err(builder::Error::from)?;
        let serial = SerialNumber::generate(rng);
        let profile = AuthorityProfile { subject: subject(&serial)?, permitted };
        let builder = CertificateBuilder::new(profile, serial, validity, public)?;
        let certificate = builder.build::<_, DerSignature>(&key)?;
        Ok(Self { pair: Pair::new(key, certificate)?, permitted: permitted.to_vec() })
    }

    /// Reads the files that [`CertificateAuthority::certificate_pem`] and [`CertificateAuthority::key_pem`] made.
    ///
    /// # Errors
    /// If one cannot be read, they do not belong together, or the certificate is not an authority limited to
    /// onion addresses.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let pair = Pair::from_pem(certificate, key)?;
        let extension = pair.certificate.tbs_certificate().get_extension().map_err(TlsError::Certificate)?;
        let (_, constraints): (_, NameConstraints) = extension.ok_or(TlsError::ForeignName)?;
        let subtrees = constraints.permitted_subtrees.unwrap_or_default();
        let permitted: Vec<_> =
            subtrees.iter().map(|tree| super::onion(&tree.base)).collect::<Result<_, _>>()?;
        if permitted.is_empty() { Err(TlsError::NoNames) } else { Ok(Self { pair, permitted }) }
    }

    /// Signs a new server certificate for some of the permitted addresses, with a new key of its own.
    ///
    /// # Errors
    /// If an address is not permitted, there is none, `now` cannot be right, or the authority has expired.
    pub fn issue<R: CryptoRng + ?Sized>(
        &self,
        names: &[OnionAddress],
        now: SystemTime,
        rng: &mut R,
    ) -> Result<Leaf, TlsError> {
        if let Some(name) = names.iter().find(|name| !self.permitted.contains(name)) {
            return Err(TlsError::NotPermitted(*name));
        }
        let validity = validity::of_leaf(now, self.pair.not_after())?;
        Leaf::sign(Some(&self.pair), names, validity, rng)
    }

    /// The addresses for which it can vouch.
    #[must_use]
    pub fn permitted(&self) -> &[OnionAddress] {
        &self.permitted
    }

    /// The certificate in PEM, for the owner to import. Public, but it names all of the appliance's services.
    ///
    /// # Errors
    /// If the encoder fails, which no certificate made here leads to.
    pub fn certificate_pem(&self) -> Result<String, TlsError> {
        self.pair.certificate_pem()
    }

    /// The certificate in DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.pair.der
    }

    /// The secret key in PKCS #8 PEM: to be owned by root, mode 0600, and read by no server.
    ///
    /// # Errors
    /// If the encoder fails, which no key made here leads to.
    pub fn key_pem(&self) -> Result<Zeroizing<String>, TlsError> {
        self.pair.key_pem()
    }

    /// What the owner compares when importing the certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.pair.der)
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({}, …)", self.fingerprint())
    }
}

/// A name that tells the authorities of several appliances apart in a list.
fn subject(serial: &SerialNumber) -> Result<Name, TlsError> {
    let bytes = serial.as_bytes();
    let mark = data_encoding::HEXLOWER.encode(&bytes[..bytes.len().min(4)]);
    format!("CN=Cipolla authority {mark}").parse().map_err(TlsError::Certificate)
}

/// What stands in an authority's certificate.
struct AuthorityProfile<'a> {
    subject: Name,
    permitted: &'a [OnionAddress],
}

impl BuilderProfile for AuthorityProfile<'_> {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        public: SubjectPublicKeyInfoRef<'_>,
        _issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let subject = tbs.subject();
        let usages: FlagSet<KeyUsages> = KeyUsages::KeyCertSign | KeyUsages::CRLSign;
        Ok(vec![
            BasicConstraints { ca: true, path_len_constraint: Some(0) }.to_extension(subject, &[])?,
            KeyUsage(usages).to_extension(subject, &[])?,
            ExtendedKeyUsage(vec![ID_KP_SERVER_AUTH]).to_extension(subject, &[])?,
            name_constraints(self.permitted)?.to_extension(subject, &[])?,
            SubjectKeyIdentifier::try_from(public)?.to_extension(subject, &[])?,
        ])
    }
}

/// These addresses and no IP address. Constraints hold for one kind of name each (RFC 5280 §4.2.1.10): permitting
/// DNS names alone would leave IP addresses free.
fn name_constraints(permitted: &[OnionAddress]) -> der::Result<NameConstraints> {
    let subtree = |base| GeneralSubtree { base, minimum: 0, maximum: None };
    let everything = |address: &[u8], mask: &[u8]| OctetString::new([address, mask].concat());
    let v4 = everything(&Ipv4Addr::UNSPECIFIED.octets(), &Ipv4Addr::UNSPECIFIED.octets())?;
    let v6 = everything(&Ipv6Addr::UNSPECIFIED.octets(), &Ipv6Addr::UNSPECIFIED.octets())?;
    Ok(NameConstraints {
        permitted_subtrees: Some(
            permitted.iter().map(|name| dns_name(name).map(subtree)).collect::<Result<_, _>>()?,
        ),
        excluded_subtrees: Some([v4, v6].map(|range| subtree(GeneralName::IpAddress(range))).to_vec()),
    })
}
