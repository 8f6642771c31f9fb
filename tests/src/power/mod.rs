//! The power goes at random moments of the first start, of mail delivery and of changes of settings, some dozens of
//! times.
//!
//! A boot takes a minute without KVM, so the machine is not cut dozens of times. It runs once, and QEMU records every
//! write and every flush of its disk ([`qemu::WriteLog`]). From the record the disk is made again as a cut after any
//! request would have left it: everything that a flush vouches for is there, and of the later writes nothing, all, or
//! any part, torn at the boundaries of sectors. That is more than killing QEMU can show, whose writes have all
//! reached the host, and a cut costs a second. What a cut left is read from outside ([`left`](crate::left)) after the
//! repair that a boot does, and judged by what the appliance had promised by then: `guest.py` marks its promises in
//! the record itself, so no clock has to be trusted. At the end two of these disks are really started. What a first start
//! makes is then looked at on the machine whose first start lost its power ([`first_boot`]).
//!
//! What this does not show: a flush vouches for all requests that were done before it, also for those that the guest
//! sent meanwhile and that a disk might still lose; requests that were under way count as lost.
//!
//! | module | what is there |
//! |---|---|
//! | `record` | the run that is recorded |
//! | `history` | promises, out of the record |
//! | `cut` | when the power goes, and what a disk keeps then |
//! | `disk` | disks as cuts left them |
//! | `judge` | what a cut may leave |
//! | `after` | boots on such disks |
//!
//! Cuts follow from a seed and the record. The seed is always the same unless `CIPOLLA_SEED` says another; a failure
//! prints it with the record, and with both the same cuts are judged again, without the recorded run.

mod after;
mod cut;
mod disk;
mod history;
mod judge;
mod record;

use std::borrow::Cow;
use std::fmt::Write as _;

use anyhow::Context as _;
use qemu::{Probe, RunDir, WriteLog};

use crate::Context;
use crate::appliance::Appliance;
use crate::check::{Check, Evidence, Phase, Scenario, Verdict, check, none_of};
use crate::first_boot;
use crate::left::Left;
use cut::{Cut, Fate, Moment};
use history::History;

/// The seed if nobody names one.
const SEED: u64 = 1;

/// How many findings are told: a fault that one cut shows is shown by most later ones too.
const SHOWN: usize = 20;

/// What the file of an onion service's secret key is called.
const KEY: &str = "hs_ed25519_secret_key";

pub(crate) struct Power;

/// Machines are dropped before the record that their disks were made from.
pub(crate) struct State {
    ctx: Context,
    probe: Probe,
    run_dir: RunDir,
    seed: u64,
    /// The owner's.
    settings: String,
    recorded: Option<Appliance>,
    first: Option<after::Started<first_boot::State>>,
    later: Option<after::Started<Appliance>>,
    judged: Vec<Judged>,
    log: Option<WriteLog>,
    history: Option<History>,
}

/// A cut and what it left.
struct Judged {
    cut: Cut,
    left: Left,
    /// How many writes it lost, whole or in part, but for marks.
    lost: usize,
}

impl Judged {
    /// Whether a file whose path ends so is left.
    fn has(&self, end: &str) -> bool {
        self.left.files.keys().any(|path| path.ends_with(end))
    }

    /// Whether the cut came between the first key and the end of the identity.
    fn has_part_of_the_identity(&self) -> bool {
        self.has(KEY) && !self.has("private/complete")
    }
}

impl State {
    fn log(&self) -> anyhow::Result<&WriteLog> {
        self.log.as_ref().context("there is no record of writes")
    }

    fn history(&self) -> anyhow::Result<&History> {
        self.history.as_ref().context("the record of writes was not read")
    }

    /// The verdict of a list of findings, with the command that makes the same cuts again.
    fn verdict(&self, mut findings: Vec<String>) -> Verdict {
        if let (false, Some(log)) = (findings.is_empty(), &self.log) {
            let more = findings.len().saturating_sub(SHOWN);
            findings.truncate(SHOWN);
            if more > 0 {
                findings.push(format!("and {more} more"));
            }
            let (seed, log) = (self.seed, log.path().display());
            findings.push(format!("again: CIPOLLA_SEED={seed} CIPOLLA_WRITES={log} cargo xtask test power"));
        }
        none_of(&findings)
    }
}

impl Scenario for Power {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "power".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "power cuts in first start, mail and changes of settings: what each leaves, and what a first start then makes"
            .into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let seed = ctx.seed.unwrap_or(SEED);
        eprintln!("  seed {seed}");
        let run_dir = RunDir::create(&ctx.run_root.join("power"))?;
        let key = first_boot::owner_key(ctx, &run_dir)?;
        Ok(State {
            ctx: ctx.clone(),
            probe: probe.clone(),
            run_dir,
            seed,
            settings: format!("[owner]\nmailbox = \"ada\"\nssh_keys = [\"{key}\"]\n"),
            recorded: None,
            first: None,
            later: None,
            judged: Vec::new(),
            log: None,
            history: None,
        })
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<State>> {
        let mut phases = vec![
            Phase::after(cut_and_read, judgement()),
            Phase::after(after::start, after::checks()).machines(2),
            Phase::after(after::end_later, Vec::new()),
            first_boot::phase().within(after::first).machines(1),
        ];
        if ctx.writes.is_none() {
            phases.insert(0, Phase::after(record::start, record::checks()));
        }
        phases
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        let first = state.first.as_mut().map(|first| &mut first.machine.appliance);
        let later = state.later.as_mut().map(|later| &mut later.machine);
        [state.recorded.as_mut(), first, later].into_iter().flatten().flat_map(Appliance::evidence).collect()
    }

