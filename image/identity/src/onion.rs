//! Version 3 onion services: the address that people see and the key files that Tor reads.
//!
//! Tor keeps a service in a folder with three files: `hs_ed25519_secret_key`, `hs_ed25519_public_key` and
//! `hostname`. [`OnionKey`] gives the exact content of each; Tor then loads them instead of making its own.

mod address;
mod key;

pub use address::{AddressError, OnionAddress, is_valid_v3};
pub use key::{KeyFileError, OnionKey};
