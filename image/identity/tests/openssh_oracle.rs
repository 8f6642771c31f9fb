//! Our host keys in the hands of ssh-keygen, named by `CIPOLLA_SSH_KEYGEN`, else found in `PATH`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use identity::rand_core::SeedableRng;
use identity::ssh::HostKey;
use rand_chacha::ChaCha20Rng;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn ssh_keygen(folder: &Path, args: &[&str]) -> String {
    let program = std::env::var_os("CIPOLLA_SSH_KEYGEN").unwrap_or_else(|| "ssh-keygen".into());
    let output = Command::new(&program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
    assert!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn ssh_keygen_reads_our_host_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    for seed in 0..16 {
        let key = HostKey::generate(&mut ChaCha20Rng::from_seed([seed; 32]), "root@cipolla").unwrap();
        fs::write(&file, &*key.private_key_file().unwrap()).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(ssh_keygen(folder.path(), &["-y", "-f", "key"]), key.public_key_file().unwrap());
        let listed = ssh_keygen(folder.path(), &["-l", "-f", "key"]);
        assert_eq!(listed, format!("256 {} root@cipolla (ED25519)\n", key.fingerprint()));
    }
}

#[test]
fn we_read_the_host_keys_that_ssh_keygen_makes() {
    let folder = tempfile::tempdir().unwrap();
    ssh_keygen(folder.path(), &["-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", "key"]);
    let file = fs::read_to_string(folder.path().join("key")).unwrap();
    let key = HostKey::from_private_key_file(&file).unwrap();
    assert_eq!(key.public_key_file().unwrap(), fs::read_to_string(folder.path().join("key.pub")).unwrap());
    assert!(ssh_keygen(folder.path(), &["-l", "-f", "key"]).contains(&key.fingerprint()));
}
