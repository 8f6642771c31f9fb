//! Runs scenarios side by side. Most of a scenario is waiting, for Tor and for timers, and a lane fills that with another.

use std::collections::VecDeque;
use std::io::{Result, Write};
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use qemu::Probe;

use crate::runner::Runnable;
use crate::{Context, Report};

type Shared<'o> = Mutex<&'o mut (dyn Write + Send)>;

/// A scenario's way to the person: whole lines, among those of others.
pub(crate) struct Voice<'o> {
    shared: &'o Shared<'o>,
    many: bool,
}

impl<'o> Voice<'o> {
    /// The voice of a scenario that runs by itself.
    #[cfg(test)]
    pub(crate) fn alone(shared: &'o Shared<'o>) -> Self {
        Self { shared, many: false }
    }

    /// Whether lines have to say which scenario they are about.
    pub(crate) fn is_one_of_many(&self) -> bool {
        self.many
    }

    /// One line, or several that belong together.
    pub(crate) fn say(&mut self, lines: &str) -> Result<()> {
        let mut out = lock(self.shared);
        writeln!(out, "{lines}")?;
        out.flush()
    }

    /// What is left to say at the end of a scenario.
    pub(crate) fn conclude(&mut self, scenario: &str, lines: &[String]) -> Result<()> {
        match (self.many, lines) {
            (true, []) => Ok(()),
            (true, lines) => self.say(&format!("{scenario}:\n{}\n", lines.join("\n"))),
            (false, []) => self.say(""),
            (false, lines) => self.say(&format!("{}\n", lines.join("\n"))),
        }
    }
}

/// What is still to be done, and who is at it.
#[derive(Default)]
pub(crate) struct Room {
    busy: Mutex<Busy>,
    changed: Condvar,
}

#[derive(Default)]
struct Busy {
    queue: VecDeque<(usize, Box<dyn Runnable>)>,
    /// What begins once `awaited` is none.
    later: VecDeque<(usize, Box<dyn Runnable>)>,
    /// How many scenarios have still to be alone before `later` begins.
    awaited: usize,
    /// Lanes that have not ended.
    lanes: usize,
    /// How many machines may be up at a time.
    most: usize,
    /// Shares ([`share`]) of those that run beside each other.
    beside: usize,
    /// How many wait to be alone.
    waiting: usize,
    /// How many wait to have more machines. Nobody begins before they do.
    growing: usize,
    alone: bool,
}

impl Busy {
    /// Whether somebody may be alone now: nobody runs, and nobody will begin, for every lane waits or nothing is left
    /// but what begins later.
    fn is_quiet(&self) -> bool {
        let nobody_begins = self.queue.is_empty() || self.waiting == self.lanes;
        !self.alone && self.beside == 0 && self.growing == 0 && nobody_begins
    }

    /// Whether there is room for such a share beside those of others. Where nobody runs there is room for any.
    fn has_room(&self, others: usize, share: usize) -> bool {
        others == 0 || others + share <= self.most
    }

    /// The first that there is room for beside those that run.
    fn fitting(&self) -> Option<usize> {
        let fits =
            |one: &dyn Runnable| self.growing == 0 && self.has_room(self.beside, share(one.machines()));
        self.queue.iter().position(|(_, one)| fits(one.as_ref()))
    }

    /// One less has still to be alone.
    fn was_alone(&mut self) {
        self.awaited -= 1;
        if self.awaited == 0 {
            self.queue.append(&mut self.later);
        }
    }
}

impl Room {
    /// The next scenario that there is room for, and its place, as soon as nobody is alone; nothing if all have begun.
    fn next(&self, ctx: &Context) -> Option<(usize, Box<dyn Runnable>, Place<'_>)> {
        let mut busy = self.wait_while(|busy| {
            let all_begun = busy.queue.is_empty() && busy.later.is_empty();
            busy.alone || (busy.fitting().is_none() && !all_begun)
        });
        let place = busy.fitting()?;
        let (number, scenario) = busy.queue.remove(place)?;
        let share = share(scenario.machines());
        busy.beside += share;
        let awaited = busy.awaited > 0 && scenario.wants_alone(ctx);
        drop(busy);
        // The last one began: lanes that had no room for it have nothing to wait for.
        self.changed.notify_all();
        Some((number, scenario, Place { room: self, share, alone: false, awaited }))
    }

