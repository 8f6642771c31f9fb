//! The owner table, `overlay/owners.toml`: who owns what the overlay lays down, and with which mode.
//!
//! Owners and modes of the checkout mean nothing: they depend on who cloned it. So every path gets them from
//! here.
//!
//! ```toml
//! schema = 1
//!
//! [[rule]]
//! path = "/**"
//! user = "root"
//! group = "root"
//! file = "0644"
//! dir = "0755"
//!
//! [[rule]]
//! path = "/usr/lib/cipolla/bin/*"
//! file = "0755"
//! ```
//!
//! | key of `[[rule]]` | | |
//! |---|---|---|
//! | `path` | required | glob over absolute target paths ([`Glob`]); files for the initramfs have theirs under `/initramfs/` |
//! | `user`, `group` | optional | names of the image's own passwd and group |
//! | `file` | optional | mode of files, octal: `"0644"` |
//! | `dir` | optional | mode of folders, octal: `"0755"` |
//! | `override` | optional | whether a later tree may replace the file of an earlier one; default false |
//! | `setuid_ok` | optional | must be true beside a mode with setuid or setgid |
//!
//! For each attribute the last rule that matches and sets it wins. World-writable modes are refused. Links have
//! no mode of their own on Linux (symlink(7)): they get user and group only.

use std::fmt;

use globset::GlobMatcher;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::reader::{self, Key, Reader, Table, key};
use crate::source::{Located, Source, Spot};
use crate::types::{Glob, Invalid, UserName, Word};

/// The schema of the owner table that this version reads.
pub const VERSION: i64 = 1;

/// Permission bits, at most `07777`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u32);

impl Mode {
    /// What Linux reports for every symbolic link.
    pub const SYMLINK: Self = Self(0o777);

    /// The bits, as in `chmod(2)`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    const fn has_setid(self) -> bool {
        self.0 & 0o6000 != 0
    }
}

impl std::str::FromStr for Mode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.len() == 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let Some(bits) = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten() else {
            let better = format!("0{text}");
            let is_short = text.len() == 3 && better.parse::<Self>().is_ok();
            let help = if is_short {
                format!("did you mean `{better}`?")
            } else {
                "write it like `0644`".to_owned()
            };
            return Err(Invalid::new("not four octal digits").help(help));
        };
        if bits & 0o002 != 0 {
            return Err(Invalid::new("writable for everybody")
                .help(format!("did you mean `{:04o}`? share through a group instead", bits & !0o002)));
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Word for Mode {
    const WHAT: &'static str = "mode";
}

/// The rules, in order.
#[derive(Clone, Debug)]
pub struct Owners {
    rules: Vec<Rule>,
    end: Spot,
}

#[derive(Clone, Debug)]
struct Rule {
    path: Glob,
    matcher: GlobMatcher,
    user: Option<UserName>,
    group: Option<UserName>,
    file: Option<Mode>,
    dir: Option<Mode>,
    may_override: Option<bool>,
}

/// What the rules say about one path. `None` where no rule says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) user: Option<UserName>,
    pub(crate) group: Option<UserName>,
    pub(crate) file: Option<Mode>,
    pub(crate) dir: Option<Mode>,
    pub(crate) may_override: bool,
    /// Whether a rule other than `/**` says who owns a folder here or with which mode.
    pub(crate) is_explicit: bool,
}

impl Owners {
    /// Parses an owner table. `file_name` is only shown.
    ///
    /// # Errors
    /// Every problem of the text, at once.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut findings = Diagnostics::new();
        let owners = Self::read(&Source::new(file_name, text), &mut findings);
        findings.or(owners)
    }

    /// Reads the table as far as it goes; findings tell whether it may be relied on.
    pub(crate) fn read(source: &Source, findings: &mut Diagnostics) -> Option<Self> {
        let document = reader::document(source, findings)?;
        let mut reader = Reader::new(source, findings);
        let mut root = Table::root(&document);
        if !root.is_schema(&mut reader, VERSION) {
            return None;
        }
        let tables = root.array_of_tables(&mut reader, "rule");
        let end = tables.last().map_or_else(|| root.spot(&reader), |table| table.spot(&reader));
        root.finish(&mut reader);
        let rules = tables.into_iter().filter_map(|table| rule(&mut reader, table)).collect();
        Some(Self { rules, end })
    }

    /// Where another rule would be added: the last rule there is.
    pub(crate) fn end(&self) -> Spot {
        self.end.clone()
    }

    pub(crate) fn attributes(&self, path: &str) -> Attributes {
        let mut found = Attributes::default();
        for rule in self.rules.iter().filter(|rule| rule.matcher.is_match(path)) {
            let later = |new: &Option<UserName>, old: Option<UserName>| new.clone().or(old);
            found.user = later(&rule.user, found.user);
            found.group = later(&rule.group, found.group);
            found.file = rule.file.or(found.file);
            found.dir = rule.dir.or(found.dir);
            found.may_override = rule.may_override.unwrap_or(found.may_override);
            found.is_explicit |= rule.path.as_str() != "/**"
                && (rule.user.is_some() || rule.group.is_some() || rule.dir.is_some());
        }
        found
    }
}

