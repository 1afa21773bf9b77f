//! Records: one by one, by filter, all, and as they change.

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blazedb::{
    Database, FieldEdit, FieldEdits, Fields, Filter, LiveEvent, LiveQuery, QueryBuilder, Question, Record,
    RecordId, StoreError, Wanted,
};
use blazedb_core::json::{edits_from_json, record_from_json, record_to_json, record_to_json_line};
use blazedb_core::view::RemovalReason;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::{ApiCode, ApiError, parse_filter};
use super::remote::{answer, sort_keys};
use super::stream::{Audience, Form, lines, records, records_for};
use super::{Api, blocking, from_body};

/// What to find.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Find {
    pub(super) filter: Option<String>,
    select: Vec<String>,
    /// Fields, each with `:desc` or `:asc` behind it if wanted.
    order_by: Vec<String>,
    limit: Option<u64>,
    offset: u64,
    count: bool,
    /// Ask the other side.
    remote: bool,
    /// What whoever asks may read; `None` for everything.
    #[serde(skip)]
    granted: Option<Filter>,
    /// Who asks.
    #[serde(skip)]
    audience: Audience,
}

impl Find {
    /// All that matches.
    pub(super) fn matching(filter: Option<String>) -> Self {
        Self { filter, ..Self::default() }
    }

    /// The same for a user, of what may be read; `None` for everything.
    pub(super) fn granted(self, granted: Option<Filter>) -> Self {
        Self { granted, audience: Audience::User, ..self }
    }

    /// What the other side is asked.
    fn question(self) -> Question {
        let Self { filter, select, order_by, limit, offset, .. } = self;
        let records = Wanted::Records { select, order_by: sort_keys(&order_by) };
        Question { filter, limit, offset, wanted: if self.count { Wanted::Count } else { records } }
    }

    /// Refuses to ask the other side, where that is not offered.
    fn only_here(&self) -> Result<(), ApiError> {
        if self.remote {
            return Err(ApiError::new(ApiCode::Usage, "the other side can't be asked for this"));
        }
        Ok(())
    }

    /// The query over `database`.
    pub(super) fn query(self, database: &Database) -> Result<QueryBuilder<'_>, ApiError> {
        self.only_here()?;
        let mut query = database.query().offset(self.offset);
        if let Some(granted) = self.granted {
            query = query.filter(granted);
        }
        if let Some(filter) = parse_filter(self.filter.as_deref())? {
            query = query.filter(filter);
        }
        if let Some(limit) = self.limit {
            query = query.limit(limit);
        }
        if !self.select.is_empty() {
            query = query.select(self.select);
        }
        for key in self.order_by {
            query = match split_key(&key) {
                (field, true) => query.order_by_desc(field),
                (field, false) => query.order_by(field),
            };
        }
        Ok(query)
    }
}

/// A field to sort by, and whether from high to low.
pub(super) fn split_key(key: &str) -> (&str, bool) {
    match key.rsplit_once(':') {
        Some((field, "desc")) => (field, true),
        Some((field, "asc")) => (field, false),
        _ => (key, false),
    }
}

/// The same in an address.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FindParameters {
    filter: Option<String>,
    select: Option<String>,
    order_by: Option<String>,
    limit: Option<u64>,
    offset: u64,
    count: bool,
}

impl From<FindParameters> for Find {
    fn from(parameters: FindParameters) -> Self {
        let FindParameters { filter, select, order_by, limit, offset, count } = parameters;
        let split = |list: Option<String>| -> Vec<String> {
            list.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect()
        };
        let (select, order_by) = (split(select), split(order_by));
        Self {
            filter,
            select,
            order_by,
            limit,
            offset,
            count,
            remote: false,
            granted: None,
            audience: Audience::Admin,
        }
    }
}

pub(super) type Parameters<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

pub(super) fn parameters<T>(parameters: Parameters<T>) -> Result<T, ApiError> {
    let Query(found) = parameters.map_err(|error| ApiError::new(ApiCode::Usage, error.body_text()))?;
    Ok(found)
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(db): Path<String>,
    found: Parameters<FindParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    find(api.database(&db)?, parameters(found)?.into(), form(&headers)).await
}

pub(super) async fn query(
    State(api): State<Api>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let wanted: Find = if body.is_empty() { Find::default() } else { from_body(&body)? };
    if wanted.remote {
        return answer(&api, &db, wanted.question(), &headers).await;
    }
    find(api.database(&db)?, wanted, form(&headers)).await
}

pub(super) fn form(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("ndjson")) { Form::Lines } else { Form::Object }
}

pub(super) async fn find(database: Database, find: Find, form: Form) -> Result<Response, ApiError> {
    if find.count {
        let (limit, offset) = (find.limit, find.offset);
        let counted = blocking(move || Ok(find.query(&database)?.count()?));
        let left = counted.await?.saturating_sub(offset);
        return Ok(
            axum::Json(json!({ "count": limit.map_or(left, |limit| left.min(limit)) })).into_response()
        );
    }
    records_for(find.audience, form, move |sink| {
        Ok(find.query(&database)?.each(|record| sink.push(|out| record_to_json_line(&record, out)))?)
    })
    .await
}

pub(super) async fn export(State(api): State<Api>, Path(db): Path<String>) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    records(Form::Lines, move |sink| {
        Ok(database.store().export(|record| sink.push(|out| record_to_json_line(&record, out)))?)
    })
    .await
}

