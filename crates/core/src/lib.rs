//! The logic of BlazeDB, without I/O, clock or global randomness: every function here gives the same answer for
//! the same arguments.
//!
//! The journey of a write through these modules: [`record`] -> [`merge`] over [`cell`]s -> `entry` -> `session`
//! -> `wire`. See `docs/ARCHITECTURE.md`.

pub mod blazebinary;
pub mod filter;
mod id;
pub mod json;
pub mod limits;
pub mod record;
mod stamp;
pub mod topology;
mod value;

pub use filter::Filter;
pub use id::{NodeId, RecordId, ReplicaId};
pub use record::{FieldEdit, FieldEdits, Record};
pub use stamp::{Clock, DriftError, Hlc, Stamp};
pub use value::{Timestamp, Value};
