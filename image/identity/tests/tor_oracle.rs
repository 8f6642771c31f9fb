//! Our files in the hands of the real Tor, which runs without network in a folder of its own.
//!
//! The program is named by `CIPOLLA_TOR`, else found in `PATH`. Tor reads the keys of its services when it starts
//! and leaves (status 1) if one does not please it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use identity::client_auth::{ClientAuth, FormatError, check_folder};
use identity::onion::{OnionAddress, OnionKey};
use identity::rand_core::SeedableRng;
use identity::vanity::{self, Outcome};
use rand_chacha::ChaCha20Rng;
use std::fs::{self, Permissions};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far longer than Tor takes, even under emulation.
const DEADLINE: Duration = Duration::from_secs(60);
/// What Tor logs once it is past its services' keys.
const STARTED: &str = "Bootstrapped 0%";

/// A Tor that is killed when it goes out of scope.
struct Tor {
    child: Child,
    log: PathBuf,
}

impl Drop for Tor {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("ending tor");
    }
}

impl Tor {
    /// Starts Tor with these service folders.
    fn start(root: &Path, services: &[&Path]) -> Self {
        let log = root.join("log");
        let mut torrc = format!(
            "DataDirectory {0}/data\nLog info file {1}\nSocksPort 0\nDisableNetwork 1\n",
            root.display(),
            log.display()
        );
        for service in services {
            torrc += &format!("HiddenServiceDir {}\nHiddenServicePort 80 127.0.0.1:9\n", service.display());
        }
        fs::write(root.join("torrc"), torrc).unwrap();
        fs::write(root.join("defaults"), "").unwrap();
        let program = std::env::var_os("CIPOLLA_TOR").unwrap_or_else(|| "tor".into());
        let child = Command::new(&program)
            .args(["--defaults-torrc", "defaults", "-f", "torrc", "--hush"])
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until Tor either runs or has left. Gives the log, as an error if it has left.
    fn settle(&mut self) -> Result<String, String> {
        let begin = Instant::now();
        loop {
            if self.child.try_wait().expect("waiting for tor").is_some() {
                return Err(self.log());
            }
            let log = self.log();
            if log.contains(STARTED) {
                return Ok(log);
            }
            assert!(begin.elapsed() < DEADLINE, "tor neither started nor left:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A folder as Tor wants it: ours alone.
fn private(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    path
}

fn lay(service: &Path, key: &OnionKey, with_hostname: bool) {
    fs::write(service.join("hs_ed25519_secret_key"), &key.secret_key_file()[..]).unwrap();
    fs::write(service.join("hs_ed25519_public_key"), key.public_key_file()).unwrap();
    if with_hostname {
        fs::write(service.join("hostname"), key.hostname_file()).unwrap();
    }
}

fn key(seed: u8) -> OnionKey {
    OnionKey::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
}

fn vanity_key(prefix: &str) -> OnionKey {
    let mut rng = ChaCha20Rng::from_seed([42; 32]);
    let keep_on = |_| ControlFlow::Continue(());
    match vanity::search(prefix.parse().unwrap(), &mut rng, u64::MAX, keep_on) {
        Outcome::Found { key, .. } => key,
        Outcome::Stopped { .. } => panic!("no key found"),
    }
}

#[test]
fn tor_keeps_our_keys_and_computes_our_addresses() {
    let root = tempfile::tempdir().unwrap();
    let mut keys: Vec<_> = (0..16).map(key).collect();
    keys.push(vanity_key("cip"));
    let services: Vec<_> =
        (0..keys.len()).map(|i| private(root.path().join(format!("service{i}")))).collect();
    for (i, (service, key)) in services.iter().zip(&keys).enumerate() {
        lay(service, key, i % 2 == 0);
    }
    let folders: Vec<_> = services.iter().map(PathBuf::as_path).collect();
    let mut tor = Tor::start(root.path(), &folders);
    tor.settle().unwrap_or_else(|log| panic!("tor refused our keys:\n{log}"));
    for (service, key) in services.iter().zip(&keys) {
        assert_eq!(fs::read_to_string(service.join("hostname")).unwrap(), key.hostname_file());
        assert_eq!(fs::read(service.join("hs_ed25519_secret_key")).unwrap(), key.secret_key_file()[..]);
        assert_eq!(fs::read(service.join("hs_ed25519_public_key")).unwrap(), key.public_key_file());
    }
}

#[test]
fn we_read_the_keys_that_tor_makes() {
    let root = tempfile::tempdir().unwrap();
    let services: Vec<_> = (0..8).map(|i| private(root.path().join(format!("service{i}")))).collect();
    let folders: Vec<_> = services.iter().map(PathBuf::as_path).collect();
    let mut tor = Tor::start(root.path(), &folders);
    tor.settle().unwrap_or_else(|log| panic!("tor did not start:\n{log}"));
    for service in &services {
        let secret = fs::read(service.join("hs_ed25519_secret_key")).unwrap();
        let public = fs::read(service.join("hs_ed25519_public_key")).unwrap();
        let key = OnionKey::from_secret_key_file(&secret).unwrap();
        assert_eq!(key.secret_key_file()[..], secret);
        assert_eq!(key.public_key_file()[..], public);
        assert_eq!(OnionAddress::from_public_key_file(&public), Ok(key.address()));
        assert_eq!(fs::read_to_string(service.join("hostname")).unwrap(), key.hostname_file());
    }
}

/// If this ever fails, Tor has begun to accept keys that we call damaged.
#[test]
fn tor_refuses_the_damaged_keys_that_we_refuse() {
    let damages: [fn(&mut Vec<u8>); 3] =
        [|file| file.truncate(90), |file| file[3] ^= 1, |file| file[32] ^= 1];
    for (number, damage) in damages.into_iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let service = private(root.path().join("service"));
        lay(&service, &key(1), true);
        let mut file = key(1).secret_key_file().to_vec();
        damage(&mut file);
        assert!(OnionKey::from_secret_key_file(&file).is_err());
        fs::write(service.join("hs_ed25519_secret_key"), &file).unwrap();
        let mut tor = Tor::start(root.path(), &[&service]);
        assert!(tor.settle().is_err(), "tor started with damage {number}");
        assert_eq!(
            fs::read(service.join("hs_ed25519_secret_key")).unwrap(),
            file,
            "tor replaced a damaged key"
        );
    }
}

#[test]
fn tor_reads_our_client_files_and_skips_what_we_refuse() {
    let root = tempfile::tempdir().unwrap();
    let service = private(root.path().join("service"));
    lay(&service, &key(2), true);
    let clients = private(service.join("authorized_clients"));
    let good = ClientAuth::generate(&mut ChaCha20Rng::from_seed([8; 32])).public().service_file();
    let files = [
        ("good.auth", good.clone()),
        ("lower.auth", format!("descriptor:x25519:{}", good["descriptor:x25519:".len()..].to_lowercase())),
        ("two-lines.auth", good.repeat(2)),
        ("short.auth", good[..60].to_owned()),
        ("alphabet.auth", good.replace(&good[30..31], "1")),
        ("empty.auth", String::new()),
        ("type.auth", good.replace("x25519", "x448")),
        ("name", good.clone()),
    ];
    for (name, content) in &files {
        fs::write(clients.join(name), content).unwrap();
    }
    let mut tor = Tor::start(root.path(), &[&service]);
    let log = tor.settle().unwrap_or_else(|log| panic!("tor did not start:\n{log}"));
    for (name, content) in &files {
        let loaded = log.contains(&format!("Loaded a client authorization key file {name}."));
        let ours = check_folder([(*name, content.as_str())]);
        assert_eq!(loaded, ours.is_ok(), "{name}: tor loaded it: {loaded}, we say {ours:?}\n{log}");
    }
}

/// Where we are stricter than Tor on purpose.
#[test]
fn tor_takes_a_weak_client_key_that_we_refuse() {
    let root = tempfile::tempdir().unwrap();
    let service = private(root.path().join("service"));
    lay(&service, &key(3), true);
    let clients = private(service.join("authorized_clients"));
    let weak = format!("descriptor:x25519:{}\n", "A".repeat(52));
    fs::write(clients.join("weak.auth"), &weak).unwrap();
    let mut tor = Tor::start(root.path(), &[&service]);
    let log = tor.settle().unwrap_or_else(|log| panic!("tor did not start:\n{log}"));
    assert!(log.contains("Loaded a client authorization key file weak.auth."));
    let refused = check_folder([("weak.auth", weak.as_str())]).unwrap_err();
    assert!(refused[0].to_string().contains(&FormatError::WeakKey.to_string()));
}
