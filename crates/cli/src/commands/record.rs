//! `blazedb insert`, `get`, `update` and `delete`: one record.

use blazedb_core::RecordId;
use blazedb_core::topology::DatabaseName;
use clap::Args;

/// Arguments of `insert`.
#[derive(Args, Debug)]
pub struct InsertArgs {
    /// Database
    pub db: DatabaseName,
    /// The record: {"field": value, ..}, with "id" if you choose it
    pub json: String,
}

/// Arguments of `get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// Database
    pub db: DatabaseName,
    /// Record
    pub id: RecordId,
}

/// Arguments of `update`.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// Database
    pub db: DatabaseName,
    /// Record
    pub id: RecordId,
    /// The fields to write: {"field": value, ..}; null is a value
    #[arg(required_unless_present = "unset")]
    pub json: Option<String>,
    /// Remove a field (may be repeated)
    #[arg(long, value_name = "FIELD")]
    pub unset: Vec<String>,
}

/// Arguments of `delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Database
    pub db: DatabaseName,
    /// Record
    pub id: RecordId,
}
