//! Field names and writers by number, in memory as in the file.
//!
//! Invariant: a number once given never changes. What a rolled back transaction added is forgotten again by
//! loading the tables anew.

use std::collections::HashMap;
use std::sync::Arc;

use blazedb_core::ReplicaId;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{DecodeError, FieldNo};
use blazedb_core::feed::PeerNames;
use blazedb_core::history::{HistoryReader, UniformGroup, write_group_fields};
use blazedb_core::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELD_NAMES};
use blazedb_core::merge::RecordState;
use blazedb_core::seal::is_sealed_name;
use blazedb_sqlite::rusqlite::{Connection, Result, params};

use crate::error::{StoreError, from_sqlite};
use crate::store::Writer;

/// Both tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameTable {
    fields: Vec<Arc<str>>,
    field_nos: HashMap<Arc<str>, FieldNo>,
    /// Which field followed each in the last record that had it; in front, which came first.
    followers: Vec<FieldNo>,
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

    /// The field names, by number.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Arc<str>> {
        self.fields.iter()
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

    /// As [`NameTable::intern_field`], for a field that is written here.
    pub(crate) fn intern_own_field(
        &mut self,
        db: &Connection,
        name: &str,
    ) -> std::result::Result<FieldNo, StoreError> {
        if let Some(no) = self.field_no(name).filter(|_| !is_sealed_name(name)) {
            return Ok(no);
        }
        check_field_name(name)?;
        self.intern_field(db, name)
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
        check_peer_field_name(name)?;
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

    /// Writes those that are only in memory, because the transaction that gave them was rolled back.
    pub(crate) fn store_missing(&self, db: &Connection) -> Result<()> {
        let known = |table: &str| {
            db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, usize>(0))
        };
        let (fields, writers) = (known("fields")?, known("writers")?);
        for (no, name) in self.fields.iter().enumerate().skip(fields) {
            db.execute("INSERT INTO fields VALUES(?,?)", params![no, name])?;
        }
        for (no, writer) in self.writers.iter().enumerate().skip(writers) {
            db.execute("INSERT INTO writers VALUES(?,?)", params![no, writer.as_bytes().as_slice()])?;
        }
        Ok(())
    }

    /// As [`intern_field`](Self::intern_field), for a name that stands behind the field `before` in its record.
    ///
    /// Records are alike: what followed `before` the last time is compared first, and most often nothing is hashed.
    pub(crate) fn intern_next(
        &mut self,
        db: &Connection,
        before: Option<FieldNo>,
        name: &str,
    ) -> std::result::Result<FieldNo, StoreError> {
        let at = before.map_or(0, |no| no as usize + 1);
        let guess = self.followers.get(at).copied();
        if let Some(no) = guess.filter(|no| self.field(*no).is_some_and(|known| **known == *name)) {
            return Ok(no);
        }
        let no = self.intern_own_field(db, name)?;
        if self.followers.len() <= at {
            self.followers.resize(at + 1, no);
        }
        if let Some(follower) = self.followers.get_mut(at) {
            *follower = no;
        }
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

/// Refuses names that no peer may send. Beside what records use, those are sealed names.
pub(crate) fn check_peer_field_name(name: &str) -> std::result::Result<(), StoreError> {
    if is_sealed_name(name) && name.len() <= MAX_FIELD_NAME_BYTES { Ok(()) } else { check_field_name(name) }
}

/// The numbers of this replica for those of a peer, as far as they were needed.
pub(crate) struct Numbers {
    names: Arc<PeerNames>,
    fields: Vec<Option<FieldNo>>,
    /// The fields of the last group of a uniform history, in the peer's numbers and in those of this replica.
    group: [Vec<u8>; 2],
}

impl Numbers {
    pub(crate) const fn new(names: Arc<PeerNames>) -> Self {
        Self { names, fields: Vec::new(), group: [Vec::new(), Vec::new()] }
    }

    /// A state of the peer in the numbers of this replica.
    pub(crate) fn decode(
        &mut self,
        writer: &mut Writer,
        history: &[u8],
        body: &[u8],
    ) -> std::result::Result<RecordState, StoreError> {
        let names = Arc::clone(&self.names);
        let writer_of = |no| names.writer(no);
        let reader = HistoryReader { writer: &writer_of, row_seq: None };
        reader.state(&mut Reader::new(history), body)?.renumber(|no| self.field(writer, no))
    }

    /// The number of a field, given now if its name is new here.
    pub(crate) fn field(
        &mut self,
        writer: &mut Writer,
        no: FieldNo,
    ) -> std::result::Result<FieldNo, StoreError> {
        if let Some(known) = self.known(no) {
            return Ok(known);
        }
        let name = self.names.field(no).ok_or(DecodeError::UnknownNumber(no))?;
        let Writer { db, names, .. } = writer;
        let here = names.intern_field(db, name)?;
        if self.fields.len() <= no as usize {
            self.fields.resize(no as usize + 1, None);
        }
        if let Some(slot) = self.fields.get_mut(no as usize) {
            *slot = Some(here);
        }
        Ok(here)
    }

    /// The group of a uniform history in the numbers of this replica.
    pub(crate) fn group<'a>(
        &'a mut self,
        writer: &mut Writer,
        group: UniformGroup<'a>,
    ) -> std::result::Result<UniformGroup<'a>, StoreError> {
        if self.group[0] != group.fields {
            let ours = group.numbers().map(|no| self.field(writer, no)).collect::<Result<Vec<_>, _>>()?;
            self.group = [group.fields.to_vec(), Vec::new()];
            write_group_fields(ours.into_iter(), &mut self.group[1]);
        }
        Ok(UniformGroup { fields: &self.group[1], ..group })
    }

    /// The fields of the last group, in the peer's numbers.
    pub(crate) fn last_group(&self) -> &[u8] {
        &self.group[0]
    }

    /// The number of a field that was asked for before.
    pub(crate) fn known(&self, no: FieldNo) -> Option<FieldNo> {
        self.fields.get(no as usize).copied().flatten()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number_whatever_stood_in_front_of_it() {
        let db = Connection::open_in_memory().unwrap();
        crate::schema::create(&db, ReplicaId::from_bytes([1; 16])).unwrap();
        let mut names = NameTable::default();
        let records: [&[&str]; 5] =
            [&["a", "b", "d"], &["a", "c", "d"], &["b", "d"], &["d", "a"], &["a", "b", "c", "d", "e"]];
        for record in records.iter().chain(&records).chain(records.iter().rev()) {
            let mut before = None;
            for name in *record {
                let no = names.intern_next(&db, before, name).unwrap();
                assert_eq!(names.field_no(name), Some(no), "{name}");
                assert_eq!(names.field(no).map(AsRef::as_ref), Some(*name));
                before = Some(no);
            }
        }
        assert_eq!(names.len(), 5);
        assert!(names.intern_next(&db, None, "id").is_err());
        assert_eq!(NameTable::load(&db).unwrap().fields, names.fields);
    }
}
