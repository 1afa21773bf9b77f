//! Live queries: what matches, then differences.

use std::collections::{HashSet, VecDeque};

use blazedb_core::feed::Seq;
use blazedb_core::{Filter, Record, RecordId};
use blazedb_store::{FeedReader, Query, StoreError};
use tokio::sync::watch;

use crate::database::Database;
use crate::fanout::blocking;

/// Changes looked at in one step.
const STEP: usize = 1_024;

/// A difference in what a query finds.
#[derive(Clone, PartialEq, Debug)]
pub enum LiveEvent {
    /// The record matches now.
    Added(Record),
    /// The record still matches and has changed.
    Changed(Record),
    /// The record is gone or no longer matches.
    Removed(RecordId),
}

/// A running query. See [`QueryBuilder::watch`](crate::QueryBuilder::watch).
#[derive(Debug)]
pub struct LiveQuery {
    database: Database,
    filter: Option<Filter>,
    head: watch::Receiver<Seq>,
    cursor: Seq,
    followed: FeedReader,
    members: HashSet<RecordId>,
    ready: VecDeque<LiveEvent>,
}

impl LiveQuery {
    pub(crate) fn start(database: Database, filter: Option<Filter>) -> Result<Self, StoreError> {
        let head = database.watch_head();
        let mut members = HashSet::new();
        let mut ready = VecDeque::new();
        let query = Query { filter: filter.clone(), ..Query::default() };
        let followed = database.store().follow(database.store().head());
        let cursor = database.store().query_at(&query, |record| {
            members.insert(record.id);
            ready.push_back(LiveEvent::Added(record));
            true
        })?;
        Ok(Self { database, filter, head, cursor, followed, members, ready })
    }

    /// The next difference; waits for one. `None` once the database is closed.
    ///
    /// # Errors
    /// If the file can't be read.
    pub async fn next(&mut self) -> Result<Option<LiveEvent>, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            // Taken before the feed is read: what is not in that reading lies behind it.
            let head = *self.head.borrow_and_update();
            if self.cursor >= head {
                if self.head.changed().await.is_err() {
                    return Ok(None);
                }
                continue;
            }
            let (store, filter, cursor) = (self.database.store().clone(), self.filter.clone(), self.cursor);
            let changes = blocking(move || store.changes(cursor, STEP, filter.as_ref())).await?;
            self.take_in(changes, head);
        }
    }

    /// The next difference, if there is one already.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn try_next(&mut self) -> Result<Option<LiveEvent>, StoreError> {
        while self.ready.is_empty() {
            let head = *self.head.borrow_and_update();
            if self.cursor >= head {
                break;
            }
            let changes = self.database.store().changes(self.cursor, STEP, self.filter.as_ref())?;
            self.take_in(changes, head);
        }
        Ok(self.ready.pop_front())
    }

    fn take_in(&mut self, changes: Vec<blazedb_store::FeedChange>, head: Seq) {
        if changes.len() < STEP {
            // The feed may end behind its last record.
            self.cursor = self.cursor.max(head);
        }
        for change in changes {
            self.cursor = self.cursor.max(change.seq);
            let event = match change.record {
                Some(record) if self.members.insert(change.id) => LiveEvent::Added(record),
                Some(record) => LiveEvent::Changed(record),
                None if self.members.remove(&change.id) => LiveEvent::Removed(change.id),
                None => continue,
            };
            self.ready.push_back(event);
        }
        self.followed.passed(self.cursor);
    }
}
