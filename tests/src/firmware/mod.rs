//! The unmodified image under each firmware.
//!
//! The BIOS boot carries what does not depend on the firmware: identity, a second boot, shutdown. The UEFI
//! boots show the firmware's own facts and that the same image does the same things there.

mod disk;
mod identity;
mod letter;
mod software;

use std::borrow::Cow;

use anyhow::anyhow;
use qemu::{Arch, Deadline, Firmware, Probe};

use crate::Context;
use crate::appliance::{Appliance, webmail_database_is_whole};
use crate::check::{Check, Evidence, PASS, Phase, Scenario, Verdict, check, fail, gate, none_of};
use crate::journal;

/// How long a power button may take.
const POWER_OFF: u64 = 180;

/// The image under one firmware.
pub(crate) struct FirmwareScenario {
    arch: Arch,
    firmware: Firmware,
}

/// One scenario per firmware that the architecture has.
pub(crate) fn all(arch: Arch) -> Vec<FirmwareScenario> {
    let firmware: &[_] = match arch {
        Arch::Amd64 => &[Firmware::Bios, Firmware::Uefi, Firmware::UefiSecureBoot],
        Arch::Arm64 => &[Firmware::Uefi, Firmware::UefiSecureBoot],
    };
    firmware.iter().map(|firmware| FirmwareScenario { arch, firmware: *firmware }).collect()
}

/// The machine and what is remembered from its first boot.
pub(crate) struct State {
    ctx: Context,
    appliance: Appliance,
    first: Option<identity::Snapshot>,
}

impl Scenario for FirmwareScenario {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        format!("firmware_{}", self.firmware).into()
    }

    fn about(&self) -> Cow<'static, str> {
        let firmware = match (self.arch, self.firmware) {
            (_, Firmware::Bios) => "SeaBIOS",
            (Arch::Amd64, Firmware::Uefi) => "OVMF",
            (Arch::Arm64, Firmware::Uefi) => "AAVMF",
            (_, Firmware::UefiSecureBoot) => "Secure Boot with Microsoft's keys, enforced",
        };
        format!("the unmodified {} image under {firmware}", self.arch).into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let appliance = Appliance::spawn(ctx, probe, self.firmware, &self.name())?;
        Ok(State { ctx: ctx.clone(), appliance, first: None })
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<State>> {
        let arch = self.arch;
        let main =
            Firmware::Bios == self.firmware || (arch == Arch::Arm64 && self.firmware == Firmware::Uefi);
        let mut first = vec![gate(self.boots(), &[], |state: &mut State| {
            state.appliance.wait_boot()?;
            PASS
        })];
        first.push(match self.firmware {
            Firmware::Bios => check("firmware_is_bios", &[], is_bios),
            Firmware::Uefi => check("firmware_is_uefi", &[], |state: &mut State| is_uefi(state, false)),
            Firmware::UefiSecureBoot => {
                check("secure_boot_is_enforced", &["R53"], |state: &mut State| is_uefi(state, true))
            }
        });
        first.push(check("data_grows_to_disk", &[], disk::data_grows_to_disk));
        first.push(check("root_b_created", &[], move |state: &mut State| disk::root_b_created(state, arch)));
        first.push(check("root_is_read_only", &["R47"], disk::root_is_read_only));
        if main {
            first.extend(once());
        }
        first.push(check("journal_clean", &[], |state: &mut State| journal_clean(state, true)));
        first.push(check("no_apparmor_denial", &["R53"], no_apparmor_denial));
        let mut phases = vec![Phase::of(first)];
        if main {
            phases.push(Phase::after(second_boot, again()));
        }
        // Whoever wants to look at the machine afterwards does not want it off.
        if !ctx.keep {
            let off = check("power_button_powers_off", &[], power_button_powers_off);
            phases.push(Phase::of(vec![off]));
        }
        phases
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.appliance.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.appliance.machine.how_to_reach())
    }
}

impl FirmwareScenario {
    fn boots(&self) -> Cow<'static, str> {
        match self.arch {
            Arch::Amd64 => format!("boots_{}", self.firmware).into(),
            Arch::Arm64 => format!("boots_arm64_{}", self.firmware).into(),
        }
    }
}

/// What the first boot shows whatever the firmware is.
fn once() -> Vec<Check<State>> {
    vec![
        check("machine_id_is_made", &["R49"], identity::machine_id_is_made),
        check("ssh_host_key_is_made", &["R49"], identity::ssh_host_key_is_made),
        check("no_host_identity", &["R49"], identity::no_host_identity),
        check("boot_plans_nothing_more", &[], identity::boot_plans_nothing),
        check("dpkg_database_usable", &[], software::dpkg_database_usable),
        check("packages_are_intact", &["R10", "R47"], software::packages_are_intact),
        check("owners_match_manifest", &["R49"], software::owners_match_manifest),
        check("webmail_database_is_there_before_its_first_use", &[], |state: &mut State| {
            webmail_database_is_whole(&mut state.appliance)
        }),
        check("older_webmail_database_is_brought_up_to_date", &[], |state: &mut State| {
            let script = "runuser -u roundcube -- php -r '(new PDO(\"sqlite:$argv[1]\"))->exec($argv[2]);' \
                /var/lib/roundcube/db/roundcube.sqlite \"UPDATE system SET value = '2021100300'\" && \
                systemctl start cipolla-webmail-db";
            state.appliance.read(script)?;
            webmail_database_is_whole(&mut state.appliance)
        }),
        check("mail_arrives_without_a_network", &["R41"], letter::arrives),
    ]
}

