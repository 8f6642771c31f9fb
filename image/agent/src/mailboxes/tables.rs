//! The tables of Postfix that follow from the mailboxes: text files that postmap(1) compiles.
//!
//! The compiled table is put in place first, so an up-to-date text means an up-to-date table. The text is the
//! very file that was compiled, and therefore not newer: Postfix warns of newer ones.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use crate::fs::{Access, Fs, Replace, atomic};
use crate::machine::Machine;
use crate::paths;

/// Names whose mail reaches the owner (RFC 2142, and what programs write to).
const ROLES: [&str; 8] =
    ["abuse", "hostmaster", "mailer-daemon", "noc", "postmaster", "root", "security", "webmaster"];

/// Tables that only the owner fills: made empty, never overwritten.
const OWNERS_TABLES: [&str; 2] = ["blocked", "transport"];

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

/// The tables that follow from the mailboxes.
#[must_use]
pub fn derived(locals: &[String], owner: &str, domain: &str) -> [Table; 3] {
    let lines = |line: &dyn Fn(&str) -> String| locals.iter().fold(String::new(), |all, l| all + &line(l));
    let mut aliases = String::new();
    for role in ROLES.iter().filter(|role| !locals.iter().any(|local| local == *role)) {
        let _ = writeln!(aliases, "{role}@{domain} {owner}@{domain}");
    }
    [
        Table { name: "mailboxes", text: lines(&|local| format!("{local}@{domain} {local}\n")) },
        Table { name: "aliases", text: aliases },
        Table { name: "senders", text: lines(&|local| format!("{local}@{domain} {local}@{domain}\n")) },
    ]
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
    for name in OWNERS_TABLES {
        let table = Table { name, text: String::new() };
        let text = fs.read(&table.path())?;
        if text.is_none() || uncompiled(&table)? {
            let text = String::from_utf8(text.unwrap_or_default())
                .with_context(|| format!("{name} is not UTF-8"))?;
            outdated.push(Table { name, text });
        }
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
        let [mailboxes, aliases, senders] = derived(&["ada".into(), "noc".into()], "ada", DOMAIN);
        assert_eq!(mailboxes.text, "ada@example.onion ada\nnoc@example.onion noc\n");
        assert!(aliases.text.contains("postmaster@example.onion ada@example.onion\n"));
        assert!(!aliases.text.contains("noc@"), "a mailbox of that name gets its own mail");
        assert!(senders.text.contains("ada@example.onion ada@example.onion\n"));
    }
}
