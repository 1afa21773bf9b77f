//! One field of one record, with what merging needs.
//!
//! Invariants (laws tested beside [`merge`](crate::merge)): [`Cell::join`] is commutative, associative and idempotent; a register keeps
//! the content of the highest stamp; a counter keeps every replica's tally; in a set an element that one side
//! added survives a removal on the other side that had not seen that addition (add-wins).
//!
//! Sources: Shapiro, Preguiça, Baquero, Zawirski, *A comprehensive study of CRDTs* (2011) for the register and
//! the PN counter; Bieniusa and others, *An optimized conflict-free replicated set* (2012) for the set.

use std::collections::BTreeMap;

use crate::blazebinary::OwnedValue;
use crate::id::ReplicaId;
use crate::limits::MAX_REPLACED;
use crate::seal::Sealed;
use crate::stamp::{Hlc, Stamp};

/// A field's content together with its history.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// The last write.
    pub stamp: Stamp,
    /// What that write replaced: the newest stamp of every other writer it had seen, newest first.
    pub replaced: Vec<Stamp>,
    /// Local feed sequence at which this replica took the content in. No part of the merged state.
    pub seq: u64,
    /// What the field holds.
    pub content: Content,
}

/// What a cell holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// The field was removed.
    Absent,
    /// A last-writer-wins value.
    Register(OwnedValue),
    /// A PN counter.
    Counter(Counter),
    /// An add-wins set.
    Set(Set),
    /// Any of these, sealed with a key that this replica may not have.
    Sealed(Sealed),
}

impl Content {
    /// Whether two contents of cells of one stamp say the same, as far as that can be told without keys.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sealed(mine), Self::Sealed(theirs)) => mine.agrees(theirs),
            (Self::Sealed(Sealed::Write { .. }), Self::Absent | Self::Register(_))
            | (Self::Absent | Self::Register(_), Self::Sealed(Sealed::Write { .. })) => true,
            _ => self == other,
        }
    }

    /// Whether the field is known to have no value.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent | Self::Sealed(Sealed::Write { absent: true, .. }))
    }
}

/// A PN counter: how much each replica has added and taken away.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// The assignment that this counter started from; `None` if it started by being counted.
    pub base: Option<Stamp>,
    /// Added and subtracted amounts by replica. Both only grow.
    pub tallies: BTreeMap<ReplicaId, (u64, u64)>,
    /// The newest operation seen of each replica: what the tallies come from.
    pub seen: BTreeMap<ReplicaId, Hlc>,
}

/// An add-wins set (optimised OR-set): which additions of an element are alive, and which were ever seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Set {
    /// The assignment that this set started from; `None` if it started by an addition.
    pub base: Option<Stamp>,
    /// Live additions by element (in its encoding): the newest one of each replica.
    pub elements: BTreeMap<OwnedValue, BTreeMap<ReplicaId, Hlc>>,
    /// The newest operation seen of each replica.
    pub seen: BTreeMap<ReplicaId, Hlc>,
}

impl Counter {
    /// A counter that was assigned `value` by the write `stamp`.
    #[must_use]
    pub fn assigned(value: i64, stamp: Stamp) -> Self {
        let mut counter = Self { base: Some(stamp), ..Self::default() };
        counter.add(stamp, value);
        counter
    }

    /// Adds `amount`, as the operation `stamp`.
    pub fn add(&mut self, stamp: Stamp, amount: i64) {
        let (up, down) = self.tallies.entry(stamp.writer).or_default();
        let side = if amount >= 0 { up } else { down };
        *side = side.saturating_add(amount.unsigned_abs());
        raise(&mut self.seen, stamp.writer, stamp.time);
    }

    /// The visible sum, saturating at the ends of `i64`.
    #[must_use]
    pub fn value(&self) -> i64 {
        let sum: i128 = self.tallies.values().map(|(up, down)| i128::from(*up) - i128::from(*down)).sum();
        i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
    }

