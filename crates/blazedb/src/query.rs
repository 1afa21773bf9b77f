//! Queries, step by step.

use blazedb_core::{Filter, Record};
use blazedb_store::{OrderBy, Query, StoreError};

use crate::database::Database;
use crate::live::LiveQuery;

/// A query being put together: see [`Database::query`].
#[derive(Clone, Debug)]
#[must_use = "a query does nothing until it is run"]
pub struct QueryBuilder<'a> {
    database: &'a Database,
    query: Query,
}

impl<'a> QueryBuilder<'a> {
    pub(crate) fn new(database: &'a Database) -> Self {
        Self { database, query: Query::default() }
    }

    /// Only records that match; a second filter narrows further.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.query.filter = Some(match self.query.filter.take() {
            Some(first) => first & filter,
            None => filter,
        });
        self
    }

    /// Only these fields.
    pub fn select<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.query.select = Some(fields.into_iter().map(Into::into).collect());
        self
    }

    /// Sorts by a field, from low to high, within what it is sorted by already.
    pub fn order_by(self, field: impl Into<String>) -> Self {
        self.order(field, false)
    }

    /// Sorts by a field, from high to low, within what it is sorted by already.
    pub fn order_by_desc(self, field: impl Into<String>) -> Self {
        self.order(field, true)
    }

    fn order(mut self, field: impl Into<String>, descending: bool) -> Self {
        self.query.order_by.push(OrderBy { field: field.into(), descending });
        self
    }

    /// At most so many records.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.query.limit = Some(limit);
        self
    }

    /// Leaves out the first so many.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.query.offset = offset;
        self
    }

    /// All records that the query finds.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn all(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        self.each(|record| {
            records.push(record);
            true
        })?;
        Ok(records)
    }

    /// The first record that the query finds.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn first(&self) -> Result<Option<Record>, StoreError> {
        let mut first = None;
        self.each(|record| {
            first = Some(record);
            false
        })?;
        Ok(first)
    }

    /// Calls `visit` with every record that the query finds, until it answers false.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn each(&self, visit: impl FnMut(Record) -> bool) -> Result<(), StoreError> {
        self.database.store().query(&self.query, visit)
    }

    /// How many records match; sorting and limits don't count.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn count(&self) -> Result<u64, StoreError> {
        self.database.store().count(self.query.filter.as_ref())
    }

    /// A live query: what matches now, then every difference, at a cost that grows with the changes and not with
    /// the database. Sorting and limits don't apply to it.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn watch(&self) -> Result<LiveQuery, StoreError> {
        LiveQuery::start(self.database.clone(), self.query.filter.clone())
    }
}