pub(super) async fn insert(
    State(api): State<Api>,
    Path(db): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let id = blocking(move || {
        let (id, fields) = new_record(from_body(&body)?)?;
        match id {
            Some(id) => database.insert_with_id(id, fields).map(|()| id),
            None => database.insert(fields),
        }
        .map_err(ApiError::from)
    });
    let id = id.await?;
    Ok((StatusCode::CREATED, axum::Json(json!({ "id": id.to_string() }))).into_response())
}

/// The id, if it brings one, and the fields of a record to insert.
pub(super) fn new_record(json: Json) -> Result<(Option<RecordId>, Fields), ApiError> {
    let (id, edits) = record_from_json(json)?;
    Ok((id, only_values(edits)?))
}

/// The fields of edits that only write.
pub(super) fn only_values(edits: FieldEdits) -> Result<Fields, ApiError> {
    let value = |(name, edit)| match edit {
        FieldEdit::Set(value) => Ok((name, value)),
        _ => Err(ApiError::new(ApiCode::Invalid, format!("{name}: there is nothing to change yet"))
            .with_hint("start a counter with {\"$counter\": 1}, a set with {\"$set\": [..]}")),
    };
    edits.into_iter().map(value).collect()
}

pub(super) async fn read(
    State(api): State<Api>,
    Path((db, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (database, id) = (api.database(&db)?, record_id(&id)?);
    let record = blocking(move || Ok(database.get(id)?)).await?;
    match record {
        Some(record) => Ok(one(&record)),
        None => Err(missing(&api, &db, id).await),
    }
}

/// That there is no such record, and why if the other side of a link took it away.
async fn missing(api: &Api, db: &str, id: RecordId) -> ApiError {
    let none = ApiError::no_record(db, id);
    let Ok(database) = api.database(db) else { return none };
    match blocking(move || Ok(database.store().why_removed(id)?)).await {
        Ok(Some(reason)) => none.with_hint(format!("it was taken away from this node: {}", reason.as_str())),
        _ => none,
    }
}

pub(super) async fn update(
    State(api): State<Api>,
    Path((db, id)): Path<(String, String)>,
    options: Parameters<Vec<(String, String)>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (database, id) = (api.database(&db)?, record_id(&id)?);
    let options = parameters(options)?;
    let changed = blocking(move || {
        let mut edits = if body.is_empty() { FieldEdits::new() } else { edits_from_json(from_body(&body)?)? };
        for (key, field) in options {
            if key != "unset" {
                return Err(ApiError::new(ApiCode::Usage, format!("unknown parameter {key:?}")));
            }
            if edits.insert(field.clone(), FieldEdit::Unset).is_some() {
                return Err(ApiError::new(
                    ApiCode::Invalid,
                    format!("{field}: can't be both written and removed"),
                ));
            }
        }
        database.edit(id, &edits)?;
        Ok(database.get(id)?)
    });
    changed.await?.map(|record| one(&record)).ok_or_else(|| ApiError::no_record(&db, id))
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path((db, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (database, id) = (api.database(&db)?, record_id(&id)?);
    let deleted = blocking(move || match database.delete(id) {
        Err(StoreError::NoRecord(_)) => Ok(false),
        done => Ok(done.map(|()| true)?),
    });
    if deleted.await? { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::no_record(&db, id)) }
}

pub(super) fn one(record: &Record) -> Response {
    let mut line = String::new();
    record_to_json_line(record, &mut line);
    ([(header::CONTENT_TYPE, Form::Object.content_type())], line).into_response()
}

pub(super) fn record_id(text: &str) -> Result<RecordId, ApiError> {
    text.parse().map_err(|error| ApiError::new(ApiCode::Invalid, format!("record id {text:?}: {error}")))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WatchParameters {
    filter: Option<String>,
}

pub(super) async fn watch(
    State(api): State<Api>,
    Path(db): Path<String>,
    options: Parameters<WatchParameters>,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let filter = parse_filter(parameters(options)?.filter.as_deref())?;
    let queried = database.clone();
    let live = blocking(move || {
        let query = queried.query();
        Ok(match filter {
            Some(filter) => query.filter(filter).watch(),
            None => query.watch(),
        }?)
    });
    let live = live.await?;
    let changes = stream::unfold(Some((live, database)), |live| async move {
        let (mut live, database): (LiveQuery, Database) = live?;
        match live.next().await {
            Ok(Some(event)) => Some((line(&event, &database), Some((live, database)))),
            Ok(None) => None,
            Err(error) => Some((format!("{}\n", ApiError::from(error).to_json()), None)),
        }
    });
    Ok(lines(Body::from_stream(futures_util::StreamExt::map(changes, Ok::<_, std::convert::Infallible>))))
}

fn line(event: &LiveEvent, database: &Database) -> String {
    let json = match event {
        LiveEvent::Added(record) => json!({ "kind": "added", "record": record_to_json(record) }),
        LiveEvent::Changed(record) => json!({ "kind": "changed", "record": record_to_json(record) }),
        LiveEvent::Removed(id) => {
            let reason = why_gone(database, *id);
            json!({ "kind": "removed", "record": { "id": id.to_string() }, "reason": reason })
        }
    };
    format!("{json}\n")
}

/// Why a record is not among what a query finds any more, as it is now: `deleted`, `no_match`, or why the other side of
/// a link took it away.
fn why_gone(database: &Database, id: RecordId) -> Option<&'static str> {
    Some(match database.store().trace(id).ok()?? {
        trace if trace.alive => "no_match",
        trace => trace.removed.map_or("deleted", RemovalReason::word),
    })
}
