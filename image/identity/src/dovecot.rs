//! Password hashes for Dovecot's user list, in the scheme `ARGON2ID`.
//!
//! **Parameters.** 19 MiB of memory, two passes, one lane: the smallest setting that OWASP recommends. The
//! smallest machine, a Raspberry Pi Zero 2 W, has 512 MB for everything, and Dovecot checks several passwords at
//! a time: four at 19 MiB are 76 MiB, four at the more usual 64 MiB would push the mail queue out of memory. Two
//! passes take some tenths of a second there, once per login. One lane because libsodium, which checks the hash
//! inside Dovecot, knows no other number.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error as HashError, PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use rand_core::CryptoRng;
use thiserror::Error;

/// Memory for one hash, in KiB.
pub const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over the memory.
pub const PASSES: u32 = 2;
/// Lanes that could be computed side by side.
pub const LANES: u32 = 1;
/// Bytes of the longest password: far beyond what a person types, short enough to bound the work.
pub const MAX_PASSWORD: usize = 512;

/// What Dovecot writes before the hash to name its scheme.
const SCHEME: &str = "{ARGON2ID}";
/// Passes that [`verify`] is willing to compute.
const MAX_PASSES: u32 = 16;
/// Memory that [`verify`] is willing to use, in KiB.
const MAX_MEMORY_KIB: u32 = 256 * 1024;

/// Why a hash cannot be made or checked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DovecotError {
    /// Empty or too long.
    #[error("a mailbox password has 1 to {MAX_PASSWORD} bytes, this one has {got}")]
    PasswordLength {
        /// Bytes found.
        got: usize,
    },
    /// A control character; NUL separates the fields of a login (RFC 4616), so it can never be sent.
    #[error("a mailbox password has no control characters")]
    PasswordCharacter,
    /// Not a hash of this scheme.
    #[error("the hash does not read {SCHEME}$argon2id$v=19$…")]
    Format,
    /// A hash that would take all memory, or hours, to check.
    #[error(
        "the hash asks for {memory_kib} KiB and {passes} passes; more than {MAX_MEMORY_KIB} KiB or \
         {MAX_PASSES} passes are refused"
    )]
    TooCostly {
        /// Memory that the hash names, in KiB.
        memory_kib: u32,
        /// Passes that the hash names.
        passes: u32,
    },
    /// Not enough memory to compute the hash.
    #[error("computing a password hash needs {MEMORY_KIB} KiB of free memory")]
    OutOfMemory,
}

/// The hash of a password for the second field of a passwd-file:
/// `{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
///
/// # Errors
/// If the password cannot be used, or the memory for the hash is lacking.
pub fn hash<R: CryptoRng + ?Sized>(password: &str, rng: &mut R) -> Result<String, DovecotError> {
    check_password(password)?;
    let mut salt = [0; 16];
    rng.fill_bytes(&mut salt);
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| DovecotError::OutOfMemory)?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|_| DovecotError::OutOfMemory)?;
    Ok(format!("{SCHEME}{hash}"))
}

/// Whether `password` is the one that `hash` was made from. The time taken does not depend on where they differ.
///
/// # Errors
/// If the hash is of another form, or would cost more than a login may.
pub fn verify(hash: &str, password: &str) -> Result<bool, DovecotError> {
    let phc = hash.strip_prefix(SCHEME).ok_or(DovecotError::Format)?;
    let parsed = PasswordHash::new(phc).map_err(|_| DovecotError::Format)?;
    let params = Params::try_from(&parsed).map_err(|_| DovecotError::Format)?;
    let current = parsed.version == Some(Version::V0x13.into());
    if parsed.algorithm.as_str() != "argon2id" || !current || parsed.hash.is_none() {
        return Err(DovecotError::Format);
    }
    let (memory_kib, passes) = (params.m_cost(), params.t_cost());
    if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES {
        return Err(DovecotError::TooCostly { memory_kib, passes });
    }
    if check_password(password).is_err() {
        return Ok(false);
    }
    match Argon2::default().verify_password(password.as_bytes(), &parsed) {
        Ok(()) => Ok(true),
        Err(HashError::PasswordInvalid) => Ok(false),
        Err(_) => Err(DovecotError::OutOfMemory),
    }
}

fn check_password(password: &str) -> Result<(), DovecotError> {
    if password.contains(char::is_control) {
        return Err(DovecotError::PasswordCharacter);
    }
    match password.len() {
        1..=MAX_PASSWORD => Ok(()),
        got => Err(DovecotError::PasswordLength { got }),
    }
}
