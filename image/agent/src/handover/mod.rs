//! How the owner gets to know the appliance: the console, and three files on the boot partition.
//!
//! The console (tty1 and serial, through getty's issue(5)) shows addresses, fingerprints, a QR code and, until
//! they are acknowledged, the one-time credentials; its text is kept in memory only, readable by root.
//! `WELCOME.txt` names addresses and fingerprints; `CIPOLLA-CA.crt` is the certificate for mail programs.
//! `credentials.age` holds the credentials encrypted to the
//! owner's keys. Nothing secret is written anywhere in clear.

mod encrypt;
mod qr;
pub mod text;

use std::fmt;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::accounts::Accounts;
use crate::boot::{Say, facts};
use crate::credentials::Credential;
use crate::fs::{Access, Fs, Replace, atomic};
use crate::machine::Machine;
use crate::paths;
use crate::pem::{KeyAndCertificate, Pair};
use crate::settings::Settings;
pub use qr::code;
pub use text::Card;

/// Something to hand over that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// `WELCOME.txt`.
    Welcome,
    /// `CIPOLLA-CA.crt`.
    Authority,
    /// `credentials.age`.
    Credentials,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Welcome => "write WELCOME.txt to the boot partition",
            Self::Authority => "write CIPOLLA-CA.crt to the boot partition",
            Self::Credentials => "write credentials.age to the boot partition, for the owner's keys",
        })
    }
}

/// Says to whom `credentials.age` was encrypted; lies with the credentials and goes with them.
fn stamp() -> Utf8PathBuf {
    Utf8Path::new(paths::CREDENTIALS).join("encrypted-to")
}

fn recipients_digest(settings: &Settings, credentials: &[Credential]) -> String {
    let mut hash = Sha256::new();
    for key in encrypt::candidates(&settings.owner) {
        hash.update(key.as_bytes());
        hash.update(b"\n");
    }
    for credential in credentials {
        hash.update(credential.to_string().as_bytes());
    }
    HEXLOWER.encode(&hash.finalize())
}

fn waiting(fs: &dyn Fs) -> Result<Vec<Credential>> {
    let mut waiting = Vec::new();
    for credential in Credential::ALL {
        if fs.entry(&credential.path())?.is_some() {
            waiting.push(credential);
        }
    }
    Ok(waiting)
}

/// What is to be handed over and is not there yet.
///
/// # Errors
/// When the identity cannot be read.
pub fn plan(machine: &Machine<'_>, settings: &Settings) -> Result<Vec<Item>> {
    let fs = machine.fs;
    let accounts = Accounts::load(fs)?;
    if !facts::roles(&accounts).onion || !machine.boot_partition.is_there() {
        return Ok(Vec::new());
    }
    let mut items = Vec::new();
    let welcome = Card::load(fs, settings)?.welcome();
    if fs.read(Utf8Path::new(paths::BOOT_WELCOME))?.as_deref() != Some(welcome.as_bytes()) {
        items.push(Item::Welcome);
    }
    if fs.read(Utf8Path::new(paths::BOOT_AUTHORITY))?.as_deref() != Some(authority(fs)?.as_bytes()) {
        items.push(Item::Authority);
    }
    let waiting = waiting(fs)?;
    if !waiting.is_empty() && !encrypt::recipients(&settings.owner).is_empty() {
        let stamp = fs.read(&stamp())?;
        let current = stamp.as_deref() == Some(recipients_digest(settings, &waiting).as_bytes());
        if !current || fs.entry(Utf8Path::new(paths::BOOT_CREDENTIALS))?.is_none() {
            items.push(Item::Credentials);
        }
    }
    Ok(items)
}

/// Hands over. Returns how many lasting things were written; the console's text is written at every start.
///
/// # Errors
/// From the file system.
pub fn run(machine: &Machine<'_>, settings: &Settings, say: Say<'_>) -> Result<usize> {
    let fs = machine.fs;
    let items = plan(machine, settings)?;
    for item in &items {
        machine.boot_partition.make_writable()?;
        match item {
            Item::Welcome => {
                let welcome = Card::load(fs, settings)?.welcome();
                let path = Utf8Path::new(paths::BOOT_WELCOME);
                atomic::put(fs, path, welcome.as_bytes(), Access::root(0o600), Replace::Allowed)?;
            }
            Item::Authority => {
                let path = Utf8Path::new(paths::BOOT_AUTHORITY);
                let certificate = authority(fs)?;
                atomic::put(fs, path, certificate.as_bytes(), Access::root(0o600), Replace::Allowed)?;
            }
            Item::Credentials => credentials(fs, settings)?,
        }
        say(&format!("{item}: done"));
    }
    console(fs, settings)?;
    Ok(items.len())
}

