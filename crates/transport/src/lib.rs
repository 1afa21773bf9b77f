//! The connections of BlazeDB: who a node is, how two nodes agree on keys, and how a wire message travels.
//!
//! A session never sees a socket. It gets a [`FrameSender`] and a [`FrameReceiver`], which are the same for a
//! WebSocket ([`ws::connect`], [`server::accept`]) and for two databases of one process ([`memory::pair`]).
//! Here a *frame* is one wire message of a session, whatever number of WebSocket frames carries it.
//!
//! Specification: `docs/spec/handshake.md`. Why it is built so, with figures: `docs/decisions/0003-transport.md`.

mod counters;
pub mod files;
mod fingerprint;
mod frames;
mod identity;
pub mod memory;
mod names;
pub mod noise;
mod pins;
mod resolver;
pub mod server;
mod socket;
pub mod tls;
mod upgraded;
mod watched;
pub mod ws;

pub use blazedb_core::topology::{AddressError, Endpoint};
pub use counters::{LinkCounters, LinkTotals};
pub use fingerprint::{Fingerprint, FingerprintError, PublicKey};
pub use frames::{Connection, FrameReceiver, FrameSender, ReceiveError, SendError, WebSocketFault};
pub use identity::{Identity, IdentityDamage, IdentityError};
pub use names::{NameError, Purpose};
pub use pins::{Acquaintance, KnownNodes, LineProblem, PinError, PinPolicy};
pub use watched::{FileProblem, WatchedFile};
