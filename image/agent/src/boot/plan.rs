//! What is to be done, decided from facts alone.
//!
//! Pure: no clock, no randomness, no file. An action names what it makes; the secret itself comes into being
//! when the action is applied.

use std::fmt;

use anyhow::{Result, bail};
use camino::Utf8PathBuf;
use identity::tls::Renewal;

use super::facts::{Facts, OnionFacts, Roles};
use crate::credentials::Credential;
use crate::fs::Access;
use crate::onions::Onion;
use crate::paths;
use crate::pem::Pair;

/// One step that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Remove a temporary file of an interrupted run; it may hold part of a secret.
    RemoveLeftover(Utf8PathBuf),
    /// Make a folder, or correct its owner and mode.
    Folder(Utf8PathBuf, Access),
    /// Keep the settings on the data partition.
    AcceptSettings,
    /// Overwrite and remove the settings on the boot partition.
    WipeSettings,
    /// Remove the explanation of errors that are no more.
    RemoveErrors,
    /// Make the SSH host key.
    SshHostKey,
    /// Derive the public half of the SSH host key.
    SshHostPublicKey,
    /// Write the owner's SSH keys.
    AuthorizedKeys,
    /// Make the secret key of an onion service.
    OnionKey(Onion),
    /// Derive the public key of an onion service.
    OnionPublicKey(Onion),
    /// Derive the address of an onion service.
    OnionHostname(Onion),
    /// Make a secret for the owner.
    Credential(Credential),
    /// Let the owner's key in at the admin service.
    AdminClient,
    /// Make a key and its certificate.
    Issue(Pair, &'static str),
    /// Derive the files for servers from a key and its certificate.
    Derive(Pair),
    /// Make the first mailbox.
    Mailbox,
    /// Set the password in front of the webmail.
    Htpasswd,
    /// Make Roundcube's session key.
    DesKey,
    /// Say that the identity is complete. Comes last.
    Marker,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveLeftover(path) => write!(f, "remove {path}, left by an interrupted run"),
            Self::Folder(path, access) => write!(f, "make the folder {path} with mode {:04o}", access.mode),
            Self::AcceptSettings => write!(f, "accept the settings"),
            Self::WipeSettings => write!(f, "wipe the settings from the boot partition"),
            Self::RemoveErrors => write!(f, "remove ERRORS.txt from the boot partition"),
            Self::SshHostKey => write!(f, "make the SSH host key"),
            Self::SshHostPublicKey => write!(f, "derive {}", paths::SSH_HOST_PUBLIC_KEY),
            Self::AuthorizedKeys => write!(f, "write the owner's SSH keys to {}", paths::AUTHORIZED_KEYS),
            Self::OnionKey(onion) => write!(f, "make the key of the onion service {onion}"),
            Self::OnionPublicKey(onion) => write!(f, "derive the public key of the onion service {onion}"),
            Self::OnionHostname(onion) => write!(f, "derive the address of the onion service {onion}"),
            Self::Credential(credential) => write!(f, "make {credential}"),
            Self::AdminClient => write!(f, "let the owner in at the admin service"),
            Self::Issue(Pair::Authority, why) => write!(f, "make the certificate authority: {why}"),
            Self::Issue(pair, why) => write!(f, "make the certificate for {}: {why}", pair.name()),
            Self::Derive(pair) => write!(f, "write the files of the certificate {}", pair.name()),
            Self::Mailbox => write!(f, "make the first mailbox"),
            Self::Htpasswd => write!(f, "set the password in front of the webmail"),
            Self::DesKey => write!(f, "make the webmail's session key"),
            Self::Marker => write!(f, "mark the identity as complete"),
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

    /// Whether the identity is incomplete until the plan is applied.
    #[must_use]
    pub fn completes_identity(&self) -> bool {
        self.actions
            .iter()
            .any(|a| matches!(a, Action::Marker | Action::OnionPublicKey(_) | Action::Derive(_)))
    }
}

