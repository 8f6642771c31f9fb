//! Aliases and mailing lists: further addresses that lead to mailboxes. The owner's, so they are kept apart from the
//! tables of Postfix, which are derived from them.
//!
//! ```toml
//! [aliases]
//! sales = ["ada"]                       # ada gets the mail and may write as sales
//!
//! [lists]
//! team = ["ada", "bob@….onion"]         # each gets a copy; nobody writes as team
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use camino::Utf8Path;
use identity::mailbox::{LocalPart, Mailbox, MailboxError};
use serde::{Deserialize, Serialize};

use crate::fs::Fs;
use crate::paths;

/// Members of one list at most: Postfix expands an address to 200 at most (`virtual_alias_expansion_limit`), and a
/// member may be an alias of several mailboxes.
const MAX_MEMBERS: usize = 100;
/// Names that Postfix itself writes as.
const OF_POSTFIX: [&str; 2] = ["double-bounce", "mailer-daemon"];
/// What stands above the content.
const HEADER: &str = "# Written by `cipolla alias` and `cipolla list`.\n";

/// Who gets a copy of what is written to a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Member {
    /// A mailbox or alias of this appliance.
    Here(LocalPart),
    /// Somebody at another onion.
    Elsewhere(Mailbox),
}

impl Member {
    /// Reads a member; an address at `domain`, which is ours, is the same as its local part.
    ///
    /// # Errors
    /// When it is neither a mailbox name nor an address at an onion.
    pub fn parse(text: &str, domain: &str) -> Result<Self, MailboxError> {
        Ok(match text.parse()? {
            Self::Elsewhere(mailbox) if mailbox.onion.to_string() == domain => Self::Here(mailbox.local),
            member => member,
        })
    }

    /// The whole address.
    #[must_use]
    pub fn address(&self, domain: &str) -> String {
        match self {
            Self::Here(local) => format!("{local}@{domain}"),
            Self::Elsewhere(mailbox) => mailbox.to_string(),
        }
    }
}

impl FromStr for Member {
    type Err = MailboxError;

    fn from_str(text: &str) -> Result<Self, MailboxError> {
        Ok(if text.contains('@') { Self::Elsewhere(text.parse()?) } else { Self::Here(text.parse()?) })
    }
}

impl TryFrom<String> for Member {
    type Error = MailboxError;

    fn try_from(text: String) -> Result<Self, MailboxError> {
        text.parse()
    }
}

impl From<Member> for String {
    fn from(member: Member) -> Self {
        member.to_string()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(local) => local.fmt(f),
            Self::Elsewhere(mailbox) => mailbox.fmt(f),
        }
    }
}

/// All aliases and lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressBook {
    /// The mailboxes behind each alias.
    pub aliases: BTreeMap<LocalPart, BTreeSet<LocalPart>>,
    /// The members of each list.
    pub lists: BTreeMap<LocalPart, BTreeSet<Member>>,
}

impl AddressBook {
    /// Reads it; empty if there is none yet.
    ///
    /// # Errors
    /// When it is there but cannot be read.
    pub fn load(fs: &dyn Fs) -> Result<Self> {
        let Some(bytes) = fs.read(Utf8Path::new(paths::ADDRESSES))? else { return Ok(Self::default()) };
        Self::parse(&String::from_utf8_lossy(&bytes))
            .with_context(|| format!("reading {}: correct it, or restore it from a backup", paths::ADDRESSES))
    }

    /// Parses the file's text.
    ///
    /// # Errors
    /// Names the place of what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// The file's text.
    ///
    /// # Errors
    /// When the encoder fails, which no content leads to.
    pub fn text(&self) -> Result<String> {
        Ok(format!("{HEADER}{}", toml::to_string_pretty(self).context("writing aliases and lists as TOML")?))
    }