    /// The place of a scenario that runs by itself.
    #[cfg(test)]
    pub(crate) fn place(&self) -> Place<'_> {
        lock(&self.busy).beside += 1;
        Place { room: self, share: 1, alone: false, awaited: false }
    }

    fn wait_while(&self, condition: impl Fn(&Busy) -> bool) -> MutexGuard<'_, Busy> {
        let busy = lock(&self.busy);
        self.changed.wait_while(busy, |busy| condition(busy)).unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a scenario with so many machines takes of what runs at a time. One without a machine keeps a processor busy as
/// well.
fn share(machines: usize) -> usize {
    machines.max(1)
}

/// A lane, until it ends, however it does.
struct Lane<'r>(&'r Room);

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        lock(&self.0.busy).lanes -= 1;
        self.0.changed.notify_all();
    }
}

/// A scenario's place among those that run: beside others, until it has to be alone.
pub(crate) struct Place<'r> {
    room: &'r Room,
    share: usize,
    alone: bool,
    /// Whether what begins later waits until it has been alone.
    awaited: bool,
}

impl Place<'_> {
    /// Whether nobody else runs, and nobody waits to begin; then nobody does until this one lets them.
    pub(crate) fn try_alone(&mut self) -> bool {
        if !self.alone {
            let mut busy = lock(&self.room.busy);
            busy.beside -= self.share;
            busy.waiting += 1;
            self.alone = busy.is_quiet();
            busy.alone |= self.alone;
            busy.waiting -= 1;
            busy.beside += if self.alone { 0 } else { self.share };
        }
        self.alone
    }

    /// Waits until the others have come to their ends, those that have not begun as well, but for what begins later.
    pub(crate) fn wait_alone(&mut self) {
        if self.alone {
            return;
        }
        let mut busy = lock(&self.room.busy);
        busy.beside -= self.share;
        busy.waiting += 1;
        drop(busy);
        self.room.changed.notify_all();
        let mut busy = self.room.wait_while(|busy| !busy.is_quiet());
        busy.waiting -= 1;
        busy.alone = true;
        self.alone = true;
    }

    /// Has so many machines from here on, if there is room; for less there always is.
    pub(crate) fn try_resize(&mut self, machines: usize) -> bool {
        let share = share(machines);
        if self.alone {
            self.share = share;
            return true;
        }
        let mut busy = lock(&self.room.busy);
        let others = busy.beside - self.share;
        let fits = share <= self.share || busy.has_room(others, share);
        if fits {
            busy.beside = others + share;
            self.share = share;
            drop(busy);
            self.room.changed.notify_all();
        }
        fits
    }

    /// Waits for room to have so many machines. Meanwhile its own count for nothing, so that two that wait for each
    /// other's go on.
    pub(crate) fn wait_resize(&mut self, machines: usize) {
        if self.try_resize(machines) {
            return;
        }
        let share = share(machines);
        let mut busy = lock(&self.room.busy);
        busy.beside -= self.share;
        busy.growing += 1;
        drop(busy);
        self.room.changed.notify_all();
        let mut busy = self.room.wait_while(|busy| busy.alone || !busy.has_room(busy.beside, share));
        busy.growing -= 1;
        busy.beside += share;
        self.share = share;
        drop(busy);
        self.room.changed.notify_all();
    }

    /// Lets others run beside it again.
    pub(crate) fn not_alone(&mut self) {
        if std::mem::take(&mut self.alone) {
            let mut busy = lock(&self.room.busy);
            busy.alone = false;
            busy.beside += self.share;
            if std::mem::take(&mut self.awaited) {
                busy.was_alone();
            }
            drop(busy);
            self.room.changed.notify_all();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.not_alone();
        let mut busy = lock(&self.room.busy);
        busy.beside -= self.share;
        // It may have come to its end before.
        if self.awaited {
            busy.was_alone();
        }
        drop(busy);
        self.room.changed.notify_all();
    }
}

