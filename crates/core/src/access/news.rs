//! Whose writes an incoming state brings that were not known before.
//!
//! Only what changes the known state is looked at: a write that is known already is no news, whoever brings it. Every
//! other one says by its stamp who made it, and a peer that may not relay may bring its own only. What a write claims
//! to have seen (the stamps that it replaced, a deletion's `seen`) is no write: it tells conflicts from successions,
//! and changes nothing that a record shows.

use std::collections::BTreeMap;

use crate::blazebinary::FieldNo;
use crate::cell::{Cell, Content, Counter, Set};
use crate::id::ReplicaId;
use crate::merge::{Life, RecordState};
use crate::seal::{Sealed, SealedMergeable};
use crate::stamp::{Hlc, Stamp};

/// The replicas whose writes made `after` out of `before` when `incoming` was merged into it, but for those that are
/// known in another form. May name one more than once.
#[must_use]
pub fn writers(
    before: &RecordState,
    incoming: &RecordState,
    after: &RecordState,
    is_known: impl Fn(FieldNo, &Cell) -> bool,
) -> Vec<ReplicaId> {
    let mut writers = Vec::new();
    life(&before.life, &after.life, &mut writers);
    for (field, now) in &after.cells {
        let known = before.cell(*field);
        let same = known.is_some_and(|known| is_same(known, now));
        if let Some(theirs) = incoming.cell(*field).filter(|theirs| !same && !is_known(*field, theirs)) {
            cell(known, theirs, &mut writers);
        }
    }
    writers
}

/// Whether two cells are the same but for the place in the feed.
#[must_use]
pub fn is_same(one: &Cell, other: &Cell) -> bool {
    one.stamp == other.stamp && one.replaced == other.replaced && one.content == other.content
}

/// Whether two states are the same but for places in the feed.
#[must_use]
pub fn is_same_state(one: &RecordState, other: &RecordState) -> bool {
    let same_cells =
        || one.cells.iter().zip(&other.cells).all(|((a, one), (b, other))| a == b && is_same(one, other));
    one.life == other.life && one.cells.len() == other.cells.len() && same_cells()
}

fn life(before: &Life, after: &Life, writers: &mut Vec<ReplicaId>) {
    let stamps = |life: &Life| [life.born, life.dead.map(|dead| dead.stamp), life.after];
    let (before, after) = (stamps(before), stamps(after));
    let new = after.into_iter().flatten().filter(|stamp| !before.contains(&Some(*stamp)));
    writers.extend(new.map(|stamp| stamp.writer));
}

fn cell(known: Option<&Cell>, theirs: &Cell, writers: &mut Vec<ReplicaId>) {
    let seen = |stamp: Stamp| known.is_some_and(|known| known.has_seen(stamp));
    let base = match &theirs.content {
        Content::Absent | Content::Register(_) | Content::Sealed(Sealed::Write { .. }) => None,
        Content::Sealed(Sealed::Mergeable(theirs)) => {
            let same = known.and_then(|known| match &known.content {
                Content::Sealed(Sealed::Mergeable(known)) if known.base == theirs.base => Some(known),
                _ => None,
            });
            let known = same.map(SealedMergeable::seen).unwrap_or_default();
            let seen = theirs.seen();
            let new = seen.iter().filter(|(writer, time)| known.get(*writer).is_none_or(|k| k < *time));
            writers.extend(new.map(|(writer, _)| *writer));
            theirs.base.filter(|_| same.is_none())
        }
        Content::Counter(counter) => {
            let same = known.and_then(|known| match &known.content {
                Content::Counter(known) if known.base == counter.base => Some(known),
                _ => None,
            });
            tallies(same, counter, writers);
            counter.base.filter(|_| same.is_none())
        }
        Content::Set(set) => {
            let same = known.and_then(|known| match &known.content {
                Content::Set(known) if known.base == set.base => Some(known),
                _ => None,
            });
            additions(same, set, writers);
            set.base.filter(|_| same.is_none())
        }
    };
    let stamps = [Some(theirs.stamp), base].into_iter().flatten();
    writers.extend(stamps.filter(|stamp| !seen(*stamp)).map(|stamp| stamp.writer));
}

fn tallies(known: Option<&Counter>, counter: &Counter, writers: &mut Vec<ReplicaId>) {
    for (writer, (up, down)) in &counter.tallies {
        let tally = known.and_then(|known| known.tallies.get(writer)).copied().unwrap_or_default();
        if *up > tally.0 || *down > tally.1 {
            writers.push(*writer);
        }
    }
}

fn additions(known: Option<&Set>, set: &Set, writers: &mut Vec<ReplicaId>) {
    let nobody = BTreeMap::new();
    let known = known.map_or(&nobody, |known| &known.seen);
    let new = |(writer, time): &(&ReplicaId, &Hlc)| known.get(*writer).is_none_or(|seen| seen < *time);
    let dots = set.elements.values().flat_map(BTreeMap::iter);
    writers.extend(dots.chain(&set.seen).filter(new).map(|(writer, _)| *writer));
}
