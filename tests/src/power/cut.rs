//! When the power goes, and what of the last writes a disk has kept then. Pure: the same seed and the same record give
//! the same cuts.

use std::ops::Range;

use fastrand::Rng;
use qemu::{Logged, Request};

use super::history::{History, Time};

/// Cuts for each kind of moment.
pub(super) const EACH: usize = 20;

/// What a disk writes as a whole or not at all, in bytes: the size of its sectors, as the guest sees it.
const SECTOR: u64 = 512;

/// What the appliance is at when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    FirstBoot,
    Mail,
    Changes,
}

impl Moment {
    const ALL: [Self; 3] = [Self::FirstBoot, Self::Mail, Self::Changes];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FirstBoot => "the first start",
            Self::Mail => "mail",
            Self::Changes => "changes of settings",
        }
    }

    /// From when to when, and the promises that are given then.
    fn of(self, history: &History) -> (Range<Time>, Vec<Time>) {
        let (range, promises): (_, Vec<Time>) = match self {
            Self::FirstBoot => (0..history.booted(), Vec::new()),
            Self::Mail => {
                (history.mail..history.changes, history.accepted.iter().map(|(at, _)| *at).collect())
            }
            Self::Changes => {
                (history.changes..history.end() + 1, history.states.iter().map(|(at, _)| *at).collect())
            }
        };
        let promises = promises.into_iter().filter(|at| range.contains(at)).collect();
        (range, promises)
    }
}

/// What becomes of the writes that no flush vouches for yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They were in the disk's cache only.
    Lost,
    /// They had all arrived, as when only the machine's program is killed.
    Kept,
    /// Some arrived, in any order, and some in part; the last one not as a whole.
    Some,
}

/// A power cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) moment: Moment,
    /// How many requests were done.
    pub(super) at: Time,
    pub(super) fate: Fate,
    /// Decides which writes are kept by [`Fate::Some`].
    seed: u64,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fate = match self.fate {
            Fate::Lost => "lost",
            Fate::Kept => "kept",
            Fate::Some => "kept in part",
        };
        write!(f, "the cut after request {} ({}, writes without a flush {fate})", self.at, self.moment.name())
    }
}

/// The cuts of a seed, in the order of the record. Half of them come after any write, spread over the moment, the others
/// right after a promise, when what it rests on is youngest. The first start promises nothing.
pub(super) fn plan(seed: u64, requests: &[Logged], history: &History) -> Vec<Cut> {
    let mut rng = Rng::with_seed(seed);
    let mut cuts = Vec::new();
    for moment in Moment::ALL {
        let (range, promises) = moment.of(history);
        let is_write = |at: &Time| requests[*at].request == Request::Write && !history.is_mark(*at);
        let writes: Vec<Time> = range.clone().filter(is_write).collect();
        for number in 0..EACH {
            let promised = (number % 2 == 1).then(|| rng.choice(&promises)).flatten();
            let stratum = writes.len() * number / EACH..writes.len() * (number + 1) / EACH;
            // A mark stands behind its promise, so the time of the mark is early enough.
            let at = match promised {
                Some(mark) => *mark,
                None => rng.choice(&writes[stratum]).map_or(range.start, |write| write + 1),
            };
            let fate = [Fate::Lost, Fate::Some, Fate::Kept][number / 2 % 3];
            cuts.push(Cut { moment, at, fate, seed: rng.u64(..) });
        }
    }
    cuts.sort_by_key(|cut| cut.at);
    cuts
}

/// What a disk holds after a cut.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Of the requests before this time each one.
    pub(super) durable: Time,
    /// Of the later ones these, with their first bytes up to a limit.
    pub(super) later: Vec<(Time, u64)>,
    /// Of the later ones these are gone, or torn.
    pub(super) lost: Vec<Time>,
}

/// Works out what a disk has kept.
pub(super) fn kept(cut: &Cut, requests: &[Logged]) -> Kept {
    let mut rng = Rng::with_seed(cut.seed);
    let done = &requests[..cut.at.min(requests.len())];
    let durable = done.iter().rposition(|one| one.request == Request::Flush).map_or(0, |flush| flush + 1);
    let mut kept = Kept { durable, later: Vec::new(), lost: Vec::new() };
    for (number, one) in done.iter().enumerate().skip(durable) {
        let limit = match cut.fate {
            Fate::Lost => 0,
            Fate::Kept => one.length,
            Fate::Some => match rng.u8(..8) {
                // The last one was not over yet.
                _ if number + 1 == done.len() => rng.u64(0..(one.length / SECTOR).max(1)) * SECTOR,
                0..4 => one.length,
                4..6 => rng.u64(..=one.length / SECTOR) * SECTOR,
                _ => 0,
            },
        };
        if limit < one.length {
            kept.lost.push(number);
        }
        if limit > 0 {
            kept.later.push((number, limit));
        }
    }
    kept
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::history::tests::history;
    use super::*;

    /// A cut at that time.
    pub(in crate::power) fn cut(at: Time) -> Cut {
        Cut { moment: Moment::Mail, at, fate: Fate::Kept, seed: 0 }
    }

    /// Sixty requests, every fifth a flush.
    fn requests() -> Vec<Logged> {
        let kind = |number: u64| if number.is_multiple_of(5) { Request::Flush } else { Request::Write };
        (0..60).map(|number| Logged::new(kind(number), number * 4096, 4096, 0)).collect()
    }

    #[test]
    fn cuts_come_again_with_their_seed_and_lie_in_their_moments() {
        let (requests, history) = (requests(), history());
        let cuts = plan(1, &requests, &history);
        assert_eq!(cuts, plan(1, &requests, &history));
        assert_ne!(cuts, plan(2, &requests, &history));
        assert_eq!(cuts.len(), 3 * EACH);
        assert!(cuts.is_sorted_by_key(|cut| cut.at));
        for cut in &cuts {
            let range = match cut.moment {
                Moment::FirstBoot => 0..=10,
                Moment::Mail => 15..=31,
                Moment::Changes => 30..=51,
            };
            assert!(range.contains(&cut.at), "{cut}");
        }
        let right_after = |at| cuts.iter().filter(|cut| cut.at == at).count();
        assert!(right_after(20) + right_after(25) >= EACH / 2);
    }

    #[test]
    fn a_flush_vouches_for_what_was_done_before_it() {
        let requests = requests();
        let cut = |fate| Cut { moment: Moment::Mail, at: 19, fate, seed: 7 };
        let lost = kept(&cut(Fate::Lost), &requests);
        assert_eq!(lost, Kept { durable: 16, later: Vec::new(), lost: vec![16, 17, 18] });
        let all = kept(&cut(Fate::Kept), &requests);
        assert_eq!((all.durable, all.later.len(), all.lost.len()), (16, 3, 0));
        let some: Vec<_> = (0..64).map(|seed| kept(&Cut { seed, ..cut(Fate::Some) }, &requests)).collect();
        assert!(some.iter().any(|kept| kept.later.iter().any(|(_, limit)| *limit < 4096)));
        assert!(
            some.iter().any(|kept| kept.later.iter().any(|(at, _)| *at == 17) && kept.lost.contains(&16))
        );
        assert!(some.iter().all(|kept| kept.lost.contains(&18)));
        assert_eq!(kept(&Cut { at: 0, ..cut(Fate::Kept) }, &requests).durable, 0);
    }
}
