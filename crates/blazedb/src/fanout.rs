//! One encoding for many subscribers, and what waits for it.

use std::sync::Arc;

use blazedb_core::feed::{FeedBatch, Seq};
use blazedb_core::view::Lens;
use blazedb_store::{FeedCache, Store, StoreError};

/// A stretch of the feed no longer than this is read where it is asked for: handing it to another thread would
/// take longer than reading it.
pub(crate) const SHORT_STRETCH: Seq = 64;

/// The feed of one database, as its sessions read it.
pub(crate) struct SharedFeed {
    store: Store,
    cache: Arc<FeedCache>,
    /// Held while a batch is being read, so that those who want the same one wait for it.
    reading: tokio::sync::Mutex<()>,
}

impl SharedFeed {
    pub(crate) fn new(store: Store) -> Self {
        let cache = Arc::new(FeedCache::new(store.clone()));
        Self { store, cache, reading: tokio::sync::Mutex::default() }
    }

    /// The feed behind `after`, if somebody has read it already or it is short and can be read right now.
    pub(crate) fn at_hand(
        &self,
        after: Seq,
        max_bytes: usize,
        lens: &Arc<Lens>,
    ) -> Option<Result<Arc<FeedBatch>, StoreError>> {
        if let Some(found) = self.cache.find(after, lens).transpose() {
            return Some(found);
        }
        if self.store.head().saturating_sub(after) > SHORT_STRETCH {
            return None;
        }
        let _turn = self.reading.try_lock().ok()?;
        let found = self.cache.find(after, lens).transpose();
        Some(found.unwrap_or_else(|| self.cache.read(after, max_bytes, lens)))
    }

    /// The feed behind `after`.
    pub(crate) async fn get(
        &self,
        after: Seq,
        max_bytes: usize,
        lens: &Arc<Lens>,
    ) -> Result<Arc<FeedBatch>, StoreError> {
        if let Some(batch) = self.cache.find(after, lens)? {
            return Ok(batch);
        }
        let _turn = self.reading.lock().await;
        if let Some(batch) = self.cache.find(after, lens)? {
            return Ok(batch);
        }
        let (cache, through) = (Arc::clone(&self.cache), Arc::clone(lens));
        blocking(move || cache.read(after, max_bytes, &through)).await
    }

    pub(crate) fn encoded(&self) -> u64 {
        self.cache.encoded()
    }

    pub(crate) fn clear(&self) {
        self.cache.clear();
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
