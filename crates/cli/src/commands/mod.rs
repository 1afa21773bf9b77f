//! One module for each group of commands: its arguments and what it does.

pub mod bench;
pub mod bulk;
pub mod care;
mod chunks;
pub mod conflicts;
mod csv;
pub mod demo;
pub mod init;
pub mod node;
pub mod query;
pub mod record;

use crate::args::{Cli, Command};
use crate::output::{CliError, Output};

/// Runs one command.
///
/// # Errors
/// The command's [`CliError`].
pub async fn run(cli: &Cli, output: &mut Output) -> Result<(), CliError> {
    let global = &cli.global;
    match &cli.command {
        Command::Init(args) => init::run(args, global, output),
        Command::Up(_) => node::up(global, output).await,
        Command::Sync(args) => node::sync(args, global, output).await,
        Command::Status(_) => node::status(global, output).await,
        Command::Insert(args) => record::insert(args, global, output).await,
        Command::Get(args) => record::get(args, global, output).await,
        Command::Update(args) => record::update(args, global, output).await,
        Command::Delete(args) => record::delete(args, global, output).await,
        Command::Query(args) => query::query(args, global, output).await,
        Command::Watch(args) => query::watch(args, global, output).await,
        Command::Import(args) => bulk::import(args, global, output).await,
        Command::Export(args) => bulk::export(args, global, output).await,
        Command::Replay(args) => bulk::replay(args, global, output).await,
        Command::Verify(args) => care::verify(args, global, output).await,
        Command::Backup(args) => care::backup(args, global, output).await,
        Command::Restore(args) => care::restore(args, global, output),
        Command::Passwd(args) => care::passwd(args, global, output).await,
        Command::Conflicts(args) => conflicts::run(args, global, output).await,
        Command::Demo(args) => demo::run(args, output).await,
        // It starts runtimes of its own.
        Command::Bench(args) => tokio::task::block_in_place(|| bench::run(args, output)),
        Command::BenchNode => tokio::task::block_in_place(bench::serve_node),
    }
}
