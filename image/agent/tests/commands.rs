//! The owner's commands on an appliance in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "each test uses its part of the support")]
mod support;

use std::cell::RefCell;

use agent::boot;
use agent::commands::{access, credentials, settings, user, webmail};
use agent::fs::{Access, Fs as _};
use agent::onions::Onion;
use agent::paths;
use agent::programs::{Programs, Ran};
use agent::serve::password::{Mailboxes, Passwords as _};
use anyhow::Result;
use camino::Utf8Path;
use support::programs::FakePrograms;
use support::sim::SimFs;
use support::{WIFI_SECRET, machine};
use zeroize::Zeroizing;

fn started() -> SimFs {
    let fs = SimFs::before_first_start();
    boot::run(&machine(&fs, &FakePrograms { fs: &fs }), &mut |_| {}).unwrap();
    fs
}

fn text(fs: &SimFs, path: &str) -> String {
    String::from_utf8(fs.read(Utf8Path::new(path)).unwrap().unwrap()).unwrap()
}

#[test]
fn a_mailbox_is_made_changed_and_closed() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let account = user::add(&machine, "bob", None).unwrap();
    let password = account.password.unwrap();
    let hash = |fs: &SimFs| {
        let users = text(fs, paths::USERS);
        let line = users.lines().find(|line| line.starts_with("bob@")).unwrap().to_owned();
        line.split_once(':').unwrap().1.trim_end_matches(':').to_owned()
    };
    assert!(identity::dovecot::verify(&hash(&fs), &password).unwrap());
    assert!(text(&fs, "/var/lib/cipolla/mail/senders").contains("bob@"));
    assert!(user::add(&machine, "bob", None).is_err(), "twice");
    assert!(user::add(&machine, "postmaster", None).is_err(), "a role");
    assert!(user::passwd(&machine, "bob", Some(Zeroizing::new("password".into()))).is_err(), "weak");
    let own = "seven tall giraffes hum quietly";
    user::passwd(&machine, "bob", Some(Zeroizing::new(own.into()))).unwrap();
    assert!(identity::dovecot::verify(&hash(&fs), own).unwrap());
    assert_eq!(user::list(&machine).unwrap().len(), 2);
    user::remove(&machine, "bob").unwrap();
    assert!(user::remove(&machine, "bob").is_err());
    assert!(!text(&fs, "/var/lib/cipolla/mail/mailboxes").contains("bob@"));
    assert!(user::remove(&machine, "ada").unwrap_err().to_string().contains("owner"));
}

#[test]
fn devices_are_let_in_and_taken_out() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    assert!(access::text(&access::list(&machine).unwrap()).contains("whoever knows its address"));
    let grant = access::add(&machine, Onion::Client, "laptop").unwrap();
    assert!(grant.closed_now);
    assert!(grant.text().unwrap().contains(grant.private_key.as_str()));
    assert!(!access::add(&machine, Onion::Client, "phone").unwrap().closed_now);
    assert!(access::add(&machine, Onion::Client, "phone").is_err(), "twice");
    assert!(access::add(&machine, Onion::Client, "../../evil").is_err());
    assert_eq!(access::list(&machine).unwrap().len(), 3);
    assert_eq!(access::revoke(&machine, Onion::Client, "phone").unwrap(), None);
    assert!(access::revoke(&machine, Onion::Client, "laptop").unwrap().unwrap().contains("whoever knows"));
    let error = access::revoke(&machine, Onion::Admin, "owner").unwrap_err().to_string();
    assert!(error.contains("open to everybody"), "{error}");
}

#[test]
fn acknowledged_credentials_are_gone() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let password = text(&fs, "/var/lib/cipolla/private/credentials/mailbox");
    assert!(credentials::show(&machine).unwrap().contains(&password));
    let encrypted = Utf8Path::new(paths::BOOT_CREDENTIALS);
    assert!(fs.entry(encrypted).unwrap().is_some());
    assert!(credentials::acknowledge(&machine).unwrap());
    assert!(fs.entry(encrypted).unwrap().is_none());
    assert!(!credentials::acknowledge(&machine).unwrap());
    assert!(credentials::show(&machine).is_err());
    let holds = |content: &Vec<u8>| content.windows(password.len()).any(|w| w == password.as_bytes());
    assert!(!fs.files().values().any(holds));
    // And the next start makes no new ones.
    assert_eq!(boot::run(&machine, &mut |_| {}).unwrap(), 0);
}

