//! Joins of two databases of this node.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use blazedb::{Database, JoinBuilder, JoinChange, JoinedRow, LiveJoin};
use blazedb_core::json::record_to_json;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::error::{ApiCode, ApiError, parse_filter};
use super::records::{form, split_key};
use super::stream::{lines, records};
use super::{Api, blocking, from_body};

/// What to join.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Joining {
    left: String,
    right: String,
    /// What the right one is called, if not by its own name.
    #[serde(default, rename = "as")]
    alias: Option<String>,
    /// The two fields.
    on: (String, String),
    /// Also left records without a right one.
    #[serde(default)]
    outer: bool,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    select: Vec<String>,
    #[serde(default)]
    order_by: Vec<String>,
    #[serde(default)]
    limit: Option<u64>,
    #[serde(default)]
    offset: u64,
}

impl Joining {
    fn names(&self) -> Result<(String, String), ApiError> {
        let right = self.alias.clone().unwrap_or_else(|| self.right.clone());
        if right == self.left {
            let problem = format!("both sides of the join are called {right}");
            return Err(
                ApiError::new(ApiCode::Usage, problem).with_hint("give the right one another name with `as`")
            );
        }
        Ok((self.left.clone(), right))
    }

    fn join<'a>(self, left: &'a Database, right: &'a Database) -> Result<JoinBuilder<'a>, ApiError> {
        let names = self.names()?;
        let mut join = left.join(right).on(self.on.0, self.on.1).names(names.0, names.1).offset(self.offset);
        if self.outer {
            join = join.left();
        }
        if let Some(filter) = parse_filter(self.filter.as_deref())? {
            join = join.filter(filter);
        }
        if !self.select.is_empty() {
            join = join.select(self.select);
        }
        for key in &self.order_by {
            join = match split_key(key) {
                (field, true) => join.order_by_desc(field),
                (field, false) => join.order_by(field),
            };
        }
        Ok(match self.limit {
            Some(limit) => join.limit(limit),
            None => join,
        })
    }
}

fn asked(api: &Api, body: &Bytes) -> Result<(Database, Database, Joining, (String, String)), ApiError> {
    let joining: Joining = from_body(body)?;
    let names = joining.names()?;
    Ok((api.database(&joining.left)?, api.database(&joining.right)?, joining, names))
}

pub(super) async fn join(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (left, right, joining, names) = asked(&api, &body)?;
    records(form(&headers), move |sink| {
        let join = joining.join(&left, &right)?;
        Ok(join.each(|row| sink.push(|out| out.push_str(&pair(&row, &names).to_string())))?)
    })
    .await
}

pub(super) async fn explain(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let (left, right, joining, _) = asked(&api, &body)?;
    let plan = blocking(move || Ok(joining.join(&left, &right)?.explain()?)).await?;
    let said = json!({ "indexes": plan.indexes, "scan": plan.scan, "sort": plan.sort, "steps": plan.steps });
    Ok(axum::Json(said).into_response())
}

pub(super) async fn watch(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let (left, right, joining, names) = asked(&api, &body)?;
    let live = blocking(move || Ok(joining.join(&left, &right)?.watch()?)).await?;
    let changes = stream::unfold(Some(live), move |live| {
        let names = names.clone();
        async move {
            let mut live: LiveJoin = live?;
            match live.next().await {
                Ok(Some(change)) => Some((line(&change, &names), Some(live))),
                Ok(None) => None,
                Err(error) => Some((format!("{}\n", ApiError::from(error).to_json()), None)),
            }
        }
    });
    Ok(lines(Body::from_stream(futures_util::StreamExt::map(changes, Ok::<_, std::convert::Infallible>))))
}

fn line(change: &JoinChange, names: &(String, String)) -> String {
    let (kind, pair) = match change {
        JoinChange::Added(row) => ("added", pair(row, names)),
        JoinChange::Changed(row) => ("changed", pair(row, names)),
        JoinChange::Removed(left, right) => {
            let id = |id: &blazedb::RecordId| json!({ "id": id.to_string() });
            ("removed", sides(id(left), right.as_ref().map(id), names))
        }
    };
    format!("{}\n", json!({ "kind": kind, "pair": pair }))
}

fn pair(row: &JoinedRow, names: &(String, String)) -> Json {
    sides(record_to_json(&row.left), row.right.as_ref().map(record_to_json), names)
}

fn sides(left: Json, right: Option<Json>, names: &(String, String)) -> Json {
    let pair = [(names.0.clone(), left), (names.1.clone(), right.unwrap_or_default())];
    Json::Object(Map::from_iter(pair))
}
