//! SSH keys, against what ssh-keygen says of the same keys and a second Ed25519 implementation.

use identity::rand_core::SeedableRng;
use identity::ssh::{HostKey, HostKeyError, OwnerKey, OwnerKeyError, parse_authorized_keys};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;

/// One public key per type, with the fingerprint that ssh-keygen gives it.
const OWNER_KEYS: &[(&str, &str)] = &[
    (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGHyQ3LaarIMyp5fYghmb3111xsgINmK6bWeDaLD8Qb0 aurelia@example",
        "SHA256:04zNJuMjU6AY9yAs4Ue8+e0OBD41sKMqUWn66mavQPg",
    ),
    (
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNK+Xl0mRyZIW9U+csvelhlkYjeb6QAzGLM9dicExYuQnuh80fKNhq0Wdv4ePGp9gW8R3bh0656Ha4SV6xiSnS0= aurelia@example",
        "SHA256:CTQeWTJhA45qBaolTOC/jPz+2VccUHf6J77wL85lZ1g",
    ),
    (
        "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBOgjVWYyEi9jTGvyHT/I9O+GPk5NEHeeyVUWdrz7FkM2dNZmr4fvdp155qRh9+39K99upJVexVMIefy1RnXoT19k8H0t3tV56Zpi7LqjvAfEGe3fj5rAantPKukiz3UFsw== aurelia@example",
        "SHA256:h7/bHD6c/ERou4FsQ0DRvRzI0uL1GKo5ABzw5slIkr8",
    ),
    (
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAE5F8DOAwv4p2TT73VRoUdAxa/xA1SoCQOcvzyUqbxAT7R+pSWWHgdyI6YSLhl9TPd0Xbh6Ryj1FjKhbndu49amgQDCRbqGZtC8RTIldmaGKAVcUkU60a463hA/VZjDa06MD/hSaOAhAQYeSJKWLlcx+Nk/eqEZs0VaL/jDOfsTTvKw0Q== aurelia@example",
        "SHA256:q6fs2AWGaz2VvBjxk0jPOyrtYELq1KUnXTnvtaQ4iAc",
    ),
    (
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCtRGuy0BJFfxpO/6P0W2D97yo2CDXhCkixz4JKjSUzr35d3kdNdYEiXt/fwx8ijnuzJ0e0gSqfR+Xf4GOQqMjN4pSClTfu/SSNJ7uHn+Lr/6UAtrNQXRgVGFPjyDtFO/ib2A4BVo90E0LSINZDtZ429vVOmnE9p7sN16YyJzxKyKvTgajZcA8aBwK1DHQAL4smg91WHCFgT2P2aREFe/o4rtAd/dIlbTaNDSXq4/tajKRjGRJqOp437MG23BZRf39g/euUMZ3/TNaa5cr2K3yeFAHSlzdYb3x1WMxbaZcAVZYDH1jMGGfZrtLvQbGAndOeLDTuBf0LCrmB8FZnh91r aurelia@example",
        "SHA256:zV+mYCAbq3DKP7rM0d2E33l+uNDgZP8sgBZFHKV5nZo",
    ),
    (
        "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIGHyQ3LaarIMyp5fYghmb3111xsgINmK6bWeDaLD8Qb0AAAABHNzaDo= aurelia@example",
        "SHA256:pDvcJu6DHY/7dCA3O+vOAyD19aUf++fAub/bRxJlOTk",
    ),
    (
        "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBNK+Xl0mRyZIW9U+csvelhlkYjeb6QAzGLM9dicExYuQnuh80fKNhq0Wdv4ePGp9gW8R3bh0656Ha4SV6xiSnS0AAAAEc3NoOg== aurelia@example",
        "SHA256:7n3VE7I9QbDwN7oz6X3ohmKBeo3xJ1h1HyW6vjHvn8c",
    ),
];

/// Keys that OpenSSH still reads but that are no longer safe.
const WEAK_KEYS: &[&str] = &[
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC0ni5SPOm5W3dUVFkKIW4j+zbhC2WzGKLG5n20sJ8hx+KIwZbJf4Yeu6UnmdpvV7qOge7tCeIMNtUJS84lQaUjPkxatGvjBHZUUcK5/EM/l+h5/vvLmOgqPHEHgSTC5BEnsIG2/HWiLSCxQ+Hqn5SOVDVYh2KyKyDYXasySqVtoQ== aurelia@example",
    "ssh-dss AAAAB3NzaC1kc3MAAACBAO7CRNunDXbCXk4d6+xXattFJ8V19anydGIAo0Bla88vB376HVxIN6bWY3tURwHasrO8mSbOT8vIhBctiJUPq50aAOUd1WFqSD1FE/DFk1nx7kOOnBMVSE5S0NV4kwrPr62gwV3gQoFAXs+YxxsJ26Vu8iGYuOJp3QKsiwrfKsofAAAAFQDs9m17LUEptBQSInms6yVyPgFdTQAAAIEAjhCYXJvFrLFqBUStdOZUlMRJm/W20+H1jRQ2kQFo/IGq7WY9eevFbAuumNVVgBxZLRuBTS37ZDazLbjQ9KsALS71BjOEkoQSJz/134J47RSd69vxu+VObwt1FOwb8vvI8FQBpsrYwd2FYxCcF3N6EQyimTit7rw0gmNVFU2bEgAAAACABcJXCj+XrA1twOQ8Od7Zq3OclGfrEUfPvTiIGTfirpRGJAvYhO9iYOaw+/MbYDe16FAfgvf90Cl5pv9fEjL0aKDi0Skm7qEt5PvI2prP3wVyMmUKQTRPjcdxHMeIhgFm6sAzNNT8Nx5zJulm2mKe1bxz8CdZH1Dl8U6oQw2ATbU= aurelia@example",
];

