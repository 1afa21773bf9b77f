//! What a driver does about refused writes: as a server it tells them and forgets them, as a client it takes them.

use std::sync::Arc;

use blazedb_core::session::Input;
use blazedb_core::wire::Refusals;
use blazedb_store::{Applied, CheckedBatch, Store};

use super::{Answer, Driver, failed};
use crate::applier::ApplyError;
use crate::meeting::Arrival;

impl Driver {
    /// Asks the store what the peer is to be told.
    pub(super) fn read_refusals(&self, after: u64) {
        let (Some(source), Some(shown)) = (self.source.clone(), self.shown.clone()) else { return };
        let work = move |store: &Store| store.refusals(&source, after, &shown);
        self.ask(work, |(refusals, more)| Input::Refusals(refusals, more));
    }

    pub(super) fn forget_refusals(&mut self, upto: u64) {
        let Some(source) = self.source.clone() else { return };
        let answers = self.answers.clone();
        let report = move |result: Result<Applied, ApplyError>| {
            // What is not forgotten is told again in the next session.
            if let Err(error) = result {
                let _ = answers.send(failed(&error));
            }
        };
        let batch = CheckedBatch::forget_refusals(source, upto);
        self.submit(Arrival::alone(batch, Box::new(report)));
    }

    pub(super) fn take_refusals(&mut self, refusals: Refusals) {
        let Some(source) = self.source.clone() else { return };
        let count = refusals.writes.len();
        let batch = match self.context.database.store().check_refusals(source, refusals) {
            Ok(batch) => batch,
            Err(error) => return drop(self.answers.send(failed(&ApplyError::from(&error)))),
        };
        let (answers, database) = (self.answers.clone(), self.context.database.clone());
        let link = Arc::clone(&self.context.link);
        let report = move |result: Result<Applied, ApplyError>| {
            let answer = match result {
                Ok(_) => {
                    tracing::warn!(database = %database.store().path().display(), %link, count, "writes were refused");
                    // Batches that were read before hold what is taken back.
                    database.inner.feeds.clear();
                    Answer::Input(Box::new(Input::RefusalsTaken))
                }
                Err(error) => failed(&error),
            };
            let _ = answers.send(answer);
        };
        self.submit(Arrival::alone(batch, Box::new(report)));
    }
}
