//! What was refused: a server tells, a client takes, one message at a time.
//!
//! Invariants: a server acknowledges changes only after it has told what it refused of them; while it has something to
//! tell, and while a client takes it, nothing is read from the feed, so that what is sent before and behind these
//! messages was read before and after them; a refusal is forgotten only after the client has it durably.

use super::pusher::Pusher;
use super::{Abort, Frame, Output, Outputs, violation};
use crate::wire::{Message, Refusals};

/// The part of a session that deals with refused writes.
#[derive(Debug)]
pub(super) enum RefusalDesk {
    /// Of a server.
    Teller(Teller),
    /// Of a client.
    Taker(Taker),
}

/// Tells the client what was refused.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// There may be more to tell than was read.
    due: bool,
    /// The client waits for the first ones.
    announced: bool,
    reading: bool,
    /// Told up to this number,
    told: u64,
    /// and the client has not taken that yet.
    outstanding: bool,
    /// Changes that are durable, and acknowledged only once everything is told.
    held: u64,
}

/// Takes what the server refused.
#[derive(Debug, Default)]
pub(super) struct Taker {
    /// The server has said that there is something to take.
    announced: bool,
    /// To be handed to the store once the feed is not being read.
    waiting: Option<Refusals>,
    /// The store works on what ends with this number.
    taking: Option<u64>,
}

impl RefusalDesk {
    /// Of a server that has something to tell, or not.
    pub(super) fn teller(due: bool) -> Self {
        Self::Teller(Teller { due, announced: due, ..Teller::default() })
    }

    /// Of a client that was announced something, or not.
    pub(super) fn taker(announced: bool) -> Self {
        Self::Taker(Taker { announced, ..Taker::default() })
    }
}

impl Teller {
    /// There is something to tell.
    pub(super) fn on_due(&mut self, pusher: Option<&mut Pusher>, outputs: &mut Outputs) {
        self.due = true;
        self.tell_on(pusher, outputs);
    }

    /// Asks for what is to be told, once the client has taken what it was told before.
    pub(super) fn tell_on(&mut self, pusher: Option<&mut Pusher>, outputs: &mut Outputs) {
        if !self.due || self.reading {
            return;
        }
        let idle = pusher.is_none_or(Pusher::hold);
        if self.outstanding || !idle {
            return;
        }
        self.reading = true;
        outputs.push_back(Output::ReadRefusals { after: self.told });
    }

    /// This is to be told. Answers the changes that may be acknowledged now.
    pub(super) fn on_read(&mut self, refusals: Refusals, more: bool, outputs: &mut Outputs) -> u64 {
        self.reading = false;
        self.due = more;
        let some = !refusals.writes.is_empty();
        if some {
            self.told = refusals.last();
            self.outstanding = true;
        }
        if std::mem::take(&mut self.announced) || some {
            outputs.push_back(Output::Send(Frame::from(&Message::Refusals(refusals))));
        }
        if self.due { 0 } else { std::mem::take(&mut self.held) }
    }

    /// So many changes are durable. Answers how many may be acknowledged now.
    pub(super) fn on_applied(&mut self, count: u64) -> u64 {
        self.held += count;
        if self.due || self.reading { 0 } else { std::mem::take(&mut self.held) }
    }

    pub(super) fn on_taken(&mut self, no: u64, outputs: &mut Outputs) -> Result<(), Abort> {
        if !self.outstanding || no != self.told {
            return Err(violation("refusals taken that were not told"));
        }
        self.outstanding = false;
        outputs.push_back(Output::ForgetRefusals(no));
        Ok(())
    }
}

impl Taker {
    pub(super) fn on_refusals(
        &mut self,
        refusals: Refusals,
        pusher: Option<&mut Pusher>,
        outputs: &mut Outputs,
    ) -> Result<(), Abort> {
        if self.waiting.is_some() || self.taking.is_some() {
            return Err(violation("refusals ahead of those that are being taken"));
        }
        self.announced = false;
        if refusals.writes.is_empty() {
            return Ok(());
        }
        self.waiting = Some(refusals);
        self.take_on(pusher, outputs);
        Ok(())
    }

    /// Hands what waits to the store, unless the feed is being read.
    pub(super) fn take_on(&mut self, pusher: Option<&mut Pusher>, outputs: &mut Outputs) {
        if self.waiting.is_none() || pusher.is_some_and(|pusher| !pusher.hold()) {
            return;
        }
        if let Some(refusals) = self.waiting.take() {
            self.taking = Some(refusals.last());
            outputs.push_back(Output::TakeRefusals(refusals));
        }
    }

    pub(super) fn on_taken(&mut self, outputs: &mut Outputs) {
        if let Some(no) = self.taking.take() {
            outputs.push_back(Output::Send(Frame::from(&Message::RefusalsTaken(no))));
        }
    }

    /// Whether something is to be taken.
    pub(super) const fn is_busy(&self) -> bool {
        self.announced || self.waiting.is_some() || self.taking.is_some()
    }
}
