//! Records that the other side takes away, and those that wait for it.
//!
//! Invariant: a record with local edits that the other side does not have yet is not taken away; it waits in `leaving`, and
//! as long as it does, its edits are told whether or not they are shown.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use blazedb_core::blazebinary::{FieldNo, RecordView};
use blazedb_core::feed::{PeerNo, Seq};
use blazedb_core::filter::{EvalContext, Filter};
use blazedb_core::merge::RecordState;
use blazedb_core::view::{RemovalReason, View};
use blazedb_core::{RecordId, Timestamp};
use blazedb_sqlite::rusqlite::{self, Connection, params};

use crate::error::StoreError;
use crate::functions::StoredFields;
use crate::incoming::Source;
use crate::names::NameTable;
use crate::query::{Query, clamp};
use crate::row::{ALIVE, Place, StoredRow, removal_reason};
use crate::store::{Store, Writer};
use crate::views::{Removal, Removals, keep_shadow, shown};

/// A record that waits to be taken away until its local edits have arrived on the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// The link that takes it away.
    pub link: String,
    /// The record.
    pub id: RecordId,
    /// Why it goes.
    pub reason: RemovalReason,
}

/// What removals would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Foreseen {
    /// Records that would go from here.
    pub removed: u64,
    /// Records of them that the other side would be told of once more before.
    pub told_again: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Store {
    /// Records that wait to be taken away.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn leaving(&self) -> Result<Vec<Leaving>, StoreError> {
        self.read(|db| {
            let sqlite = |error| self.sqlite(error);
            let mut list =
                db.prepare_cached("SELECT link, id, reason FROM leaving ORDER BY id").map_err(sqlite)?;
            let rows = list.query_map([], read_leaving).map_err(sqlite)?;
            rows.collect::<Result<_, _>>().map_err(sqlite)
        })
    }

    /// Takes away what waited for its local edits to arrive: the other side has them up to `acked`. What it is never told
    /// of stays.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn finish_leaving(&self, from: &Source, acked: Seq, removals: Removals) -> Result<(), StoreError> {
        if self.inner.leaving.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.commit(|writer| {
            let sqlite = |error| self.sqlite(error);
            let sql = "SELECT link, id, reason FROM leaving WHERE link=?1
                       AND (SELECT seq FROM records WHERE records.id=leaving.id)<=?2";
            let ready: Vec<Leaving> = {
                let mut list = writer.db.prepare_cached(sql).map_err(sqlite)?;
                let rows =
                    list.query_map(params![&*from.link, clamp(acked)], read_leaving).map_err(sqlite)?;
                rows.collect::<Result<_, _>>().map_err(sqlite)?
            };
            for Leaving { id, reason, .. } in ready {
                if let Some(row) = StoredRow::find(&writer.db, id).map_err(sqlite)? {
                    if self.has_untold(writer, &row, from)? {
                        continue;
                    }
                    self.take_away(writer, &row, from.peer_no, reason, removals)?;
                }
                self.stays(writer, &from.link, id)?;
            }
            Ok(())
        })
    }

    /// How many records match `shown` and not `still`, and hold something that was written here, with their stored
    /// bytes: the other side is told of them once more before it takes them away.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn measure_told_again(
        &self,
        shown: Option<&Filter>,
        still: Option<&Filter>,
    ) -> Result<(u64, u64), StoreError> {
        let Some(still) = still else { return Ok((0, 0)) };
        let now = Timestamp::from_millis(self.now_ms());
        let mut left = Vec::new();
        self.query(&Query { filter: shown.cloned(), ..Query::default() }, |record| {
            if !still.matches(&EvalContext::new(&record, now)) {
                left.push(record.id);
            }
            true
        })?;
        let names = self.names();
        self.read(|db| {
            let (mut records, mut bytes) = (0, 0);
            for id in left {
                let Some(row) = StoredRow::find(db, id).map_err(|error| self.sqlite(error))? else {
                    continue;
                };
                if row.origin == 0 || self.has_own(&names, &row, |_| true)? {
                    records += 1;
                    bytes += (16 + row.body.len() + row.history.len()) as u64;
                }
            }
            Ok((records, bytes))
        })
    }

    /// The other side takes a record away. Answers whether the feed got an entry.
    pub(crate) fn on_removal(
        &self,
        writer: &mut Writer,
        id: RecordId,
        reason: RemovalReason,
        from: &Source,
        peer_has: Seq,
    ) -> Result<bool, StoreError> {
        let sqlite = |error| self.sqlite(error);
        let Some(row) = StoredRow::find(&writer.db, id).map_err(sqlite)? else { return Ok(false) };
        if removal_reason(row.state).is_some() || from.removals.on(reason) == Removal::Keep {
            return Ok(false);
        }
        // It waits already: it was told of since it does, or is in the feed behind what the peer has.
        let waits = self.waits(&writer.db, &from.link, id).map_err(sqlite)?;
        let untold = !waits && self.is_untold(&writer.db, &writer.names, &row, from)?;
        // What the peer changed last may hold edits that were made here while it was not shown the record.
        let own = row.origin != from.peer_no
            || (from.told_view().is_some() && self.has_own(&writer.names, &row, |_| true)?);
        let unsent = own && row.seq > peer_has;
        if untold || unsent || self.has_untold(writer, &row, from)? {
            let sql = "INSERT OR REPLACE INTO leaving(link, id, reason) VALUES(?,?,?)";
            let bytes = id.as_bytes().as_slice();
            writer.db.execute(sql, params![&*from.link, bytes, reason.byte()]).map_err(sqlite)?;
            self.inner.leaving.fetch_add(1, Ordering::Relaxed);
            if untold {
                self.move_to_end(writer, &row)?;
            }
            return Ok(untold);
        }
        self.take_away(writer, &row, from.peer_no, reason, from.removals)?;
        self.stays(writer, &from.link, id)?;
        Ok(true)
    }

    /// Every record that waits to be taken away, by whichever link.
    pub(crate) fn all_leaving(&self, db: &Connection) -> rusqlite::Result<HashSet<RecordId>> {
        if self.inner.leaving.load(Ordering::Relaxed) == 0 {
            return Ok(HashSet::new());
        }
        let mut list = db.prepare_cached("SELECT id FROM leaving")?;
        list.query_map([], |row| row.get(0).map(RecordId::from_bytes))?.collect()
    }

    /// Whether a record waits to be taken away by this link.
    fn waits(&self, db: &Connection, link: &str, id: RecordId) -> rusqlite::Result<bool> {
        if self.inner.leaving.load(Ordering::Relaxed) == 0 {
            return Ok(false);
        }
        let mut found = db.prepare_cached("SELECT 1 FROM leaving WHERE link=? AND id=?")?;
        found.exists(params![link, id.as_bytes().as_slice()])
    }

    /// What it would do here if the other side took these records away.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn foresee_removals(
        &self,
        removals: &[(RecordId, RemovalReason)],
        from: &Source,
    ) -> Result<Foreseen, StoreError> {
        let names = self.names();
        self.read(|db| {
            let mut foreseen = Foreseen::default();
            for (id, reason) in removals {
                let Some(row) = StoredRow::find(db, *id).map_err(|error| self.sqlite(error))? else {
                    continue;
                };
                if removal_reason(row.state).is_some() || from.removals.on(*reason) == Removal::Keep {
                    continue;
                }
                foreseen.removed += 1;
                if self.is_untold(db, &names, &row, from)? {
                    foreseen.told_again += 1;
                    foreseen.bytes += (16 + row.body.len() + row.history.len()) as u64;
                }
            }
            Ok(foreseen)
        })
    }

    /// Whether the other side has to be told of a record once more before it may take it away. A checkpoint passes what
    /// is not told: that the peer has the feed does not say that it has this edit.
    fn is_untold(
        &self,
        db: &Connection,
        names: &NameTable,
        row: &StoredRow,
        from: &Source,
    ) -> Result<bool, StoreError> {
        match row.state {
            ALIVE => self.may_be_untold(db, names, row, from),
            _ => Ok(row.origin == 0 && from.told_view().is_some()),
        }
    }

    /// Whether a record holds what was written here and what some view did not show to the other side under which it may
    /// have got to its checkpoint. It is told of that once more.
    fn may_be_untold(
        &self,
        db: &Connection,
        names: &NameTable,
        row: &StoredRow,
        to: &Source,
    ) -> Result<bool, StoreError> {
        let own_anywhere = || Ok(row.origin == 0 || self.has_own(names, row, |_| true)?);
        if to.is_untold(names, row.id, &row.body) {
            return own_anywhere();
        }
        for view in self.unsettled_views(db, to)? {
            let fields = StoredFields { id: row.id, body: RecordView::parse(&row.body).ok(), names };
            let hidden: Vec<FieldNo> = view.excluded().filter_map(|name| names.field_no(name)).collect();
            if self.has_own(names, row, |field| hidden.contains(&field))?
                || (!view.matches(&fields) && own_anywhere()?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The views that the other side may have been shown until now, while another one takes their place.
    fn unsettled_views(&self, db: &Connection, of: &Source) -> Result<Vec<View>, StoreError> {
        let views = shown(db, &of.link, of.replica).map_err(|error| self.sqlite(error))?;
        Ok(views.unwrap_or_default())
    }

    /// Whether a record holds what was written here in fields that the other side is never told of, or has yet to be.
    fn has_untold(&self, writer: &Writer, row: &StoredRow, to: &Source) -> Result<bool, StoreError> {
        let mut fields = to.untold(&writer.names);
        for view in self.unsettled_views(&writer.db, to)? {
            fields.extend(view.excluded().filter_map(|name| writer.names.field_no(name)));
        }
        if fields.is_empty() || row.state != ALIVE {
            return Ok(false);
        }
        self.has_own(&writer.names, row, |field| fields.contains(&field))
    }

    /// Whether something in these fields was written here.
    fn has_own(
        &self,
        names: &NameTable,
        row: &StoredRow,
        of: impl Fn(FieldNo) -> bool,
    ) -> Result<bool, StoreError> {
        let state = row.decode(names)?;
        let mut cells = state.cells.iter().filter(|(field, cell)| of(*field) && !cell.content.is_absent());
        Ok(cells.any(|(_, cell)| self.wrote(cell.stamp.writer)))
    }

    /// Has a record read again by all who read here.
    fn move_to_end(&self, writer: &mut Writer, row: &StoredRow) -> Result<(), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let state = row.decode(&writer.names)?;
        let seq = writer.take_seq();
        keep_shadow(&writer.db, writer.shadows_from, row, seq).map_err(sqlite)?;
        let Writer { db, names, buffer, .. } = &mut *writer;
        buffer.encode(row.id, &state, seq, names)?;
        buffer.replace(db, row.seq, state.life, Place { seq, origin: 0, tx: 0 }).map_err(sqlite)
    }

    /// A record that was to leave is shown again, or is gone.
    pub(crate) fn stays(&self, writer: &Writer, link: &str, id: RecordId) -> Result<(), StoreError> {
        if self.inner.leaving.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let sql = "DELETE FROM leaving WHERE link=? AND id=?";
        writer
            .db
            .execute(sql, params![link, id.as_bytes().as_slice()])
            .map_err(|error| self.sqlite(error))?;
        let left = count_leaving(&writer.db).map_err(|error| self.sqlite(error))?;
        self.inner.leaving.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// What is left of the record is a row that says why it is not here, for those who read here.
    pub(crate) fn take_away(
        &self,
        writer: &mut Writer,
        row: &StoredRow,
        peer: PeerNo,
        reason: RemovalReason,
        removals: Removals,
    ) -> Result<(), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let shred = removals.on(reason) == Removal::Shred;
        if shred {
            // In the pages of the file; what the write-ahead log still has goes with its next checkpoint.
            writer.db.execute_batch("PRAGMA secure_delete=ON").map_err(sqlite)?;
        }
        let seq = writer.take_seq();
        keep_shadow(&writer.db, writer.shadows_from, row, seq).map_err(sqlite)?;
        let place = Place { seq, origin: peer, tx: 0 };
        let Writer { db, names, buffer, .. } = &mut *writer;
        buffer.encode(row.id, &RecordState::default(), seq, names)?;
        buffer.replace_by_removal(db, row.seq, reason, place).map_err(sqlite)?;
        self.inner.taken.count(reason);
        db.execute("DELETE FROM conflicts WHERE id=?", [row.id.as_bytes().as_slice()]).map_err(sqlite)?;
        if shred {
            db.execute_batch("PRAGMA secure_delete=FAST").map_err(sqlite)?;
        }
        Ok(())
    }
}

pub(crate) fn count_leaving(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT count(*) FROM leaving", [], |row| row.get(0))
}

fn read_leaving(row: &rusqlite::Row<'_>) -> rusqlite::Result<Leaving> {
    let reason = RemovalReason::from_byte(row.get(2)?).unwrap_or(RemovalReason::LeftFilter);
    Ok(Leaving { link: row.get(0)?, id: RecordId::from_bytes(row.get(1)?), reason })
}