fn rule(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<Rule> {
    const SETUID_OK: Key = key("setuid_ok", "setuid_ok = true");
    let path = table.required_word::<Glob>(reader, key("path", "path = \"/etc/postfix/**\""));
    let user = table.word(reader, key("user", "user = \"root\""));
    let group = table.word(reader, key("group", "group = \"root\""));
    let file = table.word(reader, key("file", "file = \"0644\""));
    let dir = table.word(reader, key("dir", "dir = \"0755\""));
    let may_override = table.flag(reader, key("override", "override = true"));
    let is_setuid_ok = table.flag(reader, SETUID_OK) == Some(true);
    for mode in [&file, &dir].into_iter().flatten() {
        refuse_setid(reader, mode, is_setuid_ok);
    }
    let header = table.spot(reader);
    let says_nothing = user.is_none() && group.is_none() && may_override.is_none();
    if says_nothing && !["file", "dir"].iter().any(|name| table.has(key(name, ""))) && path.is_some() {
        reader.push(
            Diagnostic::error("rule without effect")
                .at(header, "sets nothing")
                .help("set at least one of `user`, `group`, `file`, `dir`, `override`"),
        );
    }
    table.finish(reader);
    let path = path?.value;
    let value = |name: Option<Located<UserName>>| name.map(|name| name.value);
    Some(Rule {
        matcher: path.compile().compile_matcher(),
        path,
        user: value(user),
        group: value(group),
        file: file.map(|mode| mode.value),
        dir: dir.map(|mode| mode.value),
        may_override,
    })
}

fn refuse_setid(reader: &mut Reader<'_>, mode: &Located<Mode>, is_setuid_ok: bool) {
    if mode.value.has_setid() && !is_setuid_ok {
        reader.push(
            Diagnostic::error(format!("mode `{}` has setuid or setgid", mode.value))
                .at(mode.spot.clone(), "gives its owner's rights to whoever runs it")
                .help("if that is wanted, add `setuid_ok = true` to the rule"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
schema = 1
[[rule]]
path = "/**"
user = "root"
group = "root"
file = "0644"
dir = "0755"
[[rule]]
path = "/etc/tor/**"
group = "debian-tor"
override = true
[[rule]]
path = "/etc/tor/bin/*"
file = "0755"
"#;

    #[test]
    fn the_last_match_wins_per_attribute() {
        let owners = Owners::parse("owners.toml", TABLE).unwrap();
        let found = owners.attributes("/etc/tor/bin/x");
        assert_eq!(found.user.unwrap().as_str(), "root");
        assert_eq!(found.group.unwrap().as_str(), "debian-tor");
        assert_eq!(found.file.unwrap().to_string(), "0755");
        assert_eq!(found.dir.unwrap().bits(), 0o755);
        assert!(found.may_override && found.is_explicit);
        assert!(!owners.attributes("/etc/hosts").is_explicit);
        assert_eq!(owners.attributes("etc/hosts"), Attributes::default());
    }

    #[test]
    fn modes_are_four_octal_digits_and_never_world_writable() {
        let fix = |text: &str| text.parse::<Mode>().unwrap_err().fix().unwrap_or_default().to_owned();
        assert_eq!(fix("644"), "did you mean `0644`?");
        assert_eq!(fix("0888"), "write it like `0644`");
        assert_eq!(fix("1777"), "did you mean `1775`? share through a group instead");
        assert_eq!("2750".parse::<Mode>().unwrap().bits(), 0o2750);
    }
}
