//! What is there already: read once, before anything is decided.
//!
//! Facts hold no secret: of a key they know that it is there, not what it is.

use std::collections::BTreeMap;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use identity::onion::OnionAddress;
use identity::tls::{self, Renewal};

use super::marker::Marker;
use crate::accounts::Accounts;
use crate::credentials::Credential;
use crate::fs::{Access, Fs, Kind, atomic};
use crate::machine::Machine;
use crate::mailboxes::users;
use crate::onions::Onion;
use crate::paths;
use crate::pem::{KeyAndCertificate, Pair};
use crate::settings::Settings;
use crate::settings::load::{Loaded, Origin};

/// What the image is for, seen from the accounts that its packages made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    /// It has Tor.
    pub onion: bool,
    /// It has Postfix and Dovecot.
    pub mail: bool,
    /// It has the webmail.
    pub web: bool,
}

impl Roles {
    /// The names of those that the image has, as the [marker](super::marker) writes them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [(self.mail, "mail"), (self.onion, "onion"), (self.web, "web")];
        all.into_iter().filter_map(|(has, name)| has.then_some(name))
    }
}

/// One onion service's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnionFacts {
    /// The secret key is there.
    pub secret_key: bool,
    /// The public key is there and belongs to a valid address.
    pub address: Option<OnionAddress>,
    /// The hostname file holds that address.
    pub hostname: bool,
}

/// A pair of key and certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairFacts {
    /// What the certificate needs; `None` if there is none, or it is for other addresses than ours.
    pub state: Option<Renewal>,
    /// The derived files are those of the pair.
    pub derived: bool,
}

/// The state of the appliance, as far as the plan depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// What the image is for.
    pub roles: Roles,
    /// The identity was complete once, for these roles.
    pub marker: Option<Marker>,
    /// Temporary files of an interrupted run.
    pub leftovers: Vec<Utf8PathBuf>,
    /// Folders that are missing or have another owner or mode, parents first.
    pub folders: Vec<(Utf8PathBuf, Access)>,
    /// Settings came from the boot partition or as a credential and differ from the accepted ones.
    pub new_settings: bool,
    /// The boot partition still holds settings, accepted now or before.
    pub settings_on_boot_partition: bool,
    /// The boot partition still holds an explanation of errors.
    pub errors_on_boot_partition: bool,
    /// The SSH host key is there.
    pub ssh_host_key: bool,
    /// Its public half is there.
    pub ssh_host_public_key: bool,
    /// `authorized_keys` is what the settings want.
    pub authorized_keys: bool,
    /// The onion services.
    pub onions: BTreeMap<Onion, OnionFacts>,
    /// Key pairs.
    pub pairs: BTreeMap<Pair, Option<PairFacts>>,
    /// Credentials that wait for the owner.
    pub credentials: Vec<Credential>,
    /// The admin service knows a client.
    pub admin_client: bool,
    /// The first mailbox is there.
    pub mailbox: bool,
    /// The password in front of the webmail is set.
    pub htpasswd: bool,
    /// Roundcube's session key is there.
    pub des_key: bool,
}

/// What the roles of an image follow from.
#[must_use]
pub fn roles(accounts: &Accounts) -> Roles {
    Roles {
        onion: accounts.has_user("debian-tor"),
        mail: accounts.has_user("postfix") && accounts.has_group("dovecot"),
        web: accounts.has_group("www-data") && accounts.has_group("roundcube"),
    }
}

/// The folders of the agent's files, parents first.
fn folders(roles: Roles, accounts: &Accounts, ssh: bool) -> Result<Vec<(Utf8PathBuf, Access)>> {
    let mut folders: Vec<(Utf8PathBuf, Access)> =
        [(paths::STATE, 0o711), (paths::PRIVATE, 0o700), (paths::CREDENTIALS, 0o700), (paths::TLS, 0o755)]
            .map(|(path, mode)| (path.into(), Access::root(mode)))
            .into();
    if roles.mail {
        folders.push((paths::MAIL.into(), Access::root(0o755)));
    }
    if roles.web {
        folders.push((paths::WEB.into(), Access::root(0o755)));
    }
    if roles.onion {
        let access = accounts.of_user("debian-tor", 0o700)?;
        for onion in Onion::ALL {
            folders.push((onion.dir(), access));
            folders.push((onion.authorized_clients(), access));
        }
    }
    if ssh {
        folders.push((atomic::parent(Utf8Path::new(paths::AUTHORIZED_KEYS)).into(), Access::root(0o700)));
    }
    Ok(folders)
}

