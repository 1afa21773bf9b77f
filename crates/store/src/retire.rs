//! Dropping fields in a form that is no longer used, so that nothing of them stays in the file.
//!
//! It happens on whoever holds the database without its keys, when a member says that everything has been sent in
//! another form. A record keeps its place in the feed: nobody has to be told.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use blazedb_core::blazebinary::FieldNo;
use blazedb_sqlite::rusqlite::params;

use crate::error::StoreError;
use crate::row::StoredRow;
use crate::schema::set_meta;
use crate::store::{Store, Writer};

/// `meta`: something was dropped that may still be in free pages and in the log.
pub(crate) const SCRUB: &str = "scrub";

impl Store {
    /// Drops these fields from all records, and their names.
    pub(crate) fn retire_fields(&self, writer: &mut Writer, names: &[String]) -> Result<(), StoreError> {
        let retired: BTreeSet<FieldNo> =
            names.iter().filter_map(|name| writer.names.field_no(name)).collect();
        if retired.is_empty() {
            return Ok(());
        }
        let sqlite = |error| self.sqlite(error);
        let mut after = 0;
        while let Some(row) = StoredRow::next_behind(&writer.db, after).map_err(sqlite)? {
            after = row.seq;
            let mut state = row.decode(&writer.names)?;
            let before = state.cells.len();
            state.cells.retain(|(field, _)| !retired.contains(field));
            if state.cells.len() < before {
                let Writer { db, names, buffer, .. } = &mut *writer;
                buffer.encode(row.id, &state, row.seq, names)?;
                buffer.replace(db, row.seq, state.life, row.place()).map_err(sqlite)?;
            }
        }
        for field in &retired {
            // Numbers are counted through, so the row stays.
            let name = format!("$retired.{field}");
            let rename = "UPDATE fields SET name=? WHERE no=?";
            writer.db.execute(rename, params![name, field]).map_err(sqlite)?;
        }
        // Former states that readers with restricted views may need. Without them such a reader compares.
        writer.db.execute_batch("DELETE FROM conflicts; DELETE FROM shadows").map_err(sqlite)?;
        set_meta(&writer.db, SCRUB, 1).map_err(sqlite)?;
        self.inner.needs_scrub.store(true, Ordering::Relaxed);
        writer.names = crate::names::NameTable::load(&writer.db).map_err(sqlite)?;
        *self.inner.names.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            std::sync::Arc::new(writer.names.clone());
        Ok(())
    }

    /// Whether something was dropped that may still be in free pages and in the log.
    #[must_use]
    pub fn needs_scrub(&self) -> bool {
        self.inner.needs_scrub.load(Ordering::Relaxed)
    }

    /// Writes the file anew without free pages and empties the log, if something was dropped. Writers wait.
    ///
    /// # Errors
    /// What the disk refuses; it can be tried again.
    pub fn scrub(&self) -> Result<(), StoreError> {
        if !self.needs_scrub() {
            return Ok(());
        }
        self.release_memory();
        let mut slot = self.writer_slot();
        let writer = self.awake(&mut slot)?;
        let sqlite = |error| self.sqlite(error);
        // The log is emptied last: the pages of before are in it as well.
        let rewrite = "PRAGMA secure_delete=ON; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);";
        writer.db.execute_batch(rewrite).map_err(sqlite)?;
        let busy: i64 =
            writer.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(sqlite)?;
        if busy == 0 {
            writer.db.execute("DELETE FROM meta WHERE key=?", [SCRUB]).map_err(sqlite)?;
            self.inner.needs_scrub.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}
