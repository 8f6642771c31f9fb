//! Accounts with fixed numbers: from the overlay's `/usr/lib/cipolla/sysusers.d` to lines of `/etc/passwd` and its kin.
//!
//! The data partition outlives the root that wrote it. A package that finds its account present keeps it, so the
//! accounts are laid down before any package but the essential ones is configured, and their numbers never move from
//! one release to the next. Only what the project's own trees declare is laid down; packages declare theirs.
//! The format is sysusers.d(5); of it only users and groups with a number.

use std::fmt::Write as _;

use anyhow::{Result, bail};

/// Lines to append, by file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// passwd(5).
    pub passwd: String,
    /// shadow(5): no password fits.
    pub shadow: String,
    /// group(5).
    pub group: String,
    /// gshadow(5).
    pub gshadow: String,
}

impl Accounts {
    /// Adds what one file declares. `day`: days since 1970, for shadow(5).
    ///
    /// # Errors
    /// A line that is neither a user nor a group with a number; the message has the line's number.
    pub fn declare(&mut self, text: &str, day: u64) -> Result<()> {
        for (number, line) in text.lines().enumerate() {
            let words = words(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["g", name, id] => self.group(name, parse(id, number)?),
                ["u", name, id, gecos, home, shell] => {
                    let id = parse(id, number)?;
                    self.group(name, id);
                    let _ = writeln!(self.passwd, "{name}:x:{id}:{id}:{gecos}:{home}:{shell}");
                    let _ = writeln!(self.shadow, "{name}:!*:{day}::::::");
                }
                _ => bail!(
                    "line {}: expected `u NAME NUMBER \"GECOS\" HOME SHELL` or `g NAME NUMBER`, found `{line}`",
                    number + 1
                ),
            }
        }
        Ok(())
    }

    fn group(&mut self, name: &str, id: u32) {
        let _ = writeln!(self.group, "{name}:x:{id}:");
        let _ = writeln!(self.gshadow, "{name}:!*::");
    }

    /// The files and what is appended to them, by path without a leading slash.
    pub fn files(&self) -> [(&'static str, &str); 4] {
        [
            ("etc/passwd", &self.passwd),
            ("etc/shadow", &self.shadow),
            ("etc/group", &self.group),
            ("etc/gshadow", &self.gshadow),
        ]
    }
}

fn parse(id: &str, number: usize) -> Result<u32> {
    match id.parse() {
        Ok(id @ 1..=999) => Ok(id),
        _ => bail!("line {}: `{id}` is no number of a system account (1 to 999)", number + 1),
    }
}

/// Words between blanks; double quotes hold one together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut word) = (Vec::new(), false, None::<String>);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_brings_a_group_and_no_password_fits() {
        let mut accounts = Accounts::default();
        let text = "# Type Name ID\n\nu vmail 800 \"Mail boxes\" /var/vmail /usr/sbin/nologin\ng drop  812\n";
        accounts.declare(text, 20_000).unwrap();
        assert_eq!(accounts.passwd, "vmail:x:800:800:Mail boxes:/var/vmail:/usr/sbin/nologin\n");
        assert_eq!(accounts.shadow, "vmail:!*:20000::::::\n");
        assert_eq!(accounts.group, "vmail:x:800:\ndrop:x:812:\n");
        assert_eq!(accounts.gshadow, "vmail:!*::\ndrop:!*::\n");
    }

    #[test]
    fn numbers_are_not_left_to_chance() {
        for bad in ["u vmail - \"M\" / /bin/false", "u vmail 1000 \"M\" / /bin/false", "m a b", "g drop"] {
            let error = Accounts::default().declare(bad, 1).unwrap_err().to_string();
            assert!(error.starts_with("line 1: "), "{error}");
        }
    }
}
