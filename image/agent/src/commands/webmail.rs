//! `cipolla webmail passwd`: the password in front of the webmail, which nginx asks for before anything else.
//!
//! There is one user, named as the owner's mailbox, and one line in nginx's file. Mailboxes have passwords of their
//! own ([`super::user`]).

use anyhow::{Context, Result, bail};
use identity::mailbox::LocalPart;
use identity::{passphrase, policy};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::accounts::Accounts;
use crate::boot::apply::put_htpasswd;
use crate::boot::{Say, facts};
use crate::credentials::Credential;
use crate::fs::atomic;
use crate::handover;
use crate::machine::Machine;
use crate::onions::Onion;
use crate::settings::load;

/// The way through the first door, just set.
#[derive(Serialize)]
pub struct Door {
    /// The webmail's address.
    pub url: String,
    /// The name to give.
    pub user: String,
    /// The password, if it was made here. It is shown once.
    #[serde(serialize_with = "super::in_clear")]
    pub password: Option<Zeroizing<String>>,
}

impl Door {
    /// What the owner reads.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let Self { url, user, password } = self;
        Zeroizing::new(match password {
            Some(password) => format!(
                "webmail   {url}\nuser      {user}\npassword  {}\n\nThe password is shown once and not kept here.\n",
                **password
            ),
            None => format!("webmail   {url}\nuser      {user}\npassword  as given\n"),
        })
    }
}

/// Sets a new password in front of the webmail: the given one, if it is good enough, or a new one. One that was waiting
/// to be acknowledged is forgotten everywhere, also in `credentials.age`.
///
/// # Errors
/// When the image has no webmail, the password is weak, or a file cannot be written.
pub fn passwd(machine: &Machine<'_>, given: Option<Zeroizing<String>>, say: Say<'_>) -> Result<Door> {
    let fs = machine.fs;
    let accounts = Accounts::load(fs)?;
    if !facts::roles(&accounts).web {
        bail!("this image has no webmail");
    }
    let settings = load::load(fs, None)?.settings;
    let user: LocalPart = settings.owner.mailbox.parse()?;
    let made = given.is_none();
    let password = match given {
        Some(password) => {
            policy::check(&password, &user)?;
            password
        }
        None => {
            let made = passphrase::generate(&mut **machine.rng.borrow_mut(), passphrase::DEFAULT_BITS);
            Zeroizing::new(made.as_str().to_owned())
        }
    };
    let url = format!("http://{}", Onion::Client.address(fs)?);
    // First, so that a power cut leaves an old password unknown rather than a wrong one on the screen.
    let waited = forget_waiting(machine)?;
    put_htpasswd(machine, &accounts, user.as_str(), &password)
        .context("setting the password in front of the webmail")?;
    if waited {
        // The console, and what else waits, without it.
        handover::run(machine, &settings, say)?;
        handover::refresh_console(machine)?;
    }
    Ok(Door { url, user: user.as_str().to_owned(), password: made.then_some(password) })
}

/// Forgets the password of the first start, if it still waits. Returns whether it did.
fn forget_waiting(machine: &Machine<'_>) -> Result<bool> {
    let (fs, path) = (machine.fs, Credential::Web.path());
    if fs.entry(&path)?.is_none() {
        return Ok(false);
    }
    handover::withdraw(machine)?;
    fs.remove(&path).context("forgetting the password of the first start")?;
    fs.sync(atomic::parent(&path))?;
    Ok(true)
}
