//! One live connection of a link, as a state machine without I/O.
//!
//! The driver feeds [`Input`]s in and carries [`Output`]s out: frames to the transport, requests to the store.
//! The same code runs over WebSockets, in process and in the simulator. Reconnecting is the coordinator's job.
//!
//! Invariants:
//! - nothing is sent in a direction that was not granted, and nothing received in one is applied;
//! - a checkpoint moves only with changes that the store has reported durable;
//! - unacknowledged changes never exceed [`SEND_WINDOW_BYTES`](crate::limits::SEND_WINDOW_BYTES) plus one batch;
//! - with nothing new on either side nothing is sent but pings;
//! - with another mode or policy on the open session, what is sent and taken in is ruled by one of the two at any time;
//! - the last output of a session is one [`Output::Closed`], and a session that is over takes no notice of inputs.

mod coded;
mod epochs;
mod io;
mod opening;
mod parting;
mod puller;
mod pusher;
mod reconcile;
mod refusals;
mod ring;
mod running;
mod surplus;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::VecDeque;

pub use io::{Closed, Frame, Input, Opened, Output, SessionStatus, SharedPayload};
pub use opening::{Admission, LocalReplica, PeerQuery, PeerReplica, Refusal};
pub use reconcile::{ReconcileItem, ReconcileSet};

use crate::blazebinary::DecodeError;
use crate::feed::PeerNo;
use crate::limits::{HANDSHAKE_MS, MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, PEER_SILENT_MS, PING_AFTER_MS};
use crate::wire::{CloseCode, Message};
use opening::{ClientOpening, ServerOpening};
use parting::Parting;
use pusher::Pusher;
use ring::Ring;
use running::Running;

/// What a peer is told of what went wrong on this side.
const INTERNAL: &str = "the other side failed: its log says why";

/// In boxes: it is moved around with every message, and a session keeps room for the largest.
enum State {
    ClientOpening(Box<ClientOpening>),
    ServerOpening(Box<ServerOpening>),
    Running(Box<Running>),
    Closed,
}

