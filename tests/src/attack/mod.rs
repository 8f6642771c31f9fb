//! One appliance in the lab, tried by somebody who guesses and floods, while its owner works.
//!
//! | module | what |
//! |---|---|
//! | [`guesses`] | wrong passwords: they get slower, the owner is never shut out, and hears of it |
//! | [`circuits`] | what one circuit may do, and what becomes of those who do more |
//! | [`access`] | who sees a service at all |
//!
//! Everybody is a circuit of a private Tor network. Never: a flood that only a faster computer would bear.

mod access;
mod circuits;
mod guesses;

use std::borrow::Cow;

use anyhow::{Context as _, anyhow};
use qemu::{Deadline, Probe};
use serde::Deserialize;

use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, check, gate, none_of};
use crate::site::{ONION, Site};
use crate::world::{Resident, World};

pub(crate) struct Attack;

/// Fields are dropped in this order.
pub(crate) struct State {
    resident: Resident,
    world: World,
    site: Option<Site>,
}

impl Scenario for Attack {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "attack".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "one appliance in a private Tor network, guessed at and crowded while its owner works".into()
    }

    fn alone(&self) -> bool {
        true
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let mut world = World::start(ctx, "attack")?;
        let resident = world.appliance(ctx, probe, "attack/a", "ada")?;
        Ok(State { resident, world, site: None })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let up = vec![
            gate("boots_before_the_attack", &[], |state: &mut State| {
                state.resident.appliance.wait_boot()?;
                PASS
            }),
            gate("services_reachable_through_tor", &["R2"], services_reachable),
        ];
        let phase = |checks| Phase { enter: |_| Ok(()), checks };
        vec![
            phase(up),
            phase(guesses::checks()),
            phase(circuits::checks()),
            phase(access::checks()),
            phase(vec![check("capture_holds_only_tor_and_dhcp", &["R1", "R4"], capture)]),
            phase(access::last()),
        ]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.resident.appliance.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.resident.appliance.machine.how_to_reach() + &state.world.lab().how_to_reach())
    }
}

/// The onions answer, and what the owner has to know is there.
fn services_reachable(state: &mut State) -> Verdict {
    let site = Site::learn(&mut state.resident, &mut state.world)?;
    site.wait_up(Deadline::seconds(ONION))?;
    state.site = Some(site);
    PASS
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
