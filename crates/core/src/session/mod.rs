//! One live connection of a link, as a state machine without I/O.
//!
//! The driver feeds [`Input`]s in and carries [`Output`]s out: frames to the transport, requests to the store.
//! The same code runs over WebSockets, in process and in the simulator. Reconnecting is the coordinator's job.
//!
//! Invariants:
//! - nothing is sent in a direction that was not granted, and nothing received in one is applied;
//! - a checkpoint moves only with changes that the store has reported durable;
//! - unacknowledged changes never exceed [`SEND_WINDOW_BYTES`](crate::limits::SEND_WINDOW_BYTES) plus one batch;
//! - with nothing new on either side nothing is sent but pings.

mod opening;
mod puller;
mod pusher;
mod reconcile;

use std::collections::VecDeque;
use std::sync::Arc;

pub use opening::{Admission, LocalReplica, PeerReplica};
pub use reconcile::{ReconcileItem, ReconcileSet};

use crate::blazebinary::DecodeError;
use crate::feed::{FeedBatch, Incoming, PeerNo, Seq};
use crate::id::{RecordId, ReplicaId};
use crate::limits::{PEER_SILENT_MS, PING_AFTER_MS};
use crate::wire::{CloseCode, Direction, Hello, Message};
use opening::{ClientOpening, ServerOpening};
use puller::Puller;
use pusher::Pusher;
use reconcile::Reconciliation;

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

enum State {
    ClientOpening(ClientOpening),
    ServerOpening(ServerOpening),
    Running(Box<Running>),
    Closed,
}

/// What an open session is made of.
struct Running {
    pusher: Option<Pusher>,
    puller: Option<Puller>,
    reconciliation: Option<Reconciliation>,
}

/// One live connection of a link.
pub struct Session {
    state: State,
    outputs: VecDeque<Output>,
    heard_ms: u64,
    pinged_ms: u64,
    wake_ms: u64,
}

/// Where the parts of a session put what they want done.
type Outputs = VecDeque<Output>;

/// Ends a session from within.
#[derive(Debug)]
struct Abort(CloseCode, String);

impl From<DecodeError> for Abort {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Version(found) => {
                let ours = crate::wire::PROTOCOL_VERSION;
                let text = format!(
                    "protocol version {found} is not spoken here, only {ours}: update the older side"
                );
                Self(CloseCode::Version, text)
            }
            other => Self(CloseCode::Protocol, format!("malformed message: {other}")),
        }
    }
}

fn violation(text: &str) -> Abort {
    Abort(CloseCode::Protocol, text.to_owned())
}

impl Session {
    /// The side that connected. It speaks first.
    #[must_use]
    pub fn client(local: LocalReplica, now_ms: u64) -> Self {
        let mut outputs = VecDeque::new();
        let opening = ClientOpening::start(local, &mut outputs);
        Self::new(State::ClientOpening(opening), outputs, now_ms)
    }

    /// The side that was connected to.
    #[must_use]
    pub fn server(now_ms: u64) -> Self {
        Self::new(State::ServerOpening(ServerOpening::default()), VecDeque::new(), now_ms)
    }

    fn new(state: State, outputs: Outputs, now_ms: u64) -> Self {
        let mut session = Self { state, outputs, heard_ms: now_ms, pinged_ms: now_ms, wake_ms: 0 };
        session.set_wake(now_ms);
        session
    }

    /// Takes in what happened at `now_ms` (any steadily rising clock).
    pub fn handle(&mut self, now_ms: u64, input: Input) {
        let result = match input {
            Input::Frame(bytes) => {
                self.heard_ms = now_ms;
                Message::decode(&bytes)
                    .map_err(Abort::from)
                    .and_then(|message| self.on_message(now_ms, message))
            }
            Input::Tick => self.on_tick(now_ms),
            Input::Shutdown => Err(Abort(CloseCode::GoingAway, "the node is stopping".to_owned())),
            Input::ApplyFailed(code, text) => Err(Abort(code, text)),
            other => self.on_answer(now_ms, other),
        };
        if let Err(Abort(code, text)) = result {
            self.close_here(code, text);
        }
        self.set_wake(now_ms);
    }

