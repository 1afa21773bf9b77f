//! Taking in changes of peers: many batches, one commit.
//!
//! Invariants: bytes from a peer are checked whole before anything of them is written; a batch is applied whole
//! with its checkpoint or not at all; applying what is known already changes nothing and makes no feed entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{DecodeError, FieldNo, RecordView, remap, validate_record};
use blazedb_core::cell::{Cell, Content};
use blazedb_core::feed::{Incoming, PeerNames, PeerNo, Seq};
use blazedb_core::history::{HistoryReader, HistoryWriter};
use blazedb_core::limits::MAX_RECORD_BYTES;
use blazedb_core::merge::RecordState;
use blazedb_core::{DriftError, Hlc, RecordId, ReplicaId};
use blazedb_sqlite::rusqlite::{OptionalExtension, params};

use crate::error::StoreError;
use crate::names::check_field_name;
use crate::row::{Place, RowBuffer, StoredRow, writers_of};
use crate::store::{Store, Writer};

/// Whose changes they are.
#[derive(Clone, Debug)]
pub struct Source {
    /// The link that they came over: checkpoints are kept per link.
    pub link: Arc<str>,
    /// The replica that sent them.
    pub replica: ReplicaId,
    /// Its number here.
    pub peer_no: PeerNo,
    /// A batch of it could not be taken in, so that no later one may be: their checkpoints would skip it.
    interrupted: Arc<AtomicBool>,
}

impl Source {
    /// A session's source. Its clones share whether all went well so far.
    #[must_use]
    pub fn new(link: Arc<str>, replica: ReplicaId, peer_no: PeerNo) -> Self {
        Self { link, replica, peer_no, interrupted: Arc::default() }
    }

    fn check_whole(&self) -> Result<(), StoreError> {
        if self.interrupted.load(Ordering::Acquire) { Err(StoreError::Interrupted) } else { Ok(()) }
    }
}

/// A batch that has been checked and can be applied.
#[derive(Debug)]
pub struct CheckedBatch {
    source: Source,
    incoming: Incoming,
    entries: Vec<CheckedEntry>,
    newest: Hlc,
}

#[derive(Debug)]
struct CheckedEntry {
    id: RecordId,
    starts: bool,
    /// Ranges in the batch's data.
    history: std::ops::Range<usize>,
    body: std::ops::Range<usize>,
}

