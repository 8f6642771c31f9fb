//! The story of a build: a validated plan in, a bootable disk image out.
//!
//! | module | what it is |
//! |---|---|
//! | [`pipeline`] | the stages, in the order of the story |
//! | [`solve`], [`mirror`], [`pool`] | which packages, from where, checked: all that uses the network |
//! | [`tools`], [`space`] | Debian tools as an unpacked tree, and the namespaces they run in |
//! | [`rootfs`] | the root tree as data: strip, lay, relocate, write |
//! | [`disk`] | partitions, boot loaders and the image file |
//! | [`store`] | results by content |
//! | [`doctor`] | what the machine lacks |
//! | [`exec`] | the one place that starts processes |
//! | [`progress`] | what a person is told |
//!
//! Never: a loop device, a mount on the host, a need for root, or network after the packages are fetched.

pub mod disk;
pub mod doctor;
pub mod exec;
pub mod mirror;
pub mod pipeline;
pub mod pool;
pub mod progress;
pub mod rootfs;
pub mod solve;
pub mod space;
pub mod store;
pub mod tools;

pub use pipeline::{Builder, Image, Options};
