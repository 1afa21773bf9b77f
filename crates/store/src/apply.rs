//! Taking in changes of peers: many batches, one commit.
//!
//! Invariants: bytes from a peer are checked whole before anything of them is written; a batch is applied whole
//! with its checkpoint or not at all; applying what is known already changes nothing and makes no feed entry.

mod returned;

use std::sync::Arc;

use blazedb_core::access::change::StateFields;
use blazedb_core::access::news::is_same_state;
use blazedb_core::authority::Merged;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{RecordView, remap};
use blazedb_core::feed::{Incoming, PeerNo, Seq};
use blazedb_core::history::{HistoryReader, HistoryWriter, UniformGroup};
use blazedb_core::merge::{ConflictKind, Displaced, Life, MergeReport, RecordState};
use blazedb_core::{RecordId, ReplicaId};
use blazedb_sqlite::rusqlite::params;

use crate::authority::Court;
use crate::brought::Stretch;
use crate::error::StoreError;
use crate::forms::keep_known;
use crate::gate::{Entry, GateKeeper, Passed};
use crate::incoming::{Changes, CheckedBatch, Source, Work};
use crate::names::Numbers;
use crate::row::{Place, RowBuffer, StoredRow, insert_new, writers_of};
use crate::store::{Store, Writer};
use crate::views::{keep_held, keep_shadow};
use crate::{refusals, rejected};

/// What a group of batches did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Records that are not what they were.
    pub changed: u64,
    /// Entries in the conflict log.
    pub conflicts: u64,
    /// Changes that were refused.
    pub refused: u64,
}

impl Store {
    /// Applies batches, of one or many peers, in one commit.
    ///
    /// If a single batch fails, so does everything that follows from the same source.
    ///
    /// # Errors
    /// If the commit fails; then nothing of them is applied. [`StoreError::Interrupted`].
    pub fn apply(&self, batches: &[CheckedBatch]) -> Result<Applied, StoreError> {
        let applied = self.commit(|writer| apply_all(self, writer, batches));
        if let (Err(_), [batch]) = (&applied, batches) {
            batch.source.interrupt();
        }
        applied
    }
}

/// Applies batches inside a transaction.
pub(crate) fn apply_all(
    store: &Store,
    writer: &mut Writer,
    batches: &[CheckedBatch],
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    for batch in batches {
        batch.source.check_whole()?;
        writer.clock.observe(batch.newest, batch.newest.millis())?;
        apply_one(store, writer, batch, &mut applied)?;
    }
    Ok(applied)
}

/// Applies one batch inside a transaction.
fn apply_one(
    store: &Store,
    writer: &mut Writer,
    batch: &CheckedBatch,
    applied: &mut Applied,
) -> Result<(), StoreError> {
    let source = &batch.source;
    match &batch.work {
        Work::Changes(changes) => {
            let incoming = &changes.incoming;
            let numbers = Numbers::new(Arc::clone(&incoming.names));
            let first_seq = writer.next_seq;
            let (same_fields, interned, all_own) = (false, None, true);
            Applier {
                store,
                writer,
                source,
                incoming,
                applied,
                numbers,
                same_fields,
                interned,
                first_seq,
                all_own,
            }
            .run(changes)
        }
        Work::Forget(upto) => {
            refusals::forget(&writer.db, source.peer_no, *upto).map_err(|error| store.sqlite(error))
        }
        Work::TakeBack(writes, names, unopened) => {
            let mut numbers = Numbers::new(Arc::clone(names));
            for write in writes {
                let authority = match &write.state {
                    Some(state) => Some(numbers.decode(writer, &state.history, &state.body)?),
                    None => None,
                };
                let taken = rejected::take(store, writer, source, write, authority.as_ref())?;
                applied.changed += u64::from(taken);
            }
            store.note_unopened(writer, unopened)
        }
    }
}

/// Applies changes inside a transaction.
struct Applier<'a> {
    store: &'a Store,
    writer: &'a mut Writer,
    source: &'a Source,
    incoming: &'a Incoming,
    applied: &'a mut Applied,
    numbers: Numbers,
    /// The numbers are the same, as far as the batch's bodies use them.
    same_fields: bool,
    /// The writer that was given a number last.
    interned: Option<ReplicaId>,
    first_seq: Seq,
    /// Every entry so far has the peer as its origin.
    all_own: bool,
}

