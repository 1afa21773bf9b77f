//! What a node has and does: databases, links, and whether they are caught up.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use blazedb::{LinkState, LinkStatus, SyncMode};
use blazedb_core::topology::{self, DatabaseSpec, LinkTarget, TopologySpec};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::error::{ApiCode, ApiError};
use super::records::{Parameters, parameters};
use super::{Api, blocking};
use crate::node::{Node, OpenMode};

/// How long a refusal may be an old one, in milliseconds: links are told to try again first.
const SECOND_CHANCE: Duration = Duration::from_millis(1_500);

pub(super) async fn health(State(api): State<Api>) -> Response {
    axum::Json(json!({ "status": "ok", "node": api.node.spec().node.name })).into_response()
}

pub(super) async fn databases(State(api): State<Api>) -> Result<Response, ApiError> {
    Ok(axum::Json(json!({ "databases": open_databases(&api).await? })).into_response())
}

pub(super) async fn status(State(api): State<Api>) -> Result<Response, ApiError> {
    let databases = open_databases(&api).await?;
    let node = &api.node;
    let links: Vec<Json> = blocking_links(&api).await?.iter().map(link_json).collect();
    let name = &node.spec().node.name;
    let sessions = node.listener().map(|listener| {
        let stats = listener.stats();
        json!({ "open": stats.open(), "accepted": stats.accepted(), "refused": stats.refused() })
    });
    let status = json!({
        "node": {
            "name": name,
            "state": "running",
            "fingerprint": node.topology().identity().fingerprint().to_string(),
            "listen": node.listener().map(|listener| listener.address().to_string()),
            "sessions": sessions,
        },
        "databases": databases,
        "links": links,
    });
    Ok(axum::Json(status).into_response())
}

async fn open_databases(api: &Api) -> Result<Vec<Json>, ApiError> {
    let node = std::sync::Arc::clone(&api.node);
    blocking(move || {
        let describe = |(name, database): (&str, &blazedb::Database)| {
            let mut described = declared(&node, name);
            if let Some(object) = described.as_object_mut() {
                object.insert("name".to_owned(), name.into());
                object.insert("state".to_owned(), "open".into());
                object.insert("replica".to_owned(), database.store().replica().to_string().into());
                object.insert("head".to_owned(), database.store().head().into());
                object.insert("records".to_owned(), database.query().count()?.into());
            }
            Ok(described)
        };
        node.databases().map(describe).collect()
    })
    .await
}

fn declared(node: &Node, name: &str) -> Json {
    let spec = node.spec().databases.iter().find(|(declared, _)| declared.as_str() == name);
    spec.map_or_else(|| json!({}), |(_, spec)| declared_json(spec))
}

fn declared_json(spec: &DatabaseSpec) -> Json {
    json!({
        "file": spec.file.display().to_string(),
        "pattern": spec.sync.pattern.kind().as_str(),
        "mode": spec.sync.mode.as_str(),
        "serve": spec.serve.as_str(),
    })
}

/// The status of a node that is not running, from its topology file alone.
#[must_use]
pub fn declared_status(spec: &TopologySpec) -> Json {
    let databases: Vec<Json> = spec
        .databases
        .iter()
        .map(|(name, spec)| {
            let mut described = declared_json(spec);
            if let Some(object) = described.as_object_mut() {
                object.insert("name".to_owned(), name.to_string().into());
                object.insert("state".to_owned(), "stopped".into());
            }
            described
        })
        .collect();
    let links = spec.databases.iter().flat_map(|(name, spec)| {
        let links = topology::expand(spec).unwrap_or_default();
        links.into_iter().map(move |link| {
            let remote = match &link.target {
                LinkTarget::Address(endpoint) => endpoint.to_string(),
                LinkTarget::Nearest { edges, .. } => {
                    edges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
                }
            };
            json!({
                "database": name.to_string(), "remote": remote, "remote_database": link.remote.to_string(),
                "mode": link.mode.as_str(), "pattern": link.pattern.as_str(), "state": "stopped",
                "caught_up": false, "pending": null, "lag_ms": null, "error": null,
            })
        })
    });
    json!({
        "node": { "name": spec.node.name, "state": "stopped" },
        "databases": databases,
        "links": links.collect::<Vec<_>>(),
    })
}

