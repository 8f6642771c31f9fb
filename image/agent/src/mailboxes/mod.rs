//! Mailboxes: Dovecot's passwd-file ([`users`]), the owner's aliases and lists ([`book`]), and the tables of Postfix
//! that follow from both ([`tables`]).
//!
//! The passwd-file is the truth about who has a mailbox. All of it is changed by a [`Writer`] only, one at a time: the
//! owner's commands, the webmail's change of a password and the start of the appliance do not lose each other's
//! changes.

pub mod book;
pub mod tables;
pub mod users;

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use camino::Utf8Path;

use crate::accounts::Accounts;
use crate::fs::{Access, Lock, Replace, atomic};
use crate::machine::Machine;
use crate::onions::Onion;
use crate::paths;
use book::AddressBook;
use tables::Table;

/// Whoever may change mailboxes now. Others wait until it is dropped.
#[derive(Debug)]
pub struct Writer<'w, 'm> {
    machine: &'w Machine<'m>,
    domain: String,
    _lock: Lock,
}

impl<'w, 'm> Writer<'w, 'm> {
    /// Waits for its turn.
    ///
    /// # Errors
    /// When there are no mailboxes on this appliance yet.
    pub fn lock(machine: &'w Machine<'m>) -> Result<Self> {
        let folder = Utf8Path::new(paths::MAIL);
        let lock = machine.fs.lock(folder).context("waiting for another change of mailboxes")?;
        Ok(Self { machine, domain: Onion::Mx.address(machine.fs)?.to_string(), _lock: lock })
    }

    /// The mail domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The passwd-file as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn users(&self) -> Result<String> {
        users::load(self.machine.fs)
    }

    /// The owner's aliases and lists as they are now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn book(&self) -> Result<AddressBook> {
        AddressBook::load(self.machine.fs)
    }

    /// Replaces aliases and lists.
    ///
    /// # Errors
    /// Everything that is wrong with them, and from the file system.
    pub fn put_book(&self, book: &AddressBook) -> Result<()> {
        self.agree(&self.users()?, book)?;
        let path = Utf8Path::new(paths::ADDRESSES);
        atomic::put(self.machine.fs, path, book.text()?.as_bytes(), Access::root(0o600), Replace::Allowed)
    }

    /// Whether mailboxes, aliases and lists fit together.
    fn agree(&self, users: &str, book: &AddressBook) -> Result<()> {
        let problems = book.problems(&users::locals(users, &self.domain));
        if problems.is_empty() { Ok(()) } else { bail!("nothing was changed:\n{}", problems.join("\n")) }
    }

    /// Replaces the passwd-file by one with other mailboxes.
    ///
    /// # Errors
    /// When an alias or list would not fit any more, and from the file system.
    pub fn put_mailboxes(&self, users: &str) -> Result<()> {
        self.agree(users, &self.book()?)?;
        self.put_users(users)
    }

    /// Replaces the passwd-file.
    ///
    /// # Errors
    /// From the file system.
    pub fn put_users(&self, users: &str) -> Result<()> {
        let fs = self.machine.fs;
        let path = Utf8Path::new(paths::USERS);
        let access = Accounts::load(fs)?.of_group("dovecot", 0o640)?;
        if let Some(entry) = fs.entry(path)? {
            std::thread::sleep(until_noticed(entry.modified, SystemTime::now()));
        }
        atomic::put(fs, path, users.as_bytes(), access, Replace::Allowed)
    }

    /// Replaces a table that only the owner fills.
    ///
    /// # Errors
    /// When it is refused, or from the file system.
    pub fn put_table(&self, table: &Table) -> Result<()> {
        tables::put(self.machine, table)
    }

    /// Brings the tables of Postfix up to date. Returns which were not.
    ///
    /// # Errors
    /// When a table is refused, or from the file system.
    pub fn refresh_tables(&self, owner: &str) -> Result<Vec<Table>> {
        let outdated = outdated_tables(self.machine, owner)?;
        outdated.iter().try_for_each(|table| tables::put(self.machine, table))?;
        Ok(outdated)
    }
}

/// How long to wait before a change, so that Dovecot notices it: it reads the file again when its length or the
/// *second* of its last change is another one, and a new hash is as long as the old one.
fn until_noticed(modified: SystemTime, now: SystemTime) -> Duration {
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since(modified).as_secs() != since(now).as_secs() {
        return Duration::ZERO;
    }
    // A little more, because the kernel's clock for files goes in ticks.
    Duration::from_millis(1010).saturating_sub(Duration::from_nanos(since(now).subsec_nanos().into()))
}

/// The tables of Postfix that are not as the mailboxes want them; `owner` gets the mail for roles.
///
/// # Errors
/// When they or the mailboxes cannot be read.
pub fn outdated_tables(machine: &Machine<'_>, owner: &str) -> Result<Vec<Table>> {
    let domain = Onion::Mx.address(machine.fs)?.to_string();
    let locals = users::locals(&users::load(machine.fs)?, &domain);
    let wanted = tables::derived(&locals, &AddressBook::load(machine.fs)?, owner, &domain);
    tables::outdated(machine.fs, &wanted, machine.programs.has("postmap"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_changes_are_never_in_one_second() {
        let time = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(until_noticed(time(5_900), time(6_000)), Duration::ZERO);
        assert_eq!(until_noticed(time(5_100), time(5_300)), Duration::from_millis(710));
        assert_eq!(until_noticed(time(5_999), time(5_999)), Duration::from_millis(11));
        assert_eq!(until_noticed(time(9_000), time(5_000)), Duration::ZERO, "the clock was set back");
    }
}
