//! A build as a list of stages: each looks its result up in the store and makes it only when something changed.
//!
//! ```text
//! solve → fetch → tools ─┬→ bootstrap ──────┬─────→ boot ─┐
//!                        ├→ crates → agent ─┴→ rootfs → root ─┼→ disk, manifest
//!                        └→ data ─────────────────────────────┘
//! ```
//! The story is [`Builder::build`]; what each stage does stands in the modules below it.

mod agent;
mod bootstrap;
mod filesystems;
mod image;
mod packages;
mod root;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use recipe::Plan;

pub use self::image::{Image, PartSize};
use crate::exec::Log;
use crate::progress::Progress;
use crate::space::Space;
use crate::store::{Cache, Entry, Ingredients, Lookup};
use crate::tools;

/// What a build may do differently from the default.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Use this mirror instead of the recipe's or the host's.
    pub mirror: Option<String>,
    /// Ask the mirror again which versions are current.
    pub refresh: bool,
    /// Show every command.
    pub verbose: bool,
}

/// Makes images. One per run of the program.
pub struct Builder<'a> {
    cache: Cache,
    /// The program that enters spaces: see [`crate::space`].
    entry: Utf8PathBuf,
    /// The checkout: for the agent's sources.
    repo: Utf8PathBuf,
    options: Options,
    progress: &'a dyn Progress,
    dry: bool,
    date: OnceLock<u64>,
    verdicts: Mutex<Vec<Verdict>>,
}

/// What a dry run found out about a stage.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// The stage.
    pub stage: String,
    /// `None` for a hit, else why it must work.
    pub miss: Option<String>,
}

/// Notes a stage leaves with its result.
type Facts = BTreeMap<String, String>;

/// What a working stage is given.
struct Work<'w> {
    /// Its result folder, scratch until it is stored.
    dir: Utf8PathBuf,
    log: &'w Log,
    advance: &'w (dyn Fn(u64, u64) + Sync),
}

impl<'a> Builder<'a> {
    /// A builder over the user's cache.
    pub fn new(
        cache: Cache,
        entry: Utf8PathBuf,
        repo: Utf8PathBuf,
        options: Options,
        progress: &'a dyn Progress,
    ) -> Self {
        Builder {
            cache,
            entry,
            repo,
            options,
            progress,
            dry: false,
            date: OnceLock::new(),
            verdicts: Mutex::default(),
        }
    }

    /// Builds the image of a plan into `out`, under its final names.
    ///
    /// # Errors
    /// A stage failed, or a person interrupted; whatever stood under the final names is untouched then.
    pub fn build(&self, plan: &Plan, out: &Utf8Path) -> Result<Image> {
        let _lock =
            self.cache.lock(|| self.progress.note("another build is using the cache; waiting for it"))?;
        self.through(plan, out)?.context("a build that is not a dry run has a result")
    }

