//! `cipolla verify`: whether what may change on this appliance did change.
//!
//! The root file system is read-only. What lies on the data partition and should change only when the owner changes
//! it (configuration, keys, mailbox tables) is recorded by AIDE; here its report is put in words, and the record
//! made anew if the owner accepts what changed. The record protects against changes that nobody noticed; somebody
//! who is root can change it, too.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::fs::Replace;
use crate::machine::Machine;

/// Where AIDE's record is (`database_in` in aide.conf).
const RECORD: &str = "/var/lib/aide/aide.db";
/// Where it writes a new one (`database_out`).
const NEW_RECORD: &str = "/var/lib/aide/aide.db.new";

/// What happened to a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Happened {
    /// It was not there when the record was made.
    Added,
    /// It is not there any more.
    Removed,
    /// It is there, but not as it was.
    Changed,
}

/// One difference from the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path.
    pub path: String,
    /// What happened.
    pub happened: Happened,
    /// What changed about it, in words.
    pub what: Vec<String>,
}

/// The result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// How many files and folders were looked at.
    pub entries: u64,
    /// All differences, sorted by path.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Parses AIDE's report in JSON (aide.conf(5), `report_format=json`).
    ///
    /// # Errors
    /// When it is not such a report.
    pub fn parse(report: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(report).context("reading AIDE's report")?;
        let entries = report["number_of_entries"]["total"].as_u64();
        let entries = entries.context("AIDE's report does not say how much it looked at")?;
        let mut differences = Vec::new();
        for (key, happened) in
            [("added", Happened::Added), ("removed", Happened::Removed), ("changed", Happened::Changed)]
        {
            for path in report[key].as_object().map(Map::keys).into_iter().flatten() {
                let what = match happened {
                    Happened::Changed => words(&report["details"][path]),
                    Happened::Added | Happened::Removed => Vec::new(),
                };
                differences.push(Difference { path: path.clone(), happened, what });
            }
        }
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { entries, differences })
    }

    /// Whether everything is as recorded.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.differences.is_empty()
    }

    /// What the owner reads.
    #[must_use]
    pub fn text(&self) -> String {
        if self.is_unchanged() {
            return format!("nothing changed: {} files and folders are as recorded\n", self.entries);
        }
        let mut text = String::new();
        for difference in &self.differences {
            let happened = match difference.happened {
                Happened::Added => "is new",
                Happened::Removed => "is gone",
                Happened::Changed => "changed",
            };
            let what = if difference.what.is_empty() {
                String::new()
            } else {
                ": ".to_owned() + &difference.what.join(", ")
            };
            let _ = writeln!(text, "{} {happened}{what}", difference.path);
        }
        let _ = writeln!(
            text,
            "\n{} of {} files and folders differ from the record. If all of it is your doing: cipolla verify --accept",
            self.differences.len(),
            self.entries
        );
        text
    }
}

/// The changed attributes of one path, in words. A size or a link count follows from the content, which is said.
fn words(details: &Value) -> Vec<String> {
    let Some(attributes) = details.as_object() else { return Vec::new() };
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let from_to = |name: &str, key: &str| {
        format!("{name} {} → {}", shown(&attributes[key]["old"]), shown(&attributes[key]["new"]))
    };
    let mut words = Vec::new();
    for key in attributes.keys() {
        match key.as_str() {
            "sha256" => words.push("content".to_owned()),
            "perm" => words.push(from_to("permissions", key)),
            "uid" => words.push(from_to("owner", key)),
            "gid" => words.push(from_to("group", key)),
            "ftype" => words.push(from_to("kind", key)),
            "link_name" | "lname" => words.push(from_to("target", key)),
            "size" | "link_count" => {}
            other => words.push(from_to(other, other)),
        }
    }
    if words.is_empty() && attributes.contains_key("link_count") {
        words.push("names in it".to_owned());
    }
    words
}