    fn join(&mut self, other: &Self) {
        for (writer, (up, down)) in &other.tallies {
            let mine = self.tallies.entry(*writer).or_default();
            mine.0 = mine.0.max(*up);
            mine.1 = mine.1.max(*down);
        }
        other.seen.iter().for_each(|(writer, time)| raise(&mut self.seen, *writer, *time));
    }
}

impl Set {
    /// A set that was assigned `elements` by the write `stamp`.
    #[must_use]
    pub fn assigned(elements: impl IntoIterator<Item = OwnedValue>, stamp: Stamp) -> Self {
        let mut set = Self { base: Some(stamp), ..Self::default() };
        set.edit(elements, [], stamp);
        set
    }

    /// Removes and then adds elements, as one operation with the stamp `stamp`.
    pub fn edit(
        &mut self,
        add: impl IntoIterator<Item = OwnedValue>,
        remove: impl IntoIterator<Item = OwnedValue>,
        stamp: Stamp,
    ) {
        for element in remove {
            self.elements.remove(&element);
        }
        for element in add {
            self.elements.insert(element, BTreeMap::from([(stamp.writer, stamp.time)]));
        }
        raise(&mut self.seen, stamp.writer, stamp.time);
    }

    fn has_seen(&self, writer: &ReplicaId, time: Hlc) -> bool {
        self.seen.get(writer).is_some_and(|seen| *seen >= time)
    }

    fn join(&mut self, other: &Self) {
        // An addition survives if both sides hold it, or if the side that lacks it has not seen it.
        let mut joined = BTreeMap::new();
        let empty = BTreeMap::new();
        for element in self.elements.keys().chain(other.elements.keys()) {
            if joined.contains_key(element) {
                continue;
            }
            let mine = self.elements.get(element).unwrap_or(&empty);
            let theirs = other.elements.get(element).unwrap_or(&empty);
            let mut dots: BTreeMap<ReplicaId, Hlc> = BTreeMap::new();
            let mut keep = |writer: &ReplicaId, time: Hlc| {
                let newest = dots.entry(*writer).or_default();
                *newest = time.max(*newest);
            };
            for (writer, time) in mine {
                if theirs.get(writer) == Some(time) || !other.has_seen(writer, *time) {
                    keep(writer, *time);
                }
            }
            for (writer, time) in theirs {
                if mine.get(writer) == Some(time) || !self.has_seen(writer, *time) {
                    keep(writer, *time);
                }
            }
            if !dots.is_empty() {
                joined.insert(element.clone(), dots);
            }
        }
        self.elements = joined;
        other.seen.iter().for_each(|(writer, time)| raise(&mut self.seen, *writer, *time));
    }
}

fn raise(seen: &mut BTreeMap<ReplicaId, Hlc>, writer: ReplicaId, time: Hlc) {
    let newest = seen.entry(writer).or_default();
    *newest = time.max(*newest);
}

/// What a join did to the local cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joined {
    /// Nothing: the local cell already held all of it.
    Kept,
    /// The local cell is now the incoming one.
    Adopted,
    /// The local cell is now something that neither side had.
    Mixed,
}

impl Cell {
    /// A cell written by `stamp` over `old`.
    #[must_use]
    pub fn write(stamp: Stamp, old: Option<&Self>, content: Content, seq: u64) -> Self {
        let replaced = old.map_or_else(Vec::new, |old| replaced_by(stamp, old));
        Self { stamp, replaced, seq, content }
    }

    /// Whether the write `stamp` went into this cell: it is this write, or an earlier one that this one saw.
    ///
    /// Exact as long as a cell is written by no more than [`MAX_REPLACED`] other writers at once; beyond that
    /// the oldest count as seen.
    #[must_use]
    pub fn has_seen(&self, stamp: Stamp) -> bool {
        if self.stamp.writer == stamp.writer {
            return self.stamp >= stamp;
        }
        if let Some(seen) = self.replaced.iter().find(|r| r.writer == stamp.writer) {
            return *seen >= stamp;
        }
        self.replaced.len() >= MAX_REPLACED && self.replaced.last().is_some_and(|oldest| *oldest > stamp)
    }

