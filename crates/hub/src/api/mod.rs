//! The HTTP API over the databases of a node: served on the local socket and the admin address, and called in
//! process by commands when no node is running. One implementation, so that all ways behave the same.
//!
//! Routes: `docs/spec/http.md`. Errors are `{"error":{"code","message","hint"}}`.

mod apply;
mod bulk;
mod care;
mod error;
mod guard;
mod inspect;
mod joins;
mod keys;
mod login;
mod metrics;
mod page;
mod queries;
mod readers;
mod records;
mod rejected;
mod remote;
mod serve;
mod status;
mod stream;
mod topology;
mod transaction;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::routing::{get, post};
use blazedb::Database;
use serde::de::DeserializeOwned;

pub use apply::read_topology;
pub use error::{ApiCode, ApiError};
pub use serve::{AdminServer, LocalServer, ServeError, connect_local};
pub use status::declared_status;

use crate::auth::Authenticator;
use crate::node::{Node, OpenMode};
use crate::observer::Observer;

/// A request's body, in bytes: a chunk of an import, base64 and all.
const MAX_BODY_BYTES: usize = 32 << 20;

/// Who can reach a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The user who runs the node, through the local socket or inside the process: may name files to write.
    Local,
    /// Whoever reaches the admin address.
    Admin,
}

/// What the handlers share.
#[derive(Clone)]
struct Api {
    node: Arc<Node>,
    mode: OpenMode,
    observer: Arc<Observer>,
}

impl Api {
    fn database(&self, name: &str) -> Result<Database, ApiError> {
        self.node.database(name).ok_or_else(|| {
            let open: Vec<String> = self.node.databases().into_iter().map(|(name, _)| name).collect();
            ApiError::new(ApiCode::NotFound, format!("no database {name:?} on this node")).with_hint(format!(
                "it has {}",
                if open.is_empty() { "none".to_owned() } else { open.join(", ") }
            ))
        })
    }
}

/// What the admin address serves.
#[derive(Debug)]
pub struct AdminRoutes {
    /// To whoever may do everything.
    all: Router,
    /// To users, and who decides who they are.
    users: Option<(Arc<Authenticator>, Router)>,
}

impl From<Router> for AdminRoutes {
    fn from(all: Router) -> Self {
        Self { all, users: None }
    }
}

/// What the admin address of `node`, which was opened in `mode`, serves; to users too, if `[auth]` names issuers.
#[must_use]
pub fn admin_routes(node: Arc<Node>, mode: OpenMode) -> AdminRoutes {
    let auth = node.listener().map(|listener| Arc::clone(listener.auth())).filter(|auth| auth.has_issuers());
    let api = Api { observer: Observer::new(Arc::clone(&node)), node, mode };
    let users = auth.map(|auth| (auth, readers::routes(api.clone())));
    AdminRoutes { all: routes(api, Reach::Admin), users }
}

/// The API over `node`, which was opened in `mode`.
pub fn router(node: Arc<Node>, mode: OpenMode, reach: Reach) -> Router {
    routes(Api { observer: Observer::new(Arc::clone(&node)), node, mode }, reach)
}

fn routes(api: Api, reach: Reach) -> Router {
    let record = get(records::read).put(queries::upsert).patch(records::update).delete(records::delete);
    let all = get(records::list).post(records::insert).patch(queries::update_all).delete(queries::delete_all);
    let mut router = Router::new()
        .route("/healthz", get(status::health))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(status::status))
        .route("/v1/topology", get(topology::topology))
        .route("/v1/topology/events", get(topology::events))
        .route("/v1/refusals", get(topology::refusals))
        .route("/v1/sync", post(status::sync))
        .route("/v1/apply", get(apply::file).post(apply::apply))
        .route("/v1/release", post(care::release))
        .route("/v1/transaction", post(transaction::transact))
        .route("/v1/join", post(joins::join))
        .route("/v1/join/explain", post(joins::explain))
        .route("/v1/join/watch", post(joins::watch))
        .route("/v1/databases", get(status::databases))
        .route("/v1/databases/{db}", get(inspect::database))
        .route("/v1/databases/{db}/records", all)
        .route("/v1/databases/{db}/records/{id}", record)
        .route("/v1/databases/{db}/records/{id}/explain", get(inspect::explain))
        .route("/v1/databases/{db}/query", post(records::query))
        .route("/v1/databases/{db}/sealed", post(inspect::sealed))
        .route("/v1/databases/{db}/aggregate", post(queries::aggregate))
        .route("/v1/databases/{db}/page", post(queries::page))
        .route("/v1/databases/{db}/explain", post(queries::explain))
        .route("/v1/databases/{db}/nearest", post(queries::nearest))
        .route("/v1/databases/{db}/search", post(queries::search))
        .route("/v1/databases/{db}/export", get(records::export))
        .route("/v1/databases/{db}/watch", get(records::watch))
        .route("/v1/databases/{db}/import", post(bulk::import))
        .route("/v1/databases/{db}/replay", post(bulk::replay))
        .route("/v1/databases/{db}/conflicts", get(care::conflicts))
        .route("/v1/databases/{db}/rejected", get(rejected::list))
        .route("/v1/databases/{db}/rejected/{id}", axum::routing::delete(rejected::forget))
        .route("/v1/databases/{db}/rejected/{id}/retry", post(rejected::retry))
        .route("/v1/databases/{db}/verify", post(care::verify));
    let keys = get(keys::show);
    let keys = if reach == Reach::Local { keys.post(keys::change) } else { keys };
    router = router.route("/v1/databases/{db}/keys", keys);
    router = match reach {
        Reach::Local => router.route("/v1/databases/{db}/backup", post(care::backup)),
        Reach::Admin => router.route("/", get(page::index)).route("/page/{file}", get(page::file)),
    };
    router
        .route("/v1/whoami", get(status::whoami))
        .fallback(async |uri: Uri| ApiError::new(ApiCode::NotFound, format!("nothing at {}", uri.path())))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let error = ApiError::new(ApiCode::Usage, format!("{method} does not apply to {}", uri.path()));
            (axum::http::StatusCode::METHOD_NOT_ALLOWED, axum::Json(error.to_json()))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::map_response(error::in_json))
        .with_state(api)
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ApiError::new(ApiCode::Failed, format!("internal error: {error}"))))
}

fn from_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(ApiCode::Invalid, format!("not valid JSON: {error}")))
}
