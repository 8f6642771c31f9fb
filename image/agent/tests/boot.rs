//! `cipolla boot` on a folder instead of a machine: what it makes, with which access, and what it refuses.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "each test uses its part of the support")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use agent::boot;
use agent::fs::{Fs as _, RealFs};
use agent::onions::Onion;
use camino::{Utf8Path, Utf8PathBuf};
use support::programs::FakePrograms;
use support::{FOLDERS, IMAGE, SETTINGS, machine};

struct Appliance {
    dir: tempfile::TempDir,
}

impl Appliance {
    fn new(settings: &str) -> Self {
        let appliance = Self { dir: tempfile::tempdir().unwrap() };
        for folder in FOLDERS {
            fs::create_dir_all(appliance.path(folder)).unwrap();
        }
        for (path, content) in IMAGE {
            appliance.write(path, content);
        }
        appliance.write("/run/cipolla/boot/cipolla.toml", settings);
        appliance
    }

    fn path(&self, path: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    fn start(&self) -> Result<Vec<String>, String> {
        let fs = RealFs::open(&self.path("/")).unwrap();
        let mut said = Vec::new();
        boot::run(&machine(&fs, &FakePrograms { fs: &fs }), &mut |line| said.push(line.to_owned()))
            .map_err(|error| format!("{error:#}"))?;
        Ok(said)
    }
}

#[test]
fn the_second_start_has_nothing_to_do() {
    let appliance = Appliance::new(SETTINGS);
    assert!(appliance.start().unwrap().contains(&"mark the identity as complete: done".to_owned()));
    assert_eq!(appliance.start().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_made_has_its_place_and_mode() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    for onion in Onion::ALL {
        assert_eq!(appliance.mode(onion.dir().as_str()), 0o700);
        assert_eq!(appliance.mode(onion.secret_key().as_str()), 0o600);
        assert!(appliance.text(onion.hostname().as_str()).ends_with(".onion\n"));
    }
    let modes = [
        ("/var/lib/cipolla", 0o711),
        ("/var/lib/cipolla/private", 0o700),
        ("/var/lib/cipolla/private/ca.pem", 0o600),
        ("/var/lib/cipolla/private/settings.toml", 0o600),
        ("/var/lib/cipolla/tls/client.key", 0o600),
        ("/var/lib/cipolla/tls/client.crt", 0o644),
        ("/var/lib/cipolla/mail/users", 0o640),
        ("/var/lib/cipolla/mail/senders", 0o644),
        ("/var/lib/cipolla/web/htpasswd", 0o640),
        ("/etc/ssh/ssh_host_ed25519_key", 0o600),
        ("/etc/nftables.conf", 0o600),
        ("/root/.ssh/authorized_keys", 0o600),
        ("/run/cipolla/issue", 0o600),
    ];
    for (path, mode) in modes {
        assert_eq!(appliance.mode(path), mode, "{path}");
    }
    let domain = appliance.text("/var/lib/tor/mx/hostname").trim().to_owned();
    assert_eq!(appliance.text("/etc/postfix/main.cf"), format!("myhostname = {domain}\n"));
    assert_eq!(appliance.text("/etc/made/deep/limits.conf"), "40 500M ada 0.1.0\n");
    assert_eq!(appliance.text("/etc/nftables.conf"), "define tor = 102\ndefine postfix = 104\n");
    assert!(appliance.text("/var/lib/cipolla/mail/users").starts_with(&format!("ada@{domain}:{{ARGON2ID}}")));
    assert!(appliance.text("/var/lib/cipolla/mail/mailboxes.lmdb").contains("ada@"));
    // The mx certificate is alone: an authority in it would name the unlisted service.
    assert_eq!(appliance.text("/var/lib/cipolla/tls/mx.crt").matches("BEGIN CERTIFICATE").count(), 1);
    assert_eq!(appliance.text("/var/lib/cipolla/tls/client.crt").matches("BEGIN CERTIFICATE").count(), 2);
}

#[test]
fn the_owner_is_told_and_nothing_secret_is_in_clear() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    let (console, welcome) =
        (appliance.text("/run/cipolla/issue"), appliance.text("/run/cipolla/boot/WELCOME.txt"));
    let password = appliance.text("/var/lib/cipolla/private/credentials/mailbox");
    let client = appliance.text("/var/lib/tor/client/hostname").trim().to_owned();
    assert!(console.contains(&password) && console.contains(&client) && console.contains('\u{2588}'));
    assert!(welcome.contains(&client) && !welcome.contains(&password));
    assert!(welcome.contains("CIPOLLA-CA.crt"));
    let authority = appliance.text("/run/cipolla/boot/CIPOLLA-CA.crt");
    assert_eq!(authority, appliance.text("/var/lib/cipolla/tls/ca.crt"));
    assert!(!authority.contains("PRIVATE KEY"));
    // Lost or changed on the way through other computers, it comes again.
    appliance.write("/run/cipolla/boot/CIPOLLA-CA.crt", "another");
    assert_eq!(appliance.start().unwrap(), ["write CIPOLLA-CA.crt to the boot partition: done"]);
    assert_eq!(appliance.text("/run/cipolla/boot/CIPOLLA-CA.crt"), authority);
    assert!(console.lines().all(|line| line.chars().count() <= 132), "{console}");
    let encrypted = fs::read(appliance.path("/run/cipolla/boot/credentials.age")).unwrap();
    assert!(encrypted.starts_with(b"age-encryption.org/v1\n-> ssh-ed25519 "));
    assert!(!appliance.path("/run/cipolla/boot/cipolla.toml").exists());
}

#[test]
fn wrong_settings_change_nothing_and_are_explained() {
    let appliance = Appliance::new("[owner]\nmailbox = \"postmaster\"\n[mail]\nqouta = \"1G\"\n");
    let error = appliance.start().unwrap_err();
    assert!(error.contains("cipolla.toml:2:11: `mailbox`"), "{error}");
    assert!(
        error.contains("cipolla.toml:4:1: there is no `qouta` in [mail]; did you mean `quota`?"),
        "{error}"
    );
    assert!(appliance.text("/run/cipolla/boot/ERRORS.txt").contains("cipolla.toml:2:11"));
    assert!(!appliance.path("/var/lib/cipolla").exists());
    assert!(!appliance.path("/etc/ssh/ssh_host_ed25519_key").exists());
    // Corrected, it starts, and the explanation goes.
    appliance.write("/run/cipolla/boot/cipolla.toml", SETTINGS);
    appliance.start().unwrap();
    assert!(!appliance.path("/run/cipolla/boot/ERRORS.txt").exists());
}

#[test]
fn accepted_settings_hold_at_the_next_start() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    assert_eq!(appliance.text("/etc/made/deep/limits.conf"), "40 500M ada 0.1.0\n");
    // New settings replace them; the identity stays.
    let before = appliance.text("/var/lib/tor/mx/hostname");
    appliance.write("/run/cipolla/boot/cipolla.toml", "[owner]\nmailbox = \"ada\"\n[mail]\nquota = \"9G\"\n");
    let said = appliance.start().unwrap();
    assert!(said.contains(&"render /etc/made/deep/limits.conf: done".to_owned()), "{said:?}");
    assert_eq!(appliance.text("/etc/made/deep/limits.conf"), "40 9G ada 0.1.0\n");
    assert_eq!(appliance.text("/var/lib/tor/mx/hostname"), before);
}

