//! `cipolla show-credentials`, `cipolla ack`, and what the owner sees after logging in.

use std::fmt;

use anyhow::{Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use zeroize::Zeroizing;

use crate::credentials::{self, Credential};
use crate::fs::{Access, Replace, atomic};
use crate::handover::{self, Card};
use crate::machine::Machine;
use crate::paths;
use crate::settings::load;

/// Addresses and the credentials that wait.
///
/// # Errors
/// When none waits, or they cannot be read.
pub fn show(machine: &Machine<'_>) -> Result<Zeroizing<String>> {
    let mut waiting = false;
    for credential in Credential::ALL {
        waiting |= machine.fs.entry(&credential.path())?.is_some();
    }
    if !waiting {
        bail!(
            "the passwords of the first start were acknowledged and are not kept; \
             `cipolla user passwd NAME`, `cipolla webmail passwd` and `cipolla access add NAME` make new ones"
        );
    }
    let settings = load::load(machine.fs, None)?.settings;
    Card::load(machine.fs, &settings)?.with_credentials(machine.fs)
}

/// Which credentials a login has shown; lies with them and goes with them.
fn shown_path() -> Utf8PathBuf {
    Utf8Path::new(paths::CREDENTIALS).join("shown")
}

/// What the owner reads after logging in.
pub struct Greeting {
    /// The text; secret if `shown` is set.
    pub text: Zeroizing<String>,
    /// The names of the credentials in the text, if there are any.
    shown: Option<String>,
}

impl fmt::Debug for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeting").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// What to say to the owner at a login: the waiting credentials the first time, later that they wait. Forgets
/// nothing: that is [`acknowledge`]'s, and the owner's decision. `None` if nothing waits.
///
/// # Errors
/// When the credentials cannot be read.
pub fn greet(machine: &Machine<'_>) -> Result<Option<Greeting>> {
    let fs = machine.fs;
    let mut waiting = Vec::new();
    for credential in Credential::ALL {
        if fs.entry(&credential.path())?.is_some() {
            waiting.push(credential.name());
        }
    }
    if waiting.is_empty() {
        return Ok(None);
    }
    let seen = fs.read(&shown_path())?.unwrap_or_default();
    let seen = String::from_utf8_lossy(&seen);
    if waiting.iter().all(|name| seen.split_whitespace().any(|known| known == *name)) {
        let text = "Passwords wait until they are written down: cipolla show-credentials, then cipolla ack\n";
        return Ok(Some(Greeting { text: Zeroizing::new(text.to_owned()), shown: None }));
    }
    let mut text = show(machine)?;
    text.push_str(
        "\nWrite the passwords down, then type: cipolla ack\nUntil then they stay on the appliance and on its screen; \
         cipolla show-credentials shows them again.\n",
    );
    Ok(Some(Greeting { text, shown: Some(waiting.join(" ")) }))
}

/// Remembers what a greeting has shown. To be called once it is on the screen.
///
/// # Errors
/// From the file system.
pub fn greeted(machine: &Machine<'_>, greeting: &Greeting) -> Result<()> {
    let Some(shown) = &greeting.shown else { return Ok(()) };
    atomic::put(machine.fs, &shown_path(), shown.as_bytes(), Access::root(0o600), Replace::Allowed)
}

/// Forgets the credentials, takes them off the console, and their encrypted copy off the boot partition. Returns
/// whether there were any.
///
/// # Errors
/// From the file system.
pub fn acknowledge(machine: &Machine<'_>) -> Result<bool> {
    let forgotten = credentials::acknowledge(machine.fs)?;
    handover::withdraw(machine)?;
    let settings = load::load(machine.fs, None)?.settings;
    handover::console(machine.fs, &settings)?;
    handover::refresh_console(machine)?;
    Ok(forgotten)
}
