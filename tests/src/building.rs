//! Building, seen from outside: as an ordinary user and as root the same bytes, and nothing left behind by a
//! build that was stopped.
//!
//! Each check works on a copy of the checkout with a cache of its own. What came over the network (pool, package
//! solution, crates) is shared with the real cache, so no check downloads anything.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use qemu::Probe;

use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, check, fail};
use crate::processes;

/// The user that the unprivileged build runs as; made when the tests run as root.
const USER: &str = "cipolla-build";
/// What a build reads of a checkout.
const CHECKOUT: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", "recipes", "overlay", "image/agent", "image/identity"];
/// What came over the network, and the crates that were compiled from it.
const FETCHED: [&str; 3] = ["pool", "store/solve", "store/crates"];
/// What a build unpacks from that, which is not what the stopped builds are about.
const UNPACKED: &str = "store/tools";
/// A cold build takes a minute or two; an emulated or busy machine may need many.
const BUILD_LIMIT: Duration = Duration::from_secs(1500);

/// The scenario.
pub(crate) struct Building;

/// Where the scenario works.
pub(crate) struct Site {
    home: PathBuf,
    program: PathBuf,
    image: PathBuf,
    recipe: PathBuf,
    arch: String,
    fetched: PathBuf,
    root: bool,
}

impl Scenario for Building {
    type State = Site;

    fn name(&self) -> Cow<'static, str> {
        "building".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "the builder itself: users, interrupts, kills".into()
    }

    fn machines(&self) -> usize {
        0
    }

    fn start(&self, ctx: &Context, _: &Probe) -> anyhow::Result<Site> {
        let root = rustix::process::geteuid().is_root();
        let home = if root { user_home()? } else { ctx.run_root.join("building") };
        let home = home.join("building");
        if home.exists() {
            fs_err::remove_dir_all(&home)?;
        }
        fs_err::create_dir_all(&home)?;
        let program = home.join("xtask");
        fs_err::copy(&ctx.program, &program)?;
        for path in CHECKOUT {
            copy(&ctx.checkout.join(path), &home.join("checkout").join(path))?;
        }
        Ok(Site {
            home,
            program,
            image: ctx.image.clone(),
            recipe: ctx.recipe.clone(),
            arch: ctx.arch.name().to_owned(),
            fetched: ctx.cache.clone(),
            root,
        })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<Site>> {
        let mut checks = vec![
            check("ctrl_c_leaves_nothing", &[], |site: &mut Site| {
                stopped(site, rustix::process::Signal::INT)
            }),
            check("kill_leaves_no_image", &[], |site: &mut Site| {
                stopped(site, rustix::process::Signal::KILL)
            }),
        ];
        // The image under test was built by whoever runs the tests. An ordinary user cannot become root to compare.
        if rustix::process::geteuid().is_root() {
            checks.push(check("ordinary_user_builds_the_same_bytes", &[], ordinary_user));
        }
        vec![Phase::of(checks)]
    }

    fn evidence(&self, site: &mut Site) -> Vec<Evidence> {
        let text = fs_err::read_to_string(site.home.join("stderr")).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let tail = lines[lines.len().saturating_sub(30)..].to_vec();
        vec![("what the last build said".into(), tail)]
    }

    fn reach(&self, site: &Site) -> Option<String> {
        Some(format!("the copies are in {}", site.home.display()))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A tree of some gigabytes; what cannot be removed is only in the way.
        let _ = fs_err::remove_dir_all(self.home.join("cache"));
    }
}

/// The home of [`USER`], who is made if needed, with subordinate ids.
fn user_home() -> anyhow::Result<PathBuf> {
    let home = PathBuf::from("/home").join(USER);
    if !succeeds(Command::new("id").arg(USER))? {
        must(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh"]).arg(USER))?;
    }
    let subuid = fs_err::read_to_string("/etc/subuid").unwrap_or_default();
    if !subuid.lines().any(|line| line.starts_with(&format!("{USER}:"))) {
        let range = "1000000-1065535";
        must(Command::new("usermod").args(["--add-subuids", range, "--add-subgids", range]).arg(USER))?;
    }
    Ok(home)
}

fn succeeds(command: &mut Command) -> anyhow::Result<bool> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    Ok(output.status.success())
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if let Some(folder) = to.parent() {
        fs_err::create_dir_all(folder)?;
    }
    must(Command::new("cp").args(["--recursive", "--reflink=auto"]).args([from, to]))
}

impl Site {
    /// An empty cache with the downloads in it, as hard links: nothing in a cache is ever changed in place.
    fn fresh_cache(&self, more: &[&str]) -> anyhow::Result<PathBuf> {
        let cache = self.home.join("cache");
        if cache.exists() {
            fs_err::remove_dir_all(&cache)?;
        }
        for path in FETCHED.iter().chain(more) {
            let (from, to) = (self.fetched.join(path), cache.join(path));
            fs_err::create_dir_all(to.parent().context("a path has a folder")?)?;
            if !succeeds(Command::new("cp").args(["--archive", "--link"]).args([&from, &to]))? {
                // Another disk has no hard links to this one.
                copy(&from, &to)?;
            }
        }
        Ok(cache)
    }

