//! `blazedb conflicts`: what lost a conflict.

use blazedb_core::topology::DatabaseName;
use clap::Args;

/// Arguments of `conflicts`.
#[derive(Args, Debug)]
pub struct ConflictsArgs {
    /// Database
    pub db: DatabaseName,
}
