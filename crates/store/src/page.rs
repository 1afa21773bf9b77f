//! A query's records page by page.
//!
//! A cursor says behind which record a page starts: the values that it is sorted by, and its id. So a page neither
//! repeats nor skips a record because of what was inserted or deleted meanwhile, and costs the same however far in
//! it is. A record whose place changes while somebody turns pages is seen where it then is.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use blazedb_core::limits::{MAX_CURSOR_BYTES, PAGE_RECORDS};
use blazedb_core::{Record, RecordId};
use blazedb_sqlite::rusqlite::types::Value as SqlValue;
use serde_json::{Value as Json, json};

use crate::error::{QueryProblem, StoreError};
use crate::names::NameTable;
use crate::query::{OrderBy, Query, clamp, decode, found_sql, id_and_body, numbers, sort_key};
use crate::sql_filter::SqlParam;
use crate::store::Store;

/// Behind which record a page starts. Its text form is opaque.
#[derive(Clone, PartialEq, Debug)]
pub struct Cursor {
    order: Vec<OrderBy>,
    keys: Vec<Option<SqlParam>>,
    id: RecordId,
}

/// Some of the records that a query finds, in its order.
#[derive(Clone, PartialEq, Debug)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where the next page starts; `None` if this is the last one.
    pub next: Option<Cursor>,
}

impl Store {
    /// The first page of a query's records, or the one behind `after`. Its limit is the size of a page
    /// ([`PAGE_RECORDS`] without one), its offset is not looked at.
    ///
    /// # Errors
    /// [`QueryProblem::CursorOrder`], and if the file can't be read.
    pub fn page(&self, query: &Query, after: Option<&Cursor>) -> Result<Page, StoreError> {
        let query = Query { offset: 0, ..query.clone() };
        self.page_within(&query, after, usize::MAX)
    }

    /// [`Store::page`] that ends once its records have `max_bytes`, as they are stored, or more. The first page begins
    /// after the query's offset.
    ///
    /// # Errors
    /// As [`Store::page`].
    pub fn page_within(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        if after.is_some_and(|cursor| cursor.order != query.order_by) {
            return Err(QueryProblem::CursorOrder.into());
        }
        let limit = query.limit.unwrap_or(PAGE_RECORDS);
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        self.read(|db| {
            let names = self.names();
            let select = query.select.as_deref().map(|fields| numbers(fields, &names));
            let (sql, params) = page_sql(query, after, &names, limit);
            let mut page = Page { records: Vec::new(), next: None };
            let mut last = None;
            let mut more = false;
            let mut bytes = 0;
            self.each(db, &sql, &params, |row| {
                if page.records.len() >= size || bytes >= max_bytes {
                    more = true;
                    return Ok(false);
                }
                let (id, body) = id_and_body(row)?;
                bytes += body.len();
                page.records.push(decode(id, body, &names, select.as_deref())?);
                let keys = (0..query.order_by.len()).map(|at| row.get(2 + at).map(param));
                last = Some((id, keys.collect::<Result<Vec<_>, _>>()?));
                Ok(true)
            })?;
            if more && let Some((id, keys)) = last {
                page.next = Some(Cursor { order: query.order_by.clone(), keys, id });
            }
            Ok(page)
        })
    }
}

fn page_sql(query: &Query, after: Option<&Cursor>, names: &NameTable, limit: u64) -> (String, Vec<SqlParam>) {
    let keys: Vec<(String, bool)> =
        query.order_by.iter().map(|order| (sort_key(&order.field, names), order.descending)).collect();
    let columns: String = keys.iter().map(|(key, _)| format!(", {key}")).collect();
    let (mut sql, mut params) = found_sql(&format!("id, body{columns}"), query.filter.as_ref(), names);
    if let Some(cursor) = after {
        let (behind, more) = behind_sql(&keys, cursor);
        sql.push_str(&format!(" AND {behind}"));
        params.extend(more);
    }
    let order = keys.iter().map(|(key, descending)| format!("{key} {}, ", direction(*descending)));
    sql.push_str(&format!(
        " ORDER BY {}id LIMIT {}",
        order.collect::<String>(),
        clamp(limit.saturating_add(1))
    ));
    if after.is_none() && query.offset > 0 {
        sql.push_str(&format!(" OFFSET {}", clamp(query.offset)));
    }
    (sql, params)
}

const fn direction(descending: bool) -> &'static str {
    if descending { "DESC" } else { "ASC" }
}

