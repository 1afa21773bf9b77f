//! Reading records: one, many by filter, all in order of id.

use std::sync::Arc;

use blazedb_core::blazebinary::{FieldNo, RecordView};
use blazedb_core::feed::Seq;
use blazedb_core::{Filter, Record, RecordId, Value};
use blazedb_sqlite::rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use crate::error::StoreError;
use crate::functions::{now, stored_matches};
use crate::names::NameTable;
use crate::row::ALIVE;
use crate::sql_filter::{FieldResolver, SqlParam, compile};
use crate::store::Store;

/// What to read. The default is every record, with all fields, in no particular order.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only records that match.
    pub filter: Option<Filter>,
    /// Only these fields; `None` for all.
    pub select: Option<Vec<String>>,
    /// Sort by these fields; missing fields first.
    pub order_by: Vec<OrderBy>,
    /// At most so many records.
    pub limit: Option<u64>,
    /// After leaving out so many.
    pub offset: u64,
}

/// A field to sort by. `id` is the record's id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OrderBy {
    /// The field.
    pub field: String,
    /// From high to low.
    pub descending: bool,
}

/// A record's change in the feed, as a live query sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct FeedChange {
    /// Where in the feed.
    pub seq: Seq,
    /// Which record.
    pub id: RecordId,
    /// What it is now; `None` if it is gone or does not match.
    pub record: Option<Record>,
}

impl FieldResolver for NameTable {
    fn number(&self, name: &str) -> Option<u32> {
        self.field_no(name)
    }
}