/// One live connection of a link.
pub struct Session {
    state: State,
    ring: Ring,
    parting: Option<Parting>,
    outputs: VecDeque<Output>,
    started_ms: u64,
    heard_ms: u64,
    pinged_ms: u64,
    wake_ms: u64,
    /// Over and said so. ([`State::Closed`] also stands in while a state is being worked on.)
    over: bool,
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

impl From<Refusal> for Abort {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.code, refusal.reason)
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
        Self::new(State::ClientOpening(Box::new(opening)), outputs, now_ms)
    }

    /// The side that was connected to.
    #[must_use]
    pub fn server(now_ms: u64) -> Self {
        Self::new(State::ServerOpening(Box::default()), VecDeque::new(), now_ms)
    }

    fn new(state: State, outputs: Outputs, now_ms: u64) -> Self {
        let (started_ms, heard_ms, pinged_ms) = (now_ms, now_ms, now_ms);
        let side = match &state {
            State::ClientOpening(_) => ring::Side::Client,
            _ => ring::Side::Server,
        };
        let ring = Ring::new(side);
        let mut session = Self {
            state,
            ring,
            parting: None,
            outputs,
            started_ms,
            heard_ms,
            pinged_ms,
            wake_ms: 0,
            over: false,
        };
        session.set_wake(now_ms);
        session
    }

    /// Takes in what happened at `now_ms` (any steadily rising clock).
    pub fn handle(&mut self, now_ms: u64, input: Input) {
        if self.over {
            return;
        }
        let result = match input {
            Input::Frame(bytes) => self.on_frame(now_ms, &bytes),
            Input::Tick => self.on_tick(now_ms, false),
            Input::Arriving => self.on_tick(now_ms, true),
            Input::Shutdown => Err(self.leave("the node is stopping")),
            Input::ApplyFailed(code, text) => self.on_apply_failed(now_ms, code, text),
            Input::Keyring(keyring) => {
                self.open_ring().and_then(|()| self.ring.set(keyring, &mut self.outputs))
            }
            Input::Refuse(refusal) => Err(refusal.into()),
            Input::UserChanged => Err(self.leave("the user's rights have changed: connect again")),
            other => self.on_answer(now_ms, other),
        };
        if let Err(Abort(code, text)) = result.and_then(|()| self.part_if_done(now_ms)) {
            // What is wrong with this side's files is not the peer's business.
            let told = if code == CloseCode::Internal { INTERNAL.to_owned() } else { text.clone() };
            self.send(&Message::Close(code, told));
            self.close(Closed::Here(code, text));
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
        status.epoch = running.epochs.number();
        status.unanswered = running.unanswered;
        if running.reconciliation.is_some() {
            status.pushed_all = false;
            status.pulled_all = false;
        }
        status.pushed_all &= !running.is_taking_refusals();
        status
    }

    /// Whether this side may replace what it shows by itself: everything is sent, acknowledged and settled.
    #[must_use]
    pub fn may_rebind(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.may_rebind())
    }

    /// Whether both sides are being compared.
    #[must_use]
    pub fn is_comparing(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.reconciliation.is_some())
    }

    /// Whether there is so much to look up for the peer that nothing more should be taken from it for now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.pusher.as_ref().is_some_and(Pusher::is_busy))
    }

    /// Has this side send nothing more of what it shows until that is replaced ([`Input::Rebind`]), or go on as it is. Answers whether
    /// it does the first. What is on its way then becomes less with each acknowledgement, and [`Session::may_rebind`] true in
    /// the end.
    pub fn drain(&mut self, drains: bool) -> bool {
        match &mut self.state {
            State::Running(running) => {
                running.pusher.as_mut().is_some_and(|pusher| pusher.drain(drains, &mut self.outputs))
            }
            _ => false,
        }
    }

    /// Whether the session is over.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.over
    }

    fn on_frame(&mut self, now_ms: u64, bytes: &[u8]) -> Result<(), Abort> {
        self.heard_ms = now_ms;
        let limit = match &self.state {
            State::ServerOpening(_) => MAX_HELLO_BYTES,
            _ => MAX_MESSAGE_BYTES,
        };
        if bytes.len() > limit {
            return Err(violation(&format!("a message of {} bytes, over the limit of {limit}", bytes.len())));
        }
        self.on_message(Message::decode(bytes)?)
    }

    fn on_message(&mut self, message: Message) -> Result<(), Abort> {
        match message {
            Message::Ping => self.send(&Message::Pong),
            Message::Pong => {}
            Message::Changes(_) | Message::Bonds(_) if self.parting.is_some() => {}
            Message::Keyring(keyring) if self.may_hear_keyring() => {
                self.ring.on_message(keyring, &mut self.outputs)?;
            }
            Message::Close(code, text) => {
                self.close(Closed::ByPeer(code, text));
            }
            other => return self.on_session_message(other),
        }
        Ok(())
    }

    /// A stranger is told of no keyring, and one that has not said hello is not heard.
    fn may_hear_keyring(&self) -> bool {
        match &self.state {
            State::ServerOpening(opening) => opening.is_introduced(),
            State::ClientOpening(_) | State::Running(_) => true,
            State::Closed => false,
        }
    }

    fn open_ring(&mut self) -> Result<(), Abort> {
        match self.state {
            State::ClientOpening(_) | State::Running(_) => self.ring.open(&mut self.outputs),
            _ => Ok(()),
        }
    }

    fn on_session_message(&mut self, message: Message) -> Result<(), Abort> {
        let outputs = &mut self.outputs;
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (State::ClientOpening(mut opening), Message::Welcome(welcome)) => {
                opening.on_welcome(welcome, outputs)?;
                self.state = State::ClientOpening(opening);
            }
            // The server is ahead: this side still waits for its store.
            (State::ClientOpening(mut opening), message) => {
                opening.keep(message)?;
                self.state = State::ClientOpening(opening);
            }
            (State::ServerOpening(mut opening), Message::Hello(hello)) => {
                opening.on_hello(hello, outputs)?;
                self.state = State::ServerOpening(opening);
            }
            (State::Running(mut running), message) => {
                running.on_message(message, outputs)?;
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
            (State::ServerOpening(mut opening), Input::Admitted(admission)) => {
                opening.on_admitted(admission?, outputs)?;
                self.state = State::ServerOpening(opening);
            }
            (State::ServerOpening(opening), Input::Peer(peer)) => {
                self.state = State::Running(Box::new(opening.on_peer(peer, outputs)?));
                return self.open_ring();
            }
            (State::ClientOpening(mut opening), Input::Peer(peer)) => {
                let (early, wanted) = (opening.take_early(), opening.take_wanted());
                let mut running = opening.on_peer(peer, outputs)?;
                wanted.into_iter().try_for_each(|local| running.reconfigure(local, outputs))?;
                early.into_iter().try_for_each(|message| running.on_message(message, outputs))?;
                self.state = State::Running(Box::new(running));
            }
            (State::ClientOpening(mut opening), Input::FeedAdvanced(head)) => {
                opening.feed_advanced(head);
                self.state = State::ClientOpening(opening);
            }
            (State::ClientOpening(mut opening), Input::Token(token)) => {
                opening.keep_token(token);
                self.state = State::ClientOpening(opening);
            }
            (State::ServerOpening(mut opening), Input::FeedAdvanced(head)) => {
                opening.feed_advanced(head);
                self.state = State::ServerOpening(opening);
            }
            (State::ClientOpening(mut opening), Input::Reconfigure(local)) => {
                opening.wants(*local);
                self.state = State::ClientOpening(opening);
            }
            (State::Running(mut running), input) => {
                running.on_answer(now_ms, input, outputs)?;
                self.state = State::Running(running);
            }
            (state, _) => self.state = state,
        }
        Ok(())
    }

    /// A checkpoint that the peer was going to be told of later is told now: without it, the next session would
    /// have to compare everything.
    fn leave(&mut self, why: &str) -> Abort {
        if let State::Running(running) = &mut self.state {
            running.on_tick(u64::MAX, &mut self.outputs);
        }
        Abort(CloseCode::GoingAway, why.to_owned())
    }

    /// A peer of which half a message is here is not silent, but asks for nothing either: it is pinged all the same, or
    /// it would hear nothing while a long message takes its time.
    fn on_tick(&mut self, now_ms: u64, arriving: bool) -> Result<(), Abort> {
        // The driver's timer is spent, even if it was early.
        self.wake_ms = 0;
        let quiet_since = self.heard_ms.max(self.pinged_ms);
        if arriving {
            self.heard_ms = now_ms;
        }
        if now_ms >= self.silent_at() {
            self.close(Closed::Silent);
            return Ok(());
        }
        if now_ms.saturating_sub(quiet_since) >= PING_AFTER_MS && matches!(self.state, State::Running(_)) {
            self.pinged_ms = now_ms;
            self.send(&Message::Ping);
        }
        if let State::Running(running) = &mut self.state {
            running.on_tick(now_ms, &mut self.outputs);
        }
        Ok(())
    }

    /// When a peer that says nothing more is given up.
    fn silent_at(&self) -> u64 {
        let silent = self.heard_ms.saturating_add(PEER_SILENT_MS);
        match &self.state {
            // Whatever else it says, a stranger has only so long for its hello.
            State::ServerOpening(opening) if !opening.is_introduced() => {
                silent.min(self.started_ms.saturating_add(HANDSHAKE_MS))
            }
            _ => silent,
        }
    }

    fn send(&mut self, message: &Message) {
        self.outputs.push_back(Output::Send(Frame::from(message)));
    }

    fn close(&mut self, why: Closed) {
        self.state = State::Closed;
        self.over = true;
        self.outputs.push_back(Output::Closed(why));
    }

    fn set_wake(&mut self, now_ms: u64) {
        if self.over {
            return;
        }
        let mut wake = self.silent_at();
        if let State::Running(running) = &self.state {
            let ping = self.heard_ms.max(self.pinged_ms).saturating_add(PING_AFTER_MS);
            let pusher = running.pusher.as_ref().and_then(Pusher::wake_at).unwrap_or(u64::MAX);
            wake = wake.min(ping).min(pusher).min(self.parts_ms());
        }
        let wake = wake.max(now_ms.saturating_add(1));
        if wake != self.wake_ms {
            self.wake_ms = wake;
            self.outputs.push_back(Output::WakeAt(wake));
        }
    }
}

/// What a session needs to know of the numbers of a peer.
#[derive(Clone, Copy, Debug)]
struct PeerInfo {
    peer_no: PeerNo,
    compression: bool,
}
