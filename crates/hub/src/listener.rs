//! One listening address, many databases.
//!
//! Invariants: a session reaches exactly the database that its address names; whoever is not let in costs no
//! more than a bounded handshake; what one connection does never holds up another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blazedb::{
    Admission, Closed, Database, Hello, Identity, Role, SessionContext, SessionReport, return_free_memory,
    run_session,
};
use blazedb_core::limits::{HANDSHAKE_MS, IDLE_DATABASE_MS};
use blazedb_core::topology::{ServeMode, grant};
use blazedb_transport::server::{AcceptOptions, Accepted, Reject, accept};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// A database as this node serves it.
#[derive(Clone, Debug)]
pub struct Served {
    /// The database.
    pub database: Database,
    /// What clients may do with it.
    pub serve: ServeMode,
    /// Anybody who is let in may read and write everything.
    pub public: bool,
}

/// How a listener guards itself.
#[derive(Clone)]
pub struct ListenerOptions {
    /// Connections at one time; further ones wait in the system's queue.
    pub max_connections: usize,
    /// Handshakes at one time.
    pub max_handshakes: usize,
    /// Clients need no token.
    pub anonymous: bool,
    /// TLS, unless a proxy in front does it or the network is trusted.
    pub tls: Option<blazedb_transport::tls::TlsAcceptor>,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self { max_connections: 20_000, max_handshakes: 16_384, anonymous: false, tls: None }
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

struct Shared {
    identity: Arc<Identity>,
    served: Mutex<BTreeMap<String, Served>>,
    options: ListenerOptions,
    stats: ListenerStats,
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
            served: Mutex::new(served),
            handshakes: Arc::new(Semaphore::new(options.max_handshakes)),
            connections: Arc::new(Semaphore::new(options.max_connections)),
            options,
            stats: ListenerStats::default(),
            stop: watch::Sender::new(false),
        });
        tokio::spawn(accept_all(socket, Arc::clone(&shared)));
        tokio::spawn(release_idle(Arc::clone(&shared)));
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

    /// Accepts no more, and lets open sessions say goodbye.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
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
        let served: Vec<_> =
            shared.served().iter().map(|(name, served)| (name.clone(), served.database.clone())).collect();
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
                let _ = tokio::task::spawn_blocking(move || database.release_memory()).await;
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
        let accepted = match handshake.await {
            Ok(accepted) => accepted,
            Err(reason) => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%peer, reason, "connection refused");
                return;
            }
        };
        let Accepted { database: name, connection, .. } = accepted;
        let Some(served) = self.served().get(&name).cloned() else { return };
        let node = connection.node_id();
        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
        self.stats.open.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, %node, database = name, "session");
        let context = SessionContext {
            database: served.database.clone(),
            link: Arc::from("served"),
            report: Arc::<SessionReport>::default(),
            stop: self.stop.subscribe(),
        };
        let role = Role::Server { admit: admit(name.clone(), served, self.options.anonymous) };
        let closed = run_session(context, role, connection.into()).await;
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
        self.note_end(&closed, peer, &node.to_string(), &name);
    }

    async fn handshake(&self, stream: TcpStream) -> Result<Accepted, String> {
        let wait = Duration::from_millis(HANDSHAKE_MS);
        let turn = tokio::time::timeout(wait, self.handshakes.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err("too many handshakes at once".to_owned()) };
        let options = AcceptOptions { tls: self.options.tls.clone(), ..AcceptOptions::default() };
        let route = |name: &str| {
            let served = self.served();
            let known = served.get(name).is_some_and(|served| served.serve != ServeMode::None);
            if known { Ok(()) } else { Err(Reject::not_served(name)) }
        };
        accept(stream, &self.identity, &options, route).await.map_err(|error| error.to_string())
    }

    fn note_end(&self, closed: &Closed, peer: SocketAddr, node: &str, database: &str) {
        match closed {
            Closed::Here(code, reason) if *code != blazedb::CloseCode::GoingAway => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%peer, node, database, reason, "session refused");
            }
            other => tracing::debug!(%peer, node, database, closed = ?other, "session over"),
        }
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<String, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The decision about a client's hello. Nothing is open unless it was declared so.
fn admit(name: String, served: Served, anonymous: bool) -> blazedb::Admit {
    let name: Arc<str> = name.into();
    Box::new(move |hello| {
        let (name, served) = (Arc::clone(&name), served.clone());
        Box::pin(async move { decide(&name, &served, anonymous, &hello) })
    })
}

fn decide(name: &str, served: &Served, anonymous: bool, hello: &Hello) -> Result<Admission, String> {
    if !anonymous {
        return Err(format!(
            "database {name}: a token is needed, and this node accepts none without [auth] issuers"
        ));
    }
    if !served.public {
        return Err(format!("database {name}: no access rule lets you in"));
    }
    let granted = grant(served.serve, hello.direction);
    let store = served.database.store();
    Ok(Admission {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty().map_err(|error| error.to_string())?,
        direction: granted.direction,
        notice: granted.notice.map(|notice| format!("{name}: {notice}")).unwrap_or_default(),
        compression: true,
        now_ms: store.now_ms(),
    })
}
