//! Joins of two databases, step by step.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use blazedb_core::Filter;
use blazedb_core::feed::Seq;
use blazedb_store::{Join, JoinChange, JoinMembers, JoinedRow, OrderBy, Plan, StoreError};
use tokio::sync::watch;

use crate::database::Database;
use crate::fanout::blocking;

/// A join being put together: see [`Database::join`].
#[derive(Clone, Debug)]
#[must_use = "a join does nothing until it is run"]
pub struct JoinBuilder<'a> {
    left: &'a Database,
    right: &'a Database,
    join: Join,
}

impl<'a> JoinBuilder<'a> {
    pub(crate) fn new(left: &'a Database, right: &'a Database) -> Self {
        let join = Join::new(left.stem(), right.stem(), ("id".to_owned(), "id".to_owned()));
        Self { left, right, join }
    }

    /// The field of the left record, and the field of the right one that holds the same. A field holds the `id` of
    /// a record as a uuid or as its text.
    pub fn on(mut self, left: impl Into<String>, right: impl Into<String>) -> Self {
        self.join.on = (left.into(), right.into());
        self
    }

    /// What the two are called in filter, order and selection; without this, as their files without extension.
    pub fn names(mut self, left: impl Into<String>, right: impl Into<String>) -> Self {
        self.join.names = (left.into(), right.into());
        self
    }

    /// Also left records that have no right one.
    pub const fn left(mut self) -> Self {
        self.join.left = true;
        self
    }

    /// Only pairs that match; a second filter narrows further. `users.name` is a field of the one called `users`, a
    /// bare name a field of the left one.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.join.filter = Some(match self.join.filter.take() {
            Some(first) => first & filter,
            None => filter,
        });
        self
    }

    /// Only these fields of the two.
    pub fn select<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.join.select = Some(fields.into_iter().map(Into::into).collect());
        self
    }

    /// Sorts by a field, from low to high, within what it is sorted by already.
    pub fn order_by(mut self, field: impl Into<String>) -> Self {
        self.join.order_by.push(OrderBy { field: field.into(), descending: false });
        self
    }

    /// Sorts by a field, from high to low, within what it is sorted by already.
    pub fn order_by_desc(mut self, field: impl Into<String>) -> Self {
        self.join.order_by.push(OrderBy { field: field.into(), descending: true });
        self
    }

    /// At most so many pairs.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.join.limit = Some(limit);
        self
    }

    /// Leaves out the first so many.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.join.offset = offset;
        self
    }

    /// All pairs, read at one moment of both databases.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn all(&self) -> Result<Vec<JoinedRow>, StoreError> {
        let mut rows = Vec::new();
        self.each(|row| {
            rows.push(row);
            true
        })?;
        Ok(rows)
    }

    /// Calls `visit` with every pair, until it answers false.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn each(&self, visit: impl FnMut(JoinedRow) -> bool) -> Result<(), StoreError> {
        self.left.store().join(self.right.store(), &self.join, visit)
    }

    /// How the join would be carried out now; indexes are named as `bugs.authorId`.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn explain(&self) -> Result<Plan, StoreError> {
        self.left.store().explain_join(self.right.store(), &self.join)
    }

    /// A live join: the pairs that there are, then every difference, at a cost that grows with the changes and not
    /// with the databases. Sorting and limits don't apply to it. Fields that it joins on get an index.
    ///
    /// # Errors
    /// If a file can't be read, or the index can't be made.
    pub fn watch(&self) -> Result<LiveJoin, StoreError> {
        let (left, right) = (self.left.clone(), self.right.clone());
        let heads = (left.watch_head(), right.watch_head());
        let (members, ready) = left.store().start_join_changes(right.store(), &self.join)?;
        let found = Arc::new(Found { members: Mutex::new(members), ready: Mutex::new(ready.into()) });
        Ok(LiveJoin { left, right, join: self.join.clone(), heads, found })
    }
}

/// A running join: see [`JoinBuilder::watch`].
#[derive(Debug)]
pub struct LiveJoin {
    left: Database,
    right: Database,
    join: Join,
    heads: (watch::Receiver<Seq>, watch::Receiver<Seq>),
    /// Shared with the thread that looks for changes, so that nothing is lost if nobody waits for it any more.
    found: Arc<Found>,
}

/// Differences are put here by whoever looks for them, and taken out by whoever hands them on: a look that nobody
/// waits for any more leaves what it found.
#[derive(Debug)]
struct Found {
    /// Held while somebody looks.
    members: Mutex<JoinMembers>,
    /// Held for a moment only.
    ready: Mutex<VecDeque<JoinChange>>,
}

impl Found {
    fn pop(&self) -> Option<JoinChange> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn is_empty(&self) -> bool {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Looks for differences if none is left.
    fn look(&self, left: &Database, right: &Database, join: &Join) -> Result<(), StoreError> {
        let (left, right) = (left.store(), right.store());
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        while self.is_empty() && left.join_is_behind(right, &members) {
            let changes = left.join_changes(right, join, &mut members)?;
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
        }
        Ok(())
    }
}

impl LiveJoin {
    /// The next difference; waits for one. `None` once a database is closed.
    ///
    /// # Errors
    /// If a file can't be read.
    pub async fn next(&mut self) -> Result<Option<JoinChange>, StoreError> {
        loop {
            // Taken before the feeds are looked at: what is not in that look lies behind it.
            self.heads.0.mark_unchanged();
            self.heads.1.mark_unchanged();
            let (left, right, join) = (self.left.clone(), self.right.clone(), self.join.clone());
            let found = Arc::clone(&self.found);
            blocking(move || found.look(&left, &right, &join)).await?;
            // From here to the return nothing waits, so that a difference that is taken out is handed on.
            if let Some(change) = self.found.pop() {
                return Ok(Some(change));
            }
            let changed = tokio::select! {
                changed = self.heads.0.changed() => changed,
                changed = self.heads.1.changed() => changed,
            };
            if changed.is_err() {
                return Ok(None);
            }
        }
    }

    /// The next difference, if there is one already.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn try_next(&mut self) -> Result<Option<JoinChange>, StoreError> {
        self.found.look(&self.left, &self.right, &self.join)?;
        Ok(self.found.pop())
    }
}