/// Reads all facts.
///
/// # Errors
/// When one of them cannot be read, or a name that must be a folder is something else.
pub fn read(machine: &Machine<'_>, loaded: &Loaded, accounts: &Accounts) -> Result<Facts> {
    let fs = machine.fs;
    let roles = roles(accounts);
    let there = |path: &Utf8Path| Ok::<_, anyhow::Error>(fs.entry(path)?.is_some());
    let file = |path: &str| there(Utf8Path::new(path));
    let folders = folders(roles, accounts, !loaded.settings.owner.ssh_keys.is_empty())?;
    let mut facts = Facts {
        roles,
        marker: Marker::load(fs)?,
        leftovers: leftovers(fs, &folders)?,
        new_settings: new_settings(fs, loaded)?,
        settings_on_boot_partition: loaded.origin == Origin::BootPartition || file(paths::BOOT_WIPING)?,
        errors_on_boot_partition: file(paths::BOOT_ERRORS)?,
        ssh_host_key: file(paths::SSH_HOST_KEY)?,
        ssh_host_public_key: file(paths::SSH_HOST_PUBLIC_KEY)?,
        authorized_keys: authorized_keys(fs, &loaded.settings)?,
        ..Facts::default()
    };
    for (path, access) in folders {
        match fs.entry(&path)? {
            Some(entry) if entry.kind != Kind::Directory => {
                anyhow::bail!(
                    "{path} is not a folder: something else has its name; move it away and start again"
                )
            }
            Some(entry) if entry.has(access) => {}
            _ => facts.folders.push((path, access)),
        }
    }
    for credential in Credential::ALL {
        if there(&credential.path())? {
            facts.credentials.push(credential);
        }
    }
    if roles.onion {
        for onion in Onion::ALL {
            facts.onions.insert(onion, onion_facts(fs, onion)?);
        }
        let clients = fs.list(&Onion::Admin.authorized_clients())?;
        facts.admin_client =
            clients.iter().any(|name| name.ends_with(".auth") && !atomic::is_temporary(name));
        for pair in [Pair::Authority, Pair::Mx, Pair::Client] {
            facts.pairs.insert(pair, pair_facts(machine, pair, &facts.onions)?);
        }
    }
    if roles.mail {
        mail(machine, loaded, &mut facts)?;
    }
    if roles.web {
        facts.htpasswd = file(paths::HTPASSWD)?;
        facts.des_key = file(paths::DES_KEY)?;
    }
    Ok(facts)
}

fn mail(machine: &Machine<'_>, loaded: &Loaded, facts: &mut Facts) -> Result<()> {
    let Some(address) = facts.onions.get(&Onion::Mx).and_then(|onion| onion.address) else { return Ok(()) };
    let (owner, domain) = (&loaded.settings.owner.mailbox, address.to_string());
    facts.mailbox = users::locals(&users::load(machine.fs)?, &domain).contains(owner);
    Ok(())
}

fn leftovers(fs: &dyn Fs, folders: &[(Utf8PathBuf, Access)]) -> Result<Vec<Utf8PathBuf>> {
    let mut leftovers = Vec::new();
    let others = ["/etc/ssh", "/root/.ssh"].map(Utf8Path::new);
    for folder in folders.iter().map(|(path, _)| path.as_path()).chain(others) {
        let names = fs.list(folder)?;
        leftovers
            .extend(names.iter().filter(|name| atomic::is_temporary(name)).map(|name| folder.join(name)));
    }
    leftovers.dedup();
    Ok(leftovers)
}

fn new_settings(fs: &dyn Fs, loaded: &Loaded) -> Result<bool> {
    let accepted = fs.read(Utf8Path::new(paths::ACCEPTED_SETTINGS))?.map(zeroize::Zeroizing::new);
    Ok(match (&loaded.text, accepted) {
        (Some(text), Some(accepted)) => text.as_bytes() != accepted.as_slice(),
        (Some(_), None) => true,
        (None, _) => false,
    })
}

/// The content of `authorized_keys` that the settings want; without keys in them, the file is not ours.
#[must_use]
pub(crate) fn wanted_authorized_keys(settings: &Settings) -> Option<String> {
    let keys = &settings.owner.ssh_keys;
    (!keys.is_empty()).then(|| keys.iter().map(|key| format!("{key}\n")).collect())
}

fn authorized_keys(fs: &dyn Fs, settings: &Settings) -> Result<bool> {
    let Some(wanted) = wanted_authorized_keys(settings) else { return Ok(true) };
    Ok(fs.read(Utf8Path::new(paths::AUTHORIZED_KEYS))?.as_deref() == Some(wanted.as_bytes()))
}

fn onion_facts(fs: &dyn Fs, onion: Onion) -> Result<OnionFacts> {
    let public = fs.read(&onion.public_key())?;
    let address = public.and_then(|content| OnionAddress::from_public_key_file(&content).ok());
    let hostname = fs.read(&onion.hostname())?;
    Ok(OnionFacts {
        secret_key: fs.entry(&onion.secret_key())?.is_some(),
        address,
        hostname: address.is_some_and(|a| hostname.as_deref() == Some(format!("{a}\n").as_bytes())),
    })
}

fn pair_facts(
    machine: &Machine<'_>,
    pair: Pair,
    onions: &BTreeMap<Onion, OnionFacts>,
) -> Result<Option<PairFacts>> {
    let Some(files) = KeyAndCertificate::load(machine.fs, pair)? else { return Ok(None) };
    let same = |path: &Utf8Path, wanted: &str| {
        let content = machine.fs.read(path)?.map(zeroize::Zeroizing::new);
        Ok::<_, anyhow::Error>(content.is_some_and(|content| content.as_slice() == wanted.as_bytes()))
    };
    let key = pair.key().map_or(Ok(true), |path| same(&path, &files.key))?;
    let derived = key && same(&pair.certificate(), &files.certificate)?;
    let onion = if pair == Pair::Mx { Onion::Mx } else { Onion::Client };
    let ours = onions.get(&onion).and_then(|facts| facts.address);
    let state = match pair {
        // An authority is replaced by the owner's decision only: every device has imported it.
        Pair::Authority => Some(Renewal::Fine { days_left: 0 }),
        Pair::Mx | Pair::Client => files.leaf().ok().and_then(|leaf| {
            let names = tls::names(leaf.certificate_der()).ok()?;
            (ours.is_some_and(|address| names == [address]))
                .then(|| tls::renewal(machine.now, leaf.certificate_der()).ok())?
        }),
    };
    Ok(Some(PairFacts { state, derived }))
}
