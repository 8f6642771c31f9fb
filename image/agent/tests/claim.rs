//! `claim_by_ssh_key_decrypts`: an appliance without a screen is claimed with the SSH key that its settings name. And
//! no debug output holds a credential.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "each test uses its part of the support")]
mod support;

use std::io::Read as _;

use age::ssh::Identity;
use agent::accounts::Accounts;
use agent::boot::{self, facts, plan};
use agent::credentials::Credential;
use agent::fs::Fs as _;
use agent::handover::Card;
use agent::mailboxes::Writer;
use agent::paths;
use agent::serve::password::{Mailboxes, Passwords as _};
use agent::settings::load;
use camino::Utf8Path;
use identity::ssh::HostKey;
use support::programs::FakePrograms;
use support::sim::SimFs;
use support::{WIFI_SECRET, machine};

/// An RSA key of nobody's, made for this test: making one takes a minute.
const RSA: &str = "-----BEGIN RSA PRIVATE KEY-----
MIIEpAIBAAKCAQEA9MeJX6msF7Mf9MV6VlJf0Lv2UFFIzAvCg8x1mg4xfV2+on6h
Pt8aTwJaoYU8QSrKm37WTnHq8NhSlVdHh/u7IjJ21vmORHFbjsaH5lcyWdMr3iC3
XEITT9EKb/fyOd/2CcmlteS1uiJXkcHcKGjWMy1VTJWYcD74U+GDqpS/lZKo/FGG
A/tYC76ipMx3r3+u4gbmPZ9wnjUhCEjEclC2R9e/W7I09Z7idI6qVD6XG3yDHkfW
OVkiOc4ogcRVY1fvtnPZXOlckIa2WJLbuWDkPiddCdQPHJxXWqYoJflKPtw/R+JD
2FAVlQhR60VBbVcDJ+dkP3tHEwNCaXmOaR+IWQIDAQABAoIBAAHTOaXxM60i9h/8
cShS6Zx6kYBXtTZL3lnE7NnAdXC06Eg5YskZEqh+p1k93CBnQ4bFYa8vJo+NQvZf
ZeAXCcLpEFCtIF97XrGk/AJR0AU/IuKMQpm8c2NPtw2oXvgjM5tiLPf7E9QAUAzw
Ub/D+/IUCmc6OusxVc3FG3B3UFz64BRx09iUCTTFqQQaKE/IkGKq9pvQs2YuHCsi
QmzJhkUvFg54LNdaCmyOU9TZX31li36ZQGMXD4tlCq/w/HMyd8vaZq3H+ZZE48yG
Za4x+83Y89Rc72T7AcNShtxUUd2bCRWdwqTH+PnySjFJbFjN/PCT1JS1mjjTsFrd
B8SFgBUCgYEA/eSYHU7nEYbP/A9MudCJosbIWYDMD0s6M8ERTFjB3IlXPoc3GfFA
3JarTNhBMnnKflBxTEa+h75tmyHFgYfEvH+M3aZHY7EZaVv/5b16jW2h0IsJN64M
EGEPo8K81DDFEtsLLGboF/p+do/KNqtO0qdXFYh7Z8wWFTB2zFycPM0CgYEA9s+U
lZNgTOgR/lRXNhvnDdhD7pXyrNptgLsc+1YsMp46Eieh13/bsPIOpTD3Ul0ZhLCH
QVcxQbtTTqXRaR+X0FGYkOar8VunasnPmTuZA1Dl55eQlK4ITe1prku5QUJz9chD
HOwRLYDwGakPkvSRvYahWxWEtwAklniylhExOb0CgYEA4Dq7fWbp/DisB1kb0h+y
7ufQmft+PSObS4n/1QWucS96teaFa4v+VNNchomXSxT1GYnCBjOUoh40fwXcgQF/
Z1re9gKcmhcW8k4mOqiVS8K/XobspRg5311Ziq+6RUytQHHj9FsOL98zQVLMrGuv
OaxA5Ouc0ZcVCbG7udEwyyECgYEArQvyA8WnGYUFSKrd0uRRZhWh26Bq2+LyL/YB
Zf+PUZY65QvAn5XX9QJiXlQstCTuhWg4DQoTUSEEUfpVDz3FdZwgOkhhegJnKaqB
0dBFgluwNmbASl6TGABDvp79LtJm94cH9zlU+fCTZ4pvjvvHS3kfnPtDaAPDo3TQ
0gMP3okCgYAGrgoQUZiO9W2cAto8LLn5f/KrGfSuPss0RAGEs8n/GsFHeUFGmh/8
yB+0bQdGsl+AQ4IhOkfzQhjK8y+efy34huhHn4qxYYfirs3wefIJp5DlGRLmO1Bk
NKLTF3Wx6iJWgN5mHhgI5ouLBL8fki611fV1+KsYmypi7lsWs2/WFQ==
-----END RSA PRIVATE KEY-----\n";
const RSA_PUBLIC: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQD0x4lfqawXsx/0xXpWUl/Qu/ZQUUjMC8KDzHWaDjF9Xb6ifqE+3xpPAlqhhTxBKsqbftZOcerw2FKVV0eH+7siMnbW+Y5EcVuOxofmVzJZ0yveILdcQhNP0Qpv9/I53/YJyaW15LW6IleRwdwoaNYzLVVMlZhwPvhT4YOqlL+Vkqj8UYYD+1gLvqKkzHevf67iBuY9n3CeNSEISMRyULZH179bsjT1nuJ0jqpUPpcbfIMeR9Y5WSI5ziiBxFVjV++2c9lc6VyQhrZYktu5YOQ+J10J1A8cnFdapigl+Uo+3D9H4kPYUBWVCFHrRUFtVwMn52Q/e0cTA0JpeY5pH4hZ ada@old-laptop";