/// Scenarios in the order in which they begin.
pub(crate) struct Order {
    /// Those that have to be alone, and what fills the other lanes until they are.
    pub(crate) first: Vec<Box<dyn Runnable>>,
    /// What begins after that.
    pub(crate) later: Vec<Box<dyn Runnable>>,
}

impl Order {
    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn Runnable> {
        self.first.iter().chain(&self.later).map(AsRef::as_ref)
    }
}

/// Runs scenarios in their order, with as many machines up at a time as the context says; where the next would be too many,
/// one behind it goes first. The outcomes are in the order of the scenarios.
pub(crate) fn run(
    order: Order,
    ctx: &Context,
    probe: &Probe,
    out: &mut (dyn Write + Send),
) -> Result<Report> {
    let selected =
        |one: &dyn Runnable| one.checks(ctx).iter().any(|(check, _)| ctx.selects(&one.name(), check));
    let mut numbers = 0..;
    let mut begin = |all: Vec<Box<dyn Runnable>>| -> VecDeque<_> {
        let wanted: Vec<_> = all.into_iter().filter(|one| selected(one.as_ref())).collect();
        numbers.by_ref().zip(wanted).collect()
    };
    let (mut queue, mut later) = (begin(order.first), begin(order.later));
    let awaited = queue.iter().filter(|(_, one)| one.wants_alone(ctx)).count();
    if awaited == 0 {
        queue.append(&mut later);
    }
    // Few scenarios need few lanes, but may have as many machines as ever.
    let most = ctx.lanes.get();
    let lanes = ctx.lanes.min(NonZeroUsize::new(queue.len() + later.len()).unwrap_or(NonZeroUsize::MIN));
    let ctx = &Context { lanes, ..ctx.clone() };
    let busy = Mutex::new(Busy { queue, later, awaited, most, lanes: lanes.get(), ..Busy::default() });
    let room = &Room { busy, changed: Condvar::new() };
    let shared = Shared::new(out);
    let lane = || -> Result<Vec<(usize, Report)>> {
        let (mut done, _lane) = (Vec::new(), Lane(room));
        while let Some((number, scenario, mut place)) = room.next(ctx) {
            let mut report = Report::default();
            let mut voice = Voice { shared: &shared, many: lanes.get() > 1 };
            scenario.run(ctx, probe, &mut report, &mut voice, &mut place)?;
            done.push((number, report));
        }
        Ok(done)
    };
    let mut reports = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes.get()).map(|_| scope.spawn(lane)).collect();
        // A check that panics is caught where it runs; a panic here is a fault of the runner.
        let joined = lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.collect::<Result<Vec<_>>>()
    })?
    .concat();
    reports.sort_by_key(|(number, _)| *number);
    Ok(Report { outcomes: reports.into_iter().flat_map(|(_, report)| report.outcomes).collect() })
}

