//! Reading the feed: rows become wire entries.
//!
//! An entry is: varint (length of the body, doubled, plus 1 where a transaction starts), varint (length of the
//! history), record id, history, body; numbers are this replica's own. Grammar: `docs/spec/record.md`.

use std::sync::Arc;

use blazedb_core::blazebinary::varint::write_varint;
use blazedb_core::blazebinary::{RecordBuilder, RecordView};
use blazedb_core::cell::Content;
use blazedb_core::feed::{Audience, FeedBatch, FeedEntry, Names, PeerNo, Seq};
use blazedb_core::history::{HistoryWriter, encode_body, removal};
use blazedb_core::numbers::NumberSet;
use blazedb_core::seal::Sealed;
use blazedb_core::view::{Held, Lens};
use blazedb_core::{RecordId, ReplicaId, Stamp};
use blazedb_sqlite::rusqlite::Connection;

use crate::error::StoreError;
use crate::graves;
use crate::judge::{Judge, Verdict};
use crate::names::NameTable;
use crate::query::clamp;
use crate::row::{StoredRow, writers_of};
use crate::store::{Store, lock};

/// A batch goes on for so many times its size, looking for a good place to stop.
const MAX_STRETCH: usize = 4;

impl Store {
    /// The feed behind `after`: whole transactions, until they pass `max_bytes`.
    ///
    /// A record that changed since `after` appears with the fields that did, or whole where it is not certain
    /// that whoever has read up to `after` has the others.
    ///
    /// A reader with a restricted view gets what enters it, what changes in it and what leaves it.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn feed(&self, after: Seq, max_bytes: usize, lens: &Lens) -> Result<FeedBatch, StoreError> {
        // Taken before the snapshot: whatever is not in it lies behind this.
        let head = self.head();
        self.read(|db| {
            let names = self.names();
            let known = lock(&self.inner.reached).complete_at(after);
            let judge = Judge::new(self, db, &names, lens, (after, known));
            let mut encoder = Encoder::new(&names, known, judge);
            let (last, at_end) = self.read_entries(db, &mut encoder, after, max_bytes)?;
            let upto = if at_end { last.max(head) } else { last };
            encoder.batch.known = known;
            encoder.batch.snapshot = if at_end { upto } else { self.end_of_feed(db)? };
            if lens.held == Held::Same {
                encoder.batch.bonds = self.bonds(after, upto);
            }
            let batch = encoder.finish(after, upto);
            lock(&self.inner.reached).read(&batch);
            Ok(batch)
        })
        .and_then(|batch| self.sealed(batch, lens.packs))
    }

    /// Where the feed ends in a snapshot.
    fn end_of_feed(&self, db: &Connection) -> Result<Seq, StoreError> {
        let end = db.prepare_cached("SELECT max(seq) FROM records");
        let end = end.and_then(|mut end| end.query_row([], |row| row.get::<_, Option<Seq>>(0)));
        end.map(Option::unwrap_or_default).map_err(|error| self.sqlite(error))
    }

    /// A reader that stands where a batch begins takes it, though it was read for another. Answers false if it may not: it
    /// may have less than those for whom the batch was read, or have read what it has later; or the batch shows what the
    /// reader is not to see any more.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn share(&self, batch: &FeedBatch, lens: &Lens) -> Result<bool, StoreError> {
        // A record that has changed since was perhaps shown then, and is not now. Rows leave a stretch, and none comes.
        if !lens.view.is_all() && self.rows_between(batch.after, batch.upto)? != batch.rows {
            return Ok(false);
        }
        Ok(lock(&self.inner.reached).share(batch))
    }

    fn rows_between(&self, after: Seq, upto: Seq) -> Result<u64, StoreError> {
        self.read_once(|db| {
            db.prepare_cached("SELECT count(*) FROM records WHERE seq>? AND seq<=?")
                .and_then(|mut count| count.query_row([clamp(after), clamp(upto)], |row| row.get(0)))
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Up to which sequence everybody who has read up to `place` has every cell.
    #[must_use]
    pub fn known_at(&self, place: Seq) -> Seq {
        lock(&self.inner.reached).complete_at(place)
    }

    /// Where `peer`, which stands at `after`, may go on reading: what follows there is what it brought itself. In a
    /// restricted view some of that may have to be taken from it again: then it is read.
    #[must_use]
    pub fn behind_own(&self, after: Seq, peer: PeerNo, lens: &Lens) -> Seq {
        if lens.held != Held::Same || !lens.view.is_all() {
            return after;
        }
        let brought = lock(&self.inner.brought);
        self.pass_over(after, brought.behind(after, peer))
    }

    /// These records as they are now, in full; those that are unknown here or not shown are left out.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn records_in_full(&self, ids: &[RecordId], lens: &Lens) -> Result<FeedBatch, StoreError> {
        self.encode_each(ids.iter().map(|id| (*id, None)), lens, |judge, row, _| judge.on_request(row))
    }

    /// Removals of those of these records that a reader is not shown, and the tombstones of those that are deleted,
    /// as far as the reader knows when they were born. For the rest there is no answer, whether or not they are here.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn unshown(&self, held: &[(RecordId, Stamp)], lens: &Lens) -> Result<FeedBatch, StoreError> {
        let held = held.iter().map(|(id, born)| (*id, Some(*born)));
        self.encode_each(held, lens, |judge, row, born| match born {
            Some(born) => judge.on_held(row, born),
            None => Ok(Verdict::Nothing),
        })
    }

    /// When those of these records were born that are here.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn births(&self, ids: &[RecordId]) -> Result<Vec<(RecordId, Stamp)>, StoreError> {
        self.read(|db| {
            let names = self.names();
            let mut births = Vec::new();
            for id in ids {
                let row = StoredRow::find(db, *id).map_err(|error| self.sqlite(error))?;
                let head = row.map(|row| row.head(&names)).transpose()?;
                births.extend(head.and_then(|head| head.life.born).map(|born| (*id, born)));
            }
            Ok(births)
        })
    }

    /// Of each the reader may say when it was born.
    fn encode_each(
        &self,
        ids: impl Iterator<Item = (RecordId, Option<Stamp>)>,
        lens: &Lens,
        verdict: impl Fn(&Judge<'_>, &StoredRow, Option<Stamp>) -> Result<Verdict, StoreError>,
    ) -> Result<FeedBatch, StoreError> {
        self.read(|db| {
            let names = self.names();
            let mut encoder = Encoder::new(&names, 0, Judge::new(self, db, &names, lens, (0, 0)));
            for (id, with) in ids {
                let row = match StoredRow::find(db, id).map_err(|error| self.sqlite(error))? {
                    None => graves::row_of(self, db, &names, id, with)?,
                    row => row,
                };
                if let Some(row) = row {
                    let verdict = verdict(&encoder.judge, &row, with)?;
                    encoder.push_as(&row, true, verdict)?;
                }
            }
            Ok(encoder.finish(0, 0))
        })
        .and_then(|batch| self.sealed(batch, lens.packs))
    }

    /// What leaves a member leaves sealed.
    fn sealed(&self, batch: FeedBatch, packs: bool) -> Result<FeedBatch, StoreError> {
        match self.sealer() {
            Some(sealer) if sealer.seals() => Ok(sealer.seal_batch(&batch, packs)?),
            _ => Ok(batch),
        }
    }

    /// Answers the last sequence taken in, and whether the feed ends there.
    fn read_entries(
        &self,
        db: &Connection,
        encoder: &mut Encoder<'_>,
        after: Seq,
        max_bytes: usize,
    ) -> Result<(Seq, bool), StoreError> {
        let sql = "SELECT seq, id, state, origin, tx, history, body FROM records WHERE seq>? ORDER BY seq";
        let sqlite = |error| self.sqlite(error);
        let mut statement = db.prepare_cached(sql).map_err(sqlite)?;
        let mut last = after;
        let mut transaction = None;
        let tie = self.next_tie(after);
        let mut rows = statement.query([clamp(after)]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let row = StoredRow::borrow(row).map_err(sqlite)?;
            let first = row.seq.saturating_sub(row.tx);
            let starts = transaction != Some(first);
            let len = encoder.batch.data.len();
            if starts && last > after && last >= tie {
                return Ok((last, false));
            }
            if starts && len >= max_bytes && last > after {
                // Somewhere it has to stop, even where readers stood that had more.
                let good = lock(&self.inner.reached).may_stop(last, encoder.known);
                if good || len >= MAX_STRETCH * max_bytes {
                    return Ok((last, false));
                }
            }
            encoder.push(&row, starts)?;
            encoder.batch.rows += 1;
            transaction = Some(first);
            last = row.seq;
        }
        Ok((last, true))
    }
}

