//! Certificates, judged by two independent verifiers: OpenSSL, which many mail programs are built on, and
//! rustls-webpki.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use identity::onion::{OnionAddress, OnionKey};
use identity::rand_core::SeedableRng;
use identity::tls::{
    self, CertificateAuthority, Fingerprint, Leaf, Renewal, TlsError, renewal, renewal_within,
};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring};

const DAY: Duration = Duration::from_secs(86_400);

fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

fn onions<const N: usize>(seed: u8) -> [OnionAddress; N] {
    std::array::from_fn(|i| {
        OnionKey::from_seed(&std::array::from_fn(|place| if place == i { !seed } else { seed })).address()
    })
}

/// A moment in the summer of 2026.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_000_000)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// What rustls-webpki, the verifier of rustls, says of a server certificate for a name at a time.
fn webpki_verdict(authority: &[u8], leaf: &[u8], name: &str, at: SystemTime) -> Result<(), webpki::Error> {
    let authority = CertificateDer::from(authority);
    let leaf = CertificateDer::from(leaf);
    let anchors = [anchor_from_trusted_cert(&authority)?];
    let leaf = EndEntityCert::try_from(&leaf)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds(at)));
    let usage = KeyUsage::server_auth();
    leaf.verify_for_usage(&[ring::ECDSA_P256_SHA256], &anchors, &[], time, usage, None, None)?;
    leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
}

/// Runs openssl in a folder; gives what it printed if it succeeded, else what it complained about.
fn openssl(folder: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("starting openssl (Debian package openssl)");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr) + &text(&output.stdout))
    }
}

/// What `openssl verify` says, as strictly as it can, of `leaf.pem` signed by `authority.pem`.
fn openssl_verdict(folder: &Path, name: &str, at: SystemTime) -> Result<String, String> {
    let at = seconds(at).to_string();
    let strict =
        ["verify", "-x509_strict", "-purpose", "sslserver", "-attime", &at, "-verify_hostname", name];
    let trust = ["-no-CAfile", "-no-CApath", "-no-CAstore", "-CAfile", "authority.pem", "leaf.pem"];
    openssl(folder, &[&strict[..], &trust[..]].concat())
}

/// An authority, a certificate of its, and a folder with both in PEM.
struct Case {
    authority: CertificateAuthority,
    leaf: Leaf,
    folder: tempfile::TempDir,
}

impl Case {
    fn new(permitted: &[OnionAddress], names: &[OnionAddress], seed: u8) -> Self {
        let mut rng = rng(seed);
        let authority = CertificateAuthority::generate(permitted, now(), &mut rng).unwrap();
        let leaf = authority.issue(names, now(), &mut rng).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("authority.pem"), authority.certificate_pem().unwrap()).unwrap();
        std::fs::write(folder.path().join("authority.key"), &*authority.key_pem().unwrap()).unwrap();
        std::fs::write(folder.path().join("leaf.pem"), leaf.certificate_pem().unwrap()).unwrap();
        std::fs::write(folder.path().join("leaf.key"), &*leaf.key_pem().unwrap()).unwrap();
        Self { authority, leaf, folder }
    }

    fn webpki(&self, name: &str, at: SystemTime) -> Result<(), webpki::Error> {
        webpki_verdict(self.authority.certificate_der(), self.leaf.certificate_der(), name, at)
    }

    fn openssl(&self, name: &str, at: SystemTime) -> Result<String, String> {
        openssl_verdict(self.folder.path(), name, at)
    }
}

#[test]
fn both_verifiers_accept_the_certificate_for_its_names_only() {
    let [mx, client, admin, foreign] = onions(10);
    let case = Case::new(&[mx, client, admin], &[mx, client], 1);
    for name in [mx, client].map(|name| name.to_string()) {
        assert_eq!(case.webpki(&name, now()), Ok(()));
        case.openssl(&name, now()).unwrap();
    }
    for name in [admin, foreign].map(|name| name.to_string()) {
        assert!(matches!(case.webpki(&name, now()), Err(webpki::Error::CertNotValidForName(_))));
        assert!(case.openssl(&name, now()).unwrap_err().contains("hostname mismatch"));
    }
    assert_eq!(tls::names(case.leaf.certificate_der()).unwrap(), [mx, client]);
}