/// Decides.
///
/// # Errors
/// When the identity of a role was complete once and a key of it is gone. A new one would silently make the
/// appliance another one.
pub fn make(facts: &Facts) -> Result<Plan> {
    refuse_lost_keys(facts)?;
    let mut actions: Vec<_> = facts.leftovers.iter().cloned().map(Action::RemoveLeftover).collect();
    actions.extend(facts.folders.iter().map(|(path, access)| Action::Folder(path.clone(), *access)));
    let mut when = |condition: bool, action: Action| {
        if condition {
            actions.push(action);
        }
    };
    when(facts.new_settings, Action::AcceptSettings);
    // Only what has been accepted is wiped.
    when(facts.settings_on_boot_partition, Action::WipeSettings);
    when(facts.errors_on_boot_partition, Action::RemoveErrors);
    when(!facts.ssh_host_key, Action::SshHostKey);
    // A public half without its key belongs to nothing: it is derived again.
    when(!facts.ssh_host_key || !facts.ssh_host_public_key, Action::SshHostPublicKey);
    when(!facts.authorized_keys, Action::AuthorizedKeys);
    for (onion, OnionFacts { secret_key, address, hostname }) in &facts.onions {
        let public = !secret_key || address.is_none();
        when(!secret_key, Action::OnionKey(*onion));
        when(public, Action::OnionPublicKey(*onion));
        when(public || !hostname, Action::OnionHostname(*onion));
    }
    let waiting = |credential: Credential| facts.credentials.contains(&credential);
    if facts.roles.onion {
        when(!facts.admin_client && !waiting(Credential::Admin), Action::Credential(Credential::Admin));
        when(!facts.admin_client, Action::AdminClient);
    }
    actions.extend(certificates(facts));
    let mut when = |condition: bool, action: Action| {
        if condition {
            actions.push(action);
        }
    };
    if facts.roles.mail {
        when(!facts.mailbox && !waiting(Credential::Mailbox), Action::Credential(Credential::Mailbox));
        when(!facts.mailbox, Action::Mailbox);
    }
    if facts.roles.web {
        when(!facts.htpasswd && !waiting(Credential::Web), Action::Credential(Credential::Web));
        when(!facts.htpasswd, Action::Htpasswd);
        when(!facts.des_key, Action::DesKey);
    }
    when(!facts.marker.as_ref().is_some_and(|marker| marker.covers(facts.roles)), Action::Marker);
    Ok(Plan { actions })
}

/// What a running appliance may do by itself: make those certificates of servers anew that are due.
///
/// # Errors
/// When the identity was never complete, or a key of it is gone: that is for the next start, which the owner sees.
pub fn renewal(facts: &Facts) -> Result<Plan> {
    if !facts.marker.as_ref().is_some_and(|marker| marker.covers(facts.roles)) {
        bail!("the identity is not complete; start the appliance again");
    }
    refuse_lost_keys(facts)?;
    Ok(Plan { actions: certificates(facts) })
}

/// Certificates that have to be made, and the files that follow from them.
fn certificates(facts: &Facts) -> Vec<Action> {
    let mut actions = Vec::new();
    let new_authority = facts.pairs.get(&Pair::Authority).is_some_and(Option::is_none);
    for (pair, known) in &facts.pairs {
        let issue = match known {
            None => Some("there is none"),
            Some(_) if *pair == Pair::Client && new_authority => Some("the authority is new"),
            Some(known) => reason(known.state),
        };
        actions.extend(issue.map(|why| Action::Issue(*pair, why)));
        let derive = issue.is_some() || known.is_some_and(|known| !known.derived);
        actions.extend(derive.then_some(Action::Derive(*pair)));
    }
    actions
}

/// Why a server's certificate has to be made; `None` if it is fine.
fn reason(state: Option<Renewal>) -> Option<&'static str> {
    match state {
        Some(Renewal::Fine { .. }) => None,
        Some(Renewal::Due) => Some("the old one expires soon"),
        Some(Renewal::Expired) => Some("the old one has expired"),
        Some(Renewal::NotYetValid) => Some("the old one was made while the clock was ahead"),
        None => Some("the old one is damaged or names another address"),
    }
}

