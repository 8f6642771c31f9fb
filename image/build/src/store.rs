//! The content-addressed store: `~/.cache/cipolla/store/<stage>/<key>/`.
//!
//! An entry is a folder with the stage's result files and `entry.json`, put in place by one rename, so it is either
//! whole or absent. Its key is the SHA-256 over the stage's [`Ingredients`]: named digests of everything that can
//! change the result. The ingredients of the last entry of each line of work (recipe, architecture, stage) are kept
//! beside the store, so a miss can say which of them changed.
//!
//! Never: an entry changed after it was stored, a key that depends on time, path or host.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::exec::interrupted;

/// How many entries of a stage survive the clean-up after a build: both architectures, now and before.
const KEPT: usize = 4;

/// Names and values of all that can change a stage's result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingredients(BTreeMap<String, String>);

impl Ingredients {
    /// Starts a list with the stage's own code version: raise it when the stage's code changes its result.
    pub fn new(code_version: u32) -> Self {
        let mut list = Ingredients::default();
        list.add("the stage's code", code_version.to_string());
        list
    }

    /// Adds a value under a name that a person understands, such as `overlay/common/etc/fstab`.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Adds the SHA-256 of a file's bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn add_file(&mut self, name: impl Into<String>, path: &Utf8Path) -> Result<&mut Self> {
        let digest = sha256_file(path)?;
        Ok(self.add(name, digest))
    }

    /// The key: 64 hex digits.
    pub fn key(&self) -> Key {
        let mut hash = Sha256::new();
        for (name, value) in &self.0 {
            // Lengths keep ("ab", "c") and ("a", "bc") apart.
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(value);
        }
        Key(hex(&hash.finalize()))
    }

    /// What differs from an earlier list, most telling first, in at most one line.
    pub fn difference(&self, before: &Ingredients) -> String {
        let mut parts = Vec::new();
        for (name, value) in &self.0 {
            match before.0.get(name) {
                None => parts.push(format!("{name} is new")),
                Some(old) if old != value && value.len() <= 24 && old.len() <= 24 => {
                    parts.push(format!("{name} changed from {old} to {value}"));
                }
                Some(old) if old != value => parts.push(format!("{name} changed")),
                Some(_) => {}
            }
        }
        parts.extend(before.0.keys().filter(|n| !self.0.contains_key(*n)).map(|n| format!("{n} is gone")));
        match parts.len() {
            0 => "the stored result was cleaned up".into(),
            1..=3 => parts.join(", "),
            n => format!("{}, and {} more", parts[..3].join(", "), n - 3),
        }
    }
}

/// The address of an entry: 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(String);

impl Key {
    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stored result.
#[derive(Clone, Debug)]
pub struct Entry {
    dir: Utf8PathBuf,
    facts: BTreeMap<String, String>,
}

impl Entry {
    /// A result file.
    pub fn file(&self, name: &str) -> Utf8PathBuf {
        self.dir.join(name)
    }

    /// The key it is stored under: a name for the inputs, where a fact names an output.
    pub fn key(&self) -> &str {
        self.dir.file_name().unwrap_or_default()
    }

    /// Marks the entry as used now, for the clean-up.
    pub fn touch(&self) {
        // Where the time cannot be set, an entry is only made again sooner.
        let _ = std::fs::File::open(&self.dir).and_then(|d| d.set_modified(SystemTime::now()));
    }

    /// A fact that the stage noted with its result, such as the digest of a file.
    ///
    /// # Errors
    /// The stage noted no such fact: a defect of ours.
    pub fn fact(&self, name: &str) -> Result<&str> {
        let value = self.facts.get(name).with_context(|| format!("{} holds no fact `{name}`", self.dir))?;
        Ok(value)
    }
}

/// Whether a stage must work, and why.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The result is there.
    Hit(Entry),
    /// The result must be made, for this reason.
    Miss(String),
}

#[derive(Serialize, Deserialize)]
struct EntryFile {
    ingredients: Ingredients,
    facts: BTreeMap<String, String>,
}

/// The user's cache folder: store, pool, logs and scratch.
#[derive(Clone, Debug)]
pub struct Cache {
    root: Utf8PathBuf,
}

impl Cache {
    /// Opens `$CIPOLLA_CACHE`, else `$XDG_CACHE_HOME/cipolla`, else `~/.cache/cipolla`.
    ///
    /// # Errors
    /// No home folder is known, or the folder cannot be made.
    pub fn open() -> Result<Self> {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let root = match (var("CIPOLLA_CACHE"), var("XDG_CACHE_HOME"), var("HOME")) {
            (Some(dir), _, _) => Utf8PathBuf::from(dir),
            (_, Some(dir), _) => Utf8PathBuf::from(dir).join("cipolla"),
            (_, _, Some(home)) => Utf8PathBuf::from(home).join(".cache/cipolla"),
            _ => bail!("no cache folder: set CIPOLLA_CACHE or HOME"),
        };
        Cache::at(&root)
    }

