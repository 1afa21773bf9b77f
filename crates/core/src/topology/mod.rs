//! The topology specification: what a node is and what each of its databases wants, as data.
//!
//! [`parse`] reads the TOML form (`docs/spec/topology-file.md`) into a [`TopologySpec`]; [`expand`] turns one
//! database's part into the links it asks for; [`plan()`] says what a running node has to do to become another one; [`grant`] cuts what a peer asks for to what a database is served
//! with. Nothing here reads a file, a clock or the environment: the environment and the filter language come in as
//! arguments of [`parse`].
//!
//! Invariant: nothing fails open. An unknown key, pattern, mode or value is an error with its line and column, and
//! so is a setting that would have no effect.

mod address;
pub mod announce;
mod error;
mod expand;
mod keyword;
mod name;
pub mod nearest;
mod pattern;
mod plan;
#[cfg(test)]
mod plan_tests;
mod policy;
mod reader;
mod serve;
mod spec;
mod suggest;
pub mod template;
mod toml_auth;
mod toml_database;
mod toml_file;
mod toml_sync;
mod units;

pub use address::{AddressError, Endpoint, ListenAddress};
pub use error::{Contradiction, FilterTextError, SpecError, SpecErrorKind, ValueError};
pub use expand::{LinkSpec, LinkTarget, expand, peer_link, seekers};
pub use keyword::{Keyword, UnknownKeyword};
pub use name::{DatabaseName, DatabaseNameError};
pub use nearest::Nearest;
pub use pattern::{Pattern, PatternKind, StarRole, SyncMode};
pub use plan::{Action, Actual, ActualDatabase, FileSpec, LinkChange, Plan, PlanError, plan};
pub use policy::{Compression, EncryptionSpec, FilterText, OnRemoval, PolicySpec};
pub use serve::{Direction, GrantNotice, Granted, ServeMode, grant};
pub use spec::{
    AccessSpec, AuthSpec, DatabaseSpec, Durability, IssuerKey, IssuerSpec, NodeSpec, OnDelete,
    PasswordSource, RelationSpec, Resolver, SyncSpec, TlsSpec, TopologySpec,
};
pub use toml_file::{FilterUse, ParseContext, PasswordRule, parse};
pub use units::{DurationError, parse_duration};
