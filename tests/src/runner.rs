//! Walks a scenario: one line per check as it is known, every failure reported, evidence at the end.

use std::borrow::Cow;
use std::io::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use qemu::Probe;

use crate::check::{Check, Scenario, Verdict};
use crate::lanes::{Place, Voice};
use crate::report::{self, paint};
use crate::{Context, Outcome, Problem, Report};

/// A scenario whose state nobody needs to know.
pub(crate) trait Runnable: Send {
    fn name(&self) -> Cow<'static, str>;

    /// Each check's name, and the rows of the requirements list that it shows.
    fn checks(&self, ctx: &Context) -> Vec<(String, &'static [&'static str])>;

    fn wants_browser(&self) -> bool;

    fn machines(&self) -> usize;

    /// Whether a selected check has to be alone.
    fn wants_alone(&self, ctx: &Context) -> bool;

    fn run(
        &self,
        ctx: &Context,
        probe: &Probe,
        report: &mut Report,
        out: &mut Voice<'_>,
        place: &mut Place<'_>,
    ) -> Result<()>;
}

impl<T: Scenario + Send> Runnable for T {
    fn name(&self) -> Cow<'static, str> {
        Scenario::name(self)
    }

    fn checks(&self, ctx: &Context) -> Vec<(String, &'static [&'static str])> {
        let phases = self.phases(ctx);
        let checks = phases.iter().flat_map(|phase| &phase.checks);
        checks.map(|check| (check.name.to_string(), check.requirements)).collect()
    }

    fn wants_browser(&self) -> bool {
        Scenario::wants_browser(self)
    }

    fn machines(&self) -> usize {
        Scenario::machines(self)
    }

    fn wants_alone(&self, ctx: &Context) -> bool {
        let name = Scenario::name(self);
        let phases = self.phases(ctx);
        let mut checks = phases.iter().filter(|phase| phase.alone).flat_map(|phase| &phase.checks);
        checks.any(|check| ctx.selects(&name, &check.name))
    }

    fn run(
        &self,
        ctx: &Context,
        probe: &Probe,
        report: &mut Report,
        out: &mut Voice<'_>,
        place: &mut Place<'_>,
    ) -> Result<()> {
        walk(self, ctx, probe, report, out, place)
    }
}

fn walk<T: Scenario>(
    scenario: &T,
    ctx: &Context,
    probe: &Probe,
    report: &mut Report,
    out: &mut Voice<'_>,
    place: &mut Place<'_>,
) -> Result<()> {
    let name = scenario.name();
    let phases = scenario.phases(ctx);
    let selected = |check: &Check<T::State>| ctx.selects(&name, &check.name);
    let Some(last) = phases.iter().rposition(|phase| phase.checks.iter().any(selected)) else {
        return Ok(());
    };
    out.say(&format!("{}: {}", paint(ctx.colour, "1", &name), scenario.about()))?;
    let before = report.outcomes.len();
    let mut sink = Sink { scenario: &name, colour: ctx.colour, report, out };

    let start = Instant::now();
    let (mut state, mut lost) = match guarded(|| scenario.start(ctx, probe)) {
        Ok(state) => (Some(state), None),
        Err(error) => (None, Some(format!("starting the scenario: {error:#}"))),
    };
    let mut took = start.elapsed();
    let mut evidence = Vec::new();
    for phase in &phases[..=last] {
        let before = sink.report.failed();
        if !phase.alone {
            place.not_alone();
        } else if lost.is_none() {
            sink.wait_alone(place)?;
        }
        if let (Some(machines), None) = (phase.machines, &lost) {
            sink.wait_room(place, machines)?;
        }
        if let (Some(state), None) = (&mut state, &lost) {
            let start = Instant::now();
            lost = guarded(|| (phase.enter)(state)).err().map(|error| format!("{error:#}"));
            took += start.elapsed();
        }
        for check in phase.checks.iter().filter(|check| check.gate || selected(check)) {
            let start = Instant::now();
            let problem = match (&mut state, &lost) {
                (Some(state), None) => problem(guarded(|| (check.run)(state))),
                (_, Some(why)) => Some(Problem::NotChecked(why.clone())),
                (None, None) => None,
            };
            if let Some(why) = &problem
                && check.gate
                && lost.is_none()
            {
                lost = Some(format!("not reached: {} {}", check.name, first_line(why.text())));
            }
            // Getting there is part of what the first check after it took.
            sink.take(check, problem, start.elapsed() + std::mem::take(&mut took))?;
            // Told in full once.
            lost = lost.map(|why| first_line(&why).to_owned());
        }
        // Now, since the next phase may end what could bear witness.
        if let Some(state) = &mut state
            && evidence.is_empty()
            && sink.report.failed() > before
        {
            evidence = scenario.evidence(state);
        }
    }
    let failed = sink.report.outcomes[before..].iter().any(|outcome| outcome.problem.is_some());
    let mut end = Vec::new();
    for (title, lines) in evidence {
        end.push(format!("  {title}"));
        end.extend(lines.into_iter().map(|line| format!("    | {line}")));
    }
    if ctx.keep
        && let Some(how) = state.as_ref().and_then(|state| scenario.reach(state))
    {
        end.push(how);
    }
    if failed {
        end.push(format!("  again, leaving it up: cargo xtask test {name} --keep"));
    }
    out.conclude(&name, &end)
}

