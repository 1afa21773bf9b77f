//! The side that accepts a connection, over a TCP stream that the caller has accepted.
//!
//! Invariants: everything together happens within the timeout; whatever a stranger sends ends in a connection or in
//! an [`AcceptError`]; a database that is not served is refused before any key is used.

use std::io;
use std::time::Duration;

use blazedb_core::limits::HANDSHAKE_MS;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::frames::{Connection, WebSocketFault};
use crate::identity::Identity;
use crate::names::{self, NameError, Purpose};
use crate::noise::{HandshakeError, Prologue, SecureChannel, respond};
use crate::socket::{Admission, Socket};
use crate::upgraded::{self, Silence, WebSocket};

/// How to accept.
#[derive(Clone)]
pub struct AcceptOptions {
    /// For everything from the first byte to the last handshake message.
    pub timeout: Duration,
    /// With it, the stream is TLS.
    pub tls: Option<TlsAcceptor>,
}

impl Default for AcceptOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(HANDSHAKE_MS), tls: None }
    }
}

/// A connection that was asked for, and its names.
#[derive(Debug)]
pub struct Accepted {
    /// What the caller wants it for.
    pub purpose: Purpose,
    /// The database on this node.
    pub database: String,
    /// The caller's name for its own database.
    pub from: String,
    /// The connection; its peer is not admitted yet.
    pub connection: Connection,
}

/// Why a request is turned away, in the words that the caller reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reject {
    status: StatusCode,
    text: String,
}

impl Reject {
    /// 404: no such database here.
    #[must_use]
    pub fn not_served(database: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, text: format!("database {database:?} is not served here") }
    }

    /// 503: not now, for this reason (too many connections, shutting down).
    #[must_use]
    pub fn unavailable(reason: &str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, text: reason.to_owned() }
    }

    fn bad_request(error: NameError) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: error.to_string() }
    }

    fn respond(&self) -> ErrorResponse {
        let mut body = self.text.clone();
        body.push('\n');
        let mut response = ErrorResponse::new(None);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        *response.body_mut() = Some(body);
        response
    }
}

/// Why nothing was accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The caller did not finish in time.
    #[error("the caller did not finish its handshake within {} ms", timeout.as_millis())]
    TimedOut {
        /// The time it had.
        timeout: Duration,
    },
    /// The network failed, or the caller went away.
    #[error("the caller was lost: {0}")]
    Lost(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The caller was turned away.
    #[error("turned away with HTTP status {status}: {text}")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// What the caller was told.
        text: String,
    },
    /// The caller does not speak WebSocket.
    #[error("the caller does not speak WebSocket: {0}")]
    NotWebSocket(#[source] WebSocketFault),
    /// The caller closed during the key handshake.
    #[error("the caller closed during the key handshake")]
    Closed,
    /// The caller sent text where the key handshake is binary.
    #[error("the caller sent text instead of its key handshake")]
    Text,
    /// The key handshake failed.
    #[error("key handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
}

/// Takes one caller through upgrade and handshake. `route` says whether a database is served here.
///
/// # Errors
/// [`AcceptError`]; the stream is closed then.
pub async fn accept(
    stream: TcpStream,
    identity: &Identity,
    options: &AcceptOptions,
    route: impl FnOnce(&str) -> Result<(), Reject> + Unpin,
) -> Result<Accepted, AcceptError> {
    let work = accept_unbounded(stream, identity, options.tls.as_ref(), route);
    // Boxed: the handshake needs more room than what is left of it, and callers keep this future.
    let work = timeout(options.timeout, Box::pin(work));
    work.await.unwrap_or(Err(AcceptError::TimedOut { timeout: options.timeout }))
}

