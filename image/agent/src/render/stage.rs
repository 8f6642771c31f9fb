//! New files on trial: in memory, for root alone, beside copies of their future neighbours.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::Rendered;
use crate::fs::{Access, Fs, Kind, atomic};
use crate::paths;
use crate::programs::{Programs, Ran};

/// The folder of the trial and what was put there.
pub(super) struct Stage {
    files: Vec<Utf8PathBuf>,
}

/// Where a file is on trial.
fn staged(path: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{}/trial{path}", paths::RUN))
}

fn uses_neighbours(file: &Rendered) -> bool {
    file.validate.iter().any(|word| word.contains("{dir}"))
}

impl Stage {
    /// Puts the files on trial.
    pub(super) fn fill(fs: &dyn Fs, files: &[Rendered]) -> Result<Self> {
        let mut stage = Self { files: Vec::new() };
        for file in files {
            stage.put(fs, &file.path, file.text.as_bytes())?;
        }
        for file in files.iter().filter(|file| uses_neighbours(file)) {
            stage.copy_neighbours(fs, &file.path)?;
        }
        Ok(stage)
    }

    fn put(&mut self, fs: &dyn Fs, path: &Utf8Path, content: &[u8]) -> Result<()> {
        let target = staged(path);
        let folders: Vec<_> = target.ancestors().skip(1).collect();
        for folder in folders.into_iter().rev().filter(|folder| folder.starts_with(paths::RUN)) {
            if fs.entry(folder)?.is_none() {
                // The top stays open for what else is shown there; all below is closed.
                let mode = if folder == paths::RUN { 0o755 } else { 0o700 };
                fs.mkdir(folder, Access::root(mode))?;
            }
        }
        if fs.entry(&target)?.is_some() {
            fs.remove(&target)?;
        }
        fs.create(&target, content, Access::root(0o600))?;
        self.files.push(target);
        Ok(())
    }

    /// Copies the files beside `path` that are not on trial themselves.
    fn copy_neighbours(&mut self, fs: &dyn Fs, path: &Utf8Path) -> Result<()> {
        let folder = atomic::parent(path);
        for name in fs.list(folder)? {
            let neighbour = folder.join(name);
            let is_file = fs.entry(&neighbour)?.is_some_and(|entry| entry.kind == Kind::File);
            if is_file && !self.files.contains(&staged(&neighbour)) {
                let content = fs.read(&neighbour)?.unwrap_or_default();
                self.put(fs, &neighbour, &content)?;
            }
        }
        Ok(())
    }

    /// Asks the programs of all files, at the same time where that is possible: each starts a large program to read
    /// a small file. The inner errors are their answers: why they refuse a file.
    pub(super) fn validate(
        &self,
        programs: &dyn Programs,
        files: &[Rendered],
    ) -> Result<Vec<Result<(), String>>> {
        let lines: Vec<Option<Vec<String>>> = files.iter().map(|file| line(programs, file)).collect();
        let asked: Vec<Vec<&str>> =
            lines.iter().flatten().map(|line| line.iter().map(String::as_str).collect()).collect();
        let mut answers = programs.run_all(&asked).context("validating the configuration")?.into_iter();
        // A program that is asked answers; whoever is not asked has nothing against it.
        let verdict = |line: Option<Vec<String>>| line.and_then(|line| Some((line, answers.next()?)));
        Ok(lines.into_iter().map(verdict).map(|asked| asked.map_or(Ok(()), judge)).collect())
    }

    /// Removes everything that was on trial.
    pub(super) fn clear(&self, fs: &dyn Fs) -> Result<()> {
        self.files.iter().try_for_each(|path| fs.remove(path))
    }
}

/// The validator's command line for a file on trial; `None` if it has none in this image.
fn line(programs: &dyn Programs, file: &Rendered) -> Option<Vec<String>> {
    file.validate.first().filter(|program| programs.has(program))?;
    let target = staged(&file.path);
    let dir = atomic::parent(&target).as_str();
    Some(
        file.validate
            .iter()
            .map(|word| word.replace("{file}", target.as_str()).replace("{dir}", dir))
            .collect(),
    )
}

fn judge((line, ran): (Vec<String>, Ran)) -> Result<(), String> {
    if ran.success {
        return Ok(());
    }
    // The last lines say what is wrong; some programs use standard output for it.
    let text = if ran.stderr.trim().is_empty() { &ran.stdout } else { &ran.stderr };
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
    Err(format!("{} refuses it:\n  {tail}", line[0]))
}
