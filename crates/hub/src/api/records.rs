//! Records: one by one, by filter, all, and as they change.

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blazedb::{Database, FieldEdit, FieldEdits, Fields, LiveEvent, LiveQuery, Record, RecordId};
use blazedb_core::json::{edits_from_json, record_from_json, record_to_json, record_to_json_line};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::{ApiCode, ApiError, parse_filter};
use super::stream::{Form, lines, records};
use super::{Api, blocking, from_body};

/// What to find.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Find {
    filter: Option<String>,
    select: Vec<String>,
    /// Fields, each with `:desc` or `:asc` behind it if wanted.
    order_by: Vec<String>,
    limit: Option<u64>,
    offset: u64,
    count: bool,
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
        Self { filter, select: split(select), order_by: split(order_by), limit, offset, count }
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
    let wanted = if body.is_empty() { Find::default() } else { from_body(&body)? };
    find(api.database(&db)?, wanted, form(&headers)).await
}

fn form(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("ndjson")) { Form::Lines } else { Form::Object }
}

async fn find(database: Database, find: Find, form: Form) -> Result<Response, ApiError> {
    let filter = parse_filter(find.filter.as_deref())?;
    if find.count {
        let counted = blocking(move || {
            let mut query = database.query();
            if let Some(filter) = filter {
                query = query.filter(filter);
            }
            Ok(query.count()?)
        });
        let left = counted.await?.saturating_sub(find.offset);
        return Ok(
            axum::Json(json!({ "count": find.limit.map_or(left, |limit| left.min(limit)) })).into_response()
        );
    }
    records(form, move |sink| {
        let mut query = database.query().offset(find.offset);
        if let Some(filter) = filter {
            query = query.filter(filter);
        }
        if let Some(limit) = find.limit {
            query = query.limit(limit);
        }
        if !find.select.is_empty() {
            query = query.select(find.select);
        }
        for key in find.order_by {
            query = match key.rsplit_once(':') {
                Some((field, "desc")) => query.order_by_desc(field),
                Some((field, "asc")) => query.order_by(field),
                _ => query.order_by(key),
            };
        }
        Ok(query.each(|record| sink.push(|out| record_to_json_line(&record, out)))?)
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
    record.map(|record| one(&record)).ok_or_else(|| ApiError::no_record(&db, id))
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
    blocking(move || Ok(database.delete(id)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn one(record: &Record) -> Response {
    let mut line = String::new();
    record_to_json_line(record, &mut line);
    ([(header::CONTENT_TYPE, Form::Object.content_type())], line).into_response()
}

fn record_id(text: &str) -> Result<RecordId, ApiError> {
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
    let live = blocking(move || {
        let query = database.query();
        Ok(match filter {
            Some(filter) => query.filter(filter).watch(),
            None => query.watch(),
        }?)
    });
    let changes = stream::unfold(Some(live.await?), |live| async move {
        let mut live: LiveQuery = live?;
        match live.next().await {
            Ok(Some(event)) => Some((line(&event), Some(live))),
            Ok(None) => None,
            Err(error) => Some((format!("{}\n", ApiError::from(error).to_json()), None)),
        }
    });
    Ok(lines(Body::from_stream(futures_util::StreamExt::map(changes, Ok::<_, std::convert::Infallible>))))
}

fn line(event: &LiveEvent) -> String {
    let (kind, record) = match event {
        LiveEvent::Added(record) => ("added", record_to_json(record)),
        LiveEvent::Changed(record) => ("changed", record_to_json(record)),
        LiveEvent::Removed(id) => ("removed", json!({ "id": id.to_string() })),
    };
    format!("{}\n", json!({ "kind": kind, "record": record }))
}
