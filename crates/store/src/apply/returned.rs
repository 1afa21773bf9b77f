//! What comes from a replica that was away while a tombstone was dropped, and what such a replica is told.

use blazedb_core::RecordId;
use blazedb_core::blazebinary::FieldNo;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::cell::Cell;
use blazedb_core::feed::Seq;
use blazedb_core::history::HistoryReader;
use blazedb_core::merge::{ConflictKind, Displaced, Life, RecordState};

use super::Applier;
use crate::error::StoreError;
use crate::graves::{self, Grave};
use crate::row::{GONE, StoredRow};
use crate::store::Writer;
use crate::views::keep_held;

impl Applier<'_> {
    /// What comes of a record whose tombstone was dropped meets it first. Answers whether it is nothing but that tombstone.
    pub(super) fn meet_grave(
        &mut self,
        id: RecordId,
        history: &[u8],
        body: &[u8],
    ) -> Result<bool, StoreError> {
        let sqlite = |error| self.store.sqlite(error);
        let Writer { db, names, .. } = &*self.writer;
        let Some(Grave { dead, after }) = graves::find(db, names, id).map_err(sqlite)? else {
            return Ok(false);
        };
        let writer_of = |no| self.incoming.names.writer(no);
        let reader = HistoryReader { writer: &writer_of, row_seq: None };
        let came = reader.state(&mut Reader::new(history), body)?;
        let same = came.life.dead.is_some_and(|theirs| theirs.stamp == dead);
        if same && came.life.after == after && came.cells.is_empty() && came.life.newest() == Some(dead) {
            return Ok(true);
        }
        self.all_own = false;
        self.applied.changed += 1;
        if self.writer.shadows_from != Seq::MAX {
            // Who brings it holds it, whether or not it is shown it.
            let held = self.writer.take_seq();
            let gone = StoredRow {
                seq: held,
                id,
                state: GONE,
                origin: 0,
                tx: 0,
                history: Vec::new(),
                body: Vec::new(),
            };
            keep_held(&self.writer.db, &gone, (held, held + 1), self.source.peer_no)
                .map_err(|error| self.store.sqlite(error))?;
        }
        self.writer.raise(self.store, id, &came.life, self.first_seq)?;
        Ok(false)
    }

    /// What the deletion `life` takes with it that was written here and had not got anywhere when the session began. A
    /// deletion that was made again from a grave does not say what it had seen: this is kept in the conflict log.
    pub(super) fn unsent_before(
        &self,
        row: Option<&StoredRow>,
        before: &RecordState,
        life: Life,
    ) -> Vec<Displaced> {
        // Who tells of the deletion brought all of it.
        let own = row.is_none_or(|row| row.origin != self.source.peer_no);
        let Some(dead) = life.dead.filter(|dead| own && dead.is_raised() && before.life.is_alive()) else {
            return Vec::new();
        };
        let elsewhere = self.source.reader().map_or(0, |reader| reader.elsewhere());
        let unsent = |cell: &&(FieldNo, Cell)| {
            let (_, cell) = cell;
            cell.seq > elsewhere && cell.stamp < dead.stamp && cell.stamp.writer != dead.stamp.writer
        };
        let cells = before.cells.iter().filter(unsent).filter(|(_, cell)| !cell.content.is_absent());
        let displaced = |(field, cell): &(FieldNo, Cell)| Displaced {
            field: *field,
            cell: cell.clone(),
            winner: dead.stamp,
            kind: ConflictKind::Deleted,
        };
        cells.map(displaced).collect()
    }
}
