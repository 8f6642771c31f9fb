//! Client authorization: what is written can be read, and whatever Tor would pass over is noticed.

use ed25519_compact::x25519;
use identity::client_auth::{
    AuthorizedClient, ClientAuth, ClientName, FolderProblem, FormatError, check_folder,
};
use identity::onion::{AddressError, OnionKey};
use identity::rand_core::SeedableRng;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;

const UPPER: base32::Alphabet = base32::Alphabet::Rfc4648 { padding: false };

fn client(seed: u8) -> ClientAuth {
    ClientAuth::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
}

proptest! {
    #[test]
    fn files_come_back_and_agree_with_the_second_implementation(seed: [u8; 32], service: [u8; 32]) {
        let auth = ClientAuth::generate(&mut ChaCha20Rng::from_seed(seed));
        let service = OnionKey::from_seed(&service).address();

        let line = auth.public().service_file();
        let (head, key) = line.split_at("descriptor:x25519:".len());
        prop_assert_eq!(head, "descriptor:x25519:");
        prop_assert_eq!(key.len(), 53);
        let secret = base32::decode(UPPER, &auth.private_key()).unwrap();
        let theirs = x25519::SecretKey::from_slice(&secret).unwrap().recover_public_key().unwrap();
        prop_assert_eq!(base32::decode(UPPER, key.trim_end()).unwrap(), theirs.to_vec());

        prop_assert_eq!(AuthorizedClient::parse_service_file(&line), Ok(auth.public()));
        let lower = format!("{head}{}", key.to_lowercase());
        prop_assert_eq!(AuthorizedClient::parse_service_file(&lower), Ok(auth.public()));

        let file = auth.client_file(&service);
        prop_assert_eq!(format!("{}.onion", &file[..56]), service.to_string());
        let (address, again) = ClientAuth::parse_client_file(&file).unwrap();
        prop_assert_eq!(address, service);
        prop_assert_eq!(again.private_key(), auth.private_key());
        prop_assert_eq!(format!("{auth:?}"), "ClientAuth(…)");
    }

    /// No change to the key of a file goes unnoticed unless it gives another whole key.
    #[test]
    fn damage_is_noticed_or_gives_another_key(at in 0usize..70, byte in 0u8..128) {
        let good = client(1).public().service_file();
        let mut bytes = good.clone().into_bytes();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).unwrap();
        match AuthorizedClient::parse_service_file(&text) {
            Ok(key) if key == client(1).public() => prop_assert!(text.trim().eq_ignore_ascii_case(good.trim())),
            Ok(_) => prop_assert!((18..70).contains(&at)),
            Err(_) => {}
        }
    }

    #[test]
    fn no_text_makes_it_panic(text: String) {
        let _ = AuthorizedClient::parse_service_file(&text);
        let _ = ClientAuth::parse_client_file(&text);
        let _ = text.parse::<ClientName>();
    }
}

#[test]
fn every_wrong_service_file_says_what_is_wrong() {
    use FormatError as E;
    let key = "A".repeat(52);
    let good = client(1).public().service_file();
    let form = "descriptor:x25519:KEY";
    let cases = [
        (String::new(), E::Empty),
        (" \r\n".to_owned(), E::Empty),
        (good.repeat(2), E::Lines),
        (key.clone(), E::Fields { form, expected: 3, got: 1 }),
        (format!("a:{good}"), E::Fields { form, expected: 3, got: 4 }),
        (format!("intro:x25519:{key}"), E::AuthType { got: "intro".into() }),
        (format!("Descriptor:x25519:{key}"), E::AuthType { got: "Descriptor".into() }),
        (format!("descriptor:ed25519:{key}"), E::KeyType { got: "ed25519".into() }),
        (format!("descriptor:x25519:{}", &key[1..]), E::KeyLength { got: 51 }),
        (format!("descriptor:x25519:{key}===="), E::KeyLength { got: 56 }),
        (format!("descriptor:x25519:{}1", &key[1..]), E::KeyAlphabet),
        (format!("descriptor:x25519:{}B", &key[1..]), E::KeyAlphabet),
        (format!("descriptor:x25519:{}é", &key[1..]), E::KeyAlphabet),
        (format!("descriptor:x25519:{key}"), E::WeakKey),
    ];
    for (text, error) in cases {
        assert_eq!(AuthorizedClient::parse_service_file(&text), Err(error), "{text:?}");
    }
    let padded = format!("  {}\r\n", good.trim());
    assert_eq!(AuthorizedClient::parse_service_file(&padded), Ok(client(1).public()));
}

#[test]
fn every_wrong_client_file_says_what_is_wrong() {
    let label = OnionKey::from_seed(&[9; 32]).address().label();
    let key = "A".repeat(52);
    let error = |text: String| ClientAuth::parse_client_file(&text).unwrap_err();
    assert_eq!(
        error(format!("{label}.onion:descriptor:x25519:{key}")),
        FormatError::Address(AddressError::Subdomain)
    );
    assert_eq!(
        error(format!("{}:descriptor:x25519:{key}", &label[1..])),
        FormatError::Address(AddressError::Length { got: 55 })
    );
    assert!(matches!(error(format!("descriptor:x25519:{key}")), FormatError::Fields { expected: 4, .. }));
    assert!(matches!(
        error(format!("{label}:descriptor:x25519:{}", &key[1..])),
        FormatError::KeyLength { .. }
    ));
}

#[test]
fn a_folder_that_tor_would_leave_open_is_refused() {
    let good = client(1).public().service_file();
    let other = client(2).public().service_file();

    let both = check_folder([("laptop.auth", good.as_str()), ("phone.auth", other.as_str())]).unwrap();
    let names: Vec<_> = both.iter().map(|(name, key)| (name.as_str(), *key)).collect();
    assert_eq!(names, [("laptop", client(1).public()), ("phone", client(2).public())]);

    assert_eq!(check_folder([]), Err(vec![FolderProblem::Open]));
    let damaged = check_folder([("laptop.auth", &good[..40])]).unwrap_err();
    assert!(
        matches!(&damaged[..], [FolderProblem::Content { file, .. }, FolderProblem::Open] if file == "laptop.auth")
    );
    // One good file keeps the service closed, but the other client would be shut out without a word.
    let half = check_folder([("laptop.auth", good.as_str()), ("phone.auth", "")]).unwrap_err();
    assert!(
        matches!(&half[..], [FolderProblem::Content { file, problem: FormatError::Empty }] if file == "phone.auth")
    );
    for name in ["laptop", ".auth", "laptop.auth~", "Laptop.auth", "../laptop.auth", "laptop.auth.bak"] {
        let ignored = check_folder([(name, good.as_str())]).unwrap_err();
        assert!(
            matches!(&ignored[..], [FolderProblem::FileName { file }, FolderProblem::Open] if file == name)
        );
    }
}

#[test]
fn client_names_are_checked() {
    for good in ["laptop", "a", "2nd-phone", &"x".repeat(32)] {
        assert_eq!(good.parse::<ClientName>().unwrap().file_name(), format!("{good}.auth"));
    }
    for bad in ["", "-a", "A", "a.b", "a b", "a/b", "ä", &"x".repeat(33)] {
        assert!(bad.parse::<ClientName>().is_err(), "{bad:?}");
    }
}
