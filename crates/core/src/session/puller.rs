//! The receiving half of a session.

use std::sync::Arc;

use super::pusher::Mark;
use super::{Abort, Frame, Output, Outputs, SessionStatus, violation};
use crate::bond::Bond;
use crate::feed::{Incoming, PeerNames, Seq, decompress};
use crate::limits::{MAX_MESSAGE_BYTES, MESSAGE_COST_BYTES, SEND_WINDOW_BYTES};
use crate::wire::{Changes, Message, NamesMessage};

/// Takes changes in, in order, and acknowledges them once they are durable.
#[derive(Debug)]
pub(super) struct Puller {
    names: Arc<PeerNames>,
    /// What the next changes belong together with.
    bonds: Vec<Bond>,
    applied: u64,
    /// Size and checkpoint of what is being applied, oldest first.
    applying: std::collections::VecDeque<(usize, Option<Seq>)>,
    applying_bytes: usize,
    /// What is not handed over yet, and what it waits for.
    waiting: std::collections::VecDeque<(Vec<Bond>, Incoming, Mark)>,
    checkpoint: Seq,
    peer_head: Seq,
    /// Switched off: what still comes is refused.
    off: bool,
}

impl Puller {
    pub(super) fn new(checkpoint: Seq, peer_head: Seq) -> Self {
        Self {
            names: Arc::default(),
            bonds: Vec::new(),
            applied: 0,
            applying: std::collections::VecDeque::new(),
            applying_bytes: 0,
            waiting: std::collections::VecDeque::new(),
            checkpoint,
            peer_head,
            off: false,
        }
    }

    pub(super) const fn checkpoint(&self) -> Seq {
        self.checkpoint
    }

    /// Takes changes in from now on, or not. What is being applied still is.
    pub(super) fn switch(&mut self, on: bool, peer_head: Seq) {
        self.off = !on;
        self.peer_head = self.peer_head.max(peer_head);
    }

    pub(super) const fn is_on(&self) -> bool {
        !self.off
    }

    pub(super) fn on_names(&mut self, names: NamesMessage) -> Result<(), Abort> {
        if Arc::make_mut(&mut self.names).learn(names.into()) {
            Ok(())
        } else {
            Err(violation("a number that stands for two names"))
        }
    }

    /// The peer's feed ends here.
    pub(super) fn on_feed_end(&mut self, seq: Seq) {
        self.peer_head = self.peer_head.max(seq);
    }

    pub(super) fn on_bonds(&mut self, bonds: Vec<Bond>) {
        self.bonds = bonds;
    }

    /// Takes changes in, at once or, with a mark, once [`Puller::take_in`] lets them.
    pub(super) fn on_changes(
        &mut self,
        changes: Changes,
        mark: Option<Mark>,
        outputs: &mut Outputs,
    ) -> Result<(), Abort> {
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
        let bonds = std::mem::take(&mut self.bonds);
        let bonds = if changes.upto.is_some() { bonds } else { Vec::new() };
        let incoming = Incoming {
            data,
            names: Arc::clone(&self.names),
            checkpoint: changes.upto,
            peer_has: changes.has,
        };
        match mark {
            Some(mark) => self.waiting.push_back((bonds, incoming, mark)),
            None if self.waiting.is_empty() => hand_over(bonds, incoming, outputs),
            None => self.waiting.push_back((bonds, incoming, Mark::default())),
        }
        Ok(())
    }

    /// Hands over what waits, in order, as far as `may` lets it.
    pub(super) fn take_in(&mut self, may: impl Fn(&mut Mark) -> bool, outputs: &mut Outputs) {
        for (_, _, mark) in &mut self.waiting {
            // Each is asked: a mark takes note of when it was first passed.
            mark.passed = may(mark);
        }
        while self.waiting.front().is_some_and(|(_, _, mark)| mark.passed)
            && let Some((bonds, incoming, _)) = self.waiting.pop_front()
        {
            hand_over(bonds, incoming, outputs);
        }
    }

    /// Acknowledges what is durable now. Answers whether that ends the peer's part of a comparison.
    pub(super) fn on_applied(&mut self, count: u64, outputs: &mut Outputs) -> bool {
        let (before, mut ends_part) = (self.applied, false);
        for _ in 0..count {
            let Some((size, upto)) = self.applying.pop_front() else { break };
            self.applying_bytes -= size;
            self.applied += 1;
            self.checkpoint = upto.unwrap_or(self.checkpoint);
            // The one message that neither brings changes nor moves the checkpoint.
            ends_part |= upto.is_none() && size == MESSAGE_COST_BYTES;
        }
        if self.applied > before {
            outputs.push_back(Output::Send(Frame::from(&Message::Ack(self.applied))));
        }
        ends_part
    }

    pub(super) fn report(&self, status: &mut SessionStatus) {
        status.pulled = self.checkpoint;
        status.peer_head = self.peer_head;
        status.pulled_all = (self.off || self.checkpoint >= self.peer_head) && self.applying.is_empty();
    }
}

fn hand_over(bonds: Vec<Bond>, incoming: Incoming, outputs: &mut Outputs) {
    if !bonds.is_empty() {
        outputs.push_back(Output::Together(bonds));
    }
    outputs.push_back(Output::Apply(incoming));
}
