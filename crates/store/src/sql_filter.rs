//! Filters as SQL conditions.
//!
//! Logic is three-valued in both worlds, but SQL's unknown is not the filter language's: SQL orders numbers before
//! text before blobs where a filter says that they do not compare. So negation is pushed down to the leaves, and a
//! condition has two translations: one that SQL finds true exactly where the filter is true (`Wanted::True`), and
//! one that SQL finds true exactly where the filter is false. A third answer need not be told from the others, since
//! the two are joined by AND and OR alone.
//!
//! A field is read by `bz(body,N)`, whose results keep the types apart: numbers are numbers, strings are text, and
//! everything else is a blob that begins with a byte for its type (`Kind`). Comparisons of a field with a scalar
//! become ranges of that expression, which an index on it answers. What has no such form is left to
//! `blaze_match(body, id, text)`, which evaluates the canonical text and yields 1, 0 or NULL. The whole mapping is in
//! `docs/spec/filter.md`.

mod sql;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use blazedb_core::filter::ast::{CompareOp, Expr, Function, Operand, Path, Root};
use blazedb_core::filter::{Filter, string_as_timestamp, string_as_uuid};
use blazedb_core::{Timestamp, Value};
use blazedb_sqlite::rusqlite::types::{ToSqlOutput, ValueRef};
use blazedb_sqlite::rusqlite::{self, ToSql};

use self::sql::Sql;

/// Knows the numbers of the field names of a database.
pub(crate) trait FieldResolver {
    /// The number of a name; `None` if no record has ever had such a field.
    fn number(&self, name: &str) -> Option<u32>;
}

/// A value to bind to a `?`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum SqlParam {
    /// An INTEGER.
    Int(i64),
    /// A REAL; never NaN.
    Real(f64),
    /// A TEXT.
    Text(String),
    /// A BLOB.
    Blob(Vec<u8>),
}

impl ToSql for SqlParam {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(int) => ValueRef::Integer(*int),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A condition over a table with the columns `id` and `body`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SqlCondition {
    /// An SQL expression in parentheses, with `?` for each parameter.
    pub sql: String,
    /// The parameters in the order of their `?`.
    pub params: Vec<SqlParam>,
}

/// The condition that selects what `filter` matches at the time `now`. Bind an access rule to its user first
/// ([`Filter::for_user`]): here nobody asks.
///
/// A filter within the limits of [`Filter::check`] stays below SQLite's limits of parameters, text and depth.
#[must_use]
pub(crate) fn compile(filter: &Filter, resolver: &dyn FieldResolver, now: Timestamp) -> SqlCondition {
    compile_for(filter, resolver, now, None)
}

/// Like [`compile`], with the columns taken from the table (or alias) of that name, which must be an SQL identifier.
#[must_use]
pub(crate) fn compile_for(
    filter: &Filter,
    resolver: &dyn FieldResolver,
    now: Timestamp,
    table: Option<&str>,
) -> SqlCondition {
    let side = Side { resolver, table, optional: false };
    compile_bound(&filter.for_records(now), side, None)
}

/// Where a filter finds a record.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// The names of its fields.
    pub resolver: &'a dyn FieldResolver,
    /// Its table or alias.
    pub table: Option<&'a str>,
    /// There may be none: its columns are NULL then.
    pub optional: bool,
}

/// The condition for a filter that was bound. With an `other` side, [`Root::Old`] is the record there.
#[must_use]
pub(crate) fn compile_bound(filter: &Filter, record: Side<'_>, other: Option<Side<'_>>) -> SqlCondition {
    let condition = Compiler { record, other }.condition(filter.expr(), Wanted::True);
    SqlCondition { sql: format!("({})", condition.sql), params: condition.params }
}

impl Side<'_> {
    fn prefix(&self) -> String {
        self.table.map_or_else(String::new, |table| format!("{table}."))
    }
}

/// Which answer of the filter the SQL is to be true for.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    True,
    False,
}

impl Wanted {
    const fn other(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
        }
    }
}

/// The types that compare among themselves, and how `bz` shows them.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number,
    Text,
    Bool,
    Uuid,
    Timestamp,
    Bytes,
}

const KINDS: [Kind; 6] = [Kind::Number, Kind::Text, Kind::Bool, Kind::Uuid, Kind::Timestamp, Kind::Bytes];

