//! `cargo xtask bench`: how long builds take, as ratios to plain mmdebstrap in the same run.
//!
//! Every build is a process of its own, in a copy of the checkout and with a cache of its own, so nothing here
//! touches the real ones. Pool, package solution, tools tree and compiled crates are shared: they change with the
//! mirror and the lock file, not with the work that is timed. What the crates cost is timed once and has its row.
//! The image is then booted once, for the time that the agent takes at a first start ([`first_start`]).

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use build::Options;
use camino::Utf8PathBuf;
use serde::Serialize;

use crate::cli::Common;
use crate::first_start::{self, FirstStart};
use crate::show;
use crate::verbs::Site;

/// What the timed builds take from the real cache.
const SHARED: [&str; 4] = ["pool", "store/solve", "store/tools", CRATES];
const CRATES: &str = "store/crates";
/// What a build reads of a checkout.
const CHECKOUT: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", "recipes", "overlay", "image/agent", "image/identity"];
/// A small package without dependencies, for the one-package build.
const PACKAGE: &str = "tree";

#[derive(Serialize)]
struct Row {
    what: &'static str,
    seconds: Vec<f64>,
    median: f64,
    to_cold: f64,
    to_mmdebstrap: f64,
}

#[derive(Serialize)]
struct Report {
    machine: String,
    arch: String,
    runs: usize,
    rows: Vec<Row>,
    first_start: FirstStart,
    peak_memory: u64,
}

/// One timed world: a copy of the checkout and an empty cache.
struct World<'a> {
    site: &'a Site,
    common: &'a Common,
    dir: Utf8PathBuf,
}