#[test]
fn the_password_in_front_of_the_webmail_is_replaced() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let first = text(&fs, "/var/lib/cipolla/private/credentials/web");
    let opens =
        |password: &str| identity::htpasswd::verify(text(&fs, paths::HTPASSWD).trim_end(), password).unwrap();
    let holds = |secret: &str| {
        let found = |content: &Vec<u8>| content.windows(secret.len()).any(|w| w == secret.as_bytes());
        fs.files().values().any(found)
    };
    assert!(opens(&first) && holds(&first));
    let encrypted = || fs.read(Utf8Path::new(paths::BOOT_CREDENTIALS)).unwrap().unwrap();
    let before = encrypted();
    let door = webmail::passwd(&machine, None, &mut |_| {}).unwrap();
    let made = door.password.clone().unwrap();
    assert!(door.text().contains(made.as_str()) && door.user == "ada");
    assert!(opens(&made) && !opens(&first));
    // The old one waits nowhere any more, the others still do.
    assert!(!holds(&first) && !holds(&made));
    assert!(encrypted() != before);
    let shown = credentials::show(&machine).unwrap();
    assert!(shown.contains("Mailbox (") && !shown.contains("In front of"), "{}", *shown);
    assert_eq!(boot::run(&machine, &mut |_| {}).unwrap(), 0, "the next start makes no other one");
    // A chosen one.
    let weak = webmail::passwd(&machine, Some(Zeroizing::new("password".into())), &mut |_| {});
    assert!(weak.is_err_and(|error| error.to_string().contains("12 characters")) && opens(&made));
    let own = "seven tall giraffes hum quietly";
    let door = webmail::passwd(&machine, Some(Zeroizing::new(own.into())), &mut |_| {}).unwrap();
    assert!(door.password.is_none() && !door.text().contains(own));
    assert!(opens(own) && !opens(&made));
    let access = fs.entry(Utf8Path::new(paths::HTPASSWD)).unwrap().unwrap();
    assert_eq!((access.mode, access.owner.unwrap().gid), (0o640, 33));
}