    fn build(&self, cache: &Path, as_user: bool) -> anyhow::Result<Child> {
        let mut command = if as_user {
            // The folders are the user's, the linked files stay root's and need only be readable.
            must(
                Command::new("find").arg(&self.home).args(["-type", "d", "-exec", "chown", USER, "{}", "+"]),
            )?;
            must(Command::new("chmod").args(["-R", "a+rX"]).arg(&self.home))?;
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--reset-env", "--", "env"]);
            command.arg(format!("CIPOLLA_CACHE={}", cache.display())).arg(&self.program);
            command
        } else {
            let mut command = Command::new(&self.program);
            command.env("CIPOLLA_CACHE", cache).env_remove("CARGO_MANIFEST_DIR");
            command
        };
        command
            .args(["build", "--json", "--out"])
            .arg(self.home.join("out"))
            .arg("--recipe")
            .arg(&self.recipe)
            .args(["--arch", &self.arch])
            .current_dir(self.home.join("checkout"))
            .stdin(Stdio::null())
            .stdout(fs_err::File::create(self.home.join("stdout"))?.into_parts().0)
            .stderr(fs_err::File::create(self.home.join("stderr"))?.into_parts().0)
            .process_group(0);
        command.spawn().with_context(|| format!("starting {}", self.program.display()))
    }

    /// Processes whose command line names the place of this scenario.
    fn left_processes(&self) -> Vec<String> {
        processes::naming(&self.home.to_string_lossy()).iter().map(processes::Process::still_runs).collect()
    }
}

/// Stops a build in the middle of its bootstrap.
fn stopped(site: &mut Site, signal: rustix::process::Signal) -> Verdict {
    let cache = site.fresh_cache(&[UNPACKED])?;
    let out = site.home.join("out");
    let mut child = site.build(&cache, false)?;
    let until = Instant::now() + BUILD_LIMIT;
    let log = cache.join("logs").join(format!("mail-{}", site.arch)).join("bootstrap.log");
    // mmdebstrap says this when the tree is half made.
    while !fs_err::read_to_string(&log).is_ok_and(|text| text.contains("installing remaining packages")) {
        if let Some(status) = child.try_wait()? {
            bail!("the build ended before it could be stopped: {status}");
        }
        if Instant::now() > until {
            child.kill()?;
            bail!("the build did not reach its bootstrap in {} s", BUILD_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, signal)?;
    let status = child.wait()?;
    if status.success() {
        return fail("the build went on to its end");
    }
    // The kernel takes a moment to end a pid namespace.
    let until = Instant::now() + Duration::from_secs(20);
    while !site.left_processes().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut wrong = site.left_processes();
    let mounts = fs_err::read_to_string("/proc/self/mounts")?;
    wrong.extend(
        mounts.lines().filter(|l| l.contains(&*site.home.to_string_lossy())).map(|l| format!("mount {l}")),
    );
    wrong.extend(names(&out).into_iter().filter(|n| n.ends_with(".img") || n.ends_with(".json")));
    if signal == rustix::process::Signal::INT {
        wrong.extend(names(&cache.join("scratch")).into_iter().map(|n| format!("scratch {n}")));
        if status.code() != Some(130) {
            wrong.push(format!("exit status {status} instead of 130"));
        }
    }
    if wrong.is_empty() { PASS } else { fail(wrong.join("\n")) }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A cold build as [`USER`], in a user namespace, against the image that root built.
fn ordinary_user(site: &mut Site) -> Verdict {
    assert!(site.root, "the check is only in root's table");
    let cache = site.fresh_cache(&[])?;
    let mut child = site.build(&cache, true)?;
    let until = Instant::now() + BUILD_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
            bail!("the build did not end in {} s", BUILD_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        return fail(format!("the build ended with {status}"));
    }
    let report: serde_json::Value = serde_json::from_slice(&fs_err::read(site.home.join("stdout"))?)?;
    let theirs = report["image"]["sha256"].as_str().context("a build reports its sha256")?.to_owned();
    let manifest = site.image.with_extension("manifest.json");
    let ours: serde_json::Value = serde_json::from_slice(&fs_err::read(&manifest)?)?;
    let ours = ours["image"]["sha256"].as_str().context("a manifest holds the image's sha256")?;
    if theirs == ours {
        let name = site.image.file_name().context("an image has a name")?;
        let other = site.home.join("out").join(name).with_extension("manifest.json");
        let same = fs_err::read(&manifest)? == fs_err::read(&other)?;
        return if same { PASS } else { fail("the images are the same, their manifests differ") };
    }
    fail(format!("the ordinary user's image has SHA-256 {theirs}, root's {ours}: {}", difference(site)?))
}

/// Files of the root that differ; if there are none, the first byte that does.
fn difference(site: &Site) -> anyhow::Result<String> {
    let name = site.image.file_name().context("an image has a name")?;
    let theirs = site.home.join("out").join(name);
    let files = |image: &Path| -> anyhow::Result<BTreeMap<String, serde_json::Value>> {
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs_err::read(image.with_extension("manifest.json"))?)?;
        let files = manifest["root_files"].as_array().context("a manifest lists the files of the root")?;
        Ok(files.iter().map(|file| (file["path"].to_string(), file.clone())).collect())
    };
    let (one, other) = (files(&site.image)?, files(&theirs)?);
    let paths: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ: Vec<&str> =
        paths.into_iter().filter(|path| one.get(*path) != other.get(*path)).map(String::as_str).collect();
    if !differ.is_empty() {
        let shown = differ.len().min(8);
        return Ok(format!("{} files differ, among them {}", differ.len(), differ[..shown].join(" ")));
    }
    let output = Command::new("cmp").arg(&site.image).arg(&theirs).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
