//! `blazedb up`, `sync` and `status`: the node of the topology file.

use clap::Args;

/// Arguments of `up`.
#[derive(Args, Debug)]
pub struct UpArgs {}

/// Arguments of `sync`.
#[derive(Args, Debug)]
pub struct SyncArgs {
    /// Give up after this many seconds, with exit code 3
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {}
