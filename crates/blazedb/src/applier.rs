//! Group commit: whatever batches wait, of whichever peers, are applied in one transaction.
//!
//! Invariant: batches are applied in the order in which they were submitted, and reported after the commit that
//! holds them is durable.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb_core::wire::CloseCode;
use blazedb_store::{Applied, CheckedBatch, Store, StoreError};

/// Batches in one commit, at most.
const GROUP: usize = 64;

/// Called once with what became of a batch and those that were committed with it.
pub(crate) type Report = Box<dyn FnOnce(Result<Applied, ApplyError>) + Send>;

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
            // The keyring is on its way to it.
            StoreError::NotSealed(_) | StoreError::Fenced => CloseCode::GoingAway,
            StoreError::Drift(_) => CloseCode::ClockDrift,
            StoreError::TooManyRefused { .. } | StoreError::Ring => CloseCode::Refused,
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

    /// The database's file.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Whether both are the queue of one database.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.queue, &other.queue)
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

    /// Batches that are not being applied yet.
    pub(crate) fn waiting(&self) -> usize {
        self.queue().waiting.len()
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

    pub(crate) fn apply(&self, batches: &[CheckedBatch], reports: Vec<Report>) {
        match self.store.apply(batches) {
            Ok(applied) => reports.into_iter().for_each(|report| report(Ok(applied))),
            // One bad batch must not take the others down with it.
            Err(_) if batches.len() > 1 => {
                for (batch, report) in batches.iter().zip(reports) {
                    report(self.apply_one(batch));
                }
            }
            Err(error) => reports.into_iter().for_each(|report| report(Err(ApplyError::from(&error)))),
        }
    }

    fn apply_one(&self, batch: &CheckedBatch) -> Result<Applied, ApplyError> {
        self.store.apply(std::slice::from_ref(batch)).map_err(|error| ApplyError::from(&error))
    }
}