    /// Opens the cache in a given folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn at(root: &Utf8Path) -> Result<Self> {
        fs_err::create_dir_all(root)?;
        let root = Utf8PathBuf::try_from(fs_err::canonicalize(root)?).context("the cache folder's name")?;
        Ok(Cache { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// The pool of `.deb` files, named by their SHA-256.
    pub fn pool(&self) -> Utf8PathBuf {
        self.root.join("pool")
    }

    /// Where a stage's log goes.
    pub fn log(&self, line: &str, stage: &str) -> Utf8PathBuf {
        self.root.join("logs").join(line).join(format!("{stage}.log"))
    }

    /// Takes the cache for one build at a time and removes what a killed build left. Calls `waiting` once when
    /// another build holds it.
    ///
    /// # Errors
    /// The lock file cannot be opened, or a person interrupted the wait.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<Lock> {
        let file = fs_err::File::create(self.root.join("lock"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            waiting();
            while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                interrupted()?;
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
        let scratch = self.root.join("scratch");
        if scratch.exists() {
            fs_err::remove_dir_all(&scratch)?;
        }
        fs_err::create_dir_all(&scratch)?;
        Ok(Lock { _file: file })
    }

    /// A scratch folder that vanishes when dropped.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self, stage: &str) -> Result<tempfile::TempDir> {
        let parent = self.root.join("scratch");
        fs_err::create_dir_all(&parent)?;
        tempfile::Builder::new()
            .prefix(&format!("{stage}."))
            .tempdir_in(&parent)
            .with_context(|| format!("making a scratch folder in {parent}"))
    }

    /// Looks a result up. `line` names the line of work (`mail-amd64`) whose last ingredients explain a miss.
    pub fn look_up(&self, line: &str, stage: &str, ingredients: &Ingredients) -> Lookup {
        let dir = self.entry_dir(stage, &ingredients.key());
        if let Some(entry) = read_entry(&dir) {
            return Lookup::Hit(entry);
        }
        let reason = match self.last(line, stage) {
            Some(before) => ingredients.difference(&before),
            None => "never made before".into(),
        };
        Lookup::Miss(reason)
    }

    /// Notes that this line of work now stands at these ingredients, and marks the entry as used.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn note(&self, line: &str, stage: &str, ingredients: &Ingredients) -> Result<()> {
        let path = self.last_path(line, stage);
        let text = serde_json::to_string_pretty(ingredients)?;
        if fs_err::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            fs_err::create_dir_all(dir)?;
        }
        replace_file(&path, text.as_bytes())
    }

    /// Stores a finished scratch folder as the result for these ingredients.
    ///
    /// # Errors
    /// A file operation failed; then nothing stands under the final name.
    pub fn store(
        &self,
        stage: &str,
        ingredients: &Ingredients,
        scratch: tempfile::TempDir,
        facts: BTreeMap<String, String>,
    ) -> Result<Entry> {
        let file = EntryFile { ingredients: ingredients.clone(), facts };
        let from = Utf8PathBuf::try_from(scratch.keep()).context("the scratch folder's name")?;
        fs_err::write(from.join("entry.json"), serde_json::to_vec_pretty(&file)?)?;
        let dir = self.entry_dir(stage, &ingredients.key());
        if let Some(parent) = dir.parent() {
            fs_err::create_dir_all(parent)?;
        }
        if dir.exists() {
            fs_err::remove_dir_all(&dir)?;
        }
        fs_err::rename(&from, &dir)?;
        Ok(Entry { dir, facts: file.facts })
    }

    /// Removes all but the newest entries of a stage, which `lines` lines of work share. Those in use are the
    /// newest: a hit counts as new.
    ///
    /// # Errors
    /// The store cannot be read or an entry cannot be removed.
    pub fn clean_up(&self, stage: &str, lines: usize) -> Result<()> {
        let dir = self.root.join("store").join(stage);
        if !dir.exists() {
            return Ok(());
        }
        let mut entries: Vec<(SystemTime, Utf8PathBuf)> = Vec::new();
        for entry in dir.read_dir_utf8()? {
            let path = entry?.into_path();
            let made = fs_err::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            entries.push((made, path));
        }
        entries.sort();
        entries.reverse();
        for (_, path) in entries.iter().skip(KEPT * lines) {
            fs_err::remove_dir_all(path)?;
        }
        Ok(())
    }

    fn entry_dir(&self, stage: &str, key: &Key) -> Utf8PathBuf {
        self.root.join("store").join(stage).join(key.as_str())
    }