/// Encodes rows into a batch.
struct Encoder<'a> {
    names: &'a NameTable,
    /// The reader has every cell up to here.
    known: Seq,
    batch: FeedBatch,
    fields: NumberSet,
    writers: NumberSet,
    /// The writer that was noted last.
    writer: Option<ReplicaId>,
    /// The fields of the last group of a uniform history.
    group: Vec<u8>,
    history: Vec<u8>,
    body: Vec<u8>,
    builder: RecordBuilder,
    judge: Judge<'a>,
    /// The next entry starts a transaction, whether or not the row that started it is shown.
    starts: bool,
}

impl<'a> Encoder<'a> {
    fn new(names: &'a NameTable, known: Seq, judge: Judge<'a>) -> Self {
        Self {
            names,
            known,
            judge,
            starts: true,
            batch: FeedBatch::default(),
            fields: NumberSet::default(),
            writers: NumberSet::default(),
            writer: None,
            group: Vec::new(),
            history: Vec::new(),
            body: Vec::new(),
            builder: RecordBuilder::new(),
        }
    }

    fn push<B: AsRef<[u8]>>(&mut self, row: &StoredRow<B>, starts: bool) -> Result<(), StoreError> {
        let verdict = self.judge.judge(row)?;
        self.push_as(row, starts, verdict)
    }

