//! `cipolla user add|passwd|quota|list|remove`: mailboxes.
//!
//! The passwd-file is replaced as a whole, one writer at a time.

use anyhow::{Context, Result, bail};
use identity::mailbox::LocalPart;
use identity::{dovecot, passphrase, policy};
use serde::Serialize;
use zeroize::Zeroizing;

use super::services;
use crate::machine::Machine;
use crate::mailboxes::{Writer, users};
use crate::onions::Onion;
use crate::settings::{self, load};

/// A mailbox whose password was just set.
#[derive(Serialize)]
pub struct Account {
    /// Its address.
    pub address: String,
    /// The password, if it was made here. It is shown once.
    #[serde(serialize_with = "super::in_clear")]
    pub password: Option<Zeroizing<String>>,
    /// What went wrong with telling Dovecot.
    pub problems: Vec<String>,
}

impl Account {
    /// What the owner reads.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(match &self.password {
            Some(password) => format!(
                "mailbox   {}\npassword  {}\n\nThe password is shown once and not kept here.\n",
                self.address, **password
            ),
            None => format!("mailbox   {}\npassword  as given\n", self.address),
        });
        text.extend(self.problems.iter().map(|problem| format!("{problem}\n")));
        text
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
    let writer = Writer::lock(machine)?;
    let owner = load::load(machine.fs, None)?.settings.owner.mailbox;
    writer.put_mailboxes(&edit(&writer.users()?, writer.domain())?)?;
    writer.refresh_tables(&owner)?;
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
        match (new, users::with_hash(users, &address, &hash)) {
            (true, Some(_)) => {
                bail!("{address} exists; set a new password with: cipolla user passwd {local}")
            }
            (true, None) => Ok(format!("{users}{}", users::line(local.as_str(), domain, &hash))),
            (false, changed) => {
                changed.with_context(|| format!("there is no {address}; see: cipolla user list"))
            }
        }
    })?;
    let problems = services::forget_login(machine, &address, !new)?;
    Ok(Account { address, password: made.then_some(password), problems })
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

/// Gives a mailbox other room than all have, or the same again. Returns what went wrong with telling Dovecot.
///
/// # Errors
/// When there is no such mailbox, or this is no size.
pub fn quota(machine: &Machine<'_>, name: &str, quota: Option<&str>) -> Result<Vec<String>> {
    let local: LocalPart = name.parse()?;
    let quota = quota.map(settings::quota).transpose().map_err(anyhow::Error::msg)?;
    let mut address = String::new();
    edit_users(machine, |users, domain| {
        address = format!("{local}@{domain}");
        users::with_quota(users, &address, quota.as_deref())
            .with_context(|| format!("there is no {address}; see: cipolla user list"))
    })?;
    services::forget_mailbox(machine, &address)
}

/// A mailbox in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its address.
    pub address: String,
    /// Its room, if it is not that of all.
    pub quota: Option<String>,
}

/// All mailboxes.
///
/// # Errors
/// When the passwd-file cannot be read.
pub fn list(machine: &Machine<'_>) -> Result<Vec<Entry>> {
    let domain = Onion::Mx.address(machine.fs)?.to_string();
    let users = users::load(machine.fs)?;
    let entry = |local: &String| {
        let address = format!("{local}@{domain}");
        Entry { quota: users::quota(&users, &address).map(str::to_owned), address }
    };
    Ok(users::locals(&users, &domain).iter().map(entry).collect())
}

/// The list as the owner reads it.
#[must_use]
pub fn text(list: &[Entry]) -> String {
    let line = |Entry { address, quota }: &Entry| match quota {
        Some(quota) => format!("{address}  {quota}\n"),
        None => format!("{address}\n"),
    };
    list.iter().map(line).collect()
}

/// Closes a mailbox and ends its sessions. Returns what went wrong with that.
///
/// # Errors
/// When there is none, or it is the owner's.
pub fn remove(machine: &Machine<'_>, name: &str) -> Result<Vec<String>> {
    let local: LocalPart = name.parse()?;
    if load::load(machine.fs, None)?.settings.owner.mailbox == local.as_str() {
        bail!(
            "{local} is the owner, who gets the mail for postmaster; name another owner in the settings first"
        );
    }
    let mut address = String::new();
    edit_users(machine, |users, domain| {
        address = format!("{local}@{domain}");
        users::without(users, &address)
            .with_context(|| format!("there is no {address}; see: cipolla user list"))
    })?;
    services::forget_login(machine, &address, true)
}
