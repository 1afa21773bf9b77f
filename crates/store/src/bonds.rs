//! Which stretches of the feed belong together with feeds of other databases: what transactions over several files left.
//!
//! Invariant: a tie is there for readers before the rows that it is about are. It is a hint: a reader that is told less
//! shows a part of a transaction for a moment, one that is told too much waits for a moment. So only the last are kept.

use std::collections::{BTreeMap, VecDeque};

use blazedb_core::ReplicaId;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::bond::Bond;
use blazedb_core::feed::Seq;
use blazedb_core::limits::{BONDS_KEPT, MAX_BONDS};
use blazedb_sqlite::rusqlite::{Connection, Result};

use crate::error::StoreError;
use crate::schema::{meta, set_meta};
use crate::store::{Store, Writer, lock};

/// The key in `meta`.
const KEY: &str = "ties";

/// What is known of ties, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Ties(VecDeque<Tie>);

#[derive(Clone, Copy)]
struct Tie {
    /// The last row of the part in this file.
    seq: Seq,
    /// Another file of the transaction, and the last row of its part.
    other: ReplicaId,
    other_seq: Seq,
}

impl Ties {
    /// What the file says.
    pub(crate) fn load(db: &Connection) -> Result<Self> {
        let bytes: Vec<u8> = meta(db, KEY)?.unwrap_or_default();
        let mut reader = Reader::new(&bytes);
        let mut ties = VecDeque::new();
        while let Some(tie) = read(&mut reader) {
            ties.push_back(tie);
        }
        Ok(Self(ties))
    }

    fn save(&self, db: &Connection) -> Result<()> {
        let mut bytes = Vec::with_capacity(self.0.len() * 32);
        for Tie { seq, other, other_seq } in &self.0 {
            bytes.extend_from_slice(&seq.to_le_bytes());
            bytes.extend_from_slice(other.as_bytes());
            bytes.extend_from_slice(&other_seq.to_le_bytes());
        }
        set_meta(db, KEY, bytes)
    }

    fn add(&mut self, seq: Seq, others: &[(ReplicaId, Seq)]) {
        self.0.extend(others.iter().map(|(other, other_seq)| Tie {
            seq,
            other: *other,
            other_seq: *other_seq,
        }));
        while self.0.len() > BONDS_KEPT {
            self.0.pop_front();
        }
    }

    /// The first tie behind `after`.
    fn first_behind(&self, after: Seq) -> Option<Seq> {
        self.0.iter().map(|tie| tie.seq).filter(|seq| *seq > after).min()
    }

    /// How far the stretch behind `after` up to `upto` reaches into other feeds.
    fn between(&self, after: Seq, upto: Seq) -> BTreeMap<ReplicaId, Seq> {
        let mut reach = BTreeMap::new();
        for tie in self.0.iter().filter(|tie| after < tie.seq && tie.seq <= upto) {
            let furthest = reach.entry(tie.other).or_insert(tie.other_seq);
            *furthest = tie.other_seq.max(*furthest);
        }
        reach
    }
}

fn read(reader: &mut Reader<'_>) -> Option<Tie> {
    let seq = u64::from_le_bytes(reader.read_array().ok()?);
    let other = ReplicaId::from_bytes(reader.read_array().ok()?);
    Some(Tie { seq, other, other_seq: u64::from_le_bytes(reader.read_array().ok()?) })
}

impl Store {
    /// Notes, with the transaction that is open, that the feed up to `seq` belongs together with these others.
    pub(crate) fn tie(
        &self,
        writer: &Writer,
        seq: Seq,
        others: &[(ReplicaId, Seq)],
    ) -> std::result::Result<(), StoreError> {
        let mut ties = lock(&self.inner.ties);
        ties.add(seq, others);
        ties.save(&writer.db).map_err(|error| self.sqlite(error))
    }

    /// Where a stretch behind `after` should end at the latest, so that those of the other files can end at the same
    /// transaction: parts that are cut differently would wait for each other in vain.
    pub(crate) fn next_tie(&self, after: Seq) -> Seq {
        lock(&self.inner.ties).first_behind(after).unwrap_or(Seq::MAX)
    }

    /// What a stretch of the feed belongs together with, as it is told.
    pub(crate) fn bonds(&self, after: Seq, upto: Seq) -> Vec<Bond> {
        let reach = lock(&self.inner.ties).between(after, upto);
        let bond = |(other, seq)| Bond::new(self.replica(), upto, other, seq);
        reach.into_iter().map(bond).take(MAX_BONDS).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_reaches_as_far_as_its_transactions_and_the_last_are_kept() {
        let [a, b] = [1, 2].map(|no| ReplicaId::from_bytes([no; 16]));
        let mut ties = Ties::default();
        ties.add(5, &[(a, 50), (b, 7)]);
        ties.add(9, &[(a, 40)]);
        assert_eq!([0, 5, 9].map(|after| ties.first_behind(after)), [Some(5), Some(9), None]);
        assert_eq!(ties.between(0, 4), BTreeMap::new());
        assert_eq!(ties.between(4, 5), BTreeMap::from([(a, 50), (b, 7)]));
        assert_eq!(ties.between(5, 100), BTreeMap::from([(a, 40)]));
        assert_eq!(ties.between(0, 100), BTreeMap::from([(a, 50), (b, 7)]));
        for seq in 10..10 + 2 * BONDS_KEPT as u64 {
            ties.add(seq, &[(b, seq)]);
        }
        assert_eq!(ties.0.len(), BONDS_KEPT);
        assert_eq!(ties.between(0, 9), BTreeMap::new());
    }
}
