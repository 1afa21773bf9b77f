//! How far readers are, noted together: one commit a second for all of them, however many sessions a change reached.
//!
//! Invariant: what is noted late, or not at all if the process ends, only keeps former states for longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use blazedb_core::ReplicaId;
use blazedb_core::feed::Seq;
use blazedb_core::limits::NOTE_READERS_MS;
use blazedb_store::Passed;

use crate::database::Inner;
use crate::fanout::blocking;

/// What is to be noted of the readers of one database.
#[derive(Default)]
pub(crate) struct PassedList {
    waiting: Mutex<HashMap<(Arc<str>, ReplicaId), Seq>>,
}

impl PassedList {
    /// Notes soon that a reader has everything up to here. Must be called inside a tokio runtime.
    pub(crate) fn note(database: &Arc<Inner>, link: Arc<str>, replica: ReplicaId, upto: Seq) {
        let mut waiting = database.passed.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            tokio::spawn(Self::write(Arc::downgrade(database)));
        }
        let known = waiting.entry((link, replica)).or_insert(upto);
        *known = upto.max(*known);
    }

    async fn write(database: Weak<Inner>) {
        tokio::time::sleep(Duration::from_millis(NOTE_READERS_MS)).await;
        let Some(inner) = database.upgrade() else { return };
        let waiting =
            std::mem::take(&mut *inner.passed.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let passed = |((link, replica), upto)| Passed { link, replica, upto };
        let passed: Vec<Passed> = waiting.into_iter().map(passed).collect();
        if let Err(error) = blocking(move || inner.store.readers_passed(&passed)).await {
            tracing::warn!(%error, "noting how far readers are failed");
        }
    }
}
