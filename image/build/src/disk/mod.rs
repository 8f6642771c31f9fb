//! Everything between "the parts exist as files" and "a raw disk image".
//!
//! | module | what it decides or writes |
//! |---|---|
//! | [`ids`] | every identifier of the disk, derived from the recipe's name and architecture |
//! | [`layout`] | where each partition lies; pure |
//! | [`mbr`], [`gpt`] | the partition tables |
//! | [`bios`] | where GRUB's boot code goes on a machine with a BIOS; pure |
//! | [`fat`] | the boot partition's file system |
//! | [`cpio`] | the second initramfs |
//! | [`grubenv`], [`slots`] | the state GRUB keeps between boots, and what it decides from it; pure |
//! | [`grub`] | the text files that make GRUB decide so |
//! | [`assemble`] | the image file itself |
//!
//! Never: a loop device, a mount, a need for root, a partition held in memory, the clock, randomness. The same
//! input gives the same bytes.

pub mod assemble;
pub mod bios;
pub mod cpio;
pub mod fat;
pub mod gpt;
pub mod grub;
pub mod grubenv;
pub mod ids;
pub mod layout;
pub mod mbr;
pub mod slots;
