//! `cipolla list create|add|remove|show|delete`: mailing lists, one address for many people.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use identity::mailbox::LocalPart;
use serde::Serialize;

use super::alias::{edit, own_name, parse};
use crate::machine::Machine;
use crate::mailboxes::book::{AddressBook, Member};
use crate::onions::Onion;

/// A mailing list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its address.
    pub address: String,
    /// The addresses of its members.
    pub members: Vec<String>,
}

/// What is wrong with a name of a list that is not there.
fn missing(name: &LocalPart) -> String {
    format!("there is no list {name}; make it with: cipolla list create {name} MEMBER")
}

/// Makes a list, or adds members to it if it is there. Returns whether anything changed.
///
/// # Errors
/// When a name is wrong or taken, or a member is not known here.
pub fn create(machine: &Machine<'_>, name: &str, members: &[String]) -> Result<bool> {
    change(machine, name, members, |book, name, members| {
        book.lists.entry(name.clone()).or_default().extend(members);
        Ok(())
    })
}

/// Adds members. Returns whether anything changed.
///
/// # Errors
/// When there is no such list, or a member is not known here.
pub fn add(machine: &Machine<'_>, name: &str, members: &[String]) -> Result<bool> {
    change(machine, name, members, |book, name, members| {
        book.lists.get_mut(name).with_context(|| missing(name))?.extend(members);
        Ok(())
    })
}

/// Takes members out. Returns whether anything changed.
///
/// # Errors
/// When there is no such list, or it would have no member any more.
pub fn remove(machine: &Machine<'_>, name: &str, members: &[String]) -> Result<bool> {
    change(machine, name, members, |book, name, members| {
        book.lists.get_mut(name).with_context(|| missing(name))?.retain(|member| !members.contains(member));
        Ok(())
    })
}

/// Removes a list; its members keep what they got. Returns whether there was one.
///
/// # Errors
/// When the name is wrong, or from the file system.
pub fn delete(machine: &Machine<'_>, name: &str) -> Result<bool> {
    change(machine, name, &[], |book, name, _| {
        book.lists.remove(name);
        Ok(())
    })
}

fn change(
    machine: &Machine<'_>,
    name: &str,
    members: &[String],
    change: impl FnOnce(&mut AddressBook, &LocalPart, BTreeSet<Member>) -> Result<()>,
) -> Result<bool> {
    let name = own_name(name, machine)?;
    let domain = Onion::Mx.address(machine.fs)?.to_string();
    let members = parse(members, |member| Member::parse(member, &domain))?.into_iter().collect();
    edit(machine, |book, _| change(book, &name, members))
}

/// One list, or all.
///
/// # Errors
/// When there is no such list, or they cannot be read.
pub fn show(machine: &Machine<'_>, name: Option<&str>) -> Result<Vec<Entry>> {
    let domain = Onion::Mx.address(machine.fs)?.to_string();
    let name = name.map(|name| own_name(name, machine)).transpose()?;
    let lists = AddressBook::load(machine.fs)?.lists;
    if let Some(name) = name.as_ref().filter(|name| !lists.contains_key(name)) {
        anyhow::bail!(missing(name));
    }
    let wanted = lists.iter().filter(|(list, _)| name.as_ref().is_none_or(|name| name == *list));
    let address = |member: &Member| member.address(&domain);
    Ok(wanted
        .map(|(list, members)| Entry {
            address: format!("{list}@{domain}"),
            members: members.iter().map(address).collect(),
        })
        .collect())
}

/// Lists as the owner reads them.
#[must_use]
pub fn text(lists: &[Entry]) -> String {
    if lists.is_empty() {
        return "there are no lists\n".to_owned();
    }
    let block = |Entry { address, members }: &Entry| format!("{address}\n  {}\n", members.join("\n  "));
    lists.iter().map(block).collect()
}
