//! An open session: who handles what.

use super::epochs::Epochs;
use super::io::Input;
use super::puller::Puller;
use super::pusher::{Awaited, Mark, Pusher};
use super::reconcile::Reconciliation;
use super::refusals::RefusalDesk;
use super::surplus::Surplus;
use super::tokens::TokenDesk;
use super::{Abort, Frame, Output, Outputs, violation};
use crate::feed::Seq;
use crate::wire::{CloseCode, Message, Refusals};

/// What an open session is made of.
pub(super) struct Running {
    pub(super) pusher: Option<Pusher>,
    pub(super) puller: Option<Puller>,
    pub(super) reconciliation: Option<Reconciliation>,
    pub(super) surplus: Surplus,
    /// Of the server: clients hand in tokens, servers have none.
    pub(super) tokens: Option<TokenDesk>,
    pub(super) refusals: RefusalDesk,
    pub(super) epochs: Epochs,
    /// (Client) the server decides: what it sends is taken in once it has judged what was written here before.
    pub(super) waits: bool,
    /// How often the peer was asked where its feed ends and has not answered yet.
    pub(super) unanswered: u32,
}

impl Running {
    pub(super) fn on_message(&mut self, message: Message, outputs: &mut Outputs) -> Result<(), Abort> {
        self.handle(message, outputs)?;
        self.take_in_judged(outputs);
        self.go_on_with_epoch(outputs)
    }

    fn handle(&mut self, message: Message, outputs: &mut Outputs) -> Result<(), Abort> {
        match message {
            Message::Names(names) => self.puller()?.on_names(names),
            Message::Bonds(bonds) => {
                self.puller()?.on_bonds(bonds);
                Ok(())
            }
            Message::Changes(changes) => {
                let mark = match self.waits {
                    true => self.pusher.as_ref().map(Pusher::mark),
                    // What was refused is taken back from what is here now: a removal must not come first.
                    false => self.is_taking_refusals().then(Mark::default),
                };
                self.puller()?.on_changes(changes, mark, outputs)
            }
            Message::Ack(count) => {
                let has = self.has();
                match &mut self.pusher {
                    Some(pusher) => pusher.on_ack(count, has, outputs)?,
                    None => return Err(violation("an acknowledgement of nothing")),
                }
                self.name_surplus(outputs);
                Ok(())
            }
            Message::Probe => {
                outputs.push_back(Output::FeedEnd);
                Ok(())
            }
            Message::FeedEnd(seq) => self.on_feed_end(seq),
            Message::Held(ids) => match &mut self.pusher {
                Some(pusher) => pusher.on_held(ids, outputs),
                None => Err(violation("a list of records that nobody asked for")),
            },
            Message::Sketch { .. }
            | Message::CompareBy { .. }
            | Message::Coded(_)
            | Message::Reconcile(_)
            | Message::Want { .. } => {
                let Some(reconciliation) = &mut self.reconciliation else {
                    return Err(violation("a reconciliation that was not agreed on"));
                };
                reconciliation.on_message(message, outputs)?;
                self.after_reconciliation(outputs);
                Ok(())
            }
            Message::Token(token) => match &mut self.tokens {
                Some(tokens) => {
                    tokens.on_token(token, outputs);
                    Ok(())
                }
                None => Err(violation("a token of a server")),
            },
            Message::Refusals(refusals) => match &mut self.refusals {
                RefusalDesk::Taker(taker) => taker.on_refusals(refusals, self.pusher.as_mut(), outputs),
                RefusalDesk::Teller(_) => Err(violation("refusals of a client")),
            },
            Message::RefusalsTaken(no) => match &mut self.refusals {
                RefusalDesk::Teller(teller) => {
                    teller.on_taken(no, outputs)?;
                    teller.tell_on(self.pusher.as_mut(), outputs);
                    Ok(())
                }
                RefusalDesk::Taker(_) => Err(violation("refusals taken by a server")),
            },
            Message::Reconfigure(epoch, hello) => self.on_reconfigure(epoch, hello, outputs),
            Message::Reconfigured(epoch, welcome) => self.on_reconfigured(epoch, welcome, outputs),
            _ => Err(violation("a message out of order")),
        }
    }

