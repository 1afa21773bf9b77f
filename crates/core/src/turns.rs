//! Who of several links goes first: the one with the higher priority, while it has something to do.
//!
//! A link asks for a turn before it reads what it is going to send, and before it takes in what has come. It waits while a
//! link of a higher priority is busy. Time is an argument, in milliseconds of any clock that does not run backwards.
//!
//! Invariants: a link never waits for one of its own priority or of a lower one; nor for one that has got nowhere for as long as
//! a patience; and once in every patience it gets a turn whatever others do. So a peer that is slow, away or busy for ever
//! holds nobody up for good.

use std::collections::BTreeMap;

/// The priority of a link that was given none.
pub const DEFAULT_PRIORITY: i8 = 0;

/// A link among others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lane(u64);

/// What a link has to do, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Something is still to be sent or taken in.
    pub busy: bool,
    /// Numbers that change when it gets on.
    pub place: (u64, u64, u64),
}

#[derive(Debug)]
struct Entry {
    priority: i8,
    progress: Progress,
    moved_ms: u64,
    /// Since when it waits for a turn.
    waiting_ms: Option<u64>,
}

/// The links of one node, and whose turn it is.
#[derive(Debug)]
pub struct Turns {
    patience_ms: u64,
    next: u64,
    entries: BTreeMap<Lane, Entry>,
}

impl Turns {
    /// No links yet.
    #[must_use]
    pub const fn new(patience_ms: u64) -> Self {
        Self { patience_ms, next: 0, entries: BTreeMap::new() }
    }

    /// A link that has nothing to do yet.
    pub fn enter(&mut self, priority: i8, now_ms: u64) -> Lane {
        self.next += 1;
        let lane = Lane(self.next);
        let progress = Progress::default();
        self.entries.insert(lane, Entry { priority, progress, moved_ms: now_ms, waiting_ms: None });
        lane
    }

    /// The link is gone.
    pub fn leave(&mut self, lane: Lane) {
        self.entries.remove(&lane);
    }

    /// The link has another priority from now on.
    pub fn set_priority(&mut self, lane: Lane, priority: i8) {
        if let Some(entry) = self.entries.get_mut(&lane) {
            entry.priority = priority;
        }
    }

    /// The link is about to have something to do: it is being opened.
    pub fn begin(&mut self, lane: Lane, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(&lane) {
            entry.progress.busy = true;
            entry.moved_ms = now_ms;
        }
    }

    /// The link has come this far. Answers whether others that wait may have a turn for it.
    pub fn note(&mut self, lane: Lane, progress: Progress, now_ms: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&lane) else { return false };
        if entry.progress.place != progress.place || !entry.progress.busy {
            entry.moved_ms = now_ms;
        }
        let done = entry.progress.busy && !progress.busy;
        entry.progress = progress;
        done
    }

    /// Whether there are links of different priorities.
    #[must_use]
    pub fn is_uneven(&self) -> bool {
        let mut priorities = self.entries.values().map(|entry| entry.priority);
        let first = priorities.next();
        priorities.any(|other| Some(other) != first)
    }

    /// Asks for a turn: the link goes on with what waits, or asks again at the time that is answered, or when others may go.
    ///
    /// # Errors
    /// When to ask again.
    pub fn ask(&mut self, lane: Lane, now_ms: u64) -> Result<(), u64> {
        let Some(own) = self.entries.get(&lane) else { return Ok(()) };
        let ahead =
            self.entries.values().filter(|other| other.priority > own.priority && other.progress.busy);
        let patience_ends = |since: u64| since.saturating_add(self.patience_ms);
        let longest = ahead.map(|other| patience_ends(other.moved_ms)).max().filter(|until| *until > now_ms);
        let turn = patience_ends(own.waiting_ms.unwrap_or(now_ms));
        let waits = longest.map(|until| until.min(turn)).filter(|until| *until > now_ms);
        if let Some(entry) = self.entries.get_mut(&lane) {
            entry.waiting_ms = waits.map(|_| entry.waiting_ms.unwrap_or(now_ms));
        }
        waits.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: u64 = 1_000;

    fn busy(place: u64) -> Progress {
        Progress { busy: true, place: (place, 0, 0) }
    }

    #[test]
    fn the_lower_one_waits_until_the_higher_one_is_done() {
        let mut turns = Turns::new(PATIENCE);
        let (low, high) = (turns.enter(0, 0), turns.enter(5, 0));
        assert_eq!(turns.ask(low, 0), Ok(()), "nobody else has anything to do");
        assert!(!turns.note(high, busy(1), 10));
        assert_eq!((turns.ask(high, 10), turns.ask(low, 10)), (Ok(()), Err(1_010)));
        assert!(turns.note(high, Progress::default(), 500), "others may go now");
        assert_eq!(turns.ask(low, 500), Ok(()));
    }

    #[test]
    fn equals_do_not_wait_for_each_other() {
        let mut turns = Turns::new(PATIENCE);
        let lanes = [turns.enter(3, 0), turns.enter(3, 0)];
        assert!(!turns.is_uneven());
        assert_eq!(lanes.map(|lane| turns.note(lane, busy(1), 0)), [false; 2]);
        assert_eq!(lanes.map(|lane| turns.ask(lane, 0)), [Ok(()), Ok(())]);
        turns.set_priority(lanes[0], -1);
        assert!(turns.is_uneven());
        assert_eq!(lanes.map(|lane| turns.ask(lane, 0)), [Err(PATIENCE), Ok(())]);
    }

    #[test]
    fn who_waits_gets_a_turn_in_every_patience_though_the_higher_one_never_ends() {
        let mut turns = Turns::new(PATIENCE);
        let (low, high) = (turns.enter(0, 0), turns.enter(1, 0));
        let mut granted = 0;
        for now in (0..10_000).step_by(10) {
            turns.note(high, busy(now + 1), now);
            granted += u64::from(turns.ask(low, now).is_ok());
        }
        assert_eq!(granted, 9, "one in a second, and none at once");
    }

    #[test]
    fn who_gets_nowhere_holds_nobody_up() {
        let mut turns = Turns::new(PATIENCE);
        let (low, high) = (turns.enter(0, 0), turns.enter(1, 0));
        turns.begin(high, 0);
        assert_eq!(turns.ask(low, 0), Err(1_000), "while it is being opened");
        turns.note(high, busy(7), 600);
        turns.note(high, busy(7), 900);
        assert_eq!(turns.ask(low, 1_000), Ok(()), "its turn");
        assert_eq!(turns.ask(low, 1_001), Err(1_600), "then it waits again");
        assert_eq!(turns.ask(low, 1_600), Ok(()), "the other one has not moved for a patience");
        assert_eq!(turns.ask(low, 1_601), Ok(()), "nor does it now");
        turns.note(high, busy(8), 1_700);
        assert_eq!(turns.ask(low, 1_701), Err(2_700));
        turns.leave(high);
        assert_eq!(turns.ask(low, 1_702), Ok(()));
    }
}