    /// Whether the cell outlasts the rise of its incarnation's floor: its content began at or above it.
    #[must_use]
    pub fn survives(&self, floor: Stamp) -> bool {
        self.rank().0 >= Some(floor)
    }

    /// Which of two cells replaces the other as a whole; equal if their contents are joined.
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }

    /// Where the content stands in the order of whole replacements.
    fn rank(&self) -> (Option<Stamp>, u8) {
        match &self.content {
            Content::Counter(counter) => (counter.base, 1),
            Content::Set(set) => (set.base, 2),
            Content::Absent | Content::Register(_) => (Some(self.stamp), 0),
            Content::Sealed(sealed) => sealed.rank(self.stamp),
        }
    }

    /// Takes in what `other` knows. The local sequence stays.
    pub fn join(&mut self, other: &Self) -> Joined {
        use std::cmp::Ordering;
        match other.rank().cmp(&self.rank()) {
            Ordering::Less => Joined::Kept,
            Ordering::Greater => {
                let seq = self.seq;
                *self = Self { seq, ..other.clone() };
                Joined::Adopted
            }
            Ordering::Equal => self.join_same_base(other),
        }
    }

    fn join_same_base(&mut self, other: &Self) -> Joined {
        let before = self.clone();
        match (&mut self.content, &other.content) {
            (Content::Counter(mine), Content::Counter(theirs)) => mine.join(theirs),
            (Content::Set(mine), Content::Set(theirs)) => mine.join(theirs),
            (Content::Sealed(mine), Content::Sealed(theirs)) => {
                let better = mine.join(theirs);
                if matches!(mine, Sealed::Write { .. }) {
                    return self.adopt_form(better.then_some(other));
                }
            }
            // Whoever seals a field has it sealed everywhere.
            (_, Content::Sealed(Sealed::Write { .. })) => return self.adopt_form(Some(other)),
            (mine, Content::Sealed(_)) => *mine = other.content.clone(),
            // One stamp is one write: the contents are the same.
            _ => return Joined::Kept,
        }
        // Both last writes are in the result: the one that is not its stamp is one of those it has seen.
        let known = [before.stamp, other.stamp].into_iter().chain(before.replaced.iter().copied());
        let known = known.chain(other.replaced.iter().copied());
        self.stamp = self.stamp.max(other.stamp);
        self.replaced = newest_per_writer(known.filter(|stamp| stamp.writer != self.stamp.writer));
        if *self == before {
            Joined::Kept
        } else if self.content == other.content
            && self.stamp == other.stamp
            && self.replaced == other.replaced
        {
            Joined::Adopted
        } else {
            Joined::Mixed
        }
    }
}

impl Cell {
    /// Takes the other form of the same write, if there is one to take.
    fn adopt_form(&mut self, other: Option<&Self>) -> Joined {
        let Some(other) = other else { return Joined::Kept };
        self.replaced.clone_from(&other.replaced);
        self.content.clone_from(&other.content);
        Joined::Adopted
    }
}

fn replaced_by(stamp: Stamp, old: &Cell) -> Vec<Stamp> {
    let seen = old.replaced.iter().copied().chain([old.stamp]).filter(|r| r.writer != stamp.writer);
    newest_per_writer(seen)
}

fn newest_per_writer(stamps: impl Iterator<Item = Stamp>) -> Vec<Stamp> {
    newest_of_writers(stamps, MAX_REPLACED)
}

/// The newest stamp of each writer, newest first, and of these the `limit` newest.
pub(crate) fn newest_of_writers(stamps: impl Iterator<Item = Stamp>, limit: usize) -> Vec<Stamp> {
    let mut all: Vec<Stamp> = stamps.collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    let mut newest: Vec<Stamp> = Vec::with_capacity(all.len().min(limit));
    for stamp in all {
        if newest.len() < limit && newest.iter().all(|n| n.writer != stamp.writer) {
            newest.push(stamp);
        }
    }
    newest
}
