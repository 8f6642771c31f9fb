//! From what was seen to the next step: pure, times as arguments.

use std::fmt;

use serde::{Deserialize, Serialize};

const MINUTE: u64 = 60;
/// A look at everything is repeated after this time, in seconds; in between, whether Tor is connected is enough.
/// Each costs circuits of our own, and the network's relays answer the same question once in 15 minutes.
const PROOF_LASTS: u64 = 30 * MINUTE;
/// How long a trouble must last before the first step, in seconds: longer than one round of the timer.
const BEFORE_REFRESH: u64 = 4 * MINUTE;
/// A connection that is not there yet gets more time: often it is the network that is away.
const BEFORE_REFRESH_UNCONNECTED: u64 = 30 * MINUTE;
const BEFORE_RESTART: u64 = 15 * MINUTE;
const BEFORE_REPORT: u64 = 15 * MINUTE;
/// From then on Tor is restarted again in this rhythm, in seconds.
const BETWEEN_RESTARTS: u64 = 6 * 60 * MINUTE;
/// From then on after the start services are looked at, in seconds: they need some minutes until they are announced, and
/// the network's relays would not answer again soon.
const SETTLED: u64 = 10 * MINUTE;
/// A clock that was set back by so much, in seconds, makes Tor and Postfix wait that much longer for whatever they wait
/// for: both plan by the clock.
const SET_BACK: i64 = 600;
/// With a clock that is so much ahead, in seconds, Tor works, and publishes. Revisions of what it publishes are made from
/// the clock, and directories take no lower one (rend-spec-v3, "Revision counters") until they forget what they have, after
/// three hours. A Tor that restarts makes new introduction points, which nobody would find until then; one that goes
/// on keeps its own. Further ahead it published nothing, and has to restart to ask for a consensus at all (seen with
/// 0.4.9).
const BEARABLE: i64 = 24 * 60 * 60;
/// So many past steps are remembered.
const HISTORY: usize = 40;

/// Whether a service can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Its descriptor was found in the network and, if anybody may connect, its server answered.
    Reachable,
    /// It was asked for in vain, for this reason.
    Unreachable(String),
    /// It could not be found out, for this reason.
    Unknown(String),
}

/// What was seen at one look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// Tor does not answer at its control socket.
    Silent(String),
    /// Tor is not connected; so far it is at this percentage.
    Connecting(u8),
    /// Not everything can be reached, and the clock is wrong, in these words.
    WrongClock(String),
    /// Tor is connected, and these are the services that were looked at; none if nobody looked.
    Connected(Vec<(String, Service)>),
}

/// What can be done, from the least to the most disturbing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Tor reads its configuration again and takes new circuits.
    Refresh,
    /// Tor is restarted; all connections end.
    Restart,
    /// The owner has to know.
    Report,
    /// The clock was set back: Tor looks for a consensus, and waiting mail is tried.
    Resume,
    /// The clock was set back by more than Tor bears: it is restarted, and waiting mail is tried.
    Reset,
}

impl Step {
    /// What is being done, for the journal and the digest.
    #[must_use]
    pub const fn doing(self) -> &'static str {
        match self {
            Self::Refresh => "reloading Tor and asking for new circuits",
            Self::Restart => "restarting Tor",
            Self::Report => "telling the owner",
            Self::Resume => "reloading what waits by the clock",
            Self::Reset => "restarting what waits by the clock",
        }
    }
}

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Tor does not answer.
    Silent,
    /// Tor is not connected.
    Unconnected,
    /// The clock is wrong. No step helps; the owner is told by status, digest and console as long as it lasts.
    Clock,
    /// A service is away.
    Service,
}

/// A trouble that lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Its kind now.
    pub kind: Kind,
    /// What it is now.
    pub what: String,
    /// The last step, if one was taken.
    pub step: Option<Step>,
    /// When it was taken; without one, since when the trouble is of this kind.
    pub step_at: u64,
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// When, in seconds since 1970.
    pub at: u64,
    /// What.
    pub step: Step,
    /// Why.
    pub why: String,
}

/// What is kept from one look to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// When all services were last seen to be reachable, in seconds since 1970.
    pub proved: Option<u64>,
    /// What is wrong.
    pub trouble: Option<Trouble>,
    /// The last steps, the latest at the end.
    pub taken: Vec<Taken>,
    /// When the machine was started, by the clock as it was at the last look, in seconds since 1970. It moves with the
    /// clock whenever that is set.
    pub started: Option<u64>,
}

