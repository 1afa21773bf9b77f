//! How two replicas' knowledge of one record becomes one.
//!
//! The state of a record is its [`Life`] and its cells. Joining two states is commutative, associative and
//! idempotent: a later incarnation replaces an earlier one whole; within one incarnation `born` and `dead` are
//! the latest stamps, cells join one by one, and cells from before the incarnation's floor are dropped. The
//! floor only rises, so what was dropped in one order of arrival is dropped in every order.

use crate::blazebinary::FieldNo;
use crate::cell::{Cell, Joined, newest_of_writers};
use crate::limits::MAX_DELETION_SEEN;
use crate::stamp::Stamp;

/// What a deletion had seen of the record: the newest stamp of every writer, as far as they fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen([Option<Stamp>; MAX_DELETION_SEEN]);

impl Seen {
    /// Of these stamps the newest of each writer, and of those the newest.
    pub fn new(stamps: impl Iterator<Item = Stamp>) -> Self {
        let mut seen = Self::default();
        for (slot, stamp) in seen.0.iter_mut().zip(newest_of_writers(stamps, MAX_DELETION_SEEN)) {
            *slot = Some(stamp);
        }
        seen
    }

    /// The stamps, newest first.
    pub fn iter(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.0.iter().copied().flatten()
    }

    /// Exact for as many writers as fit; of the others, what is older than all of these counts as seen.
    fn has(&self, stamp: Stamp) -> bool {
        if let Some(newest) = self.iter().find(|seen| seen.writer == stamp.writer) {
            return newest >= stamp;
        }
        self.0.last().is_some_and(|oldest| *oldest > Some(stamp))
    }
}

/// A deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// When, and by whom.
    pub stamp: Stamp,
    /// What the deleting replica had seen of the record.
    pub seen: Seen,
}

impl Tombstone {
    /// The deletion, by the write `stamp`, of a record of which `state` is known.
    #[must_use]
    pub fn new(stamp: Stamp, state: &RecordState) -> Self {
        Self { stamp, seen: state.seen() }
    }

    /// The same deletion from the grave that was kept of it: what it had seen is not known any more. It is taken to have
    /// seen what was written before it.
    #[must_use]
    pub fn raised(stamp: Stamp) -> Self {
        Self { stamp, seen: Seen::new(std::iter::once(stamp)) }
    }

    /// Whether it was made again from a grave: no other deletion has seen itself.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.seen.iter().any(|seen| seen == self.stamp)
    }

    /// Whether the write `stamp` was known to whoever deleted the record.
    #[must_use]
    pub fn has_seen(&self, stamp: Stamp) -> bool {
        let earlier = stamp < self.stamp;
        self.stamp.writer == stamp.writer || self.seen.has(stamp) || (earlier && self.is_raised())
    }
}

/// When a record came to be and when it went.
///
/// An insert over a deletion that its writer knew of starts a new incarnation: `after` is that deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Life {
    /// The deletion that this incarnation follows; `None` in the first.
    pub after: Option<Stamp>,
    /// The latest insert; `None` while only updates of the record have been seen.
    pub born: Option<Stamp>,
    /// The latest deletion.
    pub dead: Option<Tombstone>,
}

impl Life {
    /// Whether the record is there to be read.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match (self.born, self.dead) {
            (Some(born), Some(dead)) => born > dead.stamp,
            (born, _) => born.is_some(),
        }
    }

    /// What began below this is from before the incarnation's last deletion or rebirth and is dropped; `None` if
    /// it was never deleted. A mergeable value that begins by being counted or added to takes this as its base.
    #[must_use]
    pub fn floor(&self) -> Option<Stamp> {
        self.dead.map(|dead| self.born.map_or(dead.stamp, |born| born.max(dead.stamp)))
    }

    /// Whether the incarnation goes on with the values of the one before, because an authority has overruled a deletion:
    /// it is born before the deletion that it follows.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.after.zip(self.born).is_some_and(|(after, born)| born < after)
    }

    /// Whether both say the same of the record: what a deletion had seen is no part of that.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let stamps = |life: &Self| (life.after, life.born, life.dead.map(|dead| dead.stamp));
        stamps(self) == stamps(other)
    }

    fn join_same_incarnation(&mut self, other: &Self) {
        self.born = self.born.max(other.born);
        if other.dead.map(|d| d.stamp) > self.dead.map(|d| d.stamp) {
            self.dead = other.dead;
        }
    }

    /// The newest stamp in it.
    #[must_use]
    pub fn newest(&self) -> Option<Stamp> {
        self.born.max(self.dead.map(|d| d.stamp)).max(self.after)
    }
}

/// What a replica knows of one record. Cells are ascending by field number.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RecordState {
    /// Born and dead.
    pub life: Life,
    /// The fields, also the removed ones.
    pub cells: Vec<(FieldNo, Cell)>,
}

