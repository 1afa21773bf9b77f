//! Which cells a reader of the feed is known to have when it stands at a sequence.
//!
//! A record moves to the end of the feed with every change. So a reader that took the feed in several batches
//! may have passed the place where a cell was written without having seen the cell: the record had moved on to
//! a place that the reader has not reached yet. Only a reader that came to the end of the feed has every cell
//! up to there. This table remembers, for the places where readers stopped, up to which sequence every reader
//! that stopped there has all cells; what is not in it is 0, and 0 is always right: records are then sent whole.
//!
//! Invariants: an entry never rises, and it is true for every reader that stands there. A batch that stops
//! before the end avoids places where the entry is higher than what its reader has, because stopping there lowers
//! it and more is then sent to the others; but no batch grows beyond twice its size for that. Places of an
//! earlier run of the process are not in the table, and can't be mistaken for places of this one: the end of
//! the feed was behind them already.

use std::collections::BTreeMap;

use blazedb_core::feed::Seq;

/// Places that are remembered; the lowest are forgotten first.
const MAX_PLACES: usize = 4_096;

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    complete: BTreeMap<Seq, Seq>,
    /// Up to here everything is forgotten.
    forgotten: Seq,
}

impl Reached {
    /// A reader that stands at `place` has every cell up to the answer.
    pub(crate) fn complete_at(&self, place: Seq) -> Seq {
        self.complete.get(&place).copied().unwrap_or(0)
    }

    /// Whether a reader that has every cell up to `complete` stops at `place`, before the end of the feed, without
    /// costing others anything.
    pub(crate) fn may_stop(&self, place: Seq, complete: Seq) -> bool {
        self.complete.get(&place).is_none_or(|known| *known <= complete)
    }

    /// A reader that has every cell up to `complete` stopped at `place`.
    pub(crate) fn stopped(&mut self, place: Seq, complete: Seq) {
        if place <= self.forgotten {
            return;
        }
        let known = self.complete.entry(place).or_insert(complete);
        *known = complete.min(*known);
        if self.complete.len() > MAX_PLACES
            && let Some((lowest, _)) = self.complete.pop_first()
        {
            self.forgotten = lowest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_never_rises_and_what_is_forgotten_stays_so() {
        let mut reached = Reached::default();
        reached.stopped(5, 3);
        reached.stopped(5, 5);
        assert_eq!(reached.complete_at(5), 3);
        assert_eq!(reached.complete_at(6), 0);
        assert!(reached.may_stop(5, 3) && !reached.may_stop(5, 2) && reached.may_stop(6, 0));
        for place in 0..2 * MAX_PLACES as u64 {
            reached.stopped(10 + place, 1);
        }
        reached.stopped(5, 5);
        assert_eq!(reached.complete_at(5), 0);
        assert!(reached.complete.len() <= MAX_PLACES);
    }
}
