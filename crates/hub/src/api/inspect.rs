//! Looking closely: one database, and why a record is here or is not there.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use blazedb::{
    Database, FieldTrace, Filter, RecentChange, Record, RecordId, Rejected, Stamp, Timestamp, Trace,
    UnopenedRecord, Value,
};
use blazedb_core::filter::EvalContext;
use blazedb_core::json::value_to_json;
use blazedb_core::topology::{self, AccessSpec, DatabaseSpec};
use blazedb_core::view::RemovalReason;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::care::{conflict_json, stamp_json};
use super::error::ApiError;
use super::records::{Parameters, parameters, record_id};
use super::{Api, blocking, from_body};
use crate::graph::{Way, policy_view};
use crate::node::Node;

/// Changes that are shown of a database.
pub(super) const RECENT: usize = 20;

/// One database: what was declared, what is in it, what changed last.
pub(super) async fn database(State(api): State<Api>, Path(db): Path<String>) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let node = Arc::clone(&api.node);
    let described = blocking(move || {
        let whole = node.spec();
        let spec = whole.databases.iter().find(|(name, _)| name.as_str() == db).map(|(_, spec)| spec);
        let store = database.store();
        let recent = store.recent(RECENT)?;
        Ok(json!({
            "name": db, "replica": store.replica().to_string(), "head": store.head(),
            "records": database.query().count()?, "conflicts": database.conflicts()?.len(),
            "tombstones": store.tombstones()?.kept,
            "batches_waiting": database.batches_waiting(),
            "declared": spec.map(declared), "recent": recent.iter().map(recent_json).collect::<Vec<_>>(),
        }))
    });
    Ok(axum::Json(described.await?).into_response())
}

fn declared(spec: &DatabaseSpec) -> Json {
    let AccessSpec { public, connect, read, insert, update, delete, relay, keys } = &spec.access;
    let text = |rule: &Option<topology::FilterText>| rule.as_ref().map(|rule| rule.text.clone());
    json!({
        "pattern": spec.sync.pattern.kind().as_str(), "mode": spec.sync.mode.as_str(),
        "serve": spec.serve.as_str(), "durability": spec.durability.as_str(),
        "indexes": spec.indexes, "search": spec.search, "policy": policy_view(&spec.sync.policy),
        "encrypted_at_rest": spec.password != topology::PasswordSource::Plaintext,
        "access": {
            "public": public, "connect": text(connect), "read": text(read), "insert": text(insert),
            "update": text(update), "delete": text(delete), "relay": text(relay), "keys": text(keys),
        },
    })
}

pub(super) fn recent_json(change: &RecentChange) -> Json {
    json!({
        "seq": change.seq, "id": change.id.to_string(), "alive": change.alive,
        "brought_by": change.brought_by.map(|replica| replica.to_string()),
        "newest": change.newest.map(stamp_json),
    })
}

/// The most records that are asked about at once.
const MAX_ASKED: usize = 1_000;

/// Which records.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    ids: Vec<String>,
}

impl Asked {
    pub(super) fn ids(&self) -> Result<Vec<RecordId>, ApiError> {
        if self.ids.len() > MAX_ASKED {
            let message = format!("ids: {} of them: at most {MAX_ASKED} at once", self.ids.len());
            return Err(ApiError::new(super::ApiCode::Invalid, message));
        }
        self.ids.iter().map(|id| record_id(id)).collect()
    }
}

/// How many fields of records are sealed, so that this node can't show them.
pub(super) async fn sealed(
    State(api): State<Api>,
    Path(db): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (database, asked): (Database, Asked) = (api.database(&db)?, from_body(&body)?);
    let ids = asked.ids()?;
    let counted = blocking(move || count_sealed(&database, &ids)).await?;
    Ok(axum::Json(json!({ "sealed": counted })).into_response())
}

