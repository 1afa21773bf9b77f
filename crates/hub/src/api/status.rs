//! What a node has and does: databases, links, and whether they are caught up.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use blazedb::{LinkError, LinkState, LinkStatus, Moment, TakenAway};
use blazedb_core::topology::{self, DatabaseSpec, Pattern, SyncMode, SyncSpec, TopologySpec};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::error::{ApiCode, ApiError};
use super::records::{Parameters, parameters};
use super::{Api, blocking};
use crate::node::{Node, OpenMode};
use crate::sessions::ClientSession;

/// How long a refusal may be an old one, in milliseconds: links are told to try again first.
const SECOND_CHANCE: Duration = Duration::from_millis(1_500);

pub(super) async fn health(State(api): State<Api>) -> Response {
    axum::Json(json!({ "status": "ok", "node": api.node.spec().node.name })).into_response()
}

/// Who asks: whoever gets here may do everything.
pub(super) async fn whoami(State(api): State<Api>) -> Response {
    let users = api.node.listener().is_some_and(|listener| listener.auth().has_issuers());
    axum::Json(json!({ "kind": "admin", "users": users })).into_response()
}

pub(super) async fn databases(State(api): State<Api>) -> Result<Response, ApiError> {
    Ok(axum::Json(json!({ "databases": open_databases(&api).await? })).into_response())
}

