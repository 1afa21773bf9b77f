//! One row of the table `records`, between bytes and [`RecordState`].

use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{DecodeError, RecordBuilder};
use blazedb_core::cell::Content;
use blazedb_core::feed::{PeerNo, Seq};
use blazedb_core::history::{HistoryHead, HistoryReader, HistoryWriter, UniformGroup, encode_body};
use blazedb_core::merge::{Life, RecordState};
use blazedb_core::view::RemovalReason;
use blazedb_core::{RecordId, ReplicaId};
use blazedb_sqlite::rusqlite::{CachedStatement, Connection, OptionalExtension, Result, Row, params};

use crate::error::StoreError;
use crate::names::NameTable;

/// Column `state`: there to be read.
pub(crate) const ALIVE: u8 = 0;
/// Column `state`: deleted, or only updates of it are known.
pub(crate) const GONE: u8 = 1;

/// Column `state`, less the byte of the reason: taken away by the other side of a link.
const REMOVED: u8 = 1;

/// Why the record of a row with this `state` was taken away, if it was.
pub(crate) fn removal_reason(state: u8) -> Option<RemovalReason> {
    RemovalReason::from_byte(state.checked_sub(REMOVED)?)
}

/// Length of a record's id, in bytes.
pub(crate) const ID_BYTES: usize = 16;

/// A row as it is stored: its bytes copied out, or where SQLite has them.
#[derive(Debug)]
pub(crate) struct StoredRow<B = Vec<u8>> {
    pub(crate) seq: Seq,
    pub(crate) id: RecordId,
    pub(crate) state: u8,
    pub(crate) origin: PeerNo,
    /// Position inside its transaction.
    pub(crate) tx: u64,
    pub(crate) history: B,
    pub(crate) body: B,
}

impl<'r> StoredRow<&'r [u8]> {
    pub(crate) fn borrow(row: &'r Row<'_>) -> Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            id: RecordId::from_bytes(row.get(1)?),
            state: row.get(2)?,
            origin: row.get(3)?,
            tx: row.get(4)?,
            history: row.get_ref(5)?.as_blob()?,
            body: row.get_ref(6)?.as_blob_or_null()?.unwrap_or_default(),
        })
    }
}

impl StoredRow {
    pub(crate) fn read(row: &Row<'_>) -> Result<Self> {
        let StoredRow { seq, id, state, origin, tx, history, body } = StoredRow::borrow(row)?;
        Ok(Self { seq, id, state, origin, tx, history: history.to_vec(), body: body.to_vec() })
    }

    pub(crate) fn find(db: &Connection, id: RecordId) -> Result<Option<Self>> {
        let sql = "SELECT seq, id, state, origin, tx, history, body FROM records WHERE id=?";
        db.prepare_cached(sql)?.query_row([id.as_bytes().as_slice()], Self::read).optional()
    }

    /// The first row behind a sequence.
    pub(crate) fn next_behind(db: &Connection, seq: Seq) -> Result<Option<Self>> {
        let sql =
            "SELECT seq, id, state, origin, tx, history, body FROM records WHERE seq>? ORDER BY seq LIMIT 1";
        db.prepare_cached(sql)?.query_row([crate::query::clamp(seq)], Self::read).optional()
    }

    /// Where it stands.
    pub(crate) const fn place(&self) -> Place {
        Place { seq: self.seq, origin: self.origin, tx: self.tx }
    }
}

impl<B: AsRef<[u8]>> StoredRow<B> {
    /// What is known of the record.
    pub(crate) fn decode(&self, names: &NameTable) -> std::result::Result<RecordState, DecodeError> {
        let writer = |no| names.writer(no);
        let reader = HistoryReader { writer: &writer, row_seq: Some(self.seq) };
        let mut bytes = Reader::new(self.history.as_ref());
        let state = reader.state(&mut bytes, self.body.as_ref())?;
        bytes.finish()?;
        Ok(state)
    }

