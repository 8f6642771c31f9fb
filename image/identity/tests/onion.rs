//! Onion addresses and keys, against known addresses and a second implementation put together from crates that
//! share no code with ours.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use identity::onion::{AddressError, KeyFileError, OnionAddress, OnionKey, is_valid_v3};
use identity::rand_core::SeedableRng;
use identity::vanity::{self, Outcome, VanityPrefix};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use std::ops::ControlFlow;
use tiny_keccak::{Hasher, Sha3};

/// Addresses of services that exist or existed: three from rend-spec-v3, the Tor Project's, and that of a search engine.
const KNOWN: [&str; 5] = [
    "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion",
    "sp3k262uwy4r2k3ycr5awluarykdpag6a7y33jxop4cs2lu5uz5sseqd.onion",
    "xa4r2iadxm55fbnqgwwi5mymqdcofiu3w6rpbtqn7b2dyn7mgwj64jyd.onion",
    "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion",
    "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion",
];

/// The address of a public key, the second implementation.
fn address_of(public: &[u8; 32]) -> String {
    let mut checksum = [0; 32];
    let mut hash = Sha3::v256();
    hash.update(b".onion checksum");
    hash.update(public);
    hash.update(&[3]);
    hash.finalize(&mut checksum);
    let bytes = [&public[..], &checksum[..2], &[3]].concat();
    base32::encode(base32::Alphabet::Rfc4648Lower { padding: false }, &bytes) + ".onion"
}

fn changed(text: &str, at: usize, to: char) -> String {
    text.chars().enumerate().map(|(i, c)| if i == at { to } else { c }).collect()
}

#[test]
fn known_addresses_are_valid() {
    for known in KNOWN {
        assert!(is_valid_v3(known), "{known}");
        let address: OnionAddress = known.parse().unwrap();
        assert_eq!(address.to_string(), known);
        assert_eq!(known.to_uppercase().parse(), Ok(address));
        assert_eq!(address_of(address.public_key()), known);
    }
}

#[test]
fn every_wrong_address_says_what_is_wrong() {
    use AddressError as E;
    let good = KNOWN[0];
    let label = good.strip_suffix(".onion").unwrap();
    let mut other_version = base32::decode(base32::Alphabet::Rfc4648Lower { padding: false }, label).unwrap();
    other_version[34] = 4;
    let other_version = base32::encode(base32::Alphabet::Rfc4648Lower { padding: false }, &other_version);
    let cases = [
        (String::new(), E::Suffix),
        (label.to_owned(), E::Suffix),
        ("example.org".to_owned(), E::Suffix),
        (format!("{good}."), E::Suffix),
        (format!("www.{good}"), E::Subdomain),
        (".onion".to_owned(), E::Length { got: 0 }),
        (good[1..].to_owned(), E::Length { got: 55 }),
        (format!("a{good}"), E::Length { got: 57 }),
        ("expyuzz4wqqyqhjn.onion".to_owned(), E::RetiredV2),
        (changed(good, 4, '0'), E::Alphabet { character: '0', position: 5 }),
        (changed(good, 55, 'é'), E::Alphabet { character: 'é', position: 56 }),
        (format!(" {good}"), E::Alphabet { character: ' ', position: 1 }),
        (changed(good, 0, 'q'), E::Checksum),
        (format!("{other_version}.onion"), E::Version { got: 4 }),
        // No point, the neutral element, a point of order two, and the base point plus one of order eight.
        (address_of(&with_first(2)), E::Point),
        (address_of(&with_first(1)), E::Point),
        (address_of(&minus_one()), E::Point),
        (address_of(&torsioned()), E::Point),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<OnionAddress>(), Err(error), "{text:?}");
        assert!(!is_valid_v3(&text));
    }
}

fn with_first(first: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = first;
    bytes
}

/// The encoding of y = -1, a point of order two.
fn minus_one() -> [u8; 32] {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xec, 0x7f);
    bytes
}

/// A point on the curve but outside the group of prime order.
fn torsioned() -> [u8; 32] {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    (ED25519_BASEPOINT_POINT + EIGHT_TORSION[1]).compress().to_bytes()
}