impl Memory {
    /// Whether it is time to look at everything, `uptime` seconds after the start.
    #[must_use]
    pub fn must_prove(&self, now: u64, uptime: u64) -> bool {
        // A clock that was set back makes the proof worthless, and calls for a step that need not wait for a new one.
        let fresh = |proved| (proved..proved + PROOF_LASTS).contains(&now);
        let due = self.trouble.is_some() || !self.proved.is_some_and(fresh);
        uptime >= SETTLED && due && self.set_by(now, uptime) > -SET_BACK
    }

    /// By how many seconds the clock was set since it was noted last.
    fn set_by(&self, now: u64, uptime: u64) -> i64 {
        let started = now.saturating_sub(uptime);
        started.cast_signed().saturating_sub(self.started.unwrap_or(started).cast_signed())
    }

    /// Notes how the clock stands, and returns by how many seconds it was set since it was noted last.
    pub(super) fn note_clock(&mut self, now: u64, uptime: u64) -> i64 {
        let set_by = self.set_by(now, uptime);
        self.started = Some(now.saturating_sub(uptime));
        set_by
    }
}

impl Memory {
    fn take(&mut self, at: u64, step: Step, why: String) {
        self.taken.push(Taken { at, step, why });
        let surplus = self.taken.len().saturating_sub(HISTORY);
        self.taken.drain(..surplus);
    }
}

/// What is wrong, if it is known that something is.
fn wrong(seen: &Seen) -> Option<String> {
    match seen {
        Seen::Silent(why) => Some(format!("Tor does not answer ({why})")),
        Seen::Connecting(100) => Some("Tor is not connected any more".to_owned()),
        Seen::Connecting(percent) => Some(format!("Tor is not connected ({percent} %)")),
        Seen::WrongClock(words) => Some(words.clone()),
        Seen::Connected(services) => {
            let lost = services.iter().filter_map(|(name, service)| match service {
                Service::Unreachable(why) => Some(format!("{name} cannot be reached ({why})")),
                Service::Reachable | Service::Unknown(_) => None,
            });
            let lost: Vec<_> = lost.collect();
            (!lost.is_empty()).then(|| lost.join(", "))
        }
    }
}

/// Decides what to remember and which step to take, at the time `now` and `uptime` seconds after the start.
#[must_use]
pub fn decide(mut memory: Memory, now: u64, uptime: u64, seen: &Seen) -> (Memory, Option<Step>) {
    let set_by = memory.note_clock(now, uptime);
    if set_by.abs() >= SET_BACK {
        // Times before and after cannot be compared.
        memory.trouble = None;
        memory.proved = None;
    }
    if set_by <= -SET_BACK {
        let why = format!("the clock was set back by {} minutes", set_by.unsigned_abs() / MINUTE);
        let step = if set_by > -BEARABLE { Step::Resume } else { Step::Reset };
        memory.take(now, step, why);
        return (memory, Some(step));
    }
    let Some(what) = wrong(seen) else {
        let Seen::Connected(services) = seen else { return (memory, None) };
        let reachable = |(_, service): &(String, Service)| *service == Service::Reachable;
        // Nothing new about a trouble is no end of it, unless the trouble was the connection alone.
        if !services.is_empty() && services.iter().all(reachable) {
            memory.proved = Some(now);
            memory.trouble = None;
        }
        return (memory, None);
    };
    let kind = match seen {
        Seen::Silent(_) => Kind::Silent,
        Seen::Connecting(_) => Kind::Unconnected,
        Seen::WrongClock(_) => Kind::Clock,
        Seen::Connected(_) => Kind::Service,
    };
    let trouble = match memory.trouble.take() {
        // A clock that was set back starts the waiting anew.
        Some(trouble) if trouble.since <= now && trouble.step_at <= now => {
            // So does another kind of trouble, until there was a step: a Tor that was not connected, and now does
            // not answer, may just be starting again.
            let anew = trouble.step.is_none() && trouble.kind != kind;
            Trouble { what, kind, step_at: if anew { now } else { trouble.step_at }, ..trouble }
        }
        _ => Trouble { since: now, kind, what, step: None, step_at: now },
    };
    let waited = now - trouble.step_at;
    let step = match (trouble.step, kind) {
        (_, Kind::Clock) => None,
        // Who does not answer cannot be asked to reload.
        (None, Kind::Silent) => (waited >= BEFORE_REFRESH).then_some(Step::Restart),
        (None, Kind::Unconnected) => (waited >= BEFORE_REFRESH_UNCONNECTED).then_some(Step::Refresh),
        (None, Kind::Service) => (waited >= BEFORE_REFRESH).then_some(Step::Refresh),
        (Some(Step::Refresh), _) => (waited >= BEFORE_RESTART).then_some(Step::Restart),
        (Some(Step::Restart), _) if !reported(&memory, &trouble) => {
            (waited >= BEFORE_REPORT).then_some(Step::Report)
        }
        (Some(Step::Restart | Step::Report | Step::Resume | Step::Reset), _) => {
            (waited >= BETWEEN_RESTARTS).then_some(Step::Restart)
        }
    };
    let trouble = match step {
        Some(step) => Trouble { step: Some(step), step_at: now, ..trouble },
        None => trouble,
    };
    if let Some(step) = step {
        memory.take(now, step, trouble.what.clone());
    }
    memory.trouble = Some(trouble);
    (memory, step)
}

