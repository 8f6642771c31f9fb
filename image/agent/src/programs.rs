//! Other programs that the agent asks: validators, compilers of tables, service control.
//!
//! No secret is ever an argument: every user of the machine can read those.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whether its exit status was 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs programs of the image.
pub trait Programs {
    /// Whether the image has the program.
    fn has(&self, program: &str) -> bool;

    /// Runs it to its end, without input. Output is captured.
    ///
    /// # Errors
    /// When it cannot be started.
    fn run(&self, argv: &[&str]) -> Result<Ran>;

    /// Runs several, which may be at the same time, each to its end and without input. Gives their ends in the order
    /// of the lines.
    ///
    /// # Errors
    /// When one cannot be started.
    fn run_all(&self, lines: &[Vec<&str>]) -> Result<Vec<Ran>> {
        lines.iter().map(|argv| self.run(argv)).collect()
    }

    /// Runs it to its end with `input` on its standard input.
    ///
    /// # Errors
    /// When it cannot be started, or stops reading before the end. Where programs cannot be given input:
    /// always.
    fn feed(&self, argv: &[&str], _input: &str) -> Result<Ran> {
        bail!("{} cannot be given input here", argv.join(" "))
    }

    /// Runs it without input and hands over its standard output line by line, so that no more than a line of it
    /// is ever in memory. [`Ran::stdout`] stays empty.
    ///
    /// # Errors
    /// As [`Programs::run`].
    fn each_line(&self, argv: &[&str], take: &mut dyn FnMut(&str)) -> Result<Ran> {
        let ran = self.run(argv)?;
        ran.stdout.lines().for_each(take);
        Ok(Ran { stdout: String::new(), ..ran })
    }
}

/// Programs of the running appliance, found in Debian's folders.
#[derive(Debug, Clone, Copy)]
pub struct RealPrograms;

const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];

fn find(program: &str) -> Option<Utf8PathBuf> {
    FOLDERS.iter().map(|folder| Utf8Path::new(folder).join(program)).find(|path| path.is_file())
}

impl Programs for RealPrograms {
    fn has(&self, program: &str) -> bool {
        find(program).is_some()
    }

    fn run(&self, argv: &[&str]) -> Result<Ran> {
        let (mut command, program) = command(argv)?;
        let output = command.output().with_context(|| format!("starting {program}"))?;
        Ok(Ran {
            success: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    fn run_all(&self, lines: &[Vec<&str>]) -> Result<Vec<Ran>> {
        let start = |argv: &Vec<&str>| {
            let (mut command, program) = command(argv)?;
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().with_context(|| format!("starting {program}"))?;
            Ok((child, program.to_owned()))
        };
        let started: Vec<_> = lines.iter().map(start).collect::<Result<_>>()?;
        let end = |(child, program): (Child, String)| {
            let output = child.wait_with_output().with_context(|| format!("waiting for {program}"))?;
            Ok(Ran {
                success: output.status.success(),
                stdout: text(&output.stdout),
                stderr: text(&output.stderr),
            })
        };
        started.into_iter().map(end).collect()
    }

    fn feed(&self, argv: &[&str], input: &str) -> Result<Ran> {
        let (mut command, program) = command(argv)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        // Closed at the end of the statement: that is the end of the input.
        let fed = child.stdin.take().context("its input is not connected")?.write_all(input.as_bytes());
        let output = child.wait_with_output().with_context(|| format!("waiting for {program}"))?;
        let ran = Ran {
            success: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        if ran.success {
            fed.with_context(|| format!("writing to {program}"))?;
        }
        Ok(ran)
    }

    fn each_line(&self, argv: &[&str], take: &mut dyn FnMut(&str)) -> Result<Ran> {
        let (mut command, program) = command(argv)?;
        // What it complains about is short, and goes where this program's own complaints go.
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is not connected")?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).with_context(|| format!("reading from {program}"))? > 0 {
            take(text(&line).trim_end_matches('\n'));
            line.clear();
        }
        let status = child.wait().with_context(|| format!("waiting for {program}"))?;
        Ok(Ran { success: status.success(), stdout: String::new(), stderr: String::new() })
    }
}

/// The command with a fixed environment and no input, and the program's name.
fn command<'a>(argv: &[&'a str]) -> Result<(Command, &'a str)> {
    let [program, arguments @ ..] = argv else { bail!("no program is named") };
    let path = find(program).with_context(|| format!("the image has no program {program}"))?;
    let mut command = Command::new(path);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin").env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null());
    Ok((command, program))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// For a root folder that is not the running system: its programs cannot be run, so there are none.
#[derive(Debug, Clone, Copy)]
pub struct NoPrograms;

impl Programs for NoPrograms {
    fn has(&self, _program: &str) -> bool {
        false
    }

    fn run(&self, argv: &[&str]) -> Result<Ran> {
        bail!("{} belongs to another system than the running one", argv.join(" "))
    }
}
