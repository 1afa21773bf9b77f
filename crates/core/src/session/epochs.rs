//! Another mode, policy or compression on an open session, without a new connection.
//!
//! The client stops sending, says hello once more at the next *epoch*, and goes on when the server has answered; the
//! server decides as it did at the opening, and its answer stands between the last message of the old epoch and the
//! first of the new one. So on both ends what is sent and taken in is ruled by one configuration at any time.
//!
//! Invariants: epochs rise by one; there is one change under way at a time, and of those that are asked for meanwhile
//! only the last counts; a half that is switched off keeps its counts and its place, so that what is under way is still
//! acknowledged and nothing is lost when it is switched on again.

use std::sync::Arc;

use super::opening::{hello_of, lens, names_held, over, resumes_at, stands_at, under};
use super::puller::Puller;
use super::pusher::Pusher;
use super::reconcile::Reconciliation;
use super::running::Running;
use super::surplus::Surplus;
use super::{
    Abort, Admission, Frame, LocalReplica, Opened, Output, Outputs, PeerInfo, PeerQuery, PeerReplica,
    violation,
};
use crate::feed::Seq;
use crate::id::ReplicaId;
use crate::view::{Lens, Side, View, ViewId};
use crate::wire::{CloseCode, Direction, Hello, Message, Welcome};

/// Where a session is between its configurations.
pub(super) struct Epochs {
    /// The epoch that holds, or is asked for.
    number: u64,
    /// The replica on the other side.
    replica: ReplicaId,
    /// The end of the local feed as far as it was told: what a decision says of it may be older.
    head: Seq,
    stage: Stage,
}

enum Stage {
    Settled,
    /// (Client) to be asked for as soon as possible.
    Wanted(Box<LocalReplica>),
    /// (Client) asked for; and what is wanted next.
    Asked(Box<LocalReplica>, Option<Box<LocalReplica>>),
    /// (Client) granted; the store looks up what the server was shown.
    Granted(Box<LocalReplica>, Box<Welcome>, Option<Box<LocalReplica>>),
    /// (Server) asked for, to be decided on as soon as possible.
    Waiting(Box<Hello>),
    /// (Server) the node decides.
    Deciding(Box<Hello>),
    /// (Server) granted; the store looks up what the client was shown.
    Granting(Box<Hello>, Box<Admission>),
}

/// What both sides agreed on for an epoch, as one of them sees it.
struct Agreed {
    sends: bool,
    takes: bool,
    info: PeerInfo,
    lens: Arc<Lens>,
    /// Where the feeds go on in a direction that was never on.
    push_after: u64,
    pull_after: u64,
    head: u64,
    peer_head: u64,
    reconcile: bool,
    names_held: bool,
}

impl Epochs {
    pub(super) const fn new(replica: ReplicaId) -> Self {
        Self { number: 0, replica, head: 0, stage: Stage::Settled }
    }

    pub(super) fn feed_advanced(&mut self, head: Seq) {
        self.head = self.head.max(head);
    }

    /// The epoch that holds.
    pub(super) const fn number(&self) -> u64 {
        match self.stage {
            Stage::Asked(..) | Stage::Granted(..) => self.number.saturating_sub(1),
            _ => self.number,
        }
    }

    fn take(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Settled)
    }
}

impl Running {
    /// (Client) what is asked for from now on.
    pub(super) fn reconfigure(&mut self, local: LocalReplica, outputs: &mut Outputs) -> Result<(), Abort> {
        let local = Box::new(local);
        self.epochs.stage = match self.epochs.take() {
            Stage::Settled | Stage::Wanted(_) => Stage::Wanted(local),
            Stage::Asked(asked, _) => Stage::Asked(asked, Some(local)),
            Stage::Granted(asked, welcome, _) => Stage::Granted(asked, welcome, Some(local)),
            server => server,
        };
        self.go_on_with_epoch(outputs)
    }

    /// Does what had to wait for the session to come to a place where its view can change.
    pub(super) fn go_on_with_epoch(&mut self, outputs: &mut Outputs) -> Result<(), Abort> {
        let view = match &self.epochs.stage {
            Stage::Wanted(local) => Some(local.view.id()),
            Stage::Waiting(_) => None,
            _ => return Ok(()),
        };
        if !self.may_change(view)? {
            return Ok(());
        }
        self.epochs.stage = match self.epochs.take() {
            Stage::Wanted(mut local) => {
                if let Some(pusher) = &mut self.pusher {
                    pusher.wait();
                }
                local.head = local.head.max(self.epochs.head);
                self.epochs.number += 1;
                let hello = hello_of(&local);
                let message = Message::Reconfigure(self.epochs.number, hello);
                outputs.push_back(Output::Send(Frame::from(&message)));
                Stage::Asked(local, None)
            }
            Stage::Waiting(hello) => {
                outputs.push_back(Output::Admit(Box::new(Hello::clone(&hello))));
                Stage::Deciding(hello)
            }
            other => other,
        };
        Ok(())
    }