async fn blocking_links(api: &Api) -> Result<Vec<LinkStatus>, ApiError> {
    let node = std::sync::Arc::clone(&api.node);
    blocking(move || Ok(node.links().into_iter().map(|(_, status)| status).collect())).await
}

fn link_json(link: &LinkStatus) -> Json {
    let error = link.error.as_ref().map(
        |error| json!({ "message": error.message, "temporary": error.temporary, "refused": error.refused }),
    );
    let traffic = link.traffic;
    json!({
        "database": link.database,
        "remote": link.remote,
        "remote_database": link.remote_database,
        "mode": link.mode.as_str(),
        "pattern": link.pattern,
        "state": link.state.as_str(),
        "granted": link.granted.map(|granted| json!({ "push": granted.push, "pull": granted.pull })),
        "notice": (!link.notice.is_empty()).then_some(&link.notice),
        "error": error,
        "refused": is_refused(link),
        "caught_up": link.caught_up,
        "pending": link.pending,
        "lag_ms": link.lag_ms,
        "sessions": link.sessions,
        "bytes_sent": traffic.bytes_sent,
        "bytes_received": traffic.bytes_received,
    })
}

/// Whether the other side does not want this node, or changes that this node has.
fn is_refused(link: &LinkStatus) -> bool {
    let cut_off = link.granted.is_some_and(|granted| link.mode.direction().push && !granted.push);
    link.state == LinkState::Refused || (cut_off && link.pending > 0)
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SyncParameters {
    /// Seconds.
    timeout: u64,
}

impl Default for SyncParameters {
    fn default() -> Self {
        Self { timeout: 60 }
    }
}

pub(super) async fn sync(
    State(api): State<Api>,
    options: Parameters<SyncParameters>,
) -> Result<Response, ApiError> {
    let timeout = Duration::from_secs(parameters(options)?.timeout);
    if api.mode == OpenMode::FilesOnly {
        return Err(ApiError::new(ApiCode::Locked, "another command has databases of this node open")
            .with_hint("wait for it to end, or stop it"));
    }
    let links = wait_caught_up(&api, timeout).await?;
    let caught_up = links.iter().all(|(link, behind)| !behind && !is_refused(link));
    let links: Vec<Json> = links
        .iter()
        .map(|(link, behind)| {
            let mut link = link_json(link);
            if let Some(object) = link.as_object_mut() {
                object.insert("caught_up".to_owned(), (!behind).into());
            }
            link
        })
        .collect();
    Ok(axum::Json(json!({ "caught_up": caught_up, "links": links })).into_response())
}

/// Waits until every link is caught up both ways, as far as it may be. Answers each link, and whether it is behind.
async fn wait_caught_up(api: &Api, timeout: Duration) -> Result<Vec<(LinkStatus, bool)>, ApiError> {
    let behind = |link: &LinkStatus| link.mode != SyncMode::LocalOnly && !link.caught_up;
    api.node.topology().retry_now();
    let started = Instant::now();
    loop {
        let links: Vec<(LinkStatus, bool)> = blocking_links(api)
            .await?
            .into_iter()
            .map(|link| {
                let is_behind = behind(&link);
                (link, is_behind)
            })
            .collect();
        let waiting = links.iter().filter(|(_, behind)| *behind);
        let hopeless = waiting.clone().all(|(link, _)| link.state == LinkState::Refused);
        let done = waiting.count() == 0 || (hopeless && started.elapsed() >= SECOND_CHANCE);
        if done || started.elapsed() >= timeout {
            return Ok(links);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