#[test]
fn both_verifiers_keep_to_the_time() {
    let [mx] = onions(20);
    let case = Case::new(&[mx], &[mx], 2);
    let name = mx.to_string();
    for days in [0, 30, 300, 365] {
        assert_eq!(case.webpki(&name, now() + DAY * days), Ok(()), "after {days} days");
        case.openssl(&name, now() + DAY * days).unwrap();
    }
    // A client whose clock is a month behind.
    assert_eq!(case.webpki(&name, now() - DAY * 30), Ok(()));
    case.openssl(&name, now() - DAY * 30).unwrap();

    let (early, late) = (now() - DAY * 33, now() + DAY * 367);
    assert!(matches!(case.webpki(&name, early), Err(webpki::Error::CertNotValidYet { .. })));
    assert!(case.openssl(&name, early).unwrap_err().contains("not yet valid"));
    assert!(matches!(case.webpki(&name, late), Err(webpki::Error::CertExpired { .. })));
    assert!(case.openssl(&name, late).unwrap_err().contains("has expired"));

    let der = case.leaf.certificate_der();
    assert_eq!(renewal(now(), der).unwrap(), Renewal::Fine { days_left: 365 });
    assert_eq!(renewal(now() + DAY * 340, der).unwrap(), Renewal::Due);
    assert_eq!(renewal(late, der).unwrap(), Renewal::Expired);
    assert_eq!(renewal(early, der).unwrap(), Renewal::NotYetValid);
    let authority = case.authority.certificate_der();
    assert_eq!(renewal_within(now(), authority, DAY * 365).unwrap(), Renewal::Fine { days_left: 3652 });
    assert_eq!(renewal_within(now() + DAY * 3400, authority, DAY * 365).unwrap(), Renewal::Due);
}

