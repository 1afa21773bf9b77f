//! An idle file: its connections are closed, and what only its use needs is given back.
//!
//! Invariant: nothing can tell, except by the time that the next access takes. The lock on the file, the names,
//! the clock and the place in the feed stay in memory.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use blazedb_core::feed::Seq;
use blazedb_core::{Clock, Hlc};
use blazedb_sqlite::rusqlite;

use crate::connection::{CacheKib, open_writer, use_log};
use crate::error::StoreError;
use crate::functions::SharedNames;
use crate::key::FileKey;
use crate::names::NameTable;
use crate::row::RowBuffer;
use crate::store::{Inner, Store, StoreOptions, Writer, lock};
use crate::views::load_shadows_from;

/// The writer of a file, which is there only while the file is in use.
pub(crate) struct Slot {
    writer: Option<Box<Writer>>,
    asleep: Asleep,
}

/// What is kept of a writer that is not there. Its names are those that readers use.
struct Asleep {
    clock: Clock,
    clock_ceiling: Hlc,
    next_seq: Seq,
}

impl Store {
    /// Closes connections and gives memory back; the next access opens them again, within a few milliseconds.
    pub fn release_memory(&self) {
        *lock(&self.inner.readers) = Vec::new();
        *lock(&self.inner.joiners) = Vec::new();
        let mut slot = lock(&self.inner.writer);
        if let Some(writer) = slot.writer.take_if(|writer| writer.db.is_autocommit()) {
            let Writer { clock, clock_ceiling, next_seq, .. } = *writer;
            slot.asleep = Asleep { clock, clock_ceiling, next_seq };
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

    /// The place of the writer, whether it is awake or not. Nobody else writes until this is dropped.
    pub(crate) fn writer_slot(&self) -> MutexGuard<'_, Slot> {
        self.count_access();
        lock(&self.inner.writer)
    }

    /// The writer in its place, awake.
    pub(crate) fn awake<'s>(&self, slot: &'s mut Slot) -> Result<&'s mut Writer, StoreError> {
        let Inner { path, key, options, names, .. } = &*self.inner;
        let writer = slot.wake(path, key.as_ref(), options, names).map_err(|error| self.sqlite(error))?;
        if !writer.db.is_autocommit() {
            // A caller's panic left its transaction open.
            let before = (self.head() + 1, writer.clock.clone());
            self.roll_back(writer, before);
        }
        Ok(writer)
    }
}

impl Slot {
    /// A place with a writer in it.
    pub(crate) fn of(writer: Writer) -> Self {
        let Writer { clock, clock_ceiling, next_seq, .. } = &writer;
        let asleep = Asleep { clock: clock.clone(), clock_ceiling: *clock_ceiling, next_seq: *next_seq };
        Self { writer: Some(Box::new(writer)), asleep }
    }

    /// The writer; its connection is opened again if it was closed.
    pub(crate) fn wake(
        &mut self,
        path: &Path,
        key: Option<&FileKey>,
        options: &StoreOptions,
        names: &SharedNames,
    ) -> rusqlite::Result<&mut Writer> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            place => {
                let db = open_writer(path, key, CacheKib(options.cache_kib), names)?;
                use_log(&db)?;
                db.execute_batch(options.durability.pragma())?;
                let Asleep { clock, clock_ceiling, next_seq } = &self.asleep;
                let (clock, clock_ceiling, next_seq) = (clock.clone(), *clock_ceiling, *next_seq);
                let names = NameTable::clone(&names.read().unwrap_or_else(PoisonError::into_inner));
                let (buffer, brought) = (RowBuffer::default(), Vec::new());
                let shadows_from = load_shadows_from(&db)?;
                let writer =
                    Writer { db, names, clock, clock_ceiling, next_seq, shadows_from, buffer, brought };
                Ok(place.insert(Box::new(writer)))
            }
        }
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
