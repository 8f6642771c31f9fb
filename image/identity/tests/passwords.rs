//! Password hashes, against the implementations that read them: crypt(3), through Perl, for nginx; and a second
//! Argon2 for Dovecot.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use identity::rand_core::SeedableRng;
use identity::{dovecot, htpasswd};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use std::process::{Command, Stdio};

fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

/// What crypt(3) of this system makes of a password and an existing hash.
fn crypt(password: &str, hash: &str) -> String {
    let output = Command::new("perl")
        // `--`: a password may begin with `-x`, which is also a switch of Perl's.
        .args(["-e", "print crypt($ARGV[0], $ARGV[1])", "--", password, hash])
        .stdin(Stdio::null())
        .output()
        .expect("starting perl, which every Debian has");
    assert!(output.status.success(), "perl: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn crypt_accepts_what_htpasswd_makes(password in "[ -~äöü€]{1,20}", seed: u8) {
        let line = htpasswd::line("aurelia", &password, &mut rng(seed)).unwrap();
        let hash = line.strip_prefix("aurelia:").unwrap();
        prop_assert!(hash.starts_with("$2y$05$") && hash.len() == 60);
        prop_assert_eq!(crypt(&password, hash), hash);
        prop_assert_ne!(crypt(&format!("{password}x"), hash), hash);
        prop_assert_eq!(htpasswd::verify(&line, &password), Ok(true));
        prop_assert_eq!(htpasswd::verify(&line, &format!("{password}x")), Ok(false));
    }

    #[test]
    fn second_argon2_accepts_what_dovecot_gets(password in "[ -~äöü€]{1,40}", seed: u8) {
        let hash = dovecot::hash(&password, &mut rng(seed)).unwrap();
        let phc = hash.strip_prefix("{ARGON2ID}").unwrap();
        prop_assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        prop_assert!(argon2_of_others::verify_encoded(phc, password.as_bytes()).unwrap());
        prop_assert!(!argon2_of_others::verify_encoded(phc, b"another").unwrap());
        prop_assert_eq!(dovecot::verify(&hash, &password), Ok(true));
        prop_assert_eq!(dovecot::verify(&hash, &format!("{password}x")), Ok(false));
    }
}

#[test]
fn a_password_may_look_like_a_switch() {
    for password in ["-x", "-xz", "--", "-e1", "-h"] {
        let line = htpasswd::line("aurelia", password, &mut rng(1)).unwrap();
        let hash = line.strip_prefix("aurelia:").unwrap();
        assert_eq!(crypt(password, hash), hash, "{password}");
    }
}

#[test]
fn hash_of_the_second_argon2_is_accepted() {
    let config =
        argon2_of_others::Config { mem_cost: 1024, time_cost: 3, ..argon2_of_others::Config::default() };
    let phc = argon2_of_others::hash_encoded(b"a password", b"sixteen bytes !!", &config).unwrap();
    assert_eq!(dovecot::verify(&format!("{{ARGON2ID}}{phc}"), "a password"), Ok(true));
}

#[test]
fn salts_differ() {
    let mut rng = rng(1);
    let lines = [0; 2].map(|_| htpasswd::line("a", "password", &mut rng).unwrap());
    assert_ne!(lines[0], lines[1]);
    let hashes = [0; 2].map(|_| dovecot::hash("password", &mut rng).unwrap());
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn unusable_names_and_passwords_are_refused() {
    use htpasswd::HtpasswdError as H;
    for user in ["", "a:b", "a b", "ä", "a\n", &"x".repeat(65)] {
        assert_eq!(htpasswd::line(user, "password", &mut rng(1)), Err(H::User), "{user:?}");
    }
    let web = |password: &str| htpasswd::line("a", password, &mut rng(1)).map(|_| ());
    assert_eq!(web(""), Err(H::PasswordLength { got: 0 }));
    assert_eq!(web(&"x".repeat(72)), Err(H::PasswordLength { got: 72 }));
    assert_eq!(web(&"x".repeat(71)), Ok(()));
    assert_eq!(web("a\0b"), Err(H::PasswordCharacter));

    use dovecot::DovecotError as D;
    let mail = |password: &str| dovecot::hash(password, &mut rng(1)).map(|_| ());
    assert_eq!(mail(""), Err(D::PasswordLength { got: 0 }));
    assert_eq!(mail(&"x".repeat(513)), Err(D::PasswordLength { got: 513 }));
    assert_eq!(mail("a\nb"), Err(D::PasswordCharacter));
}

#[test]
fn foreign_hashes_are_refused_before_they_cost_anything() {
    use dovecot::DovecotError as D;
    let tail = "$c2l4dGVlbiBieXRlcyAhIQ$WjW1JyOMWzOgPMIULqsBQsRLQFUQqAJs1uUhWg0YZPI";
    let with = |head: &str| dovecot::verify(&format!("{head}{tail}"), "x");
    assert_eq!(with("{ARGON2ID}$argon2id$v=19$m=8,t=1,p=1"), Ok(false));
    assert_eq!(with("$argon2id$v=19$m=8,t=1,p=1"), Err(D::Format));
    assert_eq!(with("{ARGON2ID}$argon2i$v=19$m=8,t=1,p=1"), Err(D::Format));
    assert_eq!(with("{ARGON2ID}$argon2id$v=16$m=8,t=1,p=1"), Err(D::Format));
    assert_eq!(with("{ARGON2ID}$argon2id$v=19$m=1,t=1,p=1"), Err(D::Format));
    let costly = with("{ARGON2ID}$argon2id$v=19$m=4194304,t=1,p=1");
    assert_eq!(costly, Err(D::TooCostly { memory_kib: 4_194_304, passes: 1 }));
    assert!(matches!(
        with("{ARGON2ID}$argon2id$v=19$m=8,t=1000,p=1"),
        Err(D::TooCostly { passes: 1000, .. })
    ));
    assert_eq!(
        dovecot::verify("{ARGON2ID}$argon2id$v=19$m=8,t=1,p=1$c2l4dGVlbiBieXRlcyAhIQ", "x"),
        Err(D::Format)
    );

    use htpasswd::HtpasswdError as H;
    for line in
        ["", "a", "a:", "a:secret", "a:$apr1$abcdefgh$0123456789012345678901", ":$2y$10$x", "a:$2y$10$short"]
    {
        assert_eq!(htpasswd::verify(line, "x"), Err(H::Line), "{line:?}");
    }
}