    /// The sealed values of a uniform history that has some.
    ///
    /// `known` are the fields of one that was read before.
    pub(crate) fn uniform_group(
        &self,
        names: &NameTable,
        known: &[u8],
    ) -> std::result::Result<UniformGroup<'_>, DecodeError> {
        let writer = |no| names.writer(no);
        let reader = HistoryReader { writer: &writer, row_seq: Some(self.seq) };
        let mut bytes = Reader::new(self.history.as_ref());
        reader.head(&mut bytes)?;
        UniformGroup::read(&mut bytes, known)
    }

    /// The start of the history, without its cells.
    pub(crate) fn head(&self, names: &NameTable) -> std::result::Result<HistoryHead, DecodeError> {
        let writer = |no| names.writer(no);
        HistoryReader { writer: &writer, row_seq: Some(self.seq) }
            .head(&mut Reader::new(self.history.as_ref()))
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
        self.history.len() + self.body.len() + ID_BYTES
    }

    /// Inserts the row, unless there is one with this id. Answers whether it did.
    pub(crate) fn insert_new(&self, db: &Connection, id: RecordId, life: Life, place: Place) -> Result<bool> {
        insert_new(db, id, life, place, (&self.history, &self.body))
    }

    /// [`insert_new`](Self::insert_new) for many records of this node that are alive: what they share is part of
    /// the statement. Takes sequence, id, position in the transaction, history and body.
    pub(crate) fn prepare_insert_plain(db: &Connection) -> Result<CachedStatement<'_>> {
        db.prepare_cached(
            "INSERT INTO records(seq,id,state,origin,tx,history,body) VALUES(?,?,0,0,?,?,?)
             ON CONFLICT(id) DO NOTHING",
        )
    }

    /// Puts the row in the place of the one at `old_seq`.
    pub(crate) fn replace(&self, db: &Connection, old_seq: Seq, life: Life, place: Place) -> Result<()> {
        let sql = "UPDATE records SET seq=?, state=?, origin=?, tx=?, history=?, body=? WHERE seq=?";
        let (state, body) = columns(life, &self.body);
        let Place { seq, origin, tx } = place;
        db.prepare_cached(sql)?
            .execute(params![seq, state, origin, tx, self.history, body, old_seq])
            .map(drop)
    }

    /// Puts a row in the place of the one at `old_seq` that says why the record is not here.
    pub(crate) fn replace_by_removal(
        &self,
        db: &Connection,
        old_seq: Seq,
        reason: RemovalReason,
        place: Place,
    ) -> Result<()> {
        let sql = "UPDATE records SET seq=?, state=?, origin=?, tx=?, history=?, body=NULL WHERE seq=?";
        let Place { seq, origin, tx } = place;
        let state = REMOVED + reason.byte();
        db.prepare_cached(sql)?.execute(params![seq, state, origin, tx, self.history, old_seq]).map(drop)
    }
}

/// Inserts a row of `history` and `body`, unless there is one with this id. Answers whether it did.
pub(crate) fn insert_new(
    db: &Connection,
    id: RecordId,
    life: Life,
    place: Place,
    (history, body): (&[u8], &[u8]),
) -> Result<bool> {
    let sql = "INSERT INTO records(seq,id,state,origin,tx,history,body) VALUES(?,?,?,?,?,?,?)
               ON CONFLICT(id) DO NOTHING";
    let (state, body) = columns(life, body);
    let Place { seq, origin, tx } = place;
    let id = id.as_bytes().as_slice();
    Ok(db.prepare_cached(sql)?.execute(params![seq, id, state, origin, tx, history, body])? == 1)
}

fn columns(life: Life, body: &[u8]) -> (u8, Option<&[u8]>) {
    let state = if life.is_alive() { ALIVE } else { GONE };
    // An empty record that is alive has a body; a tombstone has none.
    let keep = state == ALIVE || !body.is_empty();
    (state, keep.then_some(body))
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
                writers.extend(counter.seen.keys());
            }
            Content::Sealed(sealed) => writers.extend(sealed.writers()),
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
