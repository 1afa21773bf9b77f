//! One module for each group of commands: its arguments and what it does.

pub mod apply;
pub mod bench;
pub mod bulk;
pub mod care;
mod chunks;
pub mod conflicts;
mod csv;
pub mod demo;
pub mod groups;
pub mod init;
pub mod join;
pub mod key;
pub mod node;
pub mod query;
pub mod record;
pub mod rejected;
pub mod simulate;
pub mod token;
pub mod top;
pub mod topology;
pub mod transact;
pub mod trust;

use std::time::Duration;

use crate::args::{Cli, Command, GlobalArgs, ManyCommand};
use crate::output::{CliError, Output};

/// Threads for what does not block.
const WORKERS: usize = 2;

/// Heaps of a process that serves: one for each of those threads. Whatever blocks has many threads that come and go.
const HEAPS: u8 = 2;

/// Runs one command.
///
/// # Errors
/// The command's [`CliError`].
pub fn run(cli: &Cli, output: &mut Output) -> Result<(), CliError> {
    if matches!(cli.command, Command::Up(_) | Command::BenchNode) {
        blazedb::share_heaps(HEAPS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(blazedb_hub::SPARE_THREAD)
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
        Command::Apply(args) => apply::run(args, global, output).await,
        Command::Sync(args) => node::sync(args, global, output).await,
        Command::Status(_) => node::status(global, output).await,
        Command::Topology(args) => topology::topology(args, global, output).await,
        Command::Explain(args) => topology::explain(args, global, output).await,
        Command::Top(args) => top::run(args, global, output).await,
        Command::Insert(args) => record::insert(args, global, output).await,
        Command::Get(args) => record::get(args, global, output).await,
        Command::Update(args) => record::update(args, global, output).await,
        Command::Delete(args) => record::delete(args, global, output).await,
        Command::Many(command) => on_many_records(command, global, output).await,
        Command::Import(args) => bulk::import(args, global, output).await,
        Command::Export(args) => bulk::export(args, global, output).await,
        Command::Replay(args) => bulk::replay(args, global, output).await,
        Command::Verify(args) => care::verify(args, global, output).await,
        Command::Backup(args) => care::backup(args, global, output).await,
        Command::Restore(args) => care::restore(args, global, output),
        Command::Passwd(args) => care::passwd(args, global, output).await,
        Command::Token(args) => token::run(args, global, output).await,
        Command::Trust(args) => trust::run(args, global, output),
        Command::Conflicts(args) => conflicts::run(args, global, output).await,
        Command::Rejected(args) => rejected::run(args, global, output).await,
        Command::Key(args) => key::run(args, global, output).await,
        Command::Demo(args) => demo::run(args, output).await,
        // It starts runtimes of its own.
        Command::Bench(args) => tokio::task::block_in_place(|| bench::run(args, output)),
        Command::Simulate(args) => tokio::task::block_in_place(|| simulate::run(args, global, output)),
        Command::BenchNode => tokio::task::block_in_place(bench::serve_node),
    }
}

/// The commands that ask about records, or change many of them.
async fn on_many_records(
    command: &ManyCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        ManyCommand::Query(args) => query::query(args, global, output).await,
        ManyCommand::Watch(args) => query::watch(args, global, output).await,
        ManyCommand::Transact(args) => transact::run(args, global, output).await,
        ManyCommand::Join(args) => join::run(args, global, output).await,
        ManyCommand::Aggregate(args) => groups::aggregate(args, global, output).await,
        ManyCommand::Search(args) => groups::search(args, global, output).await,
        ManyCommand::Nearest(args) => groups::nearest(args, global, output).await,
        ManyCommand::UpdateAll(args) => groups::update_all(args, global, output).await,
        ManyCommand::DeleteAll(args) => groups::delete_all(args, global, output).await,
    }
}
