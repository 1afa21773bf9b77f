//! What a question is answered with: what the store finds among the records that the user may read.
//!
//! Invariant: every read of a question goes through [`Readable`]: what the `read` rule does not show is neither counted,
//! sorted, grouped, searched nor ranked.

use blazedb::{
    Aggregation, Cursor, Direction, Filter, Measure, OrderBy, Patience, Query, QueryProblem, Rights, Search,
    Store, StoreError, Timestamp, User,
};
use blazedb_core::limits::{
    ASK_PAGE_BYTES, ASK_PAGE_RECORDS, MAX_ASKED_GROUPS, MAX_ASKED_HITS, MAX_REQUEST_FILTER_BYTES,
};
use blazedb_core::topology::grant;
use blazedb_core::wire::ask::{AskCode, Question, Row, SortKey, Wanted};

use crate::listener::Served;

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AskFailure {
    pub(super) code: AskCode,
    pub(super) reason: String,
}

impl AskFailure {
    pub(super) fn new(code: AskCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    fn invalid(reason: impl Into<String>) -> Self {
        Self::new(AskCode::Invalid, reason)
    }
}

impl From<StoreError> for AskFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Query(problem) => problem.into(),
            StoreError::Ended => Self::new(AskCode::TooSlow, TOO_SLOW),
            other => {
                // What is wrong with this node's files is not the caller's business.
                tracing::error!(error = %other, "a question could not be answered");
                Self::new(
                    AskCode::Failed,
                    "the database can't be read at the moment: the node's log says why",
                )
            }
        }
    }
}

impl From<QueryProblem> for AskFailure {
    fn from(problem: QueryProblem) -> Self {
        Self::invalid(problem.to_string())
    }
}

/// What is said when the time is over.
pub(super) const TOO_SLOW: &str = "finding the answer takes too long: ask for less, or have the fields that you ask for indexed \
     there";

/// A database as a user may read it.
pub(super) struct Readable {
    store: Store,
    /// Only records that match; `None`: every record may be read.
    shown: Option<Filter>,
}

impl Readable {
    /// What `user` may read of a served database.
    pub(super) fn new(name: &str, served: &Served, user: Option<&User>) -> Result<Self, AskFailure> {
        let store = served.database.store().clone();
        let forbidden =
            |reason: String| AskFailure::new(AskCode::Forbidden, format!("database {name}: {reason}"));
        let rights: Rights = served.access.for_user(user);
        let now = Timestamp::from_millis(store.now_ms());
        if !rights.may_connect(now) {
            return Err(forbidden("the access rule `connect` does not let you in".to_owned()));
        }
        let granted = grant(served.serve, Direction { push: false, pull: true });
        if !granted.direction.pull {
            let notice = granted.notice.map(|notice| notice.to_string());
            return Err(forbidden(notice.unwrap_or_else(|| "nothing is shown here".to_owned())));
        }
        let shown = (!rights.is_public()).then(|| rights.read().for_records(now));
        shown.as_ref().map_or(Ok(()), Filter::check).map_err(|error| forbidden(error.to_string()))?;
        Ok(Self { store, shown })
    }

    /// Calls `tell` with every row of the answer, until it answers false.
    pub(super) fn answer(
        &self,
        question: &Question,
        patience: &Patience,
        mut tell: impl FnMut(Row) -> bool,
    ) -> Result<(), AskFailure> {
        let asked = question.filter.as_deref().map(|text| parse("filter", text)).transpose()?;
        match &question.wanted {
            Wanted::Records { select, order_by } => {
                let query = Query {
                    filter: self.both(asked),
                    select: (!select.is_empty()).then(|| select.clone()),
                    order_by: order_by.iter().map(order).collect(),
                    limit: question.limit,
                    offset: question.offset,
                };
                self.records(query, patience, |record| tell(Row::Record(record)))
            }
            Wanted::Count => {
                let found = patience.during(|| self.store.count(self.both(asked).as_ref()))?;
                let left = found.saturating_sub(question.offset);
                tell(Row::Count(question.limit.map_or(left, |limit| left.min(limit))));
                Ok(())
            }
            Wanted::Groups { group_by, measures, having, order_by } => {
                let measures = measures.iter().map(|measure| measure.parse::<Measure>());
                let wanted = Aggregation {
                    filter: self.both(asked),
                    group_by: group_by.clone(),
                    measures: measures.collect::<Result<_, _>>()?,
                    having: having.as_deref().map(|text| parse("having", text)).transpose()?,
                    order_by: order_by.iter().map(order).collect(),
                    limit: question.limit,
                    offset: question.offset,
                };
                self.groups(&wanted, patience, |group| tell(Row::Group(group)))
            }
            Wanted::Search { text } => {
                let mut search = Search::new(text.clone());
                search.filter = asked;
                search.shown = self.shown.clone();
                search.limit = Some(question.limit.unwrap_or(MAX_ASKED_HITS).min(MAX_ASKED_HITS));
                search.offset = question.offset;
                let found = patience.during(|| {
                    self.store.search(&search, |hit| {
                        tell(Row::Hit { record: hit.record, score: hit.score, snippet: hit.snippet })
                    })
                });
                Ok(found?)
            }
        }
    }

    /// What is asked for, of what may be read.
    fn both(&self, asked: Option<Filter>) -> Option<Filter> {
        match (self.shown.clone(), asked) {
            (Some(shown), Some(asked)) => Some(shown & asked),
            (one, other) => one.or(other),
        }
    }

    /// Page by page: while the other side reads, no moment of the file is held on to.
    fn records(
        &self,
        mut query: Query,
        patience: &Patience,
        mut tell: impl FnMut(blazedb::Record) -> bool,
    ) -> Result<(), AskFailure> {
        let mut left = query.limit.unwrap_or(u64::MAX);
        let mut cursor: Option<Cursor> = None;
        while left > 0 {
            query.limit = Some(left.min(ASK_PAGE_RECORDS));
            let page = patience.during(|| self.store.page_within(&query, cursor.as_ref(), ASK_PAGE_BYTES))?;
            left = left.saturating_sub(page.records.len() as u64);
            for record in page.records {
                if !tell(record) {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn groups(
        &self,
        wanted: &Aggregation,
        patience: &Patience,
        mut tell: impl FnMut(blazedb::GroupRow) -> bool,
    ) -> Result<(), AskFailure> {
        let (mut groups, mut too_many) = (0, false);
        patience.during(|| {
            self.store.aggregate(wanted, |group| {
                groups += 1;
                too_many = groups > MAX_ASKED_GROUPS;
                !too_many && tell(group)
            })
        })?;
        let said = format!("there are more than {MAX_ASKED_GROUPS} groups: ask for fewer, or give a limit");
        if too_many { Err(AskFailure::invalid(said)) } else { Ok(()) }
    }
}

fn order(key: &SortKey) -> OrderBy {
    OrderBy { field: key.field.clone(), descending: key.descending }
}

fn parse(what: &str, text: &str) -> Result<Filter, AskFailure> {
    debug_assert!(text.len() <= MAX_REQUEST_FILTER_BYTES);
    Filter::parse(text).map_err(|error| AskFailure::invalid(format!("{what}, {error}")))
}
