//! Where settings come from: the first source that exists wins.
//!
//! 1. the system credential `cipolla.settings` (systemd-creds(1)), for virtual machines;
//! 2. `cipolla.toml` on the boot partition;
//! 3. the settings that were accepted at an earlier start.
//!
//! Whatever they leave out comes from the image's defaults. A file on the boot partition that sets nothing, like the
//! one that every image has there, is no source: it must not take the place of settings that were accepted.

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

use super::read::{read, sets_nothing};
use super::{Problem, Problems, Settings, text};
use crate::fs::{Fs, Kind};
use crate::paths;

/// The name of the credential.
pub const CREDENTIAL: &str = "cipolla.settings";

/// Where the owner's settings came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The system credential.
    Credential,
    /// The boot partition.
    BootPartition,
    /// Accepted earlier.
    Accepted,
    /// Nobody set anything.
    Defaults,
}

/// Valid settings and the owner's text.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where they came from.
    pub origin: Origin,
    /// The owner's text, which may hold secrets; `None` with [`Origin::Defaults`].
    pub text: Option<Zeroizing<String>>,
}

/// Why there are no settings.
#[derive(Debug, Error)]
pub enum LoadError {
    /// They are wrong: the owner has to change them.
    #[error("{0}")]
    Wrong(Problems),
    /// They could not be read.
    #[error("{0:#}")]
    Unreadable(#[from] anyhow::Error),
}

/// Loads and validates. `credentials` is the folder that systemd names in `$CREDENTIALS_DIRECTORY`.
///
/// # Errors
/// See [`LoadError`].
pub fn load(fs: &dyn Fs, credentials: Option<&Utf8Path>) -> Result<Loaded, LoadError> {
    let defaults = Utf8Path::new(paths::DEFAULTS);
    let base = match content(fs, defaults, paths::DEFAULTS)? {
        Some(text) => parse(fs, Settings::default(), &text, paths::DEFAULTS)?,
        None => Settings::default(),
    };
    let sources = [
        (Origin::Credential, credentials.map(|dir| dir.join(CREDENTIAL)), "credential cipolla.settings"),
        (Origin::BootPartition, Some(Utf8PathBuf::from(paths::BOOT_SETTINGS)), "cipolla.toml"),
        (Origin::Accepted, Some(Utf8PathBuf::from(paths::ACCEPTED_SETTINGS)), paths::ACCEPTED_SETTINGS),
    ];
    for (origin, path, name) in sources {
        let Some(path) = path else { continue };
        if let Some(text) = content(fs, &path, name)? {
            if origin == Origin::BootPartition && sets_nothing(&text) {
                continue;
            }
            let settings = parse(fs, base, &text, name)?;
            return Ok(Loaded { settings, origin, text: Some(text) });
        }
    }
    Ok(Loaded { settings: base, origin: Origin::Defaults, text: None })
}

/// Validates a text that is not yet in place, on top of the image's defaults.
///
/// # Errors
/// See [`LoadError`].
pub fn check(fs: &dyn Fs, bytes: &[u8], name: &str) -> Result<(Settings, Zeroizing<String>), LoadError> {
    let defaults = Utf8Path::new(paths::DEFAULTS);
    let base = match content(fs, defaults, paths::DEFAULTS)? {
        Some(text) => parse(fs, Settings::default(), &text, paths::DEFAULTS)?,
        None => Settings::default(),
    };
    let text = text::decode(bytes).map_err(|problem| wrong(name, vec![problem]))?;
    Ok((parse(fs, base, text, name)?, Zeroizing::new(text.to_owned())))
}

fn content(fs: &dyn Fs, path: &Utf8Path, name: &str) -> Result<Option<Zeroizing<String>>, LoadError> {
    let Some(entry) = fs.entry(path)? else { return Ok(None) };
    if entry.kind != Kind::File {
        return Err(wrong(name, vec![Problem::of_file("this is not a file")]));
    }
    // Not even read: the machine may be small and the file a film.
    if entry.size > text::MAX_SIZE as u64 {
        return Err(wrong(name, vec![text::too_large(usize::try_from(entry.size).unwrap_or(usize::MAX))]));
    }
    let bytes = Zeroizing::new(fs.read(path)?.with_context(|| format!("reading {name}: it vanished"))?);
    match text::decode(&bytes) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(problem) => Err(wrong(name, vec![problem])),
    }
}

fn parse(fs: &dyn Fs, base: Settings, text: &str, name: &str) -> Result<Settings, LoadError> {
    let settings = read(base, text).map_err(|problems| wrong(name, problems))?;
    let supplicant = Utf8Path::new("/usr/sbin/wpa_supplicant");
    if settings.network.wifi.is_some() && fs.entry(supplicant)?.is_none() {
        return Err(wrong(
            name,
            vec![Problem::of_file(
                "[network.wifi] is set, but this image has no Wi-Fi; use a cable and remove the section",
            )],
        ));
    }
    Ok(settings)
}

fn wrong(source: &str, problems: Vec<Problem>) -> LoadError {
    LoadError::Wrong(Problems { source: source.to_owned(), problems })
}