/// What the name constraints are for: even who has stolen the authority's key can make nothing else with it.
/// OpenSSL signs what our own code refuses to.
#[test]
fn a_stolen_authority_is_worth_nothing_elsewhere() {
    let [mx, foreign] = onions(30);
    let case = Case::new(&[mx], &[mx], 3);
    let folder = case.folder.path();
    let rogue = |san: &str, usage: &str, purpose: &str| -> (Result<String, String>, Vec<u8>) {
        let config = format!(
            "[req]\ndistinguished_name=dn\n[dn]\n[leaf]\nbasicConstraints=CA:false\nkeyUsage=digitalSignature\n\
             extendedKeyUsage={usage}\nsubjectAltName={san}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        );
        std::fs::write(folder.join("rogue.cnf"), config).unwrap();
        let request = [
            "req",
            "-new",
            "-key",
            "leaf.key",
            "-subj",
            "/CN=rogue",
            "-config",
            "rogue.cnf",
            "-out",
            "rogue.csr",
        ];
        openssl(folder, &request).unwrap();
        let sign = [
            "x509",
            "-req",
            "-in",
            "rogue.csr",
            "-CA",
            "authority.pem",
            "-CAkey",
            "authority.key",
            "-set_serial",
            "7",
            "-days",
            "30",
            "-extfile",
            "rogue.cnf",
            "-extensions",
            "leaf",
            "-out",
            "rogue.pem",
        ];
        openssl(folder, &sign).unwrap();
        openssl(folder, &["x509", "-in", "rogue.pem", "-outform", "DER", "-out", "rogue.der"]).unwrap();
        let verify = [
            "verify",
            "-x509_strict",
            "-no_check_time",
            "-purpose",
            purpose,
            "-CAfile",
            "authority.pem",
            "rogue.pem",
        ];
        (openssl(folder, &verify), std::fs::read(folder.join("rogue.der")).unwrap())
    };
    let webpki = |der: &[u8], name: &str| {
        let signed = SystemTime::now() + Duration::from_secs(60);
        webpki_verdict(case.authority.certificate_der(), der, name, signed)
    };

    // The way of testing itself is sound: a permitted name passes.
    let (verdict, der) = rogue(&format!("DNS:{mx}"), "serverAuth", "sslserver");
    verdict.unwrap();
    assert_eq!(webpki(&der, &mx.to_string()), Ok(()));

    for (san, name) in [
        (format!("DNS:{foreign}"), foreign.to_string()),
        ("DNS:example.org".to_owned(), "example.org".to_owned()),
        (format!("DNS:{mx},DNS:example.org"), "example.org".to_owned()),
        ("DNS:onion".to_owned(), "onion".to_owned()),
        ("IP:192.0.2.1".to_owned(), "192.0.2.1".to_owned()),
        ("IP:2001:db8::1".to_owned(), "2001:db8::1".to_owned()),
    ] {
        let (verdict, der) = rogue(&san, "serverAuth", "sslserver");
        let complaint = verdict.unwrap_err();
        assert!(complaint.contains("subtree violation"), "{san}: {complaint}");
        assert_eq!(webpki(&der, &name), Err(webpki::Error::NameConstraintViolation), "{san}");
    }
    // The certificate has the usage that is asked for; it is the authority that may not grant it.
    for (usage, purpose) in [("emailProtection", "smimesign"), ("clientAuth", "sslclient")] {
        let (verdict, _) = rogue(&format!("DNS:{mx}"), usage, purpose);
        let complaint = verdict.unwrap_err();
        assert!(
            complaint.contains("at 1 depth lookup: unsuitable certificate purpose"),
            "{usage}: {complaint}"
        );
    }
    // And it makes no further authorities.
    let config = "[req]\ndistinguished_name=dn\n[dn]\n[leaf]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n";
    std::fs::write(folder.join("sub.cnf"), config).unwrap();
    let request =
        ["req", "-new", "-key", "leaf.key", "-subj", "/CN=sub", "-config", "sub.cnf", "-out", "sub.csr"];
    openssl(folder, &request).unwrap();
    let sign = [
        "x509",
        "-req",
        "-in",
        "sub.csr",
        "-CA",
        "authority.pem",
        "-CAkey",
        "authority.key",
        "-set_serial",
        "8",
        "-days",
        "30",
        "-extfile",
        "sub.cnf",
        "-extensions",
        "leaf",
        "-out",
        "sub.pem",
    ];
    openssl(folder, &sign).unwrap();
    let sign = [
        "x509",
        "-req",
        "-in",
        "rogue.csr",
        "-CA",
        "sub.pem",
        "-CAkey",
        "leaf.key",
        "-set_serial",
        "9",
        "-days",
        "30",
        "-out",
        "below.pem",
    ];
    openssl(folder, &sign).unwrap();
    let below = openssl(
        folder,
        &["verify", "-no_check_time", "-CAfile", "authority.pem", "-untrusted", "sub.pem", "below.pem"],
    );
    assert!(below.unwrap_err().contains("path length constraint exceeded"));
}

#[test]
fn openssl_reads_the_authority_as_it_is_meant() {
    let [mx, client] = onions(40);
    let case = Case::new(&[mx, client], &[mx], 4);
    let text = openssl(case.folder.path(), &["x509", "-in", "authority.pem", "-noout", "-text"]).unwrap();
    for part in [
        "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0\n",
        "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign\n",
        "X509v3 Name Constraints: critical\n",
        "Not Before: Jan  1 00:00:00 2025 GMT",
        "Not After : Jul 25 00:00:00 2036 GMT",
        "ASN1 OID: prime256v1",
        "TLS Web Server Authentication",
        &format!("DNS:{mx}"),
        &format!("DNS:{client}"),
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let printed = |file| {
        openssl(case.folder.path(), &["x509", "-in", file, "-noout", "-fingerprint", "-sha256"]).unwrap()
    };
    assert!(printed("authority.pem").trim_end().ends_with(&case.authority.fingerprint().to_string()));
    assert!(printed("leaf.pem").trim_end().ends_with(&case.leaf.fingerprint().to_string()));
    openssl(case.folder.path(), &["pkey", "-in", "leaf.key", "-check", "-noout"]).unwrap();
    openssl(case.folder.path(), &["pkey", "-in", "authority.key", "-check", "-noout"]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Whenever the clock was right at the time of making, webpki accepts; also in years that need the other
    /// way of writing a date (from 2050).
    #[test]
    fn chains_verify_whenever_they_are_made(day in 0u32..20_000, later in 0u32..3000, seed: u8) {
        let mut rng = rng(seed);
        let permitted: [_; 3] = onions(seed);
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(tls::CA_NOT_BEFORE) + DAY * day;
        let authority = CertificateAuthority::generate(&permitted, made, &mut rng).unwrap();
        let at = made + DAY * later;
        let leaf = authority.issue(&permitted[1..], at, &mut rng).unwrap();
        let verdict = webpki_verdict(authority.certificate_der(), leaf.certificate_der(), &permitted[2].to_string(), at);
        prop_assert_eq!(verdict, Ok(()));
        let is_fine = matches!(renewal(at, leaf.certificate_der()), Ok(Renewal::Fine { .. }));
        prop_assert!(is_fine);
    }

    #[test]
    fn files_come_back(seed: u8) {
        let mut rng = rng(seed);
        let permitted: [_; 2] = onions(seed);
        let authority = CertificateAuthority::generate(&permitted, now(), &mut rng).unwrap();
        let (certificate, key) = (authority.certificate_pem().unwrap(), authority.key_pem().unwrap());
        let again = CertificateAuthority::from_pem(&certificate, &key).unwrap();
        prop_assert_eq!(again.permitted(), permitted);
        prop_assert_eq!(again.certificate_pem().unwrap(), certificate.clone());
        prop_assert_eq!(again.key_pem().unwrap(), key.clone());
        prop_assert_eq!(format!("{again:?}"), format!("CertificateAuthority({}, …)", Fingerprint::of(again.certificate_der())));
        let leaf = again.issue(&permitted[..1], now(), &mut rng).unwrap();
        let (leaf_certificate, leaf_key) = (leaf.certificate_pem().unwrap(), leaf.key_pem().unwrap());
        Leaf::from_pem(&leaf_certificate, &leaf_key).unwrap();
        let is_mismatch = matches!(Leaf::from_pem(&leaf_certificate, &key), Err(TlsError::KeyMismatch));
        prop_assert!(is_mismatch);
        let is_foreign = matches!(CertificateAuthority::from_pem(&leaf_certificate, &leaf_key), Err(TlsError::ForeignName));
        prop_assert!(is_foreign);
        let other = CertificateAuthority::generate(&permitted, now(), &mut rng).unwrap();
        prop_assert_ne!(other.fingerprint(), authority.fingerprint());
    }

    #[test]
    fn no_input_makes_it_panic(bytes: Vec<u8>, text: String) {
        let _ = renewal(now(), &bytes);
        let _ = tls::names(&bytes);
        let _ = Leaf::from_pem(&text, &text);
    }
}

#[test]
fn what_cannot_be_signed_is_refused() {
    let [mx, foreign] = onions(50);
    let mut rng = rng(5);
    let none = CertificateAuthority::generate(&[], now(), &mut rng);
    assert!(matches!(none, Err(TlsError::NoNames)));
    let unset = CertificateAuthority::generate(&[mx], SystemTime::UNIX_EPOCH, &mut rng);
    assert!(matches!(unset, Err(TlsError::Clock)));
    let authority = CertificateAuthority::generate(&[mx], now(), &mut rng).unwrap();
    assert!(matches!(authority.issue(&[], now(), &mut rng), Err(TlsError::NoNames)));
    assert!(
        matches!(authority.issue(&[mx, foreign], now(), &mut rng), Err(TlsError::NotPermitted(name)) if name == foreign)
    );
    assert!(matches!(authority.issue(&[mx], now() + DAY * 3700, &mut rng), Err(TlsError::AuthorityExpired)));
    assert!(matches!(Leaf::from_pem("", ""), Err(TlsError::Certificate(_))));
    let certificate = authority.certificate_pem().unwrap();
    assert!(matches!(Leaf::from_pem(&certificate, "-----BEGIN PRIVATE KEY-----"), Err(TlsError::Key)));
}

#[test]
fn a_certificate_signed_by_itself_names_one_address_and_nothing_else() {
    let [mx, client] = onions(11);
    let leaf = Leaf::self_signed(mx, now(), &mut rng(5)).unwrap();
    assert_eq!(tls::names(leaf.certificate_der()).unwrap(), [mx]);
    assert!(matches!(renewal(now(), leaf.certificate_der()), Ok(Renewal::Fine { .. })));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("leaf.pem"), leaf.certificate_pem().unwrap()).unwrap();
    let names =
        openssl(folder.path(), &["x509", "-in", "leaf.pem", "-noout", "-subject", "-issuer"]).unwrap();
    let name = mx.label();
    assert_eq!(names.matches(&name).count(), 2, "subject and issuer are the address: {names}");
    let text = openssl(folder.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]).unwrap();
    assert!(!text.contains("Cipolla") && !text.contains(&client.label()), "{text}");
    // Whoever trusts this very certificate can verify it.
    std::fs::copy(folder.path().join("leaf.pem"), folder.path().join("authority.pem")).unwrap();
    let at = seconds(now()).to_string();
    let verdict = openssl(
        folder.path(),
        &[
            "verify",
            "-attime",
            &at,
            "-verify_hostname",
            &mx.to_string(),
            "-CAfile",
            "authority.pem",
            "leaf.pem",
        ],
    );
    assert!(verdict.unwrap().contains("OK"));
    let again = Leaf::from_pem(&leaf.certificate_pem().unwrap(), &leaf.key_pem().unwrap()).unwrap();
    assert_eq!(again.fingerprint(), leaf.fingerprint());
}
