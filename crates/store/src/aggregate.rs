//! Counting and measuring groups of records.
//!
//! Rules: a field that is missing or null does not count; sums and averages take numbers only, and are exact for
//! integers (a sum that no i64 holds is a float); the least and the greatest value are of the order that sorting
//! goes by, in which lists, maps and vectors have no place. Records in which a field is missing are a group of
//! their own, in whose row the field is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use blazedb_core::blazebinary::RecordView;
use blazedb_core::filter::EvalContext;
use blazedb_core::{Filter, Record, RecordId, Value};
use blazedb_sqlite::rusqlite::functions::{Aggregate, Context, FunctionFlags};
use blazedb_sqlite::rusqlite::types::{Value as SqlValue, ValueRef};
use blazedb_sqlite::rusqlite::{Connection, Result, Row};

use crate::error::{QueryProblem, StoreError};
use crate::functions::{now, value_of_key};
use crate::names::NameTable;
use crate::query::{OrderBy, VisitError, found_sql, push_limit, sort_key};
use crate::sql_filter::SqlParam;
use crate::store::Store;

/// What is worked out for each group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Measure {
    /// How many records there are: `count`.
    Count,
    /// In how many the field holds something: `count_FIELD`.
    CountOf(String),
    /// How many different values the field has: `distinct_FIELD`.
    Distinct(String),
    /// The sum of the field's numbers: `sum_FIELD`. Missing if there are none.
    Sum(String),
    /// Their average: `avg_FIELD`.
    Avg(String),
    /// The field's least value: `min_FIELD`.
    Min(String),
    /// The field's greatest value: `max_FIELD`.
    Max(String),
}

impl Measure {
    fn parts(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Count => ("count", None),
            Self::CountOf(field) => ("count", Some(field)),
            Self::Distinct(field) => ("distinct", Some(field)),
            Self::Sum(field) => ("sum", Some(field)),
            Self::Avg(field) => ("avg", Some(field)),
            Self::Min(field) => ("min", Some(field)),
            Self::Max(field) => ("max", Some(field)),
        }
    }

    /// The name of its column: `count`, `sum_priority`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.parts() {
            (word, None) => word.to_owned(),
            (word, Some(field)) => format!("{word}_{field}"),
        }
    }

    fn sql(&self, names: &NameTable) -> String {
        let key = self.parts().1.map(|field| sort_key(field, names)).unwrap_or_default();
        // Null is the least of the tagged values, what has no order the greatest: see `docs/spec/filter.md`.
        let ordered = format!("CASE WHEN {key}<x'00' OR ({key}>x'00' AND {key}<x'05') THEN {key} END");
        match self {
            Self::Count => "count(*)".to_owned(),
            Self::CountOf(_) => format!("count(nullif({key},x'00'))"),
            Self::Distinct(_) => format!("count(DISTINCT nullif({key},x'00'))"),
            Self::Sum(_) => format!("bz_sum({key})"),
            Self::Avg(_) => format!("bz_avg({key})"),
            Self::Min(_) => format!("min({ordered})"),
            Self::Max(_) => format!("max({ordered})"),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (word, None) => f.write_str(word),
            (word, Some(field)) => write!(f, "{word}:{field}"),
        }
    }
}

impl FromStr for Measure {
    type Err = QueryProblem;

    /// `count`, `count:FIELD`, `distinct:FIELD`, `sum:FIELD`, `avg:FIELD`, `min:FIELD`, `max:FIELD`.
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (word, field) = text.split_once(':').map_or((text, None), |(word, field)| (word, Some(field)));
        let unknown = || QueryProblem::Measure(text.to_owned());
        let field = || field.filter(|field| !field.is_empty()).map(str::to_owned).ok_or_else(unknown);
        Ok(match word {
            "count" if text == "count" => Self::Count,
            "count" => Self::CountOf(field()?),
            "distinct" => Self::Distinct(field()?),
            "sum" => Self::Sum(field()?),
            "avg" => Self::Avg(field()?),
            "min" => Self::Min(field()?),
            "max" => Self::Max(field()?),
            _ => return Err(unknown()),
        })
    }
}

/// What to group and measure. Without `group_by` everything that matches is one group; without measures the groups
/// are the different values of the fields.
#[derive(Clone, Debug, Default)]
pub struct Aggregation {
    /// Only records that match.
    pub filter: Option<Filter>,
    /// Fields whose values make the groups.
    pub group_by: Vec<String>,
    /// What to work out for each group.
    pub measures: Vec<Measure>,
    /// Only groups whose row matches.
    pub having: Option<Filter>,
    /// Sort by these columns.
    pub order_by: Vec<OrderBy>,
    /// At most so many groups.
    pub limit: Option<u64>,
    /// After leaving out so many.
    pub offset: u64,
}

/// A group: the values of the fields that make it, and of its measures, by name.
pub type GroupRow = BTreeMap<String, Value>;

impl Store {
    /// Calls `visit` with the row of every group, until it answers false.
    ///
    /// # Errors
    /// [`StoreError::Query`], and if the file can't be read.
    pub fn aggregate(
        &self,
        wanted: &Aggregation,
        mut visit: impl FnMut(GroupRow) -> bool,
    ) -> std::result::Result<(), StoreError> {
        check(wanted)?;
        let (mut skip, mut left) = (wanted.offset, wanted.limit.unwrap_or(u64::MAX));
        self.read(|db| {
            let names = self.names();
            let (sql, params) = group_sql(wanted, &names);
            self.each(db, &sql, &params, |row| {
                let group = group_row(row, wanted, &names)?;
                let Some(having) = &wanted.having else { return Ok(visit(group)) };
                let record = Record { id: RecordId::from_bytes([0; 16]), fields: group };
                if !having.matches(&EvalContext::new(&record, now())) {
                    return Ok(true);
                }
                if skip > 0 {
                    skip -= 1;
                    return Ok(true);
                }
                left = left.saturating_sub(1);
                Ok(visit(record.fields) && left > 0)
            })
        })
    }
}