impl Kind {
    /// The least key of this kind and the first one after all of them, as SQL; numbers have nothing before them.
    const fn bounds(self) -> (Option<&'static str>, &'static str) {
        match self {
            Self::Number => (None, "''"),
            Self::Text => (Some("''"), "x''"),
            Self::Bool => (Some("x'01'"), "x'02'"),
            Self::Uuid => (Some("x'02'"), "x'03'"),
            Self::Timestamp => (Some("x'03'"), "x'04'"),
            Self::Bytes => (Some("x'04'"), "x'05'"),
        }
    }

    /// The key of a literal as a value of this kind; `None` if it does not compare with values of this kind.
    fn key(self, literal: &Value) -> Option<SqlParam> {
        let tagged = |tag: u8, bytes: &[u8]| Some(SqlParam::Blob([&[tag], bytes].concat()));
        let time = |time: Timestamp| tagged(3, &(time.0.cast_unsigned() ^ (1 << 63)).to_be_bytes());
        match (self, literal) {
            (Self::Number, Value::Int(int)) => Some(SqlParam::Int(*int)),
            (Self::Number, Value::Float(float)) => Some(SqlParam::Real(*float)),
            (Self::Text, Value::String(text)) => Some(SqlParam::Text(text.clone())),
            (Self::Bool, Value::Bool(value)) => tagged(1, &[u8::from(*value)]),
            (Self::Uuid, Value::Uuid(uuid)) => tagged(2, uuid.as_bytes()),
            (Self::Uuid, Value::String(text)) => tagged(2, string_as_uuid(text)?.as_bytes()),
            (Self::Timestamp, Value::Timestamp(at)) => time(*at),
            (Self::Timestamp, Value::String(text)) => time(string_as_timestamp(text)?),
            (Self::Bytes, Value::Bytes(bytes)) => tagged(4, bytes),
            _ => None,
        }
    }
}

/// What a top-level path reads.
enum Column {
    /// `bz(body,N)`
    Field(String),
    /// The column of ids: sixteen bytes, always there unless the whole record is `optional`.
    Id {
        /// The column.
        sql: String,
        /// Whether it can be NULL.
        optional: bool,
    },
    /// A name that no record has: missing everywhere.
    Nowhere,
}

const NULL_KEY: &str = "x'00'";

struct Compiler<'a> {
    record: Side<'a>,
    other: Option<Side<'a>>,
}

impl Compiler<'_> {
    fn condition(&self, expr: &Expr, wanted: Wanted) -> Sql {
        match expr {
            Expr::Literal(value) => Sql::constant(*value == (wanted == Wanted::True)),
            Expr::Not(inner) => self.condition(inner, wanted.other()),
            Expr::And(members) => self.joined(members, wanted, wanted == Wanted::True),
            Expr::Or(members) => self.joined(members, wanted, wanted == Wanted::False),
            leaf => self.leaf(leaf, wanted).unwrap_or_else(|| self.evaluated(leaf, wanted)),
        }
    }

    fn joined(&self, members: &[Expr], wanted: Wanted, all: bool) -> Sql {
        let members: Vec<Sql> = members.iter().map(|member| self.condition(member, wanted)).collect();
        if all { Sql::all(members) } else { Sql::any(members) }
    }

    /// Left to the evaluator.
    fn evaluated(&self, expr: &Expr, wanted: Wanted) -> Sql {
        let answer = u8::from(wanted == Wanted::True);
        let mut other = None;
        expr.visit_paths(&mut |path| {
            if path.root == Root::Old {
                other = self.other;
            }
        });
        let prefix = self.record.prefix();
        let mut sql = Sql::text(match other.map(|other| other.prefix()) {
            None => format!("blaze_match({prefix}body,{prefix}id,?)={answer}"),
            Some(other) => {
                format!("blaze_match_pair({prefix}body,{prefix}id,{other}body,{other}id,?)={answer}")
            }
        });
        sql.params.push(SqlParam::Text(expr.to_string()));
        sql
    }

    /// A condition on one top-level field and scalar literals; `None` for any other.
    fn leaf(&self, expr: &Expr, wanted: Wanted) -> Option<Sql> {
        match expr {
            Expr::Truth(path) => Some(truth(&self.column(path)?, wanted)),
            Expr::Has(path) => Some(has(&self.column(path)?, wanted)),
            Expr::Compare { op, left: Operand::Path(path), right: Operand::Literal(literal) } => {
                comparison(&self.column(path)?, *op, literal, wanted)
            }
            Expr::Compare { op, left: Operand::Literal(literal), right: Operand::Path(path) } => {
                comparison(&self.column(path)?, op.flipped(), literal, wanted)
            }
            Expr::In { item: Operand::Path(path), list: Operand::Literal(Value::Array(elements)) } => {
                let elements: Vec<&Value> = elements.iter().collect();
                membership(&self.column(path)?, &elements, wanted)
            }
            Expr::Call {
                function: Function::StartsWith,
                subject: Operand::Path(path),
                argument: Operand::Literal(Value::String(prefix)),
            } => Some(starts_with(&self.column(path)?, prefix, wanted)),
            _ => None,
        }
    }

    fn column(&self, path: &Path) -> Option<Column> {
        let side = match path.root {
            Root::Record => self.record,
            Root::Old => self.other?,
            Root::User => return None,
        };
        let [name] = path.segments.as_slice() else { return None };
        let prefix = side.prefix();
        if name == "id" {
            return Some(Column::Id { sql: format!("{prefix}id"), optional: side.optional });
        }
        Some(side.resolver.number(name).map_or(Column::Nowhere, |number| {
            // Character by character what the index was created with.
            Column::Field(format!("bz({prefix}body,{number})"))
        }))
    }
}

