//! The receiving half of a session.

use std::sync::Arc;

use super::{Abort, Frame, Output, Outputs, SessionStatus, violation};
use crate::feed::{Incoming, PeerNames, Seq, decompress};
use crate::limits::{MAX_MESSAGE_BYTES, MESSAGE_COST_BYTES, SEND_WINDOW_BYTES};
use crate::wire::{Changes, Message, NamesMessage};

/// Takes changes in, in order, and acknowledges them once they are durable.
#[derive(Debug)]
pub(super) struct Puller {
    names: Arc<PeerNames>,
    applied: u64,
    /// Size and checkpoint of what is being applied, oldest first.
    applying: std::collections::VecDeque<(usize, Option<Seq>)>,
    applying_bytes: usize,
    checkpoint: Seq,
    peer_head: Seq,
}

impl Puller {
    pub(super) fn new(checkpoint: Seq, peer_head: Seq) -> Self {
        Self {
            names: Arc::default(),
            applied: 0,
            applying: std::collections::VecDeque::new(),
            applying_bytes: 0,
            checkpoint,
            peer_head,
        }
    }

    pub(super) const fn checkpoint(&self) -> Seq {
        self.checkpoint
    }

    pub(super) fn on_names(&mut self, names: NamesMessage) -> Result<(), Abort> {
        if Arc::make_mut(&mut self.names).learn(names.into()) {
            Ok(())
        } else {
            Err(violation("a number that stands for two names"))
        }
    }

    pub(super) fn on_changes(&mut self, changes: Changes, outputs: &mut Outputs) -> Result<(), Abort> {
        // A sender may pass its window by one batch; one that ignores it altogether is stopped.
        if self.applying_bytes > SEND_WINDOW_BYTES + MAX_MESSAGE_BYTES {
            return Err(violation("more unacknowledged changes than the window allows"));
        }
        let data = if changes.compressed {
            decompress(&changes.data, MAX_MESSAGE_BYTES)
                .ok_or_else(|| violation("damaged compressed data"))?
        } else {
            changes.data
        };
        // Counted as they are held, so that what compresses well does not pass the window either.
        let size = data.len() + MESSAGE_COST_BYTES;
        self.peer_head = self.peer_head.max(changes.head);
        self.applying.push_back((size, changes.upto));
        self.applying_bytes += size;
        outputs.push_back(Output::Apply(Incoming {
            data,
            names: Arc::clone(&self.names),
            checkpoint: changes.upto,
            peer_has: changes.has,
        }));
        Ok(())
    }

    pub(super) fn on_applied(&mut self, count: u64, outputs: &mut Outputs) {
        let before = self.applied;
        for _ in 0..count {
            let Some((size, upto)) = self.applying.pop_front() else { break };
            self.applying_bytes -= size;
            self.applied += 1;
            self.checkpoint = upto.unwrap_or(self.checkpoint);
        }
        if self.applied > before {
            outputs.push_back(Output::Send(Frame::from(&Message::Ack(self.applied))));
        }
    }

    pub(super) fn report(&self, status: &mut SessionStatus) {
        status.pulled = self.checkpoint;
        status.peer_head = self.peer_head;
        status.pulled_all = self.checkpoint >= self.peer_head && self.applying.is_empty();
    }
}
