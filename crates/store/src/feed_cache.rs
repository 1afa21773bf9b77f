//! One encoding for many readers.
//!
//! Readers that stand at the same place of the feed get the same batch: for the first one it is read and encoded, the
//! others share it.
//!
//! Invariant: a batch is only shared with readers for whom it says what a batch read for them would: [`Store::share`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use blazedb_core::feed::{FeedBatch, Seq};
use blazedb_core::view::Lens;

use crate::error::StoreError;
use crate::store::Store;

/// Long batches that are remembered while somebody still uses them.
const REMEMBERED: usize = 16;

/// Short batches that are kept for readers that come a little later: how many,
#[derive(Clone, Copy, Debug)]
struct Room {
    batches: usize,
    /// and their size together, in bytes. Longer ones are only remembered.
    bytes: usize,
}

/// No stretch of a burst is encoded twice as long as its readers lag by less than this.
const ROOM: Room = Room { batches: 256, bytes: 128 << 10 };

#[derive(Default)]
struct Recent {
    long: Vec<(Arc<Lens>, Weak<FeedBatch>)>,
    kept: VecDeque<(Arc<Lens>, Arc<FeedBatch>)>,
    kept_bytes: usize,
}

/// The recent batches of one database.
pub struct FeedCache {
    store: Store,
    room: Room,
    recent: Mutex<Recent>,
    encoded: AtomicU64,
}

impl FeedCache {
    /// An empty cache.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, room: ROOM, recent: Mutex::default(), encoded: AtomicU64::new(0) }
    }

    /// The same with room for so many batches: few, where it is to be tested what becomes of those who find none.
    #[must_use]
    pub fn with_room(self, batches: usize) -> Self {
        Self { room: Room { batches, ..self.room }, ..self }
    }

    /// The feed behind `after`, if somebody has read it already who saw it as the readers do that stand there now.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn find(&self, after: Seq, lens: &Lens) -> Result<Option<Arc<FeedBatch>>, StoreError> {
        let Some(found) = self.recall(after, lens) else { return Ok(None) };
        Ok(self.store.share(&found, lens)?.then_some(found))
    }

    fn recall(&self, after: Seq, lens: &Lens) -> Option<Arc<FeedBatch>> {
        let recent = self.recent();
        let fits = |through: &Lens, batch: &FeedBatch| batch.after == after && through.is_same(lens);
        // The newest are asked for most.
        let kept = recent.kept.iter().rev().find(|(through, batch)| fits(through, batch));
        let kept = kept.map(|(_, batch)| Arc::clone(batch));
        let long = || {
            let mut long =
                recent.long.iter().filter_map(|(through, batch)| Some((through, batch.upgrade()?)));
            long.find(|(through, batch)| fits(through, batch)).map(|(_, batch)| batch)
        };
        // A batch that ended where the feed ended then is of no use once the feed goes on, if it was empty.
        kept.or_else(long).filter(|found| found.upto > after)
    }

    /// The feed behind `after`, read and kept for others.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn read(&self, after: Seq, max_bytes: usize, lens: &Arc<Lens>) -> Result<Arc<FeedBatch>, StoreError> {
        let batch = Arc::new(self.store.feed(after, max_bytes, lens)?);
        self.encoded.fetch_add(1, Ordering::Relaxed);
        self.remember(&batch, lens);
        Ok(batch)
    }

    /// How many batches were read and encoded so far.
    pub fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }

    /// Forgets every batch.
    pub fn clear(&self) {
        *self.recent() = Recent::default();
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, batch: &Arc<FeedBatch>, lens: &Arc<Lens>) {
        let bytes = size(batch);
        let mut recent = self.recent();
        if bytes > self.room.bytes {
            recent.long.retain(|(_, old)| old.strong_count() > 0);
            if recent.long.len() >= REMEMBERED {
                recent.long.remove(0);
            }
            recent.long.push((Arc::clone(lens), Arc::downgrade(batch)));
            return;
        }
        recent.kept_bytes += bytes;
        recent.kept.push_back((Arc::clone(lens), Arc::clone(batch)));
        while recent.kept.len() > self.room.batches || recent.kept_bytes > self.room.bytes {
            let Some((_, old)) = recent.kept.pop_front() else { return };
            recent.kept_bytes -= size(&old);
        }
    }
}

/// What a batch takes, about, in bytes: its changes, its names, and perhaps the same compressed.
fn size(batch: &FeedBatch) -> usize {
    256 + 2 * batch.data.len() + 64 * (batch.names.fields.len() + batch.names.writers.len())
}
