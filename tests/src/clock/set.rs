//! A clock that is set while the appliance runs.

use qemu::Deadline;

use super::write_to_nobody;
use super::{DAY, HOUR, State, TOLD, complaints, greets, invalid, now, status_saying};
use crate::check::{Check, Verdict, check, none_of};

/// So much a clock can be wrong without keeping Tor from its network.
const HOURS: u64 = 5 * HOUR;

/// Until the watch has noticed that the clock was set, also if it is busy with a look that began before.
const NOTICED: u64 = 420;

/// By when a message that waits is tried again, in seconds: Postfix waits 4000 at most.
const TRIED_AGAIN: u64 = 2 * HOUR;

/// By when the next run of every timer has to be, in seconds: a week, and some delay.
const NEXT_RUN: u64 = 9 * DAY;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("clock_years_ahead_recovers", &["R22", "R38"], years_ahead),
        check("clock_hours_ahead_recovers", &["R2", "R38"], hours_ahead),
        check("clock_hours_behind_recovers", &["R2", "R38"], hours_behind),
    ]
}

/// The time server goes away, so that nobody but the owner sets the clock.
pub(super) fn fall_silent(state: &mut State) -> anyhow::Result<()> {
    state.server = None;
    Ok(())
}

/// Writes a message, and waits until one has its next attempt after `at`, which is the time that its file bears.
fn wait_with_mail(state: &mut State, at: u64) -> anyhow::Result<()> {
    write_to_nobody(state)?;
    let script = format!(
        "for n in $(seq {TOLD}); do
          find /var/spool/postfix/deferred -type f -newermt @{at} | grep -q . && exit
          sleep 1
        done; postqueue -j >&2; exit 1"
    );
    let output = state.resident.appliance.machine.run(&script, Deadline::seconds(2 * TOLD))?;
    if output.status.success() {
        return Ok(());
    }
    anyhow::bail!("in {TOLD} s no message was deferred until after {at}: {}", output.stderr)
}

/// Sets the clock ahead, and waits until that is told.
fn set(state: &mut State, by: u64, word: &str) -> anyhow::Result<()> {
    state.resident.appliance.read(&format!("date -s @{}", now()? + by))?;
    status_saying(state, &format!("the clock is {word} by ")).map(drop)
}

/// Sets a clock right that was ahead, and waits until what waits by it was started anew.
fn correct(state: &mut State) -> anyhow::Result<()> {
    let appliance = &mut state.resident.appliance;
    let script = format!(
        "n=$(journalctl -b -u cipolla-watch | grep -c 'was set back')
        date -s @{}
        for i in $(seq {NOTICED}); do
          [ $(journalctl -b -u cipolla-watch | grep -c 'was set back') -gt $n ] && exit
          sleep 1
        done
        journalctl -b -u cipolla-watch >&2; exit 1",
        now()?
    );
    let output = appliance.machine.run(&script, Deadline::seconds(2 * NOTICED))?;
    if output.status.success() {
        return Ok(());
    }
    anyhow::bail!("the watch did not notice in {NOTICED} s that the clock was set back: {}", output.stderr)
}

/// Tor publishes anew with a clock that is ahead. Directories take nothing older afterwards; the mail server has to be
/// found all the same.
fn hours_ahead(state: &mut State) -> Verdict {
    set(state, HOURS, "ahead")?;
    wait_with_mail(state, now()? + HOUR)?;
    correct(state)?;
    recovered(state)
}

/// Tor starts with a clock that is behind: an introduction point outlives three leaps only
/// (`MAX_INTRO_POINT_CIRCUIT_RETRIES` of Tor), and years and hours ahead were leaps, too.
fn hours_behind(state: &mut State) -> Verdict {
    let script = format!("date -s @{} && systemctl restart tor@default", now()? - HOURS);
    state.resident.appliance.read(&script)?;
    status_saying(state, "the clock is behind by ")?;
    let mut findings: Vec<String> = greets(state)?.err().into_iter().collect();
    // Tor looks at the clock every second, and ends its circuits then.
    state.resident.appliance.read(&format!("date -s @{} && sleep 3", now()?))?;
    findings.extend(recovered(state)?.err());
    none_of(&findings)
}

