//! What an authority makes of the writes that come to it, and how its word becomes everybody's state.
//!
//! A child's write that has seen what the authority holds is taken as it is. One that has not is a [`Matter`] for a
//! rule, and the [`Ruling`] is made good by a **decision**: a write of the authority itself, with a stamp newer than
//! all that it decides about. From there on it is merged like any other write, so whoever hears of it, on whatever
//! path and in whatever order, ends with the same. Meaning: `docs/spec/authority.md`.
//!
//! Invariants: what is decided contains everything that was merged, so merging stays commutative, associative and
//! idempotent; a decision has not seen the write that it decides against, so that merging it tells the writer's
//! replica of the conflict; deciding again about what was decided changes nothing.

use std::cmp::Ordering;

use crate::access::news::{is_same, is_same_state};
use crate::blazebinary::{FieldNo, OwnedValue};
use crate::cell::{Cell, Content, Counter, Set, newest_of_writers};
use crate::limits::MAX_REPLACED;
use crate::merge::{ConflictKind, Displaced, Life, MergeReport, RecordState, Tombstone};
use crate::stamp::Stamp;
use crate::value::Value;

/// Whose word counts between two replicas, as one of them sees the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Standing {
    /// Neither decides about the other.
    #[default]
    Peer,
    /// This side decides about what the other one writes.
    Child,
    /// The other side decides about what is written here.
    Authority,
}

/// What the authority holds and what comes to it, where neither has seen the other.
#[derive(Clone, Copy, Debug)]
pub enum Matter<'a> {
    /// Two writes of one field.
    Field {
        /// The field.
        field: FieldNo,
        /// What the authority holds.
        held: &'a Cell,
        /// What came.
        came: &'a Cell,
    },
    /// The deletion (or the deletion and new insert) of a record that the authority holds later writes of.
    Deletion {
        /// What the authority holds.
        held: &'a RecordState,
        /// The deletion that came.
        deletion: Stamp,
    },
}

/// What a rule says about a [`Matter`].
#[derive(Clone, PartialEq, Debug)]
pub enum Ruling {
    /// What the authority holds stands.
    Held,
    /// What came takes its place.
    Came,
    /// This does. Of a deletion: what the authority holds stands.
    Value(Value),
    /// All of the record that came with it is refused, for this reason.
    Refuse(String),
}

/// What the authority holds after judging.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Judged {
    /// The record's state from now on.
    pub state: RecordState,
    /// Writes that lost.
    pub displaced: Vec<Displaced>,
    /// The state is not what merging made of it: it holds a decision, or not what came.
    pub decided: bool,
    /// What came is refused.
    pub refused: Option<Refused>,
}

/// Why what came is refused, and what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// In words, for the writer.
    pub reason: String,
    /// It was a deletion.
    pub deletion: bool,
}

/// What merging made of what the authority held and what came.
#[derive(Clone, Debug)]
pub struct Merged {
    /// What the authority held.
    pub before: RecordState,
    /// What came.
    pub came: RecordState,
    /// Both merged.
    pub after: RecordState,
    /// What that reported.
    pub report: MergeReport,
}

/// Judges what comes.
pub struct Judge<'a> {
    /// The place in the authority's feed.
    pub seq: u64,
    /// Gives the stamps of decisions: each newer than the one before, and than any that was merged.
    pub clock: &'a mut dyn FnMut() -> Stamp,
    /// Decides where neither side has seen the other.
    pub rule: &'a mut dyn FnMut(Matter<'_>) -> Ruling,
    /// Whether this write of the field is known to have lost: it is not decided about again.
    pub lost: &'a dyn Fn(FieldNo, Stamp) -> bool,
}

