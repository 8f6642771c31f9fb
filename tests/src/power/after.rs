//! The boots after a cut: two of the disks, which the seed chooses, are started and have to come up as if nothing had
//! been.

use anyhow::{Context as _, anyhow};
use qemu::{Disk, RunDir};

use super::cut::{self, Moment};
use super::{Judged, OWNER, State, judge};
use crate::appliance::{self, Appliance};
use crate::check::{Check, Verdict, check, fail, none_of};
use crate::left;

/// A machine on a disk that a cut left.
pub(super) struct Started {
    appliance: Appliance,
    /// Which cut it was.
    number: usize,
}

impl Started {
    pub(super) fn appliance(&mut self) -> &mut Appliance {
        &mut self.appliance
    }

    pub(super) fn how_to_reach(&self) -> String {
        self.appliance.machine.how_to_reach()
    }
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
    state.first = Some(spawn(state, "first", first, Some(OWNER))?);
    state.later = Some(spawn(state, "later", later, None)?);
    Ok(())
}

/// A cut of the first start that left a key, and one of the cuts after which there is mail to be lost.
fn choose(state: &State) -> anyhow::Result<(usize, usize)> {
    let mut rng = fastrand::Rng::with_seed(state.seed);
    let mut pick = |fits: &dyn Fn(&Judged) -> bool| {
        let numbers = 0..state.judged.len();
        let fitting: Vec<_> = numbers.filter(|number| fits(&state.judged[*number])).collect();
        rng.choice(fitting).context("there is no cut to start a machine after")
    };
    let has_key = |one: &Judged| one.left.files.keys().any(|path| path.ends_with("hs_ed25519_secret_key"));
    let first = pick(&|one| one.cut.moment == Moment::FirstBoot && has_key(one))?;
    let later = pick(&|one| one.cut.moment == Moment::Changes)?;
    Ok((first, later))
}

fn spawn(state: &State, name: &str, number: usize, settings: Option<&str>) -> anyhow::Result<Started> {
    let run_dir = RunDir::create(&state.run_dir.file(name))?;
    let (disk, log) = (run_dir.file("disk.img"), state.log()?);
    let kept = cut::kept(&state.judged[number].cut, log.requests());
    super::disk::whole(&state.ctx, log, &kept, &disk)?;
    let appliance = Appliance::spawn_as(&state.ctx, &state.probe, run_dir, |spec| {
        spec.disk = Some(Disk::Raw(disk));
        spec.credentials.extend(settings.map(appliance::settings));
    });
    Ok(Started { appliance: appliance.context("starting a machine after a cut")?, number })
}

pub(super) fn checks() -> Vec<Check<State>> {
    use Which::{First, Later};
    vec![
        check("cut_first_boot_finishes", &["R49"], |state: &mut State| up(state, First)),
        check("cut_first_boot_keeps_its_keys", &["R3", "R49"], |state: &mut State| same_keys(state, First)),
        check("cut_appliance_comes_up", &["R38"], |state: &mut State| up(state, Later)),
        check("cut_appliance_keeps_its_keys", &["R3", "R49"], |state: &mut State| same_keys(state, Later)),
        check("cut_appliance_has_all_mail", &["R38", "R41"], all_mail),
    ]
}

fn started(state: &mut State, which: Which) -> anyhow::Result<&mut Started> {
    let one = match which {
        Which::First => &mut state.first,
        Which::Later => &mut state.later,
    };
    one.as_mut().ok_or_else(|| anyhow!("no machine is up"))
}

/// It boots, has no failed unit, has nothing left to do, knows its addresses, and its file system says nothing.
fn up(state: &mut State, which: Which) -> Verdict {
    let number = started(state, which)?.number;
    let cut = state.judged[number].cut.to_string();
    let appliance = &mut started(state, which)?.appliance;
    appliance.wait_boot()?;
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
    let one = started(state, which)?;
    let (now, number) = (left::checksums(&one.appliance.read(&script)?), one.number);
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
    let one = started(state, Which::Later)?;
    let (words, number) = (one.appliance.read(&script)?, one.number);
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