    pub(super) fn on_answer(
        &mut self,
        now_ms: u64,
        input: Input,
        outputs: &mut Outputs,
    ) -> Result<(), Abort> {
        match input {
            Input::Feed(batch) => {
                let has = self.has();
                if let Some(pusher) = &mut self.pusher {
                    pusher.on_feed(now_ms, &batch, has, outputs);
                }
                // They wait for the end of a reading.
                match &mut self.refusals {
                    RefusalDesk::Teller(teller) => teller.tell_on(self.pusher.as_mut(), outputs),
                    RefusalDesk::Taker(taker) => taker.take_on(self.pusher.as_mut(), outputs),
                }
            }
            Input::Held(held) => self.surplus.name(&held, outputs),
            Input::Unshown(batch) => {
                let has = self.has();
                if let Some(pusher) = &mut self.pusher {
                    pusher.on_unshown(&batch, has, outputs);
                }
            }
            Input::FeedAdvanced(head) => {
                self.epochs.feed_advanced(head);
                if let Some(pusher) = &mut self.pusher {
                    pusher.on_advance(head, outputs);
                }
            }
            Input::FeedEnd(seq) => self.tell_feed_end(seq, outputs),
            Input::Probe => self.probe(outputs),
            Input::Applied(count) => self.on_applied(count, outputs),
            Input::RefusalsDue => self.on_refusals_due(outputs),
            Input::Refusals(refusals, more) => self.on_refusals_read(refusals, more, outputs),
            Input::RefusalsTaken => {
                if let RefusalDesk::Taker(taker) = &mut self.refusals {
                    taker.on_taken(outputs);
                }
                self.release_pusher(outputs);
            }
            Input::ReconcileSet(set) => {
                if let Some(reconciliation) = &mut self.reconciliation {
                    self.surplus.found(&set.unshown);
                    reconciliation.on_set(*set, outputs)?;
                }
            }
            Input::Token(token) if self.tokens.is_none() => {
                outputs.push_back(Output::Send(Frame::from(&Message::Token(token))));
            }
            Input::TokenAccepted => {
                if let Some(tokens) = &mut self.tokens {
                    tokens.on_decision(outputs);
                }
            }
            Input::Reconfigure(local) => return self.reconfigure(*local, outputs),
            Input::Rebind(view, held) => self.rebind(view, held, outputs),
            Input::Admitted(admission) => self.on_admitted(admission?, outputs),
            Input::Peer(peer) => return self.on_peer(peer, outputs),
            _ => {}
        }
        self.take_in_judged(outputs);
        self.go_on_with_epoch(outputs)
    }

    /// Hands over what waited until the server had judged what was written here before it came, and until its refusals
    /// were taken: its decisions must not come ahead of either.
    fn take_in_judged(&mut self, outputs: &mut Outputs) {
        let taking = self.is_taking_refusals();
        let Some(puller) = &mut self.puller else { return };
        let pusher = self.pusher.as_ref().filter(|_| self.waits);
        puller.take_in(|mark| !taking && pusher.is_none_or(|pusher| pusher.is_past(mark)), outputs);
    }

    fn on_refusals_due(&mut self, outputs: &mut Outputs) {
        if let RefusalDesk::Teller(teller) = &mut self.refusals {
            // What is being read may hold what was decided instead, which is told after the refusal.
            self.pusher.iter_mut().for_each(Pusher::read_again);
            teller.on_due(self.pusher.as_mut(), outputs);
        }
    }

    /// Asks the peer where its feed ends.
    fn probe(&mut self, outputs: &mut Outputs) {
        self.unanswered += 1;
        outputs.push_back(Output::Send(Frame::from(&Message::Probe)));
    }

    /// The peer is told where the feed ends, and then everything up to there.
    fn tell_feed_end(&mut self, seq: Seq, outputs: &mut Outputs) {
        let has = self.has();
        let pusher = self.pusher.as_mut().filter(|pusher| !pusher.is_off());
        let end = pusher.as_ref().map_or(0, |_| seq);
        outputs.push_back(Output::Send(Frame::from(&Message::FeedEnd(end))));
        if let Some(pusher) = pusher {
            pusher.on_probe(seq, has, outputs);
        }
    }

