//! Joins of the records of two databases, in SQLite's planner over both files.

use blazedb_core::filter::ast::Root;
use blazedb_core::filter::split_sided;
use blazedb_core::{Filter, Record, RecordId};
use blazedb_sqlite::rusqlite::{Connection, Row};

use crate::error::StoreError;
use crate::explain::Plan;
use crate::functions::now;
use crate::names::NameTable;
use crate::query::{OrderBy, VisitError, decode, numbers, push_limit};
use crate::row::ALIVE;
use crate::sql_filter::{Side, SqlParam, compile_bound};
use crate::store::Store;

/// Which records belong together, and which of the pairs to read.
#[derive(Clone, Debug)]
pub struct Join {
    /// The field of the left record, and the field of the right one that holds the same. `id` is a record's id: a
    /// field holds it as a uuid or as its text. What is missing or null equals nothing.
    pub on: (String, String),
    /// Also left records that have no right one.
    pub left: bool,
    /// What the left and the right record are called in filter, order and selection. A bare name is a field of the
    /// left one.
    pub names: (String, String),
    /// Only pairs that match.
    pub filter: Option<Filter>,
    /// Only these fields; `None` for all.
    pub select: Option<Vec<String>>,
    /// Sort by these fields; missing fields first.
    pub order_by: Vec<OrderBy>,
    /// At most so many pairs.
    pub limit: Option<u64>,
    /// After leaving out so many.
    pub offset: u64,
}

impl Join {
    /// All pairs of `left` and `right` records whose fields `on` hold the same.
    #[must_use]
    pub fn new(left: impl Into<String>, right: impl Into<String>, on: (String, String)) -> Self {
        Self {
            on,
            left: false,
            names: (left.into(), right.into()),
            filter: None,
            select: None,
            order_by: Vec::new(),
            limit: None,
            offset: 0,
        }
    }

    fn sided<'a>(&self, name: &'a str) -> (Root, &'a str) {
        split_sided(name, &self.names.0, &self.names.1)
    }
}

/// Two records that belong together.
#[derive(Clone, PartialEq, Debug)]
pub struct JoinedRow {
    /// The left one.
    pub left: Record,
    /// The right one; `None` if there is none.
    pub right: Option<Record>,
}

impl Store {
    /// Calls `visit` with every pair of the join of this database (left) with `right`, until it answers false. All
    /// is read at one moment of both files.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn join(
        &self,
        right: &Self,
        wanted: &Join,
        visit: impl FnMut(JoinedRow) -> bool,
    ) -> Result<(), StoreError> {
        self.read_pair(right, |db| {
            let reader = JoinReader::new(self, right, wanted, db)?;
            reader.each(None, visit)
        })
    }

    /// How a join would be carried out now.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn explain_join(&self, right: &Self, wanted: &Join) -> Result<Plan, StoreError> {
        self.read_pair(right, |db| {
            let reader = JoinReader::new(self, right, wanted, db)?;
            let steps = reader.steps()?;
            // Numbers of fields are each file's own: what belongs to which is told by the alias.
            let (left, other): (Vec<_>, Vec<_>) =
                steps.iter().cloned().partition(|step| !step.contains(" r "));
            let mut plan = Plan::of(left, &reader.left_names);
            let right_plan = Plan::of(other, &reader.right_names);
            let name = |side: &str, fields: Vec<String>| -> Vec<String> {
                fields.into_iter().map(|field| format!("{side}.{field}")).collect()
            };
            plan.indexes = name(&wanted.names.0, plan.indexes);
            plan.indexes.extend(name(&wanted.names.1, right_plan.indexes));
            plan.scan |= right_plan.scan;
            plan.sort |= right_plan.sort;
            plan.steps = steps;
            Ok(plan)
        })
    }
}

/// The columns of a pair.
const PAIR: &str = "l.id, l.body, r.id, r.body";

/// One record that a pair must have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum With {
    Left(RecordId),
    Right(RecordId),
}

/// A join inside a snapshot of both files.
pub(crate) struct JoinReader<'a> {
    store: &'a Store,
    wanted: &'a Join,
    db: &'a Connection,
    schema: &'static str,
    left_names: std::sync::Arc<NameTable>,
    right_names: std::sync::Arc<NameTable>,
    way: Way,
}

/// From which side a right record's id is found in the left field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// By the index of ids on the right.
    FromLeft,
    /// By the index of the field on the left.
    FromRight,
    /// As the planner likes; each pair is checked twice.
    Either,
}

impl<'a> JoinReader<'a> {
    pub(crate) fn new(
        store: &'a Store,
        right: &'a Store,
        wanted: &'a Join,
        db: &'a Connection,
    ) -> Result<Self, StoreError> {
        let (left_names, right_names) = (store.names(), right.names());
        let schema = store.schema_of(right);
        let mut reader = Self { store, wanted, db, schema, left_names, right_names, way: Way::FromLeft };
        reader.choose_way()?;
        Ok(reader)
    }

    /// Has the planner choose once, and then checks each pair in that way alone.
    fn choose_way(&mut self) -> Result<(), StoreError> {
        if self.wanted.left || self.wanted.on.1 != "id" {
            return Ok(());
        }
        self.way = Way::Either;
        let from_right = self.steps()?.first().is_some_and(|step| step.starts_with("SEARCH r"));
        self.way = if from_right { Way::FromRight } else { Way::FromLeft };
        Ok(())
    }

    fn steps(&self) -> Result<Vec<String>, StoreError> {
        let (sql, params) = self.sql(PAIR, None, true);
        let mut steps = Vec::new();
        self.store.each(self.db, &format!("EXPLAIN QUERY PLAN {sql}"), &params, |row| {
            steps.push(row.get::<_, String>(3)?);
            Ok(true)
        })?;
        Ok(steps)
    }

