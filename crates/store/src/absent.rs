//! Records that a comparison found a reader to lack, and that left its view before they were read for it.

use blazedb_core::RecordId;
use blazedb_core::feed::{FeedBatch, Seq};
use blazedb_core::view::{Lens, Side};
use blazedb_sqlite::rusqlite::{self, Connection, params};

use crate::error::StoreError;
use crate::judge::Judge;
use crate::query::clamp;
use crate::store::Store;

impl Store {
    /// These records as they are now, in full, for a reader that a comparison found to lack them.
    ///
    /// Those that it is not shown any more are left out, but their former states say that they were shown when the sets
    /// were listed: a reader that stands there would get a difference when one comes back. It is noted that it does not
    /// have them.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn wanted_in_full(&self, ids: &[RecordId], lens: &Lens) -> Result<FeedBatch, StoreError> {
        let batch = self.records_in_full(ids, lens)?;
        let restricted = lens.side == Side::Serve && !lens.view.is_all();
        if restricted && batch.entries.len() < ids.len() && self.shadows_from() != Seq::MAX {
            self.commit(|writer| {
                let judge = Judge::new(self, &writer.db, &writer.names, lens, (0, 0));
                for id in ids {
                    for (seq, until) in judge.shown_before(*id)? {
                        keep_absent(&writer.db, *id, (seq, until)).map_err(|error| self.sqlite(error))?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(batch)
    }
}

/// Notes that who stood in a stretch of the feed did not have the record, at the last place before it that has no state.
fn keep_absent(db: &Connection, id: RecordId, (seq, until): (Seq, Seq)) -> rusqlite::Result<()> {
    let id = id.as_bytes().as_slice();
    let mut taken = db.prepare_cached("SELECT 1 FROM shadows WHERE id=? AND seq=?")?;
    let mut at = seq.saturating_sub(1);
    while at > 0 && taken.exists(params![id, clamp(at)])? {
        at -= 1;
    }
    let sql = "INSERT OR REPLACE INTO shadows(id, seq, until, origin, body) VALUES(?,?,?,0,x'')";
    db.prepare_cached(sql)?.execute(params![id, clamp(at), clamp(until)]).map(drop)
}
