//! The vocabulary of a scenario: checks in phases.

use std::borrow::Cow;

use qemu::Probe;

use crate::Context;

/// What a check found. The outer error: it could not be checked. The inner one: it was, and it is not so; the
/// text says what is instead.
pub(crate) type Verdict = anyhow::Result<Result<(), String>>;

/// The verdict for something that is so.
pub(crate) const PASS: Verdict = Ok(Ok(()));

/// The verdict for something that is not so.
pub(crate) fn fail(instead: impl Into<String>) -> Verdict {
    Ok(Err(instead.into()))
}

/// The verdict of a list of findings, of which there should be none.
pub(crate) fn none_of(findings: &[String]) -> Verdict {
    match findings {
        [] => PASS,
        found => fail(found.join("\n")),
    }
}

/// One named check.
pub(crate) struct Check<S> {
    pub(crate) name: Cow<'static, str>,
    /// Rows of the requirements list that it shows.
    pub(crate) requirements: &'static [&'static str],
    /// Whether the rest of the scenario makes no sense without it.
    pub(crate) gate: bool,
    pub(crate) run: Box<dyn Fn(&mut S) -> Verdict>,
}

/// A check of a table.
pub(crate) fn check<S>(
    name: impl Into<Cow<'static, str>>,
    requirements: &'static [&'static str],
    run: impl Fn(&mut S) -> Verdict + 'static,
) -> Check<S> {
    Check { name: name.into(), requirements, gate: false, run: Box::new(run) }
}

/// A check that the rest of the scenario hangs on.
pub(crate) fn gate<S>(
    name: impl Into<Cow<'static, str>>,
    requirements: &'static [&'static str],
    run: impl Fn(&mut S) -> Verdict + 'static,
) -> Check<S> {
    Check { gate: true, ..check(name, requirements, run) }
}

impl<S: 'static> Check<S> {
    /// The same check, of a scenario that has its state as a part.
    pub(crate) fn within<T: 'static>(self, part: fn(&mut T) -> anyhow::Result<&mut S>) -> Check<T> {
        let Self { name, requirements, gate, run } = self;
        Check { name, requirements, gate, run: Box::new(move |whole| run(part(whole)?)) }
    }
}

/// What leads into a situation.
type Enter<S> = Box<dyn Fn(&mut S) -> anyhow::Result<()>>;

/// Checks that share a situation, and how to get into it from the one before.
pub(crate) struct Phase<S> {
    pub(crate) enter: Enter<S>,
    pub(crate) checks: Vec<Check<S>>,
    /// Whether it measures how fast something is, so that no other scenario may run beside it.
    pub(crate) alone: bool,
    /// How many machines are up from here on, if that is more or less than before.
    pub(crate) machines: Option<usize>,
}

impl<S: 'static> Phase<S> {
    /// Checks in the situation that there is.
    pub(crate) fn of(checks: Vec<Check<S>>) -> Self {
        Self::after(|_| Ok(()), checks)
    }

    /// Checks in the situation that `enter` makes.
    pub(crate) fn after(
        enter: impl Fn(&mut S) -> anyhow::Result<()> + 'static,
        checks: Vec<Check<S>>,
    ) -> Self {
        Self { enter: Box::new(enter), checks, alone: false, machines: None }
    }

    /// The same phase, of a scenario that has its state as a part.
    pub(crate) fn within<T: 'static>(self, part: fn(&mut T) -> anyhow::Result<&mut S>) -> Phase<T> {
        let Self { enter, checks, alone, machines } = self;
        let checks = checks.into_iter().map(|check| check.within(part)).collect();
        Phase { enter: Box::new(move |whole| enter(part(whole)?)), checks, alone, machines }
    }

    /// The same, when all other scenarios are done or wait to be alone, too.
    pub(crate) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// The same, with so many machines up from here on. For more than before it waits until there is room.
    pub(crate) fn machines(self, machines: usize) -> Self {
        Self { machines: Some(machines), ..self }
    }
}

/// A title and the lines of something that explains a failure.
pub(crate) type Evidence = (String, Vec<String>);

/// A scenario. Its state lives from `start` to the last check; dropping it ends what it started.
pub(crate) trait Scenario {
    type State;

    fn name(&self) -> Cow<'static, str>;

    /// A sentence for the person who watches.
    fn about(&self) -> Cow<'static, str>;

    /// Whether it uses [`Context::browser`].
    fn wants_browser(&self) -> bool {
        false
    }

    /// How many machines of the image's architecture it starts with; [`Phase::machines`] tells of others later.
    fn machines(&self) -> usize {
        1
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<Self::State>;

    fn phases(&self, ctx: &Context) -> Vec<Phase<Self::State>>;

    /// Called once, at the end of the first phase in which a check failed.
    fn evidence(&self, state: &mut Self::State) -> Vec<Evidence>;

    /// How to reach what stays up when the context says `keep`.
    fn reach(&self, state: &Self::State) -> Option<String>;
}
