//! Lines of an htpasswd file, the user list of nginx's `auth_basic_user_file`.
//!
//! nginx hands the hash to crypt(3), which on Debian knows bcrypt. It computes the hash anew for **every**
//! request, images and style sheets included, while the worker waits: at cost 10 a page of the webmail with thirty
//! files would take seconds on a small machine, and whoever sends wrong passwords could keep the worker busy. So
//! the cost is 5, a few milliseconds. Nothing is lost by that, since the password is not chosen but generated:
//! its entropy ([`crate::passphrase::DEFAULT_BITS`]) makes guessing hopeless, at whatever speed.

use bcrypt::Version;
use rand_core::CryptoRng;
use thiserror::Error;

/// bcrypt cost, the binary logarithm of the number of rounds.
pub const COST: u32 = 5;
/// The longest password in bytes: bcrypt looks at 72, one of which is the NUL at the end.
pub const MAX_PASSWORD: usize = 71;

/// Why a line cannot be made or checked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HtpasswdError {
    /// The name would break the format, or HTTP basic authentication (RFC 7617 §2).
    #[error("a user name has 1 to 64 printable ASCII characters, without space and colon")]
    User,
    /// bcrypt would ignore the end of it.
    #[error("a password for the web server has 1 to {MAX_PASSWORD} bytes, this one has {got}")]
    PasswordLength {
        /// Bytes found.
        got: usize,
    },
    /// A control character, which no browser can send.
    #[error("a password for the web server has no control characters")]
    PasswordCharacter,
    /// The line is not `user:$2y$…`.
    #[error("the line is not a user name, a colon and a bcrypt hash")]
    Line,
}

/// The line for one user, without a newline: `user:$2y$05$…`.
///
/// # Errors
/// If the user name or the password cannot be used, see [`HtpasswdError`].
pub fn line<R: CryptoRng + ?Sized>(user: &str, password: &str, rng: &mut R) -> Result<String, HtpasswdError> {
    check_user(user)?;
    check_password(password)?;
    let mut salt = [0; 16];
    rng.fill_bytes(&mut salt);
    let hash = bcrypt::non_truncating_hash_with_salt(password, COST, salt)
        .map_err(|_| HtpasswdError::PasswordLength { got: password.len() })?;
    Ok(format!("{user}:{}", hash.format_for_version(Version::TwoY)))
}

/// Whether `password` is the one that `line` was made from. The time taken does not depend on where they differ.
///
/// # Errors
/// [`HtpasswdError::Line`] if the line is not one of a user with a bcrypt hash.
pub fn verify(line: &str, password: &str) -> Result<bool, HtpasswdError> {
    let (user, hash) = line.split_once(':').ok_or(HtpasswdError::Line)?;
    check_user(user).map_err(|_| HtpasswdError::Line)?;
    if check_password(password).is_err() {
        return Ok(false);
    }
    bcrypt::non_truncating_verify(password, hash).map_err(|_| HtpasswdError::Line)
}

fn check_user(user: &str) -> Result<(), HtpasswdError> {
    let fits = (1..=64).contains(&user.len()) && user.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if fits { Ok(()) } else { Err(HtpasswdError::User) }
}

fn check_password(password: &str) -> Result<(), HtpasswdError> {
    if password.contains(char::is_control) {
        return Err(HtpasswdError::PasswordCharacter);
    }
    match password.len() {
        1..=MAX_PASSWORD => Ok(()),
        got => Err(HtpasswdError::PasswordLength { got }),
    }
}
