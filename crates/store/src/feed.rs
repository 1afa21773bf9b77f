//! Reading the feed: rows become wire entries.
//!
//! An entry is: varint (length of the body, doubled, plus 1 where a transaction starts), varint (length of the
//! history), record id, history, body; numbers are this replica's own. Grammar: `docs/spec/record.md`.

use std::collections::BTreeSet;
use std::sync::Arc;

use blazedb_core::blazebinary::varint::write_varint;
use blazedb_core::blazebinary::{FieldNo, RecordBuilder, RecordView};
use blazedb_core::feed::{FeedBatch, FeedEntry, Names, Seq};
use blazedb_core::history::{HistoryWriter, encode_body};
use blazedb_core::{RecordId, ReplicaId};
use blazedb_sqlite::rusqlite::Connection;

use crate::error::StoreError;
use crate::names::NameTable;
use crate::query::clamp;
use crate::row::{StoredRow, writers_of};
use crate::store::{Store, lock};

impl Store {
    /// The feed behind `after`: whole transactions, until they pass `max_bytes`.
    ///
    /// A record that changed since `after` appears with the fields that did, or whole where it is not certain
    /// that whoever has read up to `after` has the others.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn feed(&self, after: Seq, max_bytes: usize) -> Result<FeedBatch, StoreError> {
        // Taken before the snapshot: whatever is not in it lies behind this.
        let head = self.head();
        self.read(|db| {
            let names = self.names();
            let known = lock(&self.inner.reached).complete_at(after);
            let mut encoder = Encoder::new(&names, known);
            let (last, at_end) = self.read_entries(db, &mut encoder, after, max_bytes)?;
            let upto = if at_end { last.max(head) } else { last };
            lock(&self.inner.reached).stopped(upto, if at_end { upto } else { known });
            Ok(encoder.finish(after, upto))
        })
    }

    /// Up to where whoever has read the feed up to `place` has every cell. A batch that was read from there stays
    /// good for others while this is not lower than it was before the batch was read.
    #[must_use]
    pub fn complete_at(&self, place: Seq) -> Seq {
        lock(&self.inner.reached).complete_at(place)
    }

    /// These records as they are now, in full; those that are unknown here are left out.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn records_in_full(&self, ids: &[RecordId]) -> Result<FeedBatch, StoreError> {
        self.read(|db| {
            let names = self.names();
            let mut encoder = Encoder::new(&names, 0);
            for id in ids {
                if let Some(mut row) = StoredRow::find(db, *id).map_err(|error| self.sqlite(error))? {
                    // The peer asks because it lacks the record, even if it is where the record came from.
                    row.origin = 0;
                    encoder.push(&row, true)?;
                }
            }
            Ok(encoder.finish(0, 0))
        })
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
        let mut rows = statement.query([clamp(after)]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let row = StoredRow::read(row).map_err(sqlite)?;
            let first = row.seq.saturating_sub(row.tx);
            let starts = transaction != Some(first);
            if starts
                && encoder.batch.data.len() >= max_bytes
                && last > after
                && (encoder.batch.data.len() >= max_bytes.saturating_mul(2)
                    || lock(&self.inner.reached).may_stop(last, encoder.known))
            {
                return Ok((last, false));
            }
            encoder.push(&row, starts)?;
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
    fields: BTreeSet<FieldNo>,
    writers: BTreeSet<u32>,
    history: Vec<u8>,
    body: Vec<u8>,
    builder: RecordBuilder,
}

impl<'a> Encoder<'a> {
    fn new(names: &'a NameTable, known: Seq) -> Self {
        Self {
            names,
            known,
            batch: FeedBatch::default(),
            fields: BTreeSet::new(),
            writers: BTreeSet::new(),
            history: Vec::new(),
            body: Vec::new(),
            builder: RecordBuilder::new(),
        }
    }

    fn push(&mut self, row: &StoredRow, starts: bool) -> Result<(), StoreError> {
        let head = row.head(self.names)?;
        if head.uniform {
            // Inserted and not touched since: what is stored is what is sent.
            if let Some(born) = head.life.born {
                self.note_writer(born.writer);
            }
            self.note_fields(&row.body)?;
            self.append(row, starts, &row.history, &row.body);
            return Ok(());
        }
        let state = row.decode(self.names)?;
        let known = self.known;
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
        self.fields.extend(state.cells.iter().filter(|(_, cell)| cell.seq > known).map(|(field, _)| *field));
        self.append(row, starts, &history, &body);
        (self.history, self.body) = (history, body);
        Ok(())
    }

    fn append(&mut self, row: &StoredRow, starts: bool, history: &[u8], body: &[u8]) {
        let data = &mut self.batch.data;
        write_varint((body.len() as u64) << 1 | u64::from(starts), data);
        write_varint(history.len() as u64, data);
        data.extend_from_slice(row.id.as_bytes());
        data.extend_from_slice(history);
        data.extend_from_slice(body);
        let end = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.batch.entries.push(FeedEntry { end, origin: row.origin });
    }

    fn note_writer(&mut self, writer: ReplicaId) {
        self.writers.extend(self.names.writer_no(writer));
    }

    fn note_fields(&mut self, body: &[u8]) -> Result<(), StoreError> {
        for (field, _) in RecordView::parse(body)?.iter() {
            self.fields.insert(field);
        }
        Ok(())
    }

    fn finish(mut self, after: Seq, upto: Seq) -> FeedBatch {
        let names = self.names;
        let fields = self.fields.iter().filter_map(|no| names.field(*no).map(|name| (*no, Arc::clone(name))));
        let writers = self.writers.iter().filter_map(|no| names.writer(*no).map(|writer| (*no, writer)));
        self.batch.names = Names { fields: fields.collect(), writers: writers.collect() };
        self.batch.after = after;
        self.batch.upto = upto;
        self.batch
    }
}
