//! Local writes: one transaction, one stamp.

use std::collections::BTreeMap;

use blazedb_core::blazebinary::{FieldNo, OwnedValue};
use blazedb_core::cell::{Cell, Content, Counter, Set};
use blazedb_core::feed::Seq;
use blazedb_core::history::{HistoryHead, HistoryWriter};
use blazedb_core::limits::MAX_TRANSACTION_BYTES;
use blazedb_core::merge::{Life, RecordState, Tombstone};
use blazedb_core::{Clock, FieldEdit, FieldEdits, Filter, Hlc, Record, RecordId, ReplicaId, Stamp, Value};
use blazedb_sqlite::rusqlite::{CachedStatement, Connection, params};

use crate::error::StoreError;
use crate::functions::{now, stored_matches};
use crate::graves;
use crate::names::NameTable;
use crate::query::decode;
use crate::row::{ALIVE, ID_BYTES, Place, RowBuffer, StoredRow};
use crate::store::{Store, Writer, lock};
use crate::views::keep_shadow;

/// A transaction on one database. What it does is seen, sent and applied elsewhere as one piece.
pub struct Transaction<'a> {
    pub(crate) store: &'a Store,
    pub(crate) db: &'a Connection,
    pub(crate) names: &'a mut NameTable,
    clock: &'a mut Clock,
    buffer: &'a mut RowBuffer,
    shadows_from: Seq,
    next_seq: &'a mut Seq,
    stamp: Stamp,
    first_seq: Seq,
    bytes: usize,
    plain: Option<PlainInserts<'a>>,
    /// Records that were written, in order, each as often as it was.
    pub(crate) touched: Vec<RecordId>,
}

/// What inserts of new records have in common in one transaction.
struct PlainInserts<'a> {
    statement: CachedStatement<'a>,
    history: Vec<u8>,
}

/// An edit whose writer and time are given, as in an edit trace.
#[derive(Clone, Debug)]
pub struct TracedEdit {
    /// The record.
    pub id: RecordId,
    /// When and by whom.
    pub stamp: Stamp,
    /// What was done.
    pub op: TracedOp,
}

/// What a [`TracedEdit`] does.
#[derive(Clone, Debug)]
pub enum TracedOp {
    /// The record comes to be (or comes back) with these fields.
    Insert(BTreeMap<String, Value>),
    /// These fields are written; the record need not be here yet.
    Update(BTreeMap<String, Value>),
    /// The record goes.
    Delete,
}

