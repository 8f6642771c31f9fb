//! What the owner can do, one module per noun. Each takes a [`crate::machine::Machine`] and returns data; the
//! command line prints it.

pub mod access;
pub mod alias;
pub mod bans;
pub mod block;
pub mod clock;
pub mod credentials;
pub mod digest;
pub mod failures;
pub mod list;
pub mod queue;
pub mod renew;
pub mod selftest;
pub mod services;
pub mod settings;
pub mod status;
pub mod user;
pub mod verify;
pub mod watch;
pub mod webmail;

use zeroize::Zeroizing;

/// Serializes a new password for the one who asked for it.
fn in_clear<S: serde::Serializer>(
    secret: &Option<Zeroizing<String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_some(secret.as_str()),
        None => serializer.serialize_none(),
    }
}
