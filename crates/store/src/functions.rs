//! SQL functions that look into BlazeBinary bodies.
//!
//! `bz(body, n)` is the value of field number `n` in a form that SQLite orders and indexes; it is deterministic,
//! so expression indexes can be made of it. `blaze_match(body, id, text)` evaluates a filter in memory.

use std::sync::{Arc, RwLock};

use blazedb_core::blazebinary::{RawValue, RecordView, Scalar, get_field};
use blazedb_core::filter::{EvalContext, Fields};
use blazedb_core::{Filter, RecordId, Timestamp, Value};
use blazedb_sqlite::rusqlite::functions::{Context, FunctionFlags};
use blazedb_sqlite::rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use blazedb_sqlite::rusqlite::{Connection, Error, Result};

use crate::names::NameTable;

/// Names shared by all connections of a file.
pub(crate) type SharedNames = Arc<RwLock<Arc<NameTable>>>;

/// Adds the functions to a connection.
pub(crate) fn register(db: &Connection, names: &SharedNames) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("bz", 2, flags | FunctionFlags::SQLITE_INNOCUOUS, |ctx| Ok(field_value(ctx)))?;
    crate::aggregate::register(db)?;
    crate::nearest::register(db)?;
    crate::search::register(db)?;
    crate::ranking::register(db)?;
    let names = Arc::clone(names);
    db.create_scalar_function("blaze_match", 3, FunctionFlags::SQLITE_UTF8, move |ctx| matches(ctx, &names))
}

fn field_value(ctx: &Context<'_>) -> ToSqlOutput<'static> {
    let (Ok(body), Ok(field)) = (ctx.get_raw(0).as_blob(), ctx.get::<u32>(1)) else {
        return ToSqlOutput::Owned(SqlValue::Null);
    };
    ToSqlOutput::Owned(get_field(body, field).map_or(SqlValue::Null, |raw| sql_value(&raw)))
}

/// The SQL value of a field: see `docs/spec/filter.md`. Types that don't compare never meet.
pub(crate) fn sql_value(raw: &RawValue<'_>) -> SqlValue {
    let tagged = |tag: u8, bytes: &[u8]| {
        let mut blob = Vec::with_capacity(1 + bytes.len());
        blob.push(tag);
        blob.extend_from_slice(bytes);
        SqlValue::Blob(blob)
    };
    match raw.scalar() {
        Ok(Scalar::Int(int) | Scalar::Counter(int)) => SqlValue::Integer(int),
        Ok(Scalar::Float(float)) => SqlValue::Real(float),
        Ok(Scalar::Str(text)) => SqlValue::Text(text.as_str().to_owned()),
        Ok(Scalar::Null) => tagged(0, &[]),
        Ok(Scalar::Bool(bool)) => tagged(1, &[u8::from(bool)]),
        Ok(Scalar::Uuid(uuid)) => tagged(2, &uuid),
        Ok(Scalar::Timestamp(at)) => tagged(3, &(at.cast_unsigned() ^ (1 << 63)).to_be_bytes()),
        Ok(Scalar::Bytes(bytes)) => tagged(4, bytes),
        Ok(_) => tagged(5, raw.payload()),
        Err(_) => SqlValue::Null,
    }
}

/// The value that [`sql_value`] shows; `None` for lists, maps and vectors, and for a field that is not there.
pub(crate) fn value_of_key(key: SqlValue) -> Option<Value> {
    match key {
        SqlValue::Integer(int) => Some(Value::Int(int)),
        SqlValue::Real(float) => Some(Value::Float(float)),
        SqlValue::Text(text) => Some(Value::String(text)),
        SqlValue::Null => None,
        SqlValue::Blob(blob) => match blob.split_first()? {
            (0, _) => Some(Value::Null),
            (1, flag) => Some(Value::Bool(flag == [1])),
            (2, uuid) => Some(Value::Uuid(uuid::Uuid::from_bytes(uuid.try_into().ok()?))),
            (3, at) => Some(Value::Timestamp(Timestamp(
                (u64::from_be_bytes(at.try_into().ok()?) ^ (1 << 63)).cast_signed(),
            ))),
            (4, bytes) => Some(Value::Bytes(bytes.to_vec())),
            _ => None,
        },
    }
}

/// A record in its stored form, for evaluating filters.
pub(crate) struct StoredFields<'a> {
    pub(crate) id: RecordId,
    pub(crate) body: Option<RecordView<'a>>,
    pub(crate) names: &'a NameTable,
}

