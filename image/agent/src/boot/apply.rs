//! Carries out one action of the plan.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use camino::Utf8Path;
use data_encoding::BASE64;
use identity::client_auth::{ClientAuth, ClientName};
use identity::onion::{OnionAddress, OnionKey};
use identity::ssh::HostKey;
use identity::tls::{CertificateAuthority, Leaf};
use identity::vanity::{self, Outcome, VanityPrefix};
use identity::{dovecot, htpasswd};
use zeroize::Zeroizing;

use super::facts;
use super::marker::Marker;
use super::plan::Action;
use super::{Say, wipe_settings};
use crate::accounts::Accounts;
use crate::credentials::Credential;
use crate::fs::{Access, Fs, Replace, atomic};
use crate::image::Image;
use crate::machine::Machine;
use crate::mailboxes::{Writer, users};
use crate::onions::Onion;
use crate::paths;
use crate::pem::{KeyAndCertificate, Pair};
use crate::settings::load::Loaded;

/// How long a start may be held up by the search for a vanity prefix.
const VANITY_TIME: Duration = Duration::from_secs(180);
/// How often the search reports.
const VANITY_REPORT: Duration = Duration::from_secs(15);
/// The name of the owner's first device at the admin service.
const OWNER_DEVICE: &str = "owner";

/// Applies one action. After `Ok` its result survives a power cut.
///
/// # Errors
/// From the file system, or when an existing key cannot be parsed: it is never replaced.
pub fn apply(
    machine: &Machine<'_>,
    loaded: &Loaded,
    accounts: &Accounts,
    action: &Action,
    say: Say<'_>,
) -> Result<()> {
    let fs = machine.fs;
    match action {
        Action::RemoveLeftover(path) => remove(fs, path),
        Action::Folder(path, access) => atomic::ensure_dir(fs, path, *access),
        Action::AcceptSettings => {
            let text = loaded.text.as_ref().context("there are no settings to accept")?;
            private(fs, Utf8Path::new(paths::ACCEPTED_SETTINGS), text.as_bytes(), Replace::Allowed)
        }
        Action::WipeSettings => {
            machine.boot_partition.make_writable()?;
            wipe_settings(fs, loaded)
        }
        Action::RemoveErrors => {
            machine.boot_partition.make_writable()?;
            remove(fs, Utf8Path::new(paths::BOOT_ERRORS))
        }
        Action::SshHostKey => {
            let key = HostKey::generate(&mut **machine.rng.borrow_mut(), "cipolla")?.private_key_file()?;
            private(fs, Utf8Path::new(paths::SSH_HOST_KEY), key.as_bytes(), Replace::Never)
        }
        Action::SshHostPublicKey => ssh_host_public_key(fs),
        Action::AuthorizedKeys => {
            let keys = facts::wanted_authorized_keys(&loaded.settings).unwrap_or_default();
            private(fs, Utf8Path::new(paths::AUTHORIZED_KEYS), keys.as_bytes(), Replace::Allowed)
        }
        Action::OnionKey(onion) => onion_key(machine, loaded, accounts, *onion, say),
        Action::OnionPublicKey(onion) => {
            let key = load_onion_key(fs, *onion)?.public_key_file();
            let access = accounts.of_user("debian-tor", 0o600)?;
            atomic::put(fs, &onion.public_key(), &key, access, Replace::Allowed)
        }
        Action::OnionHostname(onion) => {
            let hostname = load_onion_key(fs, *onion)?.hostname_file();
            let access = accounts.of_user("debian-tor", 0o600)?;
            atomic::put(fs, &onion.hostname(), hostname.as_bytes(), access, Replace::Allowed)
        }
        Action::Credential(credential) => credential.make(fs, &mut **machine.rng.borrow_mut()),
        Action::AdminClient => admin_client(fs, accounts),
        Action::Issue(pair, _) => issue(machine, *pair),
        Action::Derive(pair) => derive(fs, *pair),
        Action::Mailbox => mailbox(machine, loaded),
        Action::Htpasswd => web_password(machine, loaded, accounts),
        Action::DesKey => des_key(machine, accounts),
        Action::Marker => {
            let build = Image::load(fs)?.build.unwrap_or_default();
            let marker = Marker::new(build, facts::roles(accounts), Marker::load(fs)?.as_ref());
            private(fs, Utf8Path::new(paths::MARKER), marker.to_string().as_bytes(), Replace::Allowed)
        }
    }
}