    /// What [`Builder::build`] would do: changes nothing and asks no mirror.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn dry_run(mut self, plan: &Plan, out: &Utf8Path) -> Result<Vec<Verdict>> {
        self.dry = true;
        self.through(plan, out)?;
        self.verdicts.into_inner().map_err(|_| anyhow!("a stage panicked"))
    }

    /// A tree of tools for work outside of a build, such as [`tools::LAB`].
    ///
    /// # Errors
    /// A stage failed.
    pub fn tree(&self, plan: &Plan, kind: tools::Kind) -> Result<Utf8PathBuf> {
        let _lock =
            self.cache.lock(|| self.progress.note("another build is using the cache; waiting for it"))?;
        let entry = self.tools(plan, kind)?.context("a build that is not a dry run has a result")?;
        Ok(tools::tree_of(&entry))
    }

    fn through(&self, plan: &Plan, out: &Utf8Path) -> Result<Option<Image>> {
        let line = line(plan);
        let tools = self.tools(plan, tools::BUILDER)?;
        let solution = self.solution(plan)?;
        // The bootstrap is dpkg's work and sequential; the agent's compiler and mke2fs have the other core.
        let (base, agent, data) = std::thread::scope(|scope| {
            let base = scope.spawn(|| self.bootstrap(plan, solution.as_ref(), tools.as_ref()));
            let agent = scope.spawn(|| self.agent(plan, tools.as_ref()));
            let data = scope.spawn(|| self.data(plan, tools.as_ref()));
            (joined(base), joined(agent), joined(data))
        });
        let (base, (agent, data)) = both(base, both(agent, data))?;
        let (root, boot) = std::thread::scope(|scope| {
            let boot = scope.spawn(|| self.boot(plan, base.as_ref(), tools.as_ref()));
            let root = self.rootfs(plan, base.as_ref(), agent.as_ref()).and_then(|rootfs| {
                let root = self.root(plan, rootfs.as_ref(), tools.as_ref())?;
                Ok((rootfs, root))
            });
            (root, joined(boot))
        });
        let ((rootfs, root), boot) = both(root, boot)?;
        let parts = image::Stages {
            solution: solution.as_ref(),
            rootfs: rootfs.as_ref(),
            root: root.as_ref(),
            boot: boot.as_ref(),
            data: data.as_ref(),
        }
        .whole();
        let image = self.image(plan, parts, out, &line)?;
        if !self.dry {
            for stage in [
                "tools",
                "lab",
                "browser",
                "solve",
                "crates",
                "agent",
                "bootstrap",
                "rootfs",
                "root",
                "boot",
                "data",
                "disk",
            ] {
                // Each tree and the image have a solution of their own.
                self.cache.clean_up(stage, if stage == packages::SOLVE { 4 } else { 1 })?;
            }
        }
        Ok(image)
    }

    /// Runs one stage: a hit, a miss that is made and stored, or in a dry run a verdict. `ingredients` is `None`
    /// when an earlier stage's result, which is part of them, is not there yet.
    fn stage(
        &self,
        line: &str,
        stage: &str,
        ingredients: Option<Ingredients>,
        make: impl FnOnce(&Work<'_>) -> Result<Facts>,
    ) -> Result<Option<Entry>> {
        let shown = &shown(line, stage);
        let Some(ingredients) = ingredients else {
            self.verdict(shown, Some("follows from the above".into()))?;
            return Ok(None);
        };
        let reason = match self.cache.look_up(line, stage, &ingredients) {
            Lookup::Hit(entry) if !(self.options.refresh && stage == packages::SOLVE) => {
                self.verdict(shown, None)?;
                if !self.dry {
                    self.progress.hit(shown);
                    entry.touch();
                    self.cache.note(line, stage, &ingredients)?;
                }
                return Ok(Some(entry));
            }
            Lookup::Hit(_) => "the mirror is to be asked again".into(),
            Lookup::Miss(reason) => reason,
        };
        if self.dry {
            self.verdict(shown, Some(reason))?;
            return Ok(None);
        }
        self.progress.begin(shown, &reason);
        let started = Instant::now();
        let log = self.log(line, stage)?;
        log.line(&format!("# {stage}: {reason}"))?;
        let scratch = self.cache.scratch(stage)?;
        let dir = Utf8PathBuf::try_from(scratch.path().to_owned()).context("the scratch folder's name")?;
        let advance = |done, all| self.progress.advance(shown, done, all);
        let facts =
            make(&Work { dir, log: &log, advance: &advance }).with_context(|| format!("stage {stage}"))?;
        let entry = self.cache.store(stage, &ingredients, scratch, facts)?;
        self.cache.note(line, stage, &ingredients)?;
        self.progress.end(shown, started.elapsed());
        Ok(Some(entry))
    }

    /// Seconds since 1970 that no file of the image is newer than: the recipe's, else `SOURCE_DATE_EPOCH`
    /// (reproducible-builds.org), else the checkout's last commit.
    fn date(&self, plan: &Plan) -> Result<u64> {
        if let Some(date) = plan.source_date().or(self.date.get().copied()) {
            return Ok(date);
        }
        let text = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text,
            Err(_) => crate::exec::Cmd::new("git")
                .args(["-C", self.repo.as_str(), "log", "-1", "--format=%ct"])
                .output(&self.log(&line(plan), "source-date")?)
                .context(
                    "finding a source date: give the recipe [release] source_date, or set SOURCE_DATE_EPOCH",
                )?,
        };
        let date = text
            .trim()
            .parse()
            .with_context(|| format!("the source date is no number of seconds: {text}"))?;
        Ok(*self.date.get_or_init(|| date))
    }

    fn verdict(&self, stage: &str, miss: Option<String>) -> Result<()> {
        let mut verdicts = self.verdicts.lock().map_err(|_| anyhow!("a stage panicked"))?;
        verdicts.push(Verdict { stage: stage.to_owned(), miss });
        Ok(())
    }

    fn log(&self, line: &str, stage: &str) -> Result<Log> {
        Log::create(&self.cache.log(line, stage), self.options.verbose)
    }

    /// A space over the builder's tools, with the stage's folder as `/work`.
    fn space(&self, tools: &Entry, work: &Work<'_>) -> Space {
        Space::new(&self.entry, &tools::tree_of(tools)).writable(&work.dir, "/work")
    }
}

/// The line of work: what belongs together when a miss is explained.
fn line(plan: &Plan) -> String {
    format!("{}-{}", plan.name(), plan.arch().debian_name())
}

/// A stage's name for people: where it runs for the tools and for the image, which of the two.
fn shown(line: &str, stage: &str) -> String {
    match stage {
        packages::SOLVE | packages::FETCH => format!("{stage} {}", line.split('-').next().unwrap_or(line)),
        _ => stage.to_owned(),
    }
}

fn joined<T>(handle: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a stage panicked"))?
}

/// Two results, or every error of the two.
fn both<A, B>(a: Result<A>, b: Result<B>) -> Result<(A, B)> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(a), Err(b)) if !b.is::<crate::exec::Interrupted>() => Err(anyhow!(
            "{a:#}
{b:#}"
        )),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
