//! What a driver does only in its turn: read what it is going to send, and hand over what has come to be applied.
//!
//! What waits to be applied is not acknowledged, so a peer that has filled its window stops sending.
//!
//! Invariants: what has come is applied in its order; what belongs together with what comes over other sessions never waits
//! here, nor does anything that came before it.

use std::collections::VecDeque;
use std::sync::Arc;

use blazedb_core::session::{Input, Output};
use blazedb_store::Store;
use tokio::sync::watch;
use tokio::time::Instant as TokioInstant;

use super::Driver;
use crate::meeting::Arrival;

/// What waits for a turn.
#[derive(Default)]
pub(super) struct Waiting {
    read: Option<Output>,
    arrivals: VecDeque<Arrival>,
    until: Option<TokioInstant>,
}

impl Waiting {
    /// When to ask for a turn again, if anything waits for one.
    pub(super) const fn until(&self) -> Option<TokioInstant> {
        self.until
    }
}

/// Waits until others may have become free; for ever if the session waits for nobody.
pub(super) async fn freed(freed: &mut Option<watch::Receiver<u64>>) {
    if let Some(freed) = freed
        && freed.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Driver {
    fn has_turn(&mut self) -> bool {
        let wait = self.context.turn.ask().err();
        self.waiting.until = wait.map(|wait| TokioInstant::now() + wait);
        wait.is_none()
    }

    /// Reads what is to be sent next.
    pub(super) fn read_in_turn(&mut self, output: Output) {
        self.waiting.read = Some(output);
        self.take_turn();
    }

    fn read_now(&mut self, output: Output) {
        match output {
            Output::Read { after, max_bytes, lens } => self.read(after, max_bytes, &lens),
            Output::ReadWanted(ids, lens) => {
                let work = move |store: &Store| store.wanted_in_full(&ids, &lens);
                self.ask(work, |batch| Input::Feed(Arc::new(batch)));
            }
            _ => {}
        }
    }

    /// Has a batch applied, in the order of the session.
    pub(super) fn submit(&mut self, arrival: Arrival) {
        let together = !arrival.bonds.is_empty();
        self.waiting.arrivals.push_back(arrival);
        match together {
            true => self.hand_over(),
            false => self.take_turn(),
        }
    }

    fn hand_over(&mut self) {
        for arrival in std::mem::take(&mut self.waiting.arrivals) {
            match &self.seat {
                Some(seat) => seat.submit(arrival),
                None => self.context.database.inner.applier.submit(arrival.batch, arrival.report),
            }
        }
    }

    /// Goes on with what waits, if it may.
    pub(super) fn take_turn(&mut self) {
        if !self.has_turn() {
            return;
        }
        self.hand_over();
        if let Some(output) = self.waiting.read.take() {
            self.read_now(output);
        }
    }
}
