//! Configuration that depends on identity or settings, rendered from the image's templates on every start.
//!
//! Templates lie in [`paths::TEMPLATES`], each under its target's absolute path with `.j2` added; tables beside
//! them (see [`table`]) say whose the results are and which program must accept them. A result is validated in
//! memory before it takes the place of the old one. If it is refused, what was rendered before stays; if
//! nothing was, the start fails, because what lies there is the distribution's default and no appliance of
//! ours.

mod context;
mod stage;
pub mod table;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use data_encoding::HEXLOWER;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use sha2::{Digest, Sha256};

use crate::accounts::Accounts;
use crate::boot::Say;
use crate::fs::{Access, Fs, Kind, Replace, atomic};
use crate::machine::Machine;
use crate::paths;
use crate::settings::Settings;
use table::Table;

const SUFFIX: &str = ".j2";

/// One rendered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Where it goes.
    pub path: Utf8PathBuf,
    /// Its content.
    pub text: String,
    /// Its mode and owner.
    pub access: Access,
    /// The program that must accept it, with `{file}` and `{dir}` in place of paths.
    pub validate: Vec<String>,
}

/// Everything that the templates make of the present settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendering {
    files: Vec<Rendered>,
    changed: Vec<Rendered>,
    record: Record,
}

impl Rendering {
    /// The files that are not in place as they should be.
    #[must_use]
    pub fn changed(&self) -> &[Rendered] {
        &self.changed
    }

    /// All files.
    #[must_use]
    pub fn files(&self) -> &[Rendered] {
        &self.files
    }

    /// Files that were put in place by the agent and changed by somebody else since.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn drift(&self, fs: &dyn Fs) -> Result<Vec<Utf8PathBuf>> {
        let mut drifted = Vec::new();
        for (path, hash) in &self.record {
            let content = fs.read(path)?;
            if content.is_none_or(|content| digest(&content) != *hash) {
                drifted.push(path.clone());
            }
        }
        Ok(drifted)
    }
}

/// Hashes of what was accepted last, by path.
type Record = BTreeMap<Utf8PathBuf, String>;

fn digest(content: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(content))
}

fn load_record(fs: &dyn Fs) -> Result<Record> {
    let Some(bytes) = fs.read(Utf8Path::new(paths::RENDERED))? else { return Ok(Record::new()) };
    serde_json::from_slice(&bytes)
        .with_context(|| format!("reading {}: remove it; everything is then rendered anew", paths::RENDERED))
}

/// Renders everything and compares it with what is in place.
///
/// # Errors
/// When a template or table of the image is wrong.
pub fn plan(machine: &Machine<'_>, settings: &Settings, accounts: &Accounts) -> Result<Rendering> {
    let fs = machine.fs;
    let table = Table::load(fs)?;
    let templates = find_templates(fs)?;
    let mut rendering = Rendering { record: load_record(fs)?, ..Rendering::default() };
    if templates.is_empty() {
        return Ok(rendering);
    }
    let context = context::make(machine, settings, accounts)?;
    let environment = environment();
    for (target, source) in templates {
        let text = environment
            .render_named_str(source.path.as_str(), &source.text, &context)
            .with_context(|| format!("rendering the image's template {}", source.path))?;
        let rule = table.rule(&target);
        let access = accounts
            .of(&rule.user, &rule.group, rule.mode)
            .with_context(|| format!("finding the owner of {target}"))?;
        let file = Rendered { path: target, text, access, validate: rule.validate };
        let in_place = fs.entry(&file.path)?.is_some_and(|entry| entry.has(access))
            && fs.read(&file.path)?.as_deref() == Some(file.text.as_bytes());
        if !in_place || rendering.record.get(&file.path) != Some(&digest(file.text.as_bytes())) {
            rendering.changed.push(file.clone());
        }
        rendering.files.push(file);
    }
    Ok(rendering)
}