/// Runs AIDE: `--check` compares, `--update` also writes the new record beside the old one.
fn aide(machine: &Machine<'_>, action: &str) -> Result<Comparison> {
    if !machine.programs.has("aide") {
        bail!("this image has no AIDE");
    }
    if machine.fs.entry(Utf8Path::new(RECORD))?.is_none() {
        bail!(
            "there is no record yet; it is made some minutes after the first start, or now by: systemctl start cipolla-integrity"
        );
    }
    // `--before`, since a format counts for the outputs that are named after it.
    let argv = ["aide", "--config=/etc/aide/aide.conf", "--before=report_format=json", action];
    let ran = machine.programs.run(&argv)?;
    // Its exit status says that something differs, in bits; that it could not work, it says in words and no report.
    Comparison::parse(&ran.stdout)
        .with_context(|| format!("comparing with the record: AIDE says {}", ran.stderr.trim()))
}

/// Compares with the record.
///
/// # Errors
/// When there is no record, or AIDE cannot work.
pub fn check(machine: &Machine<'_>) -> Result<Comparison> {
    aide(machine, "--check")
}

/// Compares, asks `accepts` what it thinks of the differences, and if it agrees puts the new record in place. The
/// new record was made in the same pass, so nothing that changes in between is accepted unseen. Returns the
/// comparison, and whether there is a new record.
///
/// # Errors
/// As [`check`], and from the file system.
pub fn accept(
    machine: &Machine<'_>,
    accepts: &mut dyn FnMut(&Comparison) -> Result<bool>,
) -> Result<(Comparison, bool)> {
    let (record, new) = (Utf8Path::new(RECORD), Utf8Path::new(NEW_RECORD));
    let comparison = aide(machine, "--update")?;
    if comparison.is_unchanged() || !accepts(&comparison)? {
        if machine.fs.entry(new)?.is_some() {
            machine.fs.remove(new)?;
        }
        return Ok((comparison, false));
    }
    machine.fs.sync(new)?;
    machine.fs.rename(new, record, Replace::Allowed)?;
    machine.fs.sync(Utf8Path::new("/var/lib/aide"))?;
    Ok((comparison, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As AIDE 0.19.1 wrote it, shortened.
    const REPORT: &str = r#"{
      "start_time": "2026-11-21 22:51:04 +0000", "aide_version": "0.19.1",
      "outline": "AIDE found differences between database and filesystem!!",
      "number_of_entries": { "total": 7, "added": 1, "removed": 1, "changed": 3 },
      "added": { "/etc/sp ace": "d++++++++++++++++++" },
      "removed": { "/root/f2": "f------------------" },
      "changed": { "/root": "d = ...    n       ", "/etc/a": "d = p..    .       ", "/etc/f1": "f > ...    .H      " },
      "details": {
        "/root": { "link_count": { "old": 3, "new": 4 } },
        "/etc/a": { "perm": { "old": "drwx------", "new": "drwxr-xr-x" } },
        "/etc/f1": { "size": { "old": 2, "new": 3 }, "sha256": { "old": "c8s4", "new": "NI30" } }
      },
      "end_time": "2026-11-21 22:51:04 +0000", "run_time_seconds": 0
    }"#;

    #[test]
    fn differences_are_said_in_words() {
        let comparison = Comparison::parse(REPORT).unwrap();
        let text = comparison.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "/etc/a changed: permissions drwx------ → drwxr-xr-x");
        assert_eq!(lines[1], "/etc/f1 changed: content");
        assert_eq!(lines[2], "/etc/sp ace is new");
        assert_eq!(lines[3], "/root changed: names in it");
        assert_eq!(lines[4], "/root/f2 is gone");
        assert!(lines[6].starts_with("5 of 7 files and folders differ"), "{text}");
    }

    #[test]
    fn nothing_changed() {
        let report = r#"{"outline": "AIDE found NO differences", "number_of_entries": {"total": 7}}"#;
        let comparison = Comparison::parse(report).unwrap();
        assert!(comparison.is_unchanged());
        assert!(comparison.text().contains("7 files"));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(Comparison::parse("").is_err());
        assert!(Comparison::parse("{}").is_err());
    }
}
