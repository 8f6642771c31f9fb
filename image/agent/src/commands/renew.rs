//! `cipolla renew`: certificates that run out are made anew while the appliance runs.
//!
//! Run daily by a timer, and whenever the clock is set. What is due is decided by the same plan as at a start
//! ([`plan::renewal`]); then the servers that hold certificates are told. It never makes or replaces the key of an
//! onion service or of the authority.

use anyhow::{Result, bail};
use camino::Utf8Path;

use super::services;
use crate::accounts::Accounts;
use crate::boot::{Say, apply, facts, plan};
use crate::fs::{Access, Replace, atomic};
use crate::machine::Machine;
use crate::paths;
use crate::settings::load;

/// Who serves the certificates.
const SERVERS: [&str; 2] = ["postfix.service", "dovecot.service"];

/// Renews what is due and tells the servers. Returns how many things were made.
///
/// # Errors
/// When the settings or facts cannot be read, a key is gone, or a server does not take the new files: the next run
/// tells it again.
pub fn run(machine: &Machine<'_>, say: Say<'_>) -> Result<usize> {
    let fs = machine.fs;
    let loaded = load::load(fs, machine.credentials.as_deref())?;
    let accounts = Accounts::load(fs)?;
    let plan = plan::renewal(&facts::read(machine, &loaded, &accounts)?)?;
    let untold = Utf8Path::new(paths::RENEWED);
    if !plan.actions().is_empty() {
        // Comes before the first change, so that no failure leaves servers with what they had.
        atomic::put(fs, untold, b"", Access::root(0o600), Replace::Allowed)?;
    }
    for action in plan.actions() {
        apply::apply(machine, &loaded, &accounts, action, say)?;
        say(&format!("{action}: done"));
    }
    if fs.entry(untold)?.is_some() {
        let problems = services::reload(machine, &SERVERS)?;
        if !problems.is_empty() {
            bail!("telling the servers of new certificates: {}", problems.join("; "));
        }
        fs.remove(untold)?;
    }
    Ok(plan.actions().len())
}