/// Renders what changed, validates it and puts it in place. Returns how many files were put in place.
///
/// # Errors
/// When a file is refused and nothing was rendered there before; the files that were accepted are in place.
pub fn run(machine: &Machine<'_>, settings: &Settings, accounts: &Accounts, say: Say<'_>) -> Result<usize> {
    let fs = machine.fs;
    let rendering = plan(machine, settings, accounts)?;
    if rendering.changed.is_empty() {
        return Ok(0);
    }
    let stage = stage::Stage::fill(fs, &rendering.changed)?;
    let verdicts = stage.validate(machine.programs, &rendering.changed)?;
    let mut record = rendering.record.clone();
    let (mut put, mut fatal) = (0, Vec::new());
    for (file, verdict) in rendering.changed.iter().zip(verdicts) {
        let Err(reason) = verdict else {
            make_parents(fs, &file.path)?;
            atomic::put(fs, &file.path, file.text.as_bytes(), file.access, Replace::Allowed)?;
            record.insert(file.path.clone(), digest(file.text.as_bytes()));
            say(&format!("render {}: done", file.path));
            put += 1;
            continue;
        };
        if record.contains_key(&file.path) {
            say(&format!("{} was refused, so the previous one stays: {reason}", file.path));
        } else {
            fatal.push(format!("{}: {reason}", file.path));
        }
    }
    stage.clear(fs)?;
    if record != rendering.record {
        let text = serde_json::to_vec_pretty(&record).context("writing down what was rendered")?;
        atomic::put(fs, Utf8Path::new(paths::RENDERED), &text, Access::root(0o600), Replace::Allowed)?;
    }
    if fatal.is_empty() {
        return Ok(put);
    }
    bail!("configuration was refused and there is no earlier one:\n{}", fatal.join("\n"))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.add_filter("hex", |text: &str| HEXLOWER.encode(text.as_bytes()));
    environment.add_filter("wpa_psk", wpa_psk);
    environment
}

/// The pre-shared key that WPA2 makes of a passphrase and the network's name, as 64 hexadecimal digits
/// (IEEE 802.11-2020, J.4.1). `wpa_supplicant.conf(5)` would take the passphrase, but cuts it at a `#` after a quote.
fn wpa_psk(passphrase: &str, ssid: &str) -> String {
    const ROUNDS: u32 = 4096;
    let key: [u8; 32] =
        pbkdf2::pbkdf2_hmac_array::<sha1::Sha1, 32>(passphrase.as_bytes(), ssid.as_bytes(), ROUNDS);
    HEXLOWER.encode(&key)
}

struct Source {
    path: Utf8PathBuf,
    text: String,
}

/// All templates with their targets, in the order of their paths.
fn find_templates(fs: &dyn Fs) -> Result<BTreeMap<Utf8PathBuf, Source>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![Utf8PathBuf::from(paths::TEMPLATES)];
    while let Some(folder) = folders.pop() {
        for name in fs.list(&folder)? {
            let path = folder.join(&name);
            if fs.entry(&path)?.is_some_and(|entry| entry.kind == Kind::Directory) {
                folders.push(path);
                continue;
            }
            let Some(target) = path.as_str().strip_suffix(SUFFIX) else { continue };
            let target = target.strip_prefix(paths::TEMPLATES).context("a template lies elsewhere")?;
            let bytes = fs.read(&path)?.with_context(|| format!("{path} vanished"))?;
            let text = String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8"))?;
            found.insert(Utf8PathBuf::from(target), Source { path, text });
        }
    }
    Ok(found)
}

/// Makes the folders above a file, open to all, as `/etc` is.
fn make_parents(fs: &dyn Fs, path: &Utf8Path) -> Result<()> {
    let mut missing = Vec::new();
    for folder in path.ancestors().skip(1) {
        if folder == "/" || fs.entry(folder)?.is_some() {
            break;
        }
        missing.push(folder);
    }
    missing.iter().rev().try_for_each(|folder| atomic::ensure_dir(fs, folder, Access::root(0o755)))
}

#[cfg(test)]
mod tests {
    use super::wpa_psk;

    /// The test vectors of IEEE 802.11-2020, J.4.2.
    #[test]
    fn wpa_psk_is_that_of_the_standard() {
        let vectors = [
            ("password", "IEEE", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
            (
                "ThisIsAPassword",
                "ThisIsASSID",
                "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af",
            ),
        ];
        for (passphrase, ssid, key) in vectors {
            assert_eq!(wpa_psk(passphrase, ssid), key);
        }
    }
}
