//! A running node: the databases of a topology file, their links, a listener for sessions, the local API.
//!
//! A hub is a node that listens and serves; a device is one that does not. The code is the same.

pub mod api;
mod listener;
mod node;

pub use listener::{Listener, ListenerOptions, ListenerStats, Served};
pub use node::{Node, NodeError, OpenMode, database_password};