impl Applier<'_> {
    fn run(mut self, changes: &Changes) -> Result<(), StoreError> {
        let first = self.writer.next_seq;
        let mut gate = GateKeeper::start(self.store, self.writer, self.source)?;
        let mut court = Court::start(self.store, self.writer, self.source)?;
        // Behind a gate, names are only taken with what is let through.
        self.same_fields = gate.is_none();
        for no in changes.fields.iter().filter(|_| gate.is_none()) {
            self.same_fields &= self.numbers.field(self.writer, no)? == no;
        }
        let incoming = self.incoming;
        for entry in &changes.entries {
            if entry.starts {
                self.first_seq = self.writer.next_seq;
            }
            if let Some(reason) = entry.removal {
                let gone =
                    self.store.on_removal(self.writer, entry.id, reason, self.source, incoming.peer_has)?;
                self.applied.changed += u64::from(gone);
                continue;
            }
            let history = incoming.data.get(entry.history.clone()).unwrap_or_default();
            let body = incoming.data.get(entry.body.clone()).unwrap_or_default();
            if self.store.has_graves() && self.meet_grave(entry.id, history, body)? {
                continue;
            }
            let entry = Entry { id: entry.id, names: &incoming.names, history, body };
            let passed = match &mut gate {
                Some(gate) => gate.ask(self.store, self.writer, entry, self.applied)?,
                None => Passed::Yes { log: true },
            };
            let waits = match &court {
                Some(court) => court.waits(self.store, self.writer, self.source, entry.id)?,
                None => false,
            };
            let log = match passed {
                Passed::Yes { log } if !waits => log,
                passed => {
                    // Its sender has something else than what is here.
                    self.all_own = false;
                    if let (Passed::Relayed, Some(court)) = (passed, &mut court) {
                        self.overrule(entry.id, history, body, court)?;
                    }
                    continue;
                }
            };
            self.store.stays(self.writer, &self.source.link, entry.id)?;
            if !self.insert_new(entry.id, history, body)? {
                // What may not even be logged is nothing to decide about.
                let court = court.as_mut().filter(|_| log);
                self.merge(entry.id, (history, body), log, (court, gate.as_ref()))?;
            }
        }
        self.store.note_opened(self.writer, changes.entries.iter().map(|entry| entry.id))?;
        self.store.note_unopened(self.writer, &changes.unopened)?;
        let (next, peer) = (self.writer.next_seq, self.source.peer_no);
        if self.all_own && peer != 0 && next > first {
            self.writer.brought.push(Stretch { first, last: next - 1, peer });
        }
        if let Some(seq) = incoming.checkpoint {
            self.save_checkpoint(seq)?;
        }
        Ok(())
    }

    /// The common case: a record that is new here and has not changed since it was inserted.
    fn insert_new(&mut self, id: RecordId, history: &[u8], body: &[u8]) -> Result<bool, StoreError> {
        let names = Arc::clone(&self.incoming.names);
        let writer_of = |no| names.writer(no);
        let (reader, mut bytes) = (HistoryReader { writer: &writer_of, row_seq: None }, Reader::new(history));
        let head = reader.head(&mut bytes)?;
        let (true, Some(born)) = (head.uniform, head.life.born) else { return Ok(false) };
        let group =
            head.sealed.then(|| UniformGroup::read(&mut bytes, self.numbers.last_group())).transpose()?;
        if !self.same_fields {
            for (no, _) in RecordView::parse(body)?.iter() {
                self.numbers.field(self.writer, no)?;
            }
        }
        self.intern_writer(born.writer)?;
        let place = self.place(self.writer.next_seq, self.source.peer_no);
        let group = group.map(|group| self.numbers.group(self.writer, group)).transpose()?;
        let Writer { db, names, buffer, .. } = &mut *self.writer;
        let RowBuffer { history: row_history, body: row_body, .. } = buffer;
        row_history.clear();
        let mut writer_no = |writer| names.writer_no(writer).unwrap_or(u32::MAX);
        let mut history_writer = HistoryWriter { writer_no: &mut writer_no, row_seq: None };
        history_writer.head(&head, row_history);
        group.iter().for_each(|group| group.write(row_history));
        let row_body = if self.same_fields {
            body
        } else {
            row_body.clear();
            let numbers = &self.numbers;
            remap(body, |no| numbers.known(no), row_body)?;
            row_body
        };
        let inserted = insert_new(db, id, head.life, place, (row_history, row_body));
        let inserted = inserted.map_err(|error| self.store.sqlite(error))?;
        if inserted {
            self.writer.take_seq();
            self.applied.changed += 1;
        }
        Ok(inserted)
    }

    fn merge(
        &mut self,
        id: RecordId,
        (history, body): (&[u8], &[u8]),
        log: bool,
        (court, gate): (Option<&mut Court>, Option<&GateKeeper>),
    ) -> Result<(), StoreError> {
        let mut incoming = self.numbers.decode(self.writer, history, body)?;
        let peer_life = incoming.life;
        let (row, before) = self.find(id)?;
        if gate.is_some_and(GateKeeper::keeps_known_forms) {
            keep_known(&before, &mut incoming);
        }
        let (life, unsent) = (before.life, self.unsent_before(row.as_ref(), &before, peer_life));
        let (state, mut report) = match court {
            Some(court) => self.judge(id, before, incoming, (court, gate))?,
            None => {
                let mut state = before;
                let came = self.source.is_authority().then(|| incoming.clone());
                let mut report = state.merge(incoming, self.writer.next_seq);
                came.iter().for_each(|came| as_decided(came, &mut report.displaced));
                (state, report)
            }
        };
        report.displaced.extend(unsent.into_iter().filter(|_| !state.life.is_alive()));
        for displaced in report.displaced.drain(..).filter(|_| log) {
            self.applied.conflicts += u64::from(self.store.log_conflict(self.writer, id, &displaced)?);
        }
        let row_seq = row.as_ref().map_or(0, |row| row.seq);
        self.store.follow_deletion(self.writer, id, (&life, &state.life), &report)?;
        let (state, untold) = self.resend_lost(id, state, (peer_life, row_seq), &mut report);
        if report.changed || untold {
            return self.write(id, row.as_ref(), &state, (&report, untold));
        }
        Ok(())
    }

    /// What is known of a record.
    fn find(&self, id: RecordId) -> Result<(Option<StoredRow>, RecordState), StoreError> {
        let row = StoredRow::find(&self.writer.db, id).map_err(|error| self.store.sqlite(error))?;
        let state = row.as_ref().map(|row| row.decode(&self.writer.names)).transpose()?;
        Ok((row, state.unwrap_or_default()))
    }

    /// What this replica, as the authority, makes of what came of a record.
    fn judge(
        &mut self,
        id: RecordId,
        before: RecordState,
        came: RecordState,
        (court, gate): (&mut Court, Option<&GateKeeper>),
    ) -> Result<(RecordState, MergeReport), StoreError> {
        let mut after = before.clone();
        let mut report = after.merge(came.clone(), self.writer.next_seq);
        let merged = Merged { before: before.clone(), came, after, report: report.clone() };
        let gate = gate.map(|gate| (gate, self.writer.names.clone()));
        let may = |state: &RecordState| {
            gate.as_ref().is_none_or(|(gate, names)| gate.permits(id, (&before, state), names))
        };
        let judged = court.judge(self.store, self.writer, (self.source, &may), id, merged)?;
        report.displaced = judged.displaced;
        if judged.refused.is_some() {
            self.applied.refused += 1;
            self.all_own = false;
            report.sender_is_behind.clear();
            (report.overruled, report.outdone) = (None, None);
        }
        if judged.decided {
            report.changed = !is_same_state(&judged.state, &before);
            report.differs_from_incoming = true;
        }
        Ok((judged.state, report))
    }

    /// Access rules have refused what came of a record, by a peer that brings what others hold as well: they are told
    /// by a decision.
    fn overrule(
        &mut self,
        id: RecordId,
        history: &[u8],
        body: &[u8],
        court: &mut Court,
    ) -> Result<(), StoreError> {
        let came = self.numbers.decode(self.writer, history, body)?;
        let (row, before) = self.find(id)?;
        let mut after = before.clone();
        after.merge(came, self.writer.next_seq);
        let state = court.overrule(self.store, self.writer, &before, &after);
        if is_same_state(&state, &before) {
            return Ok(());
        }
        let report = MergeReport { differs_from_incoming: true, ..MergeReport::default() };
        self.write(id, row.as_ref(), &state, (&report, false))
    }

    /// Has sent again what the peer acknowledged before and does not have. Answers also whether it shows something that it
    /// has to be told of once.
    fn resend_lost(
        &self,
        id: RecordId,
        mut state: RecordState,
        (peer_life, row_seq): (Life, Seq),
        report: &mut MergeReport,
    ) -> (RecordState, bool) {
        let (seq, peer_has) = (self.writer.next_seq, self.incoming.peer_has);
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
        // It was not told that the record was deleted, because it was not shown it any more; it has kept it, and shows it.
        let (mut revived, passed) = (false, row_seq <= peer_has);
        let kept = self.writer.shadows_from != Seq::MAX;
        if !state.life.agrees(&peer_life) && row_seq != 0 && (passed || self.source.told_view().is_some()) {
            if passed {
                state.cells.iter_mut().for_each(|(_, cell)| cell.seq = seq);
                report.changed = true;
            }
            // Not passed yet, it would not be told either, if what was deleted here had not been shown.
            revived = peer_life.is_alive() && !state.life.is_alive() && kept;
        }
        let untold = revived || (report.differs_from_incoming && self.is_untold(id, &state, peer_life));
        (state, untold)
    }

    /// Puts what is known of a record now in the place of its row.
    fn write(
        &mut self,
        id: RecordId,
        row: Option<&StoredRow>,
        state: &RecordState,
        (report, untold): (&MergeReport, bool),
    ) -> Result<(), StoreError> {
        let (peer, peer_has) = (self.source.peer_no, self.incoming.peer_has);
        let knew = row.is_none_or(|row| row.origin == peer || row.seq <= peer_has);
        let origin = if knew && !report.differs_from_incoming { peer } else { 0 };
        self.all_own &= origin == peer;
        if let Some(row) = row.filter(|_| untold) {
            let held = self.writer.take_seq();
            keep_held(&self.writer.db, row, (held, held + 1), peer)
                .map_err(|error| self.store.sqlite(error))?;
        }
        let seq = self.writer.take_seq();
        self.applied.changed += 1;
        for writer in writers_of(state) {
            self.intern_writer(writer)?;
        }
        let place = self.place(seq, origin);
        let Writer { names, buffer, .. } = &mut *self.writer;
        buffer.encode(id, state, seq, names)?;
        if let Some(row) = row {
            keep_shadow(&self.writer.db, self.writer.shadows_from, row, seq)
                .map_err(|error| self.store.sqlite(error))?;
        }
        let Writer { db, buffer, .. } = &mut *self.writer;
        match row {
            Some(row) => buffer.replace(db, row.seq, state.life, place),
            None => buffer.insert_new(db, id, state.life, place).map(drop),
        }
        .map_err(|error| self.store.sqlite(error))
    }

    /// Whether the peer shows a record that is here as well, as something that it is not told of because it is outside
    /// of what this side shows it. Of that it learns once; that it holds the record is what its sending it proves.
    fn is_untold(&self, id: RecordId, state: &RecordState, peer_life: Life) -> bool {
        let Some(told) = self.source.told_view() else { return false };
        let names = &self.writer.names;
        let fields = StateFields { id, state, field_no: &|name| names.field_no(name) };
        let kept = self.writer.shadows_from != Seq::MAX;
        kept && state.life.is_alive() && peer_life.is_alive() && !told.matches(&fields)
    }

    fn intern_writer(&mut self, writer: ReplicaId) -> Result<(), StoreError> {
        if self.interned != Some(writer) {
            let Writer { db, names, .. } = &mut *self.writer;
            names.intern_writer(db, writer).map_err(|error| self.store.sqlite(error))?;
            self.interned = Some(writer);
        }
        Ok(())
    }

    const fn place(&self, seq: Seq, origin: PeerNo) -> Place {
        Place { seq, origin, tx: seq.saturating_sub(self.first_seq) }
    }

    fn save_checkpoint(&self, seq: Seq) -> Result<(), StoreError> {
        // A count, no time: a clock that was set back must not bring a replica back that is gone.
        let sql = "INSERT OR REPLACE INTO checkpoints(link, replica, seq, latest) VALUES(?1,?2,?3,
                   (SELECT coalesce(max(latest),0)+1 FROM checkpoints WHERE link=?1))";
        let Source { link, replica, .. } = self.source;
        self.writer
            .db
            .prepare_cached(sql)
            .and_then(|mut save| save.execute(params![link, replica.as_bytes().as_slice(), seq]))
            .map(drop)
            .map_err(|error| self.store.sqlite(error))
    }
}

/// What an authority sent displaced: it has decided. What of it lost to writes that it has yet to judge is no conflict.
fn as_decided(came: &RecordState, displaced: &mut Vec<Displaced>) {
    let pending = |displaced: &Displaced| {
        displaced.kind == ConflictKind::Overwritten
            && came.cell(displaced.field).is_some_and(|cell| cell.stamp == displaced.cell.stamp)
    };
    displaced.retain(|displaced| !pending(displaced));
    for displaced in displaced.iter_mut().filter(|displaced| displaced.kind == ConflictKind::Overwritten) {
        displaced.kind = ConflictKind::Decided;
    }
}
