//! What is there already: read once, before anything is decided.
//!
//! Facts hold no secret: of a key they know that it is there, not what it is.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use crate::fs::{Fs, atomic};

/// The SSH server's host key (`HostKey` in `sshd_config(5)`).
pub const SSH_HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
/// Its public half.
pub const SSH_HOST_PUBLIC_KEY: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
/// What getty shows before the login prompt (issue(5)).
pub const ISSUE: &str = "/etc/issue";

/// Folders in which the agent makes files, and so may have left temporary ones.
const FOLDERS: [&str; 2] = ["/etc", "/etc/ssh"];

/// The state of the appliance, as far as the plan depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Temporary files of an interrupted run.
    pub leftovers: Vec<Utf8PathBuf>,
    /// Whether the SSH host key is there.
    pub ssh_host_key: bool,
    /// Whether its public half is there.
    pub ssh_host_public_key: bool,
    /// The name of the machine, from `/etc/hostname`.
    pub hostname: String,
    /// The console text as it is.
    pub issue: Option<String>,
}

/// Reads all facts.
///
/// # Errors
/// When one of them cannot be read.
pub fn read(fs: &dyn Fs) -> Result<Facts> {
    let text = |path: &str| -> Result<Option<String>> {
        Ok(fs.read(Utf8Path::new(path))?.map(|b| String::from_utf8_lossy(&b).into_owned()))
    };
    let there = |path: &str| Ok::<_, anyhow::Error>(fs.entry(Utf8Path::new(path))?.is_some());
    let mut leftovers = Vec::new();
    for folder in FOLDERS.map(Utf8Path::new) {
        let names = fs.list(folder)?;
        leftovers.extend(names.iter().filter(|n| atomic::is_temporary(n)).map(|n| folder.join(n)));
    }
    Ok(Facts {
        leftovers,
        ssh_host_key: there(SSH_HOST_KEY)?,
        ssh_host_public_key: there(SSH_HOST_PUBLIC_KEY)?,
        hostname: text("/etc/hostname")?.map(|h| h.trim().to_owned()).unwrap_or_default(),
        issue: text(ISSUE)?,
    })
}