/// Whether the owner was told of this trouble.
pub(super) fn reported(memory: &Memory, trouble: &Trouble) -> bool {
    memory.taken.iter().any(|taken| taken.step == Step::Report && taken.at >= trouble.since)
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(services) if services.is_empty() => write!(f, "Tor is connected"),
            Self::Connected(services) => {
                for (name, service) in services {
                    match service {
                        Service::Reachable => writeln!(f, "{name:8}can be reached")?,
                        Service::Unreachable(why) => writeln!(f, "{name:8}cannot be reached: {why}")?,
                        Service::Unknown(why) => writeln!(f, "{name:8}could not be looked at: {why}")?,
                    }
                }
                Ok(())
            }
            Self::Silent(_) | Self::Connecting(_) | Self::WrongClock(_) => {
                f.write_str(&wrong(self).unwrap_or_default())
            }
        }
    }
}

impl Seen {
    /// Whether nothing is known to be wrong.
    #[must_use]
    pub fn is_well(&self) -> bool {
        wrong(self).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One look, by a clock that nobody sets.
    fn decide(memory: Memory, now: u64, seen: &Seen) -> (Memory, Option<Step>) {
        super::decide(memory, now, now, seen)
    }

    fn connected(mx: Service) -> Seen {
        Seen::Connected(vec![("mx".into(), mx), ("client".into(), Service::Reachable)])
    }

    fn lost() -> Seen {
        connected(Service::Unreachable("its descriptor is not there".into()))
    }

    /// The steps that are taken when every five minutes, `looks` times, the same is seen; minutes and steps.
    fn steps(seen: &Seen, looks: u64) -> Vec<(u64, Step)> {
        let mut memory = Memory::default();
        let mut steps = Vec::new();
        for minute in (0..looks).map(|look| look * 5) {
            let (next, step) = decide(memory, 1_000_000 + minute * MINUTE, seen);
            memory = next;
            steps.extend(step.map(|step| (minute, step)));
        }
        steps
    }

    #[test]
    fn a_lost_service_is_mended_in_steps() {
        use Step::{Refresh, Report, Restart};
        assert_eq!(steps(&lost(), 9), [(5, Refresh), (20, Restart), (35, Report)]);
        assert_eq!(steps(&lost(), 90)[3..], [(395, Restart)], "six hours after the report");
    }

    #[test]
    fn who_does_not_answer_is_restarted_and_a_network_that_is_away_gets_time() {
        use Step::{Refresh, Restart};
        assert_eq!(steps(&Seen::Silent("refused".into()), 3), [(5, Restart)]);
        assert_eq!(steps(&Seen::Connecting(10), 11), [(30, Refresh), (45, Restart)]);
    }

    #[test]
    fn another_kind_of_trouble_is_waited_for_anew() {
        let (memory, _) = decide(Memory::default(), 1000, &Seen::Connecting(10));
        let (memory, step) = decide(memory, 1000 + 20 * MINUTE, &Seen::Silent("refused".into()));
        assert_eq!(step, None, "it may just be starting");
        let (memory, step) = decide(memory, 1000 + 25 * MINUTE, &Seen::Silent("refused".into()));
        assert_eq!((memory.trouble.map(|trouble| trouble.since), step), (Some(1000), Some(Step::Restart)));
    }

    #[test]
    fn one_bad_look_is_nothing() {
        let (memory, step) = decide(Memory::default(), 1000, &lost());
        assert_eq!(step, None);
        let (memory, step) = decide(memory, 1300, &connected(Service::Reachable));
        assert_eq!((memory.trouble, memory.proved, step), (None, Some(1300), None));
    }

    #[test]
    fn what_could_not_be_looked_at_changes_nothing() {
        let (before, _) = decide(Memory::default(), 1000, &lost());
        let (after, step) =
            decide(before.clone(), 2000, &connected(Service::Unknown("asked too often".into())));
        assert_eq!((after, step), (before, None));
        let (after, step) = decide(Memory::default(), 1000, &Seen::Connected(Vec::new()));
        assert_eq!((after.trouble, after.proved, step), (None, None, None));
    }

    #[test]
    fn everything_is_looked_at_now_and_then_and_while_something_is_wrong() {
        let proved = |proved| Memory { proved, ..Memory::default() };
        let later = SETTLED;
        assert!(proved(None).must_prove(1000, later) && !proved(None).must_prove(1000, later - 1));
        assert!(!proved(Some(1000)).must_prove(1000 + 29 * MINUTE, later));
        assert!(proved(Some(1000)).must_prove(1000 + 30 * MINUTE, later));
        assert!(proved(Some(1000)).must_prove(900, later), "the clock was set back");
        let (memory, _) = decide(proved(Some(1000)), 1001, &lost());
        assert!(memory.must_prove(1002, later));
        let noted = Memory { started: Some(100_000), ..Memory::default() };
        assert!(noted.must_prove(100_000 + later, later) && !noted.must_prove(90_000 + later, later));
    }

    #[test]
    fn what_waits_by_a_clock_that_was_set_back_starts_anew() {
        let (memory, _) = super::decide(Memory::default(), 100_000, 700, &lost());
        let (memory, step) = super::decide(memory, 82_060, 760, &lost());
        assert_eq!((memory.trouble.as_ref(), step), (None, Some(Step::Resume)));
        assert_eq!(memory.taken[0].why, "the clock was set back by 300 minutes");
        let (memory, step) = super::decide(memory, 82_120, 820, &lost());
        assert_eq!((memory.trouble.map(|trouble| trouble.since), step), (Some(82_120), None), "once");
    }

    #[test]
    fn a_tor_that_could_not_work_is_restarted() {
        let (memory, _) = super::decide(Memory::default(), 100_000_000, 700, &Seen::Connecting(100));
        let (_, step) = super::decide(memory, 5_000_000, 760, &Seen::Connecting(100));
        assert_eq!(step, Some(Step::Reset));
    }

    #[test]
    fn a_clock_that_is_set_forward_or_corrected_a_little_disturbs_nothing() {
        let well = connected(Service::Reachable);
        let (memory, _) = super::decide(Memory::default(), 100_000, 700, &well);
        let (memory, step) = super::decide(memory, 118_060, 760, &Seen::Connecting(100));
        assert_eq!((memory.proved, step), (None, None));
        assert_eq!(memory.trouble.as_ref().map(|trouble| trouble.since), Some(118_060));
        let (_, step) = super::decide(memory, 118_000, 820, &well);
        assert_eq!(step, None);
    }

    #[test]
    fn nothing_is_restarted_because_of_a_wrong_clock() {
        let wrong = Seen::WrongClock("the clock is behind by 2 days".into());
        assert_eq!(steps(&wrong, 200), []);
        assert!(!wrong.is_well());
        let (memory, _) = decide(Memory::default(), 1000, &wrong);
        let (memory, step) = decide(memory, 1000 + 60 * MINUTE, &Seen::Connecting(10));
        assert_eq!((memory.trouble.map(|trouble| trouble.kind), step), (Some(Kind::Unconnected), None));
    }

    #[test]
    fn the_memory_is_bounded_and_survives_being_written() {
        let mut memory = Memory::default();
        for hour in 0..2000 {
            memory = decide(memory, hour * 3600, &lost()).0;
        }
        assert_eq!(memory.taken.len(), HISTORY);
        let json = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<Memory>(&json).unwrap(), memory);
    }
}
