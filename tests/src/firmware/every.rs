//! What every machine shows after its first boot, whatever else it is there for: the firmware's own facts, and that the same
//! image does the same things under it.

use std::borrow::Cow;

use qemu::{Arch, Deadline, Firmware};

use super::disk;
use crate::Context;
use crate::appliance::Appliance;
use crate::check::{Check, PASS, Verdict, check, fail, gate, none_of};
use crate::journal;

/// How long a power button may take.
const POWER_OFF: u64 = 180;

/// It boots under this firmware, and makes its disk its own.
pub(crate) fn booted(arch: Arch, firmware: Firmware) -> Vec<Check<Appliance>> {
    let is = match firmware {
        Firmware::Bios => check("firmware_is_bios", &[], is_bios),
        Firmware::Uefi => {
            check("firmware_is_uefi", &[], |appliance: &mut Appliance| is_uefi(appliance, false))
        }
        Firmware::UefiSecureBoot => {
            check("secure_boot_is_enforced", &["R53"], |appliance: &mut Appliance| is_uefi(appliance, true))
        }
    };
    let boots = gate(name(arch, firmware), &[], |appliance: &mut Appliance| {
        appliance.wait_boot()?;
        PASS
    });
    vec![
        boots,
        is,
        check("data_grows_to_disk", &[], disk::data_grows_to_disk),
        check("root_b_created", &[], move |appliance: &mut Appliance| disk::root_b_created(appliance, arch)),
        check("root_is_read_only", &["R47"], disk::root_is_read_only),
        check("no_apparmor_denial", &["R53"], no_apparmor_denial),
    ]
}

/// The power button ends it. (Whoever wants to look at the machine afterwards does not want it off.)
pub(crate) fn switched_off(ctx: &Context) -> Vec<Check<Appliance>> {
    let off = check("power_button_powers_off", &[], power_button_powers_off);
    if ctx.keep { Vec::new() } else { vec![off] }
}

fn name(arch: Arch, firmware: Firmware) -> Cow<'static, str> {
    match arch {
        Arch::Amd64 => format!("boots_{firmware}").into(),
        Arch::Arm64 => format!("boots_arm64_{firmware}").into(),
    }
}

fn is_bios(appliance: &mut Appliance) -> Verdict {
    let output = appliance.run("test -e /sys/firmware/efi")?;
    if output.status.success() { fail("/sys/firmware/efi exists: this was a UEFI boot") } else { PASS }
}

fn is_uefi(appliance: &mut Appliance, secure: bool) -> Verdict {
    let mut findings = Vec::new();
    if !appliance.run("test -d /sys/firmware/efi/efivars")?.status.success() {
        return fail("there is no /sys/firmware/efi/efivars: this was no UEFI boot");
    }
    // A variable's file starts with four bytes of attributes (Linux, efivarfs). Firmware without Secure Boot
    // has no such variable.
    let name = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let byte = appliance.read(&format!("test ! -e {name} || od -An -tu1 -j4 -N1 {name}"))?;
    if (byte.trim() == "1") != secure {
        findings.push(format!("the variable SecureBoot is {:?}", byte.trim()));
    }
    let lockdown = appliance.read("cat /sys/kernel/security/lockdown")?.trim().to_owned();
    if secure && !lockdown.contains("[integrity]") && !lockdown.contains("[confidentiality]") {
        findings.push(format!("the kernel is not locked down: {lockdown}"));
    }
    none_of(&findings)
}

/// No failed unit, and no warning that `unacceptable` finds in the journal ([`journal`]).
pub(crate) fn journal_clean(
    appliance: &mut Appliance,
    unacceptable: impl FnOnce(&str) -> anyhow::Result<Vec<String>>,
) -> Verdict {
    let failed = appliance.read("systemctl list-units --failed --plain --no-legend --no-pager")?;
    let mut findings: Vec<_> = failed.lines().map(|line| format!("failed unit: {line}")).collect();
    findings.extend(unacceptable(&appliance.read(journal::WARNINGS)?)?);
    none_of(&findings)
}

fn no_apparmor_denial(appliance: &mut Appliance) -> Verdict {
    let enabled = appliance.read("cat /sys/module/apparmor/parameters/enabled")?;
    if enabled.trim() != "Y" {
        return fail(format!("AppArmor is off: {}", enabled.trim()));
    }
    let output = appliance.run("journalctl -b --no-pager -o cat --grep 'apparmor=\"DENIED\"'")?;
    let lines: Vec<_> = output.stdout.lines().map(str::to_owned).collect();
    none_of(&lines)
}

fn power_button_powers_off(appliance: &mut Appliance) -> Verdict {
    let deadline = Deadline::seconds(POWER_OFF);
    appliance.machine.qmp().power_button(deadline)?;
    let status = appliance.machine.wait_powered_off(deadline)?;
    if status.success() { PASS } else { fail(format!("QEMU ended with {status}")) }
}
