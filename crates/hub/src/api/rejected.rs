//! What an authority refused: list, retry, drop.

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use blazedb::Rejected;
use blazedb_core::json::record_to_json;
use serde_json::{Value as Json, json};

use super::error::ApiError;
use super::records::record_id;
use super::stream::{Form, records};
use super::{Api, blocking};

pub(super) async fn list(State(api): State<Api>, Path(db): Path<String>) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    records(Form::Lines, move |sink| {
        for rejected in database.rejected()? {
            if !sink.push(|out| out.push_str(&rejected_json(&rejected).to_string())) {
                break;
            }
        }
        Ok(())
    })
    .await
}

pub(super) async fn retry(
    State(api): State<Api>,
    Path((db, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (database, id) = (api.database(&db)?, record_id(&id)?);
    let retried = blocking(move || Ok(database.retry_rejected(id)?)).await?;
    Ok(axum::Json(json!({ "retried": retried })).into_response())
}

pub(super) async fn forget(
    State(api): State<Api>,
    Path((db, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (database, id) = (api.database(&db)?, record_id(&id)?);
    let dropped = blocking(move || Ok(database.drop_rejected(id)?)).await?;
    Ok(axum::Json(json!({ "dropped": dropped })).into_response())
}

fn rejected_json(rejected: &Rejected) -> Json {
    let mut line = json!({
        "id": rejected.record.id.to_string(),
        "op": rejected.operation.as_str(),
        "reason": rejected.reason,
        "record": record_to_json(&rejected.record),
        "at": rejected.at_ms,
    });
    if let (false, Some(line)) = (rejected.unset.is_empty(), line.as_object_mut()) {
        line.insert("unset".to_owned(), rejected.unset.clone().into());
    }
    line
}
