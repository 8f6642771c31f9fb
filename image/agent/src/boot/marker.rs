//! The mark that an identity is complete: which image wrote it, and which roles it covers.
//!
//! ```text
//! build = 3f9c…
//! roles = mail onion web
//! ```
//!
//! What an image can do may grow: the roles of a later image that are not covered yet are completed by its first
//! start, which then writes the mark anew. A role once covered stays covered. Names of roles that this agent does
//! not know come from a newer image, to which the owner may return; they are kept.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use camino::Utf8Path;
use thiserror::Error;

use super::facts::Roles;
use crate::fs::Fs;
use crate::paths;

/// The content of [`paths::MARKER`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marker {
    /// `BUILD_ID` of the image that wrote it; empty if that had none.
    pub build: String,
    /// Names of the roles that were complete.
    roles: BTreeSet<String>,
}

/// Why a text is no mark.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MarkerError {
    /// Other lines than the two.
    #[error("it must have the lines `build = …` and `roles = …` and no others")]
    Lines,
    /// A name that no image writes.
    #[error("{0:?} is not the name of a role")]
    Role(String),
}

impl Marker {
    /// The mark of an identity that has these roles and all that `earlier` had.
    #[must_use]
    pub fn new(build: String, roles: Roles, earlier: Option<&Self>) -> Self {
        let mut all: BTreeSet<_> = roles.names().map(str::to_owned).collect();
        all.extend(earlier.into_iter().flat_map(|marker| marker.roles.iter().cloned()));
        Self { build, roles: all }
    }

    /// Whether the identity of each of these roles was complete once.
    #[must_use]
    pub fn covers(&self, roles: Roles) -> bool {
        roles.names().all(|name| self.roles.contains(name))
    }

    /// Reads the mark; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn load(fs: &dyn Fs) -> Result<Option<Self>> {
        let Some(bytes) = fs.read(Utf8Path::new(paths::MARKER))? else { return Ok(None) };
        let marker = String::from_utf8_lossy(&bytes).parse().with_context(|| {
            format!(
                "reading {}: restore it from a backup; or, if all keys are in place, remove it, and the next start \
                 writes it anew",
                paths::MARKER
            )
        })?;
        Ok(Some(marker))
    }
}

impl FromStr for Marker {
    type Err = MarkerError;

    fn from_str(text: &str) -> Result<Self, MarkerError> {
        let lines: Vec<_> = text.strip_suffix('\n').ok_or(MarkerError::Lines)?.split('\n').collect();
        let [build, roles] = lines[..] else { return Err(MarkerError::Lines) };
        let value = |line: &str, key: &str| {
            let value = line.strip_prefix(key)?.strip_prefix(" =")?;
            if value.is_empty() { Some(String::new()) } else { value.strip_prefix(' ').map(str::to_owned) }
        };
        let build = value(build, "build").ok_or(MarkerError::Lines)?;
        let roles = value(roles, "roles").ok_or(MarkerError::Lines)?;
        let name = |name: &str| {
            let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            if good { Ok(name.to_owned()) } else { Err(MarkerError::Role(name.to_owned())) }
        };
        let words = roles.split(' ').filter(|_| !roles.is_empty());
        Ok(Self { build, roles: words.map(name).collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |key: &str, value: &str| format!("{key} = {value}").trim_end().to_owned();
        let roles: Vec<_> = self.roles.iter().map(String::as_str).collect();
        writeln!(f, "{}", line("build", &self.build))?;
        writeln!(f, "{}", line("roles", &roles.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Roles = Roles { onion: true, mail: true, web: true };
    const ONION: Roles = Roles { onion: true, mail: false, web: false };

    #[test]
    fn what_is_written_is_read() {
        for (marker, text) in [
            (Marker::new("abc".into(), ALL, None), "build = abc\nroles = mail onion web\n"),
            (Marker::new(String::new(), Roles::default(), None), "build =\nroles =\n"),
        ] {
            assert_eq!(marker.to_string(), text);
            assert_eq!(text.parse(), Ok(marker));
        }
    }

    #[test]
    fn roles_are_added_and_never_lost() {
        let first = Marker::new("1".into(), Roles::default(), None);
        assert!(first.covers(Roles::default()) && !first.covers(ONION));
        let second = Marker::new("2".into(), ALL, Some(&first));
        assert!(second.covers(ALL) && second.covers(ONION));
        let third = Marker::new("3".into(), Roles::default(), Some(&second));
        assert!(third.covers(ALL), "an image with fewer roles forgets none");
        let newer: Marker = "build = 9\nroles = gateway onion\n".parse().unwrap();
        let kept = Marker::new("3".into(), ALL, Some(&newer)).to_string();
        assert_eq!(kept, "build = 3\nroles = gateway mail onion web\n");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "abc\n",
            "build = a\n",
            "build = a\nroles = onion",
            "roles = onion\nbuild = a\n",
            "build = a\nroles = onion\nmore = x\n",
            "build=a\nroles=onion\n",
        ] {
            assert_eq!(text.parse::<Marker>(), Err(MarkerError::Lines), "{text:?}");
        }
        assert_eq!("build = a\nroles = Onion\n".parse::<Marker>(), Err(MarkerError::Role("Onion".into())));
        assert_eq!("build = a\nroles = a  b\n".parse::<Marker>(), Err(MarkerError::Role(String::new())));
    }
}
