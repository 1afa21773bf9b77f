//! The part of a transaction over several files that one file holds until it is decided.
//!
//! A part is the states of the records that the transaction changed, whole, with their stamps. To apply it is to
//! merge them: so it may come late, after other writes to the same records, and gives what it would have given in
//! time, as a change of a peer does.

use std::path::PathBuf;

use blazedb_core::RecordId;
use blazedb_core::blazebinary::DecodeError;
use blazedb_core::blazebinary::varint::{Reader, write_prefixed, write_varint};
use blazedb_core::feed::Seq;
use blazedb_core::limits::MAX_RECORD_BYTES;
use blazedb_core::merge::RecordState;
use blazedb_sqlite::rusqlite::{Connection, Row, params};

use crate::error::StoreError;
use crate::journal::{Decision, Journal, TransactionId, decision};
use crate::row::{ALIVE, Place, StoredRow, writers_of};
use crate::store::{Store, Writer};
use crate::views::keep_shadow;

/// A transaction over several files of which this file does not know whether it happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InDoubt {
    /// The transaction.
    pub id: TransactionId,
    /// The journal that says it.
    pub journal: PathBuf,
    /// When it was prepared, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

struct Part {
    doubt: InDoubt,
    journal_id: [u8; 16],
    rows: Vec<u8>,
}

impl Part {
    fn read(row: &Row<'_>) -> blazedb_sqlite::rusqlite::Result<Self> {
        let doubt = InDoubt {
            id: TransactionId::from_bytes(row.get(0)?),
            journal: PathBuf::from(row.get::<_, String>(2)?),
            at_ms: row.get(3)?,
        };
        Ok(Self { doubt, journal_id: row.get(1)?, rows: row.get(4)? })
    }

    /// Where the journal may be: where it was, or beside this file if both were moved.
    fn journals(&self, store: &Store) -> Vec<PathBuf> {
        let beside = self.doubt.journal.file_name().map(|name| store.path().with_file_name(name));
        std::iter::once(self.doubt.journal.clone()).chain(beside).collect()
    }
}

impl Store {
    /// Transactions over several files that this file has a part of and can't decide: their journal is missing.
    /// Their changes are not to be seen until then.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn in_doubt(&self) -> Result<Vec<InDoubt>, StoreError> {
        let parts = self.read_once(|db| parts(db).map_err(|error| self.sqlite(error)))?;
        Ok(parts.into_iter().map(|part| part.doubt).collect())
    }

    /// Decides a transaction that is in doubt, when its journal is lost for good. Every other file of the transaction
    /// must be told the same.
    ///
    /// # Errors
    /// [`StoreError::NotInDoubt`]; if the file can't be written.
    pub fn resolve(&self, id: TransactionId, happened: bool) -> Result<(), StoreError> {
        let parts = self.read_once(|db| parts(db).map_err(|error| self.sqlite(error)))?;
        let part = parts.into_iter().find(|part| part.doubt.id == id).ok_or(StoreError::NotInDoubt(id))?;
        let decided = if happened { Decision::Committed } else { Decision::Dropped };
        self.settle(&part, decided)
    }

    /// Applies or drops what an earlier run left prepared, as the journals say.
    pub(crate) fn recover(&self) -> Result<(), StoreError> {
        for part in self.read_once(|db| parts(db).map_err(|error| self.sqlite(error)))? {
            let decided = decision(&part.journals(self), part.journal_id, part.doubt.id)?;
            self.settle(&part, decided)?;
        }
        Ok(())
    }

    fn settle(&self, part: &Part, decided: Decision) -> Result<(), StoreError> {
        if decided == Decision::Unknown {
            return Ok(());
        }
        self.commit_with(self.writer_slot(), |writer| {
            let sqlite = |error| self.sqlite(error);
            // Somebody else may have been here, and others may have written on top of it since.
            let still = "SELECT 1 FROM prepared WHERE tx=?";
            let still = writer
                .db
                .prepare_cached(still)
                .and_then(|mut still| still.exists([part.doubt.id.as_bytes().as_slice()]));
            if !still.map_err(sqlite)? {
                return Ok(());
            }
            if decided == Decision::Committed {
                apply_part(self, writer, &part.rows)?;
            }
            drop_part(self, writer, part.doubt.id)
        })
    }
}

fn parts(db: &Connection) -> blazedb_sqlite::rusqlite::Result<Vec<Part>> {
    let mut all = db.prepare_cached("SELECT tx, journal, path, at_ms, rows FROM prepared ORDER BY no")?;
    all.query_map([], Part::read)?.collect()
}

