//! An appliance in the lab, under UEFI, tried by those who guess and flood, while its owner works. The flood comes when no other
//! scenario runs: it is about how long the owner waits.
//!
//! | module | what |
//! |---|---|
//! | [`evasive`] | guesses from those who leave each circuit before it is banned |
//! | [`guesses`] | wrong passwords: they get slower, the owner is never shut out, and hears of it |
//! | [`flood`] | a crowd of offenders at once, while the owner works |
//! | [`crowd`] | the offenders |
//! | [`work`] | the owner's work, and how long it takes |
//! | [`after`] | what a flood leaves behind |
//! | [`circuits`] | what one circuit may do, and what becomes of those who do more |
//! | [`access`] | who sees a service at all |
//!
//! Everybody is a circuit of a private Tor network. Never: a flood that only a faster computer would bear.

mod access;
mod after;
mod circuits;
mod crowd;
mod evasive;
mod flood;
mod guesses;
mod work;

use std::borrow::Cow;
use std::num::NonZeroUsize;

use anyhow::{Context as _, anyhow};
use qemu::{Deadline, Firmware, Probe};
use serde::Deserialize;

use crate::Context;
use crate::appliance::Appliance;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, check, gate, none_of};
use crate::firmware::{booted, journal_clean, switched_off};
use crate::journal;
use crate::site::{ONION, Site};
use crate::world::{Resident, World};

/// The second mailbox's password.
const BOB: &str = "nine quiet Lighthouses wander";

/// So many wrong passwords are one less than what closes a circuit (`jail.local`).
const CAREFUL: usize = 4;

pub(crate) struct Attack;

/// Fields are dropped in this order.
pub(crate) struct State {
    resident: Resident,
    world: World,
    site: Option<Site>,
    /// What the services took before the flood.
    before: Option<after::Footprint>,
    /// What was seen in the flood.
    record: Option<flood::Record>,
}

impl Scenario for Attack {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "attack".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "one appliance in a private Tor network, guessed at, crowded and flooded while its owner works".into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let mut world = World::start(ctx, "attack")?;
        // As a machine has it that runs by itself, which this one will.
        let by_itself = Context { lanes: NonZeroUsize::MIN, ..ctx.clone() };
        let resident = world
            .appliance_as(&by_itself, probe, "attack/a", "ada", |spec| spec.firmware = Firmware::Uefi)?;
        Ok(State { resident, world, site: None, before: None, record: None })
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<State>> {
        let up = vec![
            check("journal_clean", &[], |state: &mut State| {
                journal_clean(&mut state.resident.appliance, journal::unacceptable_in_lab)
            }),
            gate("services_reachable_through_tor", &["R2"], services_reachable),
        ];
        let afterwards = vec![
            check("attack_leaves_nothing_behind", &["R29"], after::nothing_is_left),
            check("capture_holds_only_tor_and_dhcp", &["R1", "R4"], capture),
        ];
        vec![
            Phase::of(booted(ctx.arch, Firmware::Uefi)).within(appliance),
            Phase::of(up),
            Phase::of(guesses::checks()),
            Phase::of(circuits::checks()),
            Phase::of(access::checks()),
            Phase::after(found_again, flood::checks()).alone(),
            Phase::of(afterwards),
            Phase::of(switched_off(ctx)).within(appliance),
        ]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.resident.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.resident.appliance.machine.how_to_reach() + &state.world.lab().how_to_reach())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a part of a state may be missing")]
fn appliance(state: &mut State) -> anyhow::Result<&mut Appliance> {
    Ok(&mut state.resident.appliance)
}

/// The onions answer, and what the owner has to know is there.
fn services_reachable(state: &mut State) -> Verdict {
    let site = Site::learn(&mut state.resident, &mut state.world)?;
    site.wait_up(Deadline::seconds(ONION))?;
    state.site = Some(site);
    PASS
}

/// Tor was started again: the lab's clients have to look for its services where they are now.
fn found_again(state: &mut State) -> anyhow::Result<()> {
    let site = state.site.as_ref().ok_or_else(|| anyhow!("the services were never reached"))?;
    site.wait_up_anew(&mut state.world, Deadline::seconds(ONION)).map(drop)
}

fn capture(state: &mut State) -> Verdict {
    let tally = state.world.judge(&state.resident)?;
    let mut findings = tally.findings;
    if tally.tor == 0 || tally.dhcp == 0 {
        findings.push(format!("{} packets to relays and {} of DHCP: too few", tally.tor, tally.dhcp));
    }
    none_of(&findings)
}

/// Jail and address of everybody whom fail2ban holds, in the answer of `cipolla bans --json`.
fn held(answer: &str) -> anyhow::Result<Vec<(String, String)>> {
    #[derive(Deserialize)]
    struct Bans {
        held: Vec<Ban>,
    }
    #[derive(Deserialize)]
    struct Ban {
        jail: String,
        address: String,
    }
    let bans: Bans = serde_json::from_str(answer).with_context(|| format!("reading the bans {answer}"))?;
    Ok(bans.held.into_iter().map(|ban| (ban.jail, ban.address)).collect())
}

impl State {
    /// What came before is forgotten: nobody is banned, and no account has wrong passwords behind it.
    fn forgive(&mut self) -> anyhow::Result<()> {
        self.resident.appliance.read("cipolla unban --all && systemctl stop cipolla-tarpit.service")?;
        Ok(())
    }

    fn site(&self) -> anyhow::Result<&Site> {
        self.site.as_ref().ok_or_else(|| anyhow!("the services were never reached"))
    }
}
