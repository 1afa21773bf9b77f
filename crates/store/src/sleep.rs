//! An idle file: its connections are closed, and what only its use needs is given back.
//!
//! Invariant: nothing can tell, except by the time that the next access takes. The lock on the file, the names,
//! the clock and the place in the feed stay in memory.

use std::path::Path;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use blazedb_sqlite::rusqlite::{self, Connection};

use crate::connection::{CacheKib, open_writer, use_log};
use crate::error::StoreError;
use crate::functions::SharedNames;
use crate::key::FileKey;
use crate::row::RowBuffer;
use crate::store::{Inner, Store, StoreOptions, Writer, lock};

impl Store {
    /// Closes connections and gives memory back; the next access opens them again, within a few milliseconds.
    pub fn release_memory(&self) {
        lock(&self.inner.readers).clear();
        let mut writer = lock(&self.inner.writer);
        if writer.asleep || !writer.db.is_autocommit() {
            return;
        }
        // An empty database in memory stands in for the file: small, and never asked anything.
        if let Ok(nothing) = Connection::open_in_memory() {
            nothing.set_prepared_statement_cache_capacity(0);
            writer.db = nothing;
            writer.asleep = true;
            writer.buffer = RowBuffer::default();
        }
    }

    /// How often the file was read or written since it was opened: tells whether it is idle.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        self.inner.accesses.load(Ordering::Relaxed)
    }

    pub(crate) fn count_access(&self) {
        self.inner.accesses.fetch_add(1, Ordering::Relaxed);
    }

    /// The writer, awake.
    pub(crate) fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        self.count_access();
        let mut writer = lock(&self.inner.writer);
        let Inner { path, key, options, names, .. } = &*self.inner;
        writer.wake(path, key.as_ref(), options, names).map_err(|error| self.sqlite(error))?;
        Ok(writer)
    }
}

impl Writer {
    /// Opens the connection again if it was closed.
    pub(crate) fn wake(
        &mut self,
        path: &Path,
        key: Option<&FileKey>,
        options: &StoreOptions,
        names: &SharedNames,
    ) -> rusqlite::Result<()> {
        if self.asleep {
            let db = open_writer(path, key, CacheKib(options.cache_kib), names)?;
            use_log(&db)?;
            db.execute_batch(options.durability.pragma())?;
            self.db = db;
            self.asleep = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use blazedb_core::Value;

    use crate::{Password, Store, StoreOptions};

    #[test]
    fn a_file_that_slept_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.blazedb");
        let open = || Store::open(&path, &Password::from("secret"), StoreOptions::default());
        let store = open().unwrap();
        let fields = BTreeMap::from([("title".to_owned(), Value::from("crash"))]);
        let (first, second) = (store.new_id().unwrap(), store.new_id().unwrap());
        store.transaction(|tx| tx.insert(first, &fields)).unwrap();
        let (head, accesses) = (store.head(), store.accesses());
        store.release_memory();
        store.release_memory();
        assert_eq!(store.accesses(), accesses);
        assert!(!dir.path().join("s.blazedb-wal").exists());
        assert!(open().is_err(), "the file is still ours");
        assert_eq!(store.get(first).unwrap().unwrap().fields, fields);
        store.release_memory();
        store.transaction(|tx| tx.insert(second, &fields)).unwrap();
        assert!(store.head() > head && store.accesses() > accesses);
        store.release_memory();
        let replica = store.replica();
        drop(store);
        let store = open().unwrap();
        assert_eq!(store.get(second).unwrap().unwrap().fields, fields);
        assert_eq!(store.replica(), replica);
    }
}
