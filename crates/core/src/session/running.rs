//! An open session: who handles what.

use super::io::Input;
use super::puller::Puller;
use super::pusher::Pusher;
use super::reconcile::Reconciliation;
use super::{Abort, Outputs, violation};
use crate::feed::Seq;
use crate::wire::{CloseCode, Message};

/// What an open session is made of.
pub(super) struct Running {
    pub(super) pusher: Option<Pusher>,
    pub(super) puller: Option<Puller>,
    pub(super) reconciliation: Option<Reconciliation>,
}

impl Running {
    pub(super) fn on_message(&mut self, message: Message, outputs: &mut Outputs) -> Result<(), Abort> {
        match message {
            Message::Names(names) => self.puller()?.on_names(names),
            Message::Changes(changes) => self.puller()?.on_changes(changes, outputs),
            Message::Ack(count) => {
                let has = self.has();
                match &mut self.pusher {
                    Some(pusher) => pusher.on_ack(count, has, outputs),
                    None => Err(violation("an acknowledgement of nothing")),
                }
            }
            Message::Sketch { .. }
            | Message::CompareBy { .. }
            | Message::Reconcile(_)
            | Message::Want { .. } => {
                let Some(reconciliation) = &mut self.reconciliation else {
                    return Err(violation("a reconciliation that was not agreed on"));
                };
                reconciliation.on_message(message, outputs)?;
                self.after_reconciliation(outputs);
                Ok(())
            }
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
            }
            Input::FeedAdvanced(head) => {
                if let Some(pusher) = &mut self.pusher {
                    pusher.on_advance(head, outputs);
                }
            }
            Input::Applied(count) => {
                if let Some(puller) = &mut self.puller {
                    puller.on_applied(count, outputs);
                }
            }
            Input::ReconcileSet(set) => {
                if let Some(reconciliation) = &mut self.reconciliation {
                    reconciliation.on_set(*set, outputs)?;
                }
            }
            _ => {}
        }
        Ok(())
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
            .ok_or_else(|| Abort(CloseCode::Refused, "changes are not accepted in this direction".to_owned()))
    }

    /// How far the peer's feed is durable here.
    fn has(&self) -> Seq {
        self.puller.as_ref().map_or(0, Puller::checkpoint)
    }

    /// Hands the outcome of a finished comparison to the pusher.
    fn after_reconciliation(&mut self, outputs: &mut Outputs) {
        let Some(outcome) = self.reconciliation.as_mut().and_then(Reconciliation::take_outcome) else {
            return;
        };
        self.reconciliation = None;
        let has = self.has();
        if let Some(pusher) = &mut self.pusher {
            pusher.start_with(outcome, has, outputs);
        }
    }
}
