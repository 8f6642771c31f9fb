//! The sizes of an image's partitions, and whether what goes into them fits.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::Located;
use crate::types::ByteSize;

/// Partitions start and end on MiB.
pub(crate) const ALIGNMENT: ByteSize = ByteSize::from_bytes(1 << 20);
/// New sizes are proposed in these steps.
const STEP: ByteSize = ByteSize::from_bytes(64 << 20);
/// Free share of a partition below which a warning is due, in percent.
const SPARE_PERCENT: u64 = 10;

/// Sizes of the partitions that a recipe decides on.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(crate) boot: Located<ByteSize>,
    pub(crate) root: Located<ByteSize>,
    pub(crate) data: Located<ByteSize>,
}

/// Measured sizes, in bytes, of what goes into the partitions: what the file systems need, their own
/// structures included. Boot counts both slots' folders.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContentSizes {
    /// Needed on the boot partition.
    pub boot: u64,
    /// Needed on a root partition.
    pub root: u64,
    /// Needed on the data partition before it grows.
    pub data: u64,
}

impl Disk {
    /// The FAT partition, shared by both slots.
    #[must_use]
    pub const fn boot(&self) -> ByteSize {
        self.boot.value
    }

    /// One root partition; the second one has the same size.
    #[must_use]
    pub const fn root(&self) -> ByteSize {
        self.root.value
    }

    /// The data partition as it ships, before it grows.
    #[must_use]
    pub const fn data(&self) -> ByteSize {
        self.data.value
    }

    /// Compares measured content with the sizes of the recipe: an error for each partition that is too small,
    /// pointing at its size; a warning for boot and root when later releases, which must fit into the
    /// partitions of disks in use, have little room left.
    #[must_use]
    pub fn check_capacity(&self, content: ContentSizes) -> Diagnostics {
        let mut findings = Diagnostics::new();
        let parts = [
            ("boot", &self.boot, content.boot, true),
            ("root", &self.root, content.root, true),
            ("data", &self.data, content.data, false),
        ];
        for (name, size, needed, is_fixed_later) in parts {
            findings.extend(check_part(name, size, needed, is_fixed_later));
        }
        findings.sort();
        findings
    }
}

fn check_part(name: &str, size: &Located<ByteSize>, needed: u64, is_fixed_later: bool) -> Option<Diagnostic> {
    let capacity = size.value.bytes();
    let spare = capacity / 100 * SPARE_PERCENT;
    let fit = |bytes: u64| ByteSize::from_bytes(bytes).round_up(STEP);
    if needed > capacity {
        let label = format!("its content needs {}", in_mib(needed));
        return Some(
            Diagnostic::error(format!("{name} partition too small for its content"))
                .at(size.spot.clone(), label)
                .help(format!("write `{name} = \"{}\"`", fit(needed))),
        );
    }
    if !is_fixed_later || capacity - needed >= spare {
        return None;
    }
    let label = format!("{} of it in use, {} free", in_mib(needed), in_mib(capacity - needed));
    let roomy = fit(needed.saturating_add(needed / 100 * SPARE_PERCENT * 2));
    Some(
        Diagnostic::warning(format!("{name} partition nearly full"))
            .at(size.spot.clone(), label)
            .note("later releases must fit into the same partition on disks that are in use")
            .help(format!("write `{name} = \"{roomy}\"` while no disk is in use")),
    )
}

/// A measured size as people compare it: MiB, rounded up.
fn in_mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