/// Where outcomes go.
struct Sink<'a, 'v> {
    scenario: &'a str,
    colour: bool,
    report: &'a mut Report,
    out: &'a mut Voice<'v>,
}

impl Sink<'_, '_> {
    /// Ends when no other scenario runs. The time does not count: it is that of others.
    fn wait_alone(&mut self, place: &mut Place<'_>) -> Result<()> {
        if !place.try_alone() {
            self.out.say(&format!("{}: waits for the others, to be alone", self.scenario))?;
            place.wait_alone();
        }
        Ok(())
    }

    /// Ends when there is room for so many machines. The time does not count, either.
    fn wait_room(&mut self, place: &mut Place<'_>, machines: usize) -> Result<()> {
        if !place.try_resize(machines) {
            self.out.say(&format!("{}: waits for room, to have {machines} machines", self.scenario))?;
            place.wait_resize(machines);
        }
        Ok(())
    }

    fn take<S>(&mut self, check: &Check<S>, problem: Option<Problem>, time: Duration) -> Result<()> {
        let outcome = Outcome {
            scenario: self.scenario.to_owned(),
            check: check.name.to_string(),
            requirements: check.requirements,
            time,
            problem,
        };
        self.out.say(&report::line(&outcome, self.out.is_one_of_many(), self.colour))?;
        self.report.outcomes.push(outcome);
        Ok(())
    }
}

fn problem(verdict: Verdict) -> Option<Problem> {
    match verdict {
        Ok(Ok(())) => None,
        Ok(Err(instead)) => Some(Problem::Failed(instead)),
        Err(error) => Some(Problem::NotChecked(format!("{error:#}"))),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A panic in a check is a check that could not be done; the others still can.
fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(anyhow::anyhow!("the check panicked: {words}"))
    })
}

