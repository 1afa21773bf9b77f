//! Queries beyond a list of records: groups, pages, plans, nearest vectors; and changes of all that matches.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use blazedb::{Cursor, Database, FieldEdit, Measure, Metric, Question, RecordId, Wanted};
use blazedb_core::json::{edits_from_json, record_to_json, value_to_json};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::error::{ApiCode, ApiError, parse_filter};
use super::records::{Find, Parameters, form, new_record, parameters, record_id, split_key};
use super::remote::{answer, sort_keys};
use super::stream::{Form, records};
use super::{Api, blocking, from_body};

/// What to group and measure.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Groups {
    filter: Option<String>,
    group_by: Vec<String>,
    /// `count`, `sum:FIELD` and so on.
    measures: Vec<String>,
    having: Option<String>,
    order_by: Vec<String>,
    limit: Option<u64>,
    offset: u64,
    /// Ask the other side.
    remote: bool,
}

impl Groups {
    fn question(self) -> Question {
        let Self { filter, group_by, measures, having, order_by, limit, offset, .. } = self;
        let order_by = sort_keys(&order_by);
        Question { filter, limit, offset, wanted: Wanted::Groups { group_by, measures, having, order_by } }
    }
}

pub(super) async fn aggregate(
    State(api): State<Api>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let wanted: Groups = from_body(&body)?;
    if wanted.remote {
        return answer(&api, &db, wanted.question(), &headers).await;
    }
    records(form(&headers), move |sink| {
        let find = Find::matching(wanted.filter);
        let mut groups = find.query(&database)?.group_by(wanted.group_by).offset(wanted.offset);
        for measure in &wanted.measures {
            groups = groups.measure(measure.parse::<Measure>().map_err(blazedb::StoreError::from)?);
        }
        if let Some(having) = parse_filter(wanted.having.as_deref())? {
            groups = groups.having(having);
        }
        for key in &wanted.order_by {
            groups = match split_key(key) {
                (column, true) => groups.order_by_desc(column),
                (column, false) => groups.order_by(column),
            };
        }
        if let Some(limit) = wanted.limit {
            groups = groups.limit(limit);
        }
        Ok(groups.each(|row| {
            let row: Map<String, Json> =
                row.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect();
            sink.push(|out| out.push_str(&Json::Object(row).to_string()))
        })?)
    })
    .await
}

/// A page of what a query finds.
#[derive(Debug, Deserialize)]
struct Turn {
    after: Option<String>,
    #[serde(flatten)]
    find: Json,
}

pub(super) async fn page(
    State(api): State<Api>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let Turn { after, find } = from_body(&body)?;
    let find: Find = from_body(&find.to_string().into())?;
    let page = blocking(move || {
        let after =
            after.map(|text| text.parse::<Cursor>()).transpose().map_err(blazedb::StoreError::from)?;
        Ok(find.query(&database)?.page(after.as_ref())?)
    });
    let page = page.await?;
    let next = page.next.map(|cursor| cursor.to_string());
    if form(&headers) == Form::Object {
        let records: Vec<Json> = page.records.iter().map(record_to_json).collect();
        return Ok(axum::Json(json!({ "records": records, "next": next })).into_response());
    }
    records(Form::Lines, move |sink| {
        for line in page.records.iter().map(record_to_json).chain([json!({ "next": next })]) {
            sink.push(|out| out.push_str(&line.to_string()));
        }
        Ok(())
    })
    .await
}

pub(super) async fn explain(
    State(api): State<Api>,
    Path(db): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (database, find): (Database, Find) = (api.database(&db)?, from_body(&body)?);
    let plan = blocking(move || Ok(find.query(&database)?.explain()?)).await?;
    let said = json!({ "indexes": plan.indexes, "scan": plan.scan, "sort": plan.sort, "steps": plan.steps });
    Ok(axum::Json(said).into_response())
}

/// What to be near to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Near {
    field: String,
    vector: Vec<f32>,
    #[serde(default)]
    metric: Option<String>,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    limit: Option<u64>,
}

/// Records that are found if nobody says how many.
const NEAREST: u64 = 10;

