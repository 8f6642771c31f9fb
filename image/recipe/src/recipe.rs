//! A recipe that has been checked. It exists only if every value and every combination in the file is sound.

use std::collections::BTreeMap;

use crate::disk::Disk;
use crate::source::{Located, Source, Spot};
use crate::types::{
    Arch, Component, Firmware, KernelArg, Mirror, ModuleName, PackageName, Pocket, RecipeName,
    ReleaseVersion, StripRules, Suite, TreeName, UnitName,
};

/// One recipe, for all its architectures. [`Recipe::resolve`] makes the [`Plan`](crate::Plan) of one.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub(crate) source: Source,
    pub(crate) name: RecipeName,
    pub(crate) version: ReleaseVersion,
    pub(crate) debian: Debian,
    pub(crate) packages: Packages,
    pub(crate) hardware: BTreeMap<Arch, Hardware>,
    pub(crate) disk: Disk,
    pub(crate) trees: Vec<Located<TreeName>>,
    pub(crate) units: Units,
    pub(crate) strip: StripRules,
    pub(crate) settings: String,
    pub(crate) source_date: Option<u64>,
}

/// Where packages come from.
#[derive(Clone, Debug)]
pub(crate) struct Debian {
    pub(crate) suite: Suite,
    pub(crate) components: Vec<Component>,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) pockets: Vec<Pocket>,
    pub(crate) component_spots: Vec<Located<Component>>,
}

/// The lists of packages, with their places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packages {
    pub(crate) common: Vec<Located<PackageName>>,
    pub(crate) amd64: Vec<Located<PackageName>>,
    pub(crate) arm64: Vec<Located<PackageName>>,
    pub(crate) backports: Vec<Located<PackageName>>,
}

impl Packages {
    /// The list of one architecture, without the common one.
    pub(crate) fn of(&self, arch: Arch) -> &[Located<PackageName>] {
        match arch {
            Arch::Amd64 => &self.amd64,
            Arch::Arm64 => &self.arm64,
        }
    }
}

/// The machines of one architecture.
#[derive(Clone, Debug)]
pub(crate) struct Hardware {
    pub(crate) header: Spot,
    pub(crate) firmware: Vec<Located<Firmware>>,
    pub(crate) cmdline: Vec<KernelArg>,
    pub(crate) initramfs_modules: Vec<ModuleName>,
}

/// What systemd starts and what it never starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Units {
    pub(crate) enable: Vec<UnitName>,
    pub(crate) mask: Vec<UnitName>,
}

impl Recipe {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &RecipeName {
        &self.name
    }

    /// The version of what it builds.
    #[must_use]
    pub const fn version(&self) -> &ReleaseVersion {
        &self.version
    }

    /// The architectures it can be built for.
    pub fn architectures(&self) -> impl Iterator<Item = Arch> {
        self.hardware.keys().copied()
    }

    /// The overlay trees it names, in order, without the one of the architecture.
    pub fn trees(&self) -> impl Iterator<Item = &TreeName> {
        self.trees.iter().map(Located::value)
    }

    /// The partition sizes.
    #[must_use]
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The text it was read from.
    #[must_use]
    pub const fn source(&self) -> &Source {
        &self.source
    }
}
