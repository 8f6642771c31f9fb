//! What a build of one architecture needs, with nothing left to decide.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::disk::Disk;
use crate::overlay::{Entry, Overlay};
use crate::recipe::Recipe;
use crate::suggest;
use crate::types::{
    Arch, Component, Firmware, KernelArg, Mirror, ModuleName, PackageName, Pocket, RecipeName,
    ReleaseVersion, StripRules, Suite, UnitName,
};

/// The plan of one image.
#[derive(Clone, Debug)]
pub struct Plan {
    name: RecipeName,
    version: ReleaseVersion,
    arch: Arch,
    suite: Suite,
    components: Vec<Component>,
    pockets: Vec<Pocket>,
    mirror: Option<Mirror>,
    packages: Vec<PackageName>,
    backports_packages: Vec<PackageName>,
    kernel_package: PackageName,
    firmware: Vec<Firmware>,
    cmdline: Vec<KernelArg>,
    initramfs_modules: Vec<ModuleName>,
    disk: Disk,
    overlay: Overlay,
    units_enable: Vec<UnitName>,
    units_mask: Vec<UnitName>,
    strip: StripRules,
    settings: String,
    source_date: Option<u64>,
}

impl Recipe {
    /// The plan for one architecture.
    ///
    /// # Errors
    /// If the recipe has no such architecture, or the overlay was read for another one.
    pub fn resolve(&self, arch: Arch, overlay: Overlay) -> Result<Plan, Diagnostics> {
        if overlay.arch() != arch {
            let message = format!("overlay of {} given for {arch}", overlay.arch());
            return Err(Diagnostic::error(message).help("load the overlay for the same architecture").into());
        }
        let Some(hardware) = self.hardware.get(&arch) else {
            return Err(self.lacks(arch).into());
        };
        let list = self.packages.of(arch);
        let named = self.packages.common.iter().chain(list);
        let mut packages: Vec<PackageName> = named.map(|package| package.value.clone()).collect();
        packages.sort();
        let backports = self.packages.backports.iter().map(|package| &package.value);
        let mut backports: Vec<PackageName> =
            backports.filter(|name| packages.contains(name)).cloned().collect();
        backports.sort();
        let kernel = list.iter().find(|package| package.value.is_kernel());
        let kernel = kernel.expect("a recipe has one kernel for each of its architectures");
        Ok(Plan {
            name: self.name.clone(),
            version: self.version.clone(),
            arch,
            suite: self.debian.suite,
            components: sorted(&self.debian.components),
            pockets: sorted(&self.debian.pockets),
            mirror: self.debian.mirror.clone(),
            packages,
            backports_packages: backports,
            kernel_package: kernel.value.clone(),
            firmware: sorted(&hardware.firmware.iter().map(|firmware| firmware.value).collect::<Vec<_>>()),
            cmdline: hardware.cmdline.clone(),
            initramfs_modules: hardware.initramfs_modules.clone(),
            disk: self.disk.clone(),
            overlay,
            units_enable: sorted(&self.units.enable),
            units_mask: sorted(&self.units.mask),
            strip: self.strip.clone(),
            settings: self.settings.clone(),
            source_date: self.source_date,
        })
    }

    /// The finding that the recipe has no such architecture, if that is so.
    pub(crate) fn check_arch(&self, arch: Arch) -> Option<Diagnostic> {
        (!self.hardware.contains_key(&arch)).then(|| self.lacks(arch))
    }

    fn lacks(&self, arch: Arch) -> Diagnostic {
        let finding = Diagnostic::error(format!("recipe `{}` cannot be built for {arch}", self.name));
        let finding = match self
            .hardware
            .values()
            .map(|hardware| &hardware.header)
            .max_by_key(|spot| spot.span.start)
        {
            Some(last) => finding.at(last.clone(), format!("no [hardware.{arch}] here or elsewhere")),
            None => finding,
        };
        let there = suggest::listing(self.architectures().map(Arch::as_str));
        finding.help(format!(
            "it can be built for {there}; or add a table [hardware.{arch}] and a kernel to `packages.{arch}`"
        ))
    }
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}

impl Plan {
    /// The recipe's name.
    #[must_use]
    pub const fn name(&self) -> &RecipeName {
        &self.name
    }

    /// The image's version.
    #[must_use]
    pub const fn version(&self) -> &ReleaseVersion {
        &self.version
    }

    /// The architecture.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.arch
    }

    /// What the image's files are called, without extension: `cipolla-NAME-VERSION-ARCH`.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!("cipolla-{}-{}-{}", self.name, self.version, self.arch)
    }

    /// The Debian release.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The archive areas, sorted, with main.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// The pockets beside the release itself, sorted.
    #[must_use]
    pub fn pockets(&self) -> &[Pocket] {
        &self.pockets
    }

    /// The mirror that the recipe insists on.
    #[must_use]
    pub const fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    /// All packages to install, sorted, the kernel among them.
    #[must_use]
    pub fn packages(&self) -> &[PackageName] {
        &self.packages
    }

    /// Those of [`Self::packages`] that are taken from backports, sorted.
    #[must_use]
    pub fn backports_packages(&self) -> &[PackageName] {
        &self.backports_packages
    }

    /// The one kernel among [`Self::packages`].
    #[must_use]
    pub const fn kernel_package(&self) -> &PackageName {
        &self.kernel_package
    }

    /// What the image boots with, sorted, at least one.
    #[must_use]
    pub fn firmware(&self) -> &[Firmware] {
        &self.firmware
    }

    /// The recipe's kernel arguments, in its order.
    #[must_use]
    pub fn cmdline(&self) -> &[KernelArg] {
        &self.cmdline
    }

    /// Kernel modules for the initramfs, in the recipe's order.
    #[must_use]
    pub fn initramfs_modules(&self) -> &[ModuleName] {
        &self.initramfs_modules
    }

    /// Partition sizes; [`Disk::check_capacity`] compares them with measured content.
    #[must_use]
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What is laid into the root file system, sorted by target path: a folder comes before what it holds.
    #[must_use]
    pub fn overlay_entries(&self) -> &[Entry] {
        &self.overlay.root
    }

    /// What is laid into the initramfs, sorted likewise, targets relative to its root.
    #[must_use]
    pub fn initramfs_overlay(&self) -> &[Entry] {
        &self.overlay.initramfs
    }

    /// Units to enable, sorted.
    #[must_use]
    pub fn units_enable(&self) -> &[UnitName] {
        &self.units_enable
    }

    /// Units to mask, sorted.
    #[must_use]
    pub fn units_mask(&self) -> &[UnitName] {
        &self.units_mask
    }

    /// What packages bring and the image leaves out.
    #[must_use]
    pub const fn strip(&self) -> &StripRules {
        &self.strip
    }

    /// The appliance's default settings as a TOML document; empty if the recipe has none.
    #[must_use]
    pub fn settings_toml(&self) -> &str {
        &self.settings
    }

    /// The newest time a file of the image may carry, in seconds since 1970, if the recipe fixes it.
    #[must_use]
    pub const fn source_date(&self) -> Option<u64> {
        self.source_date
    }
}
