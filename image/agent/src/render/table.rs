//! Whose a rendered file is, and which program must accept it.
//!
//! `*.owners.toml` beside the templates, one per overlay tree. A template without an entry becomes a file of
//! root that all may read.
//!
//! ```toml
//! schema = 1
//!
//! [[file]]
//! path = "/etc/nftables.conf"
//! mode = "0600"                                # default 0644
//! user = "root"                                # default root
//! group = "root"                               # default root
//! validate = ["nft", "-c", "-f", "{file}"]     # {file}: the new file, {dir}: a folder with it and its neighbours
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use crate::fs::Fs;
use crate::paths;

const SUFFIX: &str = ".owners.toml";
const SCHEMA: u32 = 1;

/// What holds for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its permission bits.
    pub mode: u32,
    /// Its user.
    pub user: String,
    /// Its group.
    pub group: String,
    /// The program that must accept it; empty: none.
    pub validate: Vec<String>,
}

impl Default for Rule {
    fn default() -> Self {
        Self { mode: 0o644, user: "root".into(), group: "root".into(), validate: Vec::new() }
    }
}

/// Rules by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    rules: BTreeMap<Utf8PathBuf, Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    schema: u32,
    #[serde(default)]
    file: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    path: Utf8PathBuf,
    mode: Option<String>,
    user: Option<String>,
    group: Option<String>,
    #[serde(default)]
    validate: Vec<String>,
}

impl Table {
    /// Adds the rules of one file's text.
    ///
    /// # Errors
    /// When it is not such a file, or has a rule for a path that has one.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let raw: RawTable = toml::from_str(text)?;
        if raw.schema != SCHEMA {
            bail!("schema {} is unknown, this agent knows {SCHEMA}", raw.schema);
        }
        for RawRule { path, mode, user, group, validate } in raw.file {
            let mut rule = Rule { validate, ..Rule::default() };
            if let Some(mode) = mode {
                rule.mode = u32::from_str_radix(&mode, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .with_context(|| format!("{path}: {mode:?} is not a mode like 0644"))?;
            }
            rule.user = user.unwrap_or(rule.user);
            rule.group = group.unwrap_or(rule.group);
            if self.rules.insert(path.clone(), rule).is_some() {
                bail!("{path} has two rules");
            }
        }
        Ok(())
    }

    /// Reads all tables of the image.
    ///
    /// # Errors
    /// When one is wrong.
    pub fn load(fs: &dyn Fs) -> Result<Self> {
        let mut table = Self::default();
        let folder = Utf8Path::new(paths::TEMPLATES);
        for name in fs.list(folder)?.iter().filter(|name| name.ends_with(SUFFIX)) {
            let path = folder.join(name);
            let bytes = fs.read(&path)?.unwrap_or_default();
            let text = String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8"))?;
            table.add(&text).with_context(|| format!("reading {path}"))?;
        }
        Ok(table)
    }

    /// The rule of a path.
    #[must_use]
    pub fn rule(&self, path: &Utf8Path) -> Rule {
        self.rules.get(path).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_others_default() {
        let mut table = Table::default();
        table.add("schema = 1\n[[file]]\npath = \"/etc/a\"\nmode = \"0640\"\ngroup = \"x\"\n").unwrap();
        let rule = table.rule(Utf8Path::new("/etc/a"));
        assert_eq!((rule.mode, rule.group.as_str(), rule.user.as_str()), (0o640, "x", "root"));
        assert_eq!(table.rule(Utf8Path::new("/etc/b")), Rule::default());
    }

    #[test]
    fn mistakes_are_named() {
        let mut table = Table::default();
        for wrong in [
            "schema = 2\n",
            "schema = 1\n[[file]]\npath = \"/a\"\nmode = \"9\"\n",
            "schema = 1\n[[file]]\npath = \"/a\"\nmoed = \"0600\"\n",
            "schema = 1\n[[file]]\npath = \"/b\"\n[[file]]\npath = \"/b\"\n",
        ] {
            assert!(table.add(wrong).is_err(), "{wrong}");
        }
    }
}