/// A lane that panicked left nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::check::{Evidence, PASS, Phase, Scenario, check, fail};

    /// How many checks run at this moment.
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    /// Two scenarios that wait for each other.
    static MEET: Barrier = Barrier::new(2);

    struct Toy {
        name: &'static str,
        machines: usize,
        /// How many checks have run beside others when it is alone, if it has to be.
        alone: Option<usize>,
    }

    /// How many checks have run beside others.
    static BESIDE: AtomicUsize = AtomicUsize::new(0);

    impl Scenario for Toy {
        type State = ();

        fn name(&self) -> Cow<'static, str> {
            self.name.into()
        }

        fn about(&self) -> Cow<'static, str> {
            "a scenario without a machine".into()
        }

        fn machines(&self) -> usize {
            self.machines
        }

        fn start(&self, _: &Context, _: &Probe) -> anyhow::Result<()> {
            Ok(())
        }

        fn phases(&self, _: &Context) -> Vec<Phase<()>> {
            let alone = self.alone;
            let run = move |(): &mut ()| {
                RUNNING.fetch_add(1, Ordering::SeqCst);
                let Some(wanted) = alone else {
                    MEET.wait();
                    BESIDE.fetch_add(1, Ordering::SeqCst);
                    return PASS;
                };
                std::thread::sleep(Duration::from_millis(20));
                let others = RUNNING.load(Ordering::SeqCst) - 1;
                // Also those that stand behind it, but none of those that begin later.
                let before = BESIDE.load(Ordering::SeqCst);
                if others == 0 && before == wanted {
                    PASS
                } else {
                    fail(format!("{others} run, {before} ran"))
                }
            };
            let leave = move |(): &mut ()| {
                RUNNING.fetch_sub(1, Ordering::SeqCst);
                fail("so that there is something to say at the end")
            };
            let phase = Phase::of(vec![check("runs", &[], run), check("fails", &[], leave)]);
            vec![if alone.is_some() { phase.alone() } else { phase }]
        }

        fn evidence(&self, (): &mut ()) -> Vec<Evidence> {
            vec![(format!("console of {}", self.name), vec!["the tail".into()])]
        }

        fn reach(&self, (): &()) -> Option<String> {
            None
        }
    }

    #[test]
    fn there_is_room_for_so_many_machines() {
        let toys = [2, 1, 0].map(|machines| Box::new(Toy { name: "toy", machines, alone: None }) as Box<_>);
        let mut busy = Busy { queue: (0..).zip(toys).collect(), most: 3, ..Busy::default() };
        let mut beside = |beside| {
            busy.beside = beside;
            busy.fitting()
        };
        assert_eq!([0, 1, 2, 3].map(&mut beside), [Some(0), Some(0), Some(1), None]);
        // Nobody runs: too large a one is not waited with for ever.
        busy.most = 1;
        busy.beside = 0;
        assert_eq!(busy.fitting(), Some(0));
    }

    #[test]
    fn a_place_grows_when_there_is_room_and_shrinks_at_once() {
        let room = Room::default();
        lock(&room.busy).most = 3;
        let (mut one, mut two) = (room.place(), room.place());
        assert!(one.try_resize(2) && !two.try_resize(2));
        std::thread::scope(|scope| {
            let grown = scope.spawn(|| {
                two.wait_resize(2);
                two.share
            });
            while lock(&room.busy).growing == 0 {
                std::thread::yield_now();
            }
            {
                let mut busy = lock(&room.busy);
                assert_eq!(busy.beside, 2);
                let toy = Toy { name: "toy", machines: 0, alone: None };
                busy.queue.push_back((0, Box::new(toy)));
                // There would be room, but somebody waited before.
                assert_eq!(busy.fitting(), None);
            }
            assert!(one.try_resize(1));
            assert_eq!(grown.join().unwrap(), 2);
        });
        assert_eq!(lock(&room.busy).beside, 3);
        drop((one, two));
        assert_eq!(lock(&room.busy).fitting(), Some(0));
    }

    #[test]
    fn lanes_keep_the_order_and_leave_alone_what_wants_to_be() {
        let names = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
        // The last one comes after the second two that meet.
        let alone = [None, None, Some(4), Some(4), None, None, None, None, Some(6)];
        let toys = names.into_iter().zip(alone);
        let mut toys =
            toys.map(|(name, alone)| Box::new(Toy { name, machines: 0, alone }) as Box<dyn Runnable>);
        let order = Order { first: toys.by_ref().take(6).collect(), later: toys.collect() };
        // Two of them stand still with those that wait to be alone, and two meet.
        let ctx = Context { lanes: 4.try_into().unwrap(), ..crate::runner::context() };
        let probe = Probe { accel: qemu::Accel::Tcg, why: String::new() };
        let mut out = Vec::new();
        let report = run(order, &ctx, &probe, &mut out).unwrap();
        let runs: Vec<_> = report.outcomes.iter().filter(|one| one.check == "runs").collect();
        assert_eq!(runs.iter().map(|one| one.scenario.as_str()).collect::<Vec<_>>(), names);
        assert!(runs.iter().all(|one| one.problem.is_none()), "{runs:?}");
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("  ok      one::runs ") && out.contains("  ok      two::runs "), "{out}");
        assert!(
            out.contains("\nthree:\n  console of three\n    | the tail\n  again, leaving it up"),
            "{out}"
        );
    }
}