    fn on_feed_end(&mut self, seq: Seq) -> Result<(), Abort> {
        let Some(left) = self.unanswered.checked_sub(1) else {
            return Err(violation("an answer to nothing"));
        };
        self.unanswered = left;
        if let Some(puller) = &mut self.puller {
            puller.on_feed_end(seq);
        }
        Ok(())
    }

    fn on_applied(&mut self, count: u64, outputs: &mut Outputs) {
        let count = match &mut self.refusals {
            RefusalDesk::Teller(teller) => teller.on_applied(count),
            RefusalDesk::Taker(_) => count,
        };
        self.acknowledge(count, outputs);
    }

    fn acknowledge(&mut self, count: u64, outputs: &mut Outputs) {
        if self.puller.as_mut().is_some_and(|puller| puller.on_applied(count, outputs)) {
            self.end_part(outputs);
        }
    }

    /// The peer's part of what a comparison found is here, or is not waited for any longer.
    pub(super) fn end_part(&mut self, outputs: &mut Outputs) {
        let has = self.has();
        if let Some(pusher) = &mut self.pusher {
            pusher.on_part(has, outputs);
        }
    }

    fn on_refusals_read(&mut self, refusals: Refusals, more: bool, outputs: &mut Outputs) {
        let RefusalDesk::Teller(teller) = &mut self.refusals else { return };
        let count = teller.on_read(refusals, more, outputs);
        self.acknowledge(count, outputs);
        self.release_pusher(outputs);
    }

    /// Tells what is to be told, if anything is.
    pub(super) fn tell_refusals(&mut self, outputs: &mut Outputs) {
        if let RefusalDesk::Teller(teller) = &mut self.refusals {
            teller.tell_on(self.pusher.as_mut(), outputs);
        }
    }

    fn release_pusher(&mut self, outputs: &mut Outputs) {
        if let Some(pusher) = &mut self.pusher {
            pusher.release(outputs);
        }
    }

    /// Whether refused writes are being taken back.
    pub(super) const fn is_taking_refusals(&self) -> bool {
        matches!(&self.refusals, RefusalDesk::Taker(taker) if taker.is_busy())
    }

    pub(super) fn on_tick(&mut self, now_ms: u64, outputs: &mut Outputs) {
        let has = self.has();
        if let Some(pusher) = &mut self.pusher {
            pusher.on_tick(now_ms, has, outputs);
        }
    }

    fn puller(&mut self) -> Result<&mut Puller, Abort> {
        self.puller
            .as_mut()
            .filter(|puller| puller.is_on())
            .ok_or_else(|| Abort(CloseCode::Refused, "changes are not accepted in this direction".to_owned()))
    }

    /// Names what only the client holds, once it has been pushed as far as it may be.
    fn name_surplus(&mut self, outputs: &mut Outputs) {
        let pusher = self.pusher.as_ref().filter(|pusher| !pusher.is_off());
        self.surplus.look_up_if_pushed(pusher, outputs);
    }

    /// How far the peer's feed is durable here.
    pub(super) fn has(&self) -> Seq {
        self.puller.as_ref().map_or(0, Puller::checkpoint)
    }

    /// Hands the outcome of a finished comparison to the pusher.
    fn after_reconciliation(&mut self, outputs: &mut Outputs) {
        let Some(outcome) = self.reconciliation.as_mut().and_then(Reconciliation::take_outcome) else {
            return;
        };
        self.reconciliation = None;
        let has = self.has();
        self.surplus.found(&outcome.to_send);
        self.surplus.complete();
        // Who took itself for up to date before that would keep what is deleted, or not for it. (Where the server decides,
        // the client takes in what comes only behind what it has told.)
        let serves = self.tokens.is_some();
        let takes = self.puller.as_ref().is_some_and(Puller::is_on);
        let restricted = self.pusher.as_ref().is_some_and(|pusher| !pusher.view().is_all());
        let awaited = Awaited { part: takes && !self.waits, held: serves && (restricted || !takes) };
        // A half that is off goes on where it was once it is on again.
        if let Some(pusher) = self.pusher.as_mut().filter(|pusher| !pusher.is_off()) {
            pusher.start_with(outcome, awaited, has, outputs);
        }
        self.name_surplus(outputs);
    }
}