fn private(fs: &dyn Fs, path: &Utf8Path, content: &[u8], replace: Replace) -> Result<()> {
    atomic::put(fs, path, content, Access::root(0o600), replace)
}

fn remove(fs: &dyn Fs, path: &Utf8Path) -> Result<()> {
    fs.remove(path)?;
    fs.sync(atomic::parent(path))
}

fn ssh_host_public_key(fs: &dyn Fs) -> Result<()> {
    let path = paths::SSH_HOST_KEY;
    let secret = fs.read(Utf8Path::new(path))?.map(Zeroizing::new);
    let secret = secret.with_context(|| format!("deriving the public key: {path} is missing"))?;
    let text =
        std::str::from_utf8(&secret).with_context(|| format!("{path} is damaged: restore or remove it"))?;
    let key = HostKey::from_private_key_file(text)
        .with_context(|| format!("reading {path}: if it is damaged, restore it or remove it"))?;
    let public = Utf8Path::new(paths::SSH_HOST_PUBLIC_KEY);
    atomic::put(fs, public, key.public_key_file()?.as_bytes(), Access::root(0o644), Replace::Allowed)
}

fn onion_key(
    machine: &Machine<'_>,
    loaded: &Loaded,
    accounts: &Accounts,
    onion: Onion,
    say: Say<'_>,
) -> Result<()> {
    let prefix = loaded.settings.tor.vanity_prefix.as_deref().filter(|_| onion == Onion::Mx);
    let key = match prefix {
        Some(prefix) => vanity_key(machine, prefix.parse()?, say),
        None => OnionKey::generate(&mut **machine.rng.borrow_mut()),
    };
    let access = accounts.of_user("debian-tor", 0o600)?;
    atomic::put(machine.fs, &onion.secret_key(), &*key.secret_key_file(), access, Replace::Never)
}

