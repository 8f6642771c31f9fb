//! Other programs that the agent asks: validators, compilers of tables, service control.
//!
//! No secret is ever an argument: every user of the machine can read those.

use std::process::{Command, Stdio};

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
        let [program, arguments @ ..] = argv else { bail!("no program is named") };
        let path = find(program).with_context(|| format!("the image has no program {program}"))?;
        let output = Command::new(path)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {program}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) })
    }
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