/// The rows of these records, as a part, and how many they are.
pub(crate) fn part_of(
    store: &Store,
    writer: &Writer,
    ids: &[RecordId],
) -> Result<(Vec<u8>, u64), StoreError> {
    let mut rows = Vec::new();
    for id in ids {
        if let Some(row) = StoredRow::find(&writer.db, *id).map_err(|error| store.sqlite(error))? {
            rows.push(row);
        }
    }
    rows.sort_unstable_by_key(|row| row.seq);
    let (mut bytes, count) = (Vec::new(), rows.len() as u64);
    for row in rows {
        write_varint(row.seq, &mut bytes);
        bytes.extend_from_slice(row.id.as_bytes());
        write_prefixed(&row.history, &mut bytes);
        write_prefixed(&row.body, &mut bytes);
    }
    Ok((bytes, count))
}

/// Keeps a part, with the transaction that is open.
pub(crate) fn keep_part(
    store: &Store,
    writer: &Writer,
    id: TransactionId,
    journal: &Journal,
    rows: &[u8],
) -> Result<(), StoreError> {
    let path = journal.path().to_str().ok_or_else(|| {
        StoreError::Io(journal.path().to_owned(), std::io::Error::other("the path is not UTF-8"))
    })?;
    let sql = "INSERT INTO prepared(tx, journal, path, at_ms, rows) VALUES(?,?,?,?,?)";
    let (id, journal, at_ms) = (id.as_bytes().as_slice(), journal.id(), store.now_ms());
    let kept = writer.db.execute(sql, params![id, journal.as_slice(), path, at_ms, rows]);
    kept.map(drop).map_err(|error| store.sqlite(error))
}

/// Forgets a part, with the transaction that is open.
pub(crate) fn drop_part(store: &Store, writer: &Writer, id: TransactionId) -> Result<(), StoreError> {
    let dropped = writer.db.execute("DELETE FROM prepared WHERE tx=?", [id.as_bytes().as_slice()]);
    dropped.map(drop).map_err(|error| store.sqlite(error))
}

/// Applies a part, in the transaction that is open.
pub(crate) fn apply_part(store: &Store, writer: &mut Writer, rows: &[u8]) -> Result<(), StoreError> {
    let first_seq = writer.next_seq;
    let mut reader = Reader::new(rows);
    while !reader.is_empty() {
        let seq: Seq = reader.read_varint()?;
        let id = RecordId::from_bytes(reader.read_array()?);
        let history = reader.read_prefixed(MAX_RECORD_BYTES)?.to_vec();
        let body = reader.read_prefixed(MAX_RECORD_BYTES)?.to_vec();
        apply_row(
            store,
            writer,
            first_seq,
            StoredRow { seq, id, state: ALIVE, origin: 0, tx: 0, history, body },
        )?;
    }
    Ok(())
}

fn apply_row(store: &Store, writer: &mut Writer, first_seq: Seq, part: StoredRow) -> Result<(), StoreError> {
    let sqlite = |error| store.sqlite(error);
    let head = part.head(&writer.names)?;
    writer.raise(store, part.id, &head.life, first_seq)?;
    let seq = writer.next_seq;
    let place = Place { seq, origin: 0, tx: seq.saturating_sub(first_seq) };
    let known = StoredRow::find(&writer.db, part.id).map_err(sqlite)?;
    if head.uniform && known.is_none() {
        // Inserted and not touched since: the row is what it was.
        writer.buffer.history = part.history;
        writer.buffer.body = part.body;
        writer.buffer.insert_new(&writer.db, part.id, head.life, place).map_err(sqlite)?;
        writer.take_seq();
        return Ok(());
    }
    let incoming = part.decode(&writer.names)?;
    let mut state = match &known {
        Some(row) => row.decode(&writer.names)?,
        None => RecordState::default(),
    };
    let newest = incoming.newest().ok_or(DecodeError::Mismatch)?.time;
    writer.clock.observe(newest, newest.millis())?;
    let report = state.merge(incoming, seq);
    for displaced in &report.displaced {
        store.log_conflict(writer, part.id, displaced)?;
    }
    if !report.changed {
        return Ok(());
    }
    writer.take_seq();
    for replica in writers_of(&state) {
        writer.names.intern_writer(&writer.db, replica).map_err(sqlite)?;
    }
    let Writer { db, names, buffer, shadows_from, .. } = writer;
    buffer.encode(part.id, &state, seq, names)?;
    if let Some(row) = &known {
        keep_shadow(db, *shadows_from, row, seq).map_err(sqlite)?;
    }
    match known {
        Some(row) => buffer.replace(db, row.seq, state.life, place),
        None => buffer.insert_new(db, part.id, state.life, place).map(drop),
    }
    .map_err(sqlite)
}
