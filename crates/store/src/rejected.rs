//! What an authority refused of this replica: kept with its content until somebody retries or drops it.
//!
//! Invariant: taking refused writes back and keeping them is one transaction, so that no write is ever in neither
//! place.

use std::collections::BTreeMap;

use blazedb_core::access::Operation;
use blazedb_core::access::news::{is_same, is_same_state};
use blazedb_core::access::take_back::{TakenBack, take_back};
use blazedb_core::authority::outrank;
use blazedb_core::blazebinary::{FieldNo, RecordBuilder, RecordView, decode_value, encode_value};
use blazedb_core::cell::{Cell, Content};
use blazedb_core::feed::PeerNo;
use blazedb_core::history::encode_body;
use blazedb_core::merge::RecordState;
use blazedb_core::view::RemovalReason;
use blazedb_core::wire::RefusedWrite;
use blazedb_core::{FieldEdit, Record, RecordId, Stamp, Value};
use blazedb_sqlite::rusqlite::{self, Connection, OptionalExtension, Row, params};

use crate::conflicts::stamp_bytes;
use crate::error::StoreError;
use crate::incoming::Source;
use crate::names::NameTable;
use crate::outdone;
use crate::query::decode;
use crate::refusals;
use crate::row::{Place, StoredRow, writers_of};
use crate::store::{Store, Writer};
use crate::views::keep_shadow;
use crate::write::Transaction;

/// A write that an authority refused.
#[derive(Clone, PartialEq, Debug)]
pub struct Rejected {
    /// What was tried.
    pub operation: Operation,
    /// Why it was refused, in the authority's words.
    pub reason: String,
    /// The record's id and the fields that were written.
    pub record: Record,
    /// The fields that were removed.
    pub unset: Vec<String>,
    /// When this replica learned of it, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Store {
    /// Every refused write that is kept, oldest first.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn rejected(&self) -> Result<Vec<Rejected>, StoreError> {
        self.read(|db| self.rejected_in(db, &self.names()))
    }

    fn rejected_in(&self, db: &Connection, names: &NameTable) -> Result<Vec<Rejected>, StoreError> {
        let sql = "SELECT id, operation, reason, body, unset, at_ms FROM rejected ORDER BY no";
        let sqlite = |error| self.sqlite(error);
        let mut all = db.prepare_cached(sql).map_err(sqlite)?;
        let rows = all.query_map([], Stored::read).map_err(sqlite)?;
        rows.map(|row| row.map_err(sqlite)?.rejected(names)).collect()
    }

    /// How many refused writes are kept.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn rejected_count(&self) -> Result<u64, StoreError> {
        self.read_once(|db| {
            db.prepare_cached("SELECT count(*) FROM rejected")
                .and_then(|mut count| count.query_row([], |row| row.get(0)))
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Forgets what was refused of a record. Answers how many writes that were.
    ///
    /// # Errors
    /// [`StoreError::NoRejected`] if there are none; if the file can't be written.
    pub fn drop_rejected(&self, id: RecordId) -> Result<usize, StoreError> {
        self.transaction(|tx| tx.forget_rejected(id))
    }

    /// Makes the refused writes of a record again, as new ones, and forgets that they were refused.
    ///
    /// # Errors
    /// [`StoreError::NoRejected`] if there are none, [`StoreError::NoRecord`] if one was an update or a deletion of
    /// what is not here any more; if the file can't be written. Nothing is changed then.
    pub fn retry_rejected(&self, id: RecordId) -> Result<usize, StoreError> {
        self.transaction(|tx| {
            // Read here: what is refused meanwhile is not forgotten with them.
            let all = self.rejected_in(tx.db(), &self.names())?;
            for write in all.into_iter().filter(|write| write.record.id == id) {
                tx.write_again(write)?;
            }
            tx.forget_rejected(id)
        })
    }
}

impl Transaction<'_> {
    fn forget_rejected(&mut self, id: RecordId) -> Result<usize, StoreError> {
        let forgotten = self
            .db()
            .prepare_cached("DELETE FROM rejected WHERE id=?")
            .and_then(|mut forget| forget.execute([id.as_bytes().as_slice()]))
            .map_err(|error| self.store().sqlite(error))?;
        if forgotten == 0 { Err(StoreError::NoRejected(id)) } else { Ok(forgotten) }
    }

    fn write_again(&mut self, write: Rejected) -> Result<(), StoreError> {
        let id = write.record.id;
        match write.operation {
            Operation::Delete => self.delete(id),
            Operation::Insert | Operation::Relay if !self.is_here(id)? => {
                self.insert(id, &write.record.fields)
            }
            _ => {
                let set = write.record.fields.into_iter().map(|(name, value)| (name, FieldEdit::Set(value)));
                let unset = write.unset.into_iter().map(|name| (name, FieldEdit::Unset));
                self.update(id, &set.chain(unset).collect())
            }
        }
    }
}

