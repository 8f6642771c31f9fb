//! crates and agent: the appliance's own program, compiled offline by Debian's Rust in the tools tree.
//!
//! The sources are a workspace cut down to the agent and what it depends on, so that neither the builder's own
//! dependencies nor a change elsewhere in the checkout reach its key. `crates` vendors what its lock file names
//! (cargo checks every crate against the hash there) and compiles it once, with empty programs in the places of
//! ours; `agent` then compiles our own sources on top. So a change of the agent costs seconds.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use recipe::Plan;

use super::{Builder, Facts, Work, line};
use crate::exec::{Cmd, Log};
use crate::store::{Entry, Ingredients, sha256};

const CODE_VERSION: u32 = 1;
/// The members that make up the agent.
const MEMBERS: [&str; 2] = ["image/agent", "image/identity"];
/// A crates registry that hangs must not hang a build.
const VENDOR_DEADLINE: std::time::Duration = std::time::Duration::from_secs(600);

impl Builder<'_> {
    /// The file `cipolla`.
    pub(super) fn agent(&self, plan: &Plan, tools: Option<&Entry>) -> Result<Option<Entry>> {
        let line = line(plan);
        let crates = self.crates(plan, &line, tools)?;
        let stage = "agent";
        let ingredients = match (&crates, tools) {
            (Some(crates), Some(tools)) => {
                let mut list = Ingredients::new(CODE_VERSION);
                list.add("the crates", crates.fact("digest")?);
                list.add("the tools", tools.fact("solution")?);
                list.add("the architecture", plan.arch().debian_name());
                list.add("the source date", self.date(plan)?.to_string());
                for member in MEMBERS {
                    list.add(
                        format!("{member}/Cargo.toml"),
                        sha256(cut_member(&self.repo, member)?.as_bytes()),
                    );
                }
                for path in sources(&self.repo)? {
                    list.add_file(path.as_str(), &self.repo.join(&path))?;
                }
                Some(list)
            }
            _ => None,
        };
        self.stage(&line, stage, ingredients, |work| {
            let crates = crates.as_ref().context("the stage before has a result")?;
            let tools = tools.context("the stage before has a result")?;
            let workspace = work.dir.join("workspace");
            cut_workspace(&self.repo, &workspace, Sources::Ours)?;
            fs_err::copy(crates.file("Cargo.lock"), workspace.join("Cargo.lock"))?;
            let target = work.dir.join("target");
            Cmd::new("cp")
                .args(["--archive", "--reflink=auto"])
                .arg(crates.file("target"))
                .arg(&target)
                .run(work.log)?;
            self.cargo(plan, tools, work, &crates.file("vendor"))?;
            fs_err::rename(target.join("agent/cipolla"), work.dir.join("cipolla"))?;
            fs_err::remove_dir_all(&target)?;
            fs_err::remove_dir_all(&workspace)?;
            let digest = crate::store::sha256_file(&work.dir.join("cipolla"))?;
            Ok(Facts::from([("cipolla".into(), digest)]))
        })
    }

    /// Compiles the workspace in the stage's folder into `target` beside it.
    fn cargo(&self, plan: &Plan, tools: &Entry, work: &Work<'_>, vendor: &Utf8Path) -> Result<()> {
        let space = self
            .space(tools, work)
            .read_only(&work.dir.join("workspace"), "/src")
            .read_only(vendor, "/vendor");
        Cmd::new("cargo")
            .args(["--config", "source.crates-io.replace-with=\"vendored\""])
            .args(["--config", "source.vendored.directory=\"/vendor\""])
            .args(["build", "--manifest-path=/src/Cargo.toml", "--package=cipolla-agent", "--bin=cipolla"])
            .args(["--profile=agent", "--locked", "--offline", "--target-dir=/work/target"])
            .env("CARGO_HOME", "/tmp/cargo")
            .env("SOURCE_DATE_EPOCH", self.date(plan)?.to_string())
            .within(&space)
            .run(work.log)
    }

    /// The folders `vendor` and `target`, and the cut-down `Cargo.lock`.
    fn crates(&self, plan: &Plan, line: &str, tools: Option<&Entry>) -> Result<Option<Entry>> {
        let ingredients = match tools {
            Some(tools) => {
                let mut list = Ingredients::new(CODE_VERSION);
                list.add("the tools", tools.fact("solution")?);
                list.add("the architecture", plan.arch().debian_name());
                let lock = self.repo.join("Cargo.lock");
                for (package, digest) in
                    locked(&fs_err::read_to_string(&lock)?).with_context(|| format!("reading {lock}"))?
                {
                    list.add(package, digest);
                }
                list.add("the workspace", sha256(cut_manifest(&self.repo)?.as_bytes()));
                for member in MEMBERS {
                    let manifest = cut_member(&self.repo, member)?;
                    list.add(format!("{member}/Cargo.toml"), sha256(manifest.as_bytes()));
                }
                Some(list)
            }
            None => None,
        };
        self.stage(line, "crates", ingredients, |work| {
            let tools = tools.context("the stage before has a result")?;
            let workspace = work.dir.join("workspace");
            cut_workspace(&self.repo, &workspace, Sources::Empty)?;
            fs_err::copy(self.repo.join("Cargo.lock"), workspace.join("Cargo.lock"))?;
            let folder = work.dir.join("vendor");
            vendor(&workspace, &folder, work.log)?;
            self.cargo(plan, tools, work, &folder)?;
            let lock = work.dir.join("Cargo.lock");
            fs_err::rename(workspace.join("Cargo.lock"), &lock)?;
            fs_err::remove_dir_all(&workspace)?;
            // cargo compares every vendored file with the hash in the lock file, so the lock says it all.
            Ok(Facts::from([("digest".into(), crate::store::sha256_file(&lock)?)]))
        })
    }
}

