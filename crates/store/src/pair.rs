//! Reading two files at one moment.
//!
//! SQLite takes the snapshots of attached files one after the other. What was committed in between could show a
//! state of the two that never was: a bug whose author, inserted before it, is not there yet; or one half of a
//! transaction over both. So each file counts its commits, twice each: before it becomes visible and after. A
//! transaction over several files counts up in all of them before its first commit and again after its last.
//!
//! Invariant: during the time between two snapshots, one of the files did not change: its count is even and the
//! same at both ends. Then both show the moment at which the other's snapshot was taken.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blazedb_core::limits::JOINERS_KEPT;
use blazedb_sqlite::rusqlite::{self, Connection};

use crate::connection::{CacheKib, file_uri, open_reader};
use crate::error::StoreError;
use crate::functions::register_pair;
use crate::store::{Inner, Store, lock};

/// How often a moment is looked for before writers have to wait for it.
const TRIES: usize = 8;

/// A connection over two files: `main`, and `other` if that is another one.
pub(crate) struct Joiner {
    db: Connection,
    other: PathBuf,
}

/// A commit is becoming visible, until this is dropped.
pub(crate) struct Changing<'a>(&'a Inner);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.commits.fetch_add(1, Ordering::SeqCst);
    }
}

impl Store {
    /// Says that something is about to change. Whoever calls this holds the writer. Calls nest no deeper than one
    /// commit inside one transaction over several files, which is why a count is odd or even.
    pub(crate) fn changing(&self) -> Option<Changing<'_>> {
        // Inside a transaction over several files it is said already.
        if self.inner.commits.load(Ordering::SeqCst) % 2 == 1 {
            return None;
        }
        self.inner.commits.fetch_add(1, Ordering::SeqCst);
        Some(Changing(&self.inner))
    }

    /// Whether both are the same open file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The schema in which a connection over this file and `other` has the latter.
    pub(crate) fn schema_of(&self, other: &Self) -> &'static str {
        if self.is(other) { "main" } else { "other" }
    }

    /// Runs `read` on a connection over this file and `other`, inside one snapshot of both.
    pub(crate) fn read_pair<T>(
        &self,
        other: &Self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.count_access();
        other.count_access();
        let joiner = self.joiner(other)?;
        self.pin(other, &joiner.db)?;
        let result = read(&joiner.db);
        run(&joiner.db, "COMMIT").map_err(|error| self.sqlite(error))?;
        let mut kept = lock(&self.inner.joiners);
        if kept.len() >= JOINERS_KEPT {
            kept.remove(0);
        }
        kept.push(joiner);
        result
    }

    fn joiner(&self, other: &Self) -> Result<Joiner, StoreError> {
        let path: &Path = other.path();
        let mut kept = lock(&self.inner.joiners);
        if let Some(at) = kept.iter().position(|joiner| joiner.other == path) {
            return Ok(kept.remove(at));
        }
        drop(kept);
        let cache = CacheKib(self.inner.options.cache_kib);
        let Inner { path: own, key, names, .. } = &*self.inner;
        let sqlite = |error| self.sqlite(error);
        let db = open_reader(own, key.as_ref(), cache, names).map_err(sqlite)?;
        register_pair(&db, names, &other.inner.names).map_err(sqlite)?;
        if !self.is(other) {
            let uri = file_uri(path, other.inner.key.as_ref())?;
            let attached = db.execute("ATTACH ? AS other", [uri]);
            attached.map_err(|error| other.sqlite(error))?;
            db.execute_batch(&format!("PRAGMA other.cache_size=-{}", cache.0)).map_err(sqlite)?;
        }
        Ok(Joiner { db, other: path.to_owned() })
    }

    /// Begins a transaction in which both files show one moment.
    fn pin(&self, other: &Self, db: &Connection) -> Result<(), StoreError> {
        let counts = || [self, other].map(|store| store.inner.commits.load(Ordering::SeqCst));
        let schema = self.schema_of(other);
        let sqlite = |error| self.sqlite(error);
        for _ in 0..TRIES {
            let before = counts();
            begin(db, schema).map_err(sqlite)?;
            let still =
                before.into_iter().zip(counts()).any(|(before, after)| before == after && before % 2 == 0);
            if still || self.is(other) {
                return Ok(());
            }
            run(db, "COMMIT").map_err(sqlite)?;
            std::thread::yield_now();
        }
        // Both change all the time: their writers wait for a moment, taken in the order of all transactions.
        let mut stores = [self, other];
        stores.sort_by_key(|store| store.replica());
        let [first, second] = stores;
        let held = (first.writer_slot(), second.writer_slot());
        let begun = begin(db, schema).map_err(sqlite);
        drop(held);
        begun
    }
}

fn begin(db: &Connection, schema: &str) -> rusqlite::Result<()> {
    run(db, "BEGIN")?;
    // A snapshot is taken by the first statement that reads.
    for schema in ["main", schema] {
        db.prepare_cached(&format!("SELECT 1 FROM {schema}.meta LIMIT 1"))?.query([])?.next()?;
    }
    Ok(())
}

fn run(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}
