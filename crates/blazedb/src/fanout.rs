//! One encoding for many subscribers.
//!
//! Sessions that stand at the same place of the feed get the same batch: the first one has it read and encoded,
//! the others share it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use blazedb_core::feed::{FeedBatch, Seq};
use blazedb_store::{Store, StoreError};

/// Batches that are remembered while somebody still uses them.
const REMEMBERED: usize = 16;
/// A batch up to this size is kept for the next subscriber even if nobody uses it right now, in bytes.
const KEPT_BYTES: usize = 64 << 10;
/// A stretch of the feed no longer than this is read where it is asked for: handing it to another thread would
/// take longer than reading it.
const SHORT_STRETCH: Seq = 64;

#[derive(Default)]
struct Recent {
    batches: Vec<Weak<FeedBatch>>,
    kept: Option<Arc<FeedBatch>>,
}

/// The recent batches of one database.
pub(crate) struct FeedCache {
    store: Store,
    recent: Mutex<Recent>,
    /// Held while a batch is being read, so that those who want the same one wait for it.
    reading: tokio::sync::Mutex<()>,
    encoded: AtomicU64,
}

impl FeedCache {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            recent: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            encoded: AtomicU64::new(0),
        }
    }

    /// The feed behind `after`, if somebody has read it already or it is short and can be read right now.
    pub(crate) fn at_hand(&self, after: Seq, max_bytes: usize) -> Option<Result<Arc<FeedBatch>, StoreError>> {
        if let Some(batch) = self.find(after) {
            return Some(Ok(batch));
        }
        if self.store.head().saturating_sub(after) > SHORT_STRETCH {
            return None;
        }
        let _turn = self.reading.try_lock().ok()?;
        let found = self.find(after);
        Some(found.map_or_else(|| self.read(after, max_bytes), Ok))
    }

    /// The feed behind `after`.
    pub(crate) async fn get(&self, after: Seq, max_bytes: usize) -> Result<Arc<FeedBatch>, StoreError> {
        if let Some(batch) = self.find(after) {
            return Ok(batch);
        }
        let _turn = self.reading.lock().await;
        if let Some(batch) = self.find(after) {
            return Ok(batch);
        }
        let store = self.store.clone();
        let batch = blocking(move || store.feed(after, max_bytes)).await?;
        Ok(self.take_in(batch))
    }

    fn read(&self, after: Seq, max_bytes: usize) -> Result<Arc<FeedBatch>, StoreError> {
        Ok(self.take_in(self.store.feed(after, max_bytes)?))
    }

    fn take_in(&self, batch: FeedBatch) -> Arc<FeedBatch> {
        let batch = Arc::new(batch);
        self.encoded.fetch_add(1, Ordering::Relaxed);
        self.remember(&batch);
        batch
    }

    pub(crate) fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        *self.recent() = Recent::default();
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, after: Seq) -> Option<Arc<FeedBatch>> {
        let recent = self.recent();
        let found = recent.batches.iter().filter_map(Weak::upgrade).find(|batch| batch.after == after)?;
        // A batch that ended where the feed ended then is of no use once the feed goes on, if it was empty.
        (found.upto > after).then_some(found)
    }

    fn remember(&self, batch: &Arc<FeedBatch>) {
        let mut recent = self.recent();
        recent.batches.retain(|old| old.strong_count() > 0);
        if recent.batches.len() >= REMEMBERED {
            recent.batches.remove(0);
        }
        recent.batches.push(Arc::downgrade(batch));
        recent.kept = (batch.data.len() <= KEPT_BYTES).then(|| Arc::clone(batch));
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work panicked, or the runtime is shutting down, and with it this task.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}
