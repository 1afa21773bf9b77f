//! From the first word to an open session: who starts where.

use std::mem::take;

use super::puller::Puller;
use super::pusher::Pusher;
use super::reconcile::{Reconciliation, Side};
use super::{Abort, Frame, Opened, Output, Outputs, PeerInfo, Running, violation};
use crate::feed::{PeerNo, Seq};
use crate::id::ReplicaId;
use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_MESSAGE_BYTES, MESSAGE_COST_BYTES, SEND_WINDOW_BYTES};
use crate::wire::{Direction, Hello, Message, Welcome};

/// The local replica, as a client introduces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalReplica {
    /// Its id.
    pub replica: ReplicaId,
    /// The end of its feed.
    pub head: Seq,
    /// It holds no record at all.
    pub empty: bool,
    /// What the link asks for.
    pub direction: Direction,
    /// Use zstd if the peer can.
    pub compression: bool,
    /// How far this link has which replica's feed.
    pub checkpoint: Option<(ReplicaId, Seq)>,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What a server grants to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// The served replica.
    pub replica: ReplicaId,
    /// The end of its feed.
    pub head: Seq,
    /// It holds no record at all.
    pub empty: bool,
    /// What the client may do.
    pub direction: Direction,
    /// Why it is less than asked for; empty if it is not.
    pub notice: String,
    /// Use zstd if the client can.
    pub compression: bool,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What the local store knows of the replica on the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerReplica {
    /// Its number here.
    pub peer_no: PeerNo,
    /// How far its feed is durable here; `None` if it never was.
    pub checkpoint: Option<Seq>,
}

/// A client that waits: for the welcome, then for what its store knows of the server.
#[derive(Debug)]
pub(super) struct ClientOpening {
    local: LocalReplica,
    welcome: Option<Welcome>,
    /// What the server has said since, while the store looks it up.
    early: Vec<Message>,
    early_bytes: usize,
}

impl ClientOpening {
    pub(super) fn start(local: LocalReplica, outputs: &mut Outputs) -> Self {
        let hello = Hello {
            replica: local.replica,
            head: local.head,
            empty: local.empty,
            direction: local.direction,
            compression: local.compression,
            checkpoint: local.checkpoint,
            now_ms: local.now_ms,
        };
        outputs.push_back(Output::Send(Frame::from(&Message::Hello(hello))));
        Self { local, welcome: None, early: Vec::new(), early_bytes: 0 }
    }

    pub(super) fn feed_advanced(&mut self, head: Seq) {
        self.local.head = self.local.head.max(head);
    }

    /// Keeps a message until the session is open.
    pub(super) fn keep(&mut self, message: Message) -> Result<(), Abort> {
        if self.welcome.is_none() {
            return Err(violation("a message ahead of the welcome"));
        }
        self.early_bytes += cost_of(&message);
        if self.early_bytes > SEND_WINDOW_BYTES + MAX_MESSAGE_BYTES {
            return Err(violation("more unacknowledged changes than the window allows"));
        }
        self.early.push(message);
        Ok(())
    }

    pub(super) fn take_early(&mut self) -> Vec<Message> {
        take(&mut self.early)
    }

    pub(super) fn on_welcome(self, welcome: Welcome, outputs: &mut Outputs) -> Result<Self, Abort> {
        if self.welcome.is_some() {
            return Err(violation("a second welcome"));
        }
        if welcome.direction.and(self.local.direction) != welcome.direction {
            return Err(violation("a grant of more than was asked for"));
        }
        if welcome.replica == self.local.replica {
            return Err(violation(
                "both sides have the same replica id: one file is a copy of the other; \
                 make copies with `blazedb backup` and `blazedb restore`",
            ));
        }
        outputs.push_back(Output::Peer(welcome.replica));
        Ok(Self { welcome: Some(welcome), ..self })
    }

    pub(super) fn on_peer(self, peer: PeerReplica, outputs: &mut Outputs) -> Result<Running, Abort> {
        let Some(welcome) = self.welcome else { return Err(violation("an answer without a question")) };
        let resumed = self.local.checkpoint.filter(|(replica, _)| *replica == welcome.replica);
        let checkpoint = resumed.map(|(_, seq)| seq).filter(|seq| *seq <= welcome.head);
        let opened = Opened {
            replica: welcome.replica,
            direction: welcome.direction,
            notice: welcome.notice.clone(),
            reconcile: welcome.reconcile,
        };
        let info =
            PeerInfo { peer_no: peer.peer_no, compression: welcome.compression && self.local.compression };
        let pull = welcome.direction.pull.then(|| Puller::new(checkpoint.unwrap_or(0), welcome.head));
        let push = welcome.direction.push.then(|| Pusher::new(info, welcome.push_after, self.local.head));
        Ok(start(opened, push, pull, Side::Client, outputs))
    }
}

