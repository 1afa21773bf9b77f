//! The SQLite engine of BlazeDB: one database file.
//!
//! A record's body is one BlazeBinary blob, its history another; both live in one row, whose key is the record's
//! place in the feed. See `docs/spec/file-format.md`.

mod apply;
mod care;
mod conflicts;
mod connection;
mod error;
mod feed;
mod functions;
mod key;
mod lock_file;
mod names;
mod query;
mod reached;
mod reconcile;
mod row;
mod schema;
mod sleep;
mod sql_filter;
mod store;
mod write;

pub use apply::{Applied, CheckedBatch, Source, check};
pub use blazedb_sqlite::return_free_memory;
pub use care::{Verified, restore};
pub use conflicts::Conflict;
pub use connection::Durability;
pub use error::StoreError;
pub use key::Password;
pub use query::{FeedChange, OrderBy, Query};
pub use store::{ReplicaSource, Store, StoreOptions, WallClock};
pub use write::{TracedEdit, TracedOp, Transaction};
