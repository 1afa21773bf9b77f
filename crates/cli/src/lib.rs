//! The command line: arguments in, data on stdout, everything else on stderr, an exit code.
//!
//! Invariants: every failure is one [`CliError`], printed in one place; a reader of stdout that goes away ends a
//! command without a word.

pub mod args;
pub mod commands;
mod demo;
pub mod load;
pub mod output;
mod usage;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

pub use args::{Cli, Command, GlobalArgs};
pub use output::{CliError, ErrorCode, Output};

/// Runs the command line `args`, the program's name first, and tells how it went.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let json = usage::asks_for_json(&args);
    let (result, json) = match Cli::try_parse_from(args) {
        Ok(cli) => (run_command(&cli), cli.global.json),
        Err(error) => (usage::answer(&error, json), json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::report(&error, json);
            ExitCode::from(error.code.exit())
        }
    }
}

fn run_command(cli: &Cli) -> Result<(), CliError> {
    let mut output = Output::to_stdout(&cli.global);
    commands::run(cli, &mut output)?;
    output.flush()
}
