//! `cipolla alias add|remove|list`: further addresses of mailboxes.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use identity::mailbox::LocalPart;
use serde::Serialize;

use crate::machine::Machine;
use crate::mailboxes::Writer;
use crate::mailboxes::book::AddressBook;
use crate::onions::Onion;
use crate::settings::load;

/// An alias in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its address.
    pub address: String,
    /// The mailboxes that get its mail and may write as it.
    pub mailboxes: BTreeSet<LocalPart>,
}

/// Reads names; all that are wrong are named at once.
///
/// # Errors
/// Every name that is none.
pub(super) fn parse<T, E: std::fmt::Display>(
    names: &[String],
    one: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>> {
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    for name in names {
        match one(name) {
            Ok(name) => good.push(name),
            Err(error) => wrong.push(format!("{name:?}: {error}")),
        }
    }
    if wrong.is_empty() { Ok(good) } else { bail!("nothing was changed:\n{}", wrong.join("\n")) }
}

/// Changes the address book and what follows from it. Returns whether it was another one before.
///
/// # Errors
/// When the new one is wrong, or from the file system.
pub(super) fn edit(
    machine: &Machine<'_>,
    change: impl FnOnce(&mut AddressBook, &str) -> Result<()>,
) -> Result<bool> {
    let writer = Writer::lock(machine)?;
    let owner = load::load(machine.fs, None)?.settings.owner.mailbox;
    let before = writer.book()?;
    let mut book = before.clone();
    change(&mut book, writer.domain())?;
    if book != before {
        writer.put_book(&book)?;
    }
    // Also without a change: an earlier one may have been interrupted here.
    writer.refresh_tables(&owner)?;
    Ok(book != before)
}

/// Lets mail for `name` reach these mailboxes as well, and their users write as it. Returns whether that is new.
///
/// # Errors
/// When a name is wrong or taken, or there is no such mailbox.
pub fn add(machine: &Machine<'_>, name: &str, mailboxes: &[String]) -> Result<bool> {
    let name = own_name(name, machine)?;
    let mailboxes = parse(mailboxes, |mailbox| own_name(mailbox, machine))?;
    edit(machine, |book, _| {
        book.aliases.entry(name).or_default().extend(mailboxes);
        Ok(())
    })
}

/// Takes mailboxes out of an alias; without any named, or with the last one, the alias is gone. Returns whether
/// anything changed.
///
/// # Errors
/// When a name is wrong, or a list still needs the alias.
pub fn remove(machine: &Machine<'_>, name: &str, mailboxes: &[String]) -> Result<bool> {
    let name = own_name(name, machine)?;
    let mailboxes = parse(mailboxes, |mailbox| own_name(mailbox, machine))?;
    edit(machine, |book, _| {
        let Some(behind) = book.aliases.get_mut(&name) else { return Ok(()) };
        behind.retain(|mailbox| !mailboxes.is_empty() && !mailboxes.contains(mailbox));
        if behind.is_empty() {
            book.aliases.remove(&name);
        }
        Ok(())
    })
}

/// A name of ours, with or without our domain.
pub(super) fn own_name(text: &str, machine: &Machine<'_>) -> Result<LocalPart> {
    let domain = Onion::Mx.address(machine.fs)?.to_string();
    let local = match text.split_once('@') {
        Some((local, at)) if at.eq_ignore_ascii_case(&domain) => local,
        Some(_) => bail!("{text} is not an address of this appliance, which are at {domain}"),
        None => text,
    };
    Ok(local.parse()?)
}

/// All aliases that the owner made.
///
/// # Errors
/// When they cannot be read.
pub fn list(machine: &Machine<'_>) -> Result<Vec<Entry>> {
    let domain = Onion::Mx.address(machine.fs)?;
    let aliases = AddressBook::load(machine.fs)?.aliases;
    Ok(aliases
        .into_iter()
        .map(|(name, mailboxes)| Entry { address: format!("{name}@{domain}"), mailboxes })
        .collect())
}

/// The list as the owner reads it.
#[must_use]
pub fn text(list: &[Entry]) -> String {
    let line = |Entry { address, mailboxes }: &Entry| {
        let mailboxes: Vec<_> = mailboxes.iter().map(LocalPart::as_str).collect();
        format!("{address}  {}\n", mailboxes.join(" "))
    };
    let own: String = list.iter().map(line).collect();
    own + "postmaster, root, abuse and the like reach the owner, unless they are named here.\n"
}
