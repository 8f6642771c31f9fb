//! What is to be done, decided from facts alone.
//!
//! Pure: no clock, no randomness, no file. An action names what it makes; the secret itself comes into being
//! when the action is applied.

use std::fmt;

use camino::Utf8PathBuf;

use super::facts::{Facts, ISSUE, SSH_HOST_KEY, SSH_HOST_PUBLIC_KEY};

/// One step that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Remove a temporary file of an interrupted run; it may hold part of a secret.
    RemoveLeftover(Utf8PathBuf),
    /// Make the SSH host key.
    SshHostKey,
    /// Derive the public half of the SSH host key.
    SshHostPublicKey,
    /// Write the text above the login prompt.
    Issue(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveLeftover(path) => write!(f, "remove {path}, left by an interrupted run"),
            Self::SshHostKey => write!(f, "make the SSH host key {SSH_HOST_KEY}"),
            Self::SshHostPublicKey => write!(f, "derive {SSH_HOST_PUBLIC_KEY}"),
            Self::Issue(_) => write!(f, "write the console text {ISSUE}"),
        }
    }
}

/// Actions in the order in which they are applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    actions: Vec<Action>,
}

impl Plan {
    /// The actions in order; none if nothing is to be done.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }
}

/// Decides.
#[must_use]
pub fn make(facts: &Facts) -> Plan {
    let mut actions: Vec<_> = facts.leftovers.iter().cloned().map(Action::RemoveLeftover).collect();
    if !facts.ssh_host_key {
        actions.push(Action::SshHostKey);
    }
    // A public half without its key belongs to nothing: it is derived again.
    if !facts.ssh_host_key || !facts.ssh_host_public_key {
        actions.push(Action::SshHostPublicKey);
    }
    let issue = issue(&facts.hostname);
    if facts.issue.as_deref() != Some(issue.as_str()) {
        actions.push(Action::Issue(issue));
    }
    Plan { actions }
}

/// The text above the login prompt; `\l` is agetty's name of the terminal.
fn issue(hostname: &str) -> String {
    format!("Cipolla: {hostname} \\l\n\nThis appliance has no onion address yet.\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_appliance_has_nothing_to_do() {
        let facts = Facts {
            ssh_host_key: true,
            ssh_host_public_key: true,
            hostname: "cipolla".into(),
            issue: Some(issue("cipolla")),
            ..Facts::default()
        };
        assert_eq!(make(&facts), Plan::default());
    }

    #[test]
    fn a_key_is_made_only_if_there_is_none() {
        let facts = Facts { ssh_host_key: true, ..Facts::default() };
        assert!(!make(&facts).actions().contains(&Action::SshHostKey));
        assert!(make(&facts).actions().contains(&Action::SshHostPublicKey));
    }
}
