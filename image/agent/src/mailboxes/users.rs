//! Dovecot's passwd-file (Dovecot, "Passwd-file"), one line per mailbox:
//! `ada@DOMAIN:{ARGON2ID}$argon2id$…::::::userdb_quota_storage_size=5G`.
//!
//! Text in, text out. Lines and fields that are not meant stay byte by byte.

use anyhow::{Context, Result};
use camino::Utf8Path;

use crate::fs::Fs;
use crate::paths;

/// The field of the password's hash, counted from 0.
const HASH: usize = 1;
/// The field of further fields, separated by spaces.
const EXTRA: usize = 7;
/// The further field that Dovecot's quota reads.
const QUOTA: &str = "userdb_quota_storage_size=";

/// Reads the file; empty if there is none yet.
///
/// # Errors
/// When it is there but cannot be read.
pub fn load(fs: &dyn Fs) -> Result<String> {
    let bytes = fs.read(Utf8Path::new(paths::USERS))?.unwrap_or_default();
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", paths::USERS))
}

/// The line of a new mailbox.
#[must_use]
pub fn line(local: &str, domain: &str, hash: &str) -> String {
    format!("{local}@{domain}:{hash}::::::\n")
}

/// The local parts of all mailboxes at `domain`, in the order of the file.
#[must_use]
pub fn locals(users: &str, domain: &str) -> Vec<String> {
    let local = |line: &str| {
        let (address, _) = line.split_once(':')?;
        let (local, at) = address.rsplit_once('@')?;
        (at == domain).then(|| local.to_owned())
    };
    users.lines().filter_map(local).collect()
}

fn is_of(line: &str, address: &str) -> bool {
    line.strip_prefix(address).is_some_and(|rest| rest.starts_with(':'))
}

/// The fields of a mailbox, if there is one of this address.
fn fields<'u>(users: &'u str, address: &str) -> Option<Vec<&'u str>> {
    users.lines().find(|line| is_of(line, address)).map(|line| line.split(':').collect())
}

/// The hash of a mailbox's password.
#[must_use]
pub fn hash<'u>(users: &'u str, address: &str) -> Option<&'u str> {
    fields(users, address)?.get(HASH).copied()
}

/// The room that a mailbox has, if it is not that of all.
#[must_use]
pub fn quota<'u>(users: &'u str, address: &str) -> Option<&'u str> {
    fields(users, address)?.get(EXTRA)?.split(' ').find_map(|field| field.strip_prefix(QUOTA))
}

/// The file with one field of a mailbox changed; `None` if there is no such mailbox.
fn with_field(users: &str, address: &str, number: usize, change: impl Fn(&str) -> String) -> Option<String> {
    let mut known = false;
    let lines = users.split_inclusive('\n').map(|line| {
        if !is_of(line, address) {
            return line.to_owned();
        }
        known = true;
        let mut fields: Vec<_> = line.trim_end_matches('\n').split(':').map(str::to_owned).collect();
        fields.resize(fields.len().max(EXTRA + 1), String::new());
        fields[number] = change(&fields[number]);
        fields.join(":") + "\n"
    });
    let text = lines.collect();
    known.then_some(text)
}

/// The file with another password for a mailbox; `None` if there is no such mailbox.
#[must_use]
pub fn with_hash(users: &str, address: &str, hash: &str) -> Option<String> {
    with_field(users, address, HASH, |_| hash.to_owned())
}

/// The file with other room for a mailbox, or with that of all; `None` if there is no such mailbox.
#[must_use]
pub fn with_quota(users: &str, address: &str, quota: Option<&str>) -> Option<String> {
    with_field(users, address, EXTRA, |extra| {
        let others = extra.split(' ').filter(|field| !field.is_empty() && !field.starts_with(QUOTA));
        let quota = quota.map(|quota| format!("{QUOTA}{quota}"));
        others.map(str::to_owned).chain(quota).collect::<Vec<_>>().join(" ")
    })
}

/// The file without a mailbox; `None` if there is no such mailbox.
#[must_use]
pub fn without(users: &str, address: &str) -> Option<String> {
    fields(users, address)?;
    Some(users.split_inclusive('\n').filter(|line| !is_of(line, address)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "ada@x.onion:1::::::a=b\n# kept\nada@x.onion.evil:2::::::\nbob@x.onion:3:\n";

    #[test]
    fn mailboxes_are_read() {
        let users = line("ada", "x.onion", "{ARGON2ID}$x") + &line("bob", "other.onion", "{ARGON2ID}$y");
        assert_eq!(locals(&users, "x.onion"), ["ada"]);
        assert_eq!(hash(&users, "ada@x.onion"), Some("{ARGON2ID}$x"));
        assert_eq!(hash(&users, "eve@x.onion"), None);
    }

    #[test]
    fn one_field_changes_and_all_else_stays() {
        assert_eq!(
            with_hash(USERS, "ada@x.onion", "9").unwrap(),
            "ada@x.onion:9::::::a=b\n# kept\nada@x.onion.evil:2::::::\nbob@x.onion:3:\n"
        );
        assert_eq!(with_hash(USERS, "eve@x.onion", "9"), None);
    }

    #[test]
    fn room_is_set_and_taken_back() {
        let more = with_quota(USERS, "ada@x.onion", Some("5G")).unwrap();
        assert!(more.starts_with("ada@x.onion:1::::::a=b userdb_quota_storage_size=5G\n"), "{more}");
        assert_eq!(quota(&more, "ada@x.onion"), Some("5G"));
        assert_eq!(with_quota(&more, "ada@x.onion", None).unwrap(), USERS);
        let short = with_quota(USERS, "bob@x.onion", Some("1G")).unwrap();
        assert!(short.ends_with("bob@x.onion:3::::::userdb_quota_storage_size=1G\n"), "{short}");
    }

    #[test]
    fn a_mailbox_is_taken_out() {
        let rest = without(USERS, "ada@x.onion").unwrap();
        assert_eq!(rest, "# kept\nada@x.onion.evil:2::::::\nbob@x.onion:3:\n");
        assert_eq!(without(&rest, "ada@x.onion"), None);
    }
}
