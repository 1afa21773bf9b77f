//! Questions that the other side of a database's link is asked, in the words of those about this side.

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use blazedb::{AskCode, AskError, Question, RemoteDatabase, Row, SortKey, SyncMode, TopologyError, Wanted};
use blazedb_core::json::{record_to_json, record_to_json_line, value_to_json};
use blazedb_transport::ws::ConnectError;
use serde_json::{Map, Value as Json, json};

use super::Api;
use super::error::{ApiCode, ApiError};
use super::records::{form, split_key};
use super::stream::records;
use crate::node::Node;
use crate::terms::terms;

/// Asks the other side, and answers as if it were this one.
pub(super) async fn answer(
    api: &Api,
    db: &str,
    question: Question,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    api.database(db)?;
    let counts = question.wanted == Wanted::Count;
    let mut rows = remote_of(&api.node, db)?.ask(question).await?;
    if counts {
        let Some(Row::Count(count)) = rows.next().await? else {
            return Err(ApiError::new(
                ApiCode::Failed,
                format!("database {db}: the other side did not count"),
            ));
        };
        return Ok(axum::Json(json!({ "count": count })).into_response());
    }
    let runtime = tokio::runtime::Handle::current();
    records(form(headers), move |sink| {
        while let Some(row) = runtime.block_on(rows.next())? {
            if !sink.push(|out| write_row(&row, out)) {
                break;
            }
        }
        Ok(())
    })
    .await
}

/// Fields to sort by, each with `:desc` or `:asc` behind it if wanted.
pub(super) fn sort_keys(keys: &[String]) -> Vec<SortKey> {
    let key = |key: &String| {
        let (field, descending) = split_key(key);
        SortKey { field: field.to_owned(), descending }
    };
    keys.iter().map(key).collect()
}

fn write_row(row: &Row, out: &mut String) {
    let line = match row {
        Row::Record(record) => return record_to_json_line(record, out),
        Row::Count(count) => json!({ "count": count }),
        Row::Group(group) => {
            let columns: Map<String, Json> =
                group.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect();
            Json::Object(columns)
        }
        Row::Hit { record, score, snippet } => {
            json!({ "record": record_to_json(record), "score": score, "snippet": snippet })
        }
    };
    out.push_str(&line.to_string());
}

/// The other side of a database's link, whether or not links are up in this process.
fn remote_of(node: &Node, db: &str) -> Result<RemoteDatabase, ApiError> {
    let nobody = || {
        ApiError::new(ApiCode::Usage, TopologyError::NobodyToAsk(db.to_owned()).to_string())
            .with_hint("it needs a link in the topology file, such as `hub = \"ws://..\"`")
    };
    let (registered, declared) = {
        let state = node.state();
        let registered = state.databases.get(db).map(|(registered, _)| *registered);
        let declared = state.actual.databases.iter().find(|(name, _)| name.as_str() == db);
        (registered, declared.map(|(_, database)| database.links.clone()).unwrap_or_default())
    };
    let registered = registered.ok_or_else(nobody)?;
    if let Ok(remote) = node.topology().remote(registered) {
        return Ok(remote);
    }
    let link = declared.iter().find(|link| link.mode != SyncMode::LocalOnly).ok_or_else(nobody)?;
    let (remote, policy) = terms(db, link)?;
    let remote = node.topology().remote_at(&registered, remote, &policy);
    remote.map_err(|error| ApiError::new(ApiCode::Config, error.to_string()))
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let code = match &error {
            AskError::Connect(error) => match **error {
                ConnectError::KeyChanged { .. } => ApiCode::Unauthenticated,
                ConnectError::Refused { status: 404, .. } => ApiCode::NotFound,
                ConnectError::Refused { status: 400..=499, .. } => ApiCode::Forbidden,
                ConnectError::Name(_) | ConnectError::Pins(_) => ApiCode::Config,
                ConnectError::TimedOut { .. } => ApiCode::Timeout,
                _ => ApiCode::Unreachable,
            },
            AskError::Token(_) => ApiCode::Unauthenticated,
            AskError::Sealed { .. } | AskError::Filter(_) => ApiCode::Invalid,
            AskError::Refused { code, .. } => match code {
                AskCode::Invalid => ApiCode::Invalid,
                AskCode::Unauthenticated => ApiCode::Unauthenticated,
                AskCode::Forbidden => ApiCode::Forbidden,
                AskCode::TooSlow | AskCode::Busy => ApiCode::Timeout,
                _ => ApiCode::Failed,
            },
            AskError::Silent { .. } => ApiCode::Timeout,
            _ => ApiCode::Unreachable,
        };
        Self::new(code, error.to_string())
    }
}