proptest! {
    #[test]
    fn host_keys_come_back_and_agree_with_the_second_implementation(seed: [u8; 32]) {
        let key = HostKey::from_seed(&seed, "root@cipolla").unwrap();
        let file = key.private_key_file().unwrap();
        prop_assert!(file.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        prop_assert!(file.ends_with("-----END OPENSSH PRIVATE KEY-----\n"));
        let again = HostKey::from_private_key_file(&file).unwrap();
        prop_assert_eq!(again.private_key_file().unwrap(), file);
        let theirs = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(seed));
        let line = key.public_key_file().unwrap();
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend_from_slice(&*theirs.pk);
        let encoded = data_encoding::BASE64.encode(&blob);
        prop_assert_eq!(line, format!("ssh-ed25519 {encoded} root@cipolla\n"));
        prop_assert_eq!(format!("{key:?}"), format!("HostKey({}, …)", key.fingerprint()));
    }

    #[test]
    fn generated_keys_differ(seed: [u8; 32]) {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let keys = [0; 2].map(|_| HostKey::generate(&mut rng, "").unwrap().fingerprint());
        prop_assert_ne!(&keys[0], &keys[1]);
    }

    #[test]
    fn no_text_makes_it_panic(text: String) {
        let _ = text.parse::<OwnerKey>();
        let _ = HostKey::from_private_key_file(&text);
        let _ = parse_authorized_keys(&text);
    }

    #[test]
    fn a_key_cut_short_is_refused(cut in 12usize..90) {
        let (line, _) = OWNER_KEYS[0];
        prop_assume!(cut < line.rfind(' ').unwrap());
        prop_assert!(line[..cut].parse::<OwnerKey>().is_err());
    }
}

#[test]
fn owner_keys_of_every_type_are_read() {
    for (line, fingerprint) in OWNER_KEYS {
        let key: OwnerKey = line.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(key.fingerprint(), *fingerprint, "{line}");
        assert_eq!(key.line(), *line);
        assert_eq!(key.comment(), "aurelia@example");
        assert!(line.starts_with(&key.algorithm()));
        let spaced = format!("  {}\r", line.replacen(' ', "\t", 1));
        assert_eq!(spaced.parse(), Ok(key));
    }
}

#[test]
fn weak_keys_are_refused() {
    for line in WEAK_KEYS {
        let refused = line.parse::<OwnerKey>();
        assert!(matches!(refused, Err(OwnerKeyError::Weak { .. })), "{refused:?}");
    }
}

#[test]
fn every_wrong_line_says_what_is_wrong() {
    use OwnerKeyError as E;
    let (good, _) = OWNER_KEYS[0];
    let secret = HostKey::from_seed(&[1; 32], "").unwrap().private_key_file().unwrap();
    let error = |text: &str| text.parse::<OwnerKey>().unwrap_err();
    assert_eq!(error(&secret), E::Private);
    assert_eq!(error("PuTTY-User-Key-File-3: ssh-ed25519"), E::Private);
    assert_eq!(error("---- BEGIN SSH2 PUBLIC KEY ----"), E::OtherFormat);
    assert_eq!(error(&format!("no-pty {good}")), E::Options);
    assert_eq!(error(&format!("from=\"10.0.0.1\",command=\"a b\" {good}")), E::Options);
    assert_eq!(error("hello"), E::KeyType { word: "hello".into() });
    assert_eq!(error(""), E::KeyType { word: String::new() });
    assert_eq!(error(&"A".repeat(70)), E::KeyType { word: "A".repeat(20) + "…" });
    assert!(matches!(error("ssh-ed25519"), E::Damaged { .. }));
    assert!(matches!(error(&good.replacen("AAAA", "AAAB", 1)), E::Damaged { .. }));
    assert!(matches!(error(&good.replacen("ssh-ed25519 ", "ssh-rsa ", 1)), E::Damaged { .. }));
}

#[test]
fn a_file_of_owner_keys_names_every_bad_line() {
    let lines: Vec<_> = OWNER_KEYS.iter().map(|(line, _)| *line).collect();
    let good = format!("# mine\n\n{}\r\n", lines.join("\n"));
    assert_eq!(parse_authorized_keys(&good).unwrap().len(), OWNER_KEYS.len());
    let problems = parse_authorized_keys(&format!("nonsense\n{good}\nssh-ed25519 AAAA\n")).unwrap_err();
    let numbers: Vec<_> = problems.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 4 + OWNER_KEYS.len() + 1]);
}

#[test]
fn damaged_host_keys_are_refused() {
    let key = HostKey::from_seed(&[5; 32], "root@cipolla").unwrap();
    let file = key.private_key_file().unwrap();
    assert!(matches!(HostKey::from_private_key_file(""), Err(HostKeyError::Format { .. })));
    assert!(matches!(HostKey::from_private_key_file(&file[..200]), Err(HostKeyError::Format { .. })));
    assert!(matches!(HostKey::from_seed(&[5; 32], "two\nlines"), Err(HostKeyError::Comment)));
    // The seed stands in the file in clear; one changed bit of it no longer fits the public half.
    let body: String = file.lines().filter(|line| !line.starts_with('-')).collect();
    let mut bytes = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
    let at = bytes.windows(32).position(|part| part == [5; 32]).unwrap();
    bytes[at] ^= 1;
    let body = data_encoding::BASE64.encode(&bytes);
    let body: Vec<_> = body.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let forged = format!(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
        body.join("\n")
    );
    assert_eq!(HostKey::from_private_key_file(&forged).unwrap_err(), HostKeyError::Mismatch);
}
