//! One encoding for many subscribers.
//!
//! Sessions that stand at the same place of the feed get the same batch: the first one has it read and encoded,
//! the others share it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use blazedb_core::feed::{FeedBatch, Seq};
use blazedb_store::{Store, StoreError};

/// Long batches that are remembered while somebody still uses them.
const REMEMBERED: usize = 16;
/// Short batches that are kept for subscribers that come a little later: how many, and their size together, in
/// bytes. No stretch of a burst is encoded twice as long as its subscribers lag by less than this.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 128 << 10;
/// A stretch of the feed no longer than this is read where it is asked for: handing it to another thread would
/// take longer than reading it.
const SHORT_STRETCH: Seq = 64;

/// Batches, each with what its readers had to have (see [`Store::complete_at`]): it goes to nobody who has less.
#[derive(Default)]
struct Recent {
    long: Vec<(Weak<FeedBatch>, Seq)>,
    kept: VecDeque<(Arc<FeedBatch>, Seq)>,
    kept_bytes: usize,
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
        let known = self.store.complete_at(after);
        let batch = blocking(move || store.feed(after, max_bytes)).await?;
        Ok(self.take_in(batch, known))
    }

    fn read(&self, after: Seq, max_bytes: usize) -> Result<Arc<FeedBatch>, StoreError> {
        let known = self.store.complete_at(after);
        Ok(self.take_in(self.store.feed(after, max_bytes)?, known))
    }

    fn take_in(&self, batch: FeedBatch, known: Seq) -> Arc<FeedBatch> {
        let batch = Arc::new(batch);
        self.encoded.fetch_add(1, Ordering::Relaxed);
        self.remember(&batch, known);
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
        let complete = self.store.complete_at(after);
        let fits =
            |batch: &FeedBatch, known: Seq| batch.after == after && batch.upto > after && known <= complete;
        let recent = self.recent();
        // The newest are asked for most. One that ended where it began is of no use once the feed goes on.
        let kept = recent.kept.iter().rev().find(|(batch, known)| fits(batch, *known));
        let long = || {
            let mut alive = recent.long.iter().filter_map(|(batch, known)| Some((batch.upgrade()?, *known)));
            alive.find(|(batch, known)| fits(batch, *known)).map(|(batch, _)| batch)
        };
        kept.map(|(batch, _)| Arc::clone(batch)).or_else(long)
    }

    fn remember(&self, batch: &Arc<FeedBatch>, known: Seq) {
        let bytes = size(batch);
        let mut recent = self.recent();
        if bytes > KEPT_BYTES {
            recent.long.retain(|(old, _)| old.strong_count() > 0);
            if recent.long.len() >= REMEMBERED {
                recent.long.remove(0);
            }
            recent.long.push((Arc::downgrade(batch), known));
            return;
        }
        recent.kept_bytes += bytes;
        recent.kept.push_back((Arc::clone(batch), known));
        while recent.kept.len() > KEPT || recent.kept_bytes > KEPT_BYTES {
            let Some((old, _)) = recent.kept.pop_front() else { return };
            recent.kept_bytes -= size(&old);
        }
    }
}

/// What a batch takes, about, in bytes: its changes, its names, and perhaps the same compressed.
fn size(batch: &FeedBatch) -> usize {
    256 + 2 * batch.data.len() + 64 * (batch.names.fields.len() + batch.names.writers.len())
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