fn vendor(workspace: &Utf8Path, to: &Utf8Path, log: &Log) -> Result<()> {
    Cmd::new("cargo")
        .args(["vendor", "--versioned-dirs", "--manifest-path"])
        .arg(workspace.join("Cargo.toml"))
        .arg(to)
        .deadline(VENDOR_DEADLINE)
        .run(log)
        .context("fetching the agent's crates")
}

/// The agent's part of a lock file: what its members reach, with a digest of each entry. Other crates of the
/// checkout may change theirs without anything here being compiled again.
fn locked(lock: &str) -> Result<BTreeMap<String, String>> {
    let lock: toml::Table = lock.parse()?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("it has no packages")?;
    let text =
        |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let mut open: Vec<String> = ["cipolla-agent", "cipolla-identity"].map(str::to_owned).into();
    let mut found = BTreeMap::new();
    while let Some(wanted) = open.pop() {
        // `name`, or `name version` where the lock holds several.
        let (name, version) =
            wanted.split_once(' ').map_or((wanted.as_str(), None), |(n, v)| (n, v.split(' ').next()));
        for package in packages {
            let (Some(its_name), Some(its_version)) = (text(package, "name"), text(package, "version"))
            else {
                continue;
            };
            if its_name != name || version.is_some_and(|v| v != its_version) {
                continue;
            }
            let digest = sha256(package.to_string().as_bytes());
            if found.insert(format!("crate {its_name} {its_version}"), digest).is_none() {
                let needs = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
                open.extend(needs.filter_map(toml::Value::as_str).map(str::to_owned));
            }
        }
    }
    Ok(found)
}

/// The root manifest with only the agent's members, and without our other crates among the dependencies.
fn cut_manifest(repo: &Utf8Path) -> Result<String> {
    let path = repo.join("Cargo.toml");
    let text = fs_err::read_to_string(&path)?;
    let mut manifest: toml::Table = text.parse().with_context(|| format!("reading {path}"))?;
    let workspace = manifest.get_mut("workspace").and_then(toml::Value::as_table_mut);
    let workspace = workspace.with_context(|| format!("{path} has no [workspace]"))?;
    workspace
        .insert("members".into(), MEMBERS.iter().map(|m| toml::Value::from(*m)).collect::<Vec<_>>().into());
    if let Some(dependencies) = workspace.get_mut("dependencies").and_then(toml::Value::as_table_mut) {
        dependencies.retain(|_, value| {
            let own = value.get("path").and_then(toml::Value::as_str);
            own.is_none_or(|path| MEMBERS.contains(&path))
        });
    }
    toml::to_string(&manifest).context("writing the agent's manifest")
}

