//! The command line: arguments in, data on stdout, everything else on stderr, an exit code.
//!
//! Invariants: every failure is one [`CliError`], printed in one place; a reader of stdout that goes away ends a
//! command without a word.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value indexed by a name that it lacks is null, not a panic"
)]

pub mod args;
pub mod client;
pub mod commands;
mod demo;
pub mod load;
pub mod output;
pub mod render;
mod usage;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

pub use args::{Cli, Command, GlobalArgs};
pub use output::{CliError, ErrorCode, Output};

/// Runs the command line `args`, the program's name first, and tells how it went.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let json = usage::asks_for_json(&args);
    let (result, json, reads_file) = match Cli::try_parse_from(args) {
        Ok(cli) => (run_command(&cli), cli.global.json, cli.command.reads_file()),
        Err(error) => (usage::answer(&error, json), json, false),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::report(&error, json);
            // The arguments were right: what the file holds is not.
            let in_file = reads_file && error.code == ErrorCode::Invalid;
            ExitCode::from(if in_file { ErrorCode::Failed } else { error.code }.exit())
        }
    }
}

fn run_command(cli: &Cli) -> Result<(), CliError> {
    log_to_stderr(&cli.global);
    let mut output = Output::to_stdout(&cli.global);
    commands::run(cli, &mut output)?;
    output.flush()
}

fn log_to_stderr(global: &GlobalArgs) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal();
    // It can fail only if logging is set up already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .try_init();
}
