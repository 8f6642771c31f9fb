//! Users and groups of the appliance: passwd(5) and group(5).
//!
//! Names are looked up in the files, never through the C library, so that the agent works on any root folder.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use camino::Utf8Path;

use crate::fs::{Access, Fs, Owner};

/// Numbers by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<String, (u32, u32)>,
    groups: BTreeMap<String, u32>,
}

impl Accounts {
    /// Parses the text of both files; lines that are not entries are skipped.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Self {
        let field = |line: &str, n: usize| line.split(':').nth(n).and_then(|f| f.parse().ok());
        let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        Self {
            users: passwd.lines().filter_map(|l| Some((name(l), (field(l, 2)?, field(l, 3)?)))).collect(),
            groups: group.lines().filter_map(|l| Some((name(l), field(l, 2)?))).collect(),
        }
    }

    /// Reads `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    /// When one is there but cannot be read.
    pub fn load(fs: &dyn Fs) -> Result<Self> {
        let text = |path: &str| -> Result<String> {
            let bytes = fs.read(Utf8Path::new(path))?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Self::parse(&text("/etc/passwd")?, &text("/etc/group")?))
    }

    /// Whether there is such a user.
    #[must_use]
    pub fn has_user(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    /// Whether there is such a group.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    /// Mode and owner of a file that belongs to `user` and its primary group.
    ///
    /// # Errors
    /// When the image has no such user.
    pub fn of_user(&self, user: &str, mode: u32) -> Result<Access> {
        let (uid, gid) = *self.users.get(user).with_context(|| format!("the image has no user {user}"))?;
        Ok(Access { mode, owner: Owner { uid, gid } })
    }

    /// Mode and owner of a file that belongs to root and `group`.
    ///
    /// # Errors
    /// When the image has no such group.
    pub fn of_group(&self, group: &str, mode: u32) -> Result<Access> {
        self.of("root", group, mode)
    }

    /// Mode and owner of a file that belongs to `user` and `group`.
    ///
    /// # Errors
    /// When the image lacks one of them.
    pub fn of(&self, user: &str, group: &str, mode: u32) -> Result<Access> {
        let uid = if user == "root" { 0 } else { self.of_user(user, mode)?.owner.uid };
        let gid = match (group, self.groups.get(group)) {
            ("root", _) => 0,
            (_, Some(gid)) => *gid,
            _ => anyhow::bail!("the image has no group {group}"),
        };
        Ok(Access { mode, owner: Owner { uid, gid } })
    }

    /// User numbers by name, for the templates.
    #[must_use]
    pub fn uids(&self) -> BTreeMap<&str, u32> {
        self.users.iter().map(|(name, (uid, _))| (name.as_str(), *uid)).collect()
    }

    /// Group numbers by name, for the templates.
    #[must_use]
    pub fn gids(&self) -> BTreeMap<&str, u32> {
        self.groups.iter().map(|(name, gid)| (name.as_str(), *gid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers() {
        let accounts = Accounts::parse(
            "root:x:0:0::/root:/bin/sh\ndebian-tor:x:102:105::/var/lib/tor:/bin/false\nbroken line\n",
            "root:x:0:\ndovecot:x:110:postfix\n",
        );
        assert_eq!(accounts.of_user("debian-tor", 0o700).unwrap().owner, Owner { uid: 102, gid: 105 });
        assert_eq!(accounts.of_group("dovecot", 0o640).unwrap().owner, Owner { uid: 0, gid: 110 });
        assert!(accounts.of_user("nobody-here", 0).is_err());
        assert!(accounts.has_group("dovecot") && !accounts.has_user("dovecot"));
    }
}
