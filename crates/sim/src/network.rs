//! Connections and what happens on them.
//!
//! Invariants: a connection delivers in order or breaks; what is under way when it breaks is lost; the two ends
//! may learn of the break at different times, or only by silence.

use blazedb_core::feed::Seq;
use blazedb_core::session::{Input, Session};
use blazedb_core::wire::Direction;
use blazedb_core::{RecordId, ReplicaId};
use blazedb_store::Source;

use crate::config::LinkPlan;

/// One end of one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) conn: u64,
    pub(crate) end: End,
}

/// Which end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    Client,
    Server,
}

impl Place {
    pub(crate) const fn other(self) -> Self {
        let end = match self.end {
            End::Client => End::Server,
            End::Server => End::Client,
        };
        Self { conn: self.conn, end }
    }
}

/// One end of a connection, as its node sees it.
pub(crate) struct EndState {
    pub(crate) node: usize,
    pub(crate) session: Option<Session>,
    pub(crate) source: Option<Source>,
    pub(crate) wake: Option<u64>,
    pub(crate) opened: bool,
    /// What the peer has acknowledged and was checked for.
    pub(crate) acked: Seq,
    /// When the last frame towards this end arrives.
    pub(crate) last_arrival: u64,
}

impl EndState {
    pub(crate) const fn new(node: usize) -> Self {
        Self { node, session: None, source: None, wake: None, opened: false, acked: 0, last_arrival: 0 }
    }
}

/// A connection.
pub(crate) struct Conn {
    pub(crate) link: usize,
    pub(crate) client: EndState,
    pub(crate) server: EndState,
    pub(crate) latency: u64,
    /// Nothing gets through any more.
    pub(crate) cut: bool,
}

impl Conn {
    pub(crate) const fn end(&self, end: End) -> &EndState {
        match end {
            End::Client => &self.client,
            End::Server => &self.server,
        }
    }

    pub(crate) const fn end_mut(&mut self, end: End) -> &mut EndState {
        match end {
            End::Client => &mut self.client,
            End::Server => &mut self.server,
        }
    }
}

/// A link and its present connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) plan: LinkPlan,
    pub(crate) name: String,
    pub(crate) conn: Option<u64>,
    /// A try to connect is scheduled.
    pub(crate) due: bool,
}

/// A request of a session to its node.
pub(crate) enum Request {
    Admit(Direction),
    Peer(ReplicaId),
    Read { after: Seq, max_bytes: usize },
    Wanted(Vec<RecordId>),
    List,
}

/// Something that happens at a time.
pub(crate) enum Event {
    /// A frame arrives.
    Frame(Place, Vec<u8>),
    /// A node does what its session asked for.
    Request(Place, Request),
    /// The answer gets to the session.
    Answer(Place, Input),
    /// A session learns of the end of the feed.
    Head(Place),
    /// A session's timer.
    Wake(Place, u64),
    /// A session that is not open by now is given up.
    Opening(Place),
    /// An end learns that its connection is gone.
    Broken(Place),
    /// A link tries to connect.
    Connect(usize),
    /// A node's applier works.
    Flush(usize),
    /// An application writes.
    Work,
    /// Something breaks.
    Fault,
    /// A node starts again.
    Restart(usize),
}