impl Fields for StoredFields<'_> {
    fn field(&self, name: &str) -> Option<std::borrow::Cow<'_, Value>> {
        let no = self.names.field_no(name)?;
        let raw = self.body.as_ref()?.get(no)?;
        raw.decode().ok().map(std::borrow::Cow::Owned)
    }

    fn id(&self) -> RecordId {
        self.id
    }
}

/// Whether a stored record matches a filter.
pub(crate) fn stored_matches(
    filter: &Filter,
    id: RecordId,
    body: &[u8],
    names: &NameTable,
    now: Timestamp,
) -> Option<bool> {
    let fields = StoredFields { id, body: RecordView::parse(body).ok(), names };
    filter.eval(&EvalContext { record: &fields, old: None, user: None, now })
}

/// Adds what a join of two files needs: `bz_id(body, n)`, the id that a field holds (a uuid, or its text as it is
/// written here); `bz_id_key(id)` and `bz_id_text(id)`, what `bz` gives for a field that holds this id; and
/// `blaze_match_pair(body, id, body, id, text)`, a filter over two records.
pub(crate) fn register_pair(db: &Connection, left: &SharedNames, right: &SharedNames) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("bz_id", 2, flags, |ctx| Ok(held_id(ctx)))?;
    db.create_scalar_function("bz_id_key", 1, flags, |ctx| {
        let id = ctx.get_raw(0).as_blob();
        Ok(id.ok().map(|id| SqlValue::Blob([&[2], id].concat())))
    })?;
    db.create_scalar_function("bz_id_text", 1, flags, |ctx| {
        let id = ctx.get_raw(0).as_blob().ok().and_then(|id| id.try_into().ok());
        Ok(id.map(|id| RecordId::from_bytes(id).to_string()))
    })?;
    let names = (Arc::clone(left), Arc::clone(right));
    db.create_scalar_function("blaze_match_pair", 5, FunctionFlags::SQLITE_UTF8, move |ctx| {
        pair_matches(ctx, &names.0, &names.1)
    })
}

fn held_id(ctx: &Context<'_>) -> Option<SqlValue> {
    let body = ctx.get_raw(0).as_blob().ok()?;
    match get_field(body, ctx.get(1).ok()?)?.scalar().ok()? {
        Scalar::Uuid(uuid) => Some(SqlValue::Blob(uuid.to_vec())),
        Scalar::Str(text) => {
            let id: RecordId = text.as_str().parse().ok()?;
            (id.to_string() == text.as_str()).then(|| SqlValue::Blob(id.as_bytes().to_vec()))
        }
        _ => None,
    }
}

fn pair_matches(ctx: &Context<'_>, left: &SharedNames, right: &SharedNames) -> Result<Option<bool>> {
    let filter: Arc<Filter> = ctx.get_or_create_aux(4, |value| {
        let text = value.as_str().map_err(|e| Box::new(e) as Box<dyn std::error::Error + Send + Sync>)?;
        Filter::parse_rule(text).map_err(|e| Box::new(e) as Box<dyn std::error::Error + Send + Sync>)
    })?;
    let now = now();
    let names =
        |names: &SharedNames| names.read().map(|names| Arc::clone(&names)).map_err(|_| Error::InvalidQuery);
    let (left, right) = (names(left)?, names(right)?);
    let ValueRef::Blob(body) = ctx.get_raw(0) else { return Ok(None) };
    let id = RecordId::from_bytes(ctx.get(1)?);
    let record = StoredFields { id, body: RecordView::parse(body).ok(), names: &left };
    let other = match ctx.get_raw(2) {
        ValueRef::Blob(body) => {
            let id = RecordId::from_bytes(ctx.get(3)?);
            Some(StoredFields { id, body: RecordView::parse(body).ok(), names: &right })
        }
        _ => None,
    };
    let old = other.as_ref().map(|other| other as &dyn Fields);
    Ok(filter.eval(&EvalContext { record: &record, old, user: None, now }))
}

fn matches(ctx: &Context<'_>, names: &SharedNames) -> Result<Option<bool>> {
    let filter: Arc<Filter> = ctx.get_or_create_aux(2, |value| {
        let text = value.as_str().map_err(|e| Box::new(e) as Box<dyn std::error::Error + Send + Sync>)?;
        Filter::parse(text).map_err(|e| Box::new(e) as Box<dyn std::error::Error + Send + Sync>)
    })?;
    let ValueRef::Blob(body) = ctx.get_raw(0) else { return Ok(None) };
    let id = RecordId::from_bytes(ctx.get(1)?);
    let names = Arc::clone(&*names.read().map_err(|_| Error::InvalidQuery)?);
    Ok(stored_matches(&filter, id, body, &names, now()))
}

/// The wall clock, as filters see it.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
