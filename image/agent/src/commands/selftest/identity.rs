//! Keys, who may read them, and certificates.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use identity::onion::OnionKey;
use identity::tls::{self, Renewal};
use zeroize::Zeroizing;

use super::{Ground, Outcome};
use crate::access_check;
use crate::commands::digest::first_certificate;
use crate::credentials::Credential;
use crate::fs::{Fs, Kind};
use crate::onions::Onion;
use crate::paths;
use crate::pem::{KeyAndCertificate, Pair};

pub(super) fn folders(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let fs = ground.machine.fs;
    let (folder, file) =
        (ground.accounts.of_user("debian-tor", 0o700)?, ground.accounts.of_user("debian-tor", 0o600)?);
    let mut wrong = Vec::new();
    for onion in Onion::ALL {
        for (path, access) in
            [(onion.dir(), folder), (onion.authorized_clients(), folder), (onion.secret_key(), file)]
        {
            match fs.entry(&path)? {
                None => wrong.push(format!("{path} is missing")),
                Some(entry) if !entry.has(access) => {
                    wrong.push(format!("{path} has mode {:o}, or another owner than debian-tor", entry.mode));
                }
                Some(_) => {}
            }
        }
    }
    Ok(Outcome::of(wrong))
}

pub(super) fn keys(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let fs = ground.machine.fs;
    let mut wrong = Vec::new();
    for onion in Onion::ALL {
        let read = |path: Utf8PathBuf| fs.read(&path)?.with_context(|| format!("{path} is missing"));
        let secret = Zeroizing::new(read(onion.secret_key())?);
        let key = OnionKey::from_secret_key_file(&secret)
            .with_context(|| format!("reading {}", onion.secret_key()))?;
        if read(onion.public_key())? != key.public_key_file() {
            wrong.push(format!("{} does not belong to the secret key", onion.public_key()));
        }
        if read(onion.hostname())? != key.hostname_file().as_bytes() {
            wrong.push(format!("{} is not the address of the secret key", onion.hostname()));
        }
    }
    Ok(Outcome::of(wrong))
}

pub(super) fn authorization(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let verified = access_check::verify(ground.machine.fs);
    Ok(verified.map_or_else(|error| Outcome::Failed(vec![format!("{error:#}")]), |()| Outcome::Passed))
}

/// What others may read below [`paths::STATE`]: certificates, and tables of addresses for daemons.
fn is_public(path: &Utf8Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    if path.starts_with(paths::TLS) {
        return path.extension() == Some("crt");
    }
    path.parent() == Some(Utf8Path::new(paths::MAIL)) && path != paths::USERS && !name.starts_with('.')
}

pub(super) fn secrets(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut wrong = readable(ground.machine.fs, Utf8Path::new(paths::STATE))?;
    wrong.extend(readable(ground.machine.fs, Utf8Path::new("/var/lib/tor"))?);
    wrong.extend(readable(ground.machine.fs, Utf8Path::new("/root"))?);
    Ok(Outcome::of(wrong))
}

/// Files that others can reach and read, and that are not public.
fn readable(fs: &dyn Fs, top: &Utf8Path) -> Result<Vec<String>> {
    const READ: u32 = 0o004;
    const ENTER: u32 = 0o001;
    let mut found = Vec::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        // Behind a closed door, nothing can be read whatever its mode.
        if fs.entry(&folder)?.is_none_or(|entry| entry.mode & ENTER == 0) {
            continue;
        }
        for name in fs.list(&folder)? {
            let path = folder.join(name);
            let Some(entry) = fs.entry(&path)? else { continue };
            match entry.kind {
                Kind::Directory => folders.push(path),
                Kind::File if entry.mode & READ != 0 && !is_public(&path) => {
                    found.push(format!("{path} can be read by everybody (mode {:o})", entry.mode));
                }
                Kind::File | Kind::Other => {}
            }
        }
    }
    Ok(found)
}

fn certificate(ground: &Ground<'_, '_>, pair: Pair) -> Result<Vec<u8>> {
    let path = pair.certificate();
    let content = ground.machine.fs.read(&path)?.with_context(|| format!("{path} is missing"))?;
    first_certificate(&String::from_utf8_lossy(&content))
        .with_context(|| format!("{path} holds no certificate"))
}

/// The newest lines of the journal that are looked at: all of them, before the owner has taken the credentials.
const LINES: &str = "--lines=100000";

/// The credentials that the owner has not taken yet. Those that were taken are not known here any more.
fn waiting(ground: &Ground<'_, '_>) -> Result<Vec<(Credential, Zeroizing<String>)>> {
    let mut waiting = Vec::new();
    for credential in Credential::ALL {
        waiting.extend(credential.load(ground.machine.fs)?.map(|secret| (credential, secret)));
    }
    Ok(waiting)
}

/// Which credentials stand in a text of this name.
fn told(waiting: &[(Credential, Zeroizing<String>)], name: &str, text: &str) -> Vec<String> {
    let stands = waiting.iter().filter(|(_, secret)| text.contains(secret.trim()));
    stands.map(|(credential, _)| format!("{credential} stands in {name}")).collect()
}

pub(super) fn journal(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let waiting = waiting(ground)?;
    if waiting.is_empty() {
        return Ok(Outcome::skipped("the credentials are not kept any more"));
    }
    let text = Zeroizing::new(ground.ask(&["journalctl", "-q", "--no-pager", "-o", "cat", LINES])?);
    if text.lines().count() < 100 {
        return Ok(Outcome::Unknown("the journal is next to empty".into()));
    }
    Ok(Outcome::of(told(&waiting, "the journal", &text)))
}

