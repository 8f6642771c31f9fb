//! The command line: what there is to type, and what it runs. No logic of its own.

use std::process::ExitCode;

use anyhow::{Result, bail};
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};

use crate::fs::RealFs;
use crate::{boot, initrd};

/// Looks after a Cipolla appliance: its identity, its settings, its owner's access.
#[derive(Debug, Parser)]
#[command(name = "cipolla", version, max_term_width = 100)]
pub struct Cli {
    /// Work on the appliance below this folder instead of the running one.
    #[arg(long, value_name = "DIR", default_value = "/", global = true)]
    root: Utf8PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make what this start needs: keys, identity, configuration. Runs before the network at every start.
    ///
    /// Keys that are there are never replaced; with everything in place it says "nothing to do".
    #[command(after_help = "Example:\n  cipolla boot --dry-run    # what would be done")]
    Boot {
        /// Print the plan and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Mount the writable parts of the root file system. For the initramfs only.
    #[command(hide = true)]
    Initrd {
        /// The data partition's device node.
        #[arg(long, value_name = "DEVICE")]
        data: Utf8PathBuf,
    },
}

/// Runs the command and prints an error, if there is one, for a person at the console.
#[must_use]
pub fn main(cli: &Cli) -> ExitCode {
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cipolla: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Boot { dry_run } => {
            let fs = RealFs::open(&cli.root)?;
            if *dry_run { print_plan(&boot::plan(&fs)?) } else { boot(&fs) }
                .map_err(|error| error.context("preparing this start"))
        }
        Command::Initrd { data } => {
            if !rustix::process::geteuid().is_root() {
                bail!("mounting the data partition needs root: this command is for the initramfs");
            }
            initrd::run(&cli.root, data)
        }
    }
}

fn print_plan(plan: &boot::Plan) -> Result<()> {
    for action in plan.actions() {
        println!("would {action}");
    }
    if plan.actions().is_empty() {
        println!("nothing to do");
    }
    Ok(())
}

fn boot(fs: &RealFs) -> Result<()> {
    let mut done = 0_usize;
    boot::run(fs, &mut |action| {
        done += 1;
        println!("{action}: done");
    })?;
    if done == 0 {
        println!("nothing to do");
    }
    Ok(())
}