/// With the right time again: strangers get through, mail waits for a sensible time, timers too, nobody complains.
fn recovered(state: &mut State) -> Verdict {
    let mut findings: Vec<String> = greets(state)?.err().into_iter().collect();
    let appliance = &mut state.resident.appliance;
    findings.extend(complaints(appliance)?);
    // The queue manager tries a message again at the time that its file bears (qmgr(8)). It may be at it right now.
    let waiting =
        appliance.read("cd /var/spool/postfix; find deferred active incoming -type f -printf '%Ts\\n'")?;
    let now = now()?;
    if waiting.trim().is_empty() {
        findings.push("the message that waited is gone".to_owned());
    }
    for at in waiting.lines().filter_map(|at| at.split('.').next()?.parse::<u64>().ok()) {
        if at > now + TRIED_AGAIN {
            findings.push(format!("a message waits for {} s", at - now));
        }
    }
    findings.extend(late_timers(state)?);
    none_of(&findings)
}

/// Timers whose next run is too far away, by the clock.
fn late_timers(state: &mut State) -> anyhow::Result<Vec<String>> {
    let script =
        "systemctl show '*.timer' --state=active --property=Id,NextElapseUSecRealtime --timestamp=unix";
    let said = state.resident.appliance.read(script)?;
    let now = now()?;
    let mut findings = Vec::new();
    for timer in said.split("\n\n") {
        let value = |key: &str| timer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let next =
            value("NextElapseUSecRealtime").and_then(|next| next.strip_prefix('@')?.parse::<u64>().ok());
        if let (Some(name), Some(next)) = (value("Id"), next)
            && next > now + NEXT_RUN
        {
            findings.push(format!("{name} runs in {} days", (next - now) / DAY));
        }
    }
    Ok(findings)
}

/// Three years ahead, the certificates of all relays have expired. New server certificates are made, and again when the
/// time is right; the authority, which devices have imported, stays, and so do addresses.
fn years_ahead(state: &mut State) -> Verdict {
    let years = 3 * 365 * DAY;
    set(state, years, "ahead")?;
    let lasting = "sha256sum /var/lib/cipolla/private/ca.pem /var/lib/tor/*/hs_ed25519_secret_key";
    let before = state.resident.appliance.read(lasting)?;
    let mut findings = renewed(state, "the old one has expired")?;
    findings.extend(invalid(&mut state.resident.appliance, now()? + years)?);
    correct(state)?;
    findings.extend(renewed(state, "the old one was made while the clock was ahead")?);
    let appliance = &mut state.resident.appliance;
    findings.extend(invalid(appliance, now()?)?);
    if appliance.read(lasting)? != before {
        findings.push("the authority or an address is another one".to_owned());
    }
    findings.extend(greets(state)?.err());
    findings.extend(complaints(&mut state.resident.appliance)?);
    findings.extend(late_timers(state)?);
    none_of(&findings)
}

/// Whether both server certificates are made again by themselves, for this reason.
fn renewed(state: &mut State, why: &str) -> anyhow::Result<Vec<String>> {
    let script = format!(
        "for n in $(seq {TOLD}); do
          said=$(journalctl -b -u cipolla-renew.service -o cat --no-pager)
          c=0
          for name in mx client; do
            echo \"$said\" | grep -qF \"make the certificate for $name: {why}: done\" && c=$((c + 1))
          done
          [ $c = 2 ] && exit
          sleep 1
        done; echo \"$said\"; exit 1"
    );
    let output = state.resident.appliance.machine.run(&script, Deadline::seconds(2 * TOLD))?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    Ok(vec![format!("not renewed, though {why}: {}", output.stdout.trim())])
}
