//! A node's applier: batches of several peers are applied in groups, in the order in which they came.

use blazedb_core::feed::Incoming;
use blazedb_core::session::Input;
use blazedb_core::wire::{CloseCode, Refusals};
use blazedb_store::{Applied, CheckedBatch, StoreError};

use crate::driver::WORK_MS;
use crate::network::{Event, Place};
use crate::node::{Waiting, Work};
use crate::world::World;
use crate::{Failure, check};

impl World {
    pub(crate) fn apply(&mut self, place: Place, incoming: Incoming) -> Result<(), Failure> {
        let source = self.conns.get(&place.conn).and_then(|conn| conn.end(place.end).source.clone());
        let (Some(store), Some(source)) = (self.store_of(place), source) else { return Ok(()) };
        match store.check(source, incoming) {
            Ok(batch) => self.submit(place, batch, Work::Changes),
            Err(error) => self.report_failure(place, &error)?,
        }
        Ok(())
    }

    /// As the driver does: the peer has what was refused of it, and that is forgotten in its turn.
    pub(crate) fn forget_refusals(&mut self, place: Place, upto: u64) {
        let source = self.conns.get(&place.conn).and_then(|conn| conn.end(place.end).source.clone());
        if let Some(source) = source {
            self.submit(place, CheckedBatch::forget_refusals(source, upto), Work::Forget);
        }
    }

    pub(crate) fn take_refusals(&mut self, place: Place, refusals: Refusals) -> Result<(), Failure> {
        let source = self.conns.get(&place.conn).and_then(|conn| conn.end(place.end).source.clone());
        let (Some(store), Some(source)) = (self.store_of(place), source) else { return Ok(()) };
        self.counts.refusals += refusals.writes.len() as u64;
        match store.check_refusals(source, refusals) {
            Ok(batch) => self.submit(place, batch, Work::TakeBack),
            Err(error) => self.report_failure(place, &error)?,
        }
        Ok(())
    }

    fn submit(&mut self, place: Place, batch: CheckedBatch, work: Work) {
        let Some(node) = self.node_of(place) else { return };
        let delay = self.rng.below(2 * WORK_MS);
        let Some(waits) = self.nodes.get_mut(node) else { return };
        waits.queue.push_back(Waiting { place, batch, work });
        if waits.queue.len() == 1 {
            self.schedule(delay, Event::Flush(node));
        }
    }

    /// Applies some of what waits at a node, in one commit.
    pub(crate) fn on_flush(&mut self, index: usize) -> Result<(), Failure> {
        let all = self.rng.chance(60);
        let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
        let Some(store) = node.store.clone() else { return Ok(()) };
        if node.queue.is_empty() {
            return Ok(());
        }
        let count = if all { node.queue.len() } else { 1 + self.rng.index(node.queue.len()) };
        let group: Vec<Waiting> = node.queue.drain(..count).collect();
        if !node.queue.is_empty() {
            let delay = self.rng.below(WORK_MS);
            self.schedule(delay, Event::Flush(index));
        }
        let mut places = Vec::new();
        let mut batches = Vec::new();
        for Waiting { place, batch, work } in group {
            places.push((place, work));
            batches.push(batch);
        }
        let before = store.head();
        match store.apply(&batches) {
            Ok(applied) => {
                self.mark(&[2, index as u64, applied.changed, applied.conflicts, store.head()]);
                let (count, head) = (places.len(), store.head());
                self.note(|| format!("node {index} applies {count} batches: {applied:?}, head {head}"));
                places.into_iter().for_each(|(place, work)| self.report_applied(place, work, applied));
            }
            // One bad batch must not take the others down with it.
            Err(_) => places.into_iter().zip(&batches).try_for_each(|((place, work), batch)| {
                match store.apply(std::slice::from_ref(batch)) {
                    Ok(applied) => self.report_applied(place, work, applied),
                    Err(error) => self.report_failure(place, &error)?,
                }
                Ok::<(), Failure>(())
            })?,
        }
        self.counts.applies += 1;
        if store.head() != before {
            self.after_commit(index)?;
            check::leak::on_applied(self, index)?;
        }
        if self.config.views || self.config.small_batches {
            Ok(())
        } else {
            check::atomicity::check(self, index)
        }
    }

    fn report_applied(&mut self, place: Place, work: Work, applied: Applied) {
        match work {
            Work::Changes => {
                let end = self.conns.get(&place.conn).map(|conn| conn.end(place.end));
                let judged = end.is_some_and(|end| {
                    end.gate.is_some() || end.source.as_ref().is_some_and(blazedb_store::Source::is_child)
                });
                if judged && applied.refused > 0 {
                    self.report(place, Input::RefusalsDue);
                }
                self.report(place, Input::Applied(1));
            }
            Work::TakeBack => {
                // Batches that were read before hold what is taken back.
                let node = self.node_of(place).and_then(|node| self.nodes.get(node));
                node.and_then(|node| node.feeds.as_ref()).iter().for_each(|feeds| feeds.clear());
                self.report(place, Input::RefusalsTaken);
            }
            // What is not forgotten is told again in the next session.
            Work::Forget => {}
        }
    }

    /// Sends an answer of the applier; they don't overtake each other.
    fn report(&mut self, place: Place, input: Input) {
        let (now, delay) = (self.now(), self.rng.below(WORK_MS));
        let Some(index) = self.node_of(place) else { return };
        let Some(node) = self.nodes.get_mut(index) else { return };
        let at = node.last_report.max(now + delay);
        node.last_report = at;
        self.schedule_at(at, Event::Answer(place, input));
    }

    fn report_failure(&mut self, place: Place, error: &StoreError) -> Result<(), Failure> {
        let code = match error {
            StoreError::Drift(_) => CloseCode::ClockDrift,
            // The keyring is on its way to it.
            StoreError::NotSealed(_) => CloseCode::GoingAway,
            StoreError::Interrupted => CloseCode::Internal,
            _ => return Err(Failure::new("wire", format!("{place:?}: {error}"))),
        };
        self.report(place, Input::ApplyFailed(code, error.to_string()));
        Ok(())
    }
}
