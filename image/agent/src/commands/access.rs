//! `cipolla access add|list|revoke`: which devices see a service at all.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use identity::client_auth::{ClientAuth, ClientName};
use serde::Serialize;
use zeroize::Zeroizing;

use super::services;
use crate::access_check;
use crate::accounts::Accounts;
use crate::fs::{Replace, atomic};
use crate::handover;
use crate::machine::Machine;
use crate::onions::Onion;

/// A key that was just made. It is shown once.
#[derive(Serialize)]
pub struct Grant {
    /// The device.
    pub name: String,
    /// The address to which the key belongs.
    pub address: String,
    /// The key as Tor Browser asks for it.
    #[serde(serialize_with = "in_clear")]
    pub private_key: Zeroizing<String>,
    /// The line for a file ending in `.auth_private` in Tor's `ClientOnionAuthDir`.
    #[serde(serialize_with = "in_clear")]
    pub auth_private: Zeroizing<String>,
    /// From now on devices without a key do not see the service.
    pub closed_now: bool,
    /// What went wrong with telling Tor.
    pub problems: Vec<String>,
}

fn in_clear<S: serde::Serializer>(secret: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret)
}

impl Grant {
    /// What the owner reads.
    ///
    /// # Errors
    /// When the QR code cannot be made.
    pub fn text(&self) -> Result<Zeroizing<String>> {
        let Self { name, address, private_key, auth_private, closed_now, problems } = self;
        let mut text = Zeroizing::new(String::with_capacity(8192));
        let _ = writeln!(
            text,
            "{name} may see {address}\n\nTor Browser asks for this key when it opens the address:\n\n  {}\n",
            **private_key
        );
        text.push_str(&handover::code(private_key)?);
        let _ = writeln!(
            text,
            "\nFor Tor itself, as a file ending in .auth_private in its ClientOnionAuthDir:\n\n  {}\n\n\
             This is shown once and not kept here.",
            auth_private.trim_end()
        );
        if *closed_now {
            text.push_str("From now on, devices without a key do not see this service.\n");
        }
        for problem in problems {
            let _ = writeln!(text, "{problem}");
        }
        Ok(text)
    }
}

/// A device that has a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The service.
    pub service: &'static str,
    /// The device.
    pub name: String,
}

fn reload_tor(machine: &Machine<'_>) -> Result<Vec<String>> {
    services::reload(machine, &[services::TOR])
}

/// Makes a key for a device and lets it in.
///
/// # Errors
/// When the name is bad or taken, the folder is wrong, or from the file system.
pub fn add(machine: &Machine<'_>, onion: Onion, name: &str) -> Result<Grant> {
    let fs = machine.fs;
    let name: ClientName = name.parse()?;
    let address = onion.address(fs)?;
    let known = access_check::clients(fs, onion)?;
    if known.iter().any(|(other, _)| *other == name) {
        bail!("there is a {} already; revoke it first, or choose another name", name.as_str());
    }
    let key = ClientAuth::generate(&mut **machine.rng.borrow_mut());
    let path = onion.authorized_clients().join(name.file_name());
    let access = Accounts::load(fs)?.of_user("debian-tor", 0o600)?;
    atomic::put(fs, &path, key.public().service_file().as_bytes(), access, Replace::Never)?;
    Ok(Grant {
        name: name.as_str().to_owned(),
        address: address.to_string(),
        private_key: key.private_key(),
        auth_private: key.client_file(&address),
        closed_now: known.is_empty(),
        problems: reload_tor(machine)?,
    })
}

/// All devices that have a key.
///
/// # Errors
/// When a folder is wrong.
pub fn list(machine: &Machine<'_>) -> Result<Vec<Device>> {
    let mut devices = Vec::new();
    for onion in Onion::ALL {
        for (name, _) in access_check::clients(machine.fs, onion)? {
            devices.push(Device { service: onion.name(), name: name.as_str().to_owned() });
        }
    }
    Ok(devices)
}

/// The list as the owner reads it.
#[must_use]
pub fn text(devices: &[Device]) -> String {
    let mut text: String = devices.iter().map(|d| format!("{:8}{}\n", d.service, d.name)).collect();
    if devices.iter().all(|device| device.service != Onion::Client.name()) {
        text.push_str("No device has a key for the client service: whoever knows its address sees it.\n");
    }
    text
}

/// Takes a device's key away. Returns what the owner must know about it.
///
/// # Errors
/// When there is no such device, or it is the last one of the admin service.
pub fn revoke(machine: &Machine<'_>, onion: Onion, name: &str) -> Result<Option<String>> {
    let fs = machine.fs;
    let name: ClientName = name.parse()?;
    let known = access_check::clients(fs, onion)?;
    if known.iter().all(|(other, _)| *other != name) {
        bail!("{} has no key for the service {onion}; see: cipolla access list", name.as_str());
    }
    if known.len() == 1 && onion == Onion::Admin {
        bail!(
            "{} is the only device that may administer; without any key SSH would be open to everybody. Add \
             another device first: cipolla access add NAME --service admin",
            name.as_str()
        );
    }
    let path = onion.authorized_clients().join(name.file_name());
    fs.remove(&path).with_context(|| format!("revoking {}", name.as_str()))?;
    fs.sync(&onion.authorized_clients())?;
    let mut said = reload_tor(machine)?;
    if known.len() == 1 {
        said.push(format!("no device has a key for {onion} any more: whoever knows its address sees it"));
    }
    Ok((!said.is_empty()).then(|| said.join("\n")))
}
