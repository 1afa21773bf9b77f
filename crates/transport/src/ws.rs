//! The side that opens a connection: TCP, TLS if the endpoint says so, WebSocket, Noise.
//!
//! Invariants: everything together happens within the timeout; the remote key is checked before this node shows its
//! own; no connection comes out of here whose key was not accepted.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blazedb_core::limits::{HANDSHAKE_MS, MAX_REFUSAL_CHARACTERS};
use blazedb_core::topology::Endpoint;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error as WsError;

use crate::fingerprint::{Fingerprint, PublicKey};
use crate::frames::{Connection, WebSocketFault};
use crate::identity::Identity;
use crate::names::{self, NameError, Purpose};
use crate::noise::{HandshakeError, Prologue, initiate};
use crate::pins::{PinError, PinPolicy};
use crate::socket::{Admission, Socket};
use crate::tls::{TlsError, TlsRoots};
use crate::upgraded::{self, Silence, WebSocket};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// For everything from the name's resolution to the last handshake message.
    pub timeout: Duration,
    /// Whom to trust for `wss`; `None` is [`TlsRoots::native`].
    pub roots: Option<TlsRoots>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(HANDSHAKE_MS), roots: None }
    }
}

/// What a connection attempt was doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// Looking up the host's name.
    Resolving,
    /// Opening the TCP connection.
    Connecting,
    /// The TLS handshake.
    Tls,
    /// The WebSocket upgrade.
    Upgrade,
    /// The Noise handshake.
    Handshake,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving its name",
            Self::Connecting => "connecting",
            Self::Tls => "the TLS handshake",
            Self::Upgrade => "the WebSocket upgrade",
            Self::Handshake => "the key handshake",
        })
    }
}

/// Why there is no connection. `endpoint` is the address that was tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A database name can't be asked for.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The host's name has no address.
    #[error("{endpoint}: no address found for its host: {source}")]
    Unresolved {
        /// The address.
        endpoint: Endpoint,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody listens there, or the network does not lead there, or it broke off.
    #[error("{endpoint}: not reachable ({stage}): {source}")]
    Unreachable {
        /// The address.
        endpoint: Endpoint,
        /// What was going on.
        stage: Stage,
        /// What the system says.
        source: io::Error,
    },
    /// The other side did not answer in time.
    #[error("{endpoint}: no answer within {} ms ({stage})", timeout.as_millis())]
    TimedOut {
        /// The address.
        endpoint: Endpoint,
        /// What was going on.
        stage: Stage,
        /// The time it had, for all stages.
        timeout: Duration,
    },
    /// TLS could not be set up on this side.
    #[error("{endpoint}: {source}")]
    TlsSetup {
        /// The address.
        endpoint: Endpoint,
        /// What is wrong.
        source: TlsError,
    },
    /// The TLS handshake failed, for example because the certificate is not trusted.
    #[error("{endpoint}: TLS failed: {source}")]
    Tls {
        /// The address.
        endpoint: Endpoint,
        /// What rustls says.
        source: io::Error,
    },
    /// The other side answered the upgrade with an HTTP error.
    #[error("{endpoint}: refused with HTTP status {status}: {text}")]
    Refused {
        /// The address.
        endpoint: Endpoint,
        /// HTTP status; 404 if it does not serve the database.
        status: u16,
        /// Its words, cut to a line.
        text: String,
    },
    /// What listens there does not speak WebSocket.
    #[error("{endpoint}: not a BlazeDB node: {source}")]
    NotWebSocket {
        /// The address.
        endpoint: Endpoint,
        /// What it broke.
        source: WebSocketFault,
    },
    /// The other side closed the connection during the key handshake, or broke its rules.
    #[error("{endpoint}: closed during the key handshake: {reason}")]
    HandshakeClosed {
        /// The address.
        endpoint: Endpoint,
        /// Its words, if any.
        reason: String,
    },
    /// The key handshake failed.
    #[error("{endpoint}: key handshake failed: {source}")]
    Handshake {
        /// The address.
        endpoint: Endpoint,
        /// Why.
        source: HandshakeError,
    },
    /// The node has another key than the one that is pinned. Somebody may be in the middle.
    #[error("{endpoint}: its key is not the pinned one: expected {expected}, found {found}; if its owner confirms the new key, {}", remedy(endpoint, found, known_nodes.as_ref()))]
    KeyChanged {
        /// The address.
        endpoint: Endpoint,
        /// The pinned fingerprint.
        expected: Fingerprint,
        /// The fingerprint of the key that it showed.
        found: Fingerprint,
        /// The file that holds the pin; `None` if the configuration does.
        known_nodes: Option<PathBuf>,
    },
    /// The file of known nodes failed.
    #[error(transparent)]
    Pins(PinError),
}