pub(super) async fn status(State(api): State<Api>) -> Result<Response, ApiError> {
    let mut databases = open_databases(&api).await?;
    let node = &api.node;
    let links = blocking_links(&api, None).await?;
    for database in &mut databases {
        let local = is_cut_off(node, database["name"].as_str().unwrap_or_default(), &links);
        if let Some(object) = database.as_object_mut() {
            object.insert("fallen_back_to_local".to_owned(), local.into());
        }
    }
    let links: Vec<Json> = links.iter().map(link_json).collect();
    let name = node.spec().node.name.clone();
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

/// Whether a database is in a mesh that may fall back to local, and has nobody it could talk to.
fn is_cut_off(node: &Node, name: &str, links: &[LinkStatus]) -> bool {
    let spec = node.spec();
    let Some((_, spec)) = spec.databases.iter().find(|(declared, _)| declared.as_str() == name) else {
        return false;
    };
    let falls_back = |sync: &SyncSpec| {
        matches!(sync.pattern, Pattern::Mesh { fallback_to_local: true, .. })
            && sync.mode != SyncMode::LocalOnly
    };
    let meshed = std::iter::once(&spec.sync).chain(&spec.links).any(falls_back);
    let works = |link: &LinkStatus| {
        link.database == name && matches!(link.state, LinkState::Idle | LinkState::Syncing)
    };
    // Those who come here are peers as well.
    let clients = node.listener().map(|listener| listener.sessions().clients()).unwrap_or_default();
    let comes = |client: &ClientSession| client.live && client.key.database == name;
    meshed && !links.iter().any(works) && !clients.iter().any(comes)
}

async fn open_databases(api: &Api) -> Result<Vec<Json>, ApiError> {
    let node = std::sync::Arc::clone(&api.node);
    blocking(move || {
        let describe = |(name, database): (String, blazedb::Database)| {
            let mut described = declared(&node, &name);
            if let Some(object) = described.as_object_mut() {
                object.insert("name".to_owned(), name.into());
                object.insert("state".to_owned(), "open".into());
                object.insert("replica".to_owned(), database.store().replica().to_string().into());
                object.insert("head".to_owned(), database.store().head().into());
                object.insert("records".to_owned(), database.query().count()?.into());
                object.insert("rejected".to_owned(), database.rejected_count()?.into());
                object.insert("removed".to_owned(), removed_json(database.store().taken_away()));
                object.insert("leaving".to_owned(), database.store().leaving()?.len().into());
            }
            Ok(described)
        };
        node.databases().into_iter().map(describe).collect()
    })
    .await
}

/// Records that links took away since the node started, by reason.
fn removed_json(taken: TakenAway) -> Json {
    json!({ "left_filter": taken.left_filter, "access_revoked": taken.access_revoked })
}

fn declared(node: &Node, name: &str) -> Json {
    let spec = node.spec();
    let spec = spec.databases.iter().find(|(declared, _)| declared.as_str() == name);
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
            json!({
                "database": name.to_string(), "remote": link.target.to_string(), "remote_database": link.remote.to_string(),
                "mode": link.mode.as_str(), "pattern": link.pattern.as_str(),
                "priority": link.policy.priority, "state": "stopped",
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

/// Every link; caught up only with what was there at a moment, if one is named.
async fn blocking_links(api: &Api, since: Option<Moment>) -> Result<Vec<LinkStatus>, ApiError> {
    let node = std::sync::Arc::clone(&api.node);
    blocking(move || {
        Ok(match since {
            Some(moment) => node.topology().links_since(moment),
            None => node.links().into_iter().map(|(_, status)| status).collect(),
        })
    })
    .await
}

fn link_json(link: &LinkStatus) -> Json {
    let error = link.error.as_ref().map(|error| {
        let LinkError { message, temporary, refused, stranger } = error;
        json!({ "message": message, "temporary": temporary, "refused": refused, "stranger": stranger })
    });
    let traffic = link.traffic;
    json!({
        "database": link.database,
        "remote": link.remote,
        "remote_database": link.remote_database,
        "choice": link.latencies.iter().map(|(address, ms)| json!({ "address": address, "latency_ms": ms }))
            .collect::<Vec<_>>(),
        "mode": link.mode.as_str(),
        "pattern": link.pattern,
        "priority": link.priority,
        "state": link.state.as_str(),
        "granted": link.granted.map(|granted| json!({ "push": granted.push, "pull": granted.pull })),
        "notice": (!link.notice.is_empty()).then_some(&link.notice),
        "error": error,
        "found": link.found,
        "refused": is_refused(link),
        "caught_up": link.caught_up,
        "pending": link.pending,
        "lag_ms": link.lag_ms,
        "sessions": link.sessions,
        "epoch": link.session.epoch,
        "changes_sent": link.changes.sent,
        "changes_received": link.changes.received,
        "bytes_sent": traffic.bytes_sent,
        "bytes_received": traffic.bytes_received,
    })
}

/// Whether the other side does not want this node, grants nothing of what it asks for, or does not want changes that this
/// node has.
fn is_refused(link: &LinkStatus) -> bool {
    // Whoever was found and does not want this node is not missed.
    if link.found {
        return false;
    }
    let Some(granted) = link.granted else { return link.state == LinkState::Refused };
    let asked = link.mode.direction();
    let nothing = (asked.push || asked.pull) && !granted.push && !granted.pull;
    nothing || (asked.push && !granted.push && link.pending > 0)
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
    let (rejected, removed, leaving) = what_became_of_records(&api).await?;
    let told = json!({
        "caught_up": caught_up, "links": links, "rejected": rejected, "removed": removed, "leaving": leaving,
    });
    Ok(axum::Json(told).into_response())
}

/// By database, as far as there are any: how many refused writes it keeps, how many records were taken away since the
/// node started and why, and how many wait to leave until their edits have arrived on the other side.
async fn what_became_of_records(api: &Api) -> Result<(Json, Json, Json), ApiError> {
    let node = std::sync::Arc::clone(&api.node);
    blocking(move || {
        let mut counts = [(); 3].map(|()| serde_json::Map::new());
        let [rejected, removed, leaving] = &mut counts;
        for (name, database) in node.databases() {
            let store = database.store();
            let (refused, waiting) = (database.rejected_count()?, store.leaving()?.len());
            let taken = store.taken_away();
            if refused > 0 {
                rejected.insert(name.clone(), refused.into());
            }
            if taken != TakenAway::default() {
                removed.insert(name.clone(), removed_json(taken));
            }
            if waiting > 0 {
                leaving.insert(name, waiting.into());
            }
        }
        let [rejected, removed, leaving] = counts.map(Json::Object);
        Ok((rejected, removed, leaving))
    })
    .await
}

/// Waits until every link is caught up both ways with what was there when this was called, as far as it may be. Answers each link, and whether it is behind.
async fn wait_caught_up(api: &Api, timeout: Duration) -> Result<Vec<(LinkStatus, bool)>, ApiError> {
    api.node.topology().retry_now();
    let started = Instant::now();
    let now = Moment::now();
    loop {
        let links: Vec<(LinkStatus, bool)> = blocking_links(api, Some(now))
            .await?
            .into_iter()
            .map(|link| {
                let is_behind = link.is_behind();
                (link, is_behind)
            })
            .collect();
        let waiting = links.iter().filter(|(_, behind)| *behind);
        let hopeless = waiting.clone().all(|(link, _)| link.state == LinkState::Refused);
        let settled = api.node.topology().peers_settled();
        let done = (waiting.count() == 0 && settled) || (hopeless && started.elapsed() >= SECOND_CHANCE);
        if done || started.elapsed() >= timeout {
            return Ok(links);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