/// A row of the table `rejected`.
struct Stored {
    id: RecordId,
    operation: u8,
    reason: String,
    body: Vec<u8>,
    unset: Vec<u8>,
    at_ms: u64,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: RecordId::from_bytes(row.get(0)?),
            operation: row.get(1)?,
            reason: row.get(2)?,
            body: row.get(3)?,
            unset: row.get(4)?,
            at_ms: row.get(5)?,
        })
    }

    fn rejected(self, names: &NameTable) -> Result<Rejected, StoreError> {
        let name = |value: Value| if let Value::String(name) = value { Some(name) } else { None };
        let unset = match decode_value(&self.unset)? {
            Value::Array(names) => names.into_iter().filter_map(name).collect(),
            _ => Vec::new(),
        };
        Ok(Rejected {
            operation: Operation::from_byte(self.operation).unwrap_or(Operation::Update),
            reason: self.reason,
            record: decode(self.id, &self.body, names, None)?,
            unset,
            at_ms: self.at_ms,
        })
    }
}

/// Takes one refused write back; `authority` is what the authority has, in the numbers of this replica. Answers
/// whether the record is not what it was.
pub(crate) fn take(
    store: &Store,
    writer: &mut Writer,
    source: &Source,
    write: &RefusedWrite,
    authority: Option<&RecordState>,
) -> Result<bool, StoreError> {
    let first_seq = writer.next_seq;
    writer.raise(store, write.id, &authority.map(|state| state.life).unwrap_or_default(), first_seq)?;
    let row = StoredRow::find(&writer.db, write.id).map_err(|error| store.sqlite(error))?;
    let local = match &row {
        Some(row) => row.decode(&writer.names)?,
        None => RecordState::default(),
    };
    let taken = match write.operation {
        Operation::Relay => stays(&local, write.stamp),
        _ => take_back_shared(&local, authority, write.stamp, &source.untold(&writer.names)),
    };
    if !taken.lost.is_empty() || taken.deletion || taken.vanished {
        // Told of once more, it may take with it what was written since.
        let newest = taken.lost.iter().map(|(_, cell)| cell.stamp).max().max(Some(write.stamp));
        let refused = (write.id, write.operation, newest.unwrap_or(write.stamp));
        keep(store, writer, refused, &write.reason, &taken.lost)?;
        let origin = row.as_ref().map_or(0, |row| row.origin);
        tell_on(store, writer, source, (origin, write), (&local, &taken))?;
    }
    if taken.deletion {
        let outdone =
            outdone::take(&writer.db, write.id, &local.life).map_err(|error| store.sqlite(error))?;
        if let Some(deletion) = outdone {
            keep_overruled(store, writer, write.id, deletion, &write.reason)?;
        }
    }
    let taken =
        if source.is_authority() { outranked(store, writer, &local, authority, taken) } else { taken };
    if is_same_state(&taken.state, &local) && !taken.ahead {
        return Ok(false);
    }
    match row {
        // For the authority there is no such record: whoever reads here must not have it either.
        Some(row) if taken.state == RecordState::default() => {
            let (peer, removals) = (source.peer_no, source.removals);
            store.take_away(writer, &row, peer, RemovalReason::AccessRevoked, removals)?;
            store.stays(writer, &source.link, write.id)?;
        }
        row => put(store, writer, source, (write.id, row), taken)?,
    }
    Ok(true)
}