fn check(wanted: &Aggregation) -> std::result::Result<(), QueryProblem> {
    let mut shown = BTreeSet::new();
    for name in wanted.group_by.iter().cloned().chain(wanted.measures.iter().map(Measure::name)) {
        if name == "id" {
            return Err(QueryProblem::GroupById);
        }
        if !shown.insert(name.clone()) {
            return Err(QueryProblem::Twice(name));
        }
    }
    let unknown = wanted.order_by.iter().find(|order| !shown.contains(&order.field));
    unknown.map_or(Ok(()), |order| Err(QueryProblem::NotShown(order.field.clone())))
}

fn group_sql(wanted: &Aggregation, names: &NameTable) -> (String, Vec<SqlParam>) {
    let keys: Vec<String> = wanted.group_by.iter().map(|field| sort_key(field, names)).collect();
    let mut columns = if keys.is_empty() { "NULL" } else { "body" }.to_owned();
    for measure in &wanted.measures {
        columns.push_str(&format!(", {}", measure.sql(names)));
    }
    let (mut sql, params) = found_sql(&columns, wanted.filter.as_ref(), names);
    if !keys.is_empty() {
        sql.push_str(&format!(" GROUP BY {}", keys.join(", ")));
    } else if wanted.measures.is_empty() {
        // There is nothing to tell.
        sql.push_str(" LIMIT 0");
        return (sql, params);
    }
    for (at, order) in wanted.order_by.iter().enumerate() {
        sql.push_str(if at == 0 { " ORDER BY " } else { ", " });
        let key = wanted.group_by.iter().position(|field| *field == order.field).and_then(|at| keys.get(at));
        let measure = || wanted.measures.iter().find(|measure| measure.name() == order.field);
        sql.push_str(&key.cloned().or_else(|| measure().map(|m| m.sql(names))).unwrap_or_default());
        sql.push_str(if order.descending { " DESC" } else { " ASC" });
    }
    if wanted.having.is_none() {
        push_limit(&mut sql, wanted.limit, wanted.offset);
    }
    (sql, params)
}

fn group_row(
    row: &Row<'_>,
    wanted: &Aggregation,
    names: &NameTable,
) -> std::result::Result<GroupRow, VisitError> {
    let mut group = GroupRow::new();
    // A record of the group has the values that they share.
    if let (false, Ok(body)) = (wanted.group_by.is_empty(), row.get_ref(0)?.as_blob()) {
        let record = RecordView::parse(body).map_err(StoreError::from)?;
        for field in &wanted.group_by {
            if let Some(raw) = names.field_no(field).and_then(|no| record.get(no)) {
                group.insert(field.clone(), raw.decode().map_err(StoreError::from)?);
            }
        }
    }
    for (at, measure) in wanted.measures.iter().enumerate() {
        if let Some(value) = value_of_key(row.get::<_, SqlValue>(1 + at)?) {
            group.insert(measure.name(), value);
        }
    }
    Ok(group)
}

/// Adds the aggregate functions to a connection.
pub(crate) fn register(db: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_aggregate_function("bz_sum", 1, flags, Numbers { average: false })?;
    db.create_aggregate_function("bz_avg", 1, flags, Numbers { average: true })
}

/// Adds up the numbers among the values.
struct Numbers {
    average: bool,
}

#[derive(Default)]
struct Total {
    count: i64,
    /// The sum of the integers: no number of i64 that fits in a file overflows it.
    ints: i128,
    /// The sum of the floats, and what rounding took from it (Neumaier's summation).
    floats: f64,
    lost: f64,
    any_float: bool,
}

impl Total {
    fn add_float(&mut self, float: f64) {
        let sum = self.floats + float;
        self.lost += if self.floats.abs() >= float.abs() {
            (self.floats - sum) + float
        } else {
            (float - sum) + self.floats
        };
        self.floats = sum;
        self.any_float = true;
    }

    #[allow(clippy::cast_precision_loss, reason = "a float is what was asked for")]
    fn sum(&self) -> f64 {
        let floats = if self.floats.is_finite() { self.floats + self.lost } else { self.floats };
        floats + self.ints as f64
    }
}

impl Aggregate<Total, Option<SqlValue>> for Numbers {
    fn init(&self, _: &mut Context<'_>) -> Result<Total> {
        Ok(Total::default())
    }

    fn step(&self, ctx: &mut Context<'_>, total: &mut Total) -> Result<()> {
        match ctx.get_raw(0) {
            ValueRef::Integer(int) => total.ints += i128::from(int),
            ValueRef::Real(real) => total.add_float(real),
            _ => return Ok(()),
        }
        total.count += 1;
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "nobody has 2^53 records")]
    fn finalize(&self, _: &mut Context<'_>, total: Option<Total>) -> Result<Option<SqlValue>> {
        let Some(total) = total.filter(|total| total.count > 0) else { return Ok(None) };
        let float = |float: f64| (!float.is_nan()).then_some(SqlValue::Real(float));
        if self.average {
            return Ok(float(total.sum() / total.count as f64));
        }
        match i64::try_from(total.ints) {
            Ok(int) if !total.any_float => Ok(Some(SqlValue::Integer(int))),
            _ => Ok(float(total.sum())),
        }
    }
}
