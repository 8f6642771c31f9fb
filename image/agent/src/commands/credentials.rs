//! `cipolla show-credentials` and `cipolla ack`.

use anyhow::{Result, bail};
use zeroize::Zeroizing;

use crate::credentials::{self, Credential};
use crate::handover::{self, Card};
use crate::machine::Machine;
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
             `cipolla user passwd NAME` and `cipolla access add NAME` make new ones"
        );
    }
    let settings = load::load(machine.fs, None)?.settings;
    Card::load(machine.fs, &settings)?.with_credentials(machine.fs)
}

/// Forgets the credentials and takes them off the console. Returns whether there were any.
///
/// # Errors
/// From the file system.
pub fn acknowledge(machine: &Machine<'_>) -> Result<bool> {
    let forgotten = credentials::acknowledge(machine.fs)?;
    let settings = load::load(machine.fs, None)?.settings;
    handover::console(machine.fs, &settings)?;
    if machine.programs.has("agetty") {
        // Every getty shows its text anew.
        machine.programs.run(&["agetty", "--reload"])?;
    }
    Ok(forgotten)
}
