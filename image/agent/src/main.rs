//! The program `cipolla`: parses its arguments and leaves the rest to the library.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    agent::cli::main(&agent::cli::Cli::parse())
}
