//! `cipolla boot`: what every start does before network, Tor, mail and web.
//!
//! The story: settings → identity → configuration → hand-over. Each part reads facts, plans without touching
//! anything, and applies. A power cut between any two steps leaves facts from which the next plan goes on; a
//! start with nothing to do plans nothing. If a part fails, the parts after it do not run, the unit fails,
//! and what faces the network does not start.

pub mod apply;
pub mod facts;
pub mod marker;
pub mod plan;

use anyhow::Result;
use camino::Utf8Path;

use crate::access_check;
use crate::accounts::Accounts;
use crate::commands::watch;
use crate::fs::{Access, Fs, Replace, atomic};
use crate::handover;
use crate::machine::Machine;
use crate::mailboxes;
use crate::paths;
use crate::render;
use crate::settings::load::{self, LoadError, Loaded, Origin};
pub use facts::Facts;
pub use plan::{Action, Plan};

/// What the story tells the console as it goes.
pub type Say<'s> = &'s mut dyn FnMut(&str);

/// Everything that this start would do. Files that are rendered are listed only once the identity is complete.
///
/// # Errors
/// As [`run`].
pub fn dry_run(machine: &Machine<'_>) -> Result<Vec<String>> {
    let loaded = load_settings(machine)?;
    let accounts = Accounts::load(machine.fs)?;
    let plan = plan::make(&facts::read(machine, &loaded, &accounts)?)?;
    let mut lines: Vec<_> = plan.actions().iter().map(ToString::to_string).collect();
    if plan.completes_identity() {
        lines.push("render the configuration".to_owned());
        lines.push("prepare the hand-over to the owner".to_owned());
    } else {
        let rendering = render::plan(machine, &loaded.settings, &accounts)?;
        lines.extend(rendering.changed().iter().map(|file| format!("render {}", file.path)));
        if facts::roles(&accounts).mail {
            let tables = mailboxes::outdated_tables(machine, &loaded.settings.owner.mailbox)?;
            lines.extend(tables.iter().map(|table| format!("write the table {}", table.path())));
        }
        lines.extend(handover::plan(machine, &loaded.settings)?.iter().map(ToString::to_string));
    }
    Ok(lines)
}

/// Does it. Says one line per thing done and returns how many there were.
///
/// # Errors
/// From the first thing that fails; those before it are complete and durable. Wrong settings are also written
/// to the boot partition.
pub fn run(machine: &Machine<'_>, say: Say<'_>) -> Result<usize> {
    let loaded = load_settings(machine)?;
    let accounts = Accounts::load(machine.fs)?;
    let plan = plan::make(&facts::read(machine, &loaded, &accounts)?)?;
    for action in plan.actions() {
        apply::apply(machine, &loaded, &accounts, action, say)?;
        say(&format!("{action}: done"));
    }
    // Before Tor starts: a service that needs authorization must not be open.
    access_check::verify(machine.fs)?;
    let rendered = render::run(machine, &loaded.settings, &accounts, say)?;
    let tables = tables(machine, &loaded, &accounts, say)?;
    let handed = handover::run(machine, &loaded.settings, say)?;
    if facts::roles(&accounts).onion {
        watch::begin(machine)?;
    }
    Ok(plan.actions().len() + rendered + tables + handed)
}

/// Brings the tables of Postfix up to date; postmap(1) wants the rendered `main.cf`.
fn tables(machine: &Machine<'_>, loaded: &Loaded, accounts: &Accounts, say: Say<'_>) -> Result<usize> {
    if !facts::roles(accounts).mail {
        return Ok(0);
    }
    let written = mailboxes::Writer::lock(machine)?.refresh_tables(&loaded.settings.owner.mailbox)?;
    written.iter().for_each(|table| say(&format!("write the table {}: done", table.path())));
    Ok(written.len())
}

/// Loads the settings; if they are wrong, explains it on the boot partition too.
fn load_settings(machine: &Machine<'_>) -> Result<Loaded> {
    let wrong = match load::load(machine.fs, machine.credentials.as_deref()) {
        Ok(loaded) => return Ok(loaded),
        Err(LoadError::Unreadable(error)) => return Err(error.context("loading the settings")),
        Err(LoadError::Wrong(problems)) => problems,
    };
    let text = format!(
        "The settings were not accepted, so this appliance stays offline. Nothing was changed.\r\n\r\n{}\r\n\r\n\
         Correct cipolla.toml on this partition and start the appliance again.\r\n",
        wrong.to_string().replace('\n', "\r\n")
    );
    // The console is told in any case; without a boot partition it is the only one.
    let written = machine.boot_partition.make_writable().and_then(|()| {
        let path = Utf8Path::new(paths::BOOT_ERRORS);
        atomic::put(machine.fs, path, text.as_bytes(), Access::root(0o600), Replace::Allowed)
    });
    let note = written.err().map(|error| format!("\n(ERRORS.txt could not be written: {error:#})"));
    anyhow::bail!(
        "the settings were not accepted, so this appliance stays offline; nothing was changed:\n{wrong}{}",
        note.unwrap_or_default()
    )
}

/// Removes accepted settings from the boot partition, where removed files keep their blocks: gives them another
/// name, so that a half-wiped file is never taken for settings, then overwrites and removes them.
///
/// # Errors
/// From the file system.
pub(crate) fn wipe_settings(fs: &dyn Fs, loaded: &Loaded) -> Result<()> {
    let (settings, wiping) = (Utf8Path::new(paths::BOOT_SETTINGS), Utf8Path::new(paths::BOOT_WIPING));
    wipe(fs, wiping)?;
    if loaded.origin == Origin::BootPartition {
        fs.rename(settings, wiping, Replace::Never)?;
        fs.sync(atomic::parent(wiping))?;
        wipe(fs, wiping)?;
    }
    Ok(())
}

fn wipe(fs: &dyn Fs, path: &Utf8Path) -> Result<()> {
    let Some(entry) = fs.entry(path)? else { return Ok(()) };
    fs.overwrite(path, usize::try_from(entry.size)?)?;
    fs.sync(path)?;
    fs.remove(path)?;
    fs.sync(atomic::parent(path))
}