/// As [`take_back`], but for the fields `untold`: the authority never learns of them, and so takes none back.
fn take_back_shared(
    local: &RecordState,
    authority: Option<&RecordState>,
    refused: Stamp,
    untold: &[FieldNo],
) -> TakenBack {
    let (own, shared) = local.cells.iter().cloned().partition(|(field, _)| untold.contains(field));
    let own: Vec<(FieldNo, Cell)> = own;
    let mut taken = take_back(&RecordState { cells: shared, ..*local }, authority, refused);
    if !local.life.is_alive() {
        // What came for it after it was deleted here may have come under a view that showed more.
        return taken;
    }
    if taken.state.life.is_alive() {
        own.into_iter().for_each(|(field, cell)| taken.state.put(field, cell));
    } else {
        taken.lost.extend(own);
        taken.lost.sort_unstable_by_key(|(field, _)| *field);
    }
    taken
}

/// Has what children brought and was taken back give way elsewhere as well. What came since the refused writes were sent,
/// and is older than these, was taken back with them: the authority has not judged it, so no decision of it outranks it.
/// (What was written here it has.)
fn outranked(
    store: &Store,
    writer: &mut Writer,
    local: &RecordState,
    authority: Option<&RecordState>,
    mut taken: TakenBack,
) -> TakenBack {
    let Some(base) = authority else { return taken };
    let foreign = |stamp: Stamp| !store.wrote(stamp.writer);
    let deletion = local.life.dead.is_some_and(|dead| taken.deletion && foreign(dead.stamp));
    let cells: Vec<_> = taken.lost.iter().filter(|(_, cell)| foreign(cell.stamp)).cloned().collect();
    if cells.is_empty() && !deletion {
        return taken;
    }
    let gone = RecordState { life: if deletion { local.life } else { base.life }, cells };
    let Writer { clock, next_seq, .. } = writer;
    let mut stamp = || Stamp::new(clock.tick(store.now_ms()), store.replica());
    if let Some(mut state) = outrank(base, &gone, *next_seq, &mut stamp) {
        let newer =
            |(field, cell): &(FieldNo, Cell)| base.cell(*field).is_none_or(|known| !is_same(known, cell));
        let unlisted = |field: &FieldNo| taken.lost.iter().all(|(lost, _)| lost != field);
        for (field, cell) in taken.state.cells.into_iter().filter(newer).filter(|(field, _)| unlisted(field))
        {
            state.put(field, cell);
        }
        (taken.state, taken.ahead) = (state, true);
    }
    taken
}

/// Writes what a record is after its refused writes were taken back.
fn put(
    store: &Store,
    writer: &mut Writer,
    source: &Source,
    (id, row): (RecordId, Option<StoredRow>),
    taken: TakenBack,
) -> Result<(), StoreError> {
    // What stays is told to everybody anew: to the authority only if it lacks it.
    let seq = writer.take_seq();
    let mut state = taken.state;
    state.cells.iter_mut().for_each(|(_, cell)| cell.seq = seq);
    let origin = if taken.ahead { 0 } else { source.peer_no };
    let place = Place { seq, origin, tx: 0 };
    let written = (|| {
        for replica in writers_of(&state) {
            writer.names.intern_writer(&writer.db, replica)?;
        }
        row.as_ref().map_or(Ok(()), |row| keep_shadow(&writer.db, writer.shadows_from, row, seq))
    })();
    written.map_err(|error| store.sqlite(error))?;
    let Writer { db, names, buffer, .. } = writer;
    buffer.encode(id, &state, seq, names)?;
    match row {
        Some(row) => buffer.replace(db, row.seq, state.life, place),
        None => buffer.insert_new(db, id, state.life, place).map(drop),
    }
    .map_err(|error| store.sqlite(error))
}

/// Writes of other nodes that the authority wants from those themselves stay here; they are listed as what this
/// node could not bring.
fn stays(local: &RecordState, refused: Stamp) -> TakenBack {
    let newer = |stamp: Stamp| stamp > refused;
    let ahead = local.newest().is_some_and(newer);
    let lost = if local.life.is_alive() { local.cells.clone() } else { Vec::new() };
    TakenBack { state: local.clone(), lost, ahead, ..TakenBack::default() }
}

