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
    /// How many run beside each other.
    beside: usize,
    /// How many of them are on their way to be alone.
    bound: usize,
    /// How many wait to be alone.
    waiting: usize,
    alone: bool,
}

impl Busy {
    /// Whether somebody may be alone now.
    fn is_quiet(&self) -> bool {
        !self.alone && self.beside == 0
    }

    /// Where in the queue the next one stands that may begin. While somebody is on the way to be alone, that is one of the
    /// short ones only, which have no machine: the others would be waited for.
    fn next(&self) -> Option<usize> {
        match (self.alone || self.waiting > 0, self.bound) {
            (true, _) => None,
            (false, 0) => (!self.queue.is_empty()).then_some(0),
            (false, _) => self.queue.iter().position(|(_, scenario)| !scenario.wants_machine()),
        }
    }
}

impl Room {
    /// The next scenario and its place, as soon as it may begin; nothing if all have begun.
    fn next(&self, ctx: &Context) -> Option<(usize, Box<dyn Runnable>, Place<'_>)> {
        let mut busy = self.wait_while(|busy| !busy.queue.is_empty() && busy.next().is_none());
        let next = busy.next()?;
        let (number, scenario) = busy.queue.remove(next)?;
        let bound = scenario.wants_to_be_alone(ctx);
        busy.beside += 1;
        busy.bound += usize::from(bound);
        Some((number, scenario, Place { room: self, bound, alone: false }))
    }

    /// The place of a scenario that runs by itself.
    #[cfg(test)]
    pub(crate) fn place(&self) -> Place<'_> {
        lock(&self.busy).beside += 1;
        Place { room: self, bound: false, alone: false }
    }

    fn wait_while(&self, condition: impl Fn(&Busy) -> bool) -> MutexGuard<'_, Busy> {
        let busy = lock(&self.busy);
        self.changed.wait_while(busy, |busy| condition(busy)).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A scenario's place among those that run: beside others, until it has to be alone.
pub(crate) struct Place<'r> {
    room: &'r Room,
    /// Whether it has yet to be alone.
    bound: bool,
    alone: bool,
}

impl Place<'_> {
    /// Whether nobody else runs; then nobody does until this one lets them.
    pub(crate) fn try_alone(&mut self) -> bool {
        let mut busy = lock(&self.room.busy);
        if !self.alone && !busy.alone && busy.beside == 1 {
            busy.beside = 0;
            busy.alone = true;
            self.alone = true;
        }
        self.alone
    }

    /// Waits until those that run have come to their ends; no other begins meanwhile.
    pub(crate) fn wait_alone(&mut self) {
        if self.alone {
            return;
        }
        let mut busy = lock(&self.room.busy);
        busy.beside -= 1;
        busy.waiting += 1;
        drop(busy);
        self.room.changed.notify_all();
        let mut busy = self.room.wait_while(|busy| !busy.is_quiet());
        busy.waiting -= 1;
        busy.alone = true;
        self.alone = true;
    }

    /// Lets others run beside it again.
    pub(crate) fn not_alone(&mut self) {
        if std::mem::take(&mut self.alone) {
            let mut busy = lock(&self.room.busy);
            busy.alone = false;
            busy.beside += 1;
            busy.bound -= usize::from(std::mem::take(&mut self.bound));
            drop(busy);
            self.room.changed.notify_all();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.not_alone();
        let mut busy = lock(&self.room.busy);
        busy.beside -= 1;
        // It may have ended before it came so far.
        busy.bound -= usize::from(self.bound);
        drop(busy);
        self.room.changed.notify_all();
    }
}

/// Runs scenarios in their order, as many at a time as the context says. The outcomes are in the order of the scenarios.
pub(crate) fn run(
    scenarios: Vec<Box<dyn Runnable>>,
    ctx: &Context,
    probe: &Probe,
    out: &mut (dyn Write + Send),
) -> Result<Report> {
    let selected =
        |one: &dyn Runnable| one.checks(ctx).iter().any(|(check, _)| ctx.selects(&one.name(), check));
    let queue: VecDeque<_> = scenarios.into_iter().filter(|one| selected(one.as_ref())).enumerate().collect();
    let lanes = ctx.lanes.min(NonZeroUsize::new(queue.len()).unwrap_or(NonZeroUsize::MIN));
    let ctx = &Context { lanes, ..ctx.clone() };
    let busy = Mutex::new(Busy { queue, ..Busy::default() });
    let room = &Room { busy, changed: Condvar::new() };
    let shared = Shared::new(out);
    let lane = || -> Result<Vec<(usize, Report)>> {
        let mut done = Vec::new();
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
    /// One on its way to be alone, and a short one.
    static ON_THE_WAY: Barrier = Barrier::new(2);

    struct Toy {
        name: &'static str,
    }

    impl Toy {
        fn is_short(&self) -> bool {
            self.name == "seven"
        }
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

        fn wants_machine(&self) -> bool {
            !self.is_short()
        }

        fn start(&self, _: &Context, _: &Probe) -> anyhow::Result<()> {
            if self.name == "three" || self.is_short() {
                ON_THE_WAY.wait();
            }
            Ok(())
        }

        fn phases(&self, _: &Context) -> Vec<Phase<()>> {
            let (alone, short) = (["three", "four"].contains(&self.name), self.is_short());
            let run = move |(): &mut ()| {
                RUNNING.fetch_add(1, Ordering::SeqCst);
                if short {
                    return PASS;
                }
                if !alone {
                    MEET.wait();
                    BESIDE.fetch_add(1, Ordering::SeqCst);
                    return PASS;
                }
                std::thread::sleep(Duration::from_millis(20));
                let others = RUNNING.load(Ordering::SeqCst) - 1;
                // Those that stand behind it have not begun.
                let before = BESIDE.load(Ordering::SeqCst);
                if others == 0 && before == 2 { PASS } else { fail(format!("{others} run, {before} ran")) }
            };
            let leave = move |(): &mut ()| {
                RUNNING.fetch_sub(1, Ordering::SeqCst);
                fail("so that there is something to say at the end")
            };
            let phase = Phase::of(vec![check("runs", &[], run), check("fails", &[], leave)]);
            vec![if alone { phase.alone() } else { phase }]
        }

        fn evidence(&self, (): &mut ()) -> Vec<Evidence> {
            vec![(format!("console of {}", self.name), vec!["the tail".into()])]
        }

        fn reach(&self, (): &()) -> Option<String> {
            None
        }
    }

    #[test]
    fn lanes_keep_the_order_and_leave_alone_what_wants_to_be() {
        let names = ["one", "two", "three", "four", "five", "six", "seven"];
        let toys = names.map(|name| Box::new(Toy { name }) as Box<dyn Runnable>).into();
        // Two meet, one is on its way to be alone, and a short one is begun meanwhile.
        let ctx = Context { lanes: 4.try_into().unwrap(), ..crate::runner::context() };
        let probe = Probe { accel: qemu::Accel::Tcg, why: String::new() };
        let mut out = Vec::new();
        let report = run(toys, &ctx, &probe, &mut out).unwrap();
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
