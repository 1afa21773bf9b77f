//! What a refused write leaves behind where it was made.
//!
//! The local copy returns to the authority's state: what was written up to the newest refused stamp gives way to what
//! the authority has, which no merge would do, because the refused stamps are newer. What was written after that stays
//! on top, as long as there is a record for it to be on.

use crate::blazebinary::FieldNo;
use crate::cell::{Cell, Joined};
use crate::merge::{Life, RecordState};
use crate::stamp::Stamp;

/// The outcome of [`take_back`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TakenBack {
    /// What the local copy becomes. Without any life it is to be forgotten.
    pub state: RecordState,
    /// Local writes that are gone with it.
    pub lost: Vec<(FieldNo, Cell)>,
    /// A local deletion is gone with it.
    pub deletion: bool,
    /// The record was here and is not any more.
    pub vanished: bool,
    /// The copy holds newer local writes, which the authority is to get.
    pub ahead: bool,
}

/// Returns `local` to what `authority` has of the record (`None`: nothing, as far as this node may know), except for
/// what was written after `refused`.
#[must_use]
pub fn take_back(local: &RecordState, authority: Option<&RecordState>, refused: Stamp) -> TakenBack {
    let base = authority.cloned().unwrap_or_default();
    let mut taken = TakenBack { state: base.clone(), ..TakenBack::default() };
    if !base.life.is_alive()
        && let Some(born) = local.life.born.filter(|born| local.life.is_alive() && *born > refused)
    {
        let after = base.life.dead.map(|dead| dead.stamp).or(base.life.after);
        taken.state = RecordState { life: Life { after, born: Some(born), dead: None }, cells: Vec::new() };
    }
    if local.life.is_alive() {
        keep_newer(local, &base, refused, &mut taken);
    } else if let Some(dead) = local.life.dead.filter(|_| base.life.is_alive()) {
        if dead.stamp > refused {
            taken.state = RecordState { life: Life { dead: Some(dead), ..base.life }, cells: Vec::new() };
        } else {
            taken.deletion = true;
        }
    }
    taken.vanished = local.life.is_alive() && !taken.state.life.is_alive();
    taken.ahead = !super::news::is_same_state(&taken.state, &base);
    taken
}

/// Puts the cells that were written after `refused` on top, if there is a record, and collects the others that the
/// authority has not seen.
fn keep_newer(local: &RecordState, base: &RecordState, refused: Stamp, taken: &mut TakenBack) {
    let alive = taken.state.life.is_alive();
    for (field, cell) in &local.cells {
        let known = base.cell(*field).filter(|_| base.life.is_alive());
        if known.is_some_and(|known| known.has_seen(cell.stamp)) && !grew(known, cell) {
            continue;
        }
        if !alive || cell.stamp <= refused {
            taken.lost.push((*field, cell.clone()));
            continue;
        }
        let mut kept = cell.clone();
        if let Some(known) = taken.state.cell(*field) {
            // The authority has decided meanwhile, later by the clock: no merge would put the write on top of that.
            if kept.join(known) == Joined::Adopted && kept.content != cell.content {
                taken.lost.push((*field, cell.clone()));
            }
        }
        taken.state.put(*field, kept);
    }
}