impl CheckedBatch {
    /// How many changes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no change in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Checks bytes of a peer: form, names and clock. Nothing is written.
///
/// # Errors
/// [`StoreError::Malformed`] or [`StoreError::Drift`].
pub fn check(
    source: Source,
    incoming: Incoming,
    now_ms: u64,
    drift_limit_ms: u64,
) -> Result<CheckedBatch, StoreError> {
    let mut entries = Vec::new();
    let mut newest = Hlc::default();
    let total = incoming.data.len();
    let names = &incoming.names;
    let writer = |no| names.writer(no);
    let histories = HistoryReader { writer: &writer, row_seq: None };
    let mut reader = Reader::new(&incoming.data);
    while !reader.is_empty() {
        let lead = reader.read_varint()?;
        let body_len = usize::try_from(lead >> 1).unwrap_or(usize::MAX);
        let history_len = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
        if body_len > MAX_RECORD_BYTES || history_len > MAX_RECORD_BYTES {
            return Err(DecodeError::OutOfRange.into());
        }
        let id = RecordId::from_bytes(reader.read_array()?);
        let start = total - reader.remaining();
        let history = start..start + history_len;
        let body = history.end..history.end + body_len;
        let newest_here =
            check_entry(&histories, reader.read_bytes(history_len)?, reader.read_bytes(body_len)?, names)?;
        newest = newest.max(newest_here);
        entries.push(CheckedEntry { id, starts: lead & 1 != 0, history, body });
    }
    let drift_ms = newest.millis().saturating_sub(now_ms);
    if drift_ms > drift_limit_ms {
        return Err(DriftError { drift_ms, limit_ms: drift_limit_ms }.into());
    }
    Ok(CheckedBatch { source, incoming, entries, newest })
}

/// Checks one entry. Answers the newest time in it.
fn check_entry(
    histories: &HistoryReader<'_>,
    history: &[u8],
    body: &[u8],
    names: &PeerNames,
) -> Result<Hlc, StoreError> {
    let mut reader = Reader::new(history);
    if !body.is_empty() {
        check_body(body, names)?;
    }
    let head = histories.head(&mut reader)?;
    if head.uniform {
        reader.finish()?;
        if !body.is_empty() && RecordView::parse(body)?.iter().any(|(_, value)| value.is_mergeable()) {
            return Err(DecodeError::Mismatch.into());
        }
        return Ok(head.life.newest().map_or(Hlc::default(), |stamp| stamp.time));
    }
    let mut reader = Reader::new(history);
    let state = histories.state(&mut reader, body)?;
    reader.finish()?;
    for (field, _) in &state.cells {
        check_field(*field, names)?;
    }
    Ok(newest_time(&state))
}

/// The newest time anywhere in a state, also among what it says it has seen or started from.
fn newest_time(state: &RecordState) -> Hlc {
    let seen = state.life.dead.iter().flat_map(|dead| dead.seen.iter()).max();
    let mut newest = state.newest().max(seen).map_or(Hlc::default(), |stamp| stamp.time);
    for (_, cell) in &state.cells {
        newest = cell.replaced.iter().map(|stamp| stamp.time).fold(newest, Hlc::max);
        let base = match &cell.content {
            Content::Absent | Content::Register(_) => None,
            Content::Counter(counter) => counter.base,
            Content::Set(set) => {
                let times = set.elements.values().flat_map(BTreeMap::values).chain(set.seen.values());
                newest = times.copied().fold(newest, Hlc::max);
                set.base
            }
        };
        newest = base.map_or(newest, |base| newest.max(base.time));
    }
    newest
}

fn check_body(body: &[u8], names: &PeerNames) -> Result<(), StoreError> {
    validate_record(body)?;
    for (field, _) in RecordView::parse(body)?.iter() {
        check_field(field, names)?;
    }
    Ok(())
}

fn check_field(field: FieldNo, names: &PeerNames) -> Result<(), StoreError> {
    check_field_name(names.field(field).ok_or(DecodeError::UnknownNumber(field))?)
}

/// What a group of batches did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Records that are not what they were.
    pub changed: u64,
    /// Entries in the conflict log.
    pub conflicts: u64,
}

impl Store {
    /// Checks bytes of a peer against this database's clock and limits.
    ///
    /// Once one is refused, so is everything that follows from the same source.
    ///
    /// # Errors
    /// See [`check`]; [`StoreError::Interrupted`].
    pub fn check(&self, source: Source, incoming: Incoming) -> Result<CheckedBatch, StoreError> {
        source.check_whole()?;
        let interrupted = Arc::clone(&source.interrupted);
        check(source, incoming, self.now_ms(), self.inner.options.drift_limit_ms)
            .inspect_err(|_| interrupted.store(true, Ordering::Release))
    }

    /// Applies batches, of one or many peers, in one commit.
    ///
    /// If a single batch fails, so does everything that follows from the same source.
    ///
    /// # Errors
    /// If the commit fails; then nothing of them is applied. [`StoreError::Interrupted`].
    pub fn apply(&self, batches: &[CheckedBatch]) -> Result<Applied, StoreError> {
        let applied = self.commit(|writer| {
            let mut applied = Applied::default();
            for batch in batches {
                batch.source.check_whole()?;
                writer.clock.observe(batch.newest, batch.newest.millis())?;
                Applier::new(self, writer, batch, &mut applied).run()?;
            }
            Ok(applied)
        });
        if let (Err(_), [batch]) = (&applied, batches) {
            batch.source.interrupted.store(true, Ordering::Release);
        }
        applied
    }

