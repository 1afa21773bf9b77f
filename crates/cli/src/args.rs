//! The arguments of `blazedb`: global options and the list of commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::apply::ApplyArgs;
use crate::commands::bench::BenchArgs;
use crate::commands::bulk::{ExportArgs, ImportArgs, ReplayArgs};
use crate::commands::care::{BackupArgs, PasswdArgs, RestoreArgs, VerifyArgs};
use crate::commands::conflicts::ConflictsArgs;
use crate::commands::demo::DemoArgs;
use crate::commands::groups::{AggregateArgs, DeleteAllArgs, NearestArgs, SearchArgs, UpdateAllArgs};
use crate::commands::init::InitArgs;
use crate::commands::join::JoinArgs;
use crate::commands::key::KeyArgs;
use crate::commands::node::{StatusArgs, SyncArgs, UpArgs};
use crate::commands::query::{QueryArgs, WatchArgs};
use crate::commands::record::{DeleteArgs, GetArgs, InsertArgs, UpdateArgs};
use crate::commands::rejected::RejectedArgs;
use crate::commands::simulate::SimulateArgs;
use crate::commands::token::TokenArgs;
use crate::commands::top::TopArgs;
use crate::commands::topology::{ExplainArgs, TopologyArgs};
use crate::commands::transact::TransactArgs;
use crate::commands::trust::TrustArgs;

/// BlazeDB: an embedded, encrypted, local-first document database with a sync topology engine
#[derive(Parser, Debug)]
#[command(name = "blazedb", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not reached in time, \
                          4 refused by authentication or access rules, 5 damaged file or wrong password";

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Topology file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "BLAZEDB_FILE",
        default_value = "blazedb.toml"
    )]
    pub file: PathBuf,
    /// Answer in JSON, errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but data and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show a hub and several devices at work on this machine, without any set-up
    Demo(DemoArgs),
    /// Write a commented topology file and the node's identity
    Init(InitArgs),
    /// Run the node until SIGTERM or ^C
    Up(UpArgs),
    /// Give the running node the changed topology file, and show what that does
    Apply(ApplyArgs),
    /// Sync every link once, until it is caught up both ways
    Sync(SyncArgs),
    /// Insert a record and print its id
    Insert(InsertArgs),
    /// Print a record
    Get(GetArgs),
    /// Change the given fields of a record
    Update(UpdateArgs),
    /// Delete a record
    Delete(DeleteArgs),
    /// Questions about records, and changes of many.
    #[command(flatten)]
    Many(ManyCommand),
    /// Insert the records of a file
    Import(ImportArgs),
    /// Print every record as NDJSON, ordered by id
    Export(ExportArgs),
    /// Apply an edit trace to the databases of the topology file
    Replay(ReplayArgs),
    /// Show databases and links: mode, pattern, state, pending changes, lag, last error
    Status(StatusArgs),
    /// Show the graph of nodes, databases and links as it is now
    Topology(TopologyArgs),
    /// Say why a record is here or on another node, or why it is not
    Explain(ExplainArgs),
    /// Watch databases and links in the terminal
    Top(TopArgs),
    /// Check a database's file
    Verify(VerifyArgs),
    /// Copy a database into a file while it is in use
    Backup(BackupArgs),
    /// Make a database from a backup
    Restore(RestoreArgs),
    /// Change a database's password
    Passwd(PasswdArgs),
    /// Show what lost a conflict
    Conflicts(ConflictsArgs),
    /// Show what an authority refused, write it again or forget it
    Rejected(RejectedArgs),
    /// Manage who may read a database that the hub can't read
    Key(KeyArgs),
    /// Issue, show and revoke tokens; invite devices and accept invitations
    Token(TokenArgs),
    /// Accept a remote node's new key on purpose
    Trust(TrustArgs),
    /// Measure this machine with the built-in workloads
    Bench(BenchArgs),
    /// Run the topology file in the simulator, with everything that can go wrong
    Simulate(SimulateArgs),
    /// A node of a benchmark, in a process of its own
    #[command(name = "bench-node", hide = true)]
    BenchNode,
}

/// The commands that ask about records, or change many of them.
#[derive(Subcommand, Debug)]
pub enum ManyCommand {
    /// Print the records that match, one JSON object a line
    Query(QueryArgs),
    /// Print what changes among the records that match, as it happens
    Watch(WatchArgs),
    /// Make the edits of a file, in any databases, all or none
    Transact(TransactArgs),
    /// Print the records of two databases that belong together
    Join(JoinArgs),
    /// Count and measure the records that match, in groups
    Aggregate(AggregateArgs),
    /// Print the records that have certain words, the best first
    Search(SearchArgs),
    /// Print the records whose vector is nearest to a given one
    Nearest(NearestArgs),
    /// Change every record that matches
    UpdateAll(UpdateAllArgs),
    /// Delete every record that matches
    DeleteAll(DeleteAllArgs),
}

impl ManyCommand {
    const fn name(&self) -> &'static str {
        match self {
            Self::Query(_) => "query",
            Self::Watch(_) => "watch",
            Self::Transact(_) => "transact",
            Self::Join(_) => "join",
            Self::Aggregate(_) => "aggregate",
            Self::Search(_) => "search",
            Self::Nearest(_) => "nearest",
            Self::UpdateAll(_) => "update-all",
            Self::DeleteAll(_) => "delete-all",
        }
    }
}

impl Command {
    /// Whether what it is to do stands in a file.
    #[must_use]
    pub const fn reads_file(&self) -> bool {
        matches!(
            self,
            Self::Import(_) | Self::Replay(_) | Self::Token(_) | Self::Many(ManyCommand::Transact(_))
        )
    }

    /// The command's word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Demo(_) => "demo",
            Self::Init(_) => "init",
            Self::Up(_) => "up",
            Self::Apply(_) => "apply",
            Self::Sync(_) => "sync",
            Self::Insert(_) => "insert",
            Self::Get(_) => "get",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
            Self::Many(command) => command.name(),
            Self::Import(_) => "import",
            Self::Export(_) => "export",
            Self::Replay(_) => "replay",
            Self::Status(_) => "status",
            Self::Topology(_) => "topology",
            Self::Explain(_) => "explain",
            Self::Top(_) => "top",
            Self::Verify(_) => "verify",
            Self::Backup(_) => "backup",
            Self::Restore(_) => "restore",
            Self::Passwd(_) => "passwd",
            Self::Conflicts(_) => "conflicts",
            Self::Rejected(_) => "rejected",
            Self::Key(_) => "key",
            Self::Token(_) => "token",
            Self::Trust(_) => "trust",
            Self::Bench(_) => "bench",
            Self::Simulate(_) => "simulate",
            Self::BenchNode => "bench-node",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_are_the_words_that_are_typed() {
        for (line, name) in [
            (&["blazedb", "up"][..], "up"),
            (&["blazedb", "conflicts", "bugs"], "conflicts"),
            (&["blazedb", "query", "bugs", "a == 1", "--json"], "query"),
        ] {
            assert_eq!(Cli::try_parse_from(line).unwrap().command.name(), name);
        }
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for line in [["blazedb", "-f", "x.toml", "up"], ["blazedb", "up", "-f", "x.toml"]] {
            assert_eq!(Cli::try_parse_from(line).unwrap().global.file, PathBuf::from("x.toml"));
        }
    }
}