    /// The next thing to do; `None` until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Figures for status displays.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        let State::Running(running) = &self.state else { return SessionStatus::default() };
        let mut status = SessionStatus { pushed_all: true, pulled_all: true, ..SessionStatus::default() };
        if let Some(pusher) = &running.pusher {
            pusher.report(&mut status);
        }
        if let Some(puller) = &running.puller {
            puller.report(&mut status);
        }
        if running.reconciliation.is_some() {
            status.pushed_all = false;
            status.pulled_all = false;
        }
        status
    }

    /// Whether the session is over.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    fn on_message(&mut self, now_ms: u64, message: Message) -> Result<(), Abort> {
        match message {
            Message::Ping => self.send(&Message::Pong),
            Message::Pong => {}
            Message::Close(code, text) => {
                self.state = State::Closed;
                self.outputs.push_back(Output::Closed(Closed::ByPeer(code, text)));
            }
            other => return self.on_session_message(now_ms, other),
        }
        Ok(())
    }

    fn on_session_message(&mut self, now_ms: u64, message: Message) -> Result<(), Abort> {
        let outputs = &mut self.outputs;
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (State::ClientOpening(opening), Message::Welcome(welcome)) => {
                self.state = State::ClientOpening(opening.on_welcome(welcome, outputs)?);
            }
            (State::ServerOpening(opening), Message::Hello(hello)) => {
                self.state = State::ServerOpening(opening.on_hello(hello, outputs)?);
            }
            (State::Running(mut running), message) => {
                running.on_message(now_ms, message, outputs)?;
                self.state = State::Running(running);
            }
            (_, _) => return Err(violation("a message out of order")),
        }
        Ok(())
    }

    fn on_answer(&mut self, now_ms: u64, input: Input) -> Result<(), Abort> {
        let outputs = &mut self.outputs;
        match (std::mem::replace(&mut self.state, State::Closed), input) {
            (State::Closed, _) => {}
            (State::ServerOpening(opening), Input::Admitted(admission)) => match admission {
                Ok(admission) => self.state = State::ServerOpening(opening.on_admitted(admission, outputs)?),
                Err(reason) => return Err(Abort(CloseCode::Refused, reason)),
            },
            (State::ServerOpening(opening), Input::Peer(peer)) => {
                self.state = State::Running(Box::new(opening.on_peer(peer, outputs)?));
            }
            (State::ClientOpening(opening), Input::Peer(peer)) => {
                self.state = State::Running(Box::new(opening.on_peer(peer, outputs)?));
            }
            (State::ClientOpening(mut opening), Input::FeedAdvanced(head)) => {
                opening.local.head = head;
                self.state = State::ClientOpening(opening);
            }
            (State::ServerOpening(mut opening), Input::FeedAdvanced(head)) => {
                opening.feed_advanced(head);
                self.state = State::ServerOpening(opening);
            }
            (State::Running(mut running), input) => {
                running.on_answer(now_ms, input, outputs)?;
                self.state = State::Running(running);
            }
            (state, _) => self.state = state,
        }
        Ok(())
    }

    fn on_tick(&mut self, now_ms: u64) -> Result<(), Abort> {
        if now_ms.saturating_sub(self.heard_ms) >= PEER_SILENT_MS {
            self.state = State::Closed;
            self.outputs.push_back(Output::Closed(Closed::Silent));
            return Ok(());
        }
        let quiet_since = self.heard_ms.max(self.pinged_ms);
        if now_ms.saturating_sub(quiet_since) >= PING_AFTER_MS && matches!(self.state, State::Running(_)) {
            self.pinged_ms = now_ms;
            self.send(&Message::Ping);
        }
        if let State::Running(running) = &mut self.state
            && let Some(pusher) = &mut running.pusher
        {
            pusher.on_tick(now_ms, &mut self.outputs);
        }
        Ok(())
    }

    fn send(&mut self, message: &Message) {
        self.outputs.push_back(Output::Send(Frame::from(message)));
    }

    fn close_here(&mut self, code: CloseCode, text: String) {
        if !matches!(self.state, State::Closed)
            || !self.outputs.iter().any(|o| matches!(o, Output::Closed(_)))
        {
            self.send(&Message::Close(code, text.clone()));
            self.state = State::Closed;
            self.outputs.push_back(Output::Closed(Closed::Here(code, text)));
        }
    }

    fn set_wake(&mut self, now_ms: u64) {
        let State::Running(running) = &self.state else {
            return;
        };
        let ping = self.heard_ms.max(self.pinged_ms).saturating_add(PING_AFTER_MS);
        let silent = self.heard_ms.saturating_add(PEER_SILENT_MS);
        let pusher = running.pusher.as_ref().and_then(Pusher::wake_at).unwrap_or(u64::MAX);
        let wake = ping.min(silent).min(pusher).max(now_ms + 1);
        if wake != self.wake_ms {
            self.wake_ms = wake;
            self.outputs.push_back(Output::WakeAt(wake));
        }
    }
}

