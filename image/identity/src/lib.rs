//! Everything that makes one appliance different from the next: its onion services, certificates, host keys,
//! passwords and names.
//!
//! Each function computes one thing from what it is given and returns it. Randomness comes in as a generator,
//! time as an argument, text as `&str`; what leaves is the exact content of a file or a decision about one.
//!
//! **Invariant:** nothing here reads or writes a file, starts a process, asks for the time or draws on a global
//! source of randomness. The same inputs give the same bytes, on every architecture.
//!
//! **Secrets** live on the heap in memory that is wiped when it is dropped, implement neither `Clone` nor
//! `Display`, and print as `…` under `Debug`. A function that must hand out a secret as text or bytes returns
//! [`zeroize::Zeroizing`]; whoever takes it out of there answers for it.

pub mod client_auth;
pub mod dovecot;
mod ed25519;
pub mod htpasswd;
pub mod machine_id;
pub mod mailbox;
pub mod onion;
pub mod passphrase;
pub mod policy;
pub mod ssh;
pub mod tls;
pub mod vanity;

pub use rand_core;