/// Sealed fields by record; records without any are left out.
pub(super) fn count_sealed(database: &Database, ids: &[RecordId]) -> Result<Json, ApiError> {
    let mut counted = serde_json::Map::new();
    for id in ids {
        let trace = database.store().trace(*id)?;
        let count = trace.iter().flat_map(|trace| &trace.fields).filter(|field| field.sealed).count();
        if count > 0 {
            counted.insert(id.to_string(), count.into());
        }
    }
    Ok(Json::Object(counted))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ExplainParameters {
    /// Only links to this node: its id, name or address.
    pub(super) peer: Option<String>,
}

pub(super) async fn explain(
    State(api): State<Api>,
    Path((db, id)): Path<(String, String)>,
    options: Parameters<ExplainParameters>,
) -> Result<Response, ApiError> {
    let (database, id) = (api.database(&db)?, record_id(&id)?);
    let ExplainParameters { peer } = parameters(options)?;
    let node = Arc::clone(&api.node);
    let explained = blocking(move || {
        let ways = ways_to(node.ways(&db), &db, peer.as_deref())?;
        explain_record(&node, &database, &db, id, &ways)
    });
    Ok(axum::Json(explained.await?).into_response())
}

/// Of these links, those to the named node, if one is named.
pub(super) fn ways_to(mut ways: Vec<Way>, database: &str, peer: Option<&str>) -> Result<Vec<Way>, ApiError> {
    let Some(peer) = peer else { return Ok(ways) };
    ways.retain(|way| is_named(way, peer));
    if ways.is_empty() {
        let message = format!("database {database}: no link to a node {peer:?}");
        return Err(ApiError::new(super::ApiCode::NotFound, message)
            .with_hint("give its node id, name or address as `blazedb topology` shows it"));
    }
    Ok(ways)
}

fn is_named(way: &Way, peer: &str) -> bool {
    let authority = way.view.address.split_once("://").map_or(way.view.address.as_str(), |(_, rest)| rest);
    way.peer == peer || way.peer_name == peer || way.view.address == peer || authority == peer
}

pub(super) fn explain_record(
    node: &Node,
    database: &Database,
    name: &str,
    id: RecordId,
    ways: &[Way],
) -> Result<Json, ApiError> {
    let trace = database.store().trace(id)?;
    let record = database.get(id)?;
    let conflicts: Vec<Json> =
        database.conflicts()?.iter().filter(|conflict| conflict.id == id).map(conflict_json).collect();
    let here = match &trace {
        None => "unknown",
        Some(trace) if trace.alive => "present",
        Some(trace) if trace.removed.is_some() => "removed",
        Some(_) => "deleted",
    };
    let rejected = database.rejected()?;
    let refused: Vec<&Rejected> = rejected.iter().filter(|rejected| rejected.record.id == id).collect();
    let unopened = database.store().unopened()?.into_iter().find(|unopened| unopened.id == id);
    let known = Known { trace: trace.as_ref(), record: record.as_ref(), refused: &refused };
    let links: Vec<Json> = ways.iter().map(|way| way_json(way, &known)).collect();
    Ok(json!({
        "node": node.spec().node.name, "database": name, "id": id.to_string(), "here": here,
        "why": why_here(trace.as_ref(), unopened.as_ref(), ways),
        "removed": trace.as_ref().and_then(|trace| trace.removed).map(RemovalReason::word),
        "unopened": unopened.map(|unopened| json!({ "reason": unopened.reason, "at": unopened.at_ms })),
        "rejected": refused.iter().map(|refused| json!({
            "op": refused.operation.as_str(), "reason": refused.reason, "at": refused.at_ms,
        })).collect::<Vec<_>>(),
        "seq": trace.as_ref().map(|trace| trace.seq),
        "brought_by": trace.as_ref().and_then(|trace| trace.brought_by).map(|replica| replica.to_string()),
        "born": trace.as_ref().and_then(|trace| trace.life.born).map(stamp_json),
        "died": trace.as_ref().and_then(|trace| trace.life.dead).map(|dead| stamp_json(dead.stamp)),
        "fields": trace.iter().flat_map(|trace| &trace.fields).map(field_json).collect::<Vec<_>>(),
        "conflicts": conflicts, "leaving": leaving(database, id)?, "links": links,
    }))
}

/// The links that take the record away from here, and why: it waits for edits of this side to get through.
fn leaving(database: &Database, id: RecordId) -> Result<Vec<Json>, ApiError> {
    let all = database.store().leaving()?;
    let own = all.iter().filter(|leaving| leaving.id == id);
    Ok(own.map(|leaving| json!({ "link": leaving.link, "reason": leaving.reason.word() })).collect())
}

fn field_json(field: &FieldTrace) -> Json {
    let replaced: Vec<Json> = field.replaced.iter().copied().map(stamp_json).collect();
    json!({
        "name": field.name, "written": stamp_json(field.stamp), "removed": field.removed,
        "sealed": field.sealed, "replaced": replaced,
    })
}

/// In words: why the record is as it is here.
fn why_here(trace: Option<&Trace>, unopened: Option<&UnopenedRecord>, ways: &[Way]) -> String {
    if let Some(unopened) = unopened {
        return format!(
            "it came, in whole or in part, in a form that can't be opened here: {}",
            unopened.reason
        );
    }
    let Some(trace) = trace else {
        let coming: Vec<&Way> = ways.iter().filter(|way| way.receives).collect();
        if coming.is_empty() {
            return "it was never here, and no link of this database brings changes".to_owned();
        }
        if coming.iter().all(|way| way.view.state == "idle") {
            return "it was never here; every link that brings changes is up and caught up, so no other \
                    side has shown it to this node"
                .to_owned();
        }
        return "it was never here; a link that brings changes is down or still catching up".to_owned();
    };
    let from = ways.iter().find(|way| way.peer_no != 0 && way.peer_no == trace.origin);
    let source = match (trace.origin, from) {
        (0, _) => "its last change was written here".to_owned(),
        (_, Some(way)) => format!("its last change came from {}", called(way)),
        (_, None) => "its last change came from a peer that this database has no link to now".to_owned(),
    };
    if let Some(reason) = trace.removed {
        let by = from.map_or("the other side of a link", |way| called(way));
        return match reason {
            RemovalReason::LeftFilter => {
                format!("it was here; {by} took it away: it does not match the policy's filter any more")
            }
            RemovalReason::AccessRevoked => {
                format!(
                    "it was here; {by} took it away: its access rules do not show it to this node any more"
                )
            }
        };
    }
    match (trace.alive, trace.life.dead) {
        (true, _) => format!("it is here; {source}"),
        (false, Some(dead)) => format!("it was deleted at {}; {source}", at(dead.stamp)),
        (false, None) => format!("only changes of it are known, not its insertion; {source}"),
    }
}

fn called(way: &Way) -> &str {
    if way.peer_name.is_empty() { &way.peer } else { &way.peer_name }
}

fn at(stamp: Stamp) -> String {
    time_text(Timestamp(i64::try_from(stamp.time.millis().saturating_mul(1_000)).unwrap_or(i64::MAX)))
}

fn time_text(time: Timestamp) -> String {
    let json = value_to_json(&Value::Timestamp(time));
    json.get("$time").and_then(Json::as_str).unwrap_or_default().to_owned()
}

/// What is known of a record here.
struct Known<'a> {
    trace: Option<&'a Trace>,
    record: Option<&'a Record>,
    /// Writes of it that an authority has refused.
    refused: &'a [&'a Rejected],
}

