//! `cipolla watch`: whether the onion services can be reached, and what to do if not.
//!
//! Run every few minutes by a timer. It *looks* ([`look()`]), *decides* ([`plan`], pure) and *acts*, in steps that
//! disturb more and more: ask Tor for new circuits and to read its configuration again, restart Tor, tell the owner.
//! What it found and did is kept in memory ([`crate::paths::WATCH`]) for status, digest and the next run.
//!
//! A clock that was set has to be known of at once ([`begin`], the timer's `OnClockChange`): Tor and Postfix plan by it,
//! and set back by years they would wait for years. A wrong clock is told on the console.
//!
//! It talks to Tor only, through two sockets that are closed to all but root and Tor; no packet of its own leaves
//! the machine. To services that need client authorization it never connects: it asks whether they are announced.

mod look;
pub mod plan;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use std::time::UNIX_EPOCH;

use super::clock;
use super::services::TOR;
use super::status::utc;
use crate::fs::{Access, Fs, Replace, atomic};
use crate::handover;
use crate::machine::Machine;
use crate::paths;
use crate::tor_control::{self, Conversation};
use plan::{Memory, Seen, Step};

/// Plans by the clock, too: when to try a waiting message again.
const MAIL: &str = "postfix.service";

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
        Some(Step::Refresh | Step::Resume) => "Tor was reloaded",
        Some(Step::Restart | Step::Report | Step::Reset) => "Tor was restarted",
    };
    Ok(Some(format!("since {}: {}; {tried}", utc(trouble.since), trouble.what)))
}

/// Looks, and changes nothing.
///
/// # Errors
/// When the appliance's own addresses cannot be read. What is wrong with Tor is no error but the result.
pub fn look(machine: &Machine<'_>) -> Result<Seen> {
    Ok(blame(look::everything(machine.fs)?, clock::look(machine)?.complaint(machine).as_deref()))
}

/// What was seen, as the fault of the clock if that is wrong. As long as everything can be reached, it is nobody's.
fn blame(seen: Seen, clock: Option<&str>) -> Seen {
    match (seen, clock) {
        (seen @ Seen::Connected(_), _) if seen.is_well() => seen,
        (_, Some(complaint)) => Seen::WrongClock(complaint.to_owned()),
        (seen, None) => seen,
    }
}

/// Begins to remember, at the start of the machine: how the clock stands.
///
/// # Errors
/// When the memory cannot be written, or the clock stands before 1970.
pub fn begin(machine: &Machine<'_>) -> Result<()> {
    let mut memory = remembered(machine.fs)?;
    if memory.started.is_some() {
        return Ok(());
    }
    memory.note_clock(now(machine)?, machine.uptime.as_secs());
    remember(machine.fs, &memory)
}

fn remember(fs: &dyn Fs, memory: &Memory) -> Result<()> {
    let content = serde_json::to_vec(memory).context("writing the memory of the watch")?;
    atomic::put(fs, Utf8Path::new(paths::WATCH), &content, Access::root(0o600), Replace::Allowed)
}

fn now(machine: &Machine<'_>) -> Result<u64> {
    Ok(machine.now.duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs())
}

/// Looks, decides and acts. Returns what was seen, and the memory after it.
///
/// # Errors
/// As [`look()`], and when a step fails.
pub fn run(machine: &Machine<'_>, say: &mut dyn FnMut(&str)) -> Result<(Seen, Memory)> {
    let clock = clock::look(machine)?.complaint(machine);
    handover::notice(machine, clock.as_deref())?;
    let look = |everything| {
        let seen = if everything { look::everything(machine.fs)? } else { look::connection() };
        Ok(blame(seen, clock.as_deref()))
    };
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
    let (now, uptime) = (now(machine)?, machine.uptime.as_secs());
    let memory = remembered(machine.fs)?;
    let seen = look(memory.must_prove(now, uptime))?;
    let (memory, step) = plan::decide(memory, now, uptime, &seen);
    // Remembered first: a step that fails, or ends this very program, counts as taken.
    remember(machine.fs, &memory)?;
    if let (Some(step), Some(taken)) = (step, memory.taken.last()) {
        say(&format!("{}: {}", taken.why, step.doing()));
        take(machine, step)?;
    }
    Ok((seen, memory))
}

fn take(machine: &Machine<'_>, step: Step) -> Result<()> {
    match step {
        Step::Refresh => {
            Conversation::open()?.ask("SIGNAL RELOAD")?;
            tor_control::forget_peers()?;
        }
        Step::Resume => {
            systemctl(machine, "try-reload-or-restart", TOR)?;
            retry_mail(machine)?;
        }
        Step::Restart => systemctl(machine, "restart", TOR)?,
        Step::Reset => {
            systemctl(machine, "restart", TOR)?;
            retry_mail(machine)?;
        }
        // The memory is the report: status and digest read it.
        Step::Report => {}
    }
    Ok(())
}

/// Lets Postfix plan anew. Waiting messages bear the time of their next attempt, which may be years away.
fn retry_mail(machine: &Machine<'_>) -> Result<()> {
    systemctl(machine, "try-reload-or-restart", MAIL)?;
    if machine.programs.has("postqueue") {
        machine.programs.run(&["postqueue", "-f"])?;
    }
    Ok(())
}

/// Lets systemd do this with a unit.
fn systemctl(machine: &Machine<'_>, verb: &str, unit: &str) -> Result<()> {
    let ran = machine.programs.run(&["systemctl", verb, unit])?;
    if !ran.success {
        bail!("systemctl {verb} {unit}: {}", ran.stderr.trim());
    }
    Ok(())
}