impl ConnectError {
    /// Whether the other side answered with another key than it should have.
    #[must_use]
    pub const fn is_other_key(&self) -> bool {
        matches!(self, Self::KeyChanged { .. })
    }
}

fn remedy(endpoint: &Endpoint, found: &Fingerprint, known_nodes: Option<&PathBuf>) -> String {
    match known_nodes {
        Some(path) => format!("`blazedb trust {endpoint} {found}` accepts it, in {}", path.display()),
        None => "set `remote_key` to it".to_owned(),
    }
}

/// Opens a connection for the pair of `database_local` on this node and `database_remote` at `endpoint`. The peer
/// counts as admitted.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    endpoint: &Endpoint,
    database_local: &str,
    database_remote: &str,
    identity: &Identity,
    pins: &PinPolicy,
    options: &ConnectOptions,
) -> Result<Connection, ConnectError> {
    connect_for(Purpose::Sync, endpoint, (database_local, database_remote), identity, pins, options).await
}

/// [`connect`] for a purpose; `databases` are the local one and the remote one.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_for(
    purpose: Purpose,
    endpoint: &Endpoint,
    (database_local, database_remote): (&str, &str),
    identity: &Identity,
    pins: &PinPolicy,
    options: &ConnectOptions,
) -> Result<Connection, ConnectError> {
    let target = names::target(purpose, database_local, database_remote)?;
    let attempt = Attempt { endpoint, options, deadline: Instant::now() + options.timeout };
    let admission = Admission::granted();
    let socket = attempt.open(admission.clone()).await?;
    let mut socket = attempt.upgrade(socket, &target).await?;
    let prologue = Prologue::of(purpose, database_local, database_remote);
    let exchange = attempt.handshake(&mut socket, identity, &prologue, pins);
    let channel = attempt.within(Stage::Handshake, exchange).await??;
    Ok(upgraded::connection(socket, channel, admission))
}

/// The time that a connection to `endpoint` takes to be there, which is one round trip; `None` if it is not there within
/// `timeout`. Nothing is said on it.
pub async fn round_trip(endpoint: &Endpoint, timeout: Duration) -> Option<Duration> {
    let measured = async {
        let addresses: Vec<_> = lookup_host((endpoint.host(), endpoint.port())).await.ok()?.collect();
        let begun = Instant::now();
        TcpStream::connect(addresses.as_slice()).await.ok()?;
        Some(begun.elapsed())
    };
    tokio::time::timeout(timeout, measured).await.ok().flatten()
}

struct Attempt<'a> {
    endpoint: &'a Endpoint,
    options: &'a ConnectOptions,
    deadline: Instant,
}

