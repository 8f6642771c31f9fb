//! Whether the clock is right, and what to do if it is not.
//!
//! Before Tor there is nobody to ask, and with a wrong clock there is no Tor: relays' certificates and the network's
//! consensus are valid for a time only. What Tor knows all the same, from its own authenticated conversations with
//! the directory authorities, is judged here ([`judge`], pure). It never sets the clock: a single network peer, or
//! whoever sits in between, must not decide how late it is.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};

use super::status::{seconds_of, utc};
use crate::machine::Machine;
use crate::settings::{Time, load};
use crate::tor_control::{self, Standing};

/// So much the clock may differ from the Tor network's, in seconds. Tor itself bears a day before it stops working.
const TOLERANCE: u64 = 3600;

/// How the clock is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has said how late it is.
    Unknown,
    /// It agrees with the Tor network's.
    Right,
    /// It does not, or most likely does not, in these words.
    Wrong(String),
}

/// Judges the time `now`, in seconds since 1970, by what Tor knows.
#[must_use]
pub fn judge(now: u64, tor: &Standing) -> Verdict {
    let here = utc(now);
    let by = |skew: u64, direction: &str| {
        Verdict::Wrong(format!("the clock is {direction} by {}: it says {here}", about(skew)))
    };
    let skew = tor.skew.filter(|skew| skew.unsigned_abs() > TOLERANCE);
    let consensus = tor.consensus.as_ref().and_then(|(begin, end)| seconds_of(begin).zip(seconds_of(end)));
    match (consensus, skew) {
        // The consensus is signed by most authorities and so the better witness; but it only says the least.
        (Some((begin, _)), skew) if begin > now + TOLERANCE => {
            by(skew.filter(|skew| *skew < 0).map_or(begin - now, i64::unsigned_abs), "behind")
        }
        (Some((_, end)), Some(skew @ 1..)) if end + TOLERANCE < now => by(skew.unsigned_abs(), "ahead"),
        (Some((_, end)), _) if end + TOLERANCE < now => Verdict::Wrong(format!(
            "the clock is ahead by {}, or Tor was cut off for so long: it says {here}",
            about(now - end)
        )),
        (Some(_), _) => Verdict::Right,
        (None, Some(skew)) => by(skew.unsigned_abs(), if skew < 0 { "behind" } else { "ahead" }),
        (None, None) if tor.hangs_up => Verdict::Wrong(format!(
            "the clock may be wrong: it says {here}, and Tor ends every connection to a relay while it is being made, as \
             it does when certificates are not valid at that time"
        )),
        (None, None) => Verdict::Unknown,
    }
}

/// A length of time in its largest unit.
fn about(seconds: u64) -> String {
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let units = [(YEAR, YEAR, "year"), (2 * DAY, DAY, "day"), (HOUR, HOUR, "hour"), (0, 60, "minute")];
    let (_, unit, name) = units.into_iter().find(|(from, ..)| seconds >= *from).unwrap_or((0, 1, "second"));
    let count = seconds / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// What the owner can do about a wrong clock, with these settings.
#[must_use]
fn remedy(time: &Time) -> String {
    let mut text = String::from("Tor needs the time to connect; mail waits. ");
    if time.ntp {
        let _ = match time.servers.as_slice() {
            [] => write!(text, "The time servers are those that DHCP names"),
            servers => {
                let names: Vec<_> = servers.iter().map(ToString::to_string).collect();
                write!(text, "The time servers are {}", names.join(", "))
            }
        };
        text.push_str(": do they answer, and rightly? Others: [time] servers in cipolla.toml");
    } else {
        text.push_str(
            "Set the clock in the machine's firmware setup (of a virtual machine: on its host) and start again, or \
             have it asked for: [time] ntp = true in cipolla.toml",
        );
    }
    text
}

/// Asks Tor and judges the clock.
///
/// # Errors
/// When the clock stands before 1970.
pub fn look(machine: &Machine<'_>) -> Result<Verdict> {
    let now = machine.now.duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    // A Tor that does not answer is others' business.
    Ok(tor_control::standing().map_or(Verdict::Unknown, |tor| judge(now, &tor)))
}

impl Verdict {
    /// What the owner has to know, in one line: that the clock is wrong, and what to do.
    #[must_use]
    pub fn complaint(&self, machine: &Machine<'_>) -> Option<String> {
        let Self::Wrong(words) = self else { return None };
        // Settings that cannot be read are told elsewhere.
        let time = load::load(machine.fs, None).map(|loaded| loaded.settings.time).unwrap_or_default();
        Some(format!("{words}. {}", remedy(&time)))
    }

    /// Whether the Tor network agrees, if that is known.
    #[must_use]
    pub fn agrees(&self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Right => Some(true),
            Self::Wrong(_) => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 21:23 UTC.
    const NOW: u64 = 1_795_296_208;
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn tor() -> Standing {
        let consensus = Some(("2026-11-21 21:00:00".to_owned(), "2026-11-22 00:00:00".to_owned()));
        Standing { percent: 100, circuit: true, consensus, skew: None, hangs_up: false }
    }

    fn words(now: u64, tor: &Standing) -> String {
        match judge(now, tor) {
            Verdict::Wrong(words) => words,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_consensus_bounds_the_time() {
        for right in [NOW, NOW - HOUR, NOW + 3 * HOUR] {
            assert_eq!(judge(right, &tor()), Verdict::Right, "{right}");
        }
        assert_eq!(
            words(NOW - 2 * DAY, &tor()),
            "the clock is behind by 47 hours: it says 2026-11-19 21:23 UTC"
        );
        assert_eq!(
            words(NOW + 5 * HOUR, &tor()),
            "the clock is ahead by 2 hours, or Tor was cut off for so long: it says 2026-11-22 02:23 UTC"
        );
    }

    #[test]
    fn an_authority_knows_how_much() {
        let skewed = |skew| Standing { skew: Some(skew), percent: 40, ..tor() };
        assert!(words(NOW - 2 * DAY, &skewed(-176_000)).contains("behind by 2 days:"));
        assert!(words(NOW + 5 * HOUR, &skewed(18_000)).contains("ahead by 5 hours:"));
        // What was said before the clock was set right.
        assert_eq!(judge(NOW, &skewed(-176_000)), Verdict::Right);
        let alone = |skew| Standing { consensus: None, ..skewed(skew) };
        assert!(words(NOW, &alone(-94_608_000)).contains("behind by 3 years:"));
        assert!(words(NOW, &alone(7200)).contains("ahead by 2 hours:"));
        assert_eq!(judge(NOW, &alone(60)), Verdict::Unknown);
    }

    #[test]
    fn refused_certificates_are_a_sign() {
        let refused = Standing { percent: 14, consensus: None, hangs_up: true, ..tor() };
        assert!(words(NOW, &refused).starts_with("the clock may be wrong: it says 2026-11-21 21:23 UTC"));
        assert_eq!(judge(NOW, &Standing { hangs_up: false, ..refused }), Verdict::Unknown);
    }

    #[test]
    fn the_remedy_depends_on_the_settings() {
        let servers = vec!["192.0.2.1".parse().unwrap()];
        assert!(remedy(&Time { ntp: true, servers }).contains("are 192.0.2.1: do they answer"));
        assert!(remedy(&Time { ntp: true, servers: Vec::new() }).contains("that DHCP names"));
        assert!(remedy(&Time::default()).contains("firmware setup"));
    }
}