/// What others had written of what is gone, they are told of in their turn.
fn tell_on(
    store: &Store,
    writer: &Writer,
    source: &Source,
    (origin, write): (PeerNo, &RefusedWrite),
    (local, taken): (&RecordState, &TakenBack),
) -> Result<(), StoreError> {
    if write.operation == Operation::Relay {
        // Those whose writes they are bring them themselves.
        return Ok(());
    }
    let written = if write.operation == Operation::Delete { Operation::Update } else { write.operation };
    let cells = taken.lost.iter().map(|(_, cell)| (written, cell.stamp));
    let deletion = local.life.dead.filter(|_| taken.deletion).map(|dead| (Operation::Delete, dead.stamp));
    let born = local.life.born.filter(|_| taken.vanished).map(|born| (written, born));
    let mut lost = BTreeMap::new();
    for (operation, stamp) in cells.chain(deletion).chain(born) {
        let newest = lost.entry(stamp.writer).or_insert((operation, stamp));
        if stamp > newest.1 {
            *newest = (operation, stamp);
        }
    }
    // What was written here is in the list, and who refuses knows of it.
    lost.retain(|writer, _| !store.wrote(*writer));
    lost.remove(&source.replica);
    let origin = if origin == source.peer_no { 0 } else { origin };
    refusals::pass_on(&writer.db, origin, write, &lost).map_err(|error| store.sqlite(error))
}

/// Keeps a deletion of this replica that does not stand, although nothing was refused of it.
pub(crate) fn keep_overruled(
    store: &Store,
    writer: &Writer,
    id: RecordId,
    deletion: Stamp,
    reason: &str,
) -> Result<(), StoreError> {
    keep(store, writer, (id, Operation::Delete, deletion), reason, &[])
}

/// Adds to the table, once for each refused write. One that is told of again, under another view, may take more with it
/// that was written here; what was kept of a field stays, for what is there now the authority had given back.
fn keep(
    store: &Store,
    writer: &Writer,
    (id, operation, stamp): (RecordId, Operation, Stamp),
    reason: &str,
    lost: &[(FieldNo, Cell)],
) -> Result<(), StoreError> {
    let sqlite = |error| store.sqlite(error);
    let known = kept(writer, id, stamp).map_err(sqlite)?;
    if known.is_some() && lost.is_empty() {
        return Ok(());
    }
    let (mut state, mut unset) = (RecordState::default(), Vec::new());
    if let Some((body, names)) = &known {
        for (field, value) in &RecordView::parse(body)? {
            state.put(field, Cell::write(stamp, None, Content::Register(value.into()), 0));
        }
        if let Value::Array(names) = decode_value(names)? {
            unset = names;
        }
    }
    for (field, cell) in lost {
        let Some(name) = writer.names.field(*field).map(|name| Value::from(&**name)) else { continue };
        let is_kept = state.cell(*field).is_some() || unset.contains(&name);
        if known.is_some() && (is_kept || !store.wrote(cell.stamp.writer)) {
            continue;
        }
        state.put(*field, cell.clone());
        if cell.content == Content::Absent {
            unset.push(name);
        }
    }
    let mut body = Vec::new();
    encode_body(&state, |_| true, &mut RecordBuilder::new(), &mut body)
        .map_err(|error| StoreError::Encode { id, error })?;
    let mut names = Vec::new();
    encode_value(&Value::Array(unset), &mut names);
    let sql = "INSERT INTO rejected(id, operation, stamp, reason, body, unset, at_ms) VALUES(?,?,?,?,?,?,?)
               ON CONFLICT DO UPDATE SET body=excluded.body, unset=excluded.unset";
    let id = id.as_bytes().as_slice();
    let values = params![id, operation.byte(), stamp_bytes(stamp), reason, body, names, store.now_ms()];
    writer.db.prepare_cached(sql).and_then(|mut keep| keep.execute(values)).map(drop).map_err(sqlite)
}

/// What is kept of a refused write already: the values that were written, and the names of the fields that were removed.
fn kept(writer: &Writer, id: RecordId, stamp: Stamp) -> rusqlite::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let sql = "SELECT body, unset FROM rejected WHERE id=? AND stamp=?";
    let key = params![id.as_bytes().as_slice(), stamp_bytes(stamp)];
    writer.db.prepare_cached(sql)?.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()
}
