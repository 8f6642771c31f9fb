//! One appliance in the lab, attacked over many circuits while its owner works.
//!
//! | module | what |
//! |---|---|
//! | [`assault`] | the attack, and what becomes of everybody in it |
//! | [`crowd`] | the offenders |
//! | [`work`] | the owner's work, and how long it takes |
//! | [`circuits`] | what one circuit may do |
//! | [`after`] | what an attack leaves behind |
//! | [`access`] | who sees a service at all |
//!
//! Everybody is a circuit of a private Tor network. Never: a flood that only a faster computer would bear.

mod access;
mod after;
mod assault;
mod circuits;
mod crowd;
mod work;

use std::borrow::Cow;

use anyhow::anyhow;
use qemu::{Deadline, Probe};

use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, fail, gate};
use crate::site::{ONION, Site};
use crate::world::{Resident, World};

/// The second mailbox's password.
const BOB: &str = "nine quiet Lighthouses wander";

pub(crate) struct Attack;

/// Fields are dropped in this order.
pub(crate) struct State {
    resident: Resident,
    world: World,
    site: Option<Site>,
    /// What the services took before the attack.
    before: Option<after::Footprint>,
    /// What was seen in the attack.
    record: Option<assault::Record>,
}

impl Scenario for Attack {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "attack".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "one appliance in a private Tor network, attacked over many circuits while its owner works".into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let mut world = World::start(ctx, "attack")?;
        let resident = world.appliance(ctx, probe, "attack/a", "ada")?;
        Ok(State { resident, world, site: None, before: None, record: None })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let up = vec![
            gate("boots_before_the_attack", &[], |state: &mut State| {
                state.resident.appliance.wait_boot()?;
                PASS
            }),
            gate("services_reachable_through_tor", &["R2"], services_reachable),
            gate("second_mailbox", &[], second_mailbox),
        ];
        let phase = |checks| Phase { enter: |_| Ok(()), checks };
        vec![
            phase(up),
            phase(assault::checks()),
            phase(circuits::checks()),
            phase(access::checks()),
            phase(after::checks()),
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

/// Somebody else whose mail must not suffer.
fn second_mailbox(state: &mut State) -> Verdict {
    let script = format!("echo '{BOB}' | cipolla user add bob --stdin && cipolla user list");
    let list = state.resident.appliance.read(&script)?;
    state.before = Some(after::Footprint::measure(state)?);
    if list.lines().any(|line| line.starts_with("bob")) { PASS } else { fail(list) }
}

impl State {
    fn site(&self) -> anyhow::Result<&Site> {
        self.site.as_ref().ok_or_else(|| anyhow!("the services were never reached"))
    }
}
