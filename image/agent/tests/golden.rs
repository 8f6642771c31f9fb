//! What the templates of the overlay make of two sets of settings, byte by byte: the default ones and everything
//! at once; and what a snowflake bridge makes of Tor's and the firewall's. Rendered by the agent's own renderer and compared with `tests/golden/config`.
//!
//! `CIPOLLA_BLESS=1 cargo test -p cipolla-agent --test golden` writes the golden files anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "each test uses its part of the support")]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use agent::accounts::Accounts;
use agent::boot::facts::{Roles, roles};
use agent::fs::RealFs;
use agent::onions::Onion;
use agent::programs::NoPrograms;
use agent::render::{self, table::Table};
use agent::settings::{self, Settings};
use camino::{Utf8Path, Utf8PathBuf};
use identity::onion::OnionAddress;
use serde_json::Value;
use support::machine;

const DEFAULT: &str = "[owner]\nmailbox = \"ada\"\n";
const EVERYTHING: &str = r#"
[owner]
mailbox = "ada"
[network]
address = "192.168.7.2/24"
gateway = "192.168.7.1"
[network.wifi]
ssid = "Ada\u2019s \"home\""
passphrase = 'a "quoted" \ horse #1'
country = "DE"
hidden = true
address = "192.168.7.3/24"
gateway = "192.168.7.1"
[admin]
lan_networks = ["192.168.7.0/24"]
[time]
ntp = true
servers = ["192.0.2.123"]
[tor]
bridges = ["obfs4 192.168.7.9:443 0123456789ABCDEF0123456789ABCDEF01234567 cert=abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/AAAAAA iat-mode=0"]
reachable_ports = [80, 443]
[tor.test_network]
dir_authorities = ["test000a orport=5000 no-v2 v3ident=14C131DFC5C6F93646BE72FA1401C02A8DF2E8B4 10.99.0.1:7000 9D2A A121 5A76 1B02 BCB9 B6CA 6B23 F1A0 0C0B 5B01"]
[mail]
imap = "webmail-only"
[mail.transport]
"6cx7sjpdtukjlquxhytwsbwzi5uoitgk5twn7z3ocu3foa7ipqbbxiad.onion" = "lbtgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztmn5ad.onion"
"#;

const SNOWFLAKE: &str = r#"
[owner]
mailbox = "ada"
[tor]
bridges = ["snowflake 192.0.2.3:80 0123456789ABCDEF0123456789ABCDEF01234567 fingerprint=0123456789ABCDEF0123456789ABCDEF01234567 url=https://broker.example/ front=front.example ice=stun:192.0.2.30:3478,stun:192.0.2.31:3478 utls-imitate=hellorandomizedalpn"]
bridge_hosts = ["192.0.2.10 front.example", "192.0.2.11 front.example"]
"#;