impl Running {
    fn on_message(&mut self, now_ms: u64, message: Message, outputs: &mut Outputs) -> Result<(), Abort> {
        match message {
            Message::Names(names) => self.puller()?.on_names(names),
            Message::Changes(changes) => self.puller()?.on_changes(changes, outputs),
            Message::Ack(count) => match &mut self.pusher {
                Some(pusher) => pusher.on_ack(now_ms, count, outputs),
                None => Err(violation("an acknowledgement of nothing")),
            },
            Message::Sketch { .. }
            | Message::CompareBy { .. }
            | Message::Reconcile(_)
            | Message::Want { .. } => {
                let Some(reconciliation) = &mut self.reconciliation else {
                    return Err(violation("a reconciliation that was not agreed on"));
                };
                reconciliation.on_message(message, outputs)?;
                self.after_reconciliation(now_ms, outputs);
                Ok(())
            }
            _ => Err(violation("a message out of order")),
        }
    }

    fn on_answer(&mut self, now_ms: u64, input: Input, outputs: &mut Outputs) -> Result<(), Abort> {
        match input {
            Input::Feed(batch) => {
                let has = self.has();
                if let Some(pusher) = &mut self.pusher {
                    pusher.on_feed(now_ms, &batch, has, outputs);
                }
            }
            Input::FeedAdvanced(head) => {
                if let Some(pusher) = &mut self.pusher {
                    pusher.on_advance(head, outputs);
                }
            }
            Input::Applied(count) => {
                if let Some(puller) = &mut self.puller {
                    puller.on_applied(count, outputs);
                }
            }
            Input::ReconcileSet(set) => {
                if let Some(reconciliation) = &mut self.reconciliation {
                    reconciliation.on_set(*set, outputs)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn puller(&mut self) -> Result<&mut Puller, Abort> {
        self.puller
            .as_mut()
            .ok_or_else(|| Abort(CloseCode::Refused, "changes are not accepted in this direction".to_owned()))
    }

    /// How far the peer's feed is durable here.
    fn has(&self) -> Seq {
        self.puller.as_ref().map_or(0, Puller::checkpoint)
    }

    /// Hands the outcome of a finished comparison to the pusher.
    fn after_reconciliation(&mut self, now_ms: u64, outputs: &mut Outputs) {
        let Some(outcome) = self.reconciliation.as_mut().and_then(Reconciliation::take_outcome) else {
            return;
        };
        self.reconciliation = None;
        if let Some(pusher) = &mut self.pusher {
            pusher.start_with(now_ms, outcome.to_send, outcome.snapshot, outputs);
        }
    }
}

/// What a session needs to know of the numbers of a peer.
#[derive(Clone, Copy, Debug)]
struct PeerInfo {
    peer_no: PeerNo,
    compression: bool,
}