async fn accept_unbounded(
    stream: TcpStream,
    identity: &Identity,
    tls: Option<&TlsAcceptor>,
    route: impl FnOnce(&str) -> Result<(), Reject> + Unpin,
) -> Result<Accepted, AcceptError> {
    stream.set_nodelay(true).map_err(AcceptError::Lost)?;
    let admission = Admission::pending();
    let socket = match tls {
        None => Socket::plain(stream, admission.clone()),
        Some(acceptor) => {
            let stream = acceptor.accept(stream).await.map_err(AcceptError::Tls)?;
            Socket::tls(stream, admission.clone())
        }
    };
    let (mut socket, names) = upgrade(socket, route).await?;
    let prologue = Prologue::of(names.purpose, &names.from, &names.database);
    let channel = handshake(&mut socket, identity, &prologue).await?;
    let connection = upgraded::connection(socket, channel, admission);
    Ok(Accepted { purpose: names.purpose, database: names.database, from: names.from, connection })
}

#[derive(Default)]
struct Names {
    purpose: Purpose,
    database: String,
    from: String,
}

/// Decides on the upgrade request, and notes what was asked for.
struct Gate<'a, R> {
    route: R,
    verdict: &'a mut Result<Names, Reject>,
}

impl<R: FnOnce(&str) -> Result<(), Reject>> Gate<'_, R> {
    fn judge(route: R, request: &Request) -> Result<Names, Reject> {
        let asked = names::parse_target(request.uri().path(), request.uri().query());
        let (purpose, database, from) = asked.map_err(Reject::bad_request)?;
        route(&database).map(|()| Names { purpose, database, from })
    }
}

impl<R: FnOnce(&str) -> Result<(), Reject> + Unpin> Callback for Gate<'_, R> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        *self.verdict = Self::judge(self.route, request);
        match self.verdict {
            Ok(_) => Ok(response),
            Err(reject) => Err(reject.respond()),
        }
    }
}

async fn upgrade(
    socket: Socket,
    route: impl FnOnce(&str) -> Result<(), Reject> + Unpin,
) -> Result<(WebSocket, Names), AcceptError> {
    let mut verdict = Ok(Names::default());
    let gate = Gate { route, verdict: &mut verdict };
    let upgraded = accept_hdr_async_with_config(socket, gate, Some(upgraded::config())).await;
    let names = verdict
        .map_err(|reject| AcceptError::Rejected { status: reject.status.as_u16(), text: reject.text })?;
    match upgraded {
        Ok(socket) => Ok((socket, names)),
        Err(error) => Err(fault(error)),
    }
}

async fn handshake(
    socket: &mut WebSocket,
    identity: &Identity,
    prologue: &Prologue,
) -> Result<SecureChannel, AcceptError> {
    let exchanged = exchange(socket, identity, prologue).await;
    if let Err(AcceptError::Handshake(error)) = &exchanged {
        let frame = CloseFrame { code: CloseCode::Protocol, reason: error.to_string().into() };
        // A courtesy to whoever reads the other side's log; the error stands without it.
        let told = socket.close(Some(frame)).await;
        tracing::debug!(?told, %error, "handshake refused");
    }
    exchanged
}

async fn exchange(
    socket: &mut WebSocket,
    identity: &Identity,
    prologue: &Prologue,
) -> Result<SecureChannel, AcceptError> {
    let first = upgraded::recv_handshake(socket).await.map_err(silence)?;
    let (last, second) = respond(identity, prologue, &first)?;
    upgraded::send_handshake(socket, second).await.map_err(silence)?;
    let third = upgraded::recv_handshake(socket).await.map_err(silence)?;
    Ok(last.read(&third)?)
}

fn silence(silence: Silence) -> AcceptError {
    match silence {
        Silence::Closed(_) => AcceptError::Closed,
        Silence::NotBinary => AcceptError::Text,
        Silence::Failed(error) => fault(error),
    }
}

fn fault(error: WsError) -> AcceptError {
    match error {
        WsError::Io(source) => AcceptError::Lost(source),
        other => AcceptError::NotWebSocket(WebSocketFault::new(other)),
    }
}
