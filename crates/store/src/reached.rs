//! Which cells a reader of the feed is known to have when it stands at a sequence.
//!
//! A record moves to the end of the feed with every change. So a reader that took the feed in several batches
//! may have passed the place where a cell was written without having seen the cell: the record had moved on to
//! a place that the reader has not reached yet. Only a reader that came to the end of the feed has every cell
//! up to there. This table remembers, for the places where readers stopped, up to which sequence every reader
//! that stopped there has all cells; what is not in it is 0, and 0 is always right: records are then sent whole.
//!
//! A batch that was read for one reader may be handed to another who stands at the same place. What the other has, it may
//! have read later: a record that the first one had before then may have moved behind the batch since, and is in
//! nothing that the other gets. So the table also remembers how late it was when what readers have was read.
//!
//! Invariants: an entry's place never rises and its time never falls, and both are true for every reader that stands
//! there. A batch that stops before the end looks for a place where the entry is not higher than what its reader has;
//! where there is none near, the entry falls, and batches made for its readers before are no longer for everybody who
//! stands there. Places of an earlier run of the process are not in the table, and can't be mistaken for places of this
//! one: the end of the feed was behind them already.

use std::collections::BTreeMap;

use blazedb_core::feed::{FeedBatch, Seq};

/// Places that are remembered; the lowest are forgotten first.
const MAX_PLACES: usize = 4_096;

/// What is true for every reader that stands at a place.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// It has every cell up to here.
    complete: Seq,
    /// Where the feed ended, at the latest, when something was read of which it does not have every cell up to the place.
    read_at: Seq,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    entries: BTreeMap<Seq, Entry>,
    /// Up to here everything is forgotten.
    forgotten: Seq,
}

impl Reached {
    fn at(&self, place: Seq) -> Entry {
        let unknown = || {
            // Elsewhere, whoever stands there had come there before anything was read.
            let read_at = if place <= self.forgotten { Seq::MAX } else { 0 };
            Entry { complete: 0, read_at }
        };
        self.entries.get(&place).copied().unwrap_or_else(unknown)
    }

    /// How late it was when readers that stand at `place` read what is not complete up to there.
    fn read_at(&self, place: Seq) -> Seq {
        let Entry { complete, read_at } = self.at(place);
        if complete >= place { 0 } else { read_at }
    }

    /// A reader that stands at `place` has every cell up to the answer.
    pub(crate) fn complete_at(&self, place: Seq) -> Seq {
        self.at(place).complete
    }

    /// Whether a reader that has every cell up to `complete` can stop at `place`, before the end of the feed,
    /// without making more work for others.
    pub(crate) fn may_stop(&self, place: Seq, complete: Seq) -> bool {
        self.entries.get(&place).is_none_or(|entry| entry.complete <= complete)
    }

    /// A reader has read a batch, made for those who stand where it begins.
    pub(crate) fn read(&mut self, batch: &FeedBatch) {
        if batch.is_to_the_end() {
            self.stopped(batch.upto, Entry { complete: batch.upto, read_at: 0 });
        } else {
            self.stopped(batch.upto, Entry { complete: batch.known, read_at: batch.snapshot });
        }
    }

    /// A reader goes from `after` to `place`, where the feed may end, without reading: it has what lies between.
    pub(crate) fn passed(&mut self, after: Seq, place: Seq, at_end: bool) {
        // At the end of the feed it has everything: what was before, and what it passed.
        let complete = if at_end { place } else { self.complete_at(after) };
        self.stopped(place, Entry { complete, read_at: self.read_at(after) });
    }

    /// A reader that stands where a batch begins, which was read for another, may take it. Answers false if it may have
    /// something else than those for whom it was read.
    pub(crate) fn share(&mut self, batch: &FeedBatch) -> bool {
        let read_at = self.read_at(batch.after);
        if batch.known > self.complete_at(batch.after) {
            return false;
        }
        if batch.is_to_the_end() {
            return read_at <= batch.snapshot;
        }
        self.stopped(batch.upto, Entry { complete: batch.known, read_at });
        true
    }

    fn stopped(&mut self, place: Seq, Entry { complete, read_at }: Entry) {
        if place <= self.forgotten {
            return;
        }
        let entry = self.entries.entry(place).or_insert(Entry { complete, read_at });
        entry.complete = entry.complete.min(complete);
        entry.read_at = entry.read_at.max(read_at);
        if self.entries.len() > MAX_PLACES
            && let Some((lowest, _)) = self.entries.pop_first()
        {
            self.forgotten = lowest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(after: Seq, upto: Seq, known: Seq, snapshot: Seq) -> FeedBatch {
        let mut batch = FeedBatch::empty(after, upto);
        (batch.known, batch.snapshot) = (known, snapshot);
        batch
    }

    #[test]
    fn an_entry_never_rises_and_what_is_forgotten_stays_so() {
        let mut reached = Reached::default();
        reached.read(&batch(3, 5, 3, 6));
        reached.read(&batch(3, 5, 3, 5));
        assert_eq!(reached.complete_at(5), 3);
        assert_eq!(reached.complete_at(6), 0);
        assert!(reached.may_stop(5, 3) && !reached.may_stop(5, 2) && reached.may_stop(6, 0));
        for place in 0..2 * MAX_PLACES as u64 {
            reached.read(&batch(1, 10 + place, 1, Seq::MAX));
        }
        reached.read(&batch(3, 5, 3, 5));
        assert_eq!(reached.complete_at(5), 0);
        assert!(!reached.share(&batch(5, 9, 0, 9)), "nobody knows what they have read");
        assert!(reached.entries.len() <= MAX_PLACES);
    }

    #[test]
    fn a_batch_to_the_end_is_for_those_who_read_what_was_before_earlier() {
        let mut reached = Reached::default();
        reached.read(&batch(0, 5, 0, 9));
        let rest = batch(5, 9, 0, 9);
        reached.read(&rest);
        assert!(reached.share(&rest));
        assert_eq!(reached.complete_at(9), 9);
        // Somebody reads the same stretch later, when a record has gone from it to the end of the feed.
        reached.read(&batch(0, 5, 0, 10));
        assert!(!reached.share(&rest));
        // A batch in between is for all, and carries with it how late it was.
        assert!(reached.share(&batch(5, 7, 0, 9)) && !reached.share(&batch(7, 9, 0, 9)));
        // Whoever had come to the end has everything, whenever that was.
        assert!(reached.share(&batch(9, 10, 9, 10)));
    }
}