impl Store {
    /// The record with this id.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn get(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        self.with_body(id, |body, names| decode(id, body, names, None))
    }

    /// One field of one record, without decoding the others.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn get_field(&self, id: RecordId, field: &str) -> Result<Option<Value>, StoreError> {
        let value = self.with_body(id, |body, names| {
            let raw = names.field_no(field).and_then(|no| blazedb_core::blazebinary::get_field(body, no));
            Ok(raw.map(|raw| raw.decode()).transpose()?)
        })?;
        Ok(value.flatten())
    }

    fn with_body<T>(
        &self,
        id: RecordId,
        read: impl FnOnce(&[u8], &NameTable) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.read_once(|db| {
            let sql = "SELECT body FROM records WHERE id=? AND state=0";
            let mut find = db.prepare_cached(sql).map_err(|error| self.sqlite(error))?;
            let mut rows = find.query([id.as_bytes().as_slice()]).map_err(|error| self.sqlite(error))?;
            let Some(row) = rows.next().map_err(|error| self.sqlite(error))? else { return Ok(None) };
            let body = row.get_ref(0).map_err(|error| self.sqlite(error))?.as_blob().unwrap_or_default();
            read(body, &self.names()).map(Some)
        })
    }

    /// Calls `visit` with every record that the query finds, until it answers false.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn query(&self, query: &Query, mut visit: impl FnMut(Record) -> bool) -> Result<(), StoreError> {
        self.planned("id, body", query, |db, sql, params| {
            let mut names = LateNames::new(self, query.select.as_deref());
            self.each(db, sql, params, |row| {
                let (id, body) = id_and_body(row)?;
                let (names, select) = names.get();
                Ok(visit(decode(id, body, names, select)?))
            })
        })
    }

    /// Runs a query's statement on a read connection. What it says of a field that nobody has used holds only as long as nobody
    /// does: then it is planned inside the snapshot that it reads.
    fn planned<T>(
        &self,
        columns: &str,
        query: &Query,
        run: impl FnOnce(&Connection, &str, &[SqlParam]) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let plan = |names: &NameTable| select_sql(columns, query, names);
        let names = self.names();
        let mut fields = query.filter.iter().flat_map(Filter::fields);
        if fields.all(|name| names.field_no(name).is_some()) {
            let (sql, params) = plan(&names);
            return self.read_once(|db| run(db, &sql, &params));
        }
        self.read(|db| {
            let (sql, params) = plan(&self.names());
            run(db, &sql, &params)
        })
    }

    /// [`Store::query`], and the end of the feed at the moment that it saw.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn query_at(&self, query: &Query, mut visit: impl FnMut(Record) -> bool) -> Result<Seq, StoreError> {
        let head = self.head();
        self.read(|db| {
            let names = self.names().clone();
            let (sql, params) = select_sql("id, body", query, &names);
            self.each(db, &sql, &params, |row| {
                let (id, body) = id_and_body(row)?;
                Ok(visit(decode(id, body, &names, None)?))
            })?;
            let last: Option<Seq> = db
                .query_row("SELECT max(seq) FROM records", [], |row| row.get(0))
                .map_err(|error| self.sqlite(error))?;
            Ok(last.unwrap_or(0).max(head))
        })
    }

    /// How many records match.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn count(&self, filter: Option<&Filter>) -> Result<u64, StoreError> {
        let query = Query { filter: filter.cloned(), ..Query::default() };
        self.planned("count(*)", &query, |db, sql, params| {
            db.prepare_cached(sql)
                .and_then(|mut count| count.query_row(params_from_iter(params), |row| row.get(0)))
                .map_err(|error| self.sqlite(error))
        })
    }

    /// How many records match, and how many bytes they have as they are stored, before names and compression.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn measure(&self, filter: Option<&Filter>) -> Result<(u64, u64), StoreError> {
        let query = Query { filter: filter.cloned(), ..Query::default() };
        let columns = "count(*), coalesce(sum(16+length(body)+length(history)), 0)";
        self.planned(columns, &query, |db, sql, params| {
            db.prepare_cached(sql)
                .and_then(|mut sum| {
                    sum.query_row(params_from_iter(params), |row| Ok((row.get(0)?, row.get(1)?)))
                })
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Every record in order of id, until `visit` answers false.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn export(&self, mut visit: impl FnMut(Record) -> bool) -> Result<(), StoreError> {
        let sql = "SELECT id, body FROM records WHERE state=0 ORDER BY id";
        self.read_once(|db| {
            let mut names = LateNames::new(self, None);
            self.each(db, sql, &[], |row| {
                let (id, body) = id_and_body(row)?;
                Ok(visit(decode(id, body, names.get().0, None)?))
            })
        })
    }

    /// The changes in the feed behind `after`, at most `limit`, each with the record as it is now if it matches.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn changes(
        &self,
        after: Seq,
        limit: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<FeedChange>, StoreError> {
        self.read(|db| {
            let names = self.names();
            let sql = "SELECT id, body, seq, state FROM records WHERE seq>? ORDER BY seq LIMIT ?";
            let params = [SqlParam::Int(clamp(after)), SqlParam::Int(clamp(limit as u64))];
            let mut changes = Vec::new();
            self.each(db, sql, &params, |row| {
                let (id, body) = id_and_body(row)?;
                let (seq, state): (Seq, u8) = (row.get(2)?, row.get(3)?);
                let here = state == ALIVE
                    && filter.is_none_or(|f| stored_matches(f, id, body, &names, now()) == Some(true));
                let record = if here { Some(decode(id, body, &names, None)?) } else { None };
                changes.push(FeedChange { seq, id, record });
                Ok(true)
            })?;
            Ok(changes)
        })
    }

    /// Whether nothing was ever in here, not even a record deleted since.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        self.read(|db| {
            db.query_row("SELECT 1 FROM records UNION ALL SELECT 1 FROM graves LIMIT 1", [], |_| Ok(()))
                .optional()
                .map(|row| row.is_none())
                .map_err(|error| self.sqlite(error))
        })
    }

    /// How many changes in the feed behind `after` a peer does not have yet (0: a peer that was never met).
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn pending(&self, after: Seq, peer_no: u32) -> Result<u64, StoreError> {
        self.read(|db| {
            db.prepare_cached("SELECT count(*) FROM records WHERE seq>?1 AND (origin<>?2 OR ?2=0)")
                .and_then(|mut count| count.query_row([clamp(after), i64::from(peer_no)], |row| row.get(0)))
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Makes filters and sorting by a field fast.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn ensure_index(&self, field: &str) -> Result<(), StoreError> {
        self.commit(|writer| {
            let no = writer.names.intern_own_field(&writer.db, field)?;
            let sql =
                format!("CREATE INDEX IF NOT EXISTS field_{no} ON records(bz(body,{no})) WHERE state=0");
            writer.db.execute_batch(&sql).map_err(|error| self.sqlite(error))
        })
    }

    pub(crate) fn each(
        &self,
        db: &Connection,
        sql: &str,
        params: &[SqlParam],
        mut visit: impl FnMut(&Row<'_>) -> Result<bool, VisitError>,
    ) -> Result<(), StoreError> {
        let mut statement = db.prepare_cached(sql).map_err(|error| self.sqlite(error))?;
        let mut rows = statement.query(params_from_iter(params)).map_err(|error| self.sqlite(error))?;
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            match visit(row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(VisitError::Sqlite(error)) => return Err(self.sqlite(error)),
                Err(VisitError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The names as of the first row, when the statement has its snapshot: never fewer than what its rows use.
struct LateNames<'a> {
    store: &'a Store,
    select: Option<&'a [String]>,
    names: Option<(Arc<NameTable>, Option<Vec<FieldNo>>)>,
}

impl<'a> LateNames<'a> {
    const fn new(store: &'a Store, select: Option<&'a [String]>) -> Self {
        Self { store, select, names: None }
    }

    fn get(&mut self) -> (&NameTable, Option<&[FieldNo]>) {
        let (names, select) = self.names.get_or_insert_with(|| {
            let names = self.store.names();
            let select = self.select.map(|fields| numbers(fields, &names));
            (names, select)
        });
        (names, select.as_deref())
    }
}

/// What stops the visit of rows.
pub(crate) enum VisitError {
    Sqlite(blazedb_sqlite::rusqlite::Error),
    Store(StoreError),
}

impl From<blazedb_sqlite::rusqlite::Error> for VisitError {
    fn from(error: blazedb_sqlite::rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for VisitError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

pub(crate) fn id_and_body<'r>(row: &'r Row<'_>) -> Result<(RecordId, &'r [u8]), VisitError> {
    let id = RecordId::from_bytes(row.get(0)?);
    Ok((id, row.get_ref(1)?.as_blob().unwrap_or_default()))
}

/// As SQLite counts.
pub(crate) fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn numbers(fields: &[String], names: &NameTable) -> Vec<FieldNo> {
    fields.iter().filter_map(|field| names.field_no(field)).collect()
}

pub(crate) fn decode(
    id: RecordId,
    body: &[u8],
    names: &NameTable,
    select: Option<&[FieldNo]>,
) -> Result<Record, StoreError> {
    let wanted = |no| select.is_none_or(|select| select.contains(&no));
    let fields =
        RecordView::parse(body)?.decode(|no| names.field(no).filter(|_| wanted(no)).map(AsRef::as_ref))?;
    Ok(Record { id, fields })
}

/// The rows of `from` that are there and match, as `SELECT columns FROM from WHERE ..`.
pub(crate) fn found_sql(
    columns: &str,
    filter: Option<&Filter>,
    names: &NameTable,
) -> (String, Vec<SqlParam>) {
    let mut sql = format!("SELECT {columns} FROM records WHERE state={ALIVE}");
    let mut params = Vec::new();
    if let Some(filter) = filter {
        let condition = compile(filter, names, now());
        sql.push_str(" AND ");
        sql.push_str(&condition.sql);
        params = condition.params;
    }
    (sql, params)
}

/// What a field is sorted by.
pub(crate) fn sort_key(field: &str, names: &NameTable) -> String {
    match (field, names.field_no(field)) {
        ("id", _) => "id".to_owned(),
        (_, Some(no)) => format!("bz(body,{no})"),
        // A field that no record has sorts nothing.
        (_, None) => "NULL".to_owned(),
    }
}

pub(crate) fn select_sql(columns: &str, query: &Query, names: &NameTable) -> (String, Vec<SqlParam>) {
    let (mut sql, params) = found_sql(columns, query.filter.as_ref(), names);
    for (at, order) in query.order_by.iter().enumerate() {
        sql.push_str(if at == 0 { " ORDER BY " } else { ", " });
        sql.push_str(&sort_key(&order.field, names));
        sql.push_str(if order.descending { " DESC" } else { " ASC" });
    }
    push_limit(&mut sql, query.limit, query.offset);
    (sql, params)
}

pub(crate) fn push_limit(sql: &mut String, limit: Option<u64>, offset: u64) {
    if limit.is_some() || offset > 0 {
        let limit = limit.map_or(-1, clamp);
        sql.push_str(&format!(" LIMIT {limit} OFFSET {}", clamp(offset)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Password, StoreOptions};

    fn plan(store: &Store, filter: &str) -> String {
        let query = Query { filter: Some(Filter::parse(filter).unwrap()), ..Query::default() };
        let (sql, params) = select_sql("id, body", &query, &store.names());
        let read = store.read(|db| {
            let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let lines = explain.query_map(params_from_iter(&params), |row| row.get::<_, String>(3)).unwrap();
            Ok(lines.map(Result::unwrap).collect::<Vec<_>>().join("; "))
        });
        read.unwrap()
    }

    #[test]
    fn a_filter_on_an_indexed_field_uses_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("t"), &Password::Plaintext, StoreOptions::default()).unwrap();
        let fields =
            [("p", Value::Int(1)), ("q", Value::Int(2))].map(|(name, value)| (name.to_owned(), value));
        let id = store.new_id().unwrap();
        store.transaction(|tx| tx.insert(id, &fields.into_iter().collect())).unwrap();
        assert!(plan(&store, "p == 1").contains("SCAN"));
        store.ensure_index("p").unwrap();
        for filter in ["p == 1", "p > 5", "p >= 2 && q == 7", "p == \"text\"", "p in [1, 2]"] {
            let plan = plan(&store, filter);
            assert!(plan.contains("USING INDEX field_"), "{filter}: {plan}");
        }
        assert!(plan(&store, "q == 1").contains("SCAN"));
    }
}