    fn reach(&self, state: &State) -> Option<String> {
        let first = state.first.as_ref().map(|first| &first.machine.appliance);
        let later = state.later.as_ref().map(|later| &later.machine);
        let up = [state.recorded.as_ref(), first, later].into_iter().flatten();
        let ways: Vec<_> = up.map(|appliance| appliance.machine.how_to_reach()).collect();
        (!ways.is_empty()).then(|| ways.join("\n"))
    }
}

/// Ends the recorded run, chooses the cuts and reads what each of them leaves.
fn cut_and_read(state: &mut State) -> anyhow::Result<()> {
    record::end(state)?;
    let path = state.ctx.writes.clone().unwrap_or_else(|| state.run_dir.write_log());
    let log = WriteLog::load(&path)?;
    let history = History::read(&log)?;
    let mut data = disk::DataDisk::start(&state.ctx, &state.run_dir, &log)?;
    let scratch = state.run_dir.file("cut");
    let places = [&judge::STATE[..], &judge::MAIL].concat();
    for cut in cut::plan(state.seed, log.requests(), &history) {
        let kept = cut::kept(&cut, log.requests());
        let left = data
            .after(&state.ctx, &kept)
            .and_then(|file| Left::read(&state.ctx.programs, file, &scratch, judge::ENDS, &places));
        let left = left.with_context(|| format!("reading the disk: {cut}"))?;
        let lost = kept.lost.iter().filter(|at| !history.is_mark(**at)).count();
        state.judged.push(Judged { cut, left, lost });
    }
    drop(data);
    fs_err::write(state.run_dir.file("figures.txt"), figures(state.seed, &state.judged, &log, &history))?;
    (state.log, state.history) = (Some(log), Some(history));
    Ok(())
}

/// For a person: what was recorded, and what each cut left.
fn figures(seed: u64, judged: &[Judged], log: &WriteLog, history: &History) -> String {
    let mut text = format!(
        "seed {seed}, {} requests, {} messages accepted, {} states of the settings\n",
        log.requests().len(),
        history.accepted.len(),
        history.states.len()
    );
    for Judged { cut, left, lost } in judged {
        let (whole, accepted) = (judge::whole(left).len(), history.accepted(cut.at).count());
        let _ = writeln!(
            text,
            "{cut}: {lost} writes lost, {} files, {whole} messages whole, {accepted} accepted",
            left.files.len()
        );
    }
    text
}

fn judgement() -> Vec<Check<State>> {
    vec![
        check("cuts_leave_clean_file_systems", &["R38"], |state: &mut State| {
            let damage =
                |one: &Judged| one.left.damage.iter().map(|line| format!("{}: {line}", one.cut)).collect();
            state.verdict(state.judged.iter().flat_map::<Vec<_>, _>(damage).collect())
        }),
        check("cuts_keep_the_identity", &["R3", "R49"], |state: &mut State| each(state, judge::identity)),
        check("cuts_keep_accepted_mail", &["R38", "R41"], |state: &mut State| each(state, judge::mail)),
        check("cuts_leave_settings_whole", &["R49"], |state: &mut State| each(state, judge::settings)),
        check("cuts_are_worth_their_name", &[], worth),
    ]
}

/// Judges what every cut left.
fn each(state: &State, judge: fn(&Cut, &Left, &History) -> Vec<String>) -> Verdict {
    let history = state.history()?;
    state.verdict(state.judged.iter().flat_map(|one| judge(&one.cut, &one.left, history)).collect())
}

/// The cuts came when something was at stake, and the judges see a loss: with what one of the first cuts left, the
/// promises of the last one would not be kept.
fn worth(state: &mut State) -> Verdict {
    let history = state.history()?;
    let mut findings = Vec::new();
    let mut wanted = |what: &str, is: &dyn Fn(&Judged) -> bool| {
        if !state.judged.iter().any(is) {
            findings.push(format!("no cut {what}"));
        }
    };
    wanted("came before the first key was made", &|one| !one.has(KEY));
    wanted("came between the first key and the end of the identity", &Judged::has_part_of_the_identity);
    wanted("came while a message was in the queue", &|one| {
        one.cut.moment == Moment::Mail
            && one.left.words.iter().any(|(_, path)| path.starts_with("var/spool/postfix"))
    });
    for moment in [Moment::FirstBoot, Moment::Mail, Moment::Changes] {
        for fate in [Fate::Lost, Fate::Some] {
            wanted(&format!("lost a write in {} by {fate:?}", moment.name()), &|one| {
                one.cut.moment == moment && one.cut.fate == fate && one.lost > 0
            });
        }
    }
    let (Some(early), Some(last)) = (state.judged.first(), state.judged.last()) else {
        return state.verdict(findings);
    };
    for (what, judge) in [
        ("lost mail", judge::mail as fn(&Cut, &Left, &History) -> Vec<String>),
        ("lost settings", judge::settings),
        ("a lost identity", judge::identity),
    ] {
        if judge(&last.cut, &early.left, history).is_empty() {
            findings.push(format!("{what} would not be noticed"));
        }
    }
    state.verdict(findings)
}
