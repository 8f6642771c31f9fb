//! The first start of an appliance: what it makes, that it never makes it twice, and who gets to know it.
//!
//! [`FirstBoot`] has a machine that gets the owner's settings as a credential and loses its power twice before
//! it is allowed to finish; what it then is, is looked at from all sides. `settings` is the scenario of an owner whose
//! settings are wrong. (A machine without settings is that of the scenarios of the firmware.)

mod cases;
mod faults;
mod keys;
mod power_cut;
mod secrets;
mod settings;
mod wifi;

pub(crate) use keys::identity;

use std::borrow::Cow;

use anyhow::{Context as _, anyhow};
use qemu::{Probe, RunDir};

use crate::Context;
use crate::appliance::{self, Appliance};
use crate::check::{Check, Evidence, PASS, Phase, Scenario, check, gate};
use crate::runner::Runnable;

/// The scenarios of this group.
pub(crate) fn all() -> Vec<Box<dyn Runnable>> {
    vec![Box::new(FirstBoot), Box::new(settings::WrongSettings)]
}

pub(crate) struct FirstBoot;

/// The machine of the moment, and what is remembered of the one before.
pub(crate) struct State {
    ctx: Context,
    probe: Probe,
    run_dir: RunDir,
    /// The owner's settings, as a credential.
    settings: String,
    appliance: Option<Appliance>,
    cuts: Vec<power_cut::Cut>,
    waiting: secrets::Waiting,
}

impl State {
    fn appliance(&mut self) -> anyhow::Result<&mut Appliance> {
        self.appliance.as_mut().ok_or_else(|| anyhow!("no machine is up"))
    }
}

impl Scenario for FirstBoot {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "first_boot".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "the first start, with power cuts; what it makes, and who gets to know it".into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let run_dir = RunDir::create(&ctx.run_root.join("first_boot"))?;
        let key = secrets::owner_key(ctx, &run_dir)?;
        Ok(State {
            ctx: ctx.clone(),
            probe: probe.clone(),
            run_dir,
            settings: format!("[owner]\nmailbox = \"ada\"\nssh_keys = [\"{key}\"]\n"),
            appliance: None,
            cuts: Vec::new(),
            waiting: secrets::Waiting::default(),
        })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        vec![Phase::after(power_cut::cut, checks())]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.appliance.as_mut().map(Appliance::evidence).unwrap_or_default()
    }

    fn reach(&self, state: &State) -> Option<String> {
        state.appliance.as_ref().map(|appliance| appliance.machine.how_to_reach())
    }
}

/// What it is at last. Later checks change it more than earlier ones.
fn checks() -> Vec<Check<State>> {
    vec![
        gate("boots_after_power_cuts", &["R49"], |state: &mut State| {
            secrets::watch_command_lines(state)?;
            state.appliance()?.wait_boot()?;
            secrets::learn(state)?;
            PASS
        }),
        check("power_cut_at_every_step_resumes", &["R49"], power_cut::resumes),
        check("key_files_match_tor", &["R3"], keys::key_files_match_tor),
        check("hs_dirs_0700_debian_tor", &["R3", "R42"], keys::hs_dirs),
        check("console_shows_hand_over", &["R49"], secrets::console),
        check("credentials_never_in_journal", &["R42", "R49"], secrets::never_in_journal),
        check("credentials_not_readable_by_others", &["R42", "R49"], secrets::not_readable_by_others),
        check("claim_by_ssh_key_decrypts", &["R49"], secrets::claim),
        check("claimed_credentials_log_in", &["R14", "R49"], secrets::log_in),
        check("welcome_has_no_secret", &["R49"], secrets::welcome),
        check("refused_configuration_changes_nothing", &[], faults::refused),
        check("disk_full_explains", &[], faults::disk_full),
        check("first_login_shows_credentials_once", &["R49"], secrets::first_login),
        check("ack_forgets_credentials", &["R42", "R49"], secrets::acknowledged),
    ]
}

/// Ends the machine of the moment and starts one on a fresh disk with these changes.
fn replace(state: &mut State, change: impl FnOnce(&mut qemu::MachineSpec)) -> anyhow::Result<&mut Appliance> {
    if let Some(appliance) = state.appliance.take() {
        appliance.cut_power()?;
    }
    let started = Appliance::spawn_as(&state.ctx, &state.probe, state.run_dir.clone(), change);
    Ok(state.appliance.insert(started.context("starting the machine")?))
}

/// The machine with the owner's settings, on its own disk again.
fn resume(state: &mut State, fresh: bool) -> anyhow::Result<&mut Appliance> {
    let settings = appliance::settings(&state.settings);
    replace(state, |spec| {
        spec.credentials.push(settings);
        if !fresh {
            appliance::again(spec);
        }
    })
}