/// A context for tests that touch no image.
#[cfg(test)]
pub(crate) fn context() -> Context {
    Context {
        image: "image".into(),
        image_manifest: None,
        arch: qemu::Arch::Amd64,
        program: "/nowhere/program".into(),
        checkout: "/nowhere/checkout".into(),
        cache: "/nowhere/cache".into(),
        recipe: "recipes/none.toml".into(),
        programs: qemu::Programs::debian(qemu::Arch::Amd64, Vec::new()),
        scanners: Vec::new(),
        browser: None,
        run_root: "run".into(),
        results: "results".into(),
        golden: "golden".into(),
        bless: false,
        forbidden: std::collections::BTreeMap::new(),
        seed: None,
        writes: None,
        keep: false,
        lanes: std::num::NonZeroUsize::MIN,
        filters: Vec::new(),
        colour: false,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;
    use crate::check::{Evidence, PASS, Phase, check, fail, gate};
    use crate::lanes::Room;

    struct Toy {
        boots: bool,
    }

    impl Scenario for Toy {
        type State = Vec<&'static str>;

        fn name(&self) -> Cow<'static, str> {
            "toy".into()
        }

        fn about(&self) -> Cow<'static, str> {
            "a scenario without a machine".into()
        }

        fn start(&self, _: &Context, _: &Probe) -> anyhow::Result<Self::State> {
            Ok(vec!["start"])
        }

        fn phases(&self, _: &Context) -> Vec<Phase<Self::State>> {
            let boots = self.boots;
            let first = vec![
                gate("boots", &[], move |_| if boots { PASS } else { fail("no prompt\nand a tail") }),
                check("fails", &[], |_| fail("it is not so")),
                check("panics", &[], |_| panic!("oh")),
                check("errs", &[], |_| bail!("no shell")),
            ];
            let second = vec![check("remembers", &[], |state: &mut Self::State| {
                assert_eq!(*state, ["start", "reboot"]);
                PASS
            })];
            let reboot = |state: &mut Self::State| {
                state.push("reboot");
                Ok(())
            };
            vec![Phase::of(first), Phase::after(reboot, second)]
        }

        fn evidence(&self, _: &mut Self::State) -> Vec<Evidence> {
            vec![("console".into(), vec!["the tail".into()])]
        }

        fn reach(&self, _: &Self::State) -> Option<String> {
            None
        }
    }

    fn run(boots: bool, filters: &[&str]) -> (Vec<(String, bool)>, String) {
        let probe = Probe { accel: qemu::Accel::Tcg, why: String::new() };
        let mut ctx = context();
        ctx.filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let (mut report, mut out) = (Report::default(), Vec::new());
        let shared = std::sync::Mutex::new(&mut out as &mut (dyn std::io::Write + Send));
        let (room, mut voice) = (Room::default(), Voice::alone(&shared));
        let mut place = room.place();
        Runnable::run(&Toy { boots }, &ctx, &probe, &mut report, &mut voice, &mut place).unwrap();
        let outcomes = report.outcomes.into_iter().map(|one| (one.check, one.problem.is_none())).collect();
        (outcomes, String::from_utf8(out).unwrap())
    }

    fn owned(outcomes: &[(&str, bool)]) -> Vec<(String, bool)> {
        outcomes.iter().map(|(name, passed)| ((*name).to_owned(), *passed)).collect()
    }

    #[test]
    fn every_failure_is_reported_and_the_rest_still_runs() {
        let (outcomes, out) = run(true, &[]);
        let want =
            [("boots", true), ("fails", false), ("panics", false), ("errs", false), ("remembers", true)];
        assert_eq!(outcomes, owned(&want));
        assert!(out.contains("    | the tail"), "{out}");
        assert!(out.contains("the check panicked: oh"), "{out}");
        assert!(out.contains("again, leaving it up: cargo xtask test toy --keep"), "{out}");
    }

    #[test]
    fn behind_a_closed_gate_nothing_passes() {
        let (outcomes, out) = run(false, &[]);
        assert_eq!(outcomes.len(), 5);
        assert!(outcomes.iter().all(|(_, passed)| !passed));
        assert_eq!(out.matches("and a tail").count(), 1, "{out}");
        assert!(out.contains("not reached: boots no prompt"), "{out}");
    }

    #[test]
    fn a_filter_brings_the_gates_with_it() {
        assert_eq!(run(true, &["remembers"]).0, owned(&[("boots", true), ("remembers", true)]));
        assert_eq!(run(true, &["toy::fails"]).0, owned(&[("boots", true), ("fails", false)]));
        let both = [("boots", true), ("fails", false), ("remembers", true)];
        assert_eq!(run(true, &["toy::fails", "remembers"]).0, owned(&both));
        assert!(run(true, &["other"]).1.is_empty());
    }
}
