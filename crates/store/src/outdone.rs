//! Deletions of this replica that a deletion of another one has taken the place of.
//!
//! Of two deletions of a record a state keeps the later one. Where an authority overrules that, the record is there again
//! for both who deleted it, and both are told: who made the earlier one finds it here.
//!
//! Invariants: only deletions made here are noted, in the transaction that merges the other one; a note ends when what
//! others bring has the record return, for whatever reason. (One of a record that was inserted here again says nothing
//! about that.)

use blazedb_core::Stamp;
use blazedb_core::merge::{Life, MergeReport};
use blazedb_core::{RecordId, ReplicaId};
use blazedb_sqlite::rusqlite::{Connection, OptionalExtension, Result as SqlResult, params};

use crate::conflicts::{stamp_bytes, stamp_of};
use crate::error::StoreError;
use crate::rejected;
use crate::store::{Store, Writer};

impl Store {
    /// Whether this file is or was the replica that wrote something.
    pub(crate) fn wrote(&self, writer: ReplicaId) -> bool {
        writer == self.inner.replica || self.inner.former.contains(&writer)
    }

    /// A merge of a record that was deleted: a deletion made here is noted if another one stands in its place, and told of
    /// as refused if none stands any more.
    pub(crate) fn follow_deletion(
        &self,
        writer: &Writer,
        id: RecordId,
        (before, now): (&Life, &Life),
        report: &MergeReport,
    ) -> Result<(), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let own = |stamp: &Stamp| self.wrote(stamp.writer);
        if let Some(deletion) = report.outdone.filter(own) {
            note(&writer.db, id, deletion).map_err(sqlite)?;
        }
        if before.dead.is_none() || before.is_alive() || !now.is_alive() {
            return Ok(());
        }
        let noted = take(&writer.db, id, before).map_err(sqlite)?;
        let lost = report.overruled.and_then(|deletion| Some(deletion).filter(own).or(noted));
        lost.map_or(Ok(()), |deletion| rejected::keep_overruled(self, writer, id, deletion, OVERRULED))
    }
}

const OVERRULED: &str = "the record is there again: it had been changed where it is decided about, which the deletion had not seen";

/// Takes note of a deletion made here.
fn note(db: &Connection, id: RecordId, deletion: Stamp) -> SqlResult<()> {
    db.prepare_cached("INSERT OR REPLACE INTO outdone(id, stamp) VALUES(?,?)")?
        .execute(params![id.as_bytes().as_slice(), stamp_bytes(deletion)])
        .map(drop)
}

/// The deletion that was made here of a record that is there again, if it was one of the record as `before` has it: what
/// was inserted after it was deleted, it is not about.
pub(crate) fn take(db: &Connection, id: RecordId, before: &Life) -> SqlResult<Option<Stamp>> {
    let id = id.as_bytes().as_slice();
    let noted: Option<Stamp> = db
        .prepare_cached("SELECT stamp FROM outdone WHERE id=?")?
        .query_row([id], |row| row.get(0).map(stamp_of))
        .optional()?;
    if noted.is_some() {
        db.prepare_cached("DELETE FROM outdone WHERE id=?")?.execute([id])?;
    }
    Ok(noted.filter(|deletion| before.goes_on() || Some(*deletion) > before.after))
}
