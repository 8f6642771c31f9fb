//! The boots after a cut: two of the disks, which the seed chooses, are started and have to come up as if nothing had
//! been.

use anyhow::{Context as _, anyhow};
use qemu::{Disk, RunDir};

use super::cut::{self, Moment};
use super::{Judged, State, judge};
use crate::appliance::{self, Appliance};
use crate::check::{Check, PASS, Verdict, check, fail, gate, none_of};
use crate::first_boot;
use crate::left;

/// A machine on a disk that a cut left.
pub(super) struct Started<M> {
    pub(super) machine: M,
    /// Which cut it was.
    number: usize,
}

/// The two boots.
#[derive(Clone, Copy)]
enum Which {
    /// From the midst of the first start.
    First,
    /// From mail or changes of settings.
    Later,
}

/// Starts both machines, side by side.
pub(super) fn start(state: &mut State) -> anyhow::Result<()> {
    let (first, later) = choose(state)?;
    for number in [first, later] {
        eprintln!("  a machine is started after {}", state.judged[number].cut);
    }
    // A start that is not over gets the settings once more; one that is over has kept its own.
    let appliance = spawn(state, "first", first, Some(&state.settings))?;
    let machine = first_boot::State::new(appliance, state.run_dir.clone());
    state.first = Some(Started { machine, number: first });
    state.later = Some(Started { machine: spawn(state, "later", later, None)?, number: later });
    Ok(())
}

/// Ends the machine that nobody looks at any more: it would take time from the other one.
pub(super) fn end_later(state: &mut State) -> anyhow::Result<()> {
    if let Some(later) = state.later.take() {
        later.machine.cut_power()?;
    }
    Ok(())
}

/// The machine whose first start lost its power.
pub(super) fn first(state: &mut State) -> anyhow::Result<&mut first_boot::State> {
    state.first.as_mut().map(|first| &mut first.machine).ok_or_else(|| anyhow!("no machine is up"))
}

/// A cut of the first start that left a key but not all of the identity, and one of the cuts after which there is mail
/// to be lost.
fn choose(state: &State) -> anyhow::Result<(usize, usize)> {
    let mut rng = fastrand::Rng::with_seed(state.seed);
    let mut pick = |fits: &dyn Fn(&Judged) -> bool| {
        let numbers = 0..state.judged.len();
        let fitting: Vec<_> = numbers.filter(|number| fits(&state.judged[*number])).collect();
        rng.choice(fitting).context("there is no cut to start a machine after")
    };
    let first = pick(&|one| one.cut.moment == Moment::FirstBoot && one.has_part_of_the_identity())?;
    let later = pick(&|one| one.cut.moment == Moment::Changes)?;
    Ok((first, later))
}

fn spawn(state: &State, name: &str, number: usize, settings: Option<&str>) -> anyhow::Result<Appliance> {
    let run_dir = RunDir::create(&state.run_dir.file(name))?;
    let (disk, log) = (run_dir.file("disk.img"), state.log()?);
    let kept = cut::kept(&state.judged[number].cut, log.requests());
    super::disk::whole(&state.ctx, log, &kept, &disk)?;
    let appliance = Appliance::spawn_as(&state.ctx, &state.probe, run_dir, |spec| {
        spec.disk = Some(Disk::Raw(disk));
        spec.credentials.extend(settings.map(appliance::settings));
    });
    appliance.context("starting a machine after a cut")
}

pub(super) fn checks() -> Vec<Check<State>> {
    use Which::{First, Later};
    vec![
        gate("boots_after_power_cuts", &["R49"], boot),
        check("cut_first_boot_finishes", &["R49"], |state: &mut State| up(state, First)),
        // The seed chooses the step; the agent's own tests take each one.
        check("power_cut_at_every_step_resumes", &["R3", "R49"], |state: &mut State| same_keys(state, First)),
        check("cut_appliance_comes_up", &["R38"], |state: &mut State| up(state, Later)),
        check("cut_appliance_keeps_its_keys", &["R3", "R49"], |state: &mut State| same_keys(state, Later)),
        check("cut_appliance_has_all_mail", &["R38", "R41"], all_mail),
    ]
}