impl World<'_> {
    fn fresh(&self, without: Option<&str>) -> Result<()> {
        if self.dir.exists() {
            fs_err::remove_dir_all(&self.dir)?;
        }
        for path in CHECKOUT {
            let to = self.dir.join("checkout").join(path);
            fs_err::create_dir_all(to.parent().context("a path has a folder")?)?;
            run(Command::new("cp").args(["-a"]).arg(self.site.repo.join(path)).arg(&to))?;
        }
        for path in SHARED.iter().filter(|path| Some(**path) != without) {
            let to = self.dir.join("cache").join(path);
            fs_err::create_dir_all(to.parent().context("a path has a folder")?)?;
            run(Command::new("cp").args(["-al"]).arg(self.site.cache.root().join(path)).arg(&to))?;
        }
        Ok(())
    }

    /// Builds once; returns the time and the peak memory of our own process.
    fn build(&self) -> Result<(Duration, u64)> {
        build::exec::interrupted()?;
        let started = Instant::now();
        let output = Command::new(&self.site.program)
            .args(["build", "--json", "--out"])
            .arg(self.dir.join("out"))
            .args(["--recipe", self.common.recipe.as_str(), "--arch", self.site.arch.debian_name()])
            .current_dir(self.dir.join("checkout"))
            .env_remove("CARGO_MANIFEST_DIR")
            .env("CIPOLLA_CACHE", self.dir.join("cache"))
            .stderr(Stdio::piped())
            .output()?;
        let took = started.elapsed();
        if !output.status.success() {
            bail!("a timed build failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("reading a build's report")?;
        Ok((took, report["peak_memory"].as_u64().context("a build reports its peak memory")?))
    }

    fn edit(&self, path: &str, change: impl Fn(&str) -> String) -> Result<()> {
        let path = self.dir.join("checkout").join(path);
        let text = fs_err::read_to_string(&path)?;
        let changed = change(&text);
        if changed == text {
            bail!("the bench could not change {path}");
        }
        Ok(fs_err::write(&path, changed)?)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

pub(crate) fn bench(site: &Site, common: &Common, runs: usize) -> Result<ExitCode> {
    let plan = site.plan(common)?;
    let stages = show::Stages::new();
    let builder = site.builder(Options::default(), &stages);
    eprintln!("filling pool, tools and crates");
    let out = site.cache.root().join("bench-out");
    let image = builder.build(&plan, &out)?;
    eprintln!("first boot");
    let first_start = first_start::measure(site, common, &plan, &image.path)?;
    fs_err::remove_dir_all(&out)?;
    if runs == 0 {
        match common.json {
            true => println!("{}", serde_json::to_string_pretty(&first_start)?),
            false => print!("{}", first_start.line()),
        }
        return Ok(first_start.verdict());
    }
    eprint!("  {}", first_start.line());

    let dir = site.cache.root().join("bench");
    let world = World { site, common, dir: dir.clone() };
    let names = [
        "plain mmdebstrap, to a tar",
        "cold",
        "nothing changed",
        "one overlay file",
        "one package",
        "cold, crates too (once)",
    ];
    let mut times: Vec<Vec<f64>> = names.iter().map(|_| Vec::new()).collect();
    let mut peak = 0;
    let mut note = |row: usize, took: Duration, memory: u64| {
        eprintln!("  {:<28}{:>8.2} s", names[row], took.as_secs_f64());
        times[row].push(took.as_secs_f64());
        peak = peak.max(memory);
    };
    for number in 1..=runs {
        eprintln!("run {number} of {runs}");
        note(0, builder.baseline(&plan)?, 0);
        world.fresh(None)?;
        let mut timed = |row: usize| world.build().map(|(took, memory)| note(row, took, memory));
        timed(1)?;
        timed(2)?;
        world.edit("overlay/common/etc/hosts", |text| format!("{text}# bench {number}\n"))?;
        timed(3)?;
        let recipe = common.recipe.as_str();
        world.edit(recipe, |text| text.replacen("common = [", &format!("common = [ \"{PACKAGE}\","), 1))?;
        timed(4)?;
    }
    world.fresh(Some(CRATES))?;
    let (took, memory) = world.build()?;
    note(5, took, memory);
    fs_err::remove_dir_all(&dir)?;

    let medians: Vec<f64> = times.iter().map(|list| median(list)).collect();
    let rows = names.iter().zip(times).zip(&medians).map(|((what, seconds), median)| Row {
        what,
        seconds,
        median: *median,
        to_cold: median / medians[1],
        to_mmdebstrap: median / medians[0],
    });
    let arch = site.arch.debian_name().to_owned();
    let rows = rows.collect();
    let report = Report { machine: machine(), arch, runs, rows, first_start, peak_memory: peak };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(report.first_start.verdict())
}

fn median(list: &[f64]) -> f64 {
    let mut sorted = list.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (n, half) if n % 2 == 0 => f64::midpoint(sorted[half - 1], sorted[half]),
        (_, half) => sorted[half],
    }
}

/// Processor, cores, memory, kernel: what a time means nothing without.
fn machine() -> String {
    let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown");
    let memory = read("/proc/meminfo");
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let model = model.trim_start_matches([':', ' ', '\t']);
    format!("{model}, {cores} cores, {} GiB, Linux {}", kib >> 20, kernel.trim())
}

fn table(report: &Report) -> String {
    let mut text = format!("\n{}\n{} runs, medians, {}\n\n", report.machine, report.runs, report.arch);
    text += &format!("{:<28}{:>10}{:>12}{:>18}\n", "", "seconds", "of cold", "of mmdebstrap");
    for row in &report.rows {
        text += &format!(
            "{:<28}{:>10.2}{:>10.1} %{:>16.2} ×\n",
            row.what,
            row.median,
            row.to_cold * 100.0,
            row.to_mmdebstrap
        );
    }
    text += &format!("\n{}", report.first_start.line());
    text += &format!("peak memory of the builder: {}\n", show::mib(report.peak_memory));
    text += "tools, crates, pool and package solution were there already; one package includes asking the mirror\n";
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn medians() {
        assert!((super::median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((super::median(&[4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
    }
}