/// Records that come after the cursor's: equal to it in the first keys and behind it in the next one.
fn behind_sql(keys: &[(String, bool)], cursor: &Cursor) -> (String, Vec<SqlParam>) {
    let id = Some(SqlParam::Blob(cursor.id.as_bytes().to_vec()));
    let id_key = ("id".to_owned(), false);
    let keys: Vec<_> = keys.iter().zip(&cursor.keys).chain(std::iter::once((&id_key, &id))).collect();
    let mut params = Vec::new();
    let mut cases = Vec::new();
    for at in 0..keys.len() {
        let mut case = Vec::new();
        for (level, ((key, descending), value)) in keys.iter().take(at + 1).enumerate() {
            case.push(match (level == at, value, descending) {
                (false, None, _) => format!("{key} IS NULL"),
                (false, Some(_), _) => format!("{key}=?"),
                (true, None, false) => format!("{key} IS NOT NULL"),
                (true, None, true) => "0".to_owned(),
                (true, Some(_), false) => format!("{key}>?"),
                (true, Some(_), true) => format!("({key}<? OR {key} IS NULL)"),
            });
            params.extend((*value).clone());
        }
        cases.push(format!("({})", case.join(" AND ")));
    }
    let mut sql = format!("({})", cases.join(" OR "));
    // Said once more where an index can make use of it.
    if let Some(((key, false), Some(value))) = keys.first() {
        sql.push_str(&format!(" AND {key}>=?"));
        params.push(value.clone());
    }
    (sql, params)
}

fn param(value: SqlValue) -> Option<SqlParam> {
    match value {
        SqlValue::Null => None,
        SqlValue::Integer(int) => Some(SqlParam::Int(int)),
        SqlValue::Real(real) => Some(SqlParam::Real(real)),
        SqlValue::Text(text) => Some(SqlParam::Text(text)),
        SqlValue::Blob(bytes) => Some(SqlParam::Blob(bytes)),
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = self.order.iter().map(|order| json!([order.field, order.descending]));
        let key = |key: &Option<SqlParam>| match key {
            None => Json::Null,
            Some(SqlParam::Int(int)) => json!({ "i": int }),
            // JSON has no infinities.
            Some(SqlParam::Real(real)) => json!({ "r": real.to_bits() }),
            Some(SqlParam::Text(text)) => json!({ "t": text }),
            Some(SqlParam::Blob(bytes)) => json!({ "b": BASE64.encode(bytes) }),
        };
        let parts = json!([
            1,
            order.collect::<Vec<_>>(),
            self.keys.iter().map(key).collect::<Vec<_>>(),
            BASE64.encode(self.id.as_bytes())
        ]);
        f.write_str(&BASE64.encode(parts.to_string()))
    }
}

impl FromStr for Cursor {
    type Err = QueryProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read_cursor(text).ok_or(QueryProblem::Cursor)
    }
}

fn read_cursor(text: &str) -> Option<Cursor> {
    let bytes = (text.len() <= MAX_CURSOR_BYTES).then(|| BASE64.decode(text).ok()).flatten()?;
    let parts: Json = serde_json::from_slice(&bytes).ok()?;
    let [Json::Number(version), Json::Array(order), Json::Array(keys), Json::String(id)] =
        parts.as_array()?.as_slice()
    else {
        return None;
    };
    if version.as_u64() != Some(1) || order.len() != keys.len() {
        return None;
    }
    let order = order.iter().map(|part| {
        let [Json::String(field), Json::Bool(descending)] = part.as_array()?.as_slice() else { return None };
        Some(OrderBy { field: field.clone(), descending: *descending })
    });
    let key = |key: &Json| -> Option<Option<SqlParam>> {
        let Json::Object(tagged) = key else { return key.is_null().then_some(None) };
        let (tag, value) = tagged.iter().next()?;
        Some(Some(match tag.as_str() {
            "i" => SqlParam::Int(value.as_i64()?),
            "r" => SqlParam::Real(Some(f64::from_bits(value.as_u64()?)).filter(|real| !real.is_nan())?),
            "t" => SqlParam::Text(value.as_str()?.to_owned()),
            "b" => SqlParam::Blob(BASE64.decode(value.as_str()?).ok()?),
            _ => return None,
        }))
    };
    Some(Cursor {
        order: order.collect::<Option<_>>()?,
        keys: keys.iter().map(key).collect::<Option<_>>()?,
        id: RecordId::from_bytes(BASE64.decode(id).ok()?.try_into().ok()?),
    })
}