fn repository() -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files below a folder, with their paths in it.
fn files(folder: &Utf8Path) -> BTreeMap<Utf8PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir_utf8().unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path().to_owned());
            } else {
                let path = entry.path().strip_prefix(folder).unwrap().to_owned();
                found.insert(path, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

/// An image with these overlay trees and the accounts and addresses of a golden context.
struct Image {
    root: tempfile::TempDir,
    context: Value,
}

impl Image {
    fn new(context: &str, trees: &[&str]) -> Self {
        let json = repository().join(format!("tests/golden/config/{context}.json"));
        let context: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
        let image = Self { root: tempfile::tempdir().unwrap(), context };
        for tree in trees {
            let templates = repository().join("overlay").join(tree).join("usr/share/cipolla/templates");
            for (path, text) in files(&templates) {
                image.write(&format!("usr/share/cipolla/templates/{path}"), text.as_bytes());
            }
        }
        let (mut passwd, mut group) = ("root:x:0:0::/root:/bin/sh\n".to_owned(), "root:x:0:\n".to_owned());
        for (name, uid) in image.context["uid"].as_object().unwrap() {
            writeln!(passwd, "{name}:x:{uid}:{uid}::/:/usr/sbin/nologin").unwrap();
        }
        // As the packages and sysusers.d make them.
        for (name, gid) in [("debian-tor", 810), ("dovecot", 813), ("www-data", 33), ("roundcube", 802)] {
            writeln!(group, "{name}:x:{gid}:").unwrap();
        }
        image.write("etc/passwd", passwd.as_bytes());
        image.write("etc/group", group.as_bytes());
        image.write("usr/lib/os-release", b"IMAGE_ID=mail\nIMAGE_VERSION=0.1.0\n");
        for onion in Onion::ALL {
            let address = image.context[format!("{onion}_onion")].as_str().unwrap();
            let address: OnionAddress = address.parse().unwrap();
            let file = [&b"== ed25519v1-public: type0 ==\0\0\0"[..], address.public_key()].concat();
            image.write(onion.public_key().as_str(), &file);
        }
        image
    }

    fn write(&self, path: &str, content: &[u8]) {
        let root = Utf8Path::from_path(self.root.path()).unwrap();
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// What the agent makes of these settings: content by path without the leading slash.
    fn rendered(&self, settings: &Settings) -> BTreeMap<Utf8PathBuf, String> {
        let fs = RealFs::open(Utf8Path::from_path(self.root.path()).unwrap()).unwrap();
        let accounts = Accounts::load(&fs).unwrap();
        assert_eq!(roles(&accounts), Roles { onion: true, mail: true, web: true });
        let rendering = render::plan(&machine(&fs, &NoPrograms), settings, &accounts).unwrap();
        let path = |path: &Utf8Path| path.strip_prefix("/").unwrap().to_owned();
        rendering.files().iter().map(|file| (path(&file.path), file.text.clone())).collect()
    }
}

/// Whether everything in `wanted` is in `ours` as well.
fn assert_within(wanted: &Value, ours: &Value, place: &str) {
    match wanted {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert_within(value, &ours[name], &format!("{place}.{name}"));
            }
        }
        _ => assert_eq!(wanted, ours, "{place}"),
    }
}

/// Compares the files that `matters` picks with the golden ones; both sides must have the same.
fn compare(context: &str, text: &str, matters: fn(&Utf8Path) -> bool) {
    let image = Image::new(context, &["common", "mail", "web"]);
    let settings = settings::read(Settings::default(), text).unwrap();
    assert_within(&image.context["settings"], &serde_json::to_value(&settings).unwrap(), "settings");
    let folder = repository().join("tests/golden/config").join(context);
    let rendered: BTreeMap<_, _> =
        image.rendered(&settings).into_iter().filter(|(path, _)| matters(path)).collect();
    if std::env::var_os("CIPOLLA_BLESS").is_some() {
        for (path, text) in &rendered {
            fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            fs::write(folder.join(path), text).unwrap();
        }
    }
    let golden: BTreeMap<_, _> = files(&folder).into_iter().filter(|(path, _)| matters(path)).collect();
    assert_eq!(
        rendered.keys().collect::<Vec<_>>(),
        golden.keys().collect::<Vec<_>>(),
        "{context}: every template has a golden file and the other way round"
    );
    for (path, text) in &rendered {
        assert_eq!(text, &golden[path], "{context}: {path}");
    }
}

fn is_firewall(path: &Utf8Path) -> bool {
    path == "etc/nftables.conf"
}

/// R1, R4: the whole ruleset, for both sets of settings. Everything at once has an obfs4 bridge.
#[test]
fn nft_golden_r1() {
    compare("default", DEFAULT, is_firewall);
    compare("everything", EVERYTHING, is_firewall);
}

#[test]
fn config_golden() {
    compare("default", DEFAULT, |path| !is_firewall(path));
    compare("everything", EVERYTHING, |path| !is_firewall(path));
}

/// R1, R4: what differs with snowflake.
#[test]
fn snowflake_golden() {
    compare("snowflake", SNOWFLAKE, |path| is_firewall(path) || path.starts_with("etc/tor"));
}

/// A template without a value would stop the first start of every appliance.
#[test]
fn all_trees_together_render_and_their_tables_agree() {
    let image = Image::new("everything", &["common", "mail", "web"]);
    let fs = RealFs::open(Utf8Path::from_path(image.root.path()).unwrap()).unwrap();
    Table::load(&fs).unwrap();
    for text in [DEFAULT, EVERYTHING, SNOWFLAKE] {
        assert!(image.rendered(&settings::read(Settings::default(), text).unwrap()).len() > 13);
    }
}
