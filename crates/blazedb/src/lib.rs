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

mod across;
mod applier;
mod configure;
mod database;
mod driver;
mod fanout;
mod forecast;
mod group;
mod guard;
mod join;
mod lan;
mod link;
mod link_keys;
mod link_status;
mod live;
mod local;
mod meeting;
mod mesh_link;
mod moment;
mod neighbours;
mod outcome;
mod passed;
mod pattern;
mod peers;
mod policy;
mod query;
mod registered;
mod rehearsal;
mod relation;
mod remote;
mod remote_node;
mod route;
mod search;
pub mod snapshot;
mod star;
mod status;
mod token_source;
mod tombstones;
mod topology;
mod turn;
mod wake;

pub use across::CrossTransaction;
pub use applier::ApplyError;
pub use blazedb_core::access::{AccessRules, Operation, Rights};
pub use blazedb_core::filter::{User, field};
pub use blazedb_core::keyring::{Keyring, KeyringError, Member, MemberId, MemberKind};
pub use blazedb_core::session::{Admission, Closed, Refusal};
pub use blazedb_core::topology::EncryptionSpec as Encryption;
pub use blazedb_core::topology::{Contradiction, LinkTarget, OnDelete, SyncMode};
pub use blazedb_core::typed;
pub use blazedb_core::view::{RemovalReason, View, ViewRequest};
pub use blazedb_core::wire::ask::{AskCode, Question, Row, SortKey, Wanted};
pub use blazedb_core::wire::{CloseCode, Direction, Hello, Token};
pub use blazedb_core::{
    FieldEdit, FieldEdits, Filter, Hlc, NodeId, Record, RecordId, ReplicaId, Stamp, Timestamp, Value,
};
pub use blazedb_store::{
    Aggregation, Claim, Conflict, Cursor, Dispute, Durability, FieldTrace, Gate, GroupRow, InDoubt,
    JoinChange, JoinedRow, Leaving, Measure, Metric, OrderBy, Page, Password, Patience, Plan, Query,
    QueryProblem, RecentChange, Rejected, Removal, Removals, Resolution, Resolver, Search, SearchHit, Store,
    StoreError, StoreOptions, TakenAway, Trace, TraceRanks, TracedEdit, TracedOp, Transaction, TransactionId,
    UnopenedRecord, Verified, restore,
};
pub use blazedb_store::{return_free_memory, share_heaps};
pub use blazedb_transport::{Connection, Endpoint, Fingerprint, Identity, KnownNodes, PinPolicy};
pub use database::{Database, Fields};
pub use driver::{Channel, ClientAsk, Role, SessionContext, run_session};
pub use forecast::{Forecast, ForecastError};
pub use group::GroupBuilder;
pub use guard::{Admit, Admitted, Decision, Guard, Rebind, Renew, Verdict};
pub use join::{JoinBuilder, LiveJoin};
pub use lan::LanError;
pub use live::{LiveEvent, LiveQuery};
pub use local::link_in_process;
pub use moment::Moment;
pub use neighbours::LocalChanges;
pub use pattern::Pattern;
pub use peers::Doorman;
pub use policy::SyncPolicy;
pub use query::QueryBuilder;
pub use registered::Registered;
pub use rehearsal::{Interrupted, serve_rehearsal};
pub use remote::{AskError, RemoteDatabase, RemoteGroups, RemoteQuery, RemoteRows, RemoteSearch};
pub use remote_node::RemoteNode;
pub use search::SearchBuilder;
pub use status::{ChangeTotals, LinkError, LinkState, LinkStatus, SessionReport};
pub use topology::{DatabaseNode, LinkId, Topology, TopologyError};
pub use turn::Turn;
pub use wake::ViewWatch;

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
