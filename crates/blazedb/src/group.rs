//! Groups of records, and what is counted and measured of them.

use blazedb_core::Filter;
use blazedb_store::{Aggregation, GroupRow, Measure, OrderBy, StoreError};

use crate::database::Database;

/// Groups being asked for: see [`QueryBuilder::group_by`](crate::QueryBuilder::group_by).
///
/// ```
/// # use blazedb::{Database, Password, Value, field, record};
/// # let dir = tempfile::tempdir().unwrap();
/// # let bugs = Database::open(dir.path().join("b"), Password::Plaintext)?;
/// bugs.insert(record! { "status" => "open", "priority" => 8 })?;
/// bugs.insert(record! { "status" => "open", "priority" => 3 })?;
/// bugs.insert(record! { "status" => "closed", "priority" => 1 })?;
/// let groups = bugs.query().group_by(["status"]).count().sum("priority").having(field("count").gt(1));
/// let rows = groups.all()?;
/// assert_eq!(rows.len(), 1);
/// assert_eq!(rows[0]["status"], Value::from("open"));
/// assert_eq!(rows[0]["sum_priority"], Value::Int(11));
/// # Ok::<(), blazedb::StoreError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "groups are not made until they are asked for"]
pub struct GroupBuilder<'a> {
    database: &'a Database,
    wanted: Aggregation,
}

impl<'a> GroupBuilder<'a> {
    pub(crate) fn new(database: &'a Database, filter: Option<Filter>, group_by: Vec<String>) -> Self {
        Self { database, wanted: Aggregation { filter, group_by, ..Aggregation::default() } }
    }

    /// Works this out too.
    pub fn measure(mut self, measure: Measure) -> Self {
        self.wanted.measures.push(measure);
        self
    }

    /// How many records there are, as `count`.
    pub fn count(self) -> Self {
        self.measure(Measure::Count)
    }

    /// How many different values a field has, as `distinct_FIELD`.
    pub fn count_distinct(self, field: impl Into<String>) -> Self {
        self.measure(Measure::Distinct(field.into()))
    }

    /// The sum of a field's numbers, as `sum_FIELD`.
    pub fn sum(self, field: impl Into<String>) -> Self {
        self.measure(Measure::Sum(field.into()))
    }

    /// The average of a field's numbers, as `avg_FIELD`.
    pub fn avg(self, field: impl Into<String>) -> Self {
        self.measure(Measure::Avg(field.into()))
    }

    /// The least value of a field, as `min_FIELD`.
    pub fn min(self, field: impl Into<String>) -> Self {
        self.measure(Measure::Min(field.into()))
    }

    /// The greatest value of a field, as `max_FIELD`.
    pub fn max(self, field: impl Into<String>) -> Self {
        self.measure(Measure::Max(field.into()))
    }

    /// Only groups whose row matches: a filter over the columns of the row, such as `count > 5`.
    pub fn having(mut self, filter: Filter) -> Self {
        self.wanted.having = Some(match self.wanted.having.take() {
            Some(first) => first & filter,
            None => filter,
        });
        self
    }

    /// Sorts by a column, from low to high, within what it is sorted by already.
    pub fn order_by(mut self, column: impl Into<String>) -> Self {
        self.wanted.order_by.push(OrderBy { field: column.into(), descending: false });
        self
    }

    /// Sorts by a column, from high to low, within what it is sorted by already.
    pub fn order_by_desc(mut self, column: impl Into<String>) -> Self {
        self.wanted.order_by.push(OrderBy { field: column.into(), descending: true });
        self
    }

    /// At most so many groups.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.wanted.limit = Some(limit);
        self
    }

    /// Leaves out the first so many.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.wanted.offset = offset;
        self
    }

    /// All groups.
    ///
    /// # Errors
    /// [`StoreError::Query`], and if the file can't be read.
    pub fn all(&self) -> Result<Vec<GroupRow>, StoreError> {
        let mut rows = Vec::new();
        self.each(|row| {
            rows.push(row);
            true
        })?;
        Ok(rows)
    }

    /// Calls `visit` with every group, until it answers false.
    ///
    /// # Errors
    /// [`StoreError::Query`], and if the file can't be read.
    pub fn each(&self, visit: impl FnMut(GroupRow) -> bool) -> Result<(), StoreError> {
        self.database.store().aggregate(&self.wanted, visit)
    }
}