fn way_json(way: &Way, known: &Known<'_>) -> Json {
    let (verdict, why) = verdict(way, known);
    json!({
        "link": way.view.id, "peer": way.peer, "peer_name": way.peer_name, "address": way.view.address,
        "mode": way.view.mode, "state": way.view.state, "since_ms": way.view.since_ms,
        "verdict": verdict, "why": why,
    })
}

/// Whether the other side of a link has this record as it is here, in a word and in words.
fn verdict(way: &Way, known: &Known<'_>) -> (&'static str, String) {
    let Known { trace, record, refused } = *known;
    if let (Some(refused), true) = (refused.last(), way.view.role == "client" && way.sends) {
        let (operation, reason) = (refused.operation.as_str(), &refused.reason);
        let why = format!(
            "the other side has refused the last {operation} of it ({reason}); it is kept in `rejected`"
        );
        return ("refused", why);
    }
    let Some(trace) = trace.filter(|trace| trace.removed.is_none()) else {
        return if !way.receives {
            ("not_received", "changes of the other side don't come here by this link".to_owned())
        } else if way.view.state == "idle" {
            ("not_shown", "caught up: the other side does not have it, or does not show it".to_owned())
        } else {
            ("unknown", format!("{}: the other side may have it", down(way)))
        };
    };
    if let (Some(view), Some(record)) = (&way.view_of_client, record)
        && let Some(reason) = view.why_not(record)
    {
        return match reason {
            RemovalReason::AccessRevoked => {
                let granted = view.granted();
                ("no_access", format!("access rules don't show it: {granted}{}", since(granted, trace)))
            }
            RemovalReason::LeftFilter => (
                "filtered",
                format!(
                    "it does not match what the client's policy asks for: {}{}",
                    view.wanted(),
                    since(view.wanted(), trace)
                ),
            ),
        };
    }
    if way.peer_no != 0 && way.peer_no == trace.origin {
        return ("has", "the other side brought its last change".to_owned());
    }
    if !way.sends {
        let notice = way.view.notice.as_deref().map_or(String::new(), |notice| format!(" ({notice})"));
        return ("not_sent", format!("changes of this side are not sent by this link{notice}"));
    }
    if let Some(filter) = way.view.policy.as_ref().and_then(|policy| policy.filter.as_deref())
        && let Some(record) = record
        && !shows(filter, record)
    {
        let since = Filter::parse(filter).map_or(String::new(), |filter| since(&filter, trace));
        return ("filtered", format!("it does not match the policy's filter: {filter}{since}"));
    }
    if way.peer_no != 0 && trace.seq <= way.pushed {
        return ("has", "the other side has acknowledged its last change".to_owned());
    }
    match way.view.state.as_str() {
        "idle" => ("has", "caught up: the other side has acknowledged everything".to_owned()),
        "syncing" => ("pending", "its last change is on its way and not acknowledged yet".to_owned()),
        "refused" => ("refused", down(way)),
        _ if way.peer_no == 0 => {
            ("unknown", format!("{}; it has not been up since this node started", down(way)))
        }
        _ => ("pending", format!("{}; its last change waits here", down(way))),
    }
}