/// The certificate of the authority, in PEM; its key stays where it is.
fn authority(fs: &dyn Fs) -> Result<String> {
    let pair = KeyAndCertificate::load(fs, Pair::Authority)?
        .with_context(|| format!("{} is missing or damaged", Pair::Authority.source()))?;
    Ok(pair.certificate)
}

fn credentials(fs: &dyn Fs, settings: &Settings) -> Result<()> {
    let text = Card::load(fs, settings)?.with_credentials(fs)?;
    let recipients = encrypt::recipients(&settings.owner);
    let encrypted = encrypt::encrypt(&recipients, text.as_bytes()).context("encrypting the credentials")?;
    let path = Utf8Path::new(paths::BOOT_CREDENTIALS);
    atomic::put(fs, path, &encrypted, Access::root(0o600), Replace::Allowed)?;
    let digest = recipients_digest(settings, &waiting(fs)?);
    atomic::put(fs, &stamp(), digest.as_bytes(), Access::root(0o600), Replace::Allowed)
}

/// Takes the encrypted credentials off the boot partition, if there is one: whoever acknowledges has them.
///
/// # Errors
/// From the file system.
pub fn withdraw(machine: &Machine<'_>) -> Result<()> {
    let path = Utf8Path::new(paths::BOOT_CREDENTIALS);
    if !machine.boot_partition.is_there() || machine.fs.entry(path)?.is_none() {
        return Ok(());
    }
    machine.boot_partition.make_writable()?;
    machine.fs.remove(path).context("removing credentials.age from the boot partition")?;
    machine.fs.sync(atomic::parent(path))
}

/// Writes what getty shows above the login prompt.
///
/// # Errors
/// From the file system.
pub fn console(fs: &dyn Fs, settings: &Settings) -> Result<()> {
    let accounts = Accounts::load(fs)?;
    let text = if facts::roles(&accounts).onion {
        Card::load(fs, settings)?.console(fs)?
    } else {
        zeroize::Zeroizing::new(
            "Cipolla \\l\n\nThis image has no Tor, so the appliance has no address.\n\n".into(),
        )
    };
    put_console(fs, &text)
}

/// Puts a notice below what every getty shows, or takes it away, and lets them show it if it is another one.
///
/// # Errors
/// From the file system.
pub fn notice(machine: &Machine<'_>, text: Option<&str>) -> Result<()> {
    let (fs, path) = (machine.fs, Utf8Path::new(paths::NOTICE));
    // A backslash would be an escape there (issue(5)).
    let wanted = text.map(|text| format!("! {}\n\n", wrapped(&text.replace('\\', "\\\\"))));
    let there = fs.read(path)?;
    if there.as_deref() == wanted.as_deref().map(str::as_bytes) {
        return Ok(());
    }
    match wanted {
        Some(wanted) => {
            atomic::put(fs, path, wanted.as_bytes(), Access::root(0o600), Replace::Allowed)?;
        }
        None => fs.remove(path).with_context(|| format!("removing {path}"))?,
    }
    refresh_console(machine)
}

/// Lines of at most 77 columns, those after the first indented by two.
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= 77 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n  ")
}

/// Lets every getty show its text anew.
///
/// # Errors
/// When agetty(8) cannot be started.
pub fn refresh_console(machine: &Machine<'_>) -> Result<()> {
    if machine.programs.has("agetty") {
        machine.programs.run(&["agetty", "--reload"])?;
    }
    Ok(())
}

/// Lets getty explain why this start failed: what the agent itself says reaches one console only, and that may be
/// a serial port that nobody looks at.
///
/// # Errors
/// From the file system.
pub fn console_of_failure(fs: &dyn Fs, why: &str) -> Result<()> {
    // A backslash would be an escape there (issue(5)).
    let why = why.replace('\\', "\\\\");
    put_console(fs, &format!("\nCipolla could not prepare this start.\n\n{why}\n\n"))
}

fn put_console(fs: &dyn Fs, text: &str) -> Result<()> {
    let run = Utf8Path::new(paths::RUN);
    if fs.entry(run)?.is_none() {
        fs.mkdir(run, Access::root(0o755))?;
    }
    let path = Utf8Path::new(paths::CONSOLE);
    atomic::put(fs, path, text.as_bytes(), Access::root(0o600), Replace::Allowed)
}
