//! `cipolla user add|passwd|list|remove`: mailboxes.
//!
//! The passwd-file is replaced as a whole, one writer at a time.

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use identity::mailbox::LocalPart;
use identity::{dovecot, passphrase, policy};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::accounts::Accounts;
use crate::fs::{Replace, atomic};
use crate::machine::Machine;
use crate::mailboxes;
use crate::onions::Onion;
use crate::paths;
use crate::settings::load;

/// A mailbox whose password was just set.
#[derive(Serialize)]
pub struct Account {
    /// Its address.
    pub address: String,
    /// The password, if it was made here. It is shown once.
    #[serde(serialize_with = "in_clear")]
    pub password: Option<Zeroizing<String>>,
}

fn in_clear<S: serde::Serializer>(
    secret: &Option<Zeroizing<String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_some(secret.as_str()),
        None => serializer.serialize_none(),
    }
}

impl Account {
    /// What the owner reads.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(match &self.password {
            Some(password) => format!(
                "mailbox   {}\npassword  {}\n\nThe password is shown once and not kept here.",
                self.address, **password
            ),
            None => format!("mailbox   {}\npassword  as given", self.address),
        })
    }
}

/// The password that is to be set: the given one, if it is good enough, or a new one.
fn choose(
    machine: &Machine<'_>,
    local: &LocalPart,
    given: Option<Zeroizing<String>>,
) -> Result<(Zeroizing<String>, bool)> {
    match given {
        Some(password) => {
            policy::check(&password, local)?;
            Ok((password, false))
        }
        None => {
            let made = passphrase::generate(&mut **machine.rng.borrow_mut(), passphrase::DEFAULT_BITS);
            Ok((Zeroizing::new(made.as_str().to_owned()), true))
        }
    }
}

/// Replaces the passwd-file by what `edit` makes of it, and brings the tables up to date.
fn edit_users(machine: &Machine<'_>, edit: impl FnOnce(&str, &str) -> Result<String>) -> Result<()> {
    let fs = machine.fs;
    let _lock = fs.lock(Utf8Path::new(paths::MAIL)).context("waiting for another change of mailboxes")?;
    let domain = Onion::Mx.address(fs)?.to_string();
    let users = edit(&mailboxes::load_users(fs)?, &domain)?;
    let access = Accounts::load(fs)?.of_group("dovecot", 0o640)?;
    atomic::put(fs, Utf8Path::new(paths::USERS), users.as_bytes(), access, Replace::Allowed)?;
    let owner = load::load(fs, None)?.settings.owner.mailbox;
    let wanted = mailboxes::tables(&mailboxes::locals(&users, &domain), &owner, &domain);
    for table in mailboxes::outdated(fs, &wanted, machine.programs.has("postmap"))? {
        mailboxes::put_table(machine, &table)?;
    }
    Ok(())
}

fn set_password(
    machine: &Machine<'_>,
    name: &str,
    given: Option<Zeroizing<String>>,
    new: bool,
) -> Result<Account> {
    let local: LocalPart = name.parse()?;
    if new && local.is_reserved() {
        bail!("mail for {local} reaches the owner anyway; choose another name");
    }
    let (password, made) = choose(machine, &local, given)?;
    let hash = dovecot::hash(&password, &mut **machine.rng.borrow_mut())?;
    let mut address = String::new();
    edit_users(machine, |users, domain| {
        address = format!("{local}@{domain}");
        let line = mailboxes::users_line(local.as_str(), domain, &hash);
        let known = mailboxes::locals(users, domain).iter().any(|other| other == local.as_str());
        match (new, known) {
            (true, true) => bail!("{address} exists; set a new password with: cipolla user passwd {local}"),
            (false, false) => bail!("there is no {address}; see: cipolla user list"),
            (true, false) => Ok(format!("{users}{line}")),
            (false, true) => Ok(replace_line(users, &address, &line)),
        }
    })?;
    Ok(Account { address, password: made.then_some(password) })
}

/// The passwd-file with the line of `address` replaced; every other line stays byte by byte.
fn replace_line(users: &str, address: &str, line: &str) -> String {
    let is_theirs = |old: &str| old.strip_prefix(address).is_some_and(|rest| rest.starts_with(':'));
    users.split_inclusive('\n').map(|old| if is_theirs(old) { line } else { old }).collect()
}

/// Makes a mailbox.
///
/// # Errors
/// When the name is bad or taken, or the password is weak.
pub fn add(machine: &Machine<'_>, name: &str, password: Option<Zeroizing<String>>) -> Result<Account> {
    set_password(machine, name, password, true)
}

/// Sets a new password.
///
/// # Errors
/// When there is no such mailbox, or the password is weak.
pub fn passwd(machine: &Machine<'_>, name: &str, password: Option<Zeroizing<String>>) -> Result<Account> {
    set_password(machine, name, password, false)
}

/// The addresses of all mailboxes.
///
/// # Errors
/// When the passwd-file cannot be read.
pub fn list(machine: &Machine<'_>) -> Result<Vec<String>> {
    let domain = Onion::Mx.address(machine.fs)?.to_string();
    let locals = mailboxes::locals(&mailboxes::load_users(machine.fs)?, &domain);
    Ok(locals.iter().map(|local| format!("{local}@{domain}")).collect())
}

/// Closes a mailbox.
///
/// # Errors
/// When there is none, or it is the owner's.
pub fn remove(machine: &Machine<'_>, name: &str) -> Result<()> {
    let local: LocalPart = name.parse()?;
    if load::load(machine.fs, None)?.settings.owner.mailbox == local.as_str() {
        bail!(
            "{local} is the owner, who gets the mail for postmaster; name another owner in the settings first"
        );
    }
    edit_users(machine, |users, domain| {
        let address = format!("{local}@{domain}");
        let rest = replace_line(users, &address, "");
        if rest == users {
            bail!("there is no {address}; see: cipolla user list");
        }
        Ok(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_changes_and_all_others_stay() {
        let users = "ada@x.onion:1::::::\n# kept\nada@x.onion.evil:2::::::\nbob@x.onion:3::::::\n";
        let changed = replace_line(users, "ada@x.onion", "ada@x.onion:9::::::\n");
        assert_eq!(changed, "ada@x.onion:9::::::\n# kept\nada@x.onion.evil:2::::::\nbob@x.onion:3::::::\n");
    }
}