/// In words: since when a record may be out of a view. What a filter looks at was last written then.
fn since(filter: &Filter, trace: &Trace) -> String {
    let asked = filter.fields();
    let looked_at = trace.fields.iter().filter(|field| asked.contains(field.name.as_str()));
    let Some(last) = looked_at.max_by_key(|field| field.stamp) else { return String::new() };
    match trace.life.born {
        Some(born) if born.time >= last.stamp.time => "; since it was inserted".to_owned(),
        _ => format!("; since {}, when {} was written", at(last.stamp), last.name),
    }
}

/// In words: why a link does nothing.
fn down(way: &Way) -> String {
    let error = way.view.error.as_ref().map_or(String::new(), |error| format!(": {}", error.message));
    match way.view.state.as_str() {
        "refused" => format!("the other side refuses{error}"),
        "syncing" => "still catching up".to_owned(),
        state if way.view.since_ms > 0 => {
            let since = Timestamp(i64::try_from(way.view.since_ms.saturating_mul(1_000)).unwrap_or(i64::MAX));
            format!("the link is {state} since {}{error}", time_text(since))
        }
        state => format!("the link is {state}{error}"),
    }
}

fn shows(filter: &str, record: &Record) -> bool {
    let now = i64::try_from(crate::sessions::now_ms().saturating_mul(1_000)).unwrap_or(i64::MAX);
    let parsed = Filter::parse(filter);
    parsed.is_ok_and(|filter| filter.matches(&EvalContext::new(record, Timestamp(now))))
}
