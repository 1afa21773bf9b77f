//! What relations between databases ask of a file: who refers to a record, and whether it is gone for good.

use blazedb_core::RecordId;
use blazedb_sqlite::rusqlite::{Connection, params_from_iter};

use crate::error::StoreError;
use crate::graves;
use crate::names::NameTable;
use crate::row::{ALIVE, StoredRow};
use crate::schema::{meta, set_meta};
use crate::sql_filter::SqlParam;
use crate::store::Store;
use crate::write::Transaction;

/// What is known of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It is there.
    Here,
    /// It was deleted.
    Deleted,
    /// It was never seen here: it may be on its way, or nowhere.
    Unknown,
}

impl Presence {
    fn find(store: &Store, db: &Connection, names: &NameTable, id: RecordId) -> Result<Self, StoreError> {
        let sqlite = |error| store.sqlite(error);
        Ok(match StoredRow::find(db, id).map_err(sqlite)? {
            None if graves::find(db, names, id).map_err(sqlite)?.is_some() => Self::Deleted,
            None => Self::Unknown,
            Some(row) if row.state == ALIVE => Self::Here,
            Some(row) if row.head(names)?.life.dead.is_some() => Self::Deleted,
            Some(_) => Self::Unknown,
        })
    }
}

impl Store {
    /// What is known of a record.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn presence(&self, id: RecordId) -> Result<Presence, StoreError> {
        self.read_once(|db| Presence::find(self, db, &self.names(), id))
    }

    /// A number that the application of this file keeps in it under a name.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn mark(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let key = format!("mark {name}");
        self.read_once(|db| meta(db, &key).map_err(|error| self.sqlite(error)))
    }

    /// Keeps a number under a name.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn set_mark(&self, name: &str, value: i64) -> Result<(), StoreError> {
        let key = format!("mark {name}");
        self.commit(|writer| set_meta(&writer.db, &key, value).map_err(|error| self.sqlite(error)))
    }
}

impl Transaction<'_> {
    /// The records whose field holds this id, as a uuid or as its text, as this transaction has made them.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn referring(&self, field: &str, id: RecordId) -> Result<Vec<RecordId>, StoreError> {
        let Some(no) = self.names.field_no(field) else { return Ok(Vec::new()) };
        let sql = format!("SELECT id FROM records WHERE state={ALIVE} AND bz(body,{no}) IN (?,?)");
        let keys =
            [SqlParam::Blob([&[2], id.as_bytes().as_slice()].concat()), SqlParam::Text(id.to_string())];
        let find = || {
            let mut find = self.db.prepare_cached(&sql)?;
            let found =
                find.query_map(params_from_iter(&keys), |row| Ok(RecordId::from_bytes(row.get(0)?)))?;
            found.collect::<Result<Vec<_>, _>>()
        };
        find().map_err(|error| self.store.sqlite(error))
    }

    /// What is known of a record, as this transaction has made it.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn presence(&self, id: RecordId) -> Result<Presence, StoreError> {
        Presence::find(self.store, self.db, self.names, id)
    }

    /// Records that this transaction has written so far, once each.
    #[must_use]
    pub fn touched(&self) -> Vec<RecordId> {
        let mut touched = self.touched.clone();
        touched.sort_unstable();
        touched.dedup();
        touched
    }
}
