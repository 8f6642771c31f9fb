//! Carries out one action of the plan.

use anyhow::{Context, Result};
use camino::Utf8Path;
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};

use super::facts::{ISSUE, SSH_HOST_KEY, SSH_HOST_PUBLIC_KEY};
use super::plan::Action;
use crate::fs::{Access, Fs, Replace, atomic};

/// Applies one action. After `Ok` its result survives a power cut.
///
/// # Errors
/// From the file system, or when an existing key cannot be parsed: it is never replaced.
pub fn apply(fs: &dyn Fs, action: &Action) -> Result<()> {
    match action {
        Action::RemoveLeftover(path) => {
            fs.remove(path)?;
            fs.sync(atomic::parent(path))
        }
        Action::SshHostKey => ssh_host_key(fs),
        Action::SshHostPublicKey => ssh_host_public_key(fs),
        Action::Issue(text) => {
            atomic::put(fs, Utf8Path::new(ISSUE), text.as_bytes(), Access::root(0o644), Replace::Allowed)
        }
    }
}

fn ssh_host_key(fs: &dyn Fs) -> Result<()> {
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).context("making the SSH host key")?;
    let text = key.to_openssh(LineEnding::LF).context("encoding the SSH host key")?;
    atomic::put(fs, Utf8Path::new(SSH_HOST_KEY), text.as_bytes(), Access::root(0o600), Replace::Never)
}

fn ssh_host_public_key(fs: &dyn Fs) -> Result<()> {
    let secret = fs
        .read(Utf8Path::new(SSH_HOST_KEY))?
        .with_context(|| format!("deriving the public key: {SSH_HOST_KEY} is missing"))?;
    let key = PrivateKey::from_openssh(&secret)
        .with_context(|| format!("reading {SSH_HOST_KEY}: if it is damaged, restore it or remove it"))?;
    let mut text = key.public_key().to_openssh().context("encoding the SSH host key's public half")?;
    text.push('\n');
    let path = Utf8Path::new(SSH_HOST_PUBLIC_KEY);
    atomic::put(fs, path, text.as_bytes(), Access::root(0o644), Replace::Allowed)
}
