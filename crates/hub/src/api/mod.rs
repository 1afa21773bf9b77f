//! The HTTP API over the databases of a node: served on the local socket and the admin address, and called in
//! process by commands when no node is running. One implementation, so that all ways behave the same.
//!
//! Routes: `docs/spec/http.md`. Errors are `{"error":{"code","message","hint"}}`.

mod bulk;
mod care;
mod error;
mod guard;
mod records;
mod serve;
mod status;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::routing::{get, post};
use blazedb::Database;
use serde::de::DeserializeOwned;

pub use error::{ApiCode, ApiError};
pub use serve::{AdminServer, LocalServer, ServeError, connect_local};
pub use status::declared_status;

use crate::node::{Node, OpenMode};

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
}

impl Api {
    fn database(&self, name: &str) -> Result<Database, ApiError> {
        self.node.database(name).cloned().ok_or_else(|| {
            let open: Vec<&str> = self.node.databases().map(|(name, _)| name).collect();
            ApiError::new(ApiCode::NotFound, format!("no database {name:?} on this node")).with_hint(format!(
                "it has {}",
                if open.is_empty() { "none".to_owned() } else { open.join(", ") }
            ))
        })
    }
}

/// The API over `node`, which was opened in `mode`.
pub fn router(node: Arc<Node>, mode: OpenMode, reach: Reach) -> Router {
    let record = get(records::read).patch(records::update).delete(records::delete);
    let mut router = Router::new()
        .route("/healthz", get(status::health))
        .route("/v1/status", get(status::status))
        .route("/v1/sync", post(status::sync))
        .route("/v1/release", post(care::release))
        .route("/v1/databases", get(status::databases))
        .route("/v1/databases/{db}/records", get(records::list).post(records::insert))
        .route("/v1/databases/{db}/records/{id}", record)
        .route("/v1/databases/{db}/query", post(records::query))
        .route("/v1/databases/{db}/export", get(records::export))
        .route("/v1/databases/{db}/watch", get(records::watch))
        .route("/v1/databases/{db}/import", post(bulk::import))
        .route("/v1/databases/{db}/replay", post(bulk::replay))
        .route("/v1/databases/{db}/conflicts", get(care::conflicts))
        .route("/v1/databases/{db}/verify", post(care::verify));
    if reach == Reach::Local {
        router = router.route("/v1/databases/{db}/backup", post(care::backup));
    }
    router
        .fallback(async |uri: Uri| ApiError::new(ApiCode::NotFound, format!("nothing at {}", uri.path())))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let error = ApiError::new(ApiCode::Usage, format!("{method} does not apply to {}", uri.path()));
            (axum::http::StatusCode::METHOD_NOT_ALLOWED, axum::Json(error.to_json()))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Api { node, mode })
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ApiError::new(ApiCode::Failed, format!("internal error: {error}"))))
}

fn from_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(ApiCode::Invalid, format!("not valid JSON: {error}")))
}
