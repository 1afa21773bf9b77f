//! How long a read may take: somebody else may end it.
//!
//! Invariant: nothing but reads on the thread that is inside [`Patience::during`] is ever interrupted: a connection that
//! goes back to the others is not reachable from here any more.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use blazedb_sqlite::rusqlite::{Connection, InterruptHandle};

use crate::error::StoreError;
use crate::store::lock;

/// Ends reads that take too long. Clones are the same.
#[derive(Clone, Default)]
pub struct Patience {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    over: AtomicBool,
    reading: Mutex<Option<InterruptHandle>>,
}

thread_local! {
    static NOW: RefCell<Option<Patience>> = const { RefCell::new(None) };
}

impl Patience {
    /// Runs `work`, whose reads end with [`StoreError::Ended`] once the patience is over.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Patience>);
        impl Drop for Restore {
            fn drop(&mut self) {
                NOW.with(|now| *now.borrow_mut() = self.0.take());
            }
        }
        let _restore = Restore(NOW.with(|now| now.borrow_mut().replace(self.clone())));
        work()
    }

    /// The patience is over. A read may just be between two statements: say it again until it has ended.
    pub fn end(&self) {
        self.inner.over.store(true, Ordering::SeqCst);
        lock(&self.inner.reading).iter().for_each(InterruptHandle::interrupt);
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.inner.over.load(Ordering::SeqCst)
    }
}

/// Runs a read on a connection; the patience of this thread, if it has one, may end it.
pub(crate) fn read_with<T>(
    db: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let Some(patience) = NOW.with(|now| now.borrow().clone()) else { return read(db) };
    if patience.is_over() {
        return Err(StoreError::Ended);
    }
    let outer = lock(&patience.inner.reading).replace(db.get_interrupt_handle());
    let result = read(db);
    *lock(&patience.inner.reading) = outer;
    if !db.is_autocommit() {
        // What ended the read may have ended the end of its transaction as well.
        let _ = db.execute_batch("ROLLBACK");
    }
    if patience.is_over() && result.is_err() { Err(StoreError::Ended) } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Password, Store, StoreOptions};

    #[test]
    fn a_read_that_takes_for_ever_is_ended_and_the_connection_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("t"), &Password::Plaintext, StoreOptions::default()).unwrap();
        let endless = |db: &Connection| {
            let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n";
            db.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|error| store.sqlite(error))
        };
        let patience = Patience::default();
        std::thread::scope(|scope| {
            let work = scope.spawn(|| patience.during(|| store.read_once(endless)));
            while !work.is_finished() {
                patience.end();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(matches!(work.join().unwrap(), Err(StoreError::Ended)));
        });
        assert_eq!(store.count(None).unwrap(), 0);
        assert!(matches!(patience.during(|| store.count(None)), Err(StoreError::Ended)));
    }
}
