//! One module for each group of commands: its arguments and what it does.

pub mod bench;
pub mod bulk;
pub mod care;
pub mod conflicts;
pub mod demo;
pub mod init;
pub mod node;
pub mod query;
pub mod record;

use crate::args::{Cli, Command};
use crate::output::{CliError, ErrorCode, Output};

/// Runs one command.
///
/// # Errors
/// The command's [`CliError`].
pub fn run(cli: &Cli, output: &mut Output) -> Result<(), CliError> {
    match &cli.command {
        Command::Init(args) => init::run(args, &cli.global, output, |_data| Ok(())),
        Command::Demo(args) => demo::run(args, output),
        Command::Bench(args) => bench::run(args, output),
        Command::BenchNode => bench::serve_node(),
        other => Err(CliError::new(
            ErrorCode::Unavailable,
            format!("`blazedb {}` is not in this build", other.name()),
        )),
    }
}