#[test]
fn the_screen_explains_a_failed_start() {
    let fs = SimFs::before_first_start();
    agent::handover::console_of_failure(&fs, r#"x.toml:2:1: "a\b" is wrong"#).unwrap();
    let shown = text(&fs, paths::CONSOLE);
    assert!(shown.contains(r#"x.toml:2:1: "a\\b" is wrong"#), "{shown}");
}

#[test]
fn the_screen_says_how_to_get_in() {
    const HOW: &str = "Nobody can log in";
    let fs = started();
    assert!(!text(&fs, paths::CONSOLE).contains(HOW));
    let fs = SimFs::before_first_start();
    fs.remove(Utf8Path::new(paths::BOOT_SETTINGS)).unwrap();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    boot::run(&machine, &mut |_| {}).unwrap();
    let shown = text(&fs, paths::CONSOLE);
    let end = shown.split_once("Write the passwords down").unwrap().1;
    assert!(end.contains(HOW) && end.contains("ssh_keys = [\"") && !shown.contains('\\'), "{shown}");
    assert!(end.lines().all(|line| line.chars().count() <= 79), "{end}");
    let key = identity::ssh::HostKey::from_seed(&[7; 32], "ada@desk").unwrap().public_key_file().unwrap();
    let settings = format!("[owner]\nssh_keys = [{:?}]\n", key.trim());
    fs.create(Utf8Path::new(paths::BOOT_SETTINGS), settings.as_bytes(), Access::root(0o600)).unwrap();
    boot::run(&machine, &mut |_| {}).unwrap();
    assert!(!text(&fs, paths::CONSOLE).contains(HOW));
}

#[test]
fn settings_are_checked_shown_and_applied() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let shown = settings::show(&machine).unwrap().text;
    assert!(shown.contains("quota = \"500M\"") && !shown.contains(WIFI_SECRET), "{shown}");
    let problems = settings::check(&machine, b"[mail]\nquota = 3\n", "new.toml").unwrap();
    assert_eq!(problems, ["new.toml:2:9: `quota`: this is an integer, it must be a text in \"quotes\""]);
    let error = settings::apply(&machine, b"[mail]\nquota = 3\n", "new.toml", &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("new.toml:2:9"));
    let new = b"[owner]\nmailbox = \"ada\"\n[mail]\nquota = \"7G\"\n";
    settings::apply(&machine, new, "new.toml", &mut |_| {}).unwrap();
    assert_eq!(text(&fs, "/etc/made/deep/limits.conf"), "40 7G ada 0.1.0\n");
    assert_eq!(boot::run(&machine, &mut |_| {}).unwrap(), 0, "the next start agrees");
}

/// [`FakePrograms`] with a systemctl that remembers what it was told.
struct WithSystemd<'f> {
    fake: FakePrograms<'f>,
    told: RefCell<Vec<String>>,
}

impl Programs for WithSystemd<'_> {
    fn has(&self, program: &str) -> bool {
        program == "systemctl" || self.fake.has(program)
    }

    fn run(&self, argv: &[&str]) -> Result<Ran> {
        let ["systemctl", order @ ..] = argv else { return self.fake.run(argv) };
        self.told.borrow_mut().push(order.join(" "));
        Ok(Ran { success: true, stdout: String::new(), stderr: String::new() })
    }
}

/// `NoExec` cannot change in a Tor that runs: it would exit.
#[test]
fn other_bridges_restart_tor_and_nothing_else_does() {
    let fs = started();
    let folder = Utf8Path::new("/usr/share/cipolla/templates/etc/tor");
    fs.mkdir(folder, Access::root(0o755)).unwrap();
    let content = b"{{ settings.tor.bridges }} {{ settings.mail.imap }}\n";
    fs.create(&folder.join("torrc.j2"), content, Access::root(0o644)).unwrap();
    let programs = WithSystemd { fake: FakePrograms { fs: &fs }, told: RefCell::default() };
    let machine = machine(&fs, &programs);
    let apply = |text: &str| {
        settings::apply(&machine, format!("[owner]\nmailbox = \"ada\"\n{text}").as_bytes(), "x", &mut |_| {})
            .unwrap();
        programs.told.take()
    };
    let bridge = "[tor]\nbridges = [\"192.0.2.7:443 0123456789ABCDEF0123456789ABCDEF01234567\"]\n";
    assert_eq!(apply(""), ["try-reload-or-restart tor@default.service"]);
    assert_eq!(apply(bridge), ["try-restart tor@default.service"]);
    assert_eq!(
        apply(&format!("{bridge}[mail]\nimap = \"webmail-only\"\n")),
        ["try-reload-or-restart tor@default.service"]
    );
    assert_eq!(apply(""), ["try-restart tor@default.service"]);
}

#[test]
fn applied_ssh_keys_count_at_once() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let apply = |text: &str| {
        let mut said = Vec::new();
        settings::apply(&machine, text.as_bytes(), "new.toml", &mut |line| said.push(line.to_owned()))
            .unwrap();
        said
    };
    let key = identity::ssh::HostKey::from_seed(&[7; 32], "ada@desk").unwrap().public_key_file().unwrap();
    apply(&format!("[owner]\nmailbox = \"ada\"\nssh_keys = [{:?}]\n", key.trim()));
    assert_eq!(text(&fs, paths::AUTHORIZED_KEYS), format!("{}\n", key.trim()));
    // No keys in the settings: nobody is shut out.
    let said = apply("[owner]\nmailbox = \"ada\"\n");
    assert!(said.iter().any(|line| line.contains("name no SSH keys")), "{said:?}");
    assert_eq!(text(&fs, paths::AUTHORIZED_KEYS), format!("{}\n", key.trim()));
    assert_eq!(boot::run(&machine, &mut |_| {}).unwrap(), 0, "the next start agrees");
}