    /// Everything that is wrong with it beside these mailboxes.
    #[must_use]
    pub fn problems(&self, locals: &[String]) -> Vec<String> {
        let mailbox = |name: &LocalPart| locals.iter().any(|local| local == name.as_str());
        let mut problems = Vec::new();
        let names = self.aliases.keys().map(|name| ("alias", name));
        for (kind, name) in names.chain(self.lists.keys().map(|name| ("list", name))) {
            if mailbox(name) {
                problems.push(format!(
                    "{name} would be a mailbox and {} {kind}; it can be one only",
                    article(kind)
                ));
            }
            if OF_POSTFIX.contains(&name.as_str()) {
                problems.push(format!("the mail server itself writes as {name}; choose another name"));
            }
        }
        for (name, behind) in &self.aliases {
            if self.lists.contains_key(name) {
                problems.push(format!("{name} is an alias and a list; remove one of them"));
            }
            for target in behind.iter().filter(|target| !mailbox(target)) {
                problems.push(format!("the alias {name} leads to {target}, which is no mailbox here"));
            }
            if behind.is_empty() {
                problems.push(format!(
                    "the alias {name} leads nowhere; remove it with: cipolla alias remove {name}"
                ));
            }
        }
        for (name, members) in &self.lists {
            for member in members {
                let known = |local: &LocalPart| mailbox(local) || self.aliases.contains_key(local);
                if let Member::Here(local) = member
                    && !known(local)
                {
                    problems
                        .push(format!("{local} on the list {name} is neither a mailbox nor an alias here"));
                }
            }
            if members.is_empty() {
                problems.push(format!(
                    "the list {name} has no member; remove it with: cipolla list delete {name}"
                ));
            }
            if members.len() > MAX_MEMBERS {
                let many = members.len();
                problems.push(format!("the list {name} has {many} members, {MAX_MEMBERS} are possible"));
            }
        }
        problems
    }
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with('a') { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::onion::OnionKey;

    #[test]
    fn what_is_written_is_read() {
        let other = OnionKey::from_seed(&[9; 32]).address().to_string();
        let mut book = AddressBook::default();
        assert_eq!(AddressBook::parse(&book.text().unwrap()).unwrap(), book);
        book.aliases.insert("sales".parse().unwrap(), ["ada".parse().unwrap()].into());
        let members = ["ada", &format!("bob@{other}")].map(|member| member.parse().unwrap());
        book.lists.insert("the.team".parse().unwrap(), members.into());
        let text = book.text().unwrap();
        assert!(text.starts_with("# Written by"), "{text}");
        assert_eq!(AddressBook::parse(&text).unwrap(), book);
        for wrong in [
            "[alias]\n",
            "[aliases]\nUpper = [\"ada\"]\n",
            "[aliases]\na = [\"b@c\"]\n",
            "[lists]\na = [\"b@example.com\"]\n",
            "[lists]\na = [\"b, c\"]\n",
            "[lists]\na = \"b\"\n",
        ] {
            assert!(AddressBook::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn our_own_domain_is_left_out() {
        let [ours, other] = [1, 2].map(|seed| OnionKey::from_seed(&[seed; 32]).address().to_string());
        assert_eq!(
            Member::parse(&format!("ada@{ours}"), &ours).unwrap(),
            Member::Here("ada".parse().unwrap())
        );
        let there = Member::parse(&format!("ada@{other}"), &ours).unwrap();
        assert_eq!(there.address(&ours), format!("ada@{other}"));
    }

    #[test]
    fn all_problems_are_named() {
        let text = "[aliases]\nada = [\"bob\"]\nx = [\"nobody\", \"ada\"]\nboth = [\"ada\"]\nmailer-daemon = [\"ada\"]\n\
                    empty = []\n[lists]\nboth = [\"ada\"]\nnone = []\nteam = [\"x\", \"eve\"]\n";
        let problems = AddressBook::parse(text).unwrap().problems(&["ada".into(), "bob".into()]);
        assert_eq!(
            problems,
            [
                "ada would be a mailbox and an alias; it can be one only",
                "the mail server itself writes as mailer-daemon; choose another name",
                "both is an alias and a list; remove one of them",
                "the alias empty leads nowhere; remove it with: cipolla alias remove empty",
                "the alias x leads to nobody, which is no mailbox here",
                "the list none has no member; remove it with: cipolla list delete none",
                "eve on the list team is neither a mailbox nor an alias here",
            ]
        );
    }
}