impl Column {
    /// The expression and the key of `literal` as a value of `kind`, if this column can hold that kind.
    fn key(&self, kind: Kind, literal: &Value) -> Option<SqlParam> {
        match (self, kind.key(literal)?) {
            (Self::Field(_), key) => Some(key),
            (Self::Id { .. }, SqlParam::Blob(tagged)) if kind == Kind::Uuid => {
                Some(SqlParam::Blob(tagged.get(1..)?.to_vec()))
            }
            _ => None,
        }
    }

    fn sql(&self) -> &str {
        match self {
            Self::Field(sql) | Self::Id { sql, .. } => sql,
            Self::Nowhere => "NULL",
        }
    }

    /// The column holds null.
    fn is_null(&self) -> Sql {
        match self {
            Self::Field(sql) => Sql::text(format!("{sql}={NULL_KEY}")),
            Self::Id { .. } | Self::Nowhere => Sql::constant(false),
        }
    }

    /// The column holds something other than null.
    fn is_not_null(&self) -> Sql {
        match self {
            Self::Field(sql) => Sql::text(format!("{sql}<>{NULL_KEY}")),
            Self::Id { .. } => self.is_there(),
            Self::Nowhere => Sql::constant(false),
        }
    }

    /// The column holds a value of this kind.
    fn is_kind(&self, kind: Kind) -> Sql {
        match (self, kind.bounds()) {
            (Self::Field(sql), (None, end)) => Sql::text(format!("{sql}<{end}")),
            (Self::Field(sql), (Some(start), end)) => {
                Sql::all(vec![Sql::text(format!("{sql}>={start}")), Sql::text(format!("{sql}<{end}"))])
            }
            (Self::Id { .. }, _) if kind == Kind::Uuid => self.is_there(),
            (Self::Id { .. }, _) => Sql::constant(false),
            (Self::Nowhere, _) => Sql::constant(false),
        }
    }

    /// The record has the column.
    fn is_there(&self) -> Sql {
        match self {
            Self::Field(sql) | Self::Id { sql, optional: true } => Sql::text(format!("{sql} IS NOT NULL")),
            Self::Id { .. } => Sql::constant(true),
            Self::Nowhere => Sql::constant(false),
        }
    }

    fn compared(&self, op: &str, key: SqlParam) -> Sql {
        Sql { sql: format!("{}{op}?", self.sql()), params: vec![key], atom: true }
    }
}

fn truth(column: &Column, wanted: Wanted) -> Sql {
    let value = Value::Bool(wanted == Wanted::True);
    column.key(Kind::Bool, &value).map_or_else(|| Sql::constant(false), |key| column.compared("=", key))
}

fn has(column: &Column, wanted: Wanted) -> Sql {
    match (column, wanted) {
        (column, Wanted::True) => column.is_there(),
        (Column::Field(sql) | Column::Id { sql, optional: true }, Wanted::False) => {
            Sql::text(format!("{sql} IS NULL"))
        }
        (Column::Id { .. }, Wanted::False) => Sql::constant(false),
        (Column::Nowhere, Wanted::False) => Sql::constant(true),
    }
}

fn comparison(column: &Column, op: CompareOp, literal: &Value, wanted: Wanted) -> Option<Sql> {
    let op = if wanted == Wanted::True { op } else { op.negated() };
    match op {
        CompareOp::Eq => membership(column, &[literal], Wanted::True),
        CompareOp::Ne => membership(column, &[literal], Wanted::False),
        CompareOp::Lt | CompareOp::Le | CompareOp::Gt | CompareOp::Ge => Some(ordering(column, op, literal)),
    }
}

