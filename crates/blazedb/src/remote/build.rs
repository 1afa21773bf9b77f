//! Questions to another node, step by step. They read like those to a local database, and are async.

use blazedb_core::wire::ask::{Question, Row, SortKey, Wanted};
use blazedb_core::{Filter, Record};
use blazedb_store::{GroupRow, Measure, SearchHit};

use super::{AskError, RemoteDatabase, RemoteRows};

/// Narrows a question: what both match.
fn narrow(text: &mut Option<String>, filter: &Filter) {
    *text = Some(match text.take() {
        Some(first) => format!("({first}) && ({filter})"),
        None => filter.to_string(),
    });
}

fn key(field: impl Into<String>, descending: bool) -> SortKey {
    SortKey { field: field.into(), descending }
}

/// Calls `take` with every row.
async fn each(mut rows: RemoteRows, mut take: impl FnMut(Row)) -> Result<(), AskError> {
    while let Some(row) = rows.next().await? {
        take(row);
    }
    Ok(())
}

/// Records of another node being asked for: see [`RemoteDatabase::query`].
#[derive(Clone)]
#[must_use = "a query does nothing until it is run"]
pub struct RemoteQuery {
    remote: RemoteDatabase,
    filter: Option<String>,
    select: Vec<String>,
    order_by: Vec<SortKey>,
    limit: Option<u64>,
    offset: u64,
}

impl RemoteQuery {
    pub(super) const fn new(remote: RemoteDatabase) -> Self {
        Self { remote, filter: None, select: Vec::new(), order_by: Vec::new(), limit: None, offset: 0 }
    }

    /// Only records that match; a second filter narrows further.
    pub fn filter(mut self, filter: Filter) -> Self {
        narrow(&mut self.filter, &filter);
        self
    }

    /// Only these fields.
    pub fn select<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.select = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Sorts by a field, from low to high, within what it is sorted by already; then by id.
    pub fn order_by(mut self, field: impl Into<String>) -> Self {
        self.order_by.push(key(field, false));
        self
    }

    /// Sorts by a field, from high to low, within what it is sorted by already; then by id.
    pub fn order_by_desc(mut self, field: impl Into<String>) -> Self {
        self.order_by.push(key(field, true));
        self
    }

    /// At most so many records.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Leaves out the first so many.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    fn question(&self, wanted: Wanted) -> Question {
        Question { filter: self.filter.clone(), limit: self.limit, offset: self.offset, wanted }
    }

    /// The records as they come in: more of them than memory holds are no matter.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn rows(&self) -> Result<RemoteRows, AskError> {
        let wanted = Wanted::Records { select: self.select.clone(), order_by: self.order_by.clone() };
        self.remote.ask(self.question(wanted)).await
    }

    /// All records that the query finds.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn all(&self) -> Result<Vec<Record>, AskError> {
        let mut records = Vec::new();
        let take = |row| {
            if let Row::Record(record) = row {
                records.push(record);
            }
        };
        each(self.rows().await?, take).await?;
        Ok(records)
    }

    /// How many records match; sorting and limits don't count.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn count(&self) -> Result<u64, AskError> {
        let question = Question { filter: self.filter.clone(), ..Question::new(Wanted::Count) };
        let mut counted = 0;
        let take = |row| {
            if let Row::Count(count) = row {
                counted = count;
            }
        };
        each(self.remote.ask(question).await?, take).await?;
        Ok(counted)
    }

    /// Groups the records by the values of fields: see [`RemoteGroups`].
    pub fn group_by<S: Into<String>>(self, fields: impl IntoIterator<Item = S>) -> RemoteGroups {
        let group_by = fields.into_iter().map(Into::into).collect();
        let Self { remote, filter, .. } = self;
        let (measures, order_by) = (Vec::new(), Vec::new());
        RemoteGroups { remote, filter, group_by, measures, having: None, order_by, limit: None, offset: 0 }
    }

    /// All records as one group: see [`RemoteGroups`].
    pub fn aggregate(self) -> RemoteGroups {
        self.group_by::<String>([])
    }
}

/// Groups of another node's records being asked for: see [`RemoteQuery::group_by`].
#[derive(Clone)]
#[must_use = "groups are not made until they are asked for"]
pub struct RemoteGroups {
    remote: RemoteDatabase,
    filter: Option<String>,
    group_by: Vec<String>,
    measures: Vec<String>,
    having: Option<String>,
    order_by: Vec<SortKey>,
    limit: Option<u64>,
    offset: u64,
}

impl RemoteGroups {
    /// Works this out too.
    pub fn measure(mut self, measure: &Measure) -> Self {
        self.measures.push(measure.to_string());
        self
    }

    /// How many records there are, as `count`.
    pub fn count(self) -> Self {
        self.measure(&Measure::Count)
    }

    /// The sum of a field's numbers, as `sum_FIELD`.
    pub fn sum(self, field: impl Into<String>) -> Self {
        self.measure(&Measure::Sum(field.into()))
    }

    /// The average of a field's numbers, as `avg_FIELD`.
    pub fn avg(self, field: impl Into<String>) -> Self {
        self.measure(&Measure::Avg(field.into()))
    }

    /// Only groups whose row matches: a filter over the columns of the row, such as `count > 5`.
    pub fn having(mut self, filter: Filter) -> Self {
        narrow(&mut self.having, &filter);
        self
    }

    /// Sorts by a column, from low to high, within what it is sorted by already.
    pub fn order_by(mut self, column: impl Into<String>) -> Self {
        self.order_by.push(key(column, false));
        self
    }

    /// Sorts by a column, from high to low, within what it is sorted by already.
    pub fn order_by_desc(mut self, column: impl Into<String>) -> Self {
        self.order_by.push(key(column, true));
        self
    }

    /// At most so many groups.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Leaves out the first so many.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// All groups.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn all(&self) -> Result<Vec<GroupRow>, AskError> {
        let wanted = Wanted::Groups {
            group_by: self.group_by.clone(),
            measures: self.measures.clone(),
            having: self.having.clone(),
            order_by: self.order_by.clone(),
        };
        let filter = self.filter.clone();
        let question = Question { filter, limit: self.limit, offset: self.offset, wanted };
        let mut groups = Vec::new();
        let take = |row| {
            if let Row::Group(group) = row {
                groups.push(group);
            }
        };
        each(self.remote.ask(question).await?, take).await?;
        Ok(groups)
    }
}

/// A search on another node being put together: see [`RemoteDatabase::search`].
#[derive(Clone)]
#[must_use = "a search does nothing until it is run"]
pub struct RemoteSearch {
    remote: RemoteDatabase,
    question: Question,
}

impl RemoteSearch {
    pub(super) const fn new(remote: RemoteDatabase, text: String) -> Self {
        Self { remote, question: Question::new(Wanted::Search { text }) }
    }

    /// Only records that match; a second filter narrows further.
    pub fn filter(mut self, filter: Filter) -> Self {
        narrow(&mut self.question.filter, &filter);
        self
    }

    /// At most so many records.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.question.limit = Some(limit);
        self
    }

    /// Leaves out the first so many.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.question.offset = offset;
        self
    }

    /// All records that are found, the best first.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn all(&self) -> Result<Vec<SearchHit>, AskError> {
        let mut hits = Vec::new();
        let take = |row| {
            if let Row::Hit { record, score, snippet } = row {
                hits.push(SearchHit { record, score, snippet });
            }
        };
        each(self.remote.ask(self.question.clone()).await?, take).await?;
        Ok(hits)
    }
}
