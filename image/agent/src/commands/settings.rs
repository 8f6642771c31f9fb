//! `cipolla settings show|check|apply`.

use anyhow::{Context, Result};
use camino::Utf8Path;
use zeroize::Zeroizing;

use super::services;
use crate::accounts::Accounts;
use crate::boot::{Say, facts};
use crate::fs::{Access, Fs, Replace, atomic};
use crate::machine::Machine;
use crate::paths;
use crate::render;
use crate::settings::Settings;
use crate::settings::load::{self, LoadError, Origin};
use crate::{access_check, handover};

/// Where systemd keeps the credentials of the whole system.
const SYSTEM_CREDENTIAL: &str = "/run/credentials/@system/cipolla.settings";

/// Settings without secrets.
#[derive(Debug)]
pub struct Shown {
    /// The settings, the passphrase replaced.
    pub settings: Settings,
    /// The same as TOML.
    pub text: String,
}

/// The settings in effect.
///
/// # Errors
/// When they cannot be read.
pub fn show(machine: &Machine<'_>) -> Result<Shown> {
    let loaded = load::load(machine.fs, None)?;
    let mut settings = loaded.settings;
    if let Some(wifi) = &mut settings.network.wifi {
        wifi.passphrase = Zeroizing::new("(not shown)".to_owned());
    }
    let origin = match loaded.origin {
        Origin::Defaults => "# nothing was set: these are the defaults",
        _ => "# in effect, defaults included",
    };
    let text = toml::to_string_pretty(&settings).context("writing the settings as TOML")?;
    Ok(Shown { text: format!("{origin}\n{text}"), settings })
}

/// Everything that is wrong with a settings file, one line each; nothing if it is fine.
///
/// # Errors
/// When it cannot be checked.
pub fn check(machine: &Machine<'_>, content: &[u8], name: &str) -> Result<Vec<String>> {
    match load::check(machine.fs, content, name) {
        Ok(_) => Ok(Vec::new()),
        Err(LoadError::Wrong(problems)) => Ok(problems.to_string().lines().map(str::to_owned).collect()),
        Err(LoadError::Unreadable(error)) => Err(error),
    }
}

/// Puts settings into effect.
///
/// # Errors
/// When they are wrong, or something made of them is refused.
pub fn apply(machine: &Machine<'_>, content: &[u8], name: &str, say: Say<'_>) -> Result<()> {
    let fs = machine.fs;
    let (settings, text) = load::check(fs, content, name)?;
    let accounts = Accounts::load(fs)?;
    access_check::verify(fs)?;
    // A Tor that runs takes no other transports (NoExec), and keeps the names that it started with. If nobody knows
    // what was in effect, it might be this.
    let other_bridges =
        load::load(fs, None).map_or(true, |before| !before.settings.tor.same_bridges(&settings.tor));
    let changed = render::plan(machine, &settings, &accounts)?;
    let mut units = services::affected(changed.changed().iter().map(|file| file.path.as_str()));
    render::run(machine, &settings, &accounts, say)?;
    // Only settings that could be rendered are remembered.
    let path = Utf8Path::new(paths::ACCEPTED_SETTINGS);
    atomic::put(fs, path, text.as_bytes(), Access::root(0o600), Replace::Allowed)?;
    authorized_keys(fs, &settings, say)?;
    handover::console(fs, &settings)?;
    units.retain(|unit| !(other_bridges && *unit == services::TOR));
    let mut problems = services::reload(machine, &units)?;
    if other_bridges {
        problems.extend(services::restart_tor(machine)?);
    }
    problems.iter().for_each(|problem| say(problem));
    if fs.entry(Utf8Path::new(SYSTEM_CREDENTIAL))?.is_some() {
        say(
            "note: this machine gets its settings from its host as a credential; at the next start those win",
        );
    }
    Ok(())
}

/// Lets those keys in that the settings name, from the next connection on. Settings without keys shut nobody out.
fn authorized_keys(fs: &dyn Fs, settings: &Settings, say: Say<'_>) -> Result<()> {
    let path = Utf8Path::new(paths::AUTHORIZED_KEYS);
    let present = fs.read(path)?;
    match facts::wanted_authorized_keys(settings) {
        Some(wanted) if present.as_deref() != Some(wanted.as_bytes()) => {
            atomic::ensure_dir(fs, atomic::parent(path), Access::root(0o700))?;
            atomic::put(fs, path, wanted.as_bytes(), Access::root(0o600), Replace::Allowed)
        }
        None if present.is_some() => {
            say("note: these settings name no SSH keys; those of before still open the appliance");
            Ok(())
        }
        _ => Ok(()),
    }
}
