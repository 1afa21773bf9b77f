//! Local writes: one transaction, one stamp.

use std::collections::BTreeMap;

use blazedb_core::blazebinary::{FieldNo, OwnedValue};
use blazedb_core::cell::{Cell, Content, Counter, Set};
use blazedb_core::history::{HistoryHead, HistoryWriter};
use blazedb_core::limits::MAX_TRANSACTION_BYTES;
use blazedb_core::merge::{Life, RecordState, Tombstone};
use blazedb_core::{FieldEdit, FieldEdits, Hlc, RecordId, ReplicaId, Stamp, Value};

use crate::error::StoreError;
use crate::row::{Place, RowBuffer, StoredRow};
use crate::store::{Store, Writer};

/// A transaction on one database. What it does is seen, sent and applied elsewhere as one piece.
pub struct Transaction<'a> {
    store: &'a Store,
    writer: &'a mut Writer,
    stamp: Stamp,
    first_seq: u64,
    bytes: usize,
    scratch: Vec<(FieldNo, usize)>,
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
            let mut transaction = Transaction {
                store: self,
                stamp: Stamp::new(time, self.replica()),
                first_seq: writer.next_seq,
                writer,
                bytes: 0,
                scratch: Vec::new(),
            };
            let value = work(&mut transaction)?;
            // Also where `work` went on after it had been told.
            transaction.count(0)?;
            Ok(value)
        })
    }

    /// A version 7 id for a new record.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new_id(&self) -> Result<RecordId, StoreError> {
        let mut random = [0; 10];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| StoreError::Kdf("no randomness".to_owned()))?;
        Ok(RecordId::v7(self.now_ms(), random))
    }
}