/// Whether a mergeable value holds more than the authority's, by writes that its stamp does not show.
fn grew(known: Option<&Cell>, cell: &Cell) -> bool {
    let Some(known) = known else { return true };
    let mut joined = known.clone();
    joined.join(cell);
    joined.content != known.content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blazebinary::OwnedValue;
    use crate::cell::Content;
    use crate::merge::Tombstone;
    use crate::{Hlc, ReplicaId, Value};

    const ME: u8 = 1;
    const OTHER: u8 = 2;

    fn stamp(time: u64, writer: u8) -> Stamp {
        Stamp::new(Hlc(time), ReplicaId::from_bytes([writer; 16]))
    }

    fn cell(time: u64, writer: u8, old: Option<&Cell>) -> Cell {
        let content = Content::Register(OwnedValue::from(&Value::Int(time as i64)));
        Cell::write(stamp(time, writer), old, content, 0)
    }

    fn record(born: u64, writer: u8, cells: Vec<(FieldNo, Cell)>) -> RecordState {
        RecordState { life: Life { born: Some(stamp(born, writer)), ..Life::default() }, cells }
    }

    fn deleted(of: &RecordState, time: u64) -> RecordState {
        let dead = Some(Tombstone::new(stamp(time, ME), of));
        RecordState { life: Life { dead, ..of.life }, cells: Vec::new() }
    }

    #[test]
    fn a_refused_insert_vanishes_with_all_that_was_written_to_it() {
        let mut local = record(5, ME, vec![(0, cell(5, ME, None))]);
        local.put(1, cell(9, ME, None));
        let taken = take_back(&local, None, stamp(5, ME));
        assert_eq!((taken.state, taken.lost.len()), (RecordState::default(), 2));
        assert!(taken.vanished && !taken.ahead && !taken.deletion);
    }

    #[test]
    fn a_refused_update_gives_way_and_newer_edits_stay() {
        let hub = record(1, OTHER, vec![(0, cell(1, OTHER, None)), (1, cell(1, OTHER, None))]);
        let mut local = hub.clone();
        local.put(0, cell(5, ME, hub.cell(0)));
        let taken = take_back(&local, Some(&hub), stamp(5, ME));
        assert_eq!(taken.state, hub);
        assert_eq!(taken.lost, [(0, cell(5, ME, hub.cell(0)))]);
        assert!(!taken.ahead && !taken.vanished);

        local.put(1, cell(7, ME, hub.cell(1)));
        let taken = take_back(&local, Some(&hub), stamp(5, ME));
        assert_eq!(taken.state.cell(0), hub.cell(0));
        assert_eq!(taken.state.cell(1), local.cell(1));
        assert!(taken.ahead && taken.lost.len() == 1);
    }

    #[test]
    fn a_newer_edit_that_what_was_decided_outranks_is_not_lost_silently() {
        let first = cell(1, OTHER, None);
        let refused = cell(5, ME, Some(&first));
        let newer = cell(7, ME, Some(&refused));
        // The authority has written again what it held, later than both.
        let decision = Cell { stamp: stamp(100, OTHER), ..first };
        let hub = record(1, OTHER, vec![(0, decision.clone())]);
        let taken = take_back(&record(1, OTHER, vec![(0, newer.clone())]), Some(&hub), stamp(5, ME));
        assert_eq!(taken.state.cell(0), Some(&decision));
        assert_eq!(taken.lost, [(0, newer)]);
    }

    #[test]
    fn what_the_authority_has_seen_is_not_lost() {
        let first = cell(3, ME, None);
        let hub = record(1, OTHER, vec![(0, cell(6, OTHER, Some(&first)))]);
        let local = record(1, OTHER, vec![(0, first)]);
        let taken = take_back(&local, Some(&hub), stamp(9, ME));
        assert!(taken.lost.is_empty() && taken.state == hub);
    }

    #[test]
    fn a_refused_deletion_brings_the_record_back_and_a_newer_one_stays() {
        let hub = record(1, OTHER, vec![(0, cell(1, OTHER, None))]);
        let taken = take_back(&deleted(&hub, 5), Some(&hub), stamp(5, ME));
        assert!(taken.deletion && taken.state == hub && !taken.ahead);
        let taken = take_back(&deleted(&hub, 8), Some(&hub), stamp(5, ME));
        assert!(!taken.deletion && !taken.state.life.is_alive() && taken.ahead);
        let taken = take_back(&deleted(&hub, 8), None, stamp(5, ME));
        assert_eq!(taken, TakenBack::default());
    }

    #[test]
    fn an_insert_after_a_refused_deletion_is_an_edit_of_what_is_there() {
        let hub = record(1, OTHER, vec![(0, cell(1, OTHER, None)), (1, cell(1, OTHER, None))]);
        let life = Life { after: Some(stamp(5, ME)), born: Some(stamp(6, ME)), dead: None };
        let local = RecordState { life, cells: vec![(0, cell(6, ME, None))] };
        let taken = take_back(&local, Some(&hub), stamp(5, ME));
        assert_eq!(taken.state.life, hub.life);
        assert_eq!((taken.state.cell(0), taken.state.cell(1)), (local.cell(0), hub.cell(1)));
        let taken = take_back(&local, None, stamp(5, ME));
        assert_eq!(taken.state.life, Life { after: None, ..local.life });
        assert!(taken.state.cell(0) == local.cell(0) && taken.ahead && !taken.vanished);
    }

    #[test]
    fn a_refusal_that_comes_twice_does_nothing_the_second_time() {
        let hub = record(1, OTHER, vec![(0, cell(1, OTHER, None))]);
        let mut local = hub.clone();
        local.put(0, cell(5, ME, hub.cell(0)));
        for authority in [Some(&hub), None] {
            let first = take_back(&local, authority, stamp(5, ME));
            let second = take_back(&first.state, authority, stamp(5, ME));
            assert_eq!(second, TakenBack { state: first.state, ..TakenBack::default() });
        }
    }
}