#[test]
fn every_mistyped_character_is_noticed() {
    for at in 0..56 {
        for to in "abcdefghijklmnopqrstuvwxyz234567".chars().filter(|c| KNOWN[0].chars().nth(at) != Some(*c))
        {
            let wrong = changed(KNOWN[0], at, to);
            assert!(wrong.parse::<OnionAddress>().is_err(), "{wrong}");
        }
    }
}

proptest! {
    #[test]
    fn keys_and_addresses_agree_with_the_second_implementation(seed: [u8; 32]) {
        let key = OnionKey::from_seed(&seed);
        let theirs = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(seed));
        prop_assert_eq!(*key.address().public_key(), *theirs.pk);
        prop_assert_eq!(key.address().to_string(), address_of(&theirs.pk));
        prop_assert_eq!(key.hostname_file(), address_of(&theirs.pk) + "\n");
    }

    #[test]
    fn files_have_their_form_and_come_back(seed: [u8; 32]) {
        let key = OnionKey::generate(&mut ChaCha20Rng::from_seed(seed));
        let (secret, public) = (key.secret_key_file(), key.public_key_file());
        prop_assert_eq!(&secret[..32], b"== ed25519v1-secret: type0 ==\0\0\0");
        prop_assert_eq!(&public[..32], b"== ed25519v1-public: type0 ==\0\0\0");
        let again = OnionKey::from_secret_key_file(&secret[..]).unwrap();
        prop_assert_eq!(again.address(), key.address());
        prop_assert_eq!(&again.secret_key_file()[..], &secret[..]);
        prop_assert_eq!(OnionAddress::from_public_key_file(&public), Ok(key.address()));
        let json = serde_json::to_string(&key.address()).unwrap();
        prop_assert_eq!(serde_json::from_str::<OnionAddress>(&json).unwrap(), key.address());
    }

    #[test]
    fn damaged_secret_files_are_refused(seed: [u8; 32], cut in 0usize..96, at in 0usize..32, bit in 0u8..8) {
        let file = OnionKey::from_seed(&seed).secret_key_file();
        let length = KeyFileError::Length { expected: 96, got: cut };
        let short = OnionKey::from_secret_key_file(&file[..cut]).unwrap_err();
        prop_assert_eq!(short, length);
        let mut header = file.clone();
        header[at] ^= 1 << bit;
        let wrong = OnionKey::from_secret_key_file(&header[..]).unwrap_err();
        let is_header = matches!(wrong, KeyFileError::Header { .. });
        prop_assert!(is_header);
        for (byte, bit) in [(32, 0), (32, 1), (32, 2), (63, 6), (63, 7)] {
            let mut scalar = file.clone();
            scalar[byte] ^= 1 << bit;
            prop_assert_eq!(OnionKey::from_secret_key_file(&scalar[..]).unwrap_err(), KeyFileError::Clamping);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text: String, bytes: Vec<u8>) {
        let _ = text.parse::<OnionAddress>();
        let _ = format!("{text}.onion").parse::<OnionAddress>();
        let _ = OnionKey::from_secret_key_file(&bytes);
        let _ = OnionAddress::from_public_key_file(&bytes);
    }

    #[test]
    fn debug_shows_the_address_and_nothing_else(seed: [u8; 32]) {
        let key = OnionKey::from_seed(&seed);
        prop_assert_eq!(format!("{key:?}"), format!("OnionKey({}, …)", key.address()));
    }
}

#[test]
fn files_of_the_wrong_kind_are_told_apart() {
    let key = OnionKey::from_seed(&[1; 32]);
    let swapped = OnionAddress::from_public_key_file(&key.secret_key_file()[..64]).unwrap_err();
    assert!(matches!(swapped, KeyFileError::Header { .. }));
    let mut no_point = key.public_key_file();
    no_point[32..].copy_from_slice(&with_first(2));
    assert_eq!(OnionAddress::from_public_key_file(&no_point), Err(KeyFileError::Point));
}

