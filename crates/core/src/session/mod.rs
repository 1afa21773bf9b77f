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
//! - the last output of a session is one [`Output::Closed`], and a session that is over takes no notice of inputs.

mod io;
mod opening;
mod puller;
mod pusher;
mod reconcile;
mod running;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use io::{Closed, Frame, Input, Opened, Output, SessionStatus, SharedPayload};
pub use opening::{Admission, LocalReplica, PeerReplica};
pub use reconcile::{ReconcileItem, ReconcileSet};

use crate::blazebinary::DecodeError;
use crate::feed::PeerNo;
use crate::limits::{HANDSHAKE_MS, MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, PEER_SILENT_MS, PING_AFTER_MS};
use crate::wire::{CloseCode, Message};
use opening::{ClientOpening, ServerOpening};
use pusher::Pusher;
use running::Running;

enum State {
    ClientOpening(ClientOpening),
    ServerOpening(ServerOpening),
    Running(Box<Running>),
    Closed,
}

/// One live connection of a link.
pub struct Session {
    state: State,
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
        let (started_ms, heard_ms, pinged_ms) = (now_ms, now_ms, now_ms);
        let mut session = Self { state, outputs, started_ms, heard_ms, pinged_ms, wake_ms: 0, over: false };
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
            Input::Tick => self.on_tick(now_ms),
            Input::Shutdown => Err(self.shut_down()),
            Input::ApplyFailed(code, text) => Err(Abort(code, text)),
            other => self.on_answer(now_ms, other),
        };
        if let Err(Abort(code, text)) = result {
            self.send(&Message::Close(code, text.clone()));
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
        if running.reconciliation.is_some() {
            status.pushed_all = false;
            status.pulled_all = false;
        }
        status
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
            Message::Close(code, text) => {
                self.close(Closed::ByPeer(code, text));
            }
            other => return self.on_session_message(other),
        }
        Ok(())
    }

    fn on_session_message(&mut self, message: Message) -> Result<(), Abort> {
        let outputs = &mut self.outputs;
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (State::ClientOpening(opening), Message::Welcome(welcome)) => {
                self.state = State::ClientOpening(opening.on_welcome(welcome, outputs)?);
            }
            // The server is ahead: this side still waits for its store.
            (State::ClientOpening(mut opening), message) => {
                opening.keep(message)?;
                self.state = State::ClientOpening(opening);
            }
            (State::ServerOpening(opening), Message::Hello(hello)) => {
                self.state = State::ServerOpening(opening.on_hello(hello, outputs)?);
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
            (State::ServerOpening(opening), Input::Admitted(admission)) => match admission {
                Ok(admission) => self.state = State::ServerOpening(opening.on_admitted(admission, outputs)?),
                Err(reason) => return Err(Abort(CloseCode::Refused, reason)),
            },
            (State::ServerOpening(opening), Input::Peer(peer)) => {
                self.state = State::Running(Box::new(opening.on_peer(peer, outputs)?));
            }
            (State::ClientOpening(mut opening), Input::Peer(peer)) => {
                let early = opening.take_early();
                let mut running = opening.on_peer(peer, outputs)?;
                early.into_iter().try_for_each(|message| running.on_message(message, outputs))?;
                self.state = State::Running(Box::new(running));
            }
            (State::ClientOpening(mut opening), Input::FeedAdvanced(head)) => {
                opening.feed_advanced(head);
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

    /// A checkpoint that the peer was going to be told of later is told now: without it, the next session would
    /// have to compare everything.
    fn shut_down(&mut self) -> Abort {
        if let State::Running(running) = &mut self.state {
            running.on_tick(u64::MAX, &mut self.outputs);
        }
        Abort(CloseCode::GoingAway, "the node is stopping".to_owned())
    }

    fn on_tick(&mut self, now_ms: u64) -> Result<(), Abort> {
        // The driver's timer is spent, even if it was early.
        self.wake_ms = 0;
        if now_ms >= self.silent_at() {
            self.close(Closed::Silent);
            return Ok(());
        }
        let quiet_since = self.heard_ms.max(self.pinged_ms);
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
            wake = wake.min(ping).min(pusher);
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
