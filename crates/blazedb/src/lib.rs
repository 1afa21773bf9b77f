//! BlazeDB: an embedded, encrypted, local-first document database with a sync topology engine.
//!
//! ```
//! use blazedb::{Database, Password, field, record};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("bugs.blazedb");
//! let bugs = Database::open(path, Password::from("correct horse"))?;
//! let id = bugs.insert(record! { "title" => "crash", "priority" => 8 })?;
//! let urgent = bugs.query().filter(field("priority").gt(5)).order_by("title").all()?;
//! assert_eq!(urgent[0].id, id);
//! # Ok::<(), blazedb::StoreError>(())
//! ```
//!
//! [`Database`] is one file. [`Topology`] keeps databases in step with databases on other nodes.

mod applier;
mod database;
mod driver;
mod fanout;
mod link;
mod live;
mod local;
mod query;
mod status;
mod topology;

pub use applier::ApplyError;
pub use blazedb_core::filter::field;
pub use blazedb_core::session::{Admission, Closed};
pub use blazedb_core::topology::SyncMode;
pub use blazedb_core::wire::{CloseCode, Direction, Hello};
pub use blazedb_core::{
    FieldEdit, FieldEdits, Filter, Hlc, NodeId, Record, RecordId, ReplicaId, Stamp, Timestamp, Value,
};
pub use blazedb_store::return_free_memory;
pub use blazedb_store::{
    Conflict, Durability, Password, StoreError, StoreOptions, TracedEdit, TracedOp, Transaction, Verified,
    restore,
};
pub use blazedb_transport::{Connection, Endpoint, Fingerprint, Identity, KnownNodes, PinPolicy};
pub use database::{Database, Fields};
pub use driver::{Admit, Channel, Role, SessionContext, run_session};
pub use live::{LiveEvent, LiveQuery};
pub use query::QueryBuilder;
pub use status::{LinkError, LinkState, LinkStatus, SessionReport};
pub use topology::{DatabaseNode, LinkId, RemoteNode, SyncPolicy, Topology, TopologyError, link_in_process};

/// The fields of a record, by name.
///
/// ```
/// use blazedb::record;
/// let fields = record! { "title" => "crash", "priority" => 8 };
/// assert_eq!(fields.len(), 2);
/// ```
#[macro_export]
macro_rules! record {
    ($($name:expr => $value:expr),* $(,)?) => {
        $crate::Fields::from([$((::std::string::String::from($name), $crate::Value::from($value))),*])
    };
}
