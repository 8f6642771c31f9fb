//! Whether client authorization really protects the services that need it.
//!
//! Tor skips a file in `authorized_clients` that it cannot parse; if none is left, it admits everybody. So the
//! folders are checked before every start and reload of Tor, and a bad one is an error: closed, not open.

use anyhow::{Context, Result, bail};
use identity::client_auth::{self, AuthorizedClient, ClientName};

use crate::fs::{Fs, atomic};
use crate::onions::Onion;

/// The devices that may see a service; empty: everybody may.
///
/// # Errors
/// Every file in the folder that Tor would skip.
pub fn clients(fs: &dyn Fs, onion: Onion) -> Result<Vec<(ClientName, AuthorizedClient)>> {
    let dir = onion.authorized_clients();
    let mut files = Vec::new();
    for name in fs.list(&dir)?.into_iter().filter(|name| !atomic::is_temporary(name)) {
        let content = fs.read(&dir.join(&name))?.with_context(|| format!("{dir}/{name} vanished"))?;
        files.push((name, String::from_utf8_lossy(&content).into_owned()));
    }
    if files.is_empty() {
        return Ok(Vec::new());
    }
    client_auth::check_folder(files.iter().map(|(name, content)| (name.as_str(), content.as_str()))).map_err(
        |problems| {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(
                "{dir} would leave the service {onion} open to everybody: {}. Remove or correct what is named",
                problems.join("; ")
            )
        },
    )
}

/// Checks all services: admin must have a client, the others may have.
///
/// # Errors
/// When a folder is wrong, or the admin service would be open.
pub fn verify(fs: &dyn Fs) -> Result<()> {
    for onion in Onion::ALL {
        let clients = clients(fs, onion)?;
        if onion == Onion::Admin && clients.is_empty() && fs.entry(&onion.secret_key())?.is_some() {
            bail!("{} is empty, which would open SSH to everybody", onion.authorized_clients());
        }
    }
    Ok(())
}