    /// The number of a peer replica, given now if it is new, and the checkpoint of a link to it.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn peer(&self, link: &str, replica: ReplicaId) -> Result<(PeerNo, Option<Seq>), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let writer = self.writer()?;
        let bytes = replica.as_bytes().as_slice();
        let known: Option<PeerNo> = writer
            .db
            .prepare_cached("SELECT no FROM peers WHERE replica=?")
            .and_then(|mut find| find.query_row([bytes], |row| row.get(0)).optional())
            .map_err(sqlite)?;
        let no = match known {
            Some(no) => no,
            None => {
                writer.db.execute("INSERT INTO peers(replica) VALUES(?)", [bytes]).map_err(sqlite)?;
                PeerNo::try_from(writer.db.last_insert_rowid()).unwrap_or(PeerNo::MAX)
            }
        };
        let seq = writer
            .db
            .prepare_cached("SELECT seq FROM checkpoints WHERE link=? AND replica=?")
            .and_then(|mut find| find.query_row(params![link, bytes], |row| row.get(0)).optional())
            .map_err(sqlite)?;
        Ok((no, seq))
    }

    /// The replica that a link last had on its other side, and how far its feed is durable here.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn link_checkpoint(&self, link: &str) -> Result<Option<(ReplicaId, Seq)>, StoreError> {
        let sql = "SELECT replica, seq FROM checkpoints WHERE link=? ORDER BY latest DESC LIMIT 1";
        self.read(|db| {
            db.prepare_cached(sql)
                .and_then(|mut find| {
                    find.query_row([link], |row| Ok((ReplicaId::from_bytes(row.get(0)?), row.get(1)?)))
                        .optional()
                })
                .map_err(|error| self.sqlite(error))
        })
    }
}

/// Applies one batch inside a transaction.
struct Applier<'a> {
    store: &'a Store,
    writer: &'a mut Writer,
    batch: &'a CheckedBatch,
    applied: &'a mut Applied,
    /// This replica's number of the peer's field numbers, as far as they were needed.
    fields: Vec<Option<FieldNo>>,
    first_seq: Seq,
}

impl<'a> Applier<'a> {
    fn new(
        store: &'a Store,
        writer: &'a mut Writer,
        batch: &'a CheckedBatch,
        applied: &'a mut Applied,
    ) -> Self {
        let first_seq = writer.next_seq;
        Self { store, writer, batch, applied, fields: Vec::new(), first_seq }
    }

    fn run(mut self) -> Result<(), StoreError> {
        for entry in &self.batch.entries {
            if entry.starts {
                self.first_seq = self.writer.next_seq;
            }
            let data = &self.batch.incoming.data;
            let history = data.get(entry.history.clone()).unwrap_or_default();
            let body = data.get(entry.body.clone()).unwrap_or_default();
            if !self.insert_new(entry.id, history, body)? {
                self.merge(entry.id, history, body)?;
            }
        }
        if let Some(seq) = self.batch.incoming.checkpoint {
            self.save_checkpoint(seq)?;
        }
        Ok(())
    }

    /// The common case: a record that is new here and has not changed since it was inserted.
    fn insert_new(&mut self, id: RecordId, history: &[u8], body: &[u8]) -> Result<bool, StoreError> {
        let names = Arc::clone(&self.batch.incoming.names);
        let writer_of = |no| names.writer(no);
        let head = HistoryReader { writer: &writer_of, row_seq: None }.head(&mut Reader::new(history))?;
        let (true, Some(born)) = (head.uniform, head.life.born) else { return Ok(false) };
        self.intern_fields(body)?;
        self.intern_writer(born.writer)?;
        let Writer { names, buffer, .. } = &mut *self.writer;
        let RowBuffer { history: row_history, body: row_body, .. } = buffer;
        row_history.clear();
        row_body.clear();
        let fields = &self.fields;
        remap(body, |no| fields.get(no as usize).copied().flatten(), row_body)?;
        let mut writer_no = |writer| names.writer_no(writer).unwrap_or(u32::MAX);
        HistoryWriter { writer_no: &mut writer_no, row_seq: None }.head(&head, row_history);
        let place = self.place(self.writer.next_seq, self.batch.source.peer_no);
        let inserted = self.writer.buffer.insert_new(&self.writer.db, id, head.life, place);
        let inserted = inserted.map_err(|error| self.store.sqlite(error))?;
        if inserted {
            self.writer.take_seq();
            self.applied.changed += 1;
        }
        Ok(inserted)
    }