fn unhurried(_: vanity::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The key that a walk ends at is a whole key: what it signs, the second implementation verifies.
    #[test]
    fn vanity_keys_begin_as_asked_and_sign(seed: [u8; 32], prefix in "[a-z2-7]{1,2}") {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let outcome = vanity::search(prefix.parse().unwrap(), &mut rng, u64::MAX, unhurried);
        let Outcome::Found { key, tries } = outcome else { panic!("no key found") };
        prop_assert!(tries > 0);
        prop_assert!(key.address().to_string().starts_with(&prefix));
        let file = key.secret_key_file();
        prop_assert_eq!(OnionKey::from_secret_key_file(&file[..]).unwrap().address(), key.address());
        let signature = sign(file[32..].try_into().unwrap(), b"a message");
        let public = ed25519_compact::PublicKey::new(*key.address().public_key());
        let signature = ed25519_compact::Signature::new(signature);
        prop_assert!(public.verify(b"a message", &signature).is_ok());
    }
}

/// Signs as Tor does with an expanded key (RFC 8032 §5.1.6, from step 2).
fn sign(expanded: &[u8; 64], message: &[u8]) -> [u8; 64] {
    use curve25519_dalek::{EdwardsPoint, Scalar};
    use sha2::{Digest, Sha512};
    let hash = |parts: &[&[u8]]| {
        let mut hash = Sha512::new();
        parts.iter().for_each(|part| hash.update(part));
        Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
    };
    let (scalar, prefix) = expanded.split_at(32);
    let secret = Scalar::from_bytes_mod_order(scalar.try_into().unwrap());
    let nonce = hash(&[prefix, message]);
    let commitment = EdwardsPoint::mul_base(&nonce).compress();
    let public = EdwardsPoint::mul_base(&secret).compress();
    let response = nonce + hash(&[commitment.as_bytes(), public.as_bytes(), message]) * secret;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(commitment.as_bytes());
    signature[32..].copy_from_slice(response.as_bytes());
    signature
}

#[test]
fn vanity_prefixes_are_checked_and_written_back() {
    for (text, tries) in [("a", 32), ("z7", 1024), ("abc", 32_768), ("q2q7", 1 << 20), ("abcde", 1 << 25)] {
        let prefix: VanityPrefix = text.parse().unwrap();
        assert_eq!((prefix.to_string().as_str(), prefix.expected_tries()), (text, tries));
        assert_eq!(text.to_uppercase().parse(), Ok(prefix));
    }
    use vanity::PrefixError as E;
    for (text, error) in [
        ("", E::Length { got: 0 }),
        ("abcdef", E::Length { got: 6 }),
        ("a1", E::Alphabet { character: '1' }),
        ("ä", E::Alphabet { character: 'ä' }),
        ("a-b", E::Alphabet { character: '-' }),
    ] {
        assert_eq!(text.parse::<VanityPrefix>(), Err(error));
    }
}

#[test]
fn vanity_search_keeps_to_its_budget_and_can_be_broken_off() {
    let prefix: VanityPrefix = "zzzzz".parse().unwrap();
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let outcome = vanity::search(prefix, &mut rng, 1000, unhurried);
    assert!(matches!(outcome, Outcome::Stopped { tries: 1000..1200 }), "{outcome:?}");
    let mut calls = Vec::new();
    let outcome = vanity::search(prefix, &mut rng, u64::MAX, |progress| {
        calls.push(progress.tries);
        if calls.len() < 4 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(calls.is_sorted() && calls[0] == 0 && calls[1] > 0);
    assert!(matches!(outcome, Outcome::Stopped { tries } if tries == calls[3]), "{outcome:?}");
}

#[test]
fn vanity_search_needs_about_as_many_tries_as_it_says() {
    let prefix: VanityPrefix = "ab".parse().unwrap();
    let total: u64 = (0..64)
        .map(|seed| {
            match vanity::search(prefix, &mut ChaCha20Rng::from_seed([seed; 32]), u64::MAX, unhurried) {
                Outcome::Found { tries, .. } => tries,
                Outcome::Stopped { .. } => panic!("no key found"),
            }
        })
        .sum();
    let mean = total / 64;
    assert!((512..2048).contains(&mean), "{mean} tries on average, expected {}", prefix.expected_tries());
}