impl Judge<'_> {
    /// Judges what came of one record.
    pub fn judge(&mut self, merged: Merged) -> Judged {
        if let Some(deletion) = unseen_deletion(&merged) {
            let matter = Matter::Deletion { held: &merged.before, deletion };
            let reason = match (self.rule)(matter) {
                Ruling::Came => return accepted(merged),
                Ruling::Refuse(reason) => reason,
                Ruling::Held | Ruling::Value(_) => DELETION_OVERRULED.to_owned(),
            };
            return self.refuse(&merged, Refused { reason, deletion: true });
        }
        if is_outlived_deletion(&merged) {
            let refused = Refused { reason: DELETION_OUTLIVED.to_owned(), deletion: true };
            return Judged { refused: Some(refused), ..accepted(merged) };
        }
        let replaced = merged.came.life.after > merged.before.life.after;
        if replaced || !merged.before.life.is_alive() || !merged.after.life.is_alive() {
            return accepted(merged);
        }
        self.judge_fields(&merged)
    }

    fn refuse(&mut self, merged: &Merged, refused: Refused) -> Judged {
        let state = overrule(&merged.before, &merged.after, self.seq, self.clock);
        Judged { state, displaced: Vec::new(), decided: true, refused: Some(refused) }
    }

    fn judge_fields(&mut self, merged: &Merged) -> Judged {
        let mut judged = Judged { state: merged.after.clone(), ..Judged::default() };
        judged.displaced.clone_from(&merged.report.displaced);
        // What was written to an earlier incarnation gives way, as merging has it, and is told of here.
        let current = merged.came.life.after == merged.before.life.after;
        let floor = merged.after.life.floor().filter(|_| current);
        for (field, came) in &merged.came.cells {
            let Some(held) = merged.before.cell(*field).filter(|held| is_matter(held, came)) else {
                continue;
            };
            let wins = current && came.order(held) == Ordering::Greater;
            if floor.is_some_and(|floor| !came.survives(floor)) || !wins && (self.lost)(*field, came.stamp) {
                continue;
            }
            let ruling = if current { self.ruling(*field, held, came, wins) } else { Ruling::Held };
            let (cell, lost) = match ruling {
                Ruling::Refuse(reason) => return self.refuse(merged, Refused { reason, deletion: false }),
                Ruling::Held if wins => (Some(self.decision(&held.content, &[held])), Some(came)),
                Ruling::Held => (None, Some(came)),
                Ruling::Came if wins => (None, Some(held)),
                Ruling::Came => (Some(self.decision(&came.content, &[came])), Some(held)),
                // It takes both into account: neither lost.
                Ruling::Value(value) => (Some(self.decision(&content(&value, held), &[held, came])), None),
            };
            if let Some(cell) = cell {
                judged.state.put(*field, cell);
                judged.decided = true;
            }
            judged.displaced.retain(|displaced| displaced.field != *field);
            let winner = judged.state.cell(*field).map_or(held.stamp, |cell| cell.stamp);
            judged.displaced.extend(lost.map(|cell| Displaced {
                field: *field,
                cell: cell.clone(),
                winner,
                kind: ConflictKind::Decided,
            }));
        }
        judged
    }

    fn ruling(&mut self, field: FieldNo, held: &Cell, came: &Cell, wins: bool) -> Ruling {
        let sealed = [held, came].iter().any(|cell| matches!(cell.content, Content::Sealed(_)));
        match sealed {
            false => (self.rule)(Matter::Field { field, held, came }),
            // What it holds was sealed by another, under that one's stamp: it can't be written anew.
            true if wins => Ruling::Refuse(SEALED.to_owned()),
            true => Ruling::Held,
        }
    }

    fn decision(&mut self, content: &Content, seen: &[&Cell]) -> Cell {
        decision(content, seen.iter().copied(), (self.clock)(), self.seq)
    }
}

/// What a field holds that was given this value. (A decision begins a mergeable one anew.)
fn content(value: &Value, held: &Cell) -> Content {
    match value {
        Value::Counter(sum) => Content::Counter(Counter::assigned(*sum, held.stamp)),
        Value::Set(elements) => {
            Content::Set(Set::assigned(elements.iter().map(OwnedValue::from), held.stamp))
        }
        other => Content::Register(OwnedValue::from(other)),
    }
}

const DELETION_OVERRULED: &str =
    "the record had been changed where it is decided about, which the deletion had not seen";
const DELETION_OUTLIVED: &str =
    "an earlier deletion of the record was overruled where it is decided about, which this one had not seen";
const SEALED: &str =
    "written at the same time as what the other end holds, which is sealed and so can only stand";

fn accepted(merged: Merged) -> Judged {
    Judged { state: merged.after, displaced: merged.report.displaced, ..Judged::default() }
}

/// Whether two writes of a field are for a rule to decide about: neither has seen the other, and they say different
/// things that merging can only choose between.
fn is_matter(held: &Cell, came: &Cell) -> bool {
    !held.has_seen(came.stamp)
        && !came.has_seen(held.stamp)
        && held.content != came.content
        && came.order(held) != Ordering::Equal
}

/// A deletion of a living record, or an incarnation in its place, that had not seen all that the authority holds.
fn unseen_deletion(merged: &Merged) -> Option<Stamp> {
    let (before, came) = (&merged.before, &merged.came);
    if !before.life.is_alive() || !replaces(before, &merged.after) {
        return None;
    }
    let unseen = |seen: &dyn Fn(Stamp) -> bool| before.cells.iter().any(|(_, cell)| !seen(cell.stamp));
    if came.life.after == before.life.after {
        let dead = came.life.dead?;
        return unseen(&|stamp| dead.has_seen(stamp)).then_some(dead.stamp);
    }
    // What that deletion had seen is not told any more: what is later, it had not.
    let after = came.life.after?;
    unseen(&|stamp| stamp <= after).then_some(after)
}