#[test]
fn a_file_that_sets_nothing_is_left_alone() {
    const STOCK: &str = "# Settings of this appliance. Everything may stay as it is.\n";
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    appliance.write("/run/cipolla/boot/cipolla.toml", STOCK);
    assert_eq!(appliance.start().unwrap(), [""; 0]);
    assert_eq!(appliance.text("/etc/made/deep/limits.conf"), "40 500M ada 0.1.0\n");
    assert_eq!(appliance.text("/run/cipolla/boot/cipolla.toml"), STOCK);
}

#[test]
fn a_refused_file_keeps_the_earlier_one() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    let good = appliance.text("/etc/nftables.conf");
    appliance.write("/usr/share/cipolla/templates/etc/nftables.conf.j2", "refuse me\n");
    let said = appliance.start().unwrap();
    assert!(
        said.iter().any(|line| line.contains("/etc/nftables.conf was refused, so the previous one stays"))
    );
    assert_eq!(appliance.text("/etc/nftables.conf"), good);
}

#[test]
fn a_refused_file_without_an_earlier_one_stops_the_start() {
    let appliance = Appliance::new(SETTINGS);
    appliance.write("/etc/nftables.conf", "accept everything, says the distribution\n");
    appliance.write("/usr/share/cipolla/templates/etc/nftables.conf.j2", "refuse me\n");
    let error = appliance.start().unwrap_err();
    assert!(error.contains("/etc/nftables.conf: nft refuses it"), "{error}");
}

#[test]
fn what_was_changed_by_hand_is_rendered_anew() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    appliance.write("/etc/postfix/main.cf", "mynetworks = 0.0.0.0/0\n");
    assert_eq!(appliance.start().unwrap(), ["render /etc/postfix/main.cf: done"]);
}

#[test]
fn a_lost_key_stops_the_start() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    fs::remove_file(appliance.path(Onion::Mx.secret_key().as_str())).unwrap();
    assert!(appliance.start().unwrap_err().contains("hs_ed25519_secret_key"));
}

