//! The recipe file, key by key. This page is the reference.
//!
//! A recipe is one TOML file in UTF-8. A key that is not named here is an error, so that a slip of the keyboard
//! never passes in silence.
//!
//! ```toml
#![doc = include_str!("example.toml")]
//! ```
//!
//! # Top level
//!
//! | key | | |
//! |---|---|---|
//! | `schema` | required | integer; this version reads 1. A file of another schema is not judged further |
//! | `name` | required | names the image: lower case letters, digits, single hyphens, at most 32 ([`RecipeName`](crate::types::RecipeName)) |
//! | `version` | required | version of the image, `MAJOR.MINOR.PATCH` or with `-PRERELEASE` ([`ReleaseVersion`](crate::types::ReleaseVersion)) |
//!
//! The image is called `cipolla-NAME-VERSION-ARCH`.
//!
//! # `[debian]` (required): where packages come from
//!
//! | key | | |
//! |---|---|---|
//! | `suite` | required | `trixie`. Names that move, like `stable`, are refused |
//! | `components` | required | out of `main`, `contrib`, `non-free`, `non-free-firmware`; `main` is always needed |
//! | `pockets` | optional | out of `updates`, `security`, `backports`. Default: updates and security, and backports if `packages.backports` names something |
//! | `mirror` | optional | `http`, `https` or `file` address without login. Default: what the building machine uses |
//!
//! # `[packages]` (required): what is installed
//!
//! Recommended packages are not installed: what is wanted is named. Names are those of Debian Policy 5.6.1,
//! without version (the lock file pins them), suite or architecture. No name stands twice in what one
//! architecture gets.
//!
//! | key | | |
//! |---|---|---|
//! | `common` | required | for every architecture; no kernel |
//! | `amd64`, `arm64` | optional | added for that architecture; exactly one `linux-image-…` each |
//! | `backports` | optional | which of the packages in the other lists are taken from backports |
//!
//! # `[hardware.amd64]`, `[hardware.arm64]`: which machines
//!
//! At least one. An architecture without its table cannot be built from the recipe. The kernel is the
//! `linux-image-…` package in the list of the architecture.
//!
//! | key | | |
//! |---|---|---|
//! | `firmware` | required | amd64: `bios`, `uefi`; arm64: `uefi`, `raspberrypi` (needs the component `non-free-firmware`) |
//! | `cmdline` | optional | kernel arguments, one string each, in order; what the boot stages need (`root=` and the like) is added by the build |
//! | `initramfs_modules` | optional | kernel modules that are there before the root file system, spelt with `_` |
//!
//! # `[disk]` (required): sizes
//!
//! Strings like `512MiB` or `1GiB` (powers of 1024), multiples of 1 MiB.
//!
//! | key | | |
//! |---|---|---|
//! | `boot` | required | FAT32 boot partition, at least 64 MiB: both slots' kernels live there |
//! | `root` | required | one root partition, at least 64 MiB. The second one is made on the device with the same size |
//! | `data` | required | data partition as shipped, at least 16 MiB; it grows on the device |
//!
//! # `[overlay]`: files laid over what Debian brings
//!
//! | key | | |
//! |---|---|---|
//! | `trees` | optional | folders of the overlay folder, laid in this order; the tree named after the architecture, if there is one, comes last by itself |
//!
//! See [`crate::overlay`] for what a tree may hold and [`crate::owners`] for who owns it.
//!
//! # `[units]`: systemd
//!
//! | key | | |
//! |---|---|---|
//! | `enable` | optional | units started at boot, with their type (`ssh.service`); a template needs its instance |
//! | `mask` | optional | units that must never start; not also enabled |
//!
//! # `[strip]`: what packages bring and the image leaves out
//!
//! Globs over absolute paths ([`Glob`](crate::types::Glob)). They apply to what packages bring, never to the
//! overlay. [`StripRules`](crate::types::StripRules) has the exact meaning.
//!
//! | key | | |
//! |---|---|---|
//! | `paths` | optional | left out, with everything below |
//! | `keep` | optional | stays nevertheless, with everything below and the folders above |
//!
//! # `[settings]`: defaults of the appliance
//!
//! Free-form here: the agent checks it by its own schema. The owner's settings win over it.
//!
//! # `[release]`
//!
//! | key | | |
//! |---|---|---|
//! | `source_date` | optional | the newest time that any file of the image carries: a TOML date-time with offset, or seconds since 1970; not before 1980. Default: the build decides |

mod read;
mod rules;

pub(crate) use read::read;

/// The schema this version reads.
pub const VERSION: i64 = 1;
