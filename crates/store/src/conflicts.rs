//! The conflict log: what concurrent writes and deletes displaced, for the application to look at.

use blazedb_core::blazebinary::decode_value;
use blazedb_core::cell::Content;
use blazedb_core::limits::MAX_CONFLICTS;
use blazedb_core::merge::{ConflictKind, Displaced};
use blazedb_core::{Hlc, RecordId, ReplicaId, Stamp, Value};
use blazedb_sqlite::rusqlite::{Connection, Row, params};

use crate::error::StoreError;
use crate::store::{Store, Writer};

/// A write that lost.
#[derive(Clone, PartialEq, Debug)]
pub struct Conflict {
    /// The record.
    pub id: RecordId,
    /// The field.
    pub field: String,
    /// What was written; `None` if the field was removed.
    pub value: Option<Value>,
    /// When and by which replica.
    pub stamp: Stamp,
    /// The write or deletion that won.
    pub winner: Stamp,
    /// Why it lost.
    pub kind: ConflictKind,
    /// When this replica found out, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Store {
    /// The conflict log, newest first.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, StoreError> {
        let sql = "SELECT id, field, value, stamp, winner, kind, at_ms FROM conflicts ORDER BY no DESC";
        self.read(|db| {
            db.prepare_cached(sql)
                .and_then(|mut all| all.query_map([], read_conflict)?.collect())
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Adds to the log, once. Answers whether it is new.
    pub(crate) fn log_conflict(
        &self,
        writer: &Writer,
        id: RecordId,
        displaced: &Displaced,
    ) -> Result<bool, StoreError> {
        let Some(field) = writer.names.field(displaced.field) else { return Ok(false) };
        let value = match &displaced.cell.content {
            Content::Absent => None,
            Content::Register(value) => Some(encode(&value.to_value())),
            Content::Counter(counter) => Some(encode(&Value::Counter(counter.value()))),
            Content::Set(set) => {
                let elements = set.elements.keys().map(|element| element.to_value()).collect();
                Some(encode(&Value::Set(elements)))
            }
            // Only members can tell what it was; the one that wrote it logs it.
            Content::Sealed(_) => return Ok(false),
        };
        let sql = "INSERT OR IGNORE INTO conflicts(id, field, value, stamp, winner, kind, at_ms)
                   VALUES(?,?,?,?,?,?,?)";
        let added = writer
            .db
            .prepare_cached(sql)
            .and_then(|mut insert| {
                insert.execute(params![
                    id.as_bytes().as_slice(),
                    &**field,
                    value,
                    stamp_bytes(displaced.cell.stamp),
                    stamp_bytes(displaced.winner),
                    kind_number(displaced.kind),
                    self.now_ms(),
                ])
            })
            .map_err(|error| self.sqlite(error))?;
        if added > 0 {
            let oldest = writer.db.last_insert_rowid().saturating_sub(MAX_CONFLICTS as i64);
            writer
                .db
                .prepare_cached("DELETE FROM conflicts WHERE no<=?")
                .and_then(|mut trim| trim.execute([oldest]))
                .map_err(|error| self.sqlite(error))?;
        }
        Ok(added > 0)
    }
}

/// Whether a write of a field is in the log.
pub(crate) fn has_lost(db: &Connection, id: RecordId, field: &str, stamp: Stamp) -> bool {
    let sql = "SELECT 1 FROM conflicts WHERE id=? AND field=? AND stamp=?";
    let key = params![id.as_bytes().as_slice(), field, stamp_bytes(stamp)];
    db.prepare_cached(sql).and_then(|mut find| find.exists(key)).unwrap_or(false)
}

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    blazedb_core::blazebinary::encode_value(value, &mut bytes);
    bytes
}

fn read_conflict(row: &Row<'_>) -> blazedb_sqlite::rusqlite::Result<Conflict> {
    let value: Option<Vec<u8>> = row.get(2)?;
    Ok(Conflict {
        id: RecordId::from_bytes(row.get(0)?),
        field: row.get(1)?,
        value: value.and_then(|bytes| decode_value(&bytes).ok()),
        stamp: stamp_of(row.get(3)?),
        winner: stamp_of(row.get(4)?),
        kind: kind_of(row.get(5)?),
        at_ms: row.get(6)?,
    })
}

pub(crate) fn stamp_bytes(stamp: Stamp) -> [u8; 24] {
    let mut bytes = [0; 24];
    let (time, writer) = bytes.split_at_mut(8);
    time.copy_from_slice(&stamp.time.0.to_be_bytes());
    writer.copy_from_slice(stamp.writer.as_bytes());
    bytes
}

pub(crate) fn stamp_of(bytes: [u8; 24]) -> Stamp {
    let time = bytes.first_chunk::<8>().map_or(0, |time| u64::from_be_bytes(*time));
    let writer = bytes.last_chunk::<16>().copied().unwrap_or_default();
    Stamp::new(Hlc(time), ReplicaId::from_bytes(writer))
}

const fn kind_number(kind: ConflictKind) -> u8 {
    match kind {
        ConflictKind::Overwritten => 0,
        ConflictKind::Deleted => 1,
        ConflictKind::Outlived => 2,
        ConflictKind::Decided => 3,
    }
}

const fn kind_of(number: u8) -> ConflictKind {
    match number {
        0 => ConflictKind::Overwritten,
        1 => ConflictKind::Deleted,
        3 => ConflictKind::Decided,
        _ => ConflictKind::Outlived,
    }
}
