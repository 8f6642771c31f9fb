//! Runs scenarios side by side. Most of a scenario is waiting, for Tor and for timers, and a lane fills that with another.

use std::collections::VecDeque;
use std::io::{Result, Write};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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

/// A scenario's place among those that run: beside others, until it has to be alone.
pub(crate) struct Place<'r> {
    room: &'r RwLock<()>,
    beside: Option<RwLockReadGuard<'r, ()>>,
    alone: Option<RwLockWriteGuard<'r, ()>>,
}

impl<'r> Place<'r> {
    /// Waits while somebody is alone in the room.
    pub(crate) fn among_others(room: &'r RwLock<()>) -> Self {
        let beside = Some(room.read().unwrap_or_else(PoisonError::into_inner));
        Self { room, beside, alone: None }
    }

    /// Whether no other scenario runs; then none begins either. Who is not alone holds nothing from now on, so that two
    /// who want to be get their turns.
    pub(crate) fn try_alone(&mut self) -> bool {
        if self.alone.is_none() {
            self.beside = None;
            self.alone = self.room.try_write().ok();
        }
        self.alone.is_some()
    }

    /// Lets others run beside it again.
    pub(crate) fn not_alone(&mut self) {
        if self.alone.take().is_some() {
            self.beside = Some(self.room.read().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits until the others have come to their ends.
    pub(crate) fn wait_alone(&mut self) {
        if !self.try_alone() {
            self.alone = Some(self.room.write().unwrap_or_else(PoisonError::into_inner));
        }
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
    let (queue, shared, room) = (Mutex::new(queue), Shared::new(out), RwLock::default());
    let lane = || -> Result<Vec<(usize, Report)>> {
        let mut done = Vec::new();
        loop {
            let Some((number, scenario)) = lock(&queue).pop_front() else { return Ok(done) };
            let (mut report, mut place) = (Report::default(), Place::among_others(&room));
            let mut voice = Voice { shared: &shared, many: lanes.get() > 1 };
            scenario.run(ctx, probe, &mut report, &mut voice, &mut place)?;
            done.push((number, report));
        }
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
        alone: bool,
    }

    impl Scenario for Toy {
        type State = ();

        fn name(&self) -> Cow<'static, str> {
            self.name.into()
        }

        fn about(&self) -> Cow<'static, str> {
            "a scenario without a machine".into()
        }

        fn start(&self, _: &Context, _: &Probe) -> anyhow::Result<()> {
            Ok(())
        }

        fn phases(&self, _: &Context) -> Vec<Phase<()>> {
            let alone = self.alone;
            let run = move |(): &mut ()| {
                RUNNING.fetch_add(1, Ordering::SeqCst);
                if !alone {
                    MEET.wait();
                    return PASS;
                }
                std::thread::sleep(Duration::from_millis(20));
                let others = RUNNING.load(Ordering::SeqCst) - 1;
                if others == 0 { PASS } else { fail(format!("{others} others run")) }
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
        let toys = [("one", false), ("two", false), ("three", true), ("four", true)];
        let toys = toys.map(|(name, alone)| Box::new(Toy { name, alone }) as Box<dyn Runnable>).into();
        let ctx = Context { lanes: 2.try_into().unwrap(), ..crate::runner::context() };
        let probe = Probe { accel: qemu::Accel::Tcg, why: String::new() };
        let mut out = Vec::new();
        let report = run(toys, &ctx, &probe, &mut out).unwrap();
        let runs: Vec<_> = report.outcomes.iter().filter(|one| one.check == "runs").collect();
        assert_eq!(
            runs.iter().map(|one| one.scenario.as_str()).collect::<Vec<_>>(),
            ["one", "two", "three", "four"]
        );
        assert!(runs.iter().all(|one| one.problem.is_none()), "{runs:?}");
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("  ok      one::runs ") && out.contains("  ok      two::runs "), "{out}");
        assert!(
            out.contains("\nthree:\n  console of three\n    | the tail\n  again, leaving it up"),
            "{out}"
        );
    }
}