/// Why a write is not what the record shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConflictKind {
    /// A concurrent write to the same field had the higher stamp.
    Overwritten,
    /// The record was deleted by a replica that had not seen the write.
    Deleted,
    /// The write was made to an incarnation that had been deleted.
    Outlived,
    /// An authority decided for another value.
    Decided,
}

/// A write that lost: what the conflict log keeps.
#[derive(Clone, PartialEq, Debug)]
pub struct Displaced {
    /// The field.
    pub field: FieldNo,
    /// What was written, and when.
    pub cell: Cell,
    /// The write or deletion that won.
    pub winner: Stamp,
    /// Why it lost.
    pub kind: ConflictKind,
}

/// What joining an incoming state did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MergeReport {
    /// The local state is not what it was.
    pub changed: bool,
    /// Something came out that the sender does not have.
    pub differs_from_incoming: bool,
    /// Fields for which the sender holds an older write than this replica.
    pub sender_is_behind: Vec<FieldNo>,
    /// Writes that lost and were concurrent.
    pub displaced: Vec<Displaced>,
    /// The deletion that this replica knew last and that does not stand: an authority has overruled it, or another one that
    /// had not seen it either. The record is there again.
    pub overruled: Option<Stamp>,
    /// The deletion that this replica knew last and that another one has taken the place of. The record stays deleted.
    pub outdone: Option<Stamp>,
}

impl RecordState {
    /// The cell of a field.
    #[must_use]
    pub fn cell(&self, field: FieldNo) -> Option<&Cell> {
        let at = self.cells.binary_search_by_key(&field, |(no, _)| *no).ok()?;
        self.cells.get(at).map(|(_, cell)| cell)
    }

    /// Puts a cell in the place of whatever the field held.
    pub fn put(&mut self, field: FieldNo, cell: Cell) {
        match self.cells.binary_search_by_key(&field, |(no, _)| *no) {
            Ok(at) => {
                if let Some(slot) = self.cells.get_mut(at) {
                    slot.1 = cell;
                }
            }
            Err(at) => self.cells.insert(at, (field, cell)),
        }
    }

    /// The newest stamp of anything in the state.
    #[must_use]
    pub fn newest(&self) -> Option<Stamp> {
        self.cells.iter().map(|(_, cell)| cell.stamp).max().max(self.life.newest())
    }

    /// The newest stamp of every writer, as far as they fit.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let life = [self.life.born, self.life.dead.map(|dead| dead.stamp)].into_iter().flatten();
        let deleted = self.life.dead.iter().flat_map(|dead| dead.seen.iter());
        let cells = self.cells.iter().flat_map(|(_, cell)| cell.replaced.iter().copied().chain([cell.stamp]));
        Seen::new(life.chain(deleted).chain(cells))
    }

    /// The same state with other field numbers.
    ///
    /// # Errors
    /// What `number` answers for a number that it has no other for.
    pub fn renumber<E>(self, mut number: impl FnMut(FieldNo) -> Result<FieldNo, E>) -> Result<Self, E> {
        let mut groups = crate::seal::Renumbered::default();
        let mut cells = Vec::with_capacity(self.cells.len());
        for (field, mut cell) in self.cells {
            groups.apply(&mut cell.content, &mut number)?;
            cells.push((number(field)?, cell));
        }
        cells.sort_unstable_by_key(|(field, _)| *field);
        Ok(Self { life: self.life, cells })
    }

    /// Takes in `incoming`; what changes gets the local feed sequence `seq`.
    pub fn merge(&mut self, incoming: Self, seq: u64) -> MergeReport {
        let mut report = MergeReport::default();
        let life = self.life;
        match incoming.life.after.cmp(&life.after) {
            std::cmp::Ordering::Less => self.refuse_old_incarnation(incoming, &mut report),
            std::cmp::Ordering::Greater => self.adopt_new_incarnation(incoming, seq, &mut report),
            std::cmp::Ordering::Equal => {
                self.life.join_same_incarnation(&incoming.life);
                report.differs_from_incoming |= !self.life.agrees(&incoming.life);
                self.drop_below_floor(&life, &mut report);
                self.merge_cells(incoming, seq, &mut report);
            }
        }
        report.changed |= self.life != life;
        self.note_deletion(&life, &mut report);
        report
    }

    /// What became of the deletion that was known before.
    fn note_deletion(&self, before: &Life, report: &mut MergeReport) {
        let Some(dead) = before.dead.filter(|_| !before.is_alive()).map(|dead| dead.stamp) else { return };
        let replaced = self.life.after != before.after;
        if !self.life.is_alive() {
            report.outdone = self.life.dead.filter(|now| replaced || now.stamp != dead).map(|_| dead);
        } else if replaced && self.life.goes_on() {
            report.overruled = Some(dead);
        }
    }

    fn refuse_old_incarnation(&self, incoming: Self, report: &mut MergeReport) {
        report.differs_from_incoming = true;
        let Some(winner) = self.life.after else { return };
        report.displaced = outlived(incoming.cells, self, winner);
    }

    fn adopt_new_incarnation(&mut self, incoming: Self, seq: u64, report: &mut MergeReport) {
        let after = incoming.life.after;
        let floor = incoming.life.floor();
        let old = std::mem::replace(self, incoming);
        // An honest sender has dropped them already.
        self.cells.retain(|(_, cell)| floor.is_none_or(|floor| cell.survives(floor)));
        for (_, cell) in &mut self.cells {
            cell.seq = seq;
        }
        report.changed = true;
        // What this replica had written after the deletion that the new incarnation follows was never seen.
        if let Some(winner) = after {
            report.displaced = outlived(old.cells, self, winner);
        }
    }

    fn drop_below_floor(&mut self, before: &Life, report: &mut MergeReport) {
        let life = self.life;
        let Some(floor) = life.floor() else { return };
        // A delete wins over every update of its incarnation, also over those that stay here, unseen.
        let deleted = !life.is_alive() && life.dead != before.dead;
        let mut kept = Vec::with_capacity(self.cells.len());
        for (field, cell) in self.cells.drain(..) {
            let survives = cell.survives(floor);
            if deleted || !survives {
                note_displaced(field, &cell, life, report);
            }
            if survives {
                kept.push((field, cell));
            } else {
                report.changed = true;
            }
        }
        self.cells = kept;
    }

    fn merge_cells(&mut self, incoming: Self, seq: u64, report: &mut MergeReport) {
        let (life, floor) = (self.life, self.life.floor());
        for (field, theirs) in incoming.cells {
            if floor.is_some_and(|floor| !theirs.survives(floor)) {
                report.differs_from_incoming = true;
                note_displaced(field, &theirs, life, report);
                continue;
            }
            match self.cells.binary_search_by_key(&field, |(no, _)| *no) {
                Err(at) => {
                    if !life.is_alive() {
                        note_displaced(field, &theirs, life, report);
                    }
                    self.cells.insert(at, (field, Cell { seq, ..theirs }));
                    report.changed = true;
                }
                Ok(at) => {
                    let Some((_, mine)) = self.cells.get_mut(at) else { continue };
                    let joined = merge_cell(field, mine, &theirs, seq, report);
                    if joined != Joined::Kept && !life.is_alive() {
                        note_displaced(field, &theirs, life, report);
                    }
                }
            }
        }
    }
}