    fn push_as<B: AsRef<[u8]>>(
        &mut self,
        row: &StoredRow<B>,
        starts: bool,
        verdict: Verdict,
    ) -> Result<(), StoreError> {
        self.starts |= starts;
        match verdict {
            Verdict::Removal(reason, audience) => {
                self.append(row.id, audience, &removal(reason), &[]);
                Ok(())
            }
            Verdict::RemovalFrom(reason, peers) => {
                peers
                    .iter()
                    .for_each(|peer| self.append(row.id, Audience::Only(*peer), &removal(reason), &[]));
                Ok(())
            }
            Verdict::GoneFor(peers) => {
                peers.iter().try_for_each(|peer| self.push_cells(row, 0, Audience::Only(*peer)))
            }
            Verdict::Delta(audience) => self.push_cells(row, self.known, audience),
            Verdict::Whole(audience) => self.push_cells(row, 0, audience),
            Verdict::Nothing => Ok(()),
        }
    }

    /// The cells that are newer than `known`, without those that the view leaves out.
    fn push_cells<B: AsRef<[u8]>>(
        &mut self,
        row: &StoredRow<B>,
        known: Seq,
        audience: Audience,
    ) -> Result<(), StoreError> {
        let head = row.head(self.names)?;
        if head.uniform && self.judge.hidden().is_empty() {
            // Inserted and not touched since: what is stored is what is sent.
            if let Some(born) = head.life.born {
                self.note_writer(born.writer);
                if head.sealed {
                    let group = row.uniform_group(self.names, &self.group)?;
                    if group.fields != self.group {
                        for field in group.numbers() {
                            self.fields.insert(field);
                        }
                        self.group = group.fields.to_vec();
                    }
                }
            }
            self.note_fields(row.body.as_ref())?;
            self.append(row.id, audience, row.history.as_ref(), row.body.as_ref());
            return Ok(());
        }
        let mut state = row.decode(self.names)?;
        state.cells.retain(|(field, _)| !self.judge.hidden().contains(field));
        let (mut history, mut body) = (std::mem::take(&mut self.history), std::mem::take(&mut self.body));
        history.clear();
        body.clear();
        let names = self.names;
        let mut writer_no = |writer: ReplicaId| names.writer_no(writer).unwrap_or(u32::MAX);
        HistoryWriter { writer_no: &mut writer_no, row_seq: None }.state(
            &state,
            |cell| cell.seq > known,
            &mut history,
        );
        encode_body(&state, |cell| cell.seq > known, &mut self.builder, &mut body)
            .map_err(|error| StoreError::Encode { id: row.id, error })?;
        writers_of(&state).into_iter().for_each(|writer| self.note_writer(writer));
        for (field, cell) in state.cells.iter().filter(|(_, cell)| cell.seq > known) {
            self.fields.insert(*field);
            if let Content::Sealed(Sealed::Write { group, .. }) = &cell.content {
                for field in &group.fields {
                    self.fields.insert(field.field);
                }
            }
        }
        self.append(row.id, audience, &history, &body);
        (self.history, self.body) = (history, body);
        Ok(())
    }

    fn append(&mut self, id: RecordId, audience: Audience, history: &[u8], body: &[u8]) {
        let starts = std::mem::take(&mut self.starts);
        let data = &mut self.batch.data;
        write_varint((body.len() as u64) << 1 | u64::from(starts), data);
        write_varint(history.len() as u64, data);
        data.extend_from_slice(id.as_bytes());
        data.extend_from_slice(history);
        data.extend_from_slice(body);
        let end = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.batch.entries.push(FeedEntry { end, audience });
    }

    fn note_writer(&mut self, writer: ReplicaId) {
        if self.writer != Some(writer) {
            self.writer = Some(writer);
            self.names.writer_no(writer).map(|no| self.writers.insert(no));
        }
    }

    fn note_fields(&mut self, body: &[u8]) -> Result<(), StoreError> {
        for (field, _) in RecordView::parse(body)?.iter() {
            self.fields.insert(field);
        }
        Ok(())
    }

    fn finish(mut self, after: Seq, upto: Seq) -> FeedBatch {
        let names = self.names;
        let fields = self.fields.iter().filter_map(|no| names.field(no).map(|name| (no, Arc::clone(name))));
        let writers = self.writers.iter().filter_map(|no| names.writer(no).map(|writer| (no, writer)));
        self.batch.names = Names { fields: fields.collect(), writers: writers.collect() };
        self.batch.after = after;
        self.batch.upto = upto;
        self.batch
    }
}