impl Store {
    /// Runs `work` in a transaction: all of it happens or nothing.
    ///
    /// # Errors
    /// What `work` answers, and whatever keeps the commit from being durable.
    pub fn transaction<T>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.commit(|writer| {
            let time = writer.clock.tick(self.now_ms());
            let stamp = Stamp::new(time, self.replica());
            let mut transaction = Transaction::new(self, writer, stamp);
            let value = work(&mut transaction)?;
            // Also where `work` went on after it had been told.
            transaction.count(0)?;
            Ok(value)
        })
    }

    /// A version 7 id for a new record. Those of one millisecond ascend.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new_id(&self) -> Result<RecordId, StoreError> {
        lock(&self.inner.ids).next(self.now_ms())
    }
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(store: &'a Store, writer: &'a mut Writer, stamp: Stamp) -> Self {
        let Writer { db, names, clock, buffer, next_seq, shadows_from, .. } = writer;
        Self {
            store,
            db,
            names,
            clock,
            buffer,
            shadows_from: *shadows_from,
            stamp,
            first_seq: *next_seq,
            next_seq,
            bytes: 0,
            plain: None,
            touched: Vec::new(),
        }
    }

    pub(crate) const fn store(&self) -> &'a Store {
        self.store
    }

    /// Inserts a record.
    ///
    /// # Errors
    /// [`StoreError::RecordExists`] if it is there already, and what is wrong with the fields.
    pub fn insert(&mut self, id: RecordId, fields: &BTreeMap<String, Value>) -> Result<(), StoreError> {
        self.raise(id)?;
        if !self.insert_plain(id, fields)? {
            self.insert_over(id, fields)?;
        }
        Ok(())
    }

    /// Changes fields of a record.
    ///
    /// # Errors
    /// [`StoreError::NoRecord`] if it is not there, and what is wrong with the edits.
    pub fn update(&mut self, id: RecordId, edits: &FieldEdits) -> Result<(), StoreError> {
        let row = self.find(id)?;
        let row = row.ok_or(StoreError::NoRecord(id))?;
        let mut state = row.decode(self.names)?;
        if !state.life.is_alive() {
            return Err(StoreError::NoRecord(id));
        }
        if edits.is_empty() {
            return Ok(());
        }
        let seq = self.take_seq();
        for (name, edit) in edits {
            let field = self.names.intern_own_field(self.db, name)?;
            let old = Old { cell: state.cell(field), floor: state.life.floor() };
            let cell = edited(name, old, edit, self.stamp, seq)?;
            state.put(field, cell);
        }
        self.write(id, &state, seq, Some(&row))
    }

    /// Inserts a record, or writes these fields of the one that is there. Answers whether it inserted.
    ///
    /// # Errors
    /// What is wrong with the fields.
    pub fn upsert(&mut self, id: RecordId, fields: &BTreeMap<String, Value>) -> Result<bool, StoreError> {
        if self.get(id)?.is_none() {
            return self.insert(id, fields).map(|()| true);
        }
        let edits = fields.iter().map(|(name, value)| (name.clone(), FieldEdit::Set(value.clone())));
        self.update(id, &edits.collect()).map(|()| false)
    }

    /// The record as this transaction has made it.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn get(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        let row = self.find(id)?.filter(|row| row.state == ALIVE);
        row.map(|row| decode(id, &row.body, self.names, None)).transpose()
    }

    /// Whether the record is there and matches, as this transaction has made it.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn matches(&self, id: RecordId, filter: &Filter) -> Result<bool, StoreError> {
        let row = self.find(id)?.filter(|row| row.state == ALIVE);
        let matches = |row: StoredRow| stored_matches(filter, id, &row.body, self.names, now());
        Ok(row.and_then(matches) == Some(true))
    }

    /// How many bytes the transaction has changed so far.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Deletes a record.
    ///
    /// # Errors
    /// [`StoreError::NoRecord`] if it is not there.
    pub fn delete(&mut self, id: RecordId) -> Result<(), StoreError> {
        let row = self.find(id)?.ok_or(StoreError::NoRecord(id))?;
        let state = row.decode(self.names)?;
        if !state.life.is_alive() {
            return Err(StoreError::NoRecord(id));
        }
        let seq = self.take_seq();
        let dead = Some(Tombstone::new(self.stamp, &state));
        let state = RecordState { life: Life { dead, ..state.life }, cells: Vec::new() };
        self.write(id, &state, seq, Some(&row))
    }

    /// Applies an edit that carries its own clock. Nothing is refused for what the record is like here: in a
    /// trace, a device may edit what it has not received yet.
    ///
    /// # Errors
    /// What is wrong with the fields, or a stamp too far in the future.
    pub fn apply_traced(&mut self, edit: &TracedEdit) -> Result<(), StoreError> {
        let now_ms = self.store.now_ms();
        self.clock.observe(edit.stamp.time, now_ms)?;
        self.raise(edit.id)?;
        let seq = *self.next_seq;
        let mut incoming = RecordState::default();
        let row = self.find(edit.id)?;
        let mut state = match &row {
            Some(row) => row.decode(self.names)?,
            None => RecordState::default(),
        };
        incoming.life.after = state.life.after;
        match &edit.op {
            TracedOp::Insert(fields) => {
                incoming.life.born = Some(edit.stamp);
                incoming.cells = self.traced_cells(fields, &state, edit.stamp, seq)?;
            }
            TracedOp::Update(fields) => {
                incoming.cells = self.traced_cells(fields, &state, edit.stamp, seq)?;
            }
            TracedOp::Delete => {
                incoming.life.dead = Some(Tombstone::new(edit.stamp, &state));
            }
        }
        if state.merge(incoming, seq).changed {
            self.take_seq();
            self.intern_writers(&state)?;
            self.write(edit.id, &state, seq, row.as_ref())?;
        }
        Ok(())
    }

    /// What is written to a record whose tombstone was dropped meets it first.
    fn raise(&mut self, id: RecordId) -> Result<(), StoreError> {
        if !self.store.has_graves() {
            return Ok(());
        }
        let sqlite = |error| self.store.sqlite(error);
        if let Some(grave) = graves::find(self.db, self.names, id).map_err(sqlite)? {
            let seq = self.take_seq();
            let (place, life) = (self.place(seq), graves::made_again(grave, &Life::default()));
            graves::put_back(self.store, (self.db, self.names, self.buffer), id, &life, place)?;
        }
        Ok(())
    }

    fn traced_cells(
        &mut self,
        fields: &BTreeMap<String, Value>,
        state: &RecordState,
        stamp: Stamp,
        seq: u64,
    ) -> Result<Vec<(FieldNo, Cell)>, StoreError> {
        let mut cells = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            let field = self.names.intern_own_field(self.db, name)?;
            cells.push((field, Cell::write(stamp, state.cell(field), content(value, stamp), seq)));
        }
        cells.sort_unstable_by_key(|(field, _)| *field);
        Ok(cells)
    }

    fn intern_writers(&mut self, state: &RecordState) -> Result<(), StoreError> {
        for writer in crate::row::writers_of(state) {
            self.intern_writer(writer)?;
        }
        Ok(())
    }

    fn intern_writer(&mut self, writer: ReplicaId) -> Result<u32, StoreError> {
        self.names.intern_writer(self.db, writer).map_err(|error| self.store.sqlite(error))
    }

    fn find(&self, id: RecordId) -> Result<Option<StoredRow>, StoreError> {
        StoredRow::find(self.db, id).map_err(|error| self.store.sqlite(error))
    }

    /// The common case: an id that was never used, and nothing mergeable. Answers whether it was that.
    fn insert_plain(&mut self, id: RecordId, fields: &BTreeMap<String, Value>) -> Result<bool, StoreError> {
        let mut numbered = Vec::with_capacity(fields.len());
        let mut before = None;
        for (name, value) in fields {
            if matches!(value, Value::Counter(_) | Value::Set(_)) {
                return Ok(false);
            }
            let field = self.names.intern_next(self.db, before, name)?;
            numbered.push((field, value));
            before = Some(field);
        }
        if !numbered.is_sorted_by_key(|(field, _)| *field) {
            numbered.sort_unstable_by_key(|(field, _)| *field);
        }
        let RowBuffer { builder, body, .. } = &mut *self.buffer;
        builder.clear();
        body.clear();
        for (field, value) in numbered {
            builder.push(field, value).map_err(|error| StoreError::Encode { id, error })?;
        }
        builder.finish_into(body);
        self.insert_body(id)
    }

    /// Inserts a record whose body is in the buffer, unless its id is known. Answers whether it did.
    fn insert_body(&mut self, id: RecordId) -> Result<bool, StoreError> {
        let mut plain = match self.plain.take() {
            Some(plain) => plain,
            None => self.plain_inserts()?,
        };
        self.count(plain.history.len() + self.buffer.body.len() + ID_BYTES)?;
        let place = self.place(*self.next_seq);
        let row = params![place.seq, id.as_bytes().as_slice(), place.tx, plain.history, self.buffer.body];
        let inserted = plain.statement.execute(row).map_err(|error| self.store.sqlite(error))? == 1;
        self.plain = Some(plain);
        if inserted {
            self.take_seq();
            self.touched.push(id);
        }
        Ok(inserted)
    }

    fn plain_inserts(&mut self) -> Result<PlainInserts<'a>, StoreError> {
        let writer_no = self.intern_writer(self.stamp.writer)?;
        let statement = RowBuffer::prepare_insert_plain(self.db).map_err(|error| self.store.sqlite(error))?;
        let mut history = Vec::new();
        HistoryWriter { writer_no: &mut |_| writer_no, row_seq: None }
            .head(&HistoryHead::inserted(self.stamp), &mut history);
        Ok(PlainInserts { statement, history })
    }

    /// An insert where something is known of the id already, or with mergeable fields.
    fn insert_over(&mut self, id: RecordId, fields: &BTreeMap<String, Value>) -> Result<(), StoreError> {
        let row = self.find(id)?;
        let known = match &row {
            Some(row) => row.decode(self.names)?,
            None => RecordState::default(),
        };
        if known.life.is_alive() {
            return Err(StoreError::RecordExists(id));
        }
        let seq = self.take_seq();
        let after = known.life.dead.map(|dead| dead.stamp).or(known.life.after);
        let mut state =
            RecordState { life: Life { after, born: Some(self.stamp), dead: None }, ..Default::default() };
        for (name, value) in fields {
            let field = self.names.intern_own_field(self.db, name)?;
            let old = known.cell(field).filter(|_| after == known.life.after);
            state.put(field, Cell::write(self.stamp, old, content(value, self.stamp), seq));
        }
        if after == known.life.after {
            for (field, cell) in known.cells {
                if state.cell(field).is_none() {
                    state.put(field, cell);
                }
            }
        }
        self.write(id, &state, seq, row.as_ref())
    }

    fn write(
        &mut self,
        id: RecordId,
        state: &RecordState,
        seq: u64,
        old: Option<&StoredRow>,
    ) -> Result<(), StoreError> {
        self.intern_writer(self.stamp.writer)?;
        if let Some(old) = old {
            keep_shadow(self.db, self.shadows_from, old, seq).map_err(|error| self.store.sqlite(error))?;
        }
        let place = self.place(seq);
        let Self { db, buffer, .. } = self;
        buffer.encode(id, state, seq, self.names)?;
        let written = match old {
            Some(old) => buffer.replace(db, old.seq, state.life, place),
            None => buffer.insert_new(db, id, state.life, place).map(drop),
        };
        let bytes = buffer.len();
        self.touched.push(id);
        written.map_err(|error| self.store.sqlite(error))?;
        self.count(bytes)
    }

    /// Takes the next feed sequence.
    const fn take_seq(&mut self) -> Seq {
        let seq = *self.next_seq;
        *self.next_seq += 1;
        seq
    }

    const fn place(&self, seq: u64) -> Place {
        Place { seq, origin: 0, tx: seq.saturating_sub(self.first_seq) }
    }

    pub(crate) fn count(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.bytes += bytes;
        if self.bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge { limit: MAX_TRANSACTION_BYTES });
        }
        Ok(())
    }

    pub(crate) const fn db(&self) -> &Connection {
        self.db
    }

    /// Whether the record is there to be read, as far as this transaction has come.
    pub(crate) fn is_here(&self, id: RecordId) -> Result<bool, StoreError> {
        Ok(self.find(id)?.is_some_and(|row| row.state == ALIVE))
    }

    /// The time that the transaction's writes carry.
    #[must_use]
    pub const fn time(&self) -> Hlc {
        self.stamp.time
    }
}

