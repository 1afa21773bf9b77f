//! Who brought the last stretches of the feed, in memory.
//!
//! What a peer brought is not sent back to it. While it brings much, its session would read and encode everything
//! only to leave it out again; this table lets it pass over such a stretch without looking at the file.
//!
//! Invariants: a stretch is whole transactions, and every entry in it came from its peer. An entry only ever
//! leaves its place for the end of the feed, so this stays true; what is not in the table is just read.

use std::collections::VecDeque;

use blazedb_core::feed::{PeerNo, Seq};

/// Stretches that are remembered; the oldest are forgotten first.
const MAX_STRETCHES: usize = 64;

/// A part of the feed that one peer brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) peer: PeerNo,
}

/// The table, in the order of the feed.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    stretches: VecDeque<Stretch>,
}

impl Brought {
    /// Takes note of a stretch that was committed. Stretches come in the order of the feed.
    pub(crate) fn add(&mut self, stretch: Stretch) {
        if let Some(newest) = self.stretches.back_mut()
            && newest.peer == stretch.peer
            && newest.last + 1 == stretch.first
        {
            newest.last = stretch.last;
            return;
        }
        if self.stretches.len() >= MAX_STRETCHES {
            self.stretches.pop_front();
        }
        self.stretches.push_back(stretch);
    }

    /// Where `peer` may go on reading if it stands at `after`: behind what it brought itself.
    pub(crate) fn behind(&self, after: Seq, peer: PeerNo) -> Seq {
        let own =
            |stretch: &&Stretch| stretch.peer == peer && stretch.first <= after + 1 && after < stretch.last;
        self.stretches.iter().rev().find(own).map_or(after, |stretch| stretch.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_peer_brought_without_a_gap_is_passed_over() {
        let mut brought = Brought::default();
        for (first, last, peer) in [(5, 9, 1), (10, 12, 1), (13, 13, 2), (15, 20, 1)] {
            brought.add(Stretch { first, last, peer });
        }
        let behind = |after, peer| brought.behind(after, peer);
        assert_eq!((behind(3, 1), behind(4, 1), behind(8, 1), behind(12, 1)), (3, 12, 12, 12));
        assert_eq!((behind(12, 2), behind(13, 1), behind(14, 1), behind(20, 1)), (13, 13, 20, 20));
        assert_eq!((behind(4, 2), behind(4, 0)), (4, 4));
    }

    #[test]
    fn the_oldest_stretches_are_forgotten() {
        let mut brought = Brought::default();
        for n in 1..=2 * MAX_STRETCHES as u64 {
            brought.add(Stretch { first: n, last: n, peer: (n % 2) as u32 + 1 });
        }
        assert_eq!(brought.stretches.len(), MAX_STRETCHES);
        assert_eq!(brought.behind(0, 2), 0);
    }
}