#[test]
fn the_webmail_changes_a_password() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let old = user::add(&machine, "bob", None).unwrap().password.unwrap();
    user::quota(&machine, "bob", Some("5G")).unwrap();
    let (new, before) = ("seven tall giraffes hum quietly", text(&fs, paths::USERS));
    let mut mailboxes = Mailboxes::new(&machine);
    assert!(mailboxes.change("bob", new).is_err(), "the present password comes first");
    let domain = Onion::Mx.address(&fs).unwrap();
    let client = Onion::Client.address(&fs).unwrap();
    for stranger in ["eve", "", "bob@", &format!("bob@{client}"), "bob@example.com", "../bob"] {
        assert!(!mailboxes.verify(stranger, &old).unwrap(), "{stranger}");
    }
    for wrong in ["", "guess", "seven"] {
        assert!(!mailboxes.verify("bob", wrong).unwrap());
    }
    assert!(mailboxes.verify(&format!("Bob@{domain}"), &old).unwrap());
    assert!(mailboxes.change("bob", "password").unwrap().unwrap_err().contains("12 characters"));
    assert!(mailboxes.change("bob", "passwordpassword").unwrap().unwrap_err().contains("guessed"));
    assert_eq!(text(&fs, paths::USERS), before);
    mailboxes.change("bob", new).unwrap().unwrap();
    assert!(mailboxes.change("bob", new).is_err(), "once per conversation");
    let after = text(&fs, paths::USERS);
    assert!(after.lines().next() == before.lines().next(), "ada's line is as it was");
    assert!(after.contains(":userdb_quota_storage_size=5G\n"), "{after}");
    assert!(mailboxes.verify("bob", new).unwrap() && !mailboxes.verify("bob", &old).unwrap());
    // The owner was faster than bob.
    let mut late = Mailboxes::new(&machine);
    assert!(late.verify("bob", new).unwrap());
    user::passwd(&machine, "bob", None).unwrap();
    assert!(late.change("bob", "eight small hippos sing loudly").unwrap().unwrap_err().contains("meanwhile"));
}

#[test]
fn a_mailbox_gets_more_room() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    user::quota(&machine, "ada", Some("5G")).unwrap();
    user::quota(&machine, "ada", Some("5G")).unwrap();
    let list = user::list(&machine).unwrap();
    assert_eq!(list[0].quota.as_deref(), Some("5G"));
    assert!(user::text(&list).ends_with("5G\n"));
    assert!(user::quota(&machine, "ada", Some("5 GB")).is_err());
    assert!(user::quota(&machine, "eve", None).unwrap_err().to_string().contains("there is no eve@"));
    user::quota(&machine, "ada", None).unwrap();
    assert_eq!(user::list(&machine).unwrap()[0].quota, None);
}

#[test]
fn a_login_shows_what_waits_once_and_forgets_nothing() {
    let fs = started();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    let password = text(&fs, "/var/lib/cipolla/private/credentials/mailbox");
    let first = credentials::greet(&machine).unwrap().unwrap();
    assert!(first.text.contains(&password) && first.text.contains("type: cipolla ack"));
    assert!(!format!("{first:?}").contains(&password));
    // The line broke before it was on the screen: it comes again.
    assert!(credentials::greet(&machine).unwrap().unwrap().text.contains(&password));
    credentials::greeted(&machine, &first).unwrap();
    let second = credentials::greet(&machine).unwrap().unwrap();
    assert!(!second.text.contains(&password) && second.text.contains("show-credentials"));
    credentials::greeted(&machine, &second).unwrap();
    assert!(credentials::show(&machine).unwrap().contains(&password), "nothing was forgotten");
    assert_eq!(boot::run(&machine, &mut |_| {}).unwrap(), 0, "the next start has nothing to do about it");
    credentials::acknowledge(&machine).unwrap();
    assert!(credentials::greet(&machine).unwrap().is_none());
}