    fn last_path(&self, line: &str, stage: &str) -> Utf8PathBuf {
        self.root.join("last").join(line).join(format!("{stage}.json"))
    }

    fn last(&self, line: &str, stage: &str) -> Option<Ingredients> {
        serde_json::from_slice(&fs_err::read(self.last_path(line, stage)).ok()?).ok()
    }
}

/// Held while a build uses the cache.
#[derive(Debug)]
pub struct Lock {
    _file: fs_err::File,
}

fn read_entry(dir: &Utf8Path) -> Option<Entry> {
    let file: EntryFile = serde_json::from_slice(&fs_err::read(dir.join("entry.json")).ok()?).ok()?;
    Some(Entry { dir: dir.to_owned(), facts: file.facts })
}

/// Puts bytes under a name by temporary file and rename.
///
/// # Errors
/// A file operation failed; the old file is untouched then.
pub fn replace_file(path: &Utf8Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().with_context(|| format!("{path} has no folder"))?;
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(|| format!("making a file in {dir}"))?;
    std::io::Write::write_all(&mut file, bytes).with_context(|| format!("writing {path}"))?;
    file.as_file().sync_all().with_context(|| format!("syncing {path}"))?;
    file.persist(path).with_context(|| format!("putting {path} in place"))?;
    Ok(())
}

/// The SHA-256 of a file, streamed, as 64 hex digits.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_file(path: &Utf8Path) -> Result<String> {
    let mut file = fs_err::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// The SHA-256 of bytes, as 64 hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(Utf8Path::from_path(dir.path()).unwrap()).unwrap();
        (dir, cache)
    }

    fn list(pairs: &[(&str, &str)]) -> Ingredients {
        let mut list = Ingredients::new(1);
        for (name, value) in pairs {
            list.add(*name, *value);
        }
        list
    }

    #[test]
    fn a_miss_explains_itself_and_a_hit_follows() {
        let (_dir, cache) = cache();
        let first = list(&[("overlay/a", "0123456789012345678901234567890123"), ("suite", "trixie")]);
        let Lookup::Miss(reason) = cache.look_up("mail-amd64", "rootfs", &first) else { panic!("hit") };
        assert_eq!(reason, "never made before");
        let scratch = cache.scratch("rootfs").unwrap();
        fs_err::write(scratch.path().join("root.tar"), b"x").unwrap();
        let facts = BTreeMap::from([("sha256".to_owned(), "ff".to_owned())]);
        cache.store("rootfs", &first, scratch, facts).unwrap();
        cache.note("mail-amd64", "rootfs", &first).unwrap();
        let Lookup::Hit(entry) = cache.look_up("mail-amd64", "rootfs", &first) else { panic!("miss") };
        assert_eq!(fs_err::read(entry.file("root.tar")).unwrap(), b"x");
        assert_eq!(entry.fact("sha256").unwrap(), "ff");

        let second =
            list(&[("overlay/a", "9999999999999999999999999999999999"), ("suite", "forky"), ("b", "1")]);
        let Lookup::Miss(reason) = cache.look_up("mail-amd64", "rootfs", &second) else { panic!("hit") };
        assert_eq!(reason, "b is new, overlay/a changed, suite changed from trixie to forky");
    }

    #[test]
    fn keys_keep_name_and_value_apart() {
        assert_ne!(list(&[("ab", "c")]).key(), list(&[("a", "bc")]).key());
        assert_eq!(list(&[("a", "1"), ("b", "2")]).key(), list(&[("b", "2"), ("a", "1")]).key());
    }

    #[test]
    fn clean_up_keeps_the_newest_used() {
        let (_dir, cache) = cache();
        let mut keys = Vec::new();
        for n in 0..6 {
            let ingredients = list(&[("n", &n.to_string())]);
            let scratch = cache.scratch("s").unwrap();
            cache.store("s", &ingredients, scratch, BTreeMap::new()).unwrap();
            let dir = cache.entry_dir("s", &ingredients.key());
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + n);
            std::fs::File::open(&dir).unwrap().set_modified(time).unwrap();
            keys.push(ingredients.key());
        }
        let Lookup::Hit(first) = cache.look_up("l", "s", &list(&[("n", "0")])) else { panic!("miss") };
        first.touch();
        cache.clean_up("s", 1).unwrap();
        let left: Vec<bool> = keys.iter().map(|k| cache.entry_dir("s", k).exists()).collect();
        assert_eq!(left, [true, false, false, true, true, true]);
    }

    #[test]
    fn a_killed_builds_scratch_is_removed_by_the_next() {
        let (_dir, cache) = cache();
        let left = cache.scratch("root").unwrap().keep();
        let _lock = cache.lock(|| ()).unwrap();
        assert!(!left.exists());
    }
}
