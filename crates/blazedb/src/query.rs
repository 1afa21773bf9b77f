//! Queries, step by step.

use blazedb_core::{FieldEdits, Filter, Record, typed};
use blazedb_store::{BulkWork, Cursor, Metric, OrderBy, Page, Plan, Query, StoreError};
use serde::de::DeserializeOwned;

use crate::database::Database;
use crate::group::GroupBuilder;
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

    /// All records that the query finds, as values of a type: see [`blazedb_core::typed`].
    ///
    /// # Errors
    /// [`StoreError::Typed`] for the first one that does not fit, and if the file can't be read.
    pub fn all_as<T: DeserializeOwned>(&self) -> Result<Vec<T>, StoreError> {
        self.all()?.into_iter().map(|record| Ok(typed::from_record(record)?)).collect()
    }

    /// A page of the records that the query finds: the first one, or the one behind `after`. The limit is the size
    /// of a page, the offset is not looked at.
    ///
    /// ```
    /// # use blazedb::{Database, Password, record};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let bugs = Database::open(dir.path().join("b"), Password::Plaintext)?;
    /// # for n in 0..25 { bugs.insert(record! { "n" => n })?; }
    /// let query = bugs.query().order_by_desc("n").limit(10);
    /// let mut page = query.page(None)?;
    /// let mut seen = page.records.len();
    /// while let Some(cursor) = &page.next {
    ///     page = query.page(Some(cursor))?;
    ///     seen += page.records.len();
    /// }
    /// assert_eq!(seen, 25);
    /// # Ok::<(), blazedb::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// If the cursor belongs to another order, and if the file can't be read.
    pub fn page(&self, after: Option<&Cursor>) -> Result<Page, StoreError> {
        self.database.store().page(&self.query, after)
    }

    /// The records whose vector in `field` is nearest to `vector`, at most `limit`, the nearest first, each with its
    /// measure. Every vector is compared. Sorting and limits of the query don't apply.
    ///
    /// # Errors
    /// If the vector is none, and if the file can't be read.
    pub fn nearest(
        &self,
        field: &str,
        vector: &[f32],
        metric: Metric,
        limit: u64,
    ) -> Result<Vec<(Record, f64)>, StoreError> {
        self.database.store().nearest(field, vector, metric, self.query.filter.as_ref(), limit)
    }

    /// Groups the records by the values of fields: see [`GroupBuilder`].
    pub fn group_by<S: Into<String>>(self, fields: impl IntoIterator<Item = S>) -> GroupBuilder<'a> {
        GroupBuilder::new(self.database, self.query.filter, fields.into_iter().map(Into::into).collect())
    }

    /// All records as one group: see [`GroupBuilder`].
    pub fn aggregate(self) -> GroupBuilder<'a> {
        self.group_by::<String>([])
    }

    /// How the query would be carried out now: which indexes it uses.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn explain(&self) -> Result<Plan, StoreError> {
        self.database.store().explain(&self.query)
    }

    /// Edits every record that matches; sorting and limits don't apply. Answers how many. The edits are made in
    /// transactions of at most 1,000 records: more than that may happen in part if an error ends it.
    ///
    /// # Errors
    /// What is wrong with the edits, and whatever keeps a commit from being durable.
    pub fn update(&self, edits: &FieldEdits) -> Result<u64, StoreError> {
        let transact = |work: &mut BulkWork<'_>| self.database.transaction(|tx| work(tx));
        self.database.store().change_matching(&self.matching(), |tx, id| tx.update(id, edits), transact)
    }

    /// Deletes every record that matches, in transactions as [`QueryBuilder::update`]. Answers how many.
    ///
    /// # Errors
    /// Whatever keeps a commit from being durable.
    pub fn delete(&self) -> Result<u64, StoreError> {
        let transact = |work: &mut BulkWork<'_>| self.database.transaction(|tx| work(tx));
        self.database.store().change_matching(&self.matching(), |tx, id| tx.delete(id), transact)
    }

    fn matching(&self) -> Filter {
        self.query.filter.clone().unwrap_or_else(|| Filter::always(true))
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
