//! `cipolla boot` on a folder instead of a machine: what it makes, and that a second run makes nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use agent::boot::{self, Action};
use agent::fs::RealFs;
use camino::Utf8Path;

fn golden_root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/ssh")).unwrap();
    fs::write(root.path().join("etc/hostname"), "cipolla\n").unwrap();
    root
}

fn run(root: &tempfile::TempDir) -> Vec<Action> {
    let fs = RealFs::open(Utf8Path::from_path(root.path()).unwrap()).unwrap();
    let mut done = Vec::new();
    boot::run(&fs, &mut |action| done.push(action.clone())).unwrap();
    done
}

#[test]
fn the_second_boot_has_nothing_to_do() {
    let root = golden_root();
    assert!(run(&root).contains(&Action::SshHostKey));
    assert_eq!(run(&root), []);
}

#[test]
fn the_host_key_is_private_and_a_lost_public_half_is_derived_again() {
    let root = golden_root();
    run(&root);
    let (key, public) = (
        root.path().join("etc/ssh/ssh_host_ed25519_key"),
        root.path().join("etc/ssh/ssh_host_ed25519_key.pub"),
    );
    let mode = fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let (secret_before, public_before) = (fs::read(&key).unwrap(), fs::read(&public).unwrap());
    fs::remove_file(&public).unwrap();
    assert_eq!(run(&root), [Action::SshHostPublicKey]);
    assert_eq!(fs::read(&key).unwrap(), secret_before);
    assert_eq!(fs::read(&public).unwrap(), public_before);
}

#[test]
fn what_a_power_cut_left_is_removed() {
    let root = golden_root();
    let leftover = root.path().join("etc/ssh/.ssh_host_ed25519_key.cipolla-new");
    fs::write(&leftover, "half a sec").unwrap();
    run(&root);
    assert!(!leftover.exists());
}
