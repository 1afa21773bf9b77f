//! What is left of a deletion once its tombstone is dropped: the record's id, when and by whom it was deleted, and which
//! deletion the record's incarnation followed.
//!
//! Invariants:
//! - a record with a grave has no row; a row takes its grave with it;
//! - whatever arrives of a record with a grave meets its tombstone first, made again: so what the law of merging makes of
//!   it is what it would be had the tombstone never been dropped, by whatever path it comes.

use std::sync::atomic::Ordering;

use blazedb_core::merge::{Life, RecordState, Tombstone};
use blazedb_core::{Hlc, RecordId, Stamp};
use blazedb_sqlite::rusqlite::{self, Connection, OptionalExtension, params};

use crate::error::StoreError;
use crate::names::NameTable;
use crate::row::{GONE, Place, RowBuffer, StoredRow, writers_of};
use crate::store::{Store, Writer};

/// What is known of a deletion whose tombstone was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Grave {
    /// The deletion.
    pub(crate) dead: Stamp,
    /// The deletion that the deleted incarnation followed.
    pub(crate) after: Option<Stamp>,
}

impl Store {
    /// Whether any tombstone was ever dropped.
    pub(crate) fn has_graves(&self) -> bool {
        self.inner.has_graves.load(Ordering::Acquire)
    }
}

impl Writer {
    /// Makes the tombstone of a record again, for what arrives of it, as a row that everybody who reads here is told of.
    /// Answers whether there was a grave.
    pub(crate) fn raise(
        &mut self,
        store: &Store,
        id: RecordId,
        life: &Life,
        first_seq: u64,
    ) -> Result<bool, StoreError> {
        if !store.has_graves() {
            return Ok(false);
        }
        let Self { db, names, buffer, next_seq, .. } = self;
        let Some(grave) = find(db, names, id).map_err(|error| store.sqlite(error))? else {
            return Ok(false);
        };
        let place = Place { seq: *next_seq, origin: 0, tx: next_seq.saturating_sub(first_seq) };
        *next_seq += 1;
        put_back(store, (db, names, buffer), id, &made_again(grave, life), place)?;
        Ok(true)
    }
}

/// Puts a tombstone in the place of its grave.
pub(crate) fn put_back(
    store: &Store,
    (db, names, buffer): (&Connection, &mut NameTable, &mut RowBuffer),
    id: RecordId,
    life: &Life,
    place: Place,
) -> Result<(), StoreError> {
    let sqlite = |error| store.sqlite(error);
    let state = RecordState { life: *life, cells: Vec::new() };
    for writer in writers_of(&state) {
        names.intern_writer(db, writer).map_err(sqlite)?;
    }
    buffer.encode(id, &state, place.seq, names)?;
    buffer.insert_new(db, id, state.life, place).map_err(sqlite)?;
    let forget = db.prepare_cached("DELETE FROM graves WHERE id=?");
    forget.and_then(|mut forget| forget.execute([id.as_bytes().as_slice()])).map(drop).map_err(sqlite)
}

/// The grave of a record.
pub(crate) fn find(db: &Connection, names: &NameTable, id: RecordId) -> rusqlite::Result<Option<Grave>> {
    let mut find =
        db.prepare_cached("SELECT time, writer, after_time, after_writer FROM graves WHERE id=?")?;
    let stamp = |time: i64, writer: u32| Some(Stamp::new(Hlc(time.cast_unsigned()), names.writer(writer)?));
    let found = find.query_row([id.as_bytes().as_slice()], |row| {
        let after: (Option<i64>, Option<u32>) = (row.get(2)?, row.get(3)?);
        let after = after.0.zip(after.1).and_then(|(time, writer)| stamp(time, writer));
        Ok(stamp(row.get(0)?, row.get(1)?).map(|dead| Grave { dead, after }))
    });
    Ok(found.optional()?.flatten())
}

/// The tombstone of a deletion, for whoever knows `life` of the record.
pub(crate) fn made_again(Grave { dead, after }: Grave, life: &Life) -> Life {
    let born = life.born.filter(|born| life.after == after && *born <= dead);
    Life { after, born, dead: Some(Tombstone::raised(dead)) }
}

/// The row that a record with a grave would have, for whoever knows when it was born. It is not written.
pub(crate) fn row_of(
    store: &Store,
    db: &Connection,
    names: &NameTable,
    id: RecordId,
    born: Option<Stamp>,
) -> Result<Option<StoredRow>, StoreError> {
    if !store.has_graves() {
        return Ok(None);
    }
    let Some(grave) = find(db, names, id).map_err(|error| store.sqlite(error))? else { return Ok(None) };
    // A birth that nobody here has heard of has no number to be written with.
    let born = born.filter(|born| names.writer_no(born.writer).is_some());
    let life = made_again(grave, &Life { born, after: grave.after, ..Life::default() });
    let mut buffer = RowBuffer::default();
    buffer.encode(id, &RecordState { life, cells: Vec::new() }, 0, names)?;
    let RowBuffer { history, .. } = buffer;
    Ok(Some(StoredRow { seq: 0, id, state: GONE, origin: 0, tx: 0, history, body: Vec::new() }))
}

/// Keeps a grave.
pub(crate) fn keep(db: &Connection, names: &NameTable, id: RecordId, grave: Grave) -> rusqlite::Result<()> {
    let stored = |stamp: Stamp| (stamp.time.0.cast_signed(), names.writer_no(stamp.writer));
    let ((time, writer), after) = (stored(grave.dead), grave.after.map(stored));
    let (after_time, after_writer) = (after.map(|(time, _)| time), after.and_then(|(_, writer)| writer));
    let sql = "INSERT OR REPLACE INTO graves(id, time, writer, after_time, after_writer) VALUES(?,?,?,?,?)";
    let values = params![id.as_bytes().as_slice(), time, writer, after_time, after_writer];
    db.prepare_cached(sql)?.execute(values).map(drop)
}
