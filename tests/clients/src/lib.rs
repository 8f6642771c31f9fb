//! Clients of an appliance's services, as thin as tests want them.
//!
//! A mail program hides what a test has to see: the exact reply, the refused command, the half-sent message.
//! So these clients speak lines and leave the dialogue to the test.
//!
//! ```text
//! Door (a Tor's SOCKS socket) → Channel (bytes, with a deadline; TLS if wanted) → Talk (lines) → Smtp, Imap
//!                                                                              → get (HTTP), Passage (SSH)
//! ```
//!
//! Everything blocks, and everything ends at a deadline. Nothing here opens a network connection of this
//! computer: the way to Tor is a Unix socket, and Tor is in the lab.

mod channel;
mod http;
mod imap;
mod smtp;
mod socks;
mod ssh;
mod talk;
mod tls;

pub use channel::{Channel, Wire};
pub use http::{Page, get, post};
pub use imap::{Answer, Imap};
pub use smtp::{Reply, Smtp};
pub use socks::{Door, Refused};
pub use ssh::Passage;
pub use talk::Talk;
pub use tls::Trust;
