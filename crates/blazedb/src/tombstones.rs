//! Drops tombstones that nobody waits for, now and then, as long as a database is open.

use std::sync::{Arc, Weak};
use std::time::Duration;

use blazedb_core::limits::{TOMBSTONE_LOOK_MAX_MS, TOMBSTONE_LOOK_MIN_MS};

use crate::database::Inner;
use crate::fanout::blocking;

/// Begins, if that has not been done. Does nothing outside of a tokio runtime.
pub(crate) fn keep_dropping(database: &Arc<Inner>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current()
        && database.drops_tombstones.set(()).is_ok()
    {
        runtime.spawn(keep(Arc::downgrade(database), pause(database.store.tombstone_lease_ms())));
    }
}

/// Often enough that what the lease ended for goes soon after.
fn pause(lease_ms: u64) -> Duration {
    Duration::from_millis((lease_ms / 8).clamp(TOMBSTONE_LOOK_MIN_MS, TOMBSTONE_LOOK_MAX_MS))
}

async fn keep(database: Weak<Inner>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = database.upgrade() else { return };
        let dropped = blocking(move || inner.store.drop_tombstones()).await;
        match dropped {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "tombstones were dropped"),
            Err(error) => tracing::warn!(%error, "tombstones could not be dropped; they go the next time"),
        }
    }
}