#[test]
fn a_damaged_authorization_fails_closed() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    appliance.write("/var/lib/tor/admin/authorized_clients/owner.auth", "descriptor:x25519:garbage\n");
    let error = appliance.start().unwrap_err();
    assert!(error.contains("would leave the service admin open"), "{error}");
}

#[test]
fn a_daemon_cannot_send_our_writes_elsewhere() {
    let appliance = Appliance::new(SETTINGS);
    fs::create_dir_all(appliance.path("/outside")).unwrap();
    std::os::unix::fs::symlink("../../../outside", appliance.path("/var/lib/tor/mx")).unwrap();
    assert!(appliance.start().unwrap_err().contains("/var/lib/tor/mx is not a folder"));
    let fs = RealFs::open(&appliance.path("/")).unwrap();
    let access = agent::fs::Access::root(0o600);
    assert!(fs.create(Utf8Path::new("/var/lib/tor/mx/file"), b"x", access).is_err());
    assert_eq!(fs::read_dir(appliance.path("/outside")).unwrap().count(), 0);
}

#[test]
fn an_image_with_more_roles_completes_them() {
    let appliance = Appliance::new(SETTINGS);
    let (passwd, group) = (appliance.text("/etc/passwd"), appliance.text("/etc/group"));
    let templates = appliance.path("/usr/share/cipolla/templates");
    let aside = appliance.path("/usr/share/cipolla/aside");
    // An image without Tor and mail comes first.
    appliance.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    appliance.write("/etc/group", "root:x:0:\n");
    fs::rename(&templates, &aside).unwrap();
    appliance.start().unwrap();
    assert_eq!(appliance.text("/var/lib/cipolla/private/complete"), "build = test\nroles =\n");
    let host_key = appliance.text("/etc/ssh/ssh_host_ed25519_key");
    // The next one has everything.
    appliance.write("/etc/passwd", &passwd);
    appliance.write("/etc/group", &group);
    fs::rename(&aside, &templates).unwrap();
    appliance.start().unwrap();
    let marker = appliance.text("/var/lib/cipolla/private/complete");
    assert_eq!(marker, "build = test\nroles = mail onion web\n");
    assert_eq!(appliance.text("/etc/ssh/ssh_host_ed25519_key"), host_key);
    assert_eq!(appliance.start().unwrap(), Vec::<String>::new());
    // From now on its keys can be lost, also to an image in between that does not use them.
    appliance.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    fs::rename(&templates, &aside).unwrap();
    appliance.start().unwrap();
    appliance.write("/etc/passwd", &passwd);
    fs::rename(&aside, &templates).unwrap();
    fs::remove_file(appliance.path(Onion::Client.secret_key().as_str())).unwrap();
    assert!(appliance.start().unwrap_err().contains("client/hs_ed25519_secret_key"));
}

#[test]
fn a_damaged_marker_is_named() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    appliance.write("/var/lib/cipolla/private/complete", "half a li");
    let error = appliance.start().unwrap_err();
    assert!(error.contains("reading /var/lib/cipolla/private/complete: restore it"), "{error}");
}

#[test]
fn tables_are_compiled_again_when_the_compiled_one_is_missing_or_older() {
    let appliance = Appliance::new(SETTINGS);
    appliance.start().unwrap();
    for table in ["mailboxes", "aliases", "senders", "blocked"] {
        let path = appliance.path(&format!("/var/lib/cipolla/mail/{table}"));
        let compiled = Utf8PathBuf::from(format!("{path}.lmdb"));
        let modified = |path: &Utf8Path| fs::metadata(path).unwrap().modified().unwrap();
        // Postfix warns of a text that is newer than its table.
        assert!(modified(&path) <= modified(&compiled), "{table}");
        fs::remove_file(&compiled).unwrap();
        assert_eq!(
            appliance.start().unwrap(),
            [format!("write the table /var/lib/cipolla/mail/{table}: done")]
        );
        assert_eq!(fs::read(&path).unwrap(), fs::read(&compiled).unwrap());
    }
    // Edited by hand, without postmap.
    std::thread::sleep(std::time::Duration::from_millis(20));
    appliance.write("/var/lib/cipolla/mail/blocked", "spam@example.onion REJECT\n");
    assert_eq!(appliance.start().unwrap(), ["write the table /var/lib/cipolla/mail/blocked: done"]);
    assert_eq!(appliance.text("/var/lib/cipolla/mail/blocked.lmdb"), "spam@example.onion REJECT\n");
    assert_eq!(appliance.start().unwrap(), Vec::<String>::new());
}
