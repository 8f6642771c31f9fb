//! Overlay trees: files laid over what Debian brings.
//!
//! `overlay/TREE/…` mirrors `/`: `overlay/common/etc/hosts` becomes `/etc/hosts`. Trees are laid in the order of
//! the recipe, the one named after the architecture last.
//!
//! - `initramfs/` at the top of a tree is not laid into the root file system: it mirrors the root of the
//!   initramfs.
//! - Files, folders and symbolic links; links are laid down as links and never followed.
//! - Names are UTF-8. What editors leave behind, sockets, fifos and devices are refused.
//! - Secrets are refused: private keys, `/etc/shadow`, `/etc/machine-id`, SSH host keys. Every appliance makes
//!   its own.
//! - Places that Debian has as links (`/bin`, `/lib`, …) or that exist at run time only (`/proc`, `/run`, …) are
//!   refused.
//! - The same file in two trees is an error, unless the owner table allows the later one to win.
//! - Owners and modes come from the owner table ([`crate::owners`]), never from the checkout.
//!
//! [`Overlay::load`] reads the trees; what is decided about them is decided on the listing, without I/O.

mod check;
mod walk;

use camino::{Utf8Path, Utf8PathBuf};

use crate::diagnostic::Diagnostics;
use crate::owners::Mode;
use crate::recipe::Recipe;
use crate::source::Located;
use crate::types::{Arch, TreeName, UserName};

/// The overlay of one architecture, checked.
#[derive(Clone, Debug)]
pub struct Overlay {
    pub(crate) arch: Arch,
    pub(crate) root: Vec<Entry>,
    pub(crate) initramfs: Vec<Entry>,
}

/// One file, folder or link to lay down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) target: String,
    pub(crate) source: Utf8PathBuf,
    pub(crate) kind: Kind,
    pub(crate) user: UserName,
    pub(crate) group: UserName,
    pub(crate) mode: Mode,
    pub(crate) is_explicit: bool,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File {
        /// Bytes, when the tree was read.
        size: u64,
    },
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink {
        /// What it points to, as it stands.
        target: String,
    },
}

impl Entry {
    /// Where it goes: absolute (`/etc/hosts`) for the root file system, relative (`etc/hosts`) for the initramfs.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Where it comes from: the path below the overlay folder as that was given.
    #[must_use]
    pub fn source(&self) -> &Utf8Path {
        &self.source
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Its owner, a name in the image's passwd.
    #[must_use]
    pub const fn user(&self) -> &UserName {
        &self.user
    }

    /// Its group, a name in the image's group file.
    #[must_use]
    pub const fn group(&self) -> &UserName {
        &self.group
    }

    /// Its mode; [`Mode::SYMLINK`] for links.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether this is a folder and a rule more specific than `/**` gives it user, group or mode. A folder that
    /// Debian brings too keeps Debian's owner and mode unless this is true.
    #[must_use]
    pub const fn explicit(&self) -> bool {
        self.is_explicit
    }
}

impl Overlay {
    /// Reads the trees that `recipe` names, and that of `arch` if it exists, with `overlay_dir/owners.toml`.
    ///
    /// # Errors
    /// Every problem of trees and owner table, at once.
    pub fn load(overlay_dir: &Utf8Path, recipe: &Recipe, arch: Arch) -> Result<Self, Diagnostics> {
        let mut findings = Diagnostics::new();
        let overlay = Self::read(overlay_dir, &recipe.trees, arch, &mut findings);
        findings.or(overlay)
    }

    pub(crate) fn read(
        overlay_dir: &Utf8Path,
        trees: &[Located<TreeName>],
        arch: Arch,
        findings: &mut Diagnostics,
    ) -> Option<Self> {
        let listing = walk::walk(overlay_dir, trees, arch, findings);
        findings.extend(check::misplaced(&listing));
        let mut of_owners = Diagnostics::new();
        let owners = walk::owners(overlay_dir, &mut of_owners);
        let is_sound = !of_owners.has_errors();
        findings.append(of_owners);
        let owners = owners?;
        let laid = check::lay(&listing, &owners, findings);
        // A rule that was refused leaves paths without owner: reporting those would hide the cause.
        is_sound.then(|| check::own(laid, &owners, arch, findings))
    }

    /// The architecture it was read for.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.arch
    }
}