fn refuse_lost_keys(facts: &Facts) -> Result<()> {
    let Some(marker) = &facts.marker else { return Ok(()) };
    let mut lost: Vec<String> = Vec::new();
    // A role that is new in this image has nothing to lose yet.
    if marker.covers(Roles { onion: true, ..Roles::default() }) {
        let gone = facts.onions.iter().filter(|(_, known)| !known.secret_key);
        lost.extend(gone.map(|(onion, _)| onion.secret_key().into_string()));
        if facts.pairs.get(&Pair::Authority).is_some_and(Option::is_none) {
            lost.push(Pair::Authority.source().into_string());
        }
    }
    if !facts.ssh_host_key {
        lost.push(paths::SSH_HOST_KEY.to_owned());
    }
    if lost.is_empty() {
        return Ok(());
    }
    bail!(
        "this appliance had a complete identity, and now lacks {}. Making new keys would change its addresses. \
         Restore the files from a backup; or, to begin anew on purpose, remove {} and start again",
        lost.join(", "),
        paths::MARKER
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::facts::PairFacts;
    use crate::boot::marker::Marker;

    const ALL: Roles = Roles { onion: true, mail: true, web: true };

    fn complete() -> Facts {
        Facts {
            roles: ALL,
            marker: Some(Marker::new(String::new(), ALL, None)),
            ssh_host_key: true,
            ssh_host_public_key: true,
            authorized_keys: true,
            onions: Onion::ALL
                .map(|onion| {
                    let address = identity::onion::OnionKey::from_seed(&[1; 32]).address();
                    (onion, OnionFacts { secret_key: true, address: Some(address), hostname: true })
                })
                .into(),
            pairs: [Pair::Authority, Pair::Mx, Pair::Client]
                .map(|pair| {
                    (pair, Some(PairFacts { state: Some(Renewal::Fine { days_left: 99 }), derived: true }))
                })
                .into(),
            admin_client: true,
            mailbox: true,
            htpasswd: true,
            des_key: true,
            ..Facts::default()
        }
    }

    #[test]
    fn a_complete_appliance_has_nothing_to_do() {
        assert_eq!(make(&complete()).unwrap(), Plan::default());
    }

    #[test]
    fn a_lost_key_is_not_replaced() {
        let mut facts = complete();
        facts.onions.insert(Onion::Mx, OnionFacts::default());
        let error = make(&facts).unwrap_err().to_string();
        assert!(error.contains("/var/lib/tor/mx/hs_ed25519_secret_key"), "{error}");
    }

    #[test]
    fn a_lost_derived_file_is_derived_again() {
        let mut facts = complete();
        facts.onions.entry(Onion::Mx).or_default().hostname = false;
        facts.ssh_host_public_key = false;
        let plan = make(&facts).unwrap();
        assert_eq!(plan.actions(), [Action::SshHostPublicKey, Action::OnionHostname(Onion::Mx)]);
    }

    #[test]
    fn a_certificate_that_expires_soon_is_renewed() {
        let mut facts = complete();
        facts.pairs.insert(Pair::Client, Some(PairFacts { state: Some(Renewal::Due), derived: true }));
        let plan = make(&facts).unwrap();
        assert_eq!(
            plan.actions(),
            [Action::Issue(Pair::Client, "the old one expires soon"), Action::Derive(Pair::Client)]
        );
    }

    #[test]
    fn a_running_appliance_renews_certificates_and_nothing_else() {
        let mut facts = complete();
        facts.pairs.insert(Pair::Mx, Some(PairFacts { state: Some(Renewal::NotYetValid), derived: true }));
        facts.onions.entry(Onion::Mx).or_default().hostname = false;
        let why = "the old one was made while the clock was ahead";
        assert_eq!(
            renewal(&facts).unwrap().actions(),
            [Action::Issue(Pair::Mx, why), Action::Derive(Pair::Mx)]
        );
        assert_eq!(renewal(&complete()).unwrap(), Plan::default());
        facts.pairs.insert(Pair::Authority, None);
        assert!(renewal(&facts).unwrap_err().to_string().contains("Restore the files"));
        assert!(renewal(&Facts { marker: None, ..complete() }).is_err());
    }

    #[test]
    fn a_secret_that_waits_is_used_not_replaced() {
        let mut facts = complete();
        facts.mailbox = false;
        facts.credentials = vec![Credential::Mailbox];
        assert_eq!(make(&facts).unwrap().actions(), [Action::Mailbox]);
    }

    #[test]
    fn the_marker_is_last() {
        let facts = Facts { roles: ALL, ..Facts::default() };
        assert_eq!(make(&facts).unwrap().actions().last(), Some(&Action::Marker));
    }

    #[test]
    fn a_role_that_a_later_image_adds_is_completed() {
        let mut facts = complete();
        facts.marker = Some(Marker::new(String::new(), Roles::default(), None));
        facts.onions = Onion::ALL.map(|onion| (onion, OnionFacts::default())).into();
        facts.pairs = [Pair::Authority, Pair::Mx, Pair::Client].map(|pair| (pair, None)).into();
        let plan = make(&facts).unwrap();
        assert!(plan.actions().contains(&Action::OnionKey(Onion::Mx)));
        assert_eq!(plan.actions().last(), Some(&Action::Marker));
        // What the marker does cover is still not made anew.
        facts.ssh_host_key = false;
        assert!(make(&facts).unwrap_err().to_string().contains(paths::SSH_HOST_KEY));
    }

    #[test]
    fn a_role_that_a_later_image_lacks_changes_nothing() {
        let mut facts = complete();
        facts.roles = Roles::default();
        facts.onions.clear();
        facts.pairs.clear();
        assert_eq!(make(&facts).unwrap(), Plan::default());
    }
}