    /// Whether the configuration may change now, to one with this view (`None`: to any).
    fn may_change(&self, view: Option<ViewId>) -> Result<bool, Abort> {
        let same = |pusher: &Pusher| view.is_some_and(|view| pusher.view().id() == view);
        let ready = self.pusher.as_ref().is_none_or(|pusher| same(pusher) || pusher.may_change_view());
        if !ready && self.pusher.as_ref().is_some_and(Pusher::is_off) {
            let text = "what was interrupted has to be compared again: connect again";
            return Err(Abort(CloseCode::GoingAway, text.to_owned()));
        }
        Ok(ready && self.reconciliation.is_none() && self.surplus.is_told())
    }

    /// Whether this side may replace what it shows by itself.
    pub(super) fn may_rebind(&self) -> bool {
        matches!(self.epochs.stage, Stage::Settled)
            && self.reconciliation.is_none()
            && self.surplus.is_told()
            && self.pusher.as_ref().is_some_and(Pusher::may_rebind)
    }

    /// What this side shows has changed with time. The other side need not know: it gets what comes, and loses what goes.
    pub(super) fn rebind(&mut self, view: Arc<View>, held: Vec<Arc<View>>, outputs: &mut Outputs) {
        let has = self.has();
        if self.may_rebind()
            && let Some(pusher) = &mut self.pusher
        {
            pusher.rebind(view, held);
            pusher.go_on(has, outputs);
        }
    }

    /// (Server) the client asks for another configuration.
    pub(super) fn on_reconfigure(
        &mut self,
        epoch: u64,
        hello: Hello,
        outputs: &mut Outputs,
    ) -> Result<(), Abort> {
        let serves = self.tokens.is_some();
        if !serves || epoch != self.epochs.number + 1 || hello.replica != self.epochs.replica {
            return Err(violation("a reconfiguration out of order"));
        }
        let Stage::Settled = self.epochs.take() else {
            return Err(violation("a reconfiguration while another one is under way"));
        };
        self.epochs.stage = Stage::Waiting(Box::new(hello));
        // Until this is answered the client sends nothing more: its part does not come before.
        self.end_part(outputs);
        self.go_on_with_epoch(outputs)
    }

    /// (Server) the node has decided.
    pub(super) fn on_admitted(&mut self, admission: Admission, outputs: &mut Outputs) {
        let Stage::Deciding(hello) = self.epochs.take() else { return };
        let direction = admission.direction.and(hello.direction);
        outputs.push_back(Output::Peer(PeerQuery {
            replica: hello.replica,
            view: direction.pull.then(|| Arc::clone(&admission.view)),
            resumes: self.pusher.is_some() || resumes_at(&hello, &admission).is_some(),
            says: resumes_at(&hello, &admission).filter(|_| self.pusher.is_none()),
            place: self.acked().or_else(|| resumes_at(&hello, &admission)).unwrap_or(0),
            asked: true,
            compares: !hello.empty && !admission.empty,
            standing: over(&admission),
        }));
        self.epochs.stage = Stage::Granting(hello, Box::new(admission));
    }

    /// (Client) the server has answered.
    pub(super) fn on_reconfigured(
        &mut self,
        epoch: u64,
        welcome: Welcome,
        outputs: &mut Outputs,
    ) -> Result<(), Abort> {
        let Stage::Asked(local, next) = self.epochs.take() else {
            return Err(violation("a reconfiguration that nobody asked for"));
        };
        if epoch != self.epochs.number || welcome.replica != self.epochs.replica {
            return Err(violation("a reconfiguration out of order"));
        }
        if welcome.direction.and(local.direction) != welcome.direction {
            return Err(violation("a grant of more than was asked for"));
        }
        let standing = under(&local, &welcome)?;
        self.waits = welcome.decides;
        let checkpoint = local.checkpoint.filter(|(replica, _)| *replica == welcome.replica);
        let checkpoint = checkpoint.map_or(0, |(_, seq)| seq);
        self.take_in(welcome.direction.pull, checkpoint, welcome.head);
        outputs.push_back(Output::Peer(PeerQuery {
            replica: welcome.replica,
            view: welcome.direction.push.then(|| Arc::clone(&local.view)),
            resumes: self.pusher.is_some() || welcome.push_after > 0,
            says: None,
            place: self.acked().unwrap_or(welcome.push_after),
            asked: welcome.direction.pull,
            compares: false,
            standing,
        }));
        self.epochs.stage = Stage::Granted(local, Box::new(welcome), next);
        Ok(())
    }

    /// The store has looked up the other side.
    pub(super) fn on_peer(&mut self, peer: PeerReplica, outputs: &mut Outputs) -> Result<(), Abort> {
        match self.epochs.take() {
            Stage::Granted(local, welcome, next) => {
                self.epochs.stage = next.map_or(Stage::Settled, Stage::Wanted);
                self.start_as_client(&local, &welcome, peer, outputs);
            }
            Stage::Granting(hello, admission) => {
                self.epochs.number += 1;
                self.start_as_server(&hello, *admission, peer, outputs);
            }
            other => self.epochs.stage = other,
        }
        self.go_on_with_epoch(outputs)
    }

