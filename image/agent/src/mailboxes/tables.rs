//! The tables of Postfix: text files that postmap(1) compiles. Most follow from mailboxes, aliases and lists.
//!
//! The compiled table is put in place first, so an up-to-date text means an up-to-date table. The text is the
//! very file that was compiled, and therefore not newer: Postfix warns of newer ones.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use super::book::AddressBook;
use crate::fs::{Access, Fs, Replace, atomic};
use crate::machine::Machine;
use crate::paths;

/// Names whose mail reaches the owner (RFC 2142, and what programs write to).
const ROLES: [&str; 8] =
    ["abuse", "hostmaster", "mailer-daemon", "noc", "postmaster", "root", "security", "webmaster"];

/// The table that only the owner fills: made empty, never overwritten.
const OWNERS_TABLE: &str = "blocked";

/// A table of Postfix and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name within [`paths::MAIL`].
    pub name: &'static str,
    /// Its text.
    pub text: String,
}

impl Table {
    /// Where its text is.
    #[must_use]
    pub fn path(&self) -> Utf8PathBuf {
        Utf8Path::new(paths::MAIL).join(self.name)
    }

    fn compiled(&self) -> Utf8PathBuf {
        compiled(&self.path())
    }
}

fn compiled(path: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{path}.lmdb"))
}

/// The tables that follow from mailboxes, aliases and lists. A mailbox wins over an alias or list of its name, and
/// all three over a role.
#[must_use]
pub fn derived(locals: &[String], book: &AddressBook, owner: &str, domain: &str) -> [Table; 3] {
    let at = |local: &str| format!("{local}@{domain}");
    let free = |name: &str| locals.iter().all(|local| local != name);
    let (mut mailboxes, mut aliases, mut senders) = (String::new(), String::new(), String::new());
    for local in locals {
        let _ = writeln!(mailboxes, "{} {local}", at(local));
        let _ = writeln!(senders, "{} {}", at(local), at(local));
    }
    let taken = |role: &str| book.aliases.keys().chain(book.lists.keys()).any(|name| name.as_str() == role);
    for role in ROLES.iter().filter(|role| free(role) && !taken(role)) {
        let _ = writeln!(aliases, "{} {}", at(role), at(owner));
    }
    for (name, behind) in book.aliases.iter().filter(|(name, _)| free(name.as_str())) {
        let behind: Vec<_> = behind.iter().map(|local| at(local.as_str())).collect();
        let _ = writeln!(aliases, "{} {}", at(name.as_str()), behind.join(","));
        let _ = writeln!(senders, "{} {}", at(name.as_str()), behind.join(","));
    }
    for (name, members) in book.lists.iter().filter(|(name, _)| free(name.as_str())) {
        let members: Vec<_> = members.iter().map(|member| member.address(domain)).collect();
        let _ = writeln!(aliases, "{} {}", at(name.as_str()), members.join(","));
    }
    [("mailboxes", mailboxes), ("aliases", aliases), ("senders", senders)]
        .map(|(name, text)| Table { name, text })
}

/// The tables that are not in place or, if `compile` says that they should be, not compiled since.
///
/// # Errors
/// When they cannot be looked at.
pub fn outdated(fs: &dyn Fs, wanted: &[Table], compile: bool) -> Result<Vec<Table>> {
    let uncompiled = |table: &Table| -> Result<bool> {
        let (text, compiled) = (fs.entry(&table.path())?, fs.entry(&table.compiled())?);
        Ok(compile && (compiled.is_none() || text.map(|e| e.modified) > compiled.map(|e| e.modified)))
    };
    let mut outdated = Vec::new();
    for table in wanted {
        let text = fs.read(&table.path())?;
        if text.as_deref() != Some(table.text.as_bytes()) || uncompiled(table)? {
            outdated.push(table.clone());
        }
    }
    let name = OWNERS_TABLE;
    let table = Table { name, text: String::new() };
    let text = fs.read(&table.path())?;
    if text.is_none() || uncompiled(&table)? {
        let text =
            String::from_utf8(text.unwrap_or_default()).with_context(|| format!("{name} is not UTF-8"))?;
        outdated.push(Table { name, text });
    }
    Ok(outdated)
}

/// Compiles a table and puts it in place.
///
/// # Errors
/// When postmap(1) refuses it, or from the file system.
pub(super) fn put(machine: &Machine<'_>, table: &Table) -> Result<()> {
    let fs = machine.fs;
    let path = table.path();
    let draft = atomic::temporary(&path);
    for leftover in [&draft, &compiled(&draft)] {
        if fs.entry(leftover)?.is_some() {
            fs.remove(leftover)?;
        }
    }
    fs.create(&draft, table.text.as_bytes(), Access::root(0o644))?;
    if machine.programs.has("postmap") {
        let ran = machine.programs.run(&["postmap", &format!("lmdb:{draft}")])?;
        if !ran.success {
            fs.remove(&draft)?;
            bail!("compiling the table {path}: postmap says {}", ran.stderr.trim());
        }
        fs.sync(&compiled(&draft))?;
        fs.rename(&compiled(&draft), &table.compiled(), Replace::Allowed)?;
        fs.sync(Utf8Path::new(paths::MAIL))?;
    }
    fs.sync(&draft)?;
    fs.rename(&draft, &path, Replace::Allowed)?;
    fs.sync(Utf8Path::new(paths::MAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "example.onion";

    #[test]
    fn roles_reach_the_owner() {
        let [mailboxes, aliases, senders] =
            derived(&["ada".into(), "noc".into()], &AddressBook::default(), "ada", DOMAIN);
        assert_eq!(mailboxes.text, "ada@example.onion ada\nnoc@example.onion noc\n");
        assert!(aliases.text.contains("postmaster@example.onion ada@example.onion\n"));
        assert!(!aliases.text.contains("noc@"), "a mailbox of that name gets its own mail");
        assert!(senders.text.contains("ada@example.onion ada@example.onion\n"));
    }

    #[test]
    fn aliases_and_lists_lead_to_mailboxes() {
        let other = identity::onion::OnionKey::from_seed(&[9; 32]).address();
        let text = format!(
            "[aliases]\nsales = [\"ada\", \"bob\"]\nabuse = [\"bob\"]\nbob = [\"ada\"]\n[lists]\nteam = [\"ada\", \"eve@{other}\"]\n"
        );
        let book = AddressBook::parse(&text).unwrap();
        let [_, aliases, senders] = derived(&["ada".into(), "bob".into()], &book, "ada", DOMAIN);
        let line = |text: &str, key: &str| {
            let lines: Vec<_> =
                text.lines().filter(|line| line.starts_with(&format!("{key}@{DOMAIN} "))).collect();
            lines.join("|").replace(&format!("{key}@{DOMAIN} "), "")
        };
        assert_eq!(line(&aliases.text, "sales"), "ada@example.onion,bob@example.onion");
        assert_eq!(line(&aliases.text, "abuse"), "bob@example.onion", "the owner's alias wins over the role");
        assert_eq!(line(&aliases.text, "bob"), "", "a mailbox gets its own mail");
        assert_eq!(line(&aliases.text, "team"), format!("ada@example.onion,eve@{other}"));
        assert_eq!(line(&senders.text, "sales"), "ada@example.onion,bob@example.onion");
        assert_eq!(line(&senders.text, "team"), "", "nobody writes as a list");
        assert_eq!(line(&senders.text, "bob"), "bob@example.onion");
    }
}
