//! A run of the tests that is ended in its midst, by Ctrl-C or by a kill: nothing of its lab stays.
//!
//! It is the builder's own program that runs, with a cache of its own that shares what came over the network and what was
//! unpacked of it. Never: a signal to a process that this scenario did not start.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use qemu::{Deadline, Probe};
use rustix::process::{Pid, Signal};

use crate::Context;
use crate::check::{Evidence, Phase, Scenario, Verdict, check, none_of};
use crate::processes;

/// What a run finds in its cache: package solutions, unpacked trees, packages.
const SHARED: [&str; 2] = ["store", "pool"];

/// What is run: a lab that comes up, and is used for some seconds when its Tors have found each other.
const RUN: &str = "lab_network";

/// So many Tors a lab has before that.
const TORS: usize = 8;

/// An image is written and eight Tors are started: some seconds.
const READY: u64 = 300;

/// The kernel takes a moment to end a pid namespace, and a Tor that hears of Ctrl-C some time to end by itself.
const ENDED: u64 = 30;

pub(crate) struct Interrupted;

/// A run's cache and output, and how it is started.
pub(crate) struct Site {
    /// Short, since sockets are in it.
    cache: PathBuf,
    program: PathBuf,
    checkout: PathBuf,
    recipe: PathBuf,
    arch: &'static str,
}

impl Scenario for Interrupted {
    type State = Site;

    fn name(&self) -> Cow<'static, str> {
        "interrupted".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "a run of the tests that is ended while its lab is up".into()
    }

    fn machines(&self) -> usize {
        0
    }

    fn start(&self, ctx: &Context, _: &Probe) -> anyhow::Result<Site> {
        let cache = ctx.run_root.join("interrupted");
        if cache.exists() {
            fs_err::remove_dir_all(&cache)?;
        }
        fs_err::create_dir_all(&cache)?;
        for name in SHARED {
            symlink(ctx.cache.join(name), cache.join(name)).with_context(|| format!("sharing {name}"))?;
        }
        Ok(Site {
            cache,
            program: ctx.program.clone(),
            checkout: ctx.checkout.clone(),
            recipe: ctx.recipe.clone(),
            arch: ctx.arch.name(),
        })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<Site>> {
        vec![Phase::of(vec![
            check("ctrl_c_leaves_no_lab", &[], |site: &mut Site| ended(site, Signal::INT)),
            check("kill_leaves_no_lab", &[], |site: &mut Site| ended(site, Signal::KILL)),
        ])]
    }

    fn evidence(&self, site: &mut Site) -> Vec<Evidence> {
        let tail = |name: &str| {
            let text = fs_err::read_to_string(site.cache.join(name)).unwrap_or_default();
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines[lines.len().saturating_sub(20)..].to_vec()
        };
        vec![("what the last run said".into(), [tail("stderr"), tail("stdout")].concat())]
    }

    fn reach(&self, _: &Site) -> Option<String> {
        None
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Half a gigabyte, which is only in the way.
        let _ = fs_err::remove_dir_all(self.cache.join("out"));
    }
}

impl Site {
    /// Starts the run, as the leader of a process group: a shell's foreground job.
    fn run(&self) -> anyhow::Result<Run> {
        let file = |name: &str| anyhow::Ok(fs_err::File::create(self.cache.join(name))?.into_parts().0);
        let mut command = Command::new(&self.program);
        command
            .args(["test", RUN, "--arch", self.arch, "--recipe"])
            .arg(&self.recipe)
            .arg("--out")
            .arg(self.cache.join("out"))
            .env("CIPOLLA_CACHE", &self.cache)
            .env_remove("CARGO_MANIFEST_DIR")
            .current_dir(&self.checkout)
            .stdin(Stdio::null())
            .stdout(file("stdout")?)
            .stderr(file("stderr")?)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Run(child))
    }
}

/// A run, which is killed if nobody waits for it.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        // Both fail where it has ended, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Run {
    /// Waits until all of its lab's Tors run.
    fn wait_up(&mut self, place: &str) -> anyhow::Result<()> {
        let deadline = Deadline::seconds(READY);
        let tors = || {
            let lines: Vec<_> = processes::naming(place).into_iter().map(|one| one.line).collect();
            let words = lines.iter().flat_map(|line| line.split(' '));
            words
                .filter(|word| word.starts_with(place) && word.ends_with("/torrc"))
                .collect::<BTreeSet<_>>()
                .len()
        };
        while tors() < TORS {
            if let Some(status) = self.0.try_wait()? {
                bail!("the run ended before its lab was up: {status}");
            }
            ensure!(deadline.left().is_some(), "the run's lab did not come up in time");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends it: with Ctrl-C, which a terminal sends to the whole group, or by killing it alone.
    fn end(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        let pid = Pid::from_child(&self.0);
        if signal == Signal::INT {
            rustix::process::kill_process_group(pid, signal)?;
        } else {
            rustix::process::kill_process(pid, signal)?;
        }
        let deadline = Deadline::seconds(ENDED);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            ensure!(deadline.left().is_some(), "the run did not end {ENDED} s after {signal:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Ends a run while its lab is up. Afterwards there is no process of it, none in its network, and no mount.
fn ended(site: &mut Site, signal: Signal) -> Verdict {
    let mut run = site.run()?;
    let place = site.cache.to_string_lossy().into_owned();
    run.wait_up(&place)?;
    let here = fs_err::read_link("/proc/self/ns/net")?;
    let mut networks: BTreeSet<PathBuf> =
        processes::naming(&place).into_iter().map(|one| one.network).collect();
    networks.remove(&here);
    // Those that end at this moment are in none.
    networks.remove(Path::new(""));
    ensure!(!networks.is_empty(), "the run has no network of its own: there is nothing to be left");
    let status = run.end(signal)?;
    let deadline = Deadline::seconds(ENDED);
    let left = || {
        let all = processes::all().into_iter();
        let of_it = all.filter(|one| one.line.contains(&place) || networks.contains(&one.network));
        of_it.map(|one| one.still_runs()).collect::<Vec<_>>()
    };
    while !left().is_empty() && deadline.left().is_some() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut findings = left();
    let mounts = fs_err::read_to_string("/proc/self/mounts")?;
    findings.extend(mounts.lines().filter(|line| line.contains(&place)).map(|line| format!("mount {line}")));
    if signal == Signal::INT && status.code() != Some(130) {
        findings.push(format!("the run ended with {status} instead of exit status 130"));
    }
    none_of(&findings)
}