fn started(ssh_keys: &[&str]) -> SimFs {
    let keys: Vec<_> = ssh_keys.iter().map(|key| format!("{key:?}")).collect();
    let fs = SimFs::before_first_start();
    let settings = Utf8Path::new(paths::BOOT_SETTINGS);
    fs.remove(settings).unwrap();
    let text = format!("[owner]\nmailbox = \"ada\"\nssh_keys = [{}]\n", keys.join(", "));
    fs.create(settings, text.as_bytes(), agent::fs::Access::root(0o600)).unwrap();
    boot::run(&machine(&fs, &FakePrograms { fs: &fs }), &mut |_| {}).unwrap();
    fs
}

/// What `age --decrypt --identity KEY credentials.age` prints.
fn decrypted(fs: &SimFs, key: &str) -> String {
    let file = fs.read(Utf8Path::new(paths::BOOT_CREDENTIALS)).unwrap().unwrap();
    let identity = Identity::from_buffer(key.as_bytes(), None).unwrap();
    let decryptor = age::Decryptor::new(&file[..]).unwrap();
    let mut reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

fn credentials(fs: &SimFs) -> Vec<String> {
    Credential::ALL.iter().map(|credential| credential.require(fs).unwrap().to_string()).collect()
}

fn assert_holds_all(text: &str, fs: &SimFs) {
    for credential in credentials(fs) {
        assert!(text.contains(&credential), "{text}");
    }
}

#[test]
fn claim_by_ssh_key_decrypts() {
    let key = HostKey::from_seed(&[5; 32], "ada@laptop").unwrap();
    let (secret, public) = (key.private_key_file().unwrap(), key.public_key_file().unwrap());
    let fs = started(&[public.trim()]);
    assert_holds_all(&decrypted(&fs, &secret), &fs);
    let file = fs.read(Utf8Path::new(paths::BOOT_CREDENTIALS)).unwrap().unwrap();
    for credential in credentials(&fs) {
        assert!(file.windows(credential.len()).all(|window| window != credential.as_bytes()));
    }
}

#[test]
fn claim_by_rsa_key_decrypts() {
    let fs = started(&[RSA_PUBLIC]);
    assert_holds_all(&decrypted(&fs, RSA), &fs);
}

#[test]
fn each_of_several_keys_decrypts() {
    let key = HostKey::from_seed(&[6; 32], "ada@laptop").unwrap();
    let public = key.public_key_file().unwrap();
    // A hardware key that age cannot encrypt to does not keep the others from working.
    let hardware = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIGHyQ3LaarIMyp5fYghmb3111xsgINmK6bWeDaLD8Qb0AAAABHNzaDo= ada@key";
    let fs = started(&[hardware, RSA_PUBLIC, public.trim()]);
    assert_holds_all(&decrypted(&fs, RSA), &fs);
    assert_holds_all(&decrypted(&fs, &key.private_key_file().unwrap()), &fs);
}

#[test]
fn no_debug_output_holds_a_credential() {
    let fs = SimFs::before_first_start();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let fresh = load::load(&fs, None).unwrap();
    boot::run(&machine, &mut |_| {}).unwrap();
    let loaded = load::load(&fs, None).unwrap();
    let facts = facts::read(&machine, &loaded, &Accounts::load(&fs).unwrap()).unwrap();
    let mut mailboxes = Mailboxes::new(&machine);
    let password = Credential::Mailbox.require(&fs).unwrap();
    assert!(mailboxes.verify("ada", &password).unwrap());
    let printed = [
        format!("{fresh:?} {loaded:?} {facts:?} {machine:?} {mailboxes:?}"),
        format!("{:?}", plan::make(&facts).unwrap()),
        format!("{:?} {:?}", Card::load(&fs, &loaded.settings).unwrap(), Writer::lock(&machine).unwrap()),
    ]
    .concat();
    for secret in credentials(&fs).iter().map(String::as_str).chain([WIFI_SECRET]) {
        assert!(!printed.contains(secret), "{printed}");
    }
    let hash = String::from_utf8(fs.read(Utf8Path::new(paths::USERS)).unwrap().unwrap()).unwrap();
    let hash = hash.split(':').nth(1).unwrap();
    assert!(!printed.contains(hash), "{printed}");
}