fn content(value: &Value, stamp: Stamp) -> Content {
    match value {
        Value::Counter(sum) => Content::Counter(Counter::assigned(*sum, stamp)),
        Value::Set(elements) => Content::Set(Set::assigned(elements.iter().map(OwnedValue::from), stamp)),
        other => Content::Register(OwnedValue::from(other)),
    }
}

/// What an edit finds.
#[derive(Clone, Copy)]
struct Old<'a> {
    cell: Option<&'a Cell>,
    /// What began below this is not kept by any replica.
    floor: Option<Stamp>,
}

impl Old<'_> {
    /// Where a mergeable value begins that was not there. Over a removed field it starts from the removal, so
    /// that it wins over it; where the field never was, two replicas that start it at once start the same one.
    fn base(&self) -> Option<Stamp> {
        self.cell.map(|cell| cell.stamp).max(self.floor)
    }
}

fn edited(name: &str, old: Old<'_>, edit: &FieldEdit, stamp: Stamp, seq: u64) -> Result<Cell, StoreError> {
    let content = match edit {
        FieldEdit::Set(value) => content(value, stamp),
        FieldEdit::Unset => Content::Absent,
        FieldEdit::Increment(amount) => {
            let mut counter = match old.cell.map(|cell| &cell.content) {
                Some(Content::Counter(counter)) => counter.clone(),
                None | Some(Content::Absent) => Counter { base: old.base(), ..Counter::default() },
                Some(other) => return Err(wrong_type(name, other, "only a counter takes $inc")),
            };
            counter.add(stamp, *amount);
            Content::Counter(counter)
        }
        FieldEdit::SetEdit { add, remove } => {
            let mut set = match old.cell.map(|cell| &cell.content) {
                Some(Content::Set(set)) => set.clone(),
                None | Some(Content::Absent) => Set { base: old.base(), ..Set::default() },
                Some(other) => return Err(wrong_type(name, other, "only a set takes $add and $remove")),
            };
            set.edit(add.iter().map(OwnedValue::from), remove.iter().map(OwnedValue::from), stamp);
            Content::Set(set)
        }
    };
    Ok(Cell::write(stamp, old.cell, content, seq))
}

fn wrong_type(name: &str, content: &Content, problem: &'static str) -> StoreError {
    let found = match content {
        Content::Absent => "removed field",
        Content::Register(value) => value.to_value().type_name(),
        Content::Counter(_) => "counter",
        Content::Set(_) => "set",
        Content::Sealed(_) => "sealed field",
    };
    StoreError::WrongType { field: name.to_owned(), found, problem }
}