/// A server that waits: for the hello, for the node's decision, for what its store knows of the client.
#[derive(Debug, Default)]
pub(super) struct ServerOpening {
    hello: Option<Hello>,
    admission: Option<Admission>,
    /// The end of the local feed as far as it was told: an admission may have been made up before.
    head: Seq,
}

impl ServerOpening {
    /// Whether the client has said who it is.
    pub(super) const fn is_introduced(&self) -> bool {
        self.hello.is_some()
    }

    pub(super) fn on_hello(self, hello: Hello, outputs: &mut Outputs) -> Result<Self, Abort> {
        if self.hello.is_some() {
            return Err(violation("a second hello"));
        }
        outputs.push_back(Output::Admit(hello.clone()));
        Ok(Self { hello: Some(hello), ..self })
    }

    pub(super) fn on_admitted(self, admission: Admission, outputs: &mut Outputs) -> Result<Self, Abort> {
        let Some(hello) = &self.hello else { return Err(violation("an answer without a question")) };
        if hello.replica == admission.replica {
            return Err(violation(
                "both sides have the same replica id: one file is a copy of the other; \
                 make copies with `blazedb backup` and `blazedb restore`",
            ));
        }
        outputs.push_back(Output::Peer(hello.replica));
        let head = self.head.max(admission.head);
        Ok(Self { admission: Some(admission), head, ..self })
    }

    pub(super) fn feed_advanced(&mut self, head: Seq) {
        self.head = self.head.max(head);
    }

    pub(super) fn on_peer(mut self, peer: PeerReplica, outputs: &mut Outputs) -> Result<Running, Abort> {
        let (Some(hello), Some(mut admission)) = (take(&mut self.hello), take(&mut self.admission)) else {
            return Err(violation("an answer without a question"));
        };
        admission.head = self.head;
        let direction = admission.direction.and(hello.direction);
        let either_empty = hello.empty || admission.empty;
        let pull_after = hello
            .checkpoint
            .filter(|(replica, seq)| *replica == admission.replica && *seq <= admission.head)
            .map(|(_, seq)| seq);
        let push_after = peer.checkpoint.filter(|seq| *seq <= hello.head);
        // Without a checkpoint a feed is sent from its start, unless both sides may hold much of it already.
        let lost = |wanted: bool, checkpoint: Option<Seq>| wanted && checkpoint.is_none() && !either_empty;
        let reconcile = direction.pull && (lost(true, pull_after) || lost(direction.push, push_after));
        let compression = admission.compression && hello.compression;
        let welcome = Welcome {
            replica: admission.replica,
            head: admission.head,
            direction,
            notice: take(&mut admission.notice),
            compression,
            push_after: push_after.unwrap_or(0),
            reconcile,
            now_ms: admission.now_ms,
        };
        let opened = Opened { replica: hello.replica, direction, notice: welcome.notice.clone(), reconcile };
        let pull = direction.push.then(|| Puller::new(welcome.push_after, hello.head));
        let info = PeerInfo { peer_no: peer.peer_no, compression };
        let push = direction.pull.then(|| Pusher::new(info, pull_after.unwrap_or(0), admission.head));
        outputs.push_back(Output::Send(Frame::from(&Message::Welcome(welcome))));
        Ok(start(opened, push, pull, Side::Server, outputs))
    }
}

/// What a kept message counts for, in bytes.
fn cost_of(message: &Message) -> usize {
    MESSAGE_COST_BYTES
        + match message {
            Message::Changes(changes) => changes.data.len(),
            Message::Reconcile(bytes) => bytes.len(),
            Message::Names(names) => names.fields.len().saturating_mul(MAX_FIELD_NAME_BYTES),
            _ => 0,
        }
}

fn start(
    opened: Opened,
    mut pusher: Option<Pusher>,
    puller: Option<Puller>,
    side: Side,
    outputs: &mut Outputs,
) -> Running {
    let reconcile = opened.reconcile;
    outputs.push_back(Output::Opened(opened));
    let reconciliation = reconcile.then(|| Reconciliation::new(side));
    if reconcile {
        outputs.push_back(Output::BuildReconcileSet);
    } else if let Some(pusher) = &mut pusher {
        pusher.start(outputs);
    }
    Running { pusher, puller, reconciliation }
}
