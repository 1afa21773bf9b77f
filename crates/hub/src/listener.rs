//! One listening address, many databases.
//!
//! Invariants: a session reaches exactly the database that its address names; whoever is not let in costs no
//! more than a bounded handshake; what one connection does never holds up another.

mod doorman;
mod visits;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::asks::Answerer;
use crate::auth::{Authenticator, INVITATION_ROUTE, Inviter};
use crate::door::Door;
use blazedb::{
    AccessRules, CloseCode, Closed, Database, Doorman, Identity, SessionContext, SessionReport, Turn,
    return_free_memory, run_session,
};
use blazedb_core::limits::{ASK_MS, HANDSHAKE_MS, IDLE_DATABASE_MS};
use blazedb_core::topology::ServeMode;
use blazedb_transport::Purpose;
use blazedb_transport::server::{AcceptError, AcceptOptions, Accepted, Reject, accept};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::listener::doorman::AtTheDoor;
use crate::sessions::{Arrival, SessionKey, Sessions, TurnedAway, Whose, now_ms};

/// A database as this node serves it.
#[derive(Clone, Debug)]
pub struct Served {
    /// The database.
    pub database: Database,
    /// What clients may do with it.
    pub serve: ServeMode,
    /// Who may do what.
    pub access: Arc<AccessRules>,
}

/// How a listener guards itself.
#[derive(Clone)]
pub struct ListenerOptions {
    /// Connections at one time; further ones wait in the system's queue.
    pub max_connections: usize,
    /// Handshakes at one time.
    pub max_handshakes: usize,
    /// Decides who clients are.
    pub auth: Arc<Authenticator>,
    /// Answers those who come with an invitation.
    pub inviter: Option<Inviter>,
    /// How long a question may keep a database busy at one stretch.
    pub ask_time: Duration,
    /// TLS, unless a proxy in front does it or the network is trusted.
    pub tls: Option<blazedb_transport::tls::TlsAcceptor>,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_handshakes: 16_384,
            auth: Arc::new(Authenticator::nobody()),
            inviter: None,
            ask_time: Duration::from_millis(ASK_MS),
            tls: None,
        }
    }
}

/// What a listener has seen.
#[derive(Debug, Default)]
pub struct ListenerStats {
    accepted: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
}

