//! The appliance's own program, `cipolla`.
//!
//! The image is public and the same for everybody. Whatever makes one appliance different from another is
//! made here, on the device: the layout of the data partition ([`initrd`]), identity and keys ([`boot`]),
//! configuration ([`render`]), and what the owner gets to know ([`handover`]). The story of every start is
//! *read facts → plan → apply*; the plan is data, a second run plans nothing.
//!
//! **Architecture invariants.** All changes to files of a running appliance go through [`fs::Fs`], so that
//! tests can cut the power at every step. Every path is a path of the appliance (`/etc/…`), resolved below one
//! root folder. The agent never depends on the builder, opens no connection beyond the machine (the watch
//! reaches its own service through Tor's socket, as any client of Tor would) and never replaces a key that is
//! already there. No secret is an argument of a program, a line in the journal, or a file in clear on the boot
//! partition.

pub mod access_check;
pub mod accounts;
pub mod boot;
pub mod boot_partition;
pub mod cli;
pub mod commands;
pub mod credentials;
pub mod fs;
pub mod handover;
pub mod image;
pub mod initrd;
pub mod machine;
pub mod mailboxes;
pub mod onions;
pub mod paths;
pub mod pem;
pub mod programs;
pub mod render;
pub mod serve;
pub mod settings;
pub mod tor_control;
