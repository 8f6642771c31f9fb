//! The rootfs stage: the bootstrap's tar and the overlay become the image's root, as one sorted tar.
//!
//! Pure Rust over the tar stream: no chroot, no unpacking, no root. Only the index is held in memory.

pub mod accounts;
pub mod edit;
pub mod tree;
pub mod write;