impl ListenerStats {
    /// Sessions opened so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Sessions open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

/// A database that is served, and what ends the sessions on it.
#[derive(Clone)]
struct Entry {
    served: Served,
    stop: watch::Sender<bool>,
}

impl From<Served> for Entry {
    fn from(served: Served) -> Self {
        Self { served, stop: watch::Sender::new(false) }
    }
}

struct Shared {
    identity: Arc<Identity>,
    served: Mutex<BTreeMap<String, Entry>>,
    options: ListenerOptions,
    stats: ListenerStats,
    sessions: Sessions,
    answerer: Answerer,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    stop: watch::Sender<bool>,
}

/// Accepts sessions until it is stopped.
#[derive(Clone)]
pub struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address` and serves `served` by name.
    ///
    /// # Errors
    /// If the address can't be had.
    pub async fn bind(
        address: &str,
        identity: Arc<Identity>,
        served: BTreeMap<String, Served>,
        options: ListenerOptions,
    ) -> std::io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            identity,
            served: Mutex::new(served.into_iter().map(|(name, served)| (name, served.into())).collect()),
            handshakes: Arc::new(Semaphore::new(options.max_handshakes)),
            connections: Arc::new(Semaphore::new(options.max_connections)),
            answerer: Answerer::new(options.ask_time),
            options,
            stats: ListenerStats::default(),
            sessions: Sessions::default(),
            stop: watch::Sender::new(false),
        });
        tokio::spawn(accept_all(socket, Arc::clone(&shared)));
        tokio::spawn(release_idle(Arc::clone(&shared)));
        tokio::spawn(watch_peers(Arc::clone(&shared)));
        Ok(Self { shared, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen.
    #[must_use]
    pub fn stats(&self) -> &ListenerStats {
        &self.shared.stats
    }

    /// Decides who clients are.
    #[must_use]
    pub fn auth(&self) -> &Arc<Authenticator> {
        &self.shared.options.auth
    }

    /// A database as it is served now, and to whom.
    #[must_use]
    pub fn served(&self, name: &str) -> Option<Served> {
        self.shared.served().get(name).map(|entry| entry.served.clone())
    }

    /// Who is connected, who was, and who was turned away.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    /// Serves a database in this way from now on, or no longer. Sessions on it end, with a goodbye; whoever comes again
    /// finds what holds then.
    pub fn serve(&self, name: &str, served: Option<Served>) {
        let mut all = self.shared.served();
        let before = match served {
            Some(served) => all.insert(name.to_owned(), served.into()),
            None => all.remove(name),
        };
        if let Some(before) = before {
            before.stop.send_replace(true);
        }
    }

    /// What meshes have to know of who comes here.
    #[must_use]
    pub fn doorman(&self) -> Arc<dyn Doorman> {
        Arc::new(AtTheDoor(Arc::clone(&self.shared)))
    }

    /// Accepts no more, and lets open sessions say goodbye.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        self.shared.served().values().for_each(|entry| {
            entry.stop.send_replace(true);
        });
        for _ in 0..200 {
            if self.shared.stats.open() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn accept_all(socket: TcpListener, shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    loop {
        let Ok(permit) = Arc::clone(&shared.connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { shared.serve(stream, peer, permit).await });
            }
            // Out of file descriptors, most likely: wait for some to come back.
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Sends peers away whose tokens are over or revoked.
async fn watch_peers(shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    tokio::select! {
        () = Arc::clone(&shared.options.auth).keep_watch() => {}
        _ = stop.wait_for(|stopped| *stopped) => {}
    }
}

/// Has databases that nothing happened to for a while give their caches back.
async fn release_idle(shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    // The end of each feed a turn ago, and whether the database has given back what it had since then.
    let mut seen: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    let mut accepted = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(IDLE_DATABASE_MS)) => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let served: Vec<_> = shared
            .served()
            .iter()
            .map(|(name, entry)| (name.clone(), entry.served.database.clone()))
            .collect();
        let mut slept = 0;
        for (name, database) in served {
            let activity = database.accesses();
            let (before, released) =
                seen.insert(name.clone(), (activity, false)).unwrap_or((u64::MAX, false));
            if before != activity {
                continue;
            }
            if !released {
                slept += 1;
                // It waits for whoever writes just now.
                let _ = tokio::task::spawn_blocking(move || {
                    if let Err(error) = database.store().scrub() {
                        tracing::warn!(%error, "what was sealed since could not be wiped yet");
                    }
                    database.release_memory();
                })
                .await;
            }
            seen.insert(name, (activity, true));
        }
        // Connections leave free memory behind as well, by their handshakes for one.
        let opened = shared.stats.accepted();
        if slept > 0 || opened != accepted {
            accepted = opened;
            let _ = tokio::task::spawn_blocking(return_free_memory).await;
        }
    }
}

impl Shared {
    async fn serve(&self, stream: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit) {
        // In a box of its own: a connection lives much longer than its handshake.
        let handshake = Box::pin(self.handshake(stream));
        let started = Instant::now();
        let accepted = match handshake.await {
            Ok(accepted) => accepted,
            // Somebody measures how far away this node is, or whether it is there.
            Err((SILENT, _)) => return,
            Err((kind, reason)) => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%peer, reason, "connection refused");
                let (node, database) = (None, None);
                let at_ms = now_ms();
                self.sessions.refused(TurnedAway { at_ms, address: peer, node, database, kind, reason });
                return;
            }
        };
        self.sessions.handshaken(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        let Accepted { purpose, database: name, from, connection } = accepted;
        if let (INVITATION_ROUTE, Some(inviter)) = (name.as_str(), &self.options.inviter) {
            // In a box: every session's future would have room for it.
            return Box::pin(inviter.clone().serve(connection)).await;
        }
        let Some(Entry { served, stop }) = self.served().get(&name).cloned() else { return };
        if purpose == Purpose::Questions {
            return Box::pin(self.answer(connection, peer, name, (served, stop))).await;
        }
        if purpose == Purpose::Rehearsal {
            return Box::pin(self.rehearse(connection, peer, name, (served, stop))).await;
        }
        let node = connection.node_id();
        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
        self.stats.open.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, %node, database = name, "session");
        let key = Arc::new(SessionKey { node, from, database: name.clone() });
        let report = Arc::<SessionReport>::default();
        let (called, fingerprint) = (connection.remote_name.clone(), connection.fingerprint());
        let user = Whose::default();
        let whose = Arc::clone(&user);
        let arrival = Arrival { key: Arc::clone(&key), name: called, fingerprint, address: peer, user };
        self.sessions.came(arrival, &report);
        let context = SessionContext {
            database: served.database.clone(),
            link: Arc::from(SERVED_LINK),
            report: Arc::clone(&report),
            stop: {
                // What was ended while the client was on its way here ends as well.
                let mut stopped = stop.subscribe();
                stopped.mark_changed();
                stopped
            },
            turn: Turn::default(),
        };
        drop(stop);
        let auth = Arc::clone(&self.options.auth);
        let role = Door::new(auth, connection.remote, &name, served, whose).into_role();
        let closed = run_session(context, role, connection.into()).await;
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
        let refused = self.note_end(&closed, peer, &key);
        self.sessions.went(&key, &report, refused);
    }

    /// The connection, or the kind of reason why there is none, and the reason.
    async fn handshake(&self, stream: TcpStream) -> Result<Accepted, (&'static str, String)> {
        let wait = Duration::from_millis(HANDSHAKE_MS);
        let turn = tokio::time::timeout(wait, self.handshakes.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(("busy", "too many handshakes at once".to_owned())) };
        let mut first = [0];
        match tokio::time::timeout(wait, stream.peek(&mut first)).await {
            Ok(Ok(0)) => return Err((SILENT, String::new())),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(("lost", error.to_string())),
            Err(_) => return Err(("timeout", format!("the caller said nothing within {HANDSHAKE_MS} ms"))),
        }
        let options = AcceptOptions { tls: self.options.tls.clone(), ..AcceptOptions::default() };
        let route = |name: &str| {
            let served = self.served();
            let known = served.get(name).is_some_and(|entry| entry.served.serve != ServeMode::None);
            let invited = name == INVITATION_ROUTE && self.options.inviter.is_some();
            if known || invited { Ok(()) } else { Err(Reject::not_served(name)) }
        };
        let accepted = accept(stream, &self.identity, &options, route).await;
        accepted.map_err(|error| (kind_of(&error), error.to_string()))
    }

    /// Takes note of the end of a session. Answers why its client was sent away, if it was.
    fn note_end(&self, closed: &Closed, peer: SocketAddr, key: &SessionKey) -> Option<String> {
        let (node, database) = (key.node.to_string(), &key.database);
        match closed {
            Closed::Here(code, reason) if *code != CloseCode::GoingAway => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%peer, node, database, reason, "session refused");
                self.sessions.refused(TurnedAway {
                    at_ms: now_ms(),
                    address: peer,
                    node: Some(node.clone()),
                    database: Some(database.clone()),
                    kind: kind_of_close(*code),
                    reason: reason.clone(),
                });
                Some(reason.clone())
            }
            other => {
                tracing::debug!(%peer, node, database, closed = ?other, "session over");
                None
            }
        }
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name under which checkpoints of clients are kept.
const SERVED_LINK: &str = "served";

/// The caller left without a word.
const SILENT: &str = "silent";

/// A refused connection in one word.
const fn kind_of(error: &AcceptError) -> &'static str {
    match error {
        AcceptError::TimedOut { .. } => "timeout",
        AcceptError::Lost(_) | AcceptError::Closed => "lost",
        AcceptError::Tls(_) => "tls",
        AcceptError::Rejected { .. } => "not_served",
        AcceptError::Handshake(_) => "handshake",
        _ => "not_websocket",
    }
}

/// A refused session in one word.
const fn kind_of_close(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Refused => "access",
        CloseCode::Unauthenticated => "identity",
        CloseCode::Protocol => "protocol",
        CloseCode::Version => "version",
        CloseCode::ClockDrift => "clock_drift",
        _ => "internal",
    }
}