impl Transaction<'_> {
    /// Inserts a record.
    ///
    /// # Errors
    /// [`StoreError::RecordExists`] if it is there already, and what is wrong with the fields.
    pub fn insert(&mut self, id: RecordId, fields: &BTreeMap<String, Value>) -> Result<(), StoreError> {
        let plain = fields.values().all(|v| !matches!(v, Value::Counter(_) | Value::Set(_)));
        if !plain || !self.insert_plain(id, fields)? {
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
        let mut state = row.decode(&self.writer.names)?;
        if !state.life.is_alive() {
            return Err(StoreError::NoRecord(id));
        }
        if edits.is_empty() {
            return Ok(());
        }
        let seq = self.writer.take_seq();
        for (name, edit) in edits {
            let field = self.writer.names.intern_field(&self.writer.db, name)?;
            let old = Old { cell: state.cell(field), floor: state.life.floor() };
            let cell = edited(name, old, edit, self.stamp, seq)?;
            state.put(field, cell);
        }
        self.write(id, &state, seq, Some(row.seq))
    }

    /// Deletes a record.
    ///
    /// # Errors
    /// [`StoreError::NoRecord`] if it is not there.
    pub fn delete(&mut self, id: RecordId) -> Result<(), StoreError> {
        let row = self.find(id)?.ok_or(StoreError::NoRecord(id))?;
        let state = row.decode(&self.writer.names)?;
        if !state.life.is_alive() {
            return Err(StoreError::NoRecord(id));
        }
        let seq = self.writer.take_seq();
        let dead = Some(Tombstone::new(self.stamp, &state));
        let state = RecordState { life: Life { dead, ..state.life }, cells: Vec::new() };
        self.write(id, &state, seq, Some(row.seq))
    }

    /// Applies an edit that carries its own clock. Nothing is refused for what the record is like here: in a
    /// trace, a device may edit what it has not received yet.
    ///
    /// # Errors
    /// What is wrong with the fields, or a stamp too far in the future.
    pub fn apply_traced(&mut self, edit: &TracedEdit) -> Result<(), StoreError> {
        let now_ms = self.store.now_ms();
        self.writer.clock.observe(edit.stamp.time, now_ms)?;
        let seq = self.writer.next_seq;
        let mut incoming = RecordState::default();
        let row = self.find(edit.id)?;
        let mut state = match &row {
            Some(row) => row.decode(&self.writer.names)?,
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
            self.writer.take_seq();
            self.intern_writers(&state)?;
            self.write(edit.id, &state, seq, row.map(|row| row.seq))?;
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
            let field = self.writer.names.intern_field(&self.writer.db, name)?;
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
        let Writer { db, names, .. } = &mut *self.writer;
        names.intern_writer(db, writer).map_err(|error| self.store.sqlite(error))
    }

    fn find(&self, id: RecordId) -> Result<Option<StoredRow>, StoreError> {
        StoredRow::find(&self.writer.db, id).map_err(|error| self.store.sqlite(error))
    }

    /// The common case: an id that was never used. Answers whether it was that.
    fn insert_plain(&mut self, id: RecordId, fields: &BTreeMap<String, Value>) -> Result<bool, StoreError> {
        self.intern_writer(self.stamp.writer)?;
        let Writer { db, names, buffer, .. } = &mut *self.writer;
        let RowBuffer { builder, history, body } = buffer;
        self.scratch.clear();
        for (at, name) in fields.keys().enumerate() {
            self.scratch.push((names.intern_field(db, name)?, at));
        }
        self.scratch.sort_unstable();
        history.clear();
        body.clear();
        builder.clear();
        let values: Vec<&Value> = fields.values().collect();
        for (field, at) in &self.scratch {
            if let Some(value) = values.get(*at) {
                builder.push(*field, value).map_err(|error| StoreError::Encode { id, error })?;
            }
        }
        builder.finish_into(body);
        let head = HistoryHead::inserted(self.stamp);
        let mut writer_no = |writer| names.writer_no(writer).unwrap_or(u32::MAX);
        HistoryWriter { writer_no: &mut writer_no, row_seq: None }.head(&head, history);
        self.count(self.writer.buffer.len())?;
        let place = self.place(self.writer.next_seq);
        let inserted = self.writer.buffer.insert_new(&self.writer.db, id, head.life, place);
        let inserted = inserted.map_err(|error| self.store.sqlite(error))?;
        if inserted {
            self.writer.take_seq();
        }
        Ok(inserted)
    }

    /// An insert where something is known of the id already, or with mergeable fields.
    fn insert_over(&mut self, id: RecordId, fields: &BTreeMap<String, Value>) -> Result<(), StoreError> {
        let row = self.find(id)?;
        let known = match &row {
            Some(row) => row.decode(&self.writer.names)?,
            None => RecordState::default(),
        };
        if known.life.is_alive() {
            return Err(StoreError::RecordExists(id));
        }
        let seq = self.writer.take_seq();
        let after = known.life.dead.map(|dead| dead.stamp).or(known.life.after);
        let mut state =
            RecordState { life: Life { after, born: Some(self.stamp), dead: None }, ..Default::default() };
        for (name, value) in fields {
            let field = self.writer.names.intern_field(&self.writer.db, name)?;
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
        self.write(id, &state, seq, row.map(|row| row.seq))
    }

    fn write(
        &mut self,
        id: RecordId,
        state: &RecordState,
        seq: u64,
        old_seq: Option<u64>,
    ) -> Result<(), StoreError> {
        self.intern_writer(self.stamp.writer)?;
        let place = self.place(seq);
        let Writer { db, names, buffer, .. } = &mut *self.writer;
        buffer.encode(id, state, seq, names)?;
        let written = match old_seq {
            Some(old) => buffer.replace(db, old, state.life, place),
            None => buffer.insert_new(db, id, state.life, place).map(drop),
        };
        let bytes = buffer.len();
        written.map_err(|error| self.store.sqlite(error))?;
        self.count(bytes)
    }

    const fn place(&self, seq: u64) -> Place {
        Place { seq, origin: 0, tx: seq.saturating_sub(self.first_seq) }
    }

    fn count(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.bytes += bytes;
        if self.bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge { limit: MAX_TRANSACTION_BYTES });
        }
        Ok(())
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
            counter.add(stamp.writer, *amount);
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
    };
    StoreError::WrongType { field: name.to_owned(), found, problem }
}
