//! `cargo xtask check`: the fast checks, all of them even when one fails.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use build::exec::interrupted;
use camino::Utf8PathBuf;
use rustix::process::{Pid, Signal, kill_process_group};
use xshell::{Shell, cmd};

use crate::show;
use crate::verbs::Site;

/// Runs one check in a shell that stands in the checkout.
type Check = fn(&Shell) -> xshell::Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("format", |sh| cmd!(sh, "cargo fmt --all --check").quiet().run()),
    ("clippy", |sh| cmd!(sh, "cargo clippy --workspace --all-targets --quiet -- -D warnings").quiet().run()),
    ("docs", |sh| {
        let _flags = sh.push_env("RUSTDOCFLAGS", "-D warnings");
        cmd!(sh, "cargo doc --workspace --no-deps --document-private-items --quiet").quiet().run()
    }),
    ("dependencies", |sh| {
        cmd!(sh, "cargo deny --log-level error check licenses bans sources").quiet().ignore_stdout().run()
    }),
    ("shell", shellcheck),
    (UNIT_TESTS, |sh| cmd!(sh, "cargo test --workspace --quiet").quiet().run()),
];

/// The check that [`crate::verbs`]'s `test` makes as well.
const UNIT_TESTS: &str = "unit tests";

/// Runs all of them; the unit tests only if they are wanted.
pub(crate) fn check(site: &Site, unit_tests: bool) -> Result<ExitCode> {
    let shell = Shell::new()?;
    shell.change_dir(&site.repo);
    let mut failed = 0;
    for (name, run) in CHECKS.iter().filter(|(name, _)| unit_tests || *name != UNIT_TESTS) {
        eprintln!("… {name}");
        let started = Instant::now();
        match run(&shell) {
            Ok(()) => eprintln!("{} {name:<14} {:.1} s", show::good("✓"), started.elapsed().as_secs_f64()),
            Err(error) => {
                failed += 1;
                eprintln!("{} {name:<14} {error}", show::bad("✗"));
            }
        }
        interrupted()?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The checks but for the unit tests, while this process does something else: compilers and package installers leave each
/// other half of a computer. Dropped before its end, it is killed, with the compilers that it started.
pub(crate) struct Beside {
    child: Child,
    said: Utf8PathBuf,
}

impl Beside {
    pub(crate) fn start(site: &Site) -> Result<Self> {
        let said = site.repo.join("target/checks.log");
        fs_err::create_dir_all(site.repo.join("target"))?;
        let out = fs_err::File::create(&said)?.into_file();
        let child = Command::new(&site.program)
            .args(["check", "--no-unit-tests"])
            .current_dir(&site.repo)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {} check", site.program))?;
        Ok(Self { child, said })
    }

    /// Waits for the end, passes on what was said, and says whether all was well.
    pub(crate) fn finish(mut self) -> Result<bool> {
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for the checks")? {
                break status;
            }
            interrupted()?;
            std::thread::sleep(Duration::from_millis(50));
        };
        eprint!("{}", fs_err::read_to_string(&self.said)?);
        Ok(status.success())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to do.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Every tracked file that is a POSIX or bash script: by its first line, or in the initramfs, which sources them.
fn shellcheck(shell: &Shell) -> xshell::Result<()> {
    let files = cmd!(shell, "git ls-files").quiet().read()?;
    let is_script = |path: &&str| {
        let first = shell.read_file(path).unwrap_or_default();
        ["#!/bin/sh", "#!/usr/bin/env bash", "# shellcheck shell="]
            .iter()
            .any(|start| first.starts_with(start))
    };
    let scripts: Vec<&str> = files.lines().filter(|p| !p.ends_with(".rs")).filter(is_script).collect();
    cmd!(shell, "shellcheck {scripts...}").quiet().run()
}
