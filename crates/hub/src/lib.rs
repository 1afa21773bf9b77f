//! A running node: the databases of a topology file, their links, a listener for sessions, the local API.
//!
//! A hub is a node that listens and serves; a device is one that does not. The code is the same.

mod admission;
pub mod api;
pub mod apply;
mod asks;
pub mod auth;
mod door;
mod graph;
mod listener;
mod node;
mod observer;
mod sessions;
mod terms;

/// How long the runtime of a program that runs a node keeps a thread for blocking work that there is none of: a burst has
/// hundreds of them, and each holds the stack that it once needed.
pub const SPARE_THREAD: std::time::Duration = std::time::Duration::from_secs(1);

pub use graph::declared_snapshot;
pub use listener::{Listener, ListenerOptions, ListenerStats, Served};
pub use node::{Node, NodeError, OpenMode, TOKEN_FILE, database_password};
pub use sessions::{ClientSession, SessionKey, Sessions, TurnedAway};