    fn merge(&mut self, id: RecordId, history: &[u8], body: &[u8]) -> Result<(), StoreError> {
        let incoming = self.decode(history, body)?;
        let peer_life = incoming.life;
        let row = StoredRow::find(&self.writer.db, id).map_err(|error| self.store.sqlite(error))?;
        let mut state = match &row {
            Some(row) => row.decode(&self.writer.names)?,
            None => RecordState::default(),
        };
        let seq = self.writer.next_seq;
        let mut report = state.merge(incoming, seq);
        let peer_has = self.batch.incoming.peer_has;
        // The peer acknowledged a newer write than it sends: it has lost it (or agreed by content only).
        for field in &report.sender_is_behind {
            if let Ok(at) = state.cells.binary_search_by_key(field, |(no, _)| *no)
                && let Some((_, cell)) = state.cells.get_mut(at)
                && cell.seq <= peer_has
            {
                cell.seq = seq;
                report.changed = true;
            }
        }
        let row_seq = row.as_ref().map_or(0, |row| row.seq);
        if state.life != peer_life && row_seq != 0 && row_seq <= peer_has {
            state.cells.iter_mut().for_each(|(_, cell)| cell.seq = seq);
            report.changed = true;
        }
        for displaced in &report.displaced {
            self.applied.conflicts += u64::from(self.store.log_conflict(self.writer, id, displaced)?);
        }
        if !report.changed {
            return Ok(());
        }
        let peer = self.batch.source.peer_no;
        let knew = row.as_ref().is_none_or(|row| row.origin == peer || row.seq <= peer_has);
        let origin = if knew && !report.differs_from_incoming { peer } else { 0 };
        self.writer.take_seq();
        self.applied.changed += 1;
        for writer in writers_of(&state) {
            self.intern_writer(writer)?;
        }
        let place = self.place(seq, origin);
        let Writer { db, names, buffer, .. } = &mut *self.writer;
        buffer.encode(id, &state, seq, names)?;
        match row {
            Some(row) => buffer.replace(db, row.seq, state.life, place),
            None => buffer.insert_new(db, id, state.life, place).map(drop),
        }
        .map_err(|error| self.store.sqlite(error))
    }

    /// An incoming state in this replica's numbers.
    fn decode(&mut self, history: &[u8], body: &[u8]) -> Result<RecordState, StoreError> {
        let names = Arc::clone(&self.batch.incoming.names);
        let writer_of = |no| names.writer(no);
        let reader = HistoryReader { writer: &writer_of, row_seq: None };
        let mut state = reader.state(&mut Reader::new(history), body)?;
        let mut cells: Vec<(FieldNo, Cell)> = Vec::with_capacity(state.cells.len());
        for (no, cell) in state.cells {
            cells.push((self.field(no)?, cell));
        }
        cells.sort_unstable_by_key(|(field, _)| *field);
        state.cells = cells;
        Ok(state)
    }

    fn intern_fields(&mut self, body: &[u8]) -> Result<(), StoreError> {
        for (no, _) in RecordView::parse(body)?.iter() {
            self.field(no)?;
        }
        Ok(())
    }

    fn field(&mut self, no: FieldNo) -> Result<FieldNo, StoreError> {
        if let Some(Some(known)) = self.fields.get(no as usize) {
            return Ok(*known);
        }
        let name = self.batch.incoming.names.field(no).ok_or(DecodeError::UnknownNumber(no))?;
        let Writer { db, names, .. } = &mut *self.writer;
        let here = names.intern_field(db, name)?;
        if self.fields.len() <= no as usize {
            self.fields.resize(no as usize + 1, None);
        }
        if let Some(slot) = self.fields.get_mut(no as usize) {
            *slot = Some(here);
        }
        Ok(here)
    }

    fn intern_writer(&mut self, writer: ReplicaId) -> Result<(), StoreError> {
        let Writer { db, names, .. } = &mut *self.writer;
        names.intern_writer(db, writer).map(drop).map_err(|error| self.store.sqlite(error))
    }

    const fn place(&self, seq: Seq, origin: PeerNo) -> Place {
        Place { seq, origin, tx: seq.saturating_sub(self.first_seq) }
    }

    fn save_checkpoint(&self, seq: Seq) -> Result<(), StoreError> {
        // A count, no time: a clock that was set back must not bring a replica back that is gone.
        let sql = "INSERT OR REPLACE INTO checkpoints(link, replica, seq, latest) VALUES(?1,?2,?3,
                   (SELECT coalesce(max(latest),0)+1 FROM checkpoints WHERE link=?1))";
        let Source { link, replica, .. } = &self.batch.source;
        self.writer
            .db
            .prepare_cached(sql)
            .and_then(|mut save| save.execute(params![link, replica.as_bytes().as_slice(), seq]))
            .map(drop)
            .map_err(|error| self.store.sqlite(error))
    }
}
