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

use std::time::Duration;

use crate::args::{Cli, Command};
use crate::output::{CliError, Output};

/// Threads for what does not block.
const WORKERS: usize = 2;

/// Runs one command.
///
/// # Errors
/// The command's [`CliError`].
pub fn run(cli: &Cli, output: &mut Output) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| CliError::io("starting", &error))?;
    let done = runtime.block_on(on_databases(cli, output));
    // Reads that nobody waits for any more are over within this.
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}

async fn on_databases(cli: &Cli, output: &mut Output) -> Result<(), CliError> {
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
