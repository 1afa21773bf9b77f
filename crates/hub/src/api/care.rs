//! Care of databases: verify, back up, what lost a conflict, memory.

use std::path::PathBuf;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use blazedb::{Conflict, Stamp};
use blazedb_core::json::value_to_json;
use blazedb_core::merge::ConflictKind;
use blazedb_core::seal::is_sealed_name;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::{ApiCode, ApiError};
use super::stream::{Form, records};
use super::{Api, blocking, from_body};

pub(super) async fn verify(State(api): State<Api>, Path(db): Path<String>) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let verified = blocking(move || Ok(database.verify()?)).await?;
    let tombstones = verified.tombstones;
    let counts = json!({
        "rows": verified.rows, "tombstones": tombstones.kept, "tombstones_dropped": tombstones.dropped,
        "problems": verified.problems,
    });
    Ok(axum::Json(counts).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    path: PathBuf,
}

pub(super) async fn backup(
    State(api): State<Api>,
    Path(db): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let Backup { path } = from_body(&body)?;
    if !path.is_absolute() {
        return Err(ApiError::new(ApiCode::Usage, "path: must be absolute"));
    }
    blocking(move || Ok(database.backup(&path)?)).await?;
    Ok(axum::Json(json!({})).into_response())
}

pub(super) async fn release(State(api): State<Api>) -> Result<Response, ApiError> {
    blocking(move || {
        api.node.databases().into_iter().for_each(|(_, database)| database.release_memory());
        Ok(())
    })
    .await?;
    Ok(axum::Json(json!({})).into_response())
}

pub(super) async fn conflicts(State(api): State<Api>, Path(db): Path<String>) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    records(Form::Lines, move |sink| {
        for conflict in database.conflicts()? {
            if !sink.push(|out| out.push_str(&conflict_json(&conflict).to_string())) {
                break;
            }
        }
        Ok(())
    })
    .await
}

pub(super) fn conflict_json(conflict: &Conflict) -> Json {
    let kind = match conflict.kind {
        ConflictKind::Overwritten => "overwritten",
        ConflictKind::Deleted => "deleted",
        ConflictKind::Outlived => "outlived",
        ConflictKind::Decided => "decided",
    };
    json!({
        "id": conflict.id.to_string(),
        "field": conflict.field,
        "sealed": is_sealed_name(&conflict.field),
        "value": conflict.value.as_ref().map(value_to_json),
        "kind": kind,
        "written": stamp_json(conflict.stamp),
        "winner": stamp_json(conflict.winner),
        "found_at": conflict.at_ms,
    })
}

pub(super) fn stamp_json(stamp: Stamp) -> Json {
    json!({ "at": stamp.time.millis(), "counter": stamp.time.counter(), "replica": stamp.writer.to_string() })
}