    fn start_as_client(
        &mut self,
        local: &LocalReplica,
        welcome: &Welcome,
        peer: PeerReplica,
        outputs: &mut Outputs,
    ) {
        let info = PeerInfo { peer_no: peer.peer_no, compression: welcome.compression && local.compression };
        let agreed = Agreed {
            sends: welcome.direction.push,
            takes: welcome.direction.pull,
            info,
            lens: lens(
                Arc::clone(&local.view),
                peer.held,
                welcome.push_after,
                (Side::Deliver, info.compression),
            ),
            push_after: welcome.push_after,
            pull_after: 0,
            head: local.head.max(self.epochs.head),
            peer_head: welcome.head,
            reconcile: welcome.reconcile,
            names_held: names_held(welcome),
        };
        self.tell_opened(welcome.direction, &welcome.notice, welcome.reconcile, outputs);
        self.start_epoch(agreed, outputs);
    }

    fn start_as_server(
        &mut self,
        hello: &Hello,
        mut admission: Admission,
        peer: PeerReplica,
        outputs: &mut Outputs,
    ) {
        let direction = admission.direction.and(hello.direction);
        let head = self.epochs.head.max(admission.head);
        admission.head = head;
        let either_empty = hello.empty || admission.empty;
        // A half that was on knows its place itself.
        let sent = self.acked();
        let pull_after = sent.or_else(|| resumes_at(hello, &admission)).filter(|_| !peer.unsettled);
        let taken = self.puller.as_ref().map(Puller::checkpoint);
        let push_after = taken.or_else(|| stands_at(hello, &peer));
        let lost = |wanted: bool, checkpoint: Option<u64>| wanted && checkpoint.is_none() && !either_empty;
        let reconcile = direction.pull && (lost(true, pull_after) || lost(direction.push, push_after));
        let compression = admission.compression && hello.compression;
        let welcome = Welcome {
            replica: admission.replica,
            head,
            direction,
            notice: admission.notice,
            compression,
            push_after: push_after.unwrap_or(0),
            reconcile,
            refusals: peer.refusals,
            decides: admission.decides,
            restricted: !admission.view.is_all(),
            now_ms: admission.now_ms,
        };
        let agreed = Agreed {
            sends: direction.pull,
            takes: direction.push,
            info: PeerInfo { peer_no: peer.peer_no, compression },
            lens: lens(admission.view, peer.held, pull_after.unwrap_or(0), (Side::Serve, compression)),
            push_after: pull_after.unwrap_or(0),
            pull_after: welcome.push_after,
            head,
            peer_head: hello.head,
            reconcile,
            names_held: false,
        };
        self.tell_opened(direction, &welcome.notice, reconcile, outputs);
        let message = Message::Reconfigured(self.epochs.number, welcome);
        outputs.push_back(Output::Send(Frame::from(&message)));
        self.take_in(agreed.takes, agreed.pull_after, agreed.peer_head);
        self.start_epoch(agreed, outputs);
    }

    /// How far the other side has the local feed, once that is on.
    fn acked(&self) -> Option<Seq> {
        self.pusher.as_ref().map(Pusher::acked)
    }

    fn tell_opened(&self, direction: Direction, notice: &str, reconcile: bool, outputs: &mut Outputs) {
        outputs.push_back(Output::Opened(Opened {
            replica: self.epochs.replica,
            direction,
            notice: notice.to_owned(),
            reconcile,
            epoch: self.epochs.number,
        }));
    }

    /// From here on changes are taken in, or not.
    fn take_in(&mut self, takes: bool, after: u64, peer_head: u64) {
        match &mut self.puller {
            Some(puller) => puller.switch(takes, peer_head),
            None if takes => self.puller = Some(Puller::new(after, peer_head)),
            None => {}
        }
    }

    fn start_epoch(&mut self, agreed: Agreed, outputs: &mut Outputs) {
        let has = self.has();
        if !agreed.takes {
            // What is left of the peer's part does not come.
            self.end_part(outputs);
        }
        let Agreed { info, lens, .. } = agreed;
        if agreed.reconcile {
            self.reconciliation = Some(Reconciliation::new(lens.side));
            self.surplus = Surplus::new(agreed.names_held);
        }
        match &mut self.pusher {
            Some(pusher) if !agreed.sends => pusher.switch_off(),
            Some(pusher) => {
                pusher.change(info, &lens, agreed.head, agreed.reconcile);
                if !agreed.reconcile {
                    pusher.go_on(has, outputs);
                }
            }
            None if agreed.sends => {
                let mut pusher = Pusher::new(info, agreed.push_after, agreed.head, Arc::clone(&lens));
                if !agreed.reconcile {
                    pusher.start(has, outputs);
                }
                self.pusher = Some(pusher);
            }
            None => {}
        }
        if agreed.reconcile {
            outputs.push_back(Output::BuildReconcileSet(lens));
        }
    }
}
