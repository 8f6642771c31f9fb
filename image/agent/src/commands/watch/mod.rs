//! `cipolla watch`: whether the onion services can be reached, and what to do if not.
//!
//! Run every few minutes by a timer. It *looks* ([`look()`]), *decides* ([`plan`], pure) and *acts*, in steps that
//! disturb more and more: ask Tor for new circuits and to read its configuration again, restart Tor, tell the owner.
//! What it found and did is kept in memory ([`crate::paths::WATCH`]) for status, digest and the next run.
//!
//! It talks to Tor only, through two sockets that are closed to all but root and Tor; no packet of its own leaves
//! the machine. To services that need client authorization it never connects: it asks whether they are announced.

mod look;
pub mod plan;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use std::time::UNIX_EPOCH;

use super::services::TOR;
use super::status::utc;
use crate::fs::{Access, Fs, Replace, atomic};
use crate::machine::Machine;
use crate::paths;
use crate::tor_control::Conversation;
use plan::{Memory, Seen, Step};

/// What was remembered; nothing if there is no memory, or none that this version understands.
///
/// # Errors
/// When it cannot be read.
pub fn remembered(fs: &dyn Fs) -> Result<Memory> {
    let bytes = fs.read(Utf8Path::new(paths::WATCH))?.unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// What the owner has to know, if anything: a trouble that called for a step and is not over.
///
/// # Errors
/// When the memory cannot be read.
pub fn problem(fs: &dyn Fs) -> Result<Option<String>> {
    let memory = remembered(fs)?;
    let Some(trouble) = &memory.trouble else { return Ok(None) };
    let tried = match trouble.step {
        None => return Ok(None),
        Some(_) if plan::reported(&memory, trouble) => "restarting Tor did not help",
        Some(Step::Refresh) => "Tor was reloaded",
        Some(Step::Restart | Step::Report) => "Tor was restarted",
    };
    Ok(Some(format!("since {}: {}; {tried}", utc(trouble.since), trouble.what)))
}

/// Looks, and changes nothing.
///
/// # Errors
/// When the appliance's own addresses cannot be read. What is wrong with Tor is no error but the result.
pub fn look(machine: &Machine<'_>) -> Result<Seen> {
    look::everything(machine.fs)
}

/// Looks, decides and acts. Returns what was seen, and the memory after it.
///
/// # Errors
/// As [`look()`], and when a step fails.
pub fn run(machine: &Machine<'_>, say: &mut dyn FnMut(&str)) -> Result<(Seen, Memory)> {
    let look = |everything| if everything { look::everything(machine.fs) } else { Ok(look::connection()) };
    act(machine, &look, say)
}

/// As [`run`], with `look` in place of a look at the real Tor; it is told whether to look at everything, or only whether
/// Tor is connected.
///
/// # Errors
/// As [`run`].
pub fn act(
    machine: &Machine<'_>,
    look: &dyn Fn(bool) -> Result<Seen>,
    say: &mut dyn FnMut(&str),
) -> Result<(Seen, Memory)> {
    let now = machine.now.duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    let memory = remembered(machine.fs)?;
    let seen = look(memory.must_prove(now))?;
    let (memory, step) = plan::decide(memory, now, &seen);
    // Remembered first: a step that fails, or ends this very program, counts as taken.
    let content = serde_json::to_vec(&memory).context("writing the memory of the watch")?;
    atomic::put(machine.fs, Utf8Path::new(paths::WATCH), &content, Access::root(0o600), Replace::Allowed)?;
    if let (Some(step), Some(trouble)) = (step, &memory.trouble) {
        say(&format!("{}: {}", trouble.what, step.doing()));
        take(machine, step)?;
    }
    Ok((seen, memory))
}

fn take(machine: &Machine<'_>, step: Step) -> Result<()> {
    match step {
        Step::Refresh => {
            let mut tor = Conversation::open()?;
            tor.ask("SIGNAL RELOAD")?;
            tor.ask("SIGNAL NEWNYM")?;
        }
        Step::Restart => {
            let ran = machine.programs.run(&["systemctl", "restart", TOR])?;
            if !ran.success {
                bail!("restarting {TOR}: {}", ran.stderr.trim());
            }
        }
        // The memory is the report: status and digest read it.
        Step::Report => {}
    }
    Ok(())
}
