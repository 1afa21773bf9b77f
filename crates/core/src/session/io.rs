//! What goes into a session and what comes out of it.

use std::sync::Arc;

use super::{Admission, LocalReplica, PeerQuery, PeerReplica, ReconcileSet, Refusal};
use crate::bond::Bond;
use crate::feed::{FeedBatch, Incoming, Seq};
use crate::id::{RecordId, ReplicaId};
use crate::keyring::{Keyring, KeyringHead};
use crate::stamp::Stamp;
use crate::view::{Lens, View};
use crate::wire::{CloseCode, Direction, Hello, Message, Refusals, Token};

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
    Admitted(Result<Admission, Refusal>),
    /// Answer to [`Output::Peer`].
    Peer(PeerReplica),
    /// Answer to [`Output::Read`] or [`Output::ReadWanted`].
    Feed(Arc<FeedBatch>),
    /// Answer to [`Output::ReadBirths`].
    Held(Vec<(RecordId, Stamp)>),
    /// Answer to [`Output::ReadUnshown`]: removals, and tombstones.
    Unshown(Arc<FeedBatch>),
    /// Answer to [`Output::BuildReconcileSet`].
    ReconcileSet(Box<ReconcileSet>),
    /// The changes of so many [`Output::Apply`] are durable now.
    Applied(u64),
    /// The changes of an [`Output::Apply`] can't be applied.
    ApplyFailed(CloseCode, String),
    /// The database's keyring, as it is from now on.
    Keyring(Option<Arc<Keyring>>),
    /// Client: ask for another configuration from here on.
    Reconfigure(Box<LocalReplica>),
    /// What this side shows is this view from now on, because time has passed; and the views that the peer may hold records
    /// of. For a session that may ([`Session::may_rebind`](super::Session::may_rebind)).
    Rebind(Arc<View>, Vec<Arc<View>>),
    /// Client: a fresh token of this node's user, for the peer.
    Token(Token),
    /// Server, answer to [`Output::Token`]: the peer's user is the same, with the same rights.
    TokenAccepted,
    /// Server: the peer's user, or what it may do, is another from now on. The session ends, and the client's next
    /// one starts with what holds then.
    UserChanged,
    /// Server, at any time, also as an answer to [`Output::Token`]: the peer must go.
    Refuse(Refusal),
    /// Server: writes of the peer were refused that it has not been told of; ahead of the [`Input::Applied`] of
    /// the changes that they came in.
    RefusalsDue,
    /// Server, answer to [`Output::ReadRefusals`]: what the peer is to be told, and whether there is more.
    Refusals(Refusals, bool),
    /// Client, answer to [`Output::TakeRefusals`]: they are durable.
    RefusalsTaken,
    /// The local feed now ends here.
    FeedAdvanced(Seq),
    /// Answer to [`Output::FeedEnd`]: the local feed ends here at this moment.
    FeedEnd(Seq),
    /// Ask the peer where its feed ends now ([`SessionStatus::unanswered`]).
    Probe,
    /// Time has passed.
    Tick,
    /// Time has passed, and part of a message has arrived since: the peer is there, if slow.
    Arriving,
    /// This node stops.
    Shutdown,
}

/// What a session asks of the driver.
#[derive(Debug)]
pub enum Output {
    /// Send this to the peer, in order.
    Send(Frame),
    /// A peer says hello, or asks for something else on the open session (then without a token: it is known who it is);
    /// decide what it may do ([`Input::Admitted`]).
    Admit(Box<Hello>),
    /// Server: the peer hands in a fresh token; decide whether it may stay ([`Input::TokenAccepted`],
    /// [`Input::UserChanged`] or [`Input::Refuse`]). There is never more than one to decide on.
    Token(Token),
    /// Look up the peer's replica, and note what it is shown from now on ([`Input::Peer`]).
    Peer(PeerQuery),
    /// Read the local feed behind a sequence, at most about so many bytes ([`Input::Feed`]).
    Read {
        /// Behind this.
        after: Seq,
        /// So many bytes of encoded entries, give or take one transaction.
        max_bytes: usize,
        /// As this reader sees it.
        lens: Arc<Lens>,
    },
    /// Read these records in full, as far as the reader sees them ([`Input::Feed`]).
    ReadWanted(Vec<RecordId>, Arc<Lens>),
    /// Look up when these records were born, those that are there ([`Input::Held`]).
    ReadBirths(Vec<RecordId>),
    /// Find which of these records, if they were born then, the reader is not shown, and why ([`Input::Unshown`]).
    ReadUnshown(Vec<(RecordId, Stamp)>, Arc<Lens>),
    /// List what is held here in this view ([`Input::ReconcileSet`]).
    BuildReconcileSet(Arc<Lens>),
    /// The peer has everything of this view and nothing of those before: note it.
    ViewSettled(Arc<View>),
    /// The changes that follow belong together with feeds of other databases.
    Together(Vec<Bond>),
    /// Merge these changes, make them durable and store the checkpoint, in order ([`Input::Applied`]).
    Apply(Incoming),
    /// Add these statements of the peer to the keyring, before anything that follows
    /// ([`Input::Keyring`] or [`Input::ApplyFailed`]).
    ExtendKeyring(Vec<Arc<[u8]>>),
    /// The peer has the keyring up to here.
    KeyringAgreed(KeyringHead),
    /// Server: read the peer's refused writes behind a number ([`Input::Refusals`]).
    ReadRefusals {
        /// Behind this.
        after: u64,
    },
    /// Server: the peer has its refused writes up to this number: forget them, behind everything that is to be
    /// applied before.
    ForgetRefusals(u64),
    /// Client: take these writes back and make that durable, behind everything that is to be applied before
    /// ([`Input::RefusalsTaken`]).
    TakeRefusals(Refusals),
    /// The peer asks where the local feed ends: look, now ([`Input::FeedEnd`]).
    FeedEnd,
    /// The session is open, or goes on in another epoch.
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
    /// How often the configuration has changed on this session.
    pub epoch: u64,
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
    /// Everything of the peer is durable here, as far as it has said (true if nothing may be pulled).
    pub pulled_all: bool,
    /// How often the peer was asked where its feed ends and has not answered yet.
    pub unanswered: u32,
    /// How often the configuration has changed on this session.
    pub epoch: u64,
    /// Changes sent.
    pub changes_sent: u64,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: usize,
}