/// Writes to an earlier incarnation that the one after the deletion `winner` had not seen. What is later than that
/// deletion was not; what is earlier, only an incarnation that goes on with the values of the one before can tell.
fn outlived(cells: Vec<(FieldNo, Cell)>, now: &RecordState, winner: Stamp) -> Vec<Displaced> {
    let goes_on = now.life.goes_on();
    let unseen = |field: FieldNo, cell: &Cell| {
        let known = now.cell(field).filter(|now| now.has_seen(cell.stamp) || now.content == cell.content);
        goes_on && known.is_none() && !cell.content.is_absent()
    };
    let lost = cells.into_iter().filter(|(field, cell)| cell.stamp > winner || unseen(*field, cell));
    lost.map(|(field, cell)| Displaced { field, cell, winner, kind: ConflictKind::Outlived }).collect()
}

/// A write that gives way to a deletion, or to an insert after it, whose replica had not seen it.
fn note_displaced(field: FieldNo, cell: &Cell, life: Life, report: &mut MergeReport) {
    let Some(dead) = life.dead.filter(|_| !cell.content.is_absent()) else { return };
    let (winner, kind) = match life.born {
        Some(born) if life.is_alive() && cell.stamp > dead.stamp => (born, ConflictKind::Outlived),
        _ if dead.has_seen(cell.stamp) => return,
        _ => (dead.stamp, ConflictKind::Deleted),
    };
    report.displaced.push(Displaced { field, cell: cell.clone(), winner, kind });
}

/// Joins one cell. Answers what became of the local one.
fn merge_cell(field: FieldNo, mine: &mut Cell, theirs: &Cell, seq: u64, report: &mut MergeReport) -> Joined {
    let before = mine.clone();
    let joined = mine.join(theirs);
    match joined {
        Joined::Kept => {
            if mine.stamp != theirs.stamp || !mine.content.agrees(&theirs.content) {
                report.differs_from_incoming = true;
                report.sender_is_behind.push(field);
            }
        }
        Joined::Adopted => {
            mine.seq = seq;
            report.changed = true;
        }
        Joined::Mixed => {
            mine.seq = seq;
            report.changed = true;
            report.differs_from_incoming = true;
        }
    }
    let (winner, loser) = match joined {
        Joined::Kept => (&*mine, theirs),
        Joined::Adopted => (&*mine, &before),
        Joined::Mixed => return joined,
    };
    if !winner.has_seen(loser.stamp) && winner.content != loser.content {
        let displaced =
            Displaced { field, cell: loser.clone(), winner: winner.stamp, kind: ConflictKind::Overwritten };
        report.displaced.push(displaced);
    }
    joined
}

#[cfg(test)]
pub(crate) mod tests;
