//! Live queries: what matches, then differences.
//!
//! What a filter over `now` finds changes without anybody changing a record: it is looked at again once a second, or less often
//! where looking takes long.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use blazedb_core::feed::Seq;
use blazedb_core::{Filter, Record, RecordId};
use blazedb_store::{FeedReader, Query, StoreError};
use tokio::sync::watch;

use crate::database::Database;
use crate::fanout::blocking;

/// Changes looked at in one step.
const STEP: usize = 1_024;

/// How often a filter over `now` is looked at again at most, and with pauses so many times as long as the look takes.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_TIMES: u32 = 20;

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
    /// When time may have changed what matches; `None` if it can't.
    look_at: Option<Instant>,
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
        let over_time = filter.as_ref().is_some_and(Filter::depends_on_time);
        let look_at = over_time.then(|| Instant::now() + LOOK);
        Ok(Self { database, filter, head, cursor, followed, members, ready, look_at })
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
            if self.is_due() {
                let (database, query, known) = (self.database.clone(), self.query(), self.members.clone());
                let started = Instant::now();
                let found = blocking(move || find(&database, &query, &known)).await?;
                self.take_over(found, started);
                continue;
            }
            if self.cursor >= head {
                let look = async {
                    match self.look_at {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = self.head.changed() => if changed.is_err() {
                        return Ok(None);
                    },
                    () = look => {}
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
            if self.is_due() {
                let started = Instant::now();
                let found = find(&self.database, &self.query(), &self.members)?;
                self.take_over(found, started);
                continue;
            }
            if self.cursor >= head {
                break;
            }
            let changes = self.database.store().changes(self.cursor, STEP, self.filter.as_ref())?;
            self.take_in(changes, head);
        }
        Ok(self.ready.pop_front())
    }

    fn query(&self) -> Query {
        Query { filter: self.filter.clone(), ..Query::default() }
    }

    fn is_due(&self) -> bool {
        self.look_at.is_some_and(|at| at <= Instant::now())
    }

    /// What matches as of now takes the place of what did. Changes are told by the feed, as ever.
    fn take_over(&mut self, (still, new): (HashSet<RecordId>, Vec<Record>), started: Instant) {
        let before = std::mem::replace(&mut self.members, still);
        self.ready.extend(before.difference(&self.members).copied().map(LiveEvent::Removed));
        for record in new {
            self.members.insert(record.id);
            self.ready.push_back(LiveEvent::Added(record));
        }
        self.look_at = Some(Instant::now() + LOOK.max(started.elapsed() * LOOK_TIMES));
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

/// Which of those that are `known` a query still finds, and what else.
fn find(
    database: &Database,
    query: &Query,
    known: &HashSet<RecordId>,
) -> Result<(HashSet<RecordId>, Vec<Record>), StoreError> {
    let (mut still, mut new) = (HashSet::new(), Vec::new());
    database.store().query(query, |record| {
        if known.contains(&record.id) {
            still.insert(record.id);
        } else {
            new.push(record);
        }
        true
    })?;
    Ok((still, new))
}

#[cfg(test)]
mod tests {
    use blazedb_core::Timestamp;
    use blazedb_store::Password;

    use super::*;
    use crate::record;

    #[tokio::test]
    async fn what_time_brings_and_takes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let bugs = Database::open(dir.path().join("bugs"), Password::Plaintext).unwrap();
        let now = bugs.store().now_ms();
        let at = |ms: u64| Timestamp::from_millis(now + ms);
        let ends = bugs.insert(record! { "from" => at(0), "until" => at(1_500) }).unwrap();
        let begins = bugs.insert(record! { "from" => at(1_500), "until" => at(3_600_000) }).unwrap();
        let filter = Filter::parse("from <= now && now < until").unwrap();
        let mut live = bugs.query().filter(filter).watch().unwrap();
        assert!(matches!(live.try_next().unwrap(), Some(LiveEvent::Added(record)) if record.id == ends));
        assert_eq!(live.try_next().unwrap(), None);
        assert_eq!(live.next().await.unwrap(), Some(LiveEvent::Removed(ends)));
        let added = live.next().await.unwrap();
        assert!(matches!(added, Some(LiveEvent::Added(record)) if record.id == begins));
        bugs.delete(begins).unwrap();
        assert_eq!(live.next().await.unwrap(), Some(LiveEvent::Removed(begins)));
    }
}
