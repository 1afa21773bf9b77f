//! One row of the table `records`, between bytes and [`RecordState`].

use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{DecodeError, RecordBuilder};
use blazedb_core::cell::Content;
use blazedb_core::feed::{PeerNo, Seq};
use blazedb_core::history::{HistoryHead, HistoryReader, HistoryWriter, encode_body};
use blazedb_core::merge::{Life, RecordState};
use blazedb_core::{RecordId, ReplicaId};
use blazedb_sqlite::rusqlite::{Connection, OptionalExtension, Result, Row, params};

use crate::error::StoreError;
use crate::names::NameTable;

/// Column `state`: there to be read.
pub(crate) const ALIVE: u8 = 0;
/// Column `state`: deleted, or only updates of it are known.
pub(crate) const GONE: u8 = 1;

/// A row as it is stored.
#[derive(Debug)]
pub(crate) struct StoredRow {
    pub(crate) seq: Seq,
    pub(crate) id: RecordId,
    pub(crate) state: u8,
    pub(crate) origin: PeerNo,
    /// Position inside its transaction.
    pub(crate) tx: u64,
    pub(crate) history: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl StoredRow {
    pub(crate) fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            id: RecordId::from_bytes(row.get(1)?),
            state: row.get(2)?,
            origin: row.get(3)?,
            tx: row.get(4)?,
            history: row.get(5)?,
            body: row.get::<_, Option<Vec<u8>>>(6)?.unwrap_or_default(),
        })
    }

    pub(crate) fn find(db: &Connection, id: RecordId) -> Result<Option<Self>> {
        let sql = "SELECT seq, id, state, origin, tx, history, body FROM records WHERE id=?";
        db.prepare_cached(sql)?.query_row([id.as_bytes().as_slice()], Self::read).optional()
    }

    /// What is known of the record.
    pub(crate) fn decode(&self, names: &NameTable) -> std::result::Result<RecordState, DecodeError> {
        let writer = |no| names.writer(no);
        let reader = HistoryReader { writer: &writer, row_seq: Some(self.seq) };
        let mut bytes = Reader::new(&self.history);
        let state = reader.state(&mut bytes, &self.body)?;
        bytes.finish()?;
        Ok(state)
    }

    /// The start of the history, without its cells.
    pub(crate) fn head(&self, names: &NameTable) -> std::result::Result<HistoryHead, DecodeError> {
        let writer = |no| names.writer(no);
        HistoryReader { writer: &writer, row_seq: Some(self.seq) }.head(&mut Reader::new(&self.history))
    }
}

/// A row about to be written, and the buffers for it: kept from one row to the next.
#[derive(Debug, Default)]
pub(crate) struct RowBuffer {
    pub(crate) builder: RecordBuilder,
    pub(crate) history: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// Where a row stands in the feed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) seq: Seq,
    pub(crate) origin: PeerNo,
    pub(crate) tx: u64,
}

impl RowBuffer {
    /// Encodes `state` for the feed position `seq`.
    pub(crate) fn encode(
        &mut self,
        id: RecordId,
        state: &RecordState,
        seq: Seq,
        names: &NameTable,
    ) -> std::result::Result<(), StoreError> {
        self.history.clear();
        self.body.clear();
        let mut writer_no = |writer: ReplicaId| names.writer_no(writer).unwrap_or(u32::MAX);
        HistoryWriter { writer_no: &mut writer_no, row_seq: Some(seq) }.state(
            state,
            |_| true,
            &mut self.history,
        );
        encode_body(state, |_| true, &mut self.builder, &mut self.body)
            .map_err(|error| StoreError::Encode { id, error })
    }

    /// How many bytes the row has.
    pub(crate) fn len(&self) -> usize {
        self.history.len() + self.body.len() + 16
    }

    /// Inserts the row, unless there is one with this id. Answers whether it did.
    pub(crate) fn insert_new(&self, db: &Connection, id: RecordId, life: Life, place: Place) -> Result<bool> {
        let sql = "INSERT INTO records(seq,id,state,origin,tx,history,body) VALUES(?,?,?,?,?,?,?)
                   ON CONFLICT(id) DO NOTHING";
        let (state, body) = self.columns(life);
        let Place { seq, origin, tx } = place;
        let id = id.as_bytes().as_slice();
        Ok(db.prepare_cached(sql)?.execute(params![seq, id, state, origin, tx, self.history, body])? == 1)
    }

    /// Puts the row in the place of the one at `old_seq`.
    pub(crate) fn replace(&self, db: &Connection, old_seq: Seq, life: Life, place: Place) -> Result<()> {
        let sql = "UPDATE records SET seq=?, state=?, origin=?, tx=?, history=?, body=? WHERE seq=?";
        let (state, body) = self.columns(life);
        let Place { seq, origin, tx } = place;
        db.prepare_cached(sql)?
            .execute(params![seq, state, origin, tx, self.history, body, old_seq])
            .map(drop)
    }

    fn columns(&self, life: Life) -> (u8, Option<&[u8]>) {
        let state = if life.is_alive() { ALIVE } else { GONE };
        // An empty record that is alive has a body; a tombstone has none.
        let keep = state == ALIVE || !self.body.is_empty();
        (state, keep.then_some(self.body.as_slice()))
    }
}

/// Every replica that the history of `state` names.
pub(crate) fn writers_of(state: &RecordState) -> Vec<ReplicaId> {
    let Life { after, born, dead } = state.life;
    let seen = dead.iter().flat_map(|dead| dead.seen.iter());
    let mut writers: Vec<ReplicaId> = [after, born, dead.map(|d| d.stamp)]
        .into_iter()
        .flatten()
        .chain(seen)
        .map(|stamp| stamp.writer)
        .collect();
    for (_, cell) in &state.cells {
        writers.push(cell.stamp.writer);
        writers.extend(cell.replaced.iter().map(|stamp| stamp.writer));
        match &cell.content {
            Content::Absent | Content::Register(_) => {}
            Content::Counter(counter) => {
                writers.extend(counter.base.map(|base| base.writer));
                writers.extend(counter.tallies.keys());
            }
            Content::Set(set) => {
                writers.extend(set.base.map(|base| base.writer));
                writers.extend(set.seen.keys());
                writers.extend(set.elements.values().flat_map(std::collections::BTreeMap::keys));
            }
        }
    }
    writers.sort_unstable();
    writers.dedup();
    writers
}