/// A member's manifest without what only its tests need: that changes neither the program nor its key.
fn cut_member(repo: &Utf8Path, member: &str) -> Result<String> {
    let path = repo.join(member).join("Cargo.toml");
    let text = fs_err::read_to_string(&path)?;
    let mut manifest: toml::Table = text.parse().with_context(|| format!("reading {path}"))?;
    for key in ["dev-dependencies", "test", "bench", "example"] {
        manifest.remove(key);
    }
    toml::to_string(&manifest).with_context(|| format!("writing the agent's {member}/Cargo.toml"))
}

/// Which sources a cut-down workspace gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sources {
    /// The agent's.
    Ours,
    /// Empty ones: then cargo compiles the dependencies and hardly anything else.
    Empty,
}

fn cut_workspace(repo: &Utf8Path, to: &Utf8Path, which: Sources) -> Result<()> {
    fs_err::create_dir_all(to)?;
    fs_err::write(to.join("Cargo.toml"), cut_manifest(repo)?)?;
    for member in MEMBERS {
        fs_err::create_dir_all(to.join(member))?;
        fs_err::write(to.join(member).join("Cargo.toml"), cut_member(repo, member)?)?;
    }
    for path in sources(repo)? {
        let target = to.join(&path);
        fs_err::create_dir_all(target.parent().context("a file has a folder")?)?;
        match which {
            Sources::Ours => drop(fs_err::copy(repo.join(&path), target)?),
            Sources::Empty if path.file_name() == Some("main.rs") => fs_err::write(target, "fn main() {}\n")?,
            Sources::Empty if path.file_name() == Some("lib.rs") => fs_err::write(target, "")?,
            Sources::Empty => {}
        }
    }
    Ok(())
}

/// The members' source files, relative to the checkout, sorted.
fn sources(repo: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut files = Vec::new();
    for member in MEMBERS {
        let mut folders = vec![Utf8PathBuf::from(member).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in repo.join(&folder).read_dir_utf8().with_context(|| format!("reading {folder}"))? {
                let entry = entry?;
                let path = folder.join(entry.file_name());
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_is_cut_to_what_the_agent_reaches() {
        let package = |name: &str, version: &str, needs: &str| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\ndependencies = [{needs}]\n")
        };
        let lock = package("cipolla-agent", "0.1.0", "\"a\", \"b 2.0.0\"")
            + &package("cipolla-identity", "0.1.0", "")
            + &package("a", "1.0.0", "\"c\"")
            + &package("b", "1.0.0", "")
            + &package("b", "2.0.0", "\"a\"")
            + &package("c", "1.0.0", "")
            + &package("builder-only", "1.0.0", "");
        let found = locked(&lock).unwrap();
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        let own = ["crate cipolla-agent 0.1.0", "crate cipolla-identity 0.1.0"];
        assert_eq!(names, ["crate a 1.0.0", "crate b 2.0.0", "crate c 1.0.0", own[0], own[1]]);
        assert_ne!(
            found,
            locked(&lock.replace("\"c\"\nversion = \"1.0.0\"", "\"c\"\nversion = \"1.0.1\"")).unwrap()
        );
    }

    #[test]
    fn the_cut_manifest_holds_the_agent_only() {
        let repo = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let manifest: toml::Table = cut_manifest(&repo).unwrap().parse().unwrap();
        let workspace = manifest["workspace"].as_table().unwrap();
        assert_eq!(workspace["members"].as_array().unwrap().len(), MEMBERS.len());
        let dependencies = workspace["dependencies"].as_table().unwrap();
        assert!(dependencies.contains_key("cipolla-identity") && !dependencies.contains_key("cipolla-build"));
        assert!(manifest["profile"].get("agent").is_some());
    }
}
