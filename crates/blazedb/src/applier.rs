//! Group commit: whatever batches wait, of whichever peers, are applied in one transaction.
//!
//! Invariant: batches are applied in the order in which they were submitted, and reported after the commit that
//! holds them is durable.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb_core::wire::CloseCode;
use blazedb_store::{CheckedBatch, Store, StoreError};

/// Batches in one commit, at most.
const GROUP: usize = 64;

/// Called once with what became of a batch.
pub(crate) type Report = Box<dyn FnOnce(Result<(), ApplyError>) + Send>;

/// A peer's changes could not be taken in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApplyError {
    /// What the peer is told.
    pub code: CloseCode,
    /// In words.
    pub message: String,
}

impl From<&StoreError> for ApplyError {
    fn from(error: &StoreError) -> Self {
        let code = match error {
            StoreError::Drift(_) => CloseCode::ClockDrift,
            StoreError::Malformed(_) | StoreError::FieldName(..) => CloseCode::Protocol,
            _ => CloseCode::Internal,
        };
        Self { code, message: error.to_string() }
    }
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(CheckedBatch, Report)>,
    running: bool,
}

/// The queue of one database. A worker thread of the runtime is used only while there is work.
#[derive(Clone)]
pub(crate) struct Applier {
    store: Store,
    queue: Arc<Mutex<Queue>>,
}

impl Applier {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, queue: Arc::default() }
    }

    /// Applies `batch` soon. Must be called inside a tokio runtime.
    pub(crate) fn submit(&self, batch: CheckedBatch, report: Report) {
        let mut queue = self.queue();
        queue.waiting.push((batch, report));
        if !queue.running {
            queue.running = true;
            let applier = self.clone();
            tokio::task::spawn_blocking(move || applier.work());
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let group: Vec<_> = {
                let mut queue = self.queue();
                if queue.waiting.is_empty() {
                    queue.running = false;
                    queue.waiting.shrink_to_fit();
                    return;
                }
                let take = queue.waiting.len().min(GROUP);
                queue.waiting.drain(..take).collect()
            };
            let (batches, reports): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            self.apply(&batches, reports);
        }
    }

    fn apply(&self, batches: &[CheckedBatch], reports: Vec<Report>) {
        match self.store.apply(batches) {
            Ok(_) => reports.into_iter().for_each(|report| report(Ok(()))),
            // One bad batch must not take the others down with it.
            Err(_) if batches.len() > 1 => {
                for (batch, report) in batches.iter().zip(reports) {
                    report(self.apply_one(batch));
                }
            }
            Err(error) => reports.into_iter().for_each(|report| report(Err(ApplyError::from(&error)))),
        }
    }

    fn apply_one(&self, batch: &CheckedBatch) -> Result<(), ApplyError> {
        self.store.apply(std::slice::from_ref(batch)).map(drop).map_err(|error| ApplyError::from(&error))
    }
}
