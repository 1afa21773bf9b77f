//! What a comparison found the peer to lack, ahead of the feed.

use std::sync::Arc;

use super::{Gate, Pusher};
use crate::feed::{FeedBatch, Seq};
use crate::limits::{BATCH_BYTES, SEND_WINDOW_BYTES, WANTED_CHUNK};
use crate::session::reconcile::Outcome;
use crate::session::{Frame, Output, Outputs};
use crate::view::{Held, Lens, Side};

/// What has to be here before a peer that was compared with is told that it is up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::session) struct Awaited {
    /// What only the peer has: it may hold what is deleted here and nowhere told of any more.
    pub(in crate::session) part: bool,
    /// (Server) what the client has and may not be shown: it has to take that back.
    pub(in crate::session) held: bool,
}

impl Awaited {
    pub(super) const fn is_here(self) -> bool {
        !self.part && !self.held
    }
}

impl Pusher {
    /// Whether everything that a reconciliation found is acknowledged.
    pub(in crate::session) fn is_past_wanted(&self) -> bool {
        self.started && self.in_flight.is_empty() && (self.snapshot.is_none() || self.is_wanted_sent())
    }

    /// Starts with what a reconciliation found the peer to lack; the feed goes on behind its snapshot, once
    /// what is awaited is here ([`Pusher::on_part`], [`Pusher::on_unshown`]).
    pub(in crate::session) fn start_with(
        &mut self,
        outcome: Outcome,
        awaited: Awaited,
        has: Seq,
        outputs: &mut Outputs,
    ) {
        self.started = true;
        (self.awaited, self.part_ended) = (awaited, false);
        self.wanted = outcome.to_send.into();
        self.snapshot = Some(outcome.snapshot);
        // What is to be given back, the client names itself. Edits that take a record out of its view are not among what
        // was compared: it is told of them when it is sent what they replaced.
        self.settles = self.is_replacing() && (self.lens.side == Side::Deliver || self.lens.view.is_all());
        self.lens = Arc::new(Lens { held: Held::Same, ..Lens::clone(&self.lens) });
        self.head = self.head.max(outcome.snapshot);
        self.end_wanted_if_done(has, outputs);
        self.read_on(outputs);
    }

    /// The peer's part of what a comparison found is here, or does not come.
    pub(in crate::session) fn on_part(&mut self, has: Seq, outputs: &mut Outputs) {
        self.awaited.part = false;
        self.end_wanted_if_done(has, outputs);
        self.read_on(outputs);
    }

    /// Records that the peer was found to lack were read. They are sent whoever brought them: the peer may have
    /// brought and lost them.
    pub(super) fn on_wanted(&mut self, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        let each = batch.data.len() / batch.entries.len().max(1);
        self.wanted_chunk = (BATCH_BYTES / each.max(1)).clamp(1, WANTED_CHUNK);
        self.announce(batch, outputs);
        self.rest = Some((Arc::clone(batch), 0));
        self.send_rest(has, outputs);
    }

    /// Sends pieces of about a batch's size as long as the window is open.
    pub(super) fn send_rest(&mut self, has: Seq, outputs: &mut Outputs) {
        while self.in_flight_bytes < SEND_WINDOW_BYTES
            && self.gate == Gate::Open
            && let Some((batch, done)) = self.rest.take()
        {
            let start =
                done.checked_sub(1).and_then(|last| batch.entries.get(last)).map_or(0, |e| e.end as usize);
            let rest = batch.entries.get(done..).unwrap_or_default();
            let fitting = rest.iter().take_while(|entry| entry.end as usize - start <= BATCH_BYTES).count();
            let count = fitting.max(1).min(rest.len());
            let Some(last) = count.checked_sub(1).and_then(|last| rest.get(last)) else { return };
            let piece = batch.data.get(start..last.end as usize).unwrap_or_default();
            self.send_own(piece, count, None, has, outputs);
            if count < rest.len() {
                self.rest = Some((batch, done + count));
            }
        }
    }

    /// The last record that the peer lacked is sent: it is told that this was the part of this side, and once what is
    /// awaited is here, from where on it has the feed, even if there was none to send.
    pub(super) fn end_wanted_if_done(&mut self, has: Seq, outputs: &mut Outputs) {
        if self.gate != Gate::Open || self.snapshot.is_none() || !self.is_wanted_sent() {
            return;
        }
        if !std::mem::replace(&mut self.part_ended, true) {
            let head = self.changes(None, has, false).encode_head();
            self.sent_message(0, None);
            outputs.push_back(Output::Send(Frame { head, shared: None }));
        }
        if let Some(snapshot) = self.snapshot.take_if(|_| self.awaited.is_here()) {
            self.sent = snapshot;
            self.tell(has, outputs);
            if std::mem::take(&mut self.settles) {
                self.settled_with = Some(self.messages_acked + self.in_flight.len() as u64);
            }
        }
    }

    pub(super) fn is_wanted_sent(&self) -> bool {
        self.wanted.is_empty() && self.rest.is_none() && !self.reading && self.held_back.is_none()
    }
}