/// The boot partition can be read by whoever holds the disk. (The console shows the credentials until they are taken.)
pub(super) fn welcome(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.machine.boot_partition.is_there() {
        return Ok(Outcome::Unknown("the boot partition cannot be mounted".into()));
    }
    let waiting = waiting(ground)?;
    let mut wrong = Vec::new();
    for path in [paths::BOOT_WELCOME, paths::BOOT_SETTINGS, paths::BOOT_ERRORS] {
        let Some(content) = ground.machine.fs.read(Utf8Path::new(path))?.map(Zeroizing::new) else {
            continue;
        };
        let text = String::from_utf8_lossy(&content);
        wrong.extend(told(&waiting, path, &text));
        if text.contains("PRIVATE KEY-----") {
            wrong.push(format!("{path} holds a private key"));
        }
    }
    if ground.machine.fs.entry(Utf8Path::new(paths::BOOT_WELCOME))?.is_none() {
        wrong.push(format!("{} is missing", paths::BOOT_WELCOME));
    }
    Ok(Outcome::of(wrong))
}

/// The authority that owners import can vouch for the one name that their programs connect to.
pub(super) fn authority(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let fs = ground.machine.fs;
    let pair = KeyAndCertificate::load(fs, Pair::Authority)?
        .with_context(|| format!("{} is missing or damaged", Pair::Authority.source()))?;
    let client = Onion::Client.address(fs)?;
    let permitted = pair.authority()?.permitted().to_vec();
    if permitted == [client] {
        return Ok(Outcome::Passed);
    }
    let names: Vec<_> = permitted.iter().map(ToString::to_string).collect();
    Ok(Outcome::Failed(vec![format!("the authority can vouch for {}", names.join(", "))]))
}

pub(super) fn certificates(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for (pair, onion) in [(Pair::Mx, Onion::Mx), (Pair::Client, Onion::Client)] {
        let names = tls::names(&certificate(ground, pair)?)?;
        let address = onion.address(ground.machine.fs)?;
        if names != [address] {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            wrong.push(format!("the certificate of {onion} names {}", names.join(", ")));
        }
    }
    // The unlisted address must not stand in what port 25 shows to strangers.
    let shown = ground.machine.fs.read(&Pair::Mx.certificate())?.unwrap_or_default();
    if String::from_utf8_lossy(&shown).matches("BEGIN CERTIFICATE").count() != 1 {
        wrong.push("the certificate of mx comes with others, which may name the client service".into());
    }
    Ok(Outcome::of(wrong))
}

pub(super) fn validity(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for pair in [Pair::Mx, Pair::Client] {
        match tls::renewal(ground.machine.now, &certificate(ground, pair)?)? {
            Renewal::Fine { .. } | Renewal::Due => {}
            Renewal::Expired => wrong.push(format!("{} has expired", pair.certificate())),
            Renewal::NotYetValid => wrong.push(format!("{} is not valid yet", pair.certificate())),
        }
    }
    Ok(Outcome::of(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Access, RealFs};

    #[test]
    fn certificates_and_tables_are_public_and_nothing_else() {
        let public = |path: &str| is_public(Utf8Path::new(path));
        assert!(public("/var/lib/cipolla/tls/mx.crt") && public("/var/lib/cipolla/mail/senders.lmdb"));
        for secret in [
            "/var/lib/cipolla/tls/mx.key",
            "/var/lib/cipolla/mail/users",
            "/var/lib/cipolla/web/htpasswd",
            "/var/lib/cipolla/private/ca.pem",
            "/var/lib/tor/mx/hs_ed25519_secret_key",
        ] {
            assert!(!public(secret), "{secret}");
        }
    }

    #[test]
    fn a_credential_is_found_in_a_text() {
        let waiting = [(Credential::Web, Zeroizing::new("three soft onions\n".to_owned()))];
        assert_eq!(told(&waiting, "x", "nothing"), [""; 0]);
        let wrong = told(&waiting, "x", "it is three soft onions.");
        assert_eq!(wrong, ["the password in front of the webmail stands in x"]);
    }

    #[test]
    fn what_lies_behind_a_closed_door_is_not_readable() {
        let dir = tempfile::tempdir().unwrap();
        let fs = RealFs::open(Utf8Path::from_path(dir.path()).unwrap()).unwrap();
        let access = |mode| {
            let stat = std::fs::metadata(dir.path()).unwrap();
            use std::os::unix::fs::MetadataExt as _;
            Access { mode, owner: crate::fs::Owner { uid: stat.uid(), gid: stat.gid() } }
        };
        for (folder, mode) in [("/top", 0o711), ("/top/open", 0o755), ("/top/closed", 0o700)] {
            fs.mkdir(Utf8Path::new(folder), access(mode)).unwrap();
        }
        for (file, mode) in [("/top/open/key", 0o644), ("/top/open/safe", 0o640), ("/top/closed/key", 0o644)]
        {
            fs.create(Utf8Path::new(file), b"", access(mode)).unwrap();
        }
        let found = readable(&fs, Utf8Path::new("/top")).unwrap();
        assert_eq!(found, ["/top/open/key can be read by everybody (mode 644)"]);
    }
}
