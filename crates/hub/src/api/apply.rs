//! `POST /v1/apply`: another topology for the running node. `GET`: its topology file, to be edited.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use blazedb_core::Filter;
use blazedb_core::topology::{
    Action, FilterTextError, FilterUse, LinkChange, LinkSpec, ParseContext, PasswordRule, SpecErrorKind,
    TopologySpec, parse,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::{ApiCode, ApiError};
use super::records::{Parameters, parameters};
use super::{Api, blocking, from_body};
use crate::apply::{Effect, Step, Stopped};
use crate::node::OpenMode;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ApplyParameters {
    /// Only say what would be done.
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    topology: String,
}

/// Reads a topology as a node does that is to run it: `${NAME}` comes from the process's environment, `shown` is where
/// the text is from.
///
/// # Errors
/// [`ApiCode::Config`] with the place and the reason.
pub fn read_topology(text: &str, shown: &str, passwords: PasswordRule) -> Result<TopologySpec, ApiError> {
    let env = |name: &str| std::env::var(name).ok();
    parse(text, &ParseContext { env: &env, check_filter: &check_filter, passwords }).map_err(|error| {
        let failure = ApiError::new(ApiCode::Config, format!("{shown}:{error}"));
        match error.kind {
            SpecErrorKind::EnvMissing(name) => failure.with_hint(format!("export {name}=...")),
            _ => failure,
        }
    })
}

fn check_filter(text: &str, used: FilterUse) -> Result<(), FilterTextError> {
    let parsed = match used {
        FilterUse::Policy => Filter::parse(text),
        _ => Filter::parse_rule(text),
    };
    parsed
        .map(drop)
        .map_err(|error| FilterTextError { column: error.column, message: error.kind.to_string() })
}

/// The topology file as it is now, before `${NAME}` is replaced.
pub(super) async fn file(State(api): State<Api>) -> Result<Response, ApiError> {
    let read = blocking(move || {
        let path = api.node.file();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ApiError::new(ApiCode::Io, format!("{}: {error}", path.display())))?;
        Ok(json!({ "file": path.display().to_string(), "topology": text }))
    });
    Ok(axum::Json(read.await?).into_response())
}

pub(super) async fn apply(
    State(api): State<Api>,
    options: Parameters<ApplyParameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let dry_run = parameters(options)?.dry_run;
    if api.mode != OpenMode::Serve {
        return Err(ApiError::new(ApiCode::Unavailable, "no node is running that could become another one")
            .with_hint("`blazedb up` starts it with the topology file as it is"));
    }
    let desired = desired(&api, &headers, &body).await?;
    let applying = api.node.applying.lock().await;
    let (node, wanted) = (std::sync::Arc::clone(&api.node), desired.clone());
    let mut steps = blocking(move || Ok(node.plan(&wanted)?)).await?;
    api.node.ask_others(&mut steps).await;
    if !dry_run {
        api.node.carry_out(desired, &steps).await?;
    }
    drop(applying);
    let actions: Vec<Json> = steps.iter().map(step_json).collect();
    Ok(axum::Json(json!({ "dry_run": dry_run, "actions": actions })).into_response())
}

/// The topology of a request: its text, alone or in JSON; without either, the node's own file as it is now.
async fn desired(api: &Api, headers: &HeaderMap, body: &Bytes) -> Result<TopologySpec, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let file = api.node.file().display().to_string();
    if body.is_empty() {
        let path = api.node.file().to_owned();
        let read = move || std::fs::read_to_string(path).map_err(|error| error.to_string());
        let text = blocking(move || Ok(read())).await?;
        let text = text.map_err(|error| ApiError::new(ApiCode::Config, format!("{file}: {error}")))?;
        return read_topology(&text, &file, PasswordRule::Required);
    }
    if kind.starts_with("application/json") {
        let Wrapped { topology } = from_body(body)?;
        return read_topology(&topology, "topology", PasswordRule::Required);
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::new(ApiCode::Config, format!("topology: not UTF-8: {error}")))?;
    read_topology(text, "topology", PasswordRule::Required)
}

impl From<Stopped> for ApiError {
    fn from(stopped: Stopped) -> Self {
        let message = stopped.to_string();
        let cause = Self::from(*stopped.error);
        Self { message, ..cause }.with_hint("what was done stays; apply again to go on from there")
    }
}

fn step_json(step: &Step) -> Json {
    let Step { action, effect } = step;
    let mut object = match action {
        Action::CloseLink { database, link } => link_json("close-link", database.as_str(), link),
        Action::OpenLink { database, link } => link_json("open-link", database.as_str(), link),
        Action::ChangeLink { database, from, to } => {
            let mut changed = link_json("change-link", database.as_str(), to);
            let what: Vec<&str> = LinkChange::between(from, to).into_iter().map(LinkChange::as_str).collect();
            set(&mut changed, "changes", what.into());
            changed
        }
        Action::CloseDatabase(name) => json!({ "action": "close-database", "database": name.as_str() }),
        Action::OpenDatabase(name, _) => json!({ "action": "open-database", "database": name.as_str() }),
        Action::Index(name, fields) => {
            json!({ "action": "index", "database": name.as_str(), "fields": fields })
        }
        Action::Seek(name, seeks) => json!({
            "action": "seek-peers", "database": name.as_str(),
            "remotes": seeks.iter().map(|sync| sync.remote.as_str()).collect::<Vec<_>>(),
        }),
        Action::Serve(name, serve, ..) => {
            json!({ "action": "serve", "database": name.as_str(), "serve": serve.as_str() })
        }
    };
    let Effect { sends, bytes, unasked, receives, removes } = effect.clone().unwrap_or_default();
    if effect.is_some() {
        set(&mut object, "sends", json!({ "records": sends, "bytes": bytes, "at_most": unasked.is_some() }));
        if let Some(reason) = unasked {
            set(&mut object, "unasked", reason.into());
        }
        if let Some(records) = receives {
            set(&mut object, "receives", json!({ "records": records }));
        }
        set(&mut object, "removes", json!({ "records": removes }));
    }
    set(&mut object, "text", action.to_string().into());
    object
}

fn set(object: &mut Json, key: &str, value: Json) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn link_json(action: &str, database: &str, link: &LinkSpec) -> Json {
    json!({
        "action": action, "database": database, "remote": link.target.to_string(),
        "remote_database": link.remote.as_str(), "pattern": link.pattern.as_str(), "mode": link.mode.as_str(),
    })
}
