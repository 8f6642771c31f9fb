//! Trees of Debian tools for the host's own architecture, unpacked and never installed.
//!
//! A tree is made by unpacking `.deb` files with `dpkg-deb -x` and adding the few links that maintainer scripts would
//! have made. So it needs no root, no chroot and a dozen seconds, and the versions of mkfs.erofs, mke2fs, GRUB, Rust
//! or QEMU do not depend on the host. Three trees exist: [`BUILDER`] makes images, [`LAB`] boots and scans them,
//! [`BROWSER`] looks at their webmail.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};

use crate::exec::{Cmd, Log, interrupted};
use crate::pool;
use crate::solve::Solution;

/// Raise when the way a tree is put together changes.
pub const CODE_VERSION: u32 = 2;

/// A kind of tools tree.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The stage's name, for logs and the store.
    pub stage: &'static str,
    /// What it holds, beside the essential packages.
    pub packages: &'static [&'static str],
    /// Links of its own that `update-alternatives` would make: (place, target). Those in folders that the tree
    /// does not have, as of another architecture, are left out.
    pub links: &'static [(&'static str, &'static str)],
}

/// What makes images: file systems, GRUB, shim, mmdebstrap, and Rust for the agent.
pub const BUILDER: Kind = Kind {
    stage: "tools",
    packages: &[
        "apt",
        "mmdebstrap",
        "mount",
        "util-linux",
        "xz-utils",
        "zstd",
        "e2fsprogs",
        "erofs-utils",
        "dosfstools",
        "grub-common",
        "grub-pc-bin",
        "grub-efi-amd64-signed",
        "shim-unsigned",
        "shim-signed",
        "shim-helpers-amd64-signed",
        "rustc-web",
        "cargo-web",
        "gcc",
        "libc6-dev",
    ],
    links: &[],
};

/// What boots and examines images: QEMU with firmware, partition and file system checkers, what a private network of
/// machines needs (DHCP, Tor), and the scanners that look at a booted machine from outside.
pub const LAB: Kind = Kind {
    stage: "lab",
    packages: &[
        "qemu-system-x86",
        "qemu-utils",
        "ovmf",
        "seabios",
        "socat",
        "zstd",
        "fdisk",
        "gdisk",
        "mtools",
        "dosfstools",
        "e2fsprogs",
        "erofs-utils",
        "iproute2",
        "dnsmasq-base",
        "tor",
        "obfs4proxy",
        "nmap",
        "openssh-client",
        "openssl",
        "util-linux",
        "mount",
        "ssh-audit",
        "testssl.sh",
        // Not run here but in a guest, which it is carried into.
        "lynis",
        // A small SSH server, to hold ssh-audit against.
        "dropbear-bin",
    ],
    // nmap's classifier wants it.
    links: &[
        ("usr/lib/x86_64-linux-gnu/libblas.so.3", "blas/libblas.so.3"),
        ("usr/lib/aarch64-linux-gnu/libblas.so.3", "blas/libblas.so.3"),
    ],
};

/// A browser and something to write with. A tree of its own, since it is the largest and most tests do without:
/// 197 MB of packages, more than twice the lab. Chromium's `headless-shell` is its smallest build.
pub const BROWSER: Kind =
    Kind { stage: "browser", packages: &["chromium-headless-shell", "fonts-dejavu-core"], links: &[] };

/// Links that `update-alternatives` or a postinst would make: (place, target). One whose target the tree lacks is
/// left out.
const LINKS: &[(&str, &str)] = &[("usr/bin/awk", "mawk"), ("usr/bin/cc", "gcc")];

/// Unpacks a solution from the pool into `tree` and makes its `links`; `progress` gets (packages done, all).
///
/// # Errors
/// A package cannot be unpacked; the message holds what dpkg-deb said.
pub fn unpack(
    solution: &Solution,
    links: &[(&str, &str)],
    pool_dir: &Utf8Path,
    tree: &Utf8Path,
    log: &Log,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<()> {
    fs_err::create_dir_all(tree)?;
    let unpack_one =
        |sha256: &str| Cmd::new("dpkg-deb").arg("-x").arg(pool::path(pool_dir, sha256)).arg(tree).run(log);
    // base-files brings the links /bin, /lib and so on: it must come before anything could make folders of them.
    let (first, rest): (Vec<_>, Vec<_>) = solution.packages.iter().partition(|p| p.name == "base-files");
    for package in &first {
        unpack_one(&package.sha256)?;
    }
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(first.len()));
    let all = solution.packages.len() as u64;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(package) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
                interrupted()?;
                unpack_one(&package.sha256)?;
                progress(done.fetch_add(1, Ordering::Relaxed) as u64 + 1, all);
            }
            Ok(())
        };
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|h| h.join().map_err(|_| anyhow!("an unpacking thread panicked"))?)
    })?;
    finish(tree, links)
}

fn finish(tree: &Utf8Path, links: &[(&str, &str)]) -> Result<()> {
    for (place, target) in LINKS.iter().chain(links) {
        let place = tree.join(place);
        let there = place.with_file_name("").join(target).exists();
        if there && place.symlink_metadata().is_err() {
            symlink(target, &place)?;
        }
    }
    let mounts = tree.join("etc/mtab");
    if mounts.symlink_metadata().is_err() && tree.join("etc").exists() {
        symlink("../proc/self/mounts", &mounts)?;
    }
    for (master, place) in [("passwd.master", "passwd"), ("group.master", "group")] {
        let master = tree.join("usr/share/base-passwd").join(master);
        if master.exists() {
            fs_err::copy(master, tree.join("etc").join(place))?;
        }
    }
    // A space is laid out on this folder; see `space`.
    fs_err::create_dir_all(tree.join("tmp"))?;
    Ok(())
}

/// The tree folder inside a stored entry.
pub fn tree_of(entry: &crate::store::Entry) -> Utf8PathBuf {
    entry.file("tree")
}
