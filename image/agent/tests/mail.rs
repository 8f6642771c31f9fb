//! The owner's commands about mail, on an appliance in memory with a Postfix that only pretends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "each test uses its part of the support")]
mod support;

use std::cell::RefCell;

use agent::boot;
use agent::commands::{alias, block, list, queue, user};
use agent::fs::Fs as _;
use agent::machine::Machine;
use agent::onions::Onion;
use agent::programs::{Programs, Ran};
use anyhow::Result;
use camino::Utf8Path;
use identity::onion::OnionKey;
use support::machine;
use support::programs::FakePrograms;
use support::sim::SimFs;

fn on_an_appliance(test: impl FnOnce(&SimFs, &Machine<'_>)) {
    let fs = SimFs::before_first_start();
    let programs = FakePrograms { fs: &fs };
    let machine = machine(&fs, &programs);
    boot::run(&machine, &mut |_| {}).unwrap();
    user::add(&machine, "bob", None).unwrap();
    test(&fs, &machine);
    assert_eq!(boot::run(&machine, &mut |_| {}).unwrap(), 0, "the next start agrees with what was done");
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn table(fs: &SimFs, name: &str) -> String {
    let read = |name: &str| {
        let path = Utf8Path::new("/var/lib/cipolla/mail").join(name);
        String::from_utf8(fs.read(&path).unwrap().unwrap()).unwrap()
    };
    let text = read(name);
    assert_eq!(read(&format!("{name}.lmdb")), text, "{name} is compiled");
    text
}

fn other_onion() -> String {
    OnionKey::from_seed(&[9; 32]).address().to_string()
}

#[test]
fn an_alias_reaches_a_mailbox_that_may_write_as_it() {
    on_an_appliance(|fs, machine| {
        let domain = Onion::Mx.address(fs).unwrap().to_string();
        assert!(alias::add(machine, "sales", &names(&["ada"])).unwrap());
        assert!(!alias::add(machine, "sales", &names(&["ada"])).unwrap(), "twice is once");
        let line = format!("sales@{domain} ada@{domain}\n");
        assert!(table(fs, "aliases").contains(&line) && table(fs, "senders").contains(&line));
        assert!(alias::add(machine, &format!("sales@{domain}"), &names(&["bob"])).unwrap());
        let line = format!("sales@{domain} ada@{domain},bob@{domain}\n");
        assert!(table(fs, "aliases").contains(&line) && table(fs, "senders").contains(&line));
        assert!(alias::add(machine, "postmaster", &names(&["bob"])).unwrap());
        assert!(table(fs, "aliases").contains(&format!("postmaster@{domain} bob@{domain}\n")));
        let text = alias::text(&alias::list(machine).unwrap());
        assert!(text.contains(&format!("sales@{domain}  ada bob\n")), "{text}");
        assert!(alias::remove(machine, "sales", &names(&["bob"])).unwrap());
        assert!(alias::remove(machine, "sales", &[]).unwrap());
        assert!(!alias::remove(machine, "sales", &[]).unwrap());
        assert!(!table(fs, "aliases").contains("sales@"));
    });
}

#[test]
fn wrong_aliases_are_named_all_at_once_and_change_nothing() {
    on_an_appliance(|fs, machine| {
        let before = fs.files();
        let refused = |name: &str, mailboxes: &[&str], why: &[&str]| {
            let error = format!("{:#}", alias::add(machine, name, &names(mailboxes)).unwrap_err());
            assert!(why.iter().all(|why| error.contains(why)), "{error}");
        };
        refused("sales", &["eve", "mallory"], &["leads to eve", "leads to mallory"]);
        refused("sales", &["Eve", "a b"], &["lower case", "cannot be in a mailbox name"]);
        refused("bob", &["ada"], &["would be a mailbox and an alias"]);
        refused("mailer-daemon", &["ada"], &["the mail server itself"]);
        refused("sales@example.com", &["ada"], &["not an address of this appliance"]);
        refused("sales", &[&format!("ada@{}", other_onion())], &["not an address of this appliance"]);
        assert!(fs.files() == before);
        // What an alias leads to stays, until the alias goes.
        alias::add(machine, "sales", &names(&["bob"])).unwrap();
        let error = user::remove(machine, "bob").unwrap_err().to_string();
        assert!(error.contains("the alias sales leads to bob"), "{error}");
        assert!(user::add(machine, "sales", None).is_err());
        alias::remove(machine, "sales", &[]).unwrap();
        user::remove(machine, "bob").unwrap();
    });
}

#[test]
fn a_list_has_members_here_and_elsewhere() {
    on_an_appliance(|fs, machine| {
        let domain = Onion::Mx.address(fs).unwrap().to_string();
        let eve = format!("eve@{}", other_onion());
        let bob = format!("bob@{domain}");
        assert!(list::create(machine, "team", &names(&["ada", &bob, &eve])).unwrap());
        assert!(!list::create(machine, "team", &names(&["ada"])).unwrap());
        assert!(table(fs, "aliases").contains(&format!("team@{domain} ada@{domain},{bob},{eve}\n")));
        assert!(!table(fs, "senders").contains("team@"), "nobody writes as a list");
        assert_eq!(list::show(machine, None).unwrap(), list::show(machine, Some("team")).unwrap());
        assert!(list::text(&list::show(machine, None).unwrap()).contains(&format!("\n  {eve}\n")));
        assert!(list::remove(machine, "team", &names(&["bob", "ada"])).unwrap());
        let error = list::remove(machine, "team", &names(&[&eve])).unwrap_err().to_string();
        assert!(error.contains("cipolla list delete team"), "{error}");
        assert!(list::add(machine, "team", &names(&["ada"])).unwrap());
        for (members, why) in [
            (["carol@example.com"], "ends in .onion"),
            (["nobody"], "neither a mailbox nor an alias"),
            (["team"], "neither a mailbox nor an alias"),
        ] {
            let error = format!("{:#}", list::add(machine, "team", &names(&members)).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        assert!(
            list::add(machine, "tema", &names(&["ada"])).unwrap_err().to_string().contains("no list tema")
        );
        assert!(list::show(machine, Some("tema")).is_err());
        assert!(list::delete(machine, "team").unwrap());
        assert!(!list::delete(machine, "team").unwrap());
        assert!(!table(fs, "aliases").contains("team@"));
    });
}

#[test]
fn senders_are_blocked() {
    on_an_appliance(|fs, machine| {
        let onion = other_onion();
        let spammer = format!("spammer@{onion}");
        assert!(block::add(machine, &names(&[&spammer, &onion])).unwrap());
        assert!(!block::add(machine, &names(&[&onion])).unwrap());
        assert_eq!(table(fs, "blocked"), format!("{spammer} REJECT\n{onion} REJECT\n"));
        assert_eq!(block::text(&block::list(machine).unwrap()), format!("{spammer}\n{onion}\n"));
        let wrong = block::add(machine, &names(&["x@example.com", "b\"@c.onion"])).unwrap_err().to_string();
        assert!(wrong.contains("x@example.com") && wrong.contains("whole onion"), "{wrong}");
        let ours = Onion::Mx.address(fs).unwrap().to_string();
        assert!(block::add(machine, &[ours]).unwrap_err().to_string().contains("this appliance"));
        assert!(block::remove(machine, &names(&[&spammer])).unwrap());
        assert!(!block::remove(machine, &names(&[&spammer])).unwrap());
        assert_eq!(table(fs, "blocked"), format!("{onion} REJECT\n"));
    });
}

/// A Postfix with one message in its queue; remembers what it was told to do.
#[derive(Default)]
struct Postfix {
    told: RefCell<Vec<String>>,
}

impl Programs for Postfix {
    fn has(&self, program: &str) -> bool {
        matches!(program, "postqueue" | "postsuper" | "postcat")
    }

    fn run(&self, argv: &[&str]) -> Result<Ran> {
        let stdout = match argv {
            ["postqueue", "-j"] => {
                r#"{"queue_name":"deferred","queue_id":"4gC7Xk1b0zz9xQ","arrival_time":1,"message_size":9,"sender":"a@b","recipients":[]}"#
            }
            ["postcat", "-qh", "4gC7Xk1b0zz9xQ"] => "Subject: \u{1b}[2Jhello\n",
            _ => {
                self.told.borrow_mut().push(argv.join(" "));
                ""
            }
        };
        Ok(Ran { success: true, stdout: stdout.to_owned(), stderr: String::new() })
    }
}

#[test]
fn the_queue_is_looked_after() {
    let (fs, postfix) = (SimFs::before_first_start(), Postfix::default());
    let machine = machine(&fs, &postfix);
    let id = "4gC7Xk1b0zz9xQ";
    assert_eq!(queue::list(&machine).unwrap()[0].id, id);
    assert_eq!(queue::show(&machine, id).unwrap(), "Subject: ?[2Jhello\n");
    let mut looked = 0;
    queue::retry(&machine, &[], || looked += 1).unwrap();
    queue::retry(&machine, &names(&[id]), || looked += 1).unwrap();
    assert_eq!(looked, 2);
    queue::retry(&machine, &names(&["4gC7Xk1b0zz9xX"]), || looked += 1).unwrap_err();
    assert_eq!(looked, 2, "one wrong name, and nothing is done");
    queue::hold(&machine, &names(&[id])).unwrap();
    queue::release(&machine, &names(&[id])).unwrap();
    queue::delete(&machine, &names(&[id])).unwrap();
    let told = [
        "postqueue -f".to_owned(),
        format!("postqueue -i {id}"),
        format!("postsuper -h {id}"),
        format!("postsuper -H {id}"),
        format!("postsuper -d {id}"),
    ];
    assert_eq!(*postfix.told.borrow(), told);
    let error = queue::delete(&machine, &names(&[id, "ALL", "4gC7Xk1b0zz9xX"])).unwrap_err().to_string();
    assert!(error.contains("\"ALL\"") && error.contains("\"4gC7Xk1b0zz9xX\""), "{error}");
    assert_eq!(postfix.told.borrow().len(), 5, "one wrong name, and nothing is done");
}

#[test]
fn without_postfix_there_is_no_queue() {
    let fs = SimFs::before_first_start();
    let programs = FakePrograms { fs: &fs };
    let error = queue::list(&machine(&fs, &programs)).unwrap_err().to_string();
    assert_eq!(error, "this appliance has no mail server");
}
