//! The logic of BlazeDB, without I/O, clock or global randomness: every function here gives the same answer for
//! the same arguments.
//!
//! The journey of a write through these modules: [`record`] -> [`merge`] over [`cell`]s -> [`history`] ->
//! [`feed`] -> [`session`] -> [`wire`]. See `docs/ARCHITECTURE.md`.

pub mod access;
pub mod authority;
pub mod blazebinary;
pub mod bond;
pub mod cell;
pub mod feed;
pub mod filter;
pub mod histogram;
pub mod history;
mod id;
pub mod json;
pub mod keyring;
pub mod limits;
pub mod merge;
pub mod numbers;
pub mod record;
pub mod seal;
pub mod session;
mod stamp;
pub mod topology;
pub mod turns;
pub mod typed;
mod value;
pub mod version;
pub mod view;
pub mod wire;

pub use filter::Filter;
pub use id::{NodeId, RecordId, ReplicaId};
pub use record::{FieldEdit, FieldEdits, Record};
pub use stamp::{Clock, DriftError, Hlc, Stamp};
pub use value::{Timestamp, Value};
