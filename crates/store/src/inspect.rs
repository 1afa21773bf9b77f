//! Looking into a file: what is known of one record, what changed last, how long commits took.

use blazedb_core::cell::Content;
use blazedb_core::feed::Seq;
use blazedb_core::histogram::HistogramCounts;
use blazedb_core::merge::Life;
use blazedb_core::view::RemovalReason;
use blazedb_core::{RecordId, ReplicaId, Stamp};
use blazedb_sqlite::rusqlite::{Connection, OptionalExtension as _};

use crate::error::StoreError;
use crate::row::{ALIVE, StoredRow, removal_reason};
use crate::store::Store;

/// What a file knows of a record beside its values.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// Its place in the feed.
    pub seq: Seq,
    /// The number of the peer that brought its last change; 0 if it was written here.
    pub origin: u32,
    /// The replica of that peer.
    pub brought_by: Option<ReplicaId>,
    /// It is there to be read.
    pub alive: bool,
    /// Why the other side of a link took it away, if one did.
    pub removed: Option<RemovalReason>,
    /// When it was inserted and deleted.
    pub life: Life,
    /// Its fields by name, those that were removed too.
    pub fields: Vec<FieldTrace>,
}

/// What a file knows of a field of a record beside its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldTrace {
    /// Its name.
    pub name: String,
    /// Its last write.
    pub stamp: Stamp,
    /// The writes that this one replaced, as far as they are remembered.
    pub replaced: Vec<Stamp>,
    /// That write removed it.
    pub removed: bool,
    /// It is sealed, and this replica has no key for it.
    pub sealed: bool,
}

/// One of the last changes.
#[derive(Clone, PartialEq, Debug)]
pub struct RecentChange {
    /// Its place in the feed.
    pub seq: Seq,
    /// The record.
    pub id: RecordId,
    /// The record is there to be read.
    pub alive: bool,
    /// The replica of the peer that brought it; `None` if it was written here.
    pub brought_by: Option<ReplicaId>,
    /// The newest write to the record.
    pub newest: Option<Stamp>,
}

impl Store {
    /// What is known of a record; `None` if it was never here.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn trace(&self, id: RecordId) -> Result<Option<Trace>, StoreError> {
        self.read(|db| {
            let Some(row) = StoredRow::find(db, id).map_err(|error| self.sqlite(error))? else {
                return Ok(None);
            };
            let names = self.names();
            let state = row.decode(&names)?;
            let field = |(no, cell): &(u32, blazedb_core::cell::Cell)| FieldTrace {
                name: names.field(*no).map_or_else(|| format!("#{no}"), ToString::to_string),
                stamp: cell.stamp,
                replaced: cell.replaced.clone(),
                removed: matches!(cell.content, Content::Absent),
                sealed: matches!(cell.content, Content::Sealed(_)),
            };
            let mut fields: Vec<FieldTrace> = state.cells.iter().map(field).collect();
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            let brought_by = self.replica_of(db, row.origin)?;
            let (seq, origin, alive) = (row.seq, row.origin, row.state == ALIVE);
            let removed = removal_reason(row.state);
            Ok(Some(Trace { seq, origin, brought_by, alive, removed, life: state.life, fields }))
        })
    }

    /// The last changes, newest first, at most `limit`.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn recent(&self, limit: usize) -> Result<Vec<RecentChange>, StoreError> {
        let sql = "SELECT seq, id, state, origin, tx, history, body FROM records ORDER BY seq DESC LIMIT ?";
        self.read(|db| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows: Vec<StoredRow> = db
                .prepare_cached(sql)
                .and_then(|mut all| all.query_map([limit], StoredRow::read)?.collect())
                .map_err(|error| self.sqlite(error))?;
            let names = self.names();
            let change = |row: StoredRow| {
                let newest = row.decode(&names)?.newest();
                let brought_by = self.replica_of(db, row.origin)?;
                Ok(RecentChange { seq: row.seq, id: row.id, alive: row.state == ALIVE, brought_by, newest })
            };
            rows.into_iter().map(change).collect()
        })
    }

    /// How long commits took, from the first statement to the last, since the file was opened.
    #[must_use]
    pub fn commit_times(&self) -> HistogramCounts {
        self.inner.commit_times.counts()
    }

    fn replica_of(&self, db: &Connection, origin: u32) -> Result<Option<ReplicaId>, StoreError> {
        db.prepare_cached("SELECT replica FROM peers WHERE no=?")
            .and_then(|mut find| find.query_row([origin], |row| row.get::<_, [u8; 16]>(0)).optional())
            .map(|bytes| bytes.map(ReplicaId::from_bytes))
            .map_err(|error| self.sqlite(error))
    }
}
