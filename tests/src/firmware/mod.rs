//! The unmodified image without a network and without settings, under the firmware that is up first: what does not
//! depend on the firmware, such as identity, a second boot, shutdown.
//!
//! What does depend on it is [`every`]: machines of other scenarios start under the other kinds of firmware, so that each
//! kind is shown with all that a scenario does.

mod disk;
mod every;
mod identity;
mod letter;
mod software;

pub(crate) use every::{booted, journal_clean, switched_off};

use std::borrow::Cow;

use anyhow::anyhow;
use qemu::{Arch, Firmware, Probe};

use crate::Context;
use crate::appliance::{Appliance, plainest, webmail_database_is_whole};
use crate::check::{Check, Evidence, Phase, Scenario, Verdict, check, none_of};
use crate::journal;

/// The image under the plainest firmware that an architecture has.
pub(crate) struct FirmwareScenario {
    arch: Arch,
    firmware: Firmware,
}

impl FirmwareScenario {
    pub(crate) fn new(arch: Arch) -> Self {
        Self { arch, firmware: plainest(arch) }
    }
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
        let firmware = match self.firmware {
            Firmware::Bios => "SeaBIOS",
            Firmware::Uefi | Firmware::UefiSecureBoot => "UEFI",
        };
        format!("the unmodified {} image under {firmware}, without network and settings", self.arch).into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let appliance = Appliance::spawn(ctx, probe, self.firmware, &self.name())?;
        Ok(State { ctx: ctx.clone(), appliance, first: None })
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<State>> {
        let clean = check("journal_clean", &[], |state: &mut State| {
            journal_clean(&mut state.appliance, |journal| journal::unacceptable(journal, true))
        });
        vec![
            Phase::of(booted(self.arch, self.firmware)).within(appliance),
            Phase::of(once()),
            Phase::of(vec![clean]),
            Phase::after(second_boot, again()),
            Phase::of(switched_off(ctx)).within(appliance),
        ]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.appliance.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.appliance.machine.how_to_reach())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a part of a state may be missing")]
fn appliance(state: &mut State) -> anyhow::Result<&mut Appliance> {
    Ok(&mut state.appliance)
}

/// What the first boot shows besides.
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
        check("journal_clean_second_boot", &[], |state: &mut State| {
            journal_clean(&mut state.appliance, |journal| journal::unacceptable(journal, false))
        }),
        check("root_is_read_only_second_boot", &["R47"], |state: &mut State| {
            disk::root_is_read_only(&mut state.appliance)
        }),
    ]
}

fn second_boot(state: &mut State) -> anyhow::Result<()> {
    state.first = Some(identity::Snapshot::take(&mut state.appliance)?);
    state.appliance.reboot()
}

fn first(state: &State) -> anyhow::Result<&identity::Snapshot> {
    state.first.as_ref().ok_or_else(|| anyhow!("nothing is known about the first boot"))
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
