//! From the first word to an open session: who starts where.

use std::mem::take;
use std::sync::Arc;

use super::epochs::Epochs;
use super::puller::Puller;
use super::pusher::Pusher;
use super::reconcile::Reconciliation;
use super::refusals::RefusalDesk;
use super::surplus::Surplus;
use super::tokens::TokenDesk;
use super::{Abort, Frame, Opened, Output, Outputs, PeerInfo, Running, violation};
use crate::authority::Standing;
use crate::bond::Bond;
use crate::feed::{PeerNo, Seq};
use crate::id::ReplicaId;
use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_MESSAGE_BYTES, MESSAGE_COST_BYTES, SEND_WINDOW_BYTES};
use crate::view::{Held, Lens, Side, View, ViewRequest};
use crate::wire::{CloseCode, Direction, Hello, Message, Token, Welcome};

/// The local replica, as a client introduces it.
#[derive(Clone, PartialEq, Debug)]
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
    /// Deletions up to here may be missing from its feed.
    pub fence: Seq,
    /// What the link asks to see, in both directions.
    pub request: ViewRequest,
    /// What it shows the server of this replica.
    pub view: Arc<View>,
    /// The server is to decide about what is written here.
    pub authority: bool,
    /// Who this node's user is.
    pub token: Option<Token>,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// Why a server does not let a client in, or no longer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What kind of refusal it is.
    pub code: CloseCode,
    /// In words, for the peer.
    pub reason: String,
}

impl Refusal {
    /// Who the peer is was not accepted.
    #[must_use]
    pub const fn identity(reason: String) -> Self {
        Self { code: CloseCode::Unauthenticated, reason }
    }

    /// Access rules, or what is served, rule out what the peer asked for.
    #[must_use]
    pub const fn access(reason: String) -> Self {
        Self { code: CloseCode::Refused, reason }
    }

    /// This side failed; the peer may try again.
    #[must_use]
    pub const fn failure(reason: String) -> Self {
        Self { code: CloseCode::Internal, reason }
    }
}

/// What a server grants to a client.
#[derive(Clone, PartialEq, Debug)]
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
    /// What the client is shown.
    pub view: Arc<View>,
    /// This node decides about what the client writes.
    pub decides: bool,
    /// Use zstd if the client can.
    pub compression: bool,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What a session asks of the store about the replica on the other side.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerQuery {
    /// The replica.
    pub replica: ReplicaId,
    /// What it is shown from now on; `None` if nothing is sent to it.
    pub view: Option<Arc<View>>,
    /// It goes on from where an earlier session ended, and so holds what it was shown then.
    pub resumes: bool,
    /// Where that is in the local feed, if it is the peer that says so.
    pub says: Option<Seq>,
    /// Where the local feed goes on for it; 0 if that is not known.
    pub place: Seq,
    /// It is asked what it holds where it might have missed a deletion.
    pub asked: bool,
    /// Neither side is empty: without a place to go on from, both compare what they hold.
    pub compares: bool,
    /// Whose word counts.
    pub standing: Standing,
}

/// What the local store knows of the replica on the other side.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerReplica {
    /// Its number here.
    pub peer_no: PeerNo,
    /// How far its feed is durable here; `None` if it never was.
    pub checkpoint: Option<Seq>,
    /// The views that it may have been shown instead of the one it is shown now; empty if that is the same one.
    pub held: Vec<Arc<View>>,
    /// A comparison with it was never finished: it may hold what no view accounts for.
    pub unsettled: bool,
    /// Writes of it were refused that it has not taken.
    pub refusals: bool,
}

/// A client that waits: for the welcome, then for what its store knows of the server.
#[derive(Debug)]
pub(super) struct ClientOpening {
    local: LocalReplica,
    welcome: Option<Welcome>,
    /// What the server has said since, while the store looks it up.
    early: Vec<Message>,
    early_bytes: usize,
    /// A token that is fresher than the one of the hello.
    fresh: Option<Token>,
    /// What is asked for by now instead.
    wanted: Option<LocalReplica>,
}

impl ClientOpening {
    pub(super) fn start(local: LocalReplica, outputs: &mut Outputs) -> Self {
        outputs.push_back(Output::Send(Frame::from(&Message::Hello(hello_of(&local)))));
        Self { local, welcome: None, early: Vec::new(), early_bytes: 0, fresh: None, wanted: None }
    }

    pub(super) fn feed_advanced(&mut self, head: Seq) {
        self.local.head = self.local.head.max(head);
    }

    /// The server takes it once the session is open.
    pub(super) fn keep_token(&mut self, token: Token) {
        self.fresh = Some(token);
    }

