//! What applications wrote: every write has a number, and the number is what it writes, so that whatever a
//! replica shows can be traced to the write, the node and the stamp that it came from.

use std::collections::BTreeSet;

use blazedb_core::feed::Seq;
use blazedb_core::{Record, RecordId, Stamp, Value};
use blazedb_store::{Store, StoreError};

/// Field that names the insert that a record comes from.
pub(crate) const INSERT: &str = "inc";
/// Field of a counter.
pub(crate) const COUNT: &str = "n";
/// Field of a set.
pub(crate) const SET: &str = "s";
/// Field of a pair of records that are always written together.
pub(crate) const PAIR: &str = "t";

/// Fields that hold the number of a write.
pub(crate) const NUMBERED: [&str; 6] = [INSERT, PAIR, "f0", "f1", "f2", "f3"];

/// Whether the simulator itself writes a field of this name.
pub(crate) fn is_taken(field: &str) -> bool {
    NUMBERED.contains(&field) || [COUNT, SET].contains(&field)
}

/// What is done with a record in a simulation, and so what must hold for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// Registers are written and removed; the record stays.
    Register,
    /// Also deleted and inserted again.
    Mortal,
    /// A counter that is only counted.
    Counter,
    /// A set that is only edited.
    Set,
    /// The first of two records that are always written in one transaction; the second follows.
    Pair,
}

/// A record of the simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) id: RecordId,
    pub(crate) class: Class,
}

/// What a write did.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Kind {
    /// A register got the write's number.
    Write(&'static str),
    /// A register was removed.
    Unset(&'static str),
    /// The record of this insert was deleted.
    Delete(i64),
    /// The counter was raised.
    Count(i64),
    /// An element was added to the set.
    Add(i64),
    /// An element was removed from the set.
    Remove(i64),
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) number: i64,
    pub(crate) node: usize,
    pub(crate) subject: usize,
    pub(crate) kind: Kind,
    pub(crate) stamp: Stamp,
    /// The end of the node's feed after the transaction.
    pub(crate) seq: Seq,
    /// Its node lost power before it was durable: it may be there or not.
    pub(crate) doubtful: bool,
    /// Who had been removed from the keyring as its node knew it.
    pub(crate) knew_removed: Vec<usize>,
    /// The newest epoch whose key its node had then; 0 if it seals nothing.
    pub(crate) epoch: u32,
}

/// Everything that was written.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) ops: Vec<Op>,
    /// By subject, indexes of `ops`.
    by_subject: Vec<Vec<usize>>,
    /// What was seen in conflict logs: record, field, stamp.
    conflicts: BTreeSet<(RecordId, String, Stamp)>,
}

impl Ledger {
    pub(crate) fn add_subject(&mut self, subject: Subject) {
        self.subjects.push(subject);
        self.by_subject.push(Vec::new());
    }

    /// The number that the next write gets.
    pub(crate) fn next_number(&self) -> i64 {
        i64::try_from(self.ops.len()).unwrap_or(i64::MAX) + 1
    }

    pub(crate) fn record(&mut self, op: Op) {
        if let Some(list) = self.by_subject.get_mut(op.subject) {
            list.push(self.ops.len());
        }
        self.ops.push(op);
    }

    pub(crate) fn op(&self, number: i64) -> Option<&Op> {
        self.ops.get(usize::try_from(number - 1).ok()?)
    }

    pub(crate) fn id_of(&self, subject: usize) -> Option<RecordId> {
        self.subjects.get(subject).map(|subject| subject.id)
    }

    /// The writes on a record.
    pub(crate) fn of_id(&self, id: RecordId) -> impl Iterator<Item = &Op> {
        let subject = self.subjects.iter().position(|subject| subject.id == id);
        subject.into_iter().flat_map(|subject| self.of_subject(subject))
    }

    pub(crate) fn of_subject(&self, subject: usize) -> impl Iterator<Item = &Op> {
        self.by_subject.get(subject).into_iter().flatten().filter_map(|at| self.ops.get(*at))
    }

    /// Takes note of a replica's conflict log. What lost there may be a decision: it stands for the write whose number it
    /// holds.
    pub(crate) fn note_conflicts(&mut self, store: &Store) -> Result<(), StoreError> {
        for entry in store.conflicts()? {
            let number = if let Some(Value::Int(number)) = entry.value { Some(number) } else { None };
            let written = number.and_then(|number| self.op(number)).map(|op| op.stamp);
            let stamps = [Some(entry.stamp), written].into_iter().flatten();
            self.conflicts.extend(stamps.map(|stamp| (entry.id, entry.field.clone(), stamp)));
        }
        Ok(())
    }

    pub(crate) fn in_conflict_log(&self, op: &Op, field: &str) -> bool {
        let Some(id) = self.id_of(op.subject) else { return false };
        self.conflicts.contains(&(id, field.to_owned(), op.stamp))
    }

    /// Whether `record`, as a replica shows it, accounts for `op`: it shows it, or something later, or the write
    /// (or one that replaced it) is in a conflict log. Counters and sets have their own rule.
    pub(crate) fn accounts_for(&self, op: &Op, record: Option<&Record>) -> bool {
        match &op.kind {
            Kind::Write(field) => {
                self.field_accounts_for(op, field, record) || self.in_conflict_log(op, field)
            }
            // A removed field is nothing that a conflict log would keep: any deletion settles it.
            Kind::Unset(field) => self.field_accounts_for(op, field, record) || self.is_mortal(op),
            Kind::Delete(insert) => shown(record, INSERT) != Some(*insert),
            Kind::Count(_) | Kind::Add(_) | Kind::Remove(_) => true,
        }
    }

    /// Whether a write's record was ever deleted.
    pub(crate) fn is_mortal(&self, op: &Op) -> bool {
        self.of_subject(op.subject).any(|other| matches!(other.kind, Kind::Delete(_)))
    }

    fn field_accounts_for(&self, op: &Op, field: &str, record: Option<&Record>) -> bool {
        let by = shown(record, field).and_then(|number| self.op(number));
        if by.is_some_and(|by| by.stamp >= op.stamp) {
            return true;
        }
        let mortal = self.is_mortal(op);
        self.of_subject(op.subject).filter(|other| other.stamp >= op.stamp).any(|other| match &other.kind {
            Kind::Delete(_) => true,
            Kind::Unset(removed) => {
                *removed == field && (mortal || by.is_none() || self.in_conflict_log(other, field))
            }
            Kind::Write(written) => *written == field && self.in_conflict_log(other, field),
            _ => false,
        })
    }
}

/// The number in a field.
pub(crate) fn shown(record: Option<&Record>, field: &str) -> Option<i64> {
    match record?.get(field)? {
        Value::Int(number) | Value::Counter(number) => Some(*number),
        _ => None,
    }
}

/// The elements of a record's set.
pub(crate) fn elements(record: Option<&Record>) -> Vec<i64> {
    let Some(Value::Set(elements)) = record.and_then(|record| record.get(SET)) else { return Vec::new() };
    let number = |value: &Value| if let Value::Int(number) = value { Some(*number) } else { None };
    elements.iter().filter_map(number).collect()
}
