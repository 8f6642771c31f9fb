//! What must hold between the values of a recipe: combinations that no machine or archive can serve.

use crate::diagnostic::Diagnostic;
use crate::reader::{Reader, Table};
use crate::recipe::{Debian, Hardware, Packages};
use crate::source::Located;
use crate::types::{Arch, Component, Firmware, PackageName, Pocket, UnitName};

pub(super) fn components(reader: &mut Reader<'_>, components: &[Located<Component>]) {
    let Some(first) = components.first() else { return };
    if !components.iter().any(|component| component.value == Component::Main) {
        reader.push(
            Diagnostic::error("the component `main` is missing")
                .at(first.spot.clone(), "not enough: every package here needs packages of main")
                .help("add `\"main\"` to `debian.components`"),
        );
    }
}

pub(super) fn pockets(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    pockets: &[Located<Pocket>],
    has_backports: bool,
) {
    if !has_backports || pockets.iter().any(|pocket| pocket.value == Pocket::Backports) {
        return;
    }
    let spot = pockets.last().map_or_else(|| table.spot(reader), |pocket| pocket.spot.clone());
    reader.push(
        Diagnostic::error("`packages.backports` names packages, `debian.pockets` has no backports")
            .at(spot, "backports is not here")
            .help("add `\"backports\"` to `debian.pockets`, or leave `pockets` out"),
    );
}

pub(super) fn packages(reader: &mut Reader<'_>, packages: &Packages) {
    reader.refuse_duplicates(&packages.common, &packages.amd64);
    reader.refuse_duplicates(&packages.common, &packages.arm64);
    for kernel in packages.common.iter().filter(|package| package.value.is_kernel()) {
        reader.push(
            Diagnostic::error(format!("kernel `{}` in `packages.common`", kernel.value))
                .at(kernel.spot.clone(), "a kernel fits one architecture")
                .help("move it to `packages.amd64` or `packages.arm64`"),
        );
    }
    let lists = [&packages.common, &packages.amd64, &packages.arm64];
    let known: Vec<&str> = lists.into_iter().flatten().map(|package| package.value.as_str()).collect();
    for package in packages.backports.iter().filter(|package| !known.contains(&package.value.as_str())) {
        let help = match crate::suggest::closest(package.value.as_str(), known.iter().copied()) {
            Some(better) => format!("did you mean `{better}`?"),
            None => "add it to the list of the architecture that needs it; `backports` only says where from"
                .to_owned(),
        };
        reader.push(
            Diagnostic::error(format!("`{}` is in no list of packages", package.value))
                .at(package.spot.clone(), "taken from backports, but not installed")
                .help(help),
        );
    }
}

pub(super) fn firmware(reader: &mut Reader<'_>, arch: Arch, list: &[Located<Firmware>]) {
    for firmware in list.iter().filter(|firmware| !firmware.value.runs_on(arch)) {
        let possible =
            Firmware::ALL.iter().filter(|firmware| firmware.runs_on(arch)).map(|firmware| firmware.as_str());
        reader.push(
            Diagnostic::error(format!("no {arch} machine boots with `{}`", firmware.value))
                .at(firmware.spot.clone(), "not on this architecture")
                .help(format!("firmware of {arch}: {}", crate::suggest::listing(possible))),
        );
    }
}

/// What `[hardware.*]` needs of `[packages]` and `[debian]`.
pub(super) fn hardware(
    reader: &mut Reader<'_>,
    packages: &Packages,
    hardware: &[(Arch, Hardware)],
    debian: Option<&Debian>,
) {
    for (arch, hardware) in hardware {
        one_kernel(reader, *arch, hardware, packages.of(*arch));
        let pi = hardware.firmware.iter().find(|firmware| firmware.value == Firmware::RaspberryPi);
        if let (Some(pi), Some(debian)) = (pi, debian)
            && !debian.components.contains(&Component::NonFreeFirmware)
            && let Some(component) = debian.component_spots.last()
        {
            reader.push(
                Diagnostic::error("firmware `raspberrypi` without the component `non-free-firmware`")
                    .at(pi.spot.clone(), "its boot loader is in non-free-firmware")
                    .also(component.spot.clone(), "non-free-firmware is not here")
                    .help("add `\"non-free-firmware\"` to `debian.components`"),
            );
        }
    }
    for arch in Arch::ALL.iter().filter(|arch| !hardware.iter().any(|(known, _)| known == *arch)) {
        if let Some(package) = packages.of(*arch).first() {
            reader.push(
                Diagnostic::error(format!("packages for {arch}, but no [hardware.{arch}]"))
                    .at(package.spot.clone(), "never installed")
                    .help(format!("add a table [hardware.{arch}], or remove `packages.{arch}`")),
            );
        }
    }
}

fn one_kernel(reader: &mut Reader<'_>, arch: Arch, hardware: &Hardware, list: &[Located<PackageName>]) {
    let kernels: Vec<_> = list.iter().filter(|package| package.value.is_kernel()).collect();
    match kernels.as_slice() {
        [_] => {}
        [] => reader.push(
            Diagnostic::error(format!("no kernel for {arch}"))
                .at(hardware.header.clone(), format!("`packages.{arch}` has no linux-image-… package"))
                .help(format!("add `\"linux-image-{arch}\"` to `packages.{arch}`")),
        ),
        [first, more @ ..] => {
            // The same name again is a duplicate and has its finding already.
            for kernel in more.iter().filter(|kernel| kernel.value != first.value) {
                reader.push(
                    Diagnostic::error(format!("second kernel for {arch}: `{}`", kernel.value))
                        .at(kernel.spot.clone(), "an image has one kernel")
                        .also(first.spot.clone(), "the first kernel")
                        .help("remove one of the two"),
                );
            }
        }
    }
}

pub(super) fn units(reader: &mut Reader<'_>, enable: &[Located<UnitName>], mask: &[Located<UnitName>]) {
    for unit in enable.iter().filter(|unit| unit.value.is_template()) {
        reader.push(
            Diagnostic::error(format!("template `{}` enabled without an instance", unit.value))
                .at(unit.spot.clone(), "systemd cannot start a template")
                .help(format!(
                    "name the instance, as in `{}`",
                    unit.value.as_str().replacen("@.", "@NAME.", 1)
                )),
        );
    }
    for masked in mask {
        if let Some(enabled) = enable.iter().find(|unit| unit.value == masked.value) {
            reader.push(
                Diagnostic::error(format!("unit `{}` both enabled and masked", masked.value))
                    .at(masked.spot.clone(), "masked here")
                    .also(enabled.spot.clone(), "enabled here")
                    .help("remove one of the two: a masked unit never starts"),
            );
        }
    }
}
