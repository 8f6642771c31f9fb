//! The appliance's own program, `cipolla`.
//!
//! The image is public and the same for everybody. Whatever makes one appliance different from another is
//! made here, on the device: the layout of the data partition ([`initrd`]), keys and identity ([`boot`]).
//! The story of every start is *read facts → plan → apply*; the plan is data, a second run plans nothing.
//!
//! **Architecture invariants.** All changes to files go through [`fs::Fs`], so that tests can cut the power
//! at every step. Every path is a path of the appliance (`/etc/…`), resolved below one root folder. The
//! agent never depends on the builder, never opens a network connection and never replaces a key that is
//! already there.

pub mod boot;
pub mod cli;
pub mod fs;
pub mod image;
pub mod initrd;