impl Attempt<'_> {
    async fn within<T>(&self, stage: Stage, work: impl Future<Output = T>) -> Result<T, ConnectError> {
        timeout_at(self.deadline, work).await.map_err(|_| ConnectError::TimedOut {
            endpoint: self.endpoint.clone(),
            stage,
            timeout: self.options.timeout,
        })
    }

    fn unreachable(&self, stage: Stage, source: io::Error) -> ConnectError {
        ConnectError::Unreachable { endpoint: self.endpoint.clone(), stage, source }
    }

    async fn open(&self, admission: Arc<Admission>) -> Result<Socket, ConnectError> {
        let lookup = lookup_host((self.endpoint.host(), self.endpoint.port()));
        let addresses: Vec<_> = match self.within(Stage::Resolving, lookup).await? {
            Ok(found) => found.collect(),
            Err(source) => return Err(ConnectError::Unresolved { endpoint: self.endpoint.clone(), source }),
        };
        let stream = self
            .within(Stage::Connecting, TcpStream::connect(addresses.as_slice()))
            .await?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| self.unreachable(Stage::Connecting, source))?;
        if self.endpoint.tls() {
            self.wrap(stream, admission).await
        } else {
            Ok(Socket::plain(stream, admission))
        }
    }

    async fn wrap(&self, stream: TcpStream, admission: Arc<Admission>) -> Result<Socket, ConnectError> {
        let endpoint = || self.endpoint.clone();
        let roots = self.options.roots.clone().map_or_else(TlsRoots::native, Ok);
        let roots = roots.map_err(|source| ConnectError::TlsSetup { endpoint: endpoint(), source })?;
        let failed = |source| ConnectError::Tls { endpoint: endpoint(), source };
        let name = ServerName::try_from(self.endpoint.host().to_owned())
            .map_err(|error| failed(io::Error::other(error)))?;
        let stream = self.within(Stage::Tls, TlsConnector::from(roots.0).connect(name, stream)).await?;
        stream.map(|stream| Socket::tls(stream, admission)).map_err(failed)
    }

    async fn upgrade(&self, socket: Socket, target: &str) -> Result<WebSocket, ConnectError> {
        let request = self.endpoint.url(target);
        let answer = client_async_with_config(request, socket, Some(upgraded::config()));
        match self.within(Stage::Upgrade, answer).await? {
            Ok((socket, _)) => Ok(socket),
            Err(WsError::Io(source)) => Err(self.unreachable(Stage::Upgrade, source)),
            Err(WsError::Http(response)) => Err(ConnectError::Refused {
                endpoint: self.endpoint.clone(),
                status: response.status().as_u16(),
                text: one_line(response.body().as_deref().unwrap_or_default()),
            }),
            Err(error) => Err(ConnectError::NotWebSocket {
                endpoint: self.endpoint.clone(),
                source: WebSocketFault::new(error),
            }),
        }
    }

    async fn handshake(
        &self,
        socket: &mut WebSocket,
        identity: &Identity,
        prologue: &Prologue,
        pins: &PinPolicy,
    ) -> Result<crate::noise::SecureChannel, ConnectError> {
        let failed = |source| ConnectError::Handshake { endpoint: self.endpoint.clone(), source };
        let silent = |silence| self.silence(silence);
        let (reply, first) = initiate(identity, prologue).map_err(failed)?;
        upgraded::send_handshake(socket, first).await.map_err(silent)?;
        let second = upgraded::recv_handshake(socket).await.map_err(silent)?;
        let identified = reply.read(&second).map_err(failed)?;
        self.check_key(identified.remote(), pins).await?;
        let (channel, last) = identified.finish().map_err(failed)?;
        upgraded::send_handshake(socket, last).await.map_err(silent)?;
        Ok(channel)
    }

    fn silence(&self, silence: Silence) -> ConnectError {
        let endpoint = self.endpoint.clone();
        match silence {
            Silence::Failed(WsError::Io(source)) => self.unreachable(Stage::Handshake, source),
            Silence::Failed(error) => {
                ConnectError::NotWebSocket { endpoint, source: WebSocketFault::new(error) }
            }
            Silence::NotBinary => {
                ConnectError::HandshakeClosed { endpoint, reason: "it sent text".to_owned() }
            }
            Silence::Closed(reason) => {
                let reason = one_line(reason.as_bytes());
                ConnectError::HandshakeClosed { endpoint, reason }
            }
        }
    }

    async fn check_key(&self, remote: &PublicKey, pins: &PinPolicy) -> Result<(), ConnectError> {
        let found = remote.fingerprint();
        let endpoint = self.endpoint.clone();
        let nodes = match pins {
            PinPolicy::Exactly(expected) if *expected == found => return Ok(()),
            &PinPolicy::Exactly(expected) => {
                return Err(ConnectError::KeyChanged { endpoint, expected, found, known_nodes: None });
            }
            PinPolicy::FirstUse(nodes) => nodes.clone(),
        };
        let asked = endpoint.clone();
        // A first contact waits for the disk.
        let checked = tokio::task::spawn_blocking(move || nodes.check(&asked, found)).await;
        match checked.map_err(|error| self.unreachable(Stage::Handshake, io::Error::other(error)))? {
            Ok(acquaintance) => {
                tracing::debug!(%endpoint, %found, ?acquaintance, "remote key accepted");
                Ok(())
            }
            Err(PinError::KeyChanged { expected, found, file, .. }) => {
                Err(ConnectError::KeyChanged { endpoint, expected, found, known_nodes: file })
            }
            Err(other) => Err(ConnectError::Pins(other)),
        }
    }
}

/// What a stranger says, fit for a terminal: one line, printable, short.
fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MAX_REFUSAL_CHARACTERS).collect()
}
