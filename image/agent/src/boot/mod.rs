//! `cipolla boot`: what every start does before network, Tor, mail and web.
//!
//! Three parts that do not mix: [`facts`] reads, [`plan`](mod@plan) decides and touches nothing, [`apply`] writes.
//! A power cut between any two steps leaves facts from which the next plan goes on; a boot with nothing to
//! do plans nothing.

pub mod apply;
pub mod facts;
pub mod plan;

use anyhow::Result;

use crate::fs::Fs;
pub use facts::Facts;
pub use plan::{Action, Plan};

/// Reads the facts and plans, without changing anything.
///
/// # Errors
/// When a fact cannot be read.
pub fn plan(fs: &dyn Fs) -> Result<Plan> {
    Ok(plan::make(&facts::read(fs)?))
}

/// Plans and applies, reporting each action as it is done.
///
/// # Errors
/// From the first action that fails; those before it are complete and durable.
pub fn run(fs: &dyn Fs, report: &mut dyn FnMut(&Action)) -> Result<()> {
    for action in plan(fs)?.actions() {
        apply::apply(fs, action)?;
        report(action);
    }
    Ok(())
}
