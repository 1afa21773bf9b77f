//! What goes into a session and what comes out of it.

use std::sync::Arc;

use super::{Admission, PeerReplica, ReconcileSet};
use crate::feed::{FeedBatch, Incoming, Seq};
use crate::id::{RecordId, ReplicaId};
use crate::wire::{CloseCode, Direction, Hello, Message};

/// A message for the transport: its own bytes, then bytes that it shares with other sessions.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The start of the message.
    pub head: Vec<u8>,
    /// The rest, if it is shared.
    pub shared: Option<SharedPayload>,
}

/// The data of a batch, as it is or compressed.
#[derive(Clone, Debug)]
pub struct SharedPayload {
    batch: Arc<FeedBatch>,
    compressed: bool,
}

impl SharedPayload {
    pub(super) const fn new(batch: Arc<FeedBatch>, compressed: bool) -> Self {
        Self { batch, compressed }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let compressed = if self.compressed { self.batch.compressed() } else { None };
        compressed.unwrap_or(&self.batch.data)
    }
}

impl Frame {
    /// The message's bytes, in two parts.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.head, self.shared.as_ref().map_or(&[], |shared| shared.bytes())]
    }

    /// How many bytes the message has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<&Message> for Frame {
    fn from(message: &Message) -> Self {
        Self { head: message.encode(), shared: None }
    }
}

/// What the driver tells a session.
#[derive(Debug)]
pub enum Input {
    /// A message of the peer arrived.
    Frame(Vec<u8>),
    /// Answer to [`Output::Admit`]: what this node grants, or why nothing.
    Admitted(Result<Admission, String>),
    /// Answer to [`Output::Peer`].
    Peer(PeerReplica),
    /// Answer to [`Output::Read`] or [`Output::ReadWanted`].
    Feed(Arc<FeedBatch>),
    /// Answer to [`Output::BuildReconcileSet`].
    ReconcileSet(Box<ReconcileSet>),
    /// The changes of so many [`Output::Apply`] are durable now.
    Applied(u64),
    /// The changes of an [`Output::Apply`] can't be applied.
    ApplyFailed(CloseCode, String),
    /// The local feed now ends here.
    FeedAdvanced(Seq),
    /// Time has passed.
    Tick,
    /// This node stops.
    Shutdown,
}

/// What a session asks of the driver.
#[derive(Debug)]
pub enum Output {
    /// Send this to the peer, in order.
    Send(Frame),
    /// A peer says hello; decide what it may do ([`Input::Admitted`]).
    Admit(Hello),
    /// Look up the peer's replica ([`Input::Peer`]).
    Peer(ReplicaId),
    /// Read the local feed behind a sequence, at most about so many bytes ([`Input::Feed`]).
    Read {
        /// Behind this.
        after: Seq,
        /// So many bytes of encoded entries, give or take one transaction.
        max_bytes: usize,
    },
    /// Read these records in full ([`Input::Feed`]).
    ReadWanted(Vec<RecordId>),
    /// List what is held here ([`Input::ReconcileSet`]).
    BuildReconcileSet,
    /// Merge these changes, make them durable and store the checkpoint, in order ([`Input::Applied`]).
    Apply(Incoming),
    /// The session is open.
    Opened(Opened),
    /// Call with [`Input::Tick`] at this time (milliseconds of the `now` that the driver passes).
    WakeAt(u64),
    /// The session is over: close the connection.
    Closed(Closed),
}

/// What both sides agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The replica on the other side.
    pub replica: ReplicaId,
    /// What was granted, seen from the client.
    pub direction: Direction,
    /// Why it is less than what the client asked for; empty if it is not.
    pub notice: String,
    /// Both sides compare what they hold first.
    pub reconcile: bool,
}

/// Why a session is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The peer ended it.
    ByPeer(CloseCode, String),
    /// This side ended it.
    Here(CloseCode, String),
    /// The peer has been silent for too long.
    Silent,
}

/// A session's figures, for status displays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionStatus {
    /// The peer has the local feed up to here.
    pub pushed: Seq,
    /// The local feed ends here.
    pub head: Seq,
    /// The peer's feed is durable here up to this.
    pub pulled: Seq,
    /// The peer's feed ends here, as far as it has said.
    pub peer_head: Seq,
    /// Everything local has been acknowledged (true if nothing may be pushed).
    pub pushed_all: bool,
    /// Everything of the peer is durable here (true if nothing may be pulled).
    pub pulled_all: bool,
    /// Changes sent.
    pub changes_sent: u64,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: usize,
}