/// Searches for a bounded time; an appliance without its prefix is better than one that does not start.
fn vanity_key(machine: &Machine<'_>, prefix: VanityPrefix, say: Say<'_>) -> OnionKey {
    let rng = &mut **machine.rng.borrow_mut();
    let (start, mut last) = (Instant::now(), Instant::now());
    let outcome = vanity::search(prefix, rng, u64::MAX, |progress| {
        if last.elapsed() >= VANITY_REPORT {
            last = Instant::now();
            say(&format!(
                "searching an address that begins with {prefix}: {} of about {} tries",
                progress.tries, progress.expected
            ));
        }
        if start.elapsed() < VANITY_TIME { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    match outcome {
        Outcome::Found { key, .. } => key,
        Outcome::Stopped { .. } => {
            say(&format!("no address that begins with {prefix} was found in time; it is a random one"));
            OnionKey::generate(rng)
        }
    }
}

fn load_onion_key(fs: &dyn Fs, onion: Onion) -> Result<OnionKey> {
    let path = onion.secret_key();
    let content = fs.read(&path)?.map(Zeroizing::new).with_context(|| format!("{path} is missing"))?;
    OnionKey::from_secret_key_file(&content)
        .with_context(|| format!("reading {path}: restore it from a backup; it is never replaced"))
}

fn admin_client(fs: &dyn Fs, accounts: &Accounts) -> Result<()> {
    let secret = Credential::Admin.require(fs)?;
    let address = Onion::Admin.address(fs)?;
    let file = Zeroizing::new(format!("{}:descriptor:x25519:{}", address.label(), *secret));
    let (_, client) = ClientAuth::parse_client_file(&file).context("reading the key to the admin service")?;
    let name: ClientName = OWNER_DEVICE.parse()?;
    let path = Onion::Admin.authorized_clients().join(name.file_name());
    let access = accounts.of_user("debian-tor", 0o600)?;
    atomic::put(fs, &path, client.public().service_file().as_bytes(), access, Replace::Allowed)
}

fn issue(machine: &Machine<'_>, pair: Pair) -> Result<()> {
    let fs = machine.fs;
    let rng = &mut **machine.rng.borrow_mut();
    let address = |onion: Onion| -> Result<[OnionAddress; 1]> { Ok([onion.address(fs)?]) };
    let (files, replace) = match pair {
        Pair::Authority => {
            let authority = CertificateAuthority::generate(&address(Onion::Client)?, machine.now, rng)?;
            let certificate = authority.certificate_pem()?;
            (KeyAndCertificate { key: authority.key_pem()?, certificate }, Replace::Never)
        }
        Pair::Mx => {
            let leaf = Leaf::self_signed(Onion::Mx.address(fs)?, machine.now, rng)?;
            let certificate = leaf.certificate_pem()?;
            (KeyAndCertificate { key: leaf.key_pem()?, certificate }, Replace::Allowed)
        }
        Pair::Client => {
            let authority = KeyAndCertificate::load(fs, Pair::Authority)?
                .with_context(|| {
                    format!("{} is damaged: restore it from a backup", Pair::Authority.source())
                })?
                .authority()?;
            let leaf = authority.issue(&address(Onion::Client)?, machine.now, rng)?;
            let certificate = leaf.certificate_pem()? + &authority.certificate_pem()?;
            (KeyAndCertificate { key: leaf.key_pem()?, certificate }, Replace::Allowed)
        }
    };
    private(fs, &pair.source(), files.text().as_bytes(), replace)
}

fn derive(fs: &dyn Fs, pair: Pair) -> Result<()> {
    let files = KeyAndCertificate::load(fs, pair)?
        .with_context(|| format!("{} is damaged: restore it from a backup", pair.source()))?;
    if let Some(path) = pair.key() {
        private(fs, &path, files.key.as_bytes(), Replace::Allowed)?;
    }
    let certificate = files.certificate.as_bytes();
    atomic::put(fs, &pair.certificate(), certificate, Access::root(0o644), Replace::Allowed)
}

fn mailbox(machine: &Machine<'_>, loaded: &Loaded) -> Result<()> {
    let writer = Writer::lock(machine)?;
    let password = Credential::Mailbox.require(machine.fs)?;
    let hash = dovecot::hash(&password, &mut **machine.rng.borrow_mut())?;
    let line = users::line(&loaded.settings.owner.mailbox, writer.domain(), &hash);
    writer.put_users(&(writer.users()? + &line))
}

fn web_password(machine: &Machine<'_>, loaded: &Loaded, accounts: &Accounts) -> Result<()> {
    let password = Credential::Web.require(machine.fs)?;
    put_htpasswd(machine, accounts, &loaded.settings.owner.mailbox, &password)
}

/// Sets the password in front of the webmail. nginx opens the file for each request (`auth_basic_user_file`), so the
/// next one meets it and nobody has to be told.
///
/// # Errors
/// When bcrypt does not take the password, or from the file system.
pub fn put_htpasswd(machine: &Machine<'_>, accounts: &Accounts, user: &str, password: &str) -> Result<()> {
    let line = htpasswd::line(user, password, &mut **machine.rng.borrow_mut())?;
    let line = format!("{}\n", line.trim_end());
    let access = accounts.of_group("www-data", 0o640)?;
    atomic::put(machine.fs, Utf8Path::new(paths::HTPASSWD), line.as_bytes(), access, Replace::Allowed)
}

/// 24 characters, as Roundcube's default cipher wants them (AES-256 takes them too).
fn des_key(machine: &Machine<'_>, accounts: &Accounts) -> Result<()> {
    let mut random = Zeroizing::new([0; 18]);
    machine.rng.borrow_mut().fill_bytes(&mut *random);
    let key = Zeroizing::new(BASE64.encode(&*random));
    let access = accounts.of_group("roundcube", 0o640)?;
    atomic::put(machine.fs, Utf8Path::new(paths::DES_KEY), key.as_bytes(), access, Replace::Never)
}