pub(super) async fn nearest(
    State(api): State<Api>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (database, near): (Database, Near) = (api.database(&db)?, from_body(&body)?);
    records(form(&headers), move |sink| {
        let metric = match near.metric.as_deref() {
            None => Metric::default(),
            Some(word) => Metric::from_word(word).ok_or_else(|| {
                ApiError::new(ApiCode::Invalid, format!("unknown metric {word:?}"))
                    .with_hint("metrics are cosine, dot, l2")
            })?,
        };
        let find = Find::matching(near.filter);
        let limit = near.limit.unwrap_or(NEAREST);
        for (record, score) in find.query(&database)?.nearest(&near.field, &near.vector, metric, limit)? {
            let found = json!({ "record": record_to_json(&record), "score": score });
            if !sink.push(|out| out.push_str(&found.to_string())) {
                break;
            }
        }
        Ok(())
    })
    .await
}

/// What to search for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    text: String,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    limit: Option<u64>,
    #[serde(default)]
    offset: u64,
    /// Ask the other side.
    #[serde(default)]
    remote: bool,
}

pub(super) async fn search(
    State(api): State<Api>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (database, words): (Database, Words) = (api.database(&db)?, from_body(&body)?);
    if words.remote {
        let Words { text, filter, limit, offset, .. } = words;
        let question = Question { filter, limit, offset, wanted: Wanted::Search { text } };
        return answer(&api, &db, question, &headers).await;
    }
    records(form(&headers), move |sink| {
        let mut search = database.search(words.text).offset(words.offset);
        if let Some(filter) = parse_filter(words.filter.as_deref())? {
            search = search.filter(filter);
        }
        if let Some(limit) = words.limit {
            search = search.limit(limit);
        }
        Ok(search.each(|hit| {
            let found =
                json!({ "record": record_to_json(&hit.record), "score": hit.score, "snippet": hit.snippet });
            sink.push(|out| out.push_str(&found.to_string()))
        })?)
    })
    .await
}

/// The filter that a change of many must name.
fn every(options: Parameters<Vec<(String, String)>>) -> Result<(Find, Vec<String>), ApiError> {
    let (mut find, mut unset) = (Find::default(), Vec::new());
    for (key, value) in parameters(options)? {
        match key.as_str() {
            "filter" => find.filter = Some(value),
            "unset" => unset.push(value),
            _ => return Err(ApiError::new(ApiCode::Usage, format!("unknown parameter {key:?}"))),
        }
    }
    if find.filter.is_none() {
        return Err(ApiError::new(ApiCode::Usage, "a filter is needed to change many records")
            .with_hint("`true` matches every record"));
    }
    Ok((find, unset))
}

pub(super) async fn update_all(
    State(api): State<Api>,
    Path(db): Path<String>,
    options: Parameters<Vec<(String, String)>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let (find, unset) = every(options)?;
    let changed = blocking(move || {
        let mut edits =
            if body.is_empty() { blazedb::FieldEdits::new() } else { edits_from_json(from_body(&body)?)? };
        edits.extend(unset.into_iter().map(|field| (field, FieldEdit::Unset)));
        Ok(find.query(&database)?.update(&edits)?)
    });
    Ok(axum::Json(json!({ "changed": changed.await? })).into_response())
}

pub(super) async fn delete_all(
    State(api): State<Api>,
    Path(db): Path<String>,
    options: Parameters<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let (find, _) = every(options)?;
    let deleted = blocking(move || Ok(find.query(&database)?.delete()?)).await?;
    Ok(axum::Json(json!({ "deleted": deleted })).into_response())
}

pub(super) async fn upsert(
    State(api): State<Api>,
    Path((db, id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (database, id): (Database, RecordId) = (api.database(&db)?, record_id(&id)?);
    let inserted = blocking(move || {
        let (named, fields) = new_record(from_body(&body)?)?;
        if named.is_some_and(|named| named != id) {
            return Err(ApiError::new(ApiCode::Invalid, "the record names another id than the address"));
        }
        Ok(database.upsert(id, fields)?)
    });
    let inserted = inserted.await?;
    let status = if inserted { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(json!({ "id": id.to_string(), "inserted": inserted }))).into_response())
}