    /// The pairs; all in their order and limits, or those with one record, in no order and without limit.
    pub(crate) fn each(
        &self,
        with: Option<With>,
        mut visit: impl FnMut(JoinedRow) -> bool,
    ) -> Result<(), StoreError> {
        let (sql, params) = self.sql(PAIR, with, with.is_none());
        let select = self.wanted.select.as_ref().map(|fields| {
            let side = |side: Root| -> Vec<String> {
                let sided = fields.iter().map(|field| self.wanted.sided(field));
                sided.filter(|(root, _)| *root == side).map(|(_, field)| field.to_owned()).collect()
            };
            (numbers(&side(Root::Record), &self.left_names), numbers(&side(Root::Old), &self.right_names))
        });
        self.store.each(self.db, &sql, &params, |row| {
            let select = select.as_ref();
            let left = record_at(row, 0, &self.left_names, select.map(|(left, _)| left.as_slice()))?;
            let right = record_at(row, 2, &self.right_names, select.map(|(_, right)| right.as_slice()))?;
            Ok(left.is_none_or(|left| visit(JoinedRow { left, right })))
        })
    }

    /// The left records of pairs with a right one.
    pub(crate) fn lefts_of(
        &self,
        right: RecordId,
        mut visit: impl FnMut(RecordId),
    ) -> Result<(), StoreError> {
        let (sql, params) = self.sql("l.id", Some(With::Right(right)), false);
        self.store.each(self.db, &sql, &params, |row| {
            visit(RecordId::from_bytes(row.get(0)?));
            Ok(true)
        })
    }

    fn sql(&self, columns: &str, with: Option<With>, ordered: bool) -> (String, Vec<SqlParam>) {
        let wanted = self.wanted;
        let kind = if wanted.left { "LEFT JOIN" } else { "JOIN" };
        let mut sql = format!(
            "SELECT {columns} FROM main.records l {kind} {}.records r ON {} AND r.state={ALIVE} WHERE l.state={ALIVE}",
            self.schema,
            self.on_sql(with)
        );
        let mut params = Vec::new();
        match with {
            None => {}
            Some(With::Left(id)) => {
                sql.push_str(" AND l.id=?");
                params.push(SqlParam::Blob(id.as_bytes().to_vec()));
            }
            Some(With::Right(id)) => {
                sql.push_str(" AND r.id=?");
                params.push(SqlParam::Blob(id.as_bytes().to_vec()));
            }
        }
        if let Some(filter) = &wanted.filter {
            let bound = filter.for_join(&wanted.names.0, &wanted.names.1, now());
            let left = Side { resolver: &*self.left_names, table: Some("l"), optional: false };
            let right = Side { resolver: &*self.right_names, table: Some("r"), optional: wanted.left };
            let condition = compile_bound(&bound, left, Some(right));
            sql.push_str(&format!(" AND {}", condition.sql));
            params.extend(condition.params);
        }
        if ordered {
            for (at, order) in wanted.order_by.iter().enumerate() {
                sql.push_str(if at == 0 { " ORDER BY " } else { ", " });
                let (root, field) = wanted.sided(&order.field);
                sql.push_str(&self.key(root, field));
                sql.push_str(if order.descending { " DESC" } else { " ASC" });
            }
            push_limit(&mut sql, wanted.limit, wanted.offset);
        }
        (sql, params)
    }

    fn key(&self, side: Root, field: &str) -> String {
        let (table, names) =
            if side == Root::Old { ("r", &self.right_names) } else { ("l", &self.left_names) };
        match (field, names.field_no(field)) {
            ("id", _) => format!("{table}.id"),
            (_, Some(no)) => format!("bz({table}.body,{no})"),
            (_, None) => "NULL".to_owned(),
        }
    }

    /// Where both fields hold the same.
    fn on_sql(&self, with: Option<With>) -> String {
        let (left, right) = (&self.wanted.on.0, &self.wanted.on.1);
        let (left_key, right_key) = (self.key(Root::Record, left), self.key(Root::Old, right));
        let left_no = self.left_names.field_no(left);
        let right_no = self.right_names.field_no(right);
        match (left.as_str(), right.as_str(), left_no, right_no) {
            ("id", "id", ..) => "l.id=r.id".to_owned(),
            (_, "id", Some(no), _) => {
                let from_left = format!("r.id=bz_id(l.body,{no})");
                let from_right = format!("{left_key} IN (bz_id_key(r.id),bz_id_text(r.id))");
                let way = match with {
                    None => self.way,
                    Some(With::Left(_)) => Way::FromLeft,
                    Some(With::Right(_)) => Way::FromRight,
                };
                match way {
                    Way::FromLeft => from_left,
                    Way::FromRight => from_right,
                    Way::Either => format!("{from_left} AND {from_right}"),
                }
            }
            ("id", _, _, Some(no)) => {
                format!("l.id=bz_id(r.body,{no}) AND {right_key} IN (bz_id_key(l.id),bz_id_text(l.id))")
            }
            (_, _, Some(_), Some(_)) => format!("{left_key}={right_key} AND {left_key}<>x'00'"),
            // A field that no record has equals nothing.
            _ => "0".to_owned(),
        }
    }
}

fn record_at(
    row: &Row<'_>,
    at: usize,
    names: &NameTable,
    select: Option<&[u32]>,
) -> Result<Option<Record>, VisitError> {
    let Some(id) = row.get::<_, Option<[u8; 16]>>(at)? else { return Ok(None) };
    let body = row.get_ref(at + 1)?.as_blob().unwrap_or_default();
    Ok(Some(decode(RecordId::from_bytes(id), body, names, select)?))
}