/// Where the field holds a value of a kind that has an order and is on that side of the literal. What has no order
/// (null, bool, lists, maps) is on no side.
fn ordering(column: &Column, op: CompareOp, literal: &Value) -> Sql {
    let kinds = KINDS.into_iter().filter(|kind| *kind != Kind::Bool);
    let ranges = kinds.filter_map(|kind| {
        let key = column.key(kind, literal)?;
        let side = column.compared(op.symbol(), key);
        let (start, end) = kind.bounds();
        let bound = match (column, op, start) {
            (Column::Field(sql), CompareOp::Lt | CompareOp::Le, Some(start)) => format!("{sql}>={start}"),
            (Column::Field(sql), CompareOp::Gt | CompareOp::Ge, _) => format!("{sql}<{end}"),
            _ => return Some(side),
        };
        Some(Sql::all(vec![side, Sql::text(bound)]))
    });
    Sql::any(ranges.collect())
}

/// `column in [literals]`; `None` if a literal is a list or a map.
fn membership(column: &Column, literals: &[&Value], wanted: Wanted) -> Option<Sql> {
    if literals.iter().any(|literal| matches!(literal, Value::Array(_) | Value::Map(_))) {
        return None;
    }
    let (nulls, values): (Vec<&Value>, Vec<&Value>) =
        literals.iter().copied().partition(|literal| **literal == Value::Null);
    Some(match wanted {
        Wanted::True => {
            let keys =
                KINDS.into_iter().flat_map(|kind| values.iter().filter_map(move |v| column.key(kind, v)));
            let equal = one_of(column, "=", "IN", distinct(keys.collect()));
            if nulls.is_empty() { equal } else { Sql::any(vec![equal, column.is_null()]) }
        }
        Wanted::False if literals.is_empty() => Sql::constant(true),
        Wanted::False if values.is_empty() => column.is_not_null(),
        Wanted::False => {
            let different = KINDS.into_iter().filter_map(|kind| all_different(column, kind, &values));
            let mut any: Vec<Sql> = different.collect();
            if nulls.is_empty() {
                any.push(column.is_null());
            }
            Sql::any(any)
        }
    })
}

/// The column holds a value of this kind that differs from all literals; `None` if not all compare with the kind.
fn all_different(column: &Column, kind: Kind, literals: &[&Value]) -> Option<Sql> {
    let keys: Vec<SqlParam> =
        literals.iter().map(|literal| column.key(kind, literal)).collect::<Option<_>>()?;
    let different = one_of(column, "<>", "NOT IN", distinct(keys));
    Some(Sql::all(vec![column.is_kind(kind), different]))
}

fn one_of(column: &Column, single: &str, several: &str, mut keys: Vec<SqlParam>) -> Sql {
    if keys.len() > 1 {
        let marks = vec!["?"; keys.len()].join(",");
        return Sql { sql: format!("{} {several} ({marks})", column.sql()), params: keys, atom: true };
    }
    keys.pop().map_or_else(|| Sql::constant(false), |key| column.compared(single, key))
}

/// Without repetitions, in the order of their first appearance.
fn distinct(keys: Vec<SqlParam>) -> Vec<SqlParam> {
    let mut seen = HashSet::new();
    keys.into_iter().filter(|key| seen.insert(format!("{key:?}"))).collect()
}

fn starts_with(column: &Column, prefix: &str, wanted: Wanted) -> Sql {
    let Column::Field(sql) = column else { return Sql::constant(false) };
    let start = || column.compared(">=", SqlParam::Text(prefix.to_owned()));
    let before = || column.compared("<", SqlParam::Text(prefix.to_owned()));
    let end = text_after(prefix);
    match (wanted, end) {
        (Wanted::True, Some(end)) => Sql::all(vec![start(), column.compared("<", SqlParam::Text(end))]),
        (Wanted::True, None) => Sql::all(vec![start(), Sql::text(format!("{sql}<x''"))]),
        (Wanted::False, Some(end)) => {
            let outside = Sql::any(vec![before(), column.compared(">=", SqlParam::Text(end))]);
            Sql::all(vec![column.is_kind(Kind::Text), outside])
        }
        (Wanted::False, None) => Sql::all(vec![column.is_kind(Kind::Text), before()]),
    }
}

/// The least text after all that begin with `prefix`; `None` if there is none. The bytes of UTF-8 are in the order
/// of the code points.
fn text_after(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        if last == '\u{d7ff}' {
            text.push('\u{e000}');
            return Some(text);
        }
        if let Some(next) = char::from_u32(u32::from(last) + 1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}
