//! solve, fetch and tools: the only stages that use the network, beside `crates`.

use anyhow::{Context as _, Result};
use recipe::{Plan, Pocket};

use super::{Builder, Facts, line, shown};
use crate::mirror;
use crate::pool::{self, Patience};
use crate::solve::{Solution, Want, solve};
use crate::store::{Entry, Ingredients};
use crate::tools;

pub(super) const SOLVE: &str = "solve";
pub(super) const FETCH: &str = "fetch";

impl Builder<'_> {
    /// The image's packages, all of them in the pool.
    pub(super) fn solution(&self, plan: &Plan) -> Result<Option<Solution>> {
        let want = Want {
            suite: plan.suite().as_str().into(),
            components: plan.components().iter().map(|c| c.as_str().into()).collect(),
            pockets: plan.pockets().iter().map(|p| p.as_str().into()).collect(),
            arch: plan.arch().debian_name().into(),
            packages: plan
                .packages()
                .iter()
                .filter(|p| !plan.backports_packages().contains(p))
                .map(|p| p.as_str().into())
                .collect(),
            backports: plan.backports_packages().iter().map(|p| p.as_str().into()).collect(),
        };
        self.solved(plan, &line(plan), &want)
    }

    /// A tree of tools, unpacked.
    pub(super) fn tools(&self, plan: &Plan, kind: tools::Kind) -> Result<Option<Entry>> {
        let want = Want {
            suite: plan.suite().as_str().into(),
            components: vec!["main".into()],
            pockets: [Pocket::Updates, Pocket::Security].iter().map(|p| p.as_str().into()).collect(),
            arch: recipe::Arch::host()
                .context("this machine is neither amd64 nor arm64")?
                .debian_name()
                .into(),
            packages: kind.packages.iter().map(|p| (*p).into()).collect(),
            backports: vec![],
        };
        let line = kind.stage.to_owned();
        let solution = self.solved(plan, &line, &want)?;
        let ingredients = solution.as_ref().map(|s| {
            let mut list = Ingredients::new(tools::CODE_VERSION);
            for package in &s.packages {
                list.add(format!("package {}", package.name), package.sha256.clone());
            }
            for (place, target) in kind.links {
                list.add(format!("link {place}"), *target);
            }
            list
        });
        self.stage(&line, kind.stage, ingredients, |work| {
            let solution = solution.as_ref().context("the stage before has a result")?;
            pool::verify(solution, &self.cache.pool())?;
            let tree = work.dir.join("tree");
            tools::unpack(solution, kind.links, &self.cache.pool(), &tree, work.log, work.advance)?;
            Ok(Facts::from([("solution".into(), solution.digest())]))
        })
    }

    fn solved(&self, plan: &Plan, line: &str, want: &Want) -> Result<Option<Solution>> {
        let named = self.options.mirror.as_deref().or(plan.mirror().map(recipe::Mirror::as_str));
        let mut list = Ingredients::new(1);
        list.add("suite", &want.suite).add("architecture", &want.arch);
        list.add("components", want.components.join(" ")).add("pockets", want.pockets.join(" "));
        for package in &want.packages {
            list.add(format!("package {package}"), "wanted");
        }
        for package in &want.backports {
            list.add(format!("package {package}"), "from backports");
        }
        let entry = self.stage(line, SOLVE, Some(list), |work| {
            let mirror = mirror::choose(named, work.log)?;
            let solution = solve(want, &mirror, &self.cache, work.log)?;
            fs_err::write(work.dir.join("solution.json"), serde_json::to_vec(&solution)?)?;
            Ok(Facts::from([("packages".into(), solution.packages.len().to_string())]))
        })?;
        let Some(entry) = entry else {
            self.verdict(&shown(line, FETCH), Some("follows from the above".into()))?;
            return Ok(None);
        };
        let file = entry.file("solution.json");
        let solution: Solution =
            serde_json::from_slice(&fs_err::read(&file)?).with_context(|| format!("reading {file}"))?;
        self.fetch(line, &solution, named)?;
        Ok(Some(solution))
    }

    fn fetch(&self, line: &str, solution: &Solution, named: Option<&str>) -> Result<()> {
        let name = &shown(line, FETCH);
        let missing = pool::missing(solution, &self.cache.pool());
        if missing.is_empty() {
            self.verdict(name, None)?;
            return Ok(());
        }
        let bytes: u64 = missing.iter().map(|p| p.size).sum();
        let reason = format!("{} packages, {} MB, are not in the pool", missing.len(), bytes / 1_000_000);
        self.verdict(name, Some(reason.clone()))?;
        if self.dry {
            return Ok(());
        }
        self.progress.begin(name, &reason);
        let started = std::time::Instant::now();
        let log = self.log(line, FETCH)?;
        let mirror = mirror::choose(named, &log)?;
        let advance = |done, all| self.progress.advance(name, done, all);
        pool::fill(&missing, &self.cache.pool(), &mirror, Patience::default(), &log, &advance)?;
        self.progress.end(name, started.elapsed());
        Ok(())
    }
}
