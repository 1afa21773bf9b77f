//! Field names and writers by number, in memory as in the file.
//!
//! Invariant: a number once given never changes. What a rolled back transaction added is forgotten again by
//! loading the tables anew.

use std::collections::HashMap;
use std::sync::Arc;

use blazedb_core::ReplicaId;
use blazedb_core::blazebinary::FieldNo;
use blazedb_core::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELD_NAMES};
use blazedb_sqlite::rusqlite::{Connection, Result, params};

use crate::error::{StoreError, from_sqlite};

/// Both tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameTable {
    fields: Vec<Arc<str>>,
    field_nos: HashMap<Arc<str>, FieldNo>,
    writers: Vec<ReplicaId>,
    writer_nos: HashMap<ReplicaId, u32>,
}

impl NameTable {
    pub(crate) fn load(db: &Connection) -> Result<Self> {
        let mut table = Self::default();
        let mut statement = db.prepare("SELECT name FROM fields ORDER BY no")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            table.push_field(row.get::<_, String>(0)?.into());
        }
        let mut statement = db.prepare("SELECT id FROM writers ORDER BY no")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            table.push_writer(ReplicaId::from_bytes(row.get(0)?));
        }
        Ok(table)
    }

    fn push_field(&mut self, name: Arc<str>) -> FieldNo {
        let no = FieldNo::try_from(self.fields.len()).unwrap_or(FieldNo::MAX);
        self.fields.push(Arc::clone(&name));
        self.field_nos.insert(name, no);
        no
    }

    fn push_writer(&mut self, writer: ReplicaId) -> u32 {
        let no = u32::try_from(self.writers.len()).unwrap_or(u32::MAX);
        self.writers.push(writer);
        self.writer_nos.insert(writer, no);
        no
    }

    /// How many names there are, of both kinds: changes with every new one.
    pub(crate) fn len(&self) -> usize {
        self.fields.len() + self.writers.len()
    }

    pub(crate) fn field(&self, no: FieldNo) -> Option<&Arc<str>> {
        self.fields.get(no as usize)
    }

    pub(crate) fn field_no(&self, name: &str) -> Option<FieldNo> {
        self.field_nos.get(name).copied()
    }

    pub(crate) fn writer(&self, no: u32) -> Option<ReplicaId> {
        self.writers.get(no as usize).copied()
    }

    pub(crate) fn writer_no(&self, writer: ReplicaId) -> Option<u32> {
        self.writer_nos.get(&writer).copied()
    }

    /// The number of a field name, given now if it is new.
    pub(crate) fn intern_field(
        &mut self,
        db: &Connection,
        name: &str,
    ) -> std::result::Result<FieldNo, StoreError> {
        if let Some(no) = self.field_no(name) {
            return Ok(no);
        }
        check_field_name(name)?;
        if self.fields.len() >= MAX_FIELD_NAMES {
            return Err(StoreError::FieldName(name.to_owned(), "the database has too many field names"));
        }
        let no = self.push_field(name.into());
        let path = std::path::Path::new("fields");
        db.prepare_cached("INSERT INTO fields VALUES(?,?)")
            .and_then(|mut insert| insert.execute(params![no, name]))
            .map_err(|error| from_sqlite(path, error))?;
        Ok(no)
    }

    /// The number of a writer, given now if it is new.
    pub(crate) fn intern_writer(&mut self, db: &Connection, writer: ReplicaId) -> Result<u32> {
        if let Some(no) = self.writer_no(writer) {
            return Ok(no);
        }
        let no = self.push_writer(writer);
        db.prepare_cached("INSERT INTO writers VALUES(?,?)")?
            .execute(params![no, writer.as_bytes().as_slice()])?;
        Ok(no)
    }
}

/// Refuses names that no record may use.
pub(crate) fn check_field_name(name: &str) -> std::result::Result<(), StoreError> {
    let problem = match name {
        "" => "it is empty",
        "id" => "it is the record's id",
        long if long.len() > MAX_FIELD_NAME_BYTES => "it is longer than 255 bytes",
        dollar if dollar.starts_with('$') => "names that start with $ are tags of the JSON form",
        _ => return Ok(()),
    };
    Err(StoreError::FieldName(name.to_owned(), problem))
}
