//! `cargo xtask`: the builder's command line. Parses, dispatches and prints; every decision is in the crates below.
//!
//! Exit codes: 0 good, 1 failed, 2 bad usage or bad input, 130 interrupted.

mod bench;
mod check;
mod cli;
mod costs;
mod first_start;
mod oracle;
mod show;
mod verbs;

use std::process::ExitCode;

use build::exec::Interrupted;
use clap::Parser as _;

fn main() -> ExitCode {
    // This program is also the door into a build's namespaces: see `build::space`.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == build::space::ENTER) {
        let rest: Vec<_> = args.collect();
        let Err(error) = build::space::enter(&rest);
        eprintln!("entering a space: {error:#}");
        return ExitCode::from(1);
    }
    let cli = cli::Cli::parse();
    match build::exec::catch_signals().and_then(|()| verbs::dispatch(cli)) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() || error.chain().any(|e| e.is::<Interrupted>()) => {
            eprintln!("interrupted; nothing half-made is left");
            ExitCode::from(130)
        }
        Err(error) => match error.downcast_ref::<recipe::Diagnostics>() {
            Some(findings) => {
                eprint!("{}", findings.render(show::style()));
                ExitCode::from(2)
            }
            None => {
                eprintln!("{} {error:#}", show::bad("error:"));
                ExitCode::from(1)
            }
        },
    }
}