/// The deletion of an earlier incarnation with whose values the record lives on, because an authority has overruled
/// another deletion meanwhile: it gives way, and would do so without a trace. Where the record was inserted anew, what the
/// deletion was about is gone.
fn is_outlived_deletion(merged: &Merged) -> bool {
    let (before, came) = (&merged.before.life, &merged.came.life);
    let outlived = before.is_alive() && before.goes_on() && came.after < before.after;
    outlived && !came.is_alive() && came.dead.is_some()
}

/// Whether a living record is not the same one any more.
fn replaces(before: &RecordState, after: &RecordState) -> bool {
    !after.life.is_alive() || after.life.after != before.life.after || after.life.dead != before.life.dead
}

/// What the authority holds once it has refused what made `after` out of `before`: the record as it was, by a decision
/// that outranks what was refused wherever that has gone. Where there was no record, it is deleted. What is sealed
/// can't be written anew: then `before` stays as it is.
#[must_use]
pub fn overrule(
    before: &RecordState,
    after: &RecordState,
    seq: u64,
    clock: &mut dyn FnMut() -> Stamp,
) -> RecordState {
    match (before.life.is_alive(), after.life.is_alive()) {
        (true, _) if replaces(before, after) => born_again(before, seq, clock),
        (true, _) => written_again(before, after, seq, clock),
        (false, true) => {
            let dead = Some(Tombstone::new(clock(), before));
            RecordState { life: Life { dead, ..after.life }, cells: Vec::new() }
        }
        (false, false) => before.clone(),
    }
}

/// What an authority's `base` becomes where writes were taken back that it does not know: others may hold them, and no
/// merge would have them go back to what is older. `None` if `base` outranks them by itself.
#[must_use]
pub fn outrank(
    base: &RecordState,
    taken_back: &RecordState,
    seq: u64,
    clock: &mut dyn FnMut() -> Stamp,
) -> Option<RecordState> {
    let mut after = base.clone();
    after.merge(taken_back.clone(), seq);
    let unknown = base.life.is_alive() && !is_same_state(&after, base);
    let state = unknown.then(|| overrule(base, &after, seq, clock))?;
    (!is_same_state(&state, base)).then_some(state)
}

/// The record in a new incarnation, which replaces the one that was deleted.
fn born_again(before: &RecordState, seq: u64, clock: &mut dyn FnMut() -> Stamp) -> RecordState {
    if before.cells.iter().any(|(_, cell)| matches!(cell.content, Content::Sealed(_))) {
        return before.clone();
    }
    let stamp = clock();
    let again = |(field, cell): &(FieldNo, Cell)| {
        (*field, decision(&cell.content, std::iter::once(cell), stamp, seq))
    };
    // Born before the deletion that it follows: so it tells that it goes on with what was there.
    let life = Life { after: Some(clock()), born: Some(stamp), dead: None };
    RecordState { life, cells: before.cells.iter().map(again).collect() }
}

/// The fields that `after` has otherwise, as they were.
fn written_again(
    before: &RecordState,
    after: &RecordState,
    seq: u64,
    clock: &mut dyn FnMut() -> Stamp,
) -> RecordState {
    let changed =
        |(field, cell): &&(FieldNo, Cell)| before.cell(*field).is_none_or(|known| !is_same(known, cell));
    let changed: Vec<FieldNo> = after.cells.iter().filter(changed).map(|(field, _)| *field).collect();
    let held = |field: &FieldNo| before.cell(*field).map_or(&Content::Absent, |cell| &cell.content);
    if changed.iter().any(|field| matches!(held(field), Content::Sealed(_))) {
        return before.clone();
    }
    // Two may have inserted it at once: of what was refused, its birth is known all the same.
    let mut state = RecordState { life: after.life, cells: before.cells.clone() };
    if changed.is_empty() {
        return state;
    }
    let stamp = clock();
    for field in changed {
        let cell = decision(held(&field), before.cell(field).into_iter(), stamp, seq);
        state.put(field, cell);
    }
    state
}

/// A write of the authority with the content of one that it stands for. It has seen these cells and what they had seen;
/// of more writers than it has room for it claims to have seen none, so that no conflict goes untold.
fn decision<'a>(content: &Content, seen: impl Iterator<Item = &'a Cell>, stamp: Stamp, seq: u64) -> Cell {
    let content = match content {
        Content::Counter(counter) => Content::Counter(Counter::assigned(counter.value(), stamp)),
        Content::Set(set) => Content::Set(Set::assigned(set.elements.keys().cloned(), stamp)),
        other => other.clone(),
    };
    let seen = seen.flat_map(|cell| cell.replaced.iter().copied().chain([cell.stamp]));
    let replaced = newest_of_writers(seen.filter(|seen| seen.writer != stamp.writer), MAX_REPLACED - 1);
    Cell { stamp, replaced, seq, content }
}

#[cfg(test)]
mod tests;