    /// Another configuration is asked for once the session is open.
    pub(super) fn wants(&mut self, local: LocalReplica) {
        self.wanted = Some(local);
    }

    pub(super) const fn take_wanted(&mut self) -> Option<LocalReplica> {
        self.wanted.take()
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

    pub(super) fn on_welcome(&mut self, welcome: Welcome, outputs: &mut Outputs) -> Result<(), Abort> {
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
        let standing = under(&self.local, &welcome)?;
        outputs.push_back(Output::Peer(PeerQuery {
            replica: welcome.replica,
            view: welcome.direction.push.then(|| Arc::clone(&self.local.view)),
            resumes: welcome.push_after > 0,
            says: None,
            place: welcome.push_after,
            asked: welcome.direction.pull,
            // What it was shown from here takes nothing away from it.
            compares: false,
            standing,
        }));
        self.welcome = Some(welcome);
        Ok(())
    }

    pub(super) fn on_peer(self, peer: PeerReplica, outputs: &mut Outputs) -> Result<Running, Abort> {
        let Some(welcome) = self.welcome else { return Err(violation("an answer without a question")) };
        if let Some(token) = self.fresh {
            outputs.push_back(Output::Send(Frame::from(&Message::Token(token))));
        }
        let resumed = self.local.checkpoint.filter(|(replica, _)| *replica == welcome.replica);
        let checkpoint = resumed.map(|(_, seq)| seq).filter(|seq| *seq <= welcome.head);
        let opened = Opened {
            replica: welcome.replica,
            direction: welcome.direction,
            notice: welcome.notice.clone(),
            reconcile: welcome.reconcile,
            epoch: 0,
        };
        let info =
            PeerInfo { peer_no: peer.peer_no, compression: welcome.compression && self.local.compression };
        let pull = welcome.direction.pull.then(|| Puller::new(checkpoint.unwrap_or(0), welcome.head));
        let lens = lens(self.local.view, peer.held, welcome.push_after, (Side::Deliver, info.compression));
        let push = welcome
            .direction
            .push
            .then(|| Pusher::new(info, welcome.push_after, self.local.head, lens.clone()));
        let names_held = names_held(&welcome);
        let refusals = RefusalDesk::taker(welcome.refusals);
        let waits = welcome.decides;
        Ok(start(opened, push, pull, Desks { lens, names_held, refusals, waits }, outputs))
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

    pub(super) fn on_hello(&mut self, hello: Hello, outputs: &mut Outputs) -> Result<(), Abort> {
        if self.hello.is_some() {
            return Err(violation("a second hello"));
        }
        outputs.push_back(Output::Admit(Box::new(hello.clone())));
        self.hello = Some(hello);
        Ok(())
    }

    pub(super) fn on_admitted(&mut self, admission: Admission, outputs: &mut Outputs) -> Result<(), Abort> {
        let Some(hello) = &self.hello else { return Err(violation("an answer without a question")) };
        if hello.replica == admission.replica {
            return Err(violation(
                "both sides have the same replica id: one file is a copy of the other; \
                 make copies with `blazedb backup` and `blazedb restore`",
            ));
        }
        let direction = admission.direction.and(hello.direction);
        outputs.push_back(Output::Peer(PeerQuery {
            replica: hello.replica,
            view: direction.pull.then(|| Arc::clone(&admission.view)),
            resumes: resumes_at(hello, &admission).is_some(),
            says: resumes_at(hello, &admission),
            place: resumes_at(hello, &admission).unwrap_or(0),
            asked: true,
            compares: !hello.empty && !admission.empty,
            standing: over(&admission),
        }));
        self.head = self.head.max(admission.head);
        self.admission = Some(admission);
        Ok(())
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
        let pull_after = resumes_at(&hello, &admission).filter(|_| !peer.unsettled);
        let push_after = stands_at(&hello, &peer);
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
            restricted: !admission.view.is_all(),
            refusals: peer.refusals,
            decides: admission.decides,
            now_ms: admission.now_ms,
        };
        let notice = welcome.notice.clone();
        let opened = Opened { replica: hello.replica, direction, notice, reconcile, epoch: 0 };
        let pull = direction.push.then(|| Puller::new(welcome.push_after, hello.head));
        let info = PeerInfo { peer_no: peer.peer_no, compression };
        let lens = lens(admission.view, peer.held, pull_after.unwrap_or(0), (Side::Serve, compression));
        let mut push =
            direction.pull.then(|| Pusher::new(info, pull_after.unwrap_or(0), admission.head, lens.clone()));
        if let (Some(push), None) = (&mut push, pull_after) {
            push.introduce();
        }
        outputs.push_back(Output::Send(Frame::from(&Message::Welcome(welcome))));
        let refusals = RefusalDesk::teller(peer.refusals);
        Ok(start(opened, push, pull, Desks { lens, names_held: false, refusals, waits: false }, outputs))
    }
}

/// What a client says of itself and asks for.
pub(super) fn hello_of(local: &LocalReplica) -> Hello {
    Hello {
        replica: local.replica,
        head: local.head,
        empty: local.empty,
        direction: local.direction,
        compression: local.compression,
        checkpoint: local.checkpoint,
        fence: local.fence,
        request: local.request.clone(),
        authority: local.authority,
        token: local.token.clone(),
        now_ms: local.now_ms,
    }
}

/// (Client) whose word counts. A server that is to decide and does not is none to write to.
pub(super) fn under(local: &LocalReplica, welcome: &Welcome) -> Result<Standing, Abort> {
    match (local.authority, welcome.decides) {
        (_, true) => Ok(Standing::Authority),
        (false, false) => Ok(Standing::Peer),
        (true, false) => {
            let text =
                "the other side does not decide about what is written here: it is no parent to be under";
            Err(Abort(CloseCode::Refused, text.to_owned()))
        }
    }
}

/// (Client) whether it names what it holds after a comparison: a server that does not show everything, or that it may
/// not push to, learns in no other way what it has to take back.
pub(super) const fn names_held(welcome: &Welcome) -> bool {
    welcome.direction.pull && (welcome.restricted || !welcome.direction.push)
}

/// (Server) whose word counts.
pub(super) const fn over(admission: &Admission) -> Standing {
    if admission.decides { Standing::Child } else { Standing::Peer }
}

/// What a kept message counts for, in bytes.
fn cost_of(message: &Message) -> usize {
    MESSAGE_COST_BYTES
        + match message {
            Message::Changes(changes) => changes.data.len(),
            Message::Reconcile(bytes) => bytes.len(),
            Message::Coded(coded) => coded.size(),
            Message::Token(token) => token.as_str().len(),
            Message::Bonds(bonds) => bonds.len().saturating_mul(size_of::<Bond>()),
            Message::Refusals(refusals) => refusals.size(),
            Message::Names(names) => names.fields.len().saturating_mul(MAX_FIELD_NAME_BYTES),
            _ => 0,
        }
}

/// Where the client has the server's feed, if that is known.
pub(super) fn resumes_at(hello: &Hello, admission: &Admission) -> Option<Seq> {
    let (replica, seq) = hello.checkpoint?;
    (replica == admission.replica && seq <= admission.head).then_some(seq)
}

/// Where this side has the client's feed, if it can go on from there.
pub(super) fn stands_at(hello: &Hello, peer: &PeerReplica) -> Option<Seq> {
    peer.checkpoint.filter(|seq| (hello.fence..=hello.head).contains(seq))
}

pub(super) fn lens(
    view: Arc<View>,
    held: Vec<Arc<View>>,
    upto: Seq,
    (side, packs): (Side, bool),
) -> Arc<Lens> {
    let held = if held.is_empty() { Held::Same } else { Held::Under { views: held, upto } };
    Arc::new(Lens { view, held, side, packs })
}

/// What a session starts with beside its halves.
struct Desks {
    lens: Arc<Lens>,
    /// The client names what it holds after a comparison.
    names_held: bool,
    refusals: RefusalDesk,
    /// What comes waits until what was written before it is judged.
    waits: bool,
}

fn start(
    opened: Opened,
    mut pusher: Option<Pusher>,
    puller: Option<Puller>,
    Desks { lens, names_held, refusals, waits }: Desks,
    outputs: &mut Outputs,
) -> Running {
    let (reconcile, lens_side) = (opened.reconcile, lens.side);
    let epochs = Epochs::new(opened.replica);
    outputs.push_back(Output::Opened(opened));
    let reconciliation = reconcile.then(|| Reconciliation::new(lens.side));
    if reconcile {
        outputs.push_back(Output::BuildReconcileSet(lens));
    } else if let Some(pusher) = &mut pusher {
        pusher.start(puller.as_ref().map_or(0, Puller::checkpoint), outputs);
    }
    let tokens = (lens_side == Side::Serve).then(TokenDesk::default);
    let surplus = Surplus::new(names_held && reconcile);
    let unanswered = 0;
    let mut running =
        Running { pusher, puller, reconciliation, surplus, tokens, refusals, epochs, waits, unanswered };
    running.tell_refusals(outputs);
    running
}
