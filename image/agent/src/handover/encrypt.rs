//! Encryption to the owner's keys, in the format of age(1).

use std::io::Write;

use age::{Encryptor, Recipient};
use anyhow::{Context, Result};

use crate::settings::Owner;

/// The keys to which credentials may be encrypted: recovery keys if there are any, else SSH keys.
pub(super) fn candidates(owner: &Owner) -> &[String] {
    if owner.recovery_keys.is_empty() { &owner.ssh_keys } else { &owner.recovery_keys }
}

/// The recipients among the candidates. SSH keys of kinds that age cannot encrypt to (hardware keys, ECDSA)
/// are left out.
pub(super) fn recipients(owner: &Owner) -> Vec<Box<dyn Recipient>> {
    candidates(owner).iter().filter_map(|key| recipient(key)).collect()
}

fn recipient(key: &str) -> Option<Box<dyn Recipient>> {
    if let Ok(key) = key.parse::<age::x25519::Recipient>() {
        return Some(Box::new(key));
    }
    key.parse::<age::ssh::Recipient>().ok().map(|key| Box::new(key) as Box<dyn Recipient>)
}

/// Encrypts to all of them; any one can decrypt.
pub(super) fn encrypt(recipients: &[Box<dyn Recipient>], text: &[u8]) -> Result<Vec<u8>> {
    let recipients = recipients.iter().map(|recipient| &**recipient);
    let encryptor = Encryptor::with_recipients(recipients).context("choosing the recipients")?;
    let mut encrypted = Vec::new();
    let mut writer = encryptor.wrap_output(&mut encrypted)?;
    writer.write_all(text)?;
    writer.finish()?;
    Ok(encrypted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_encrypted_to_a_recovery_key_opens_with_it() {
        let identity = age::x25519::Identity::generate();
        let owner = Owner {
            recovery_keys: vec![identity.to_public().to_string()],
            ssh_keys: vec!["ssh-ed25519 AAAA".into()],
            ..Owner::default()
        };
        let encrypted = encrypt(&recipients(&owner), b"secret words").unwrap();
        assert!(!encrypted.windows(6).any(|w| w == b"secret"));
        let decryptor = age::Decryptor::new(&encrypted[..]).unwrap();
        let mut text = String::new();
        decryptor
            .decrypt(std::iter::once(&identity as &dyn age::Identity))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "secret words");
    }

    #[test]
    fn an_ssh_key_is_a_recipient() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS ada@laptop";
        let owner = Owner { ssh_keys: vec![key.into()], ..Owner::default() };
        assert_eq!(recipients(&owner).len(), 1);
    }
}
