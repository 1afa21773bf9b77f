//! The graph: once, or as it changes.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::{Value as Json, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::Api;
use super::error::ApiError;
use crate::observer::Event;
use crate::sessions::TurnedAway;

/// A comment is sent after this much silence, so that proxies and watchers know that the node is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn topology(State(api): State<Api>) -> Result<Response, ApiError> {
    Ok(axum::Json(&*api.observer.now().await?).into_response())
}

/// Server-sent events (HTML living standard, 9.2): `snapshot` first, then `change`.
pub(super) async fn events(State(api): State<Api>) -> Result<Response, ApiError> {
    let (first, receiver) = api.observer.watch().await?;
    let told = stream::unfold((Some(first), receiver, api), |(first, mut receiver, api)| async move {
        let text = match first {
            Some(first) => bytes(&first),
            None => next(&mut receiver, &api).await?,
        };
        Some((Ok::<_, Infallible>(text), (None, receiver, api)))
    });
    Ok(stream_of_events(Body::from_stream(told)))
}

pub(super) fn stream_of_events(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that buffer would hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

async fn next(receiver: &mut Receiver<Event>, api: &Api) -> Option<Bytes> {
    match tokio::time::timeout(HEARTBEAT, receiver.recv()).await {
        Err(_) => Some(Bytes::from_static(b":\n\n")),
        Ok(Ok(event)) => Some(bytes(&event)),
        Ok(Err(RecvError::Lagged(_))) => {
            // What is left in the queue is older than what is told now, but not wrong: it says what is.
            *receiver = receiver.resubscribe();
            Some(bytes(&api.observer.again()))
        }
        Ok(Err(RecvError::Closed)) => None,
    }
}

pub(super) fn bytes(event: &Event) -> Bytes {
    Bytes::copy_from_slice(event.as_bytes())
}

/// Who was turned away.
pub(super) async fn refusals(State(api): State<Api>) -> Response {
    let refusals = api.node.listener().map(|listener| listener.sessions().refusals()).unwrap_or_default();
    let refusals: Vec<Json> = refusals.iter().rev().map(refusal_json).collect();
    axum::Json(json!({ "refusals": refusals })).into_response()
}

fn refusal_json(refusal: &TurnedAway) -> Json {
    json!({
        "at_ms": refusal.at_ms, "address": refusal.address.to_string(), "node": refusal.node,
        "database": refusal.database, "kind": refusal.kind, "reason": refusal.reason,
    })
}
