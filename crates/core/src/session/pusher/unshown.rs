//! What a client holds and is not shown any more is taken back from it.

use std::sync::Arc;

use super::{Gate, Pusher};
use crate::feed::{FeedBatch, Seq};
use crate::id::RecordId;
use crate::limits::{MAX_LOOKING_UP, MAX_WANTED};
use crate::session::{Abort, Output, Outputs, violation};
use crate::stamp::Stamp;
use crate::view::Side;

impl Pusher {
    /// The client names what it holds.
    pub(in crate::session) fn on_held(
        &mut self,
        held: Vec<(RecordId, Stamp)>,
        outputs: &mut Outputs,
    ) -> Result<(), Abort> {
        if self.lens.side != Side::Serve {
            return Err(violation("a list of records from the serving side"));
        }
        self.held_complete |= held.len() < MAX_WANTED;
        self.looking_up += 1;
        outputs.push_back(Output::ReadUnshown(held, Arc::clone(&self.lens)));
        Ok(())
    }

    /// What the client is not shown of that, it has to take back.
    pub(in crate::session) fn on_unshown(&mut self, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        self.looking_up = self.looking_up.saturating_sub(1);
        if self.gate != Gate::Open {
            // It stays unknown what the client holds: the next session compares again.
            self.held_complete = false;
            return;
        }
        if !batch.entries.is_empty() {
            self.announce(batch, outputs);
            self.send_own(&batch.data, batch.entries.len(), None, has, outputs);
        }
        if std::mem::take(&mut self.held_complete) {
            self.awaited.held = false;
            self.end_wanted_if_done(has, outputs);
            self.read_on(outputs);
            self.settled_with = Some(self.messages_acked + self.in_flight.len() as u64);
            self.settle_if_acked(outputs);
        }
    }

    pub(in crate::session) const fn is_busy(&self) -> bool {
        self.looking_up >= MAX_LOOKING_UP
    }

    pub(super) fn settle_if_acked(&mut self, outputs: &mut Outputs) {
        if self.settled_with.is_some_and(|with| with <= self.messages_acked) {
            self.settled_with = None;
            outputs.push_back(Output::ViewSettled(Arc::clone(&self.lens.view)));
        }
    }
}