/// What the second boot shows.
fn again() -> Vec<Check<State>> {
    vec![
        check("second_boot_is_quiet", &[], identity::second_boot_is_quiet),
        check("identity_survives_reboot", &[], identity::identity_survives_reboot),
        check("mail_survives_reboot", &["R38", "R41"], letter::survives_reboot),
        check("partitions_stay", &[], disk::partitions_stay),
        check("shutdown_is_clean", &[], shutdown_is_clean),
        check("journal_clean_second_boot", &[], |state: &mut State| journal_clean(state, false)),
        check("root_is_read_only_second_boot", &["R47"], disk::root_is_read_only),
    ]
}

fn second_boot(state: &mut State) -> anyhow::Result<()> {
    state.first = Some(identity::Snapshot::take(&mut state.appliance)?);
    state.appliance.reboot()
}

fn first(state: &State) -> anyhow::Result<&identity::Snapshot> {
    state.first.as_ref().ok_or_else(|| anyhow!("nothing is known about the first boot"))
}

fn is_bios(state: &mut State) -> Verdict {
    let output = state.appliance.run("test -e /sys/firmware/efi")?;
    if output.status.success() { fail("/sys/firmware/efi exists: this was a UEFI boot") } else { PASS }
}

fn is_uefi(state: &mut State, secure: bool) -> Verdict {
    let mut findings = Vec::new();
    if !state.appliance.run("test -d /sys/firmware/efi/efivars")?.status.success() {
        return fail("there is no /sys/firmware/efi/efivars: this was no UEFI boot");
    }
    // A variable's file starts with four bytes of attributes (Linux, efivarfs). Firmware without Secure Boot
    // has no such variable.
    let name = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let byte = state.appliance.read(&format!("test ! -e {name} || od -An -tu1 -j4 -N1 {name}"))?;
    if (byte.trim() == "1") != secure {
        findings.push(format!("the variable SecureBoot is {:?}", byte.trim()));
    }
    let lockdown = state.appliance.read("cat /sys/kernel/security/lockdown")?.trim().to_owned();
    if secure && !lockdown.contains("[integrity]") && !lockdown.contains("[confidentiality]") {
        findings.push(format!("the kernel is not locked down: {lockdown}"));
    }
    none_of(&findings)
}

fn journal_clean(state: &mut State, first_boot: bool) -> Verdict {
    let failed = state.appliance.read("systemctl list-units --failed --plain --no-legend --no-pager")?;
    let mut findings: Vec<_> = failed.lines().map(|line| format!("failed unit: {line}")).collect();
    let journal = state.appliance.read(journal::WARNINGS)?;
    findings.extend(journal::unacceptable(&journal, first_boot)?);
    none_of(&findings)
}

fn no_apparmor_denial(state: &mut State) -> Verdict {
    let enabled = state.appliance.read("cat /sys/module/apparmor/parameters/enabled")?;
    if enabled.trim() != "Y" {
        return fail(format!("AppArmor is off: {}", enabled.trim()));
    }
    let output = state.appliance.run("journalctl -b --no-pager -o cat --grep 'apparmor=\"DENIED\"'")?;
    let lines: Vec<_> = output.stdout.lines().map(str::to_owned).collect();
    none_of(&lines)
}

/// What systemd and the kernel say when something did not let go of a file system.
const UNCLEAN: [&str; 5] =
    ["Failed unmounting", "Failed to unmount", "timed out, killing", "recovery complete", "orphan cleanup"];

fn shutdown_is_clean(state: &mut State) -> Verdict {
    let mut all = state.appliance.machine.console().text();
    // The end of the boot before, as far as it reached the disk, and what the kernel found on the disk now.
    all.push_str(
        &state
            .appliance
            .read("journalctl -b -1 --no-pager -o cat -n 300; journalctl -b -k --no-pager -o cat")?,
    );
    let bad = all.lines().filter(|line| UNCLEAN.iter().any(|sign| line.contains(sign)));
    none_of(&bad.map(str::to_owned).collect::<Vec<_>>())
}

fn power_button_powers_off(state: &mut State) -> Verdict {
    let deadline = Deadline::seconds(POWER_OFF);
    state.appliance.machine.qmp().power_button(deadline)?;
    let status = state.appliance.machine.wait_powered_off(deadline)?;
    if status.success() { PASS } else { fail(format!("QEMU ended with {status}")) }
}