/// The machine, and the number of its cut.
fn started(state: &mut State, which: Which) -> anyhow::Result<(&mut Appliance, usize)> {
    let started = match which {
        Which::First => state.first.as_mut().map(|one| (&mut one.machine.appliance, one.number)),
        Which::Later => state.later.as_mut().map(|one| (&mut one.machine, one.number)),
    };
    started.ok_or_else(|| anyhow!("no machine is up"))
}

/// Both boots come to their end.
fn boot(state: &mut State) -> Verdict {
    first(state)?.wait_boot().context("the machine whose first start was cut")?;
    started(state, Which::Later)?.0.wait_boot().context("the machine that was cut later")?;
    PASS
}

/// It has no failed unit, has nothing left to do, knows its addresses, and its file system says nothing.
fn up(state: &mut State, which: Which) -> Verdict {
    let (appliance, number) = started(state, which)?;
    let mut findings = Vec::new();
    let failed = appliance.read("systemctl --failed --plain --no-legend")?;
    findings.extend(failed.lines().map(|unit| format!("failed: {unit}")));
    let plan = appliance.read("cipolla boot --dry-run")?;
    if plan.trim() != "nothing to do" {
        findings.push(format!("the agent is not done: {}", plan.trim()));
    }
    let left = appliance.read("find /data -xdev -name '.*.cipolla-new*'")?;
    findings.extend(left.lines().map(|path| format!("{path} is left over")));
    // Its exit code says whether all is well, which it is not without a network.
    let status = appliance.run("cipolla status --json")?;
    let hostnames = appliance.read("cat /var/lib/tor/mx/hostname /var/lib/tor/client/hostname")?;
    let unknown = hostnames.lines().filter(|address| !status.stdout.contains(address));
    findings.extend(unknown.map(|address| format!("the status does not know {address}: {}", status.stdout)));
    findings.extend(file_system_is_silent(appliance)?.err());
    findings.extend(appliance::webmail_database_is_whole(appliance)?.err());
    let cut = &state.judged[number].cut;
    state.verdict(findings.into_iter().map(|finding| format!("{cut}: {finding}")).collect())
}

/// The kernel has nothing to say about the file system but that it was mounted.
pub(super) fn file_system_is_silent(appliance: &mut Appliance) -> Verdict {
    let words = "EXT4-fs (error|warning)|JBD2: .*(error|corrupt|fail)|I/O error|Buffer I/O";
    let script = format!("journalctl -b -k --no-pager -o cat --grep '{words}' || test $? = 1");
    let said = appliance.read(&script)?;
    none_of(&said.lines().map(str::to_owned).collect::<Vec<_>>())
}

/// Keys and secrets that were on the disk are those of now; after the first start that means all.
fn same_keys(state: &mut State, which: Which) -> Verdict {
    let places = left::LASTING.join(" ");
    let script = format!("cd /data && find {places} -type f -exec sha256sum {{}} +");
    let (appliance, number) = started(state, which)?;
    let now = left::checksums(&appliance.read(&script)?);
    let Judged { cut, left, .. } = &state.judged[number];
    let changed = left
        .files
        .iter()
        .filter(|(path, file)| judge::is_identity(path) && now.get(*path).is_none_or(|sum| *sum != file.sum));
    state.verdict(changed.map(|(path, _)| format!("{cut}: {path} is another one, or gone")).collect())
}

/// What was accepted before the cut is in mailboxes and queue, as the running appliance has them.
fn all_mail(state: &mut State) -> Verdict {
    let script = format!(
        "cd /data/var && grep -raohE '{}' $(find vmail -type d '(' -name new -o -name cur ')') \
         $(find spool/postfix -mindepth 1 -maxdepth 1 '(' {} ')') | sort -u",
        judge::ENDS,
        judge::QUEUES.map(|name| format!("-name {name}")).join(" -o ")
    );
    let (appliance, number) = started(state, Which::Later)?;
    let words = appliance.read(&script)?;
    let has = |word: String| words.lines().any(|line| line == word);
    let cut = &state.judged[number].cut;
    let history = state.history()?;
    let tokens: Vec<_> = history.accepted(cut.at).collect();
    if tokens.is_empty() {
        return fail(format!("{cut}: nothing had been accepted, so this shows nothing"));
    }
    let lost =
        tokens.into_iter().filter(|token| !has(format!("{token}-begin")) || !has(format!("{token}-end")));
    state.verdict(lost.map(|token| format!("{cut}: the accepted message {token} is gone")).collect())
}
