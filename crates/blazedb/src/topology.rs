//! The coordinator: which databases this node has, and the links that keep them in step with others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blazedb_core::session::Closed;
use blazedb_core::topology::{DatabaseName, SyncMode};
use blazedb_core::wire::Direction;
use blazedb_transport::ws::ConnectOptions;
use blazedb_transport::{Endpoint, Fingerprint, Identity, KnownNodes, PinPolicy};
use tokio::task::JoinHandle;

use crate::database::Database;
use crate::link::{Link, LinkConfig};
use crate::status::{LinkState, LinkStatus};

/// A database that is registered with a [`Topology`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DatabaseNode(DatabaseName);

impl DatabaseNode {
    /// The name that it is registered under.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.as_str()
    }
}

/// Names a link of a [`Topology`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(u64);

/// A database on another node.
#[derive(Clone, Debug)]
pub struct RemoteNode {
    url: String,
    database: String,
    key: Option<Fingerprint>,
}

impl RemoteNode {
    /// The database `database` of the node at `url` (`ws://host:port` or `wss://host:port`).
    #[must_use]
    pub fn new(url: impl Into<String>, database: impl Into<String>) -> Self {
        Self { url: url.into(), database: database.into(), key: None }
    }

    /// Only a node with this key will do. Without it the key of the first contact is remembered.
    #[must_use]
    pub const fn key(mut self, key: Fingerprint) -> Self {
        self.key = Some(key);
        self
    }
}

/// How a link syncs.
#[derive(Clone, Debug)]
pub struct SyncPolicy {
    mode: SyncMode,
    pattern: &'static str,
    compression: bool,
}

impl Default for SyncPolicy {
    fn default() -> Self {
        Self { mode: SyncMode::Bidirectional, pattern: "hub-and-spoke", compression: true }
    }
}

impl SyncPolicy {
    /// Everything, both ways, compressed where that helps.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which way changes go.
    #[must_use]
    pub const fn mode(mut self, mode: SyncMode) -> Self {
        self.mode = mode;
        self
    }

    /// The pattern that the link belongs to, for displays.
    #[must_use]
    pub const fn pattern(mut self, pattern: &'static str) -> Self {
        self.pattern = pattern;
        self
    }

    /// Whether batches are compressed if the other side can.
    #[must_use]
    pub const fn compression(mut self, compression: bool) -> Self {
        self.compression = compression;
        self
    }
}

/// A topology can't be set up as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The name can't be used.
    #[error("database name {0:?}: {1}")]
    Name(String, String),
    /// The name is taken.
    #[error("a database is registered as {0:?} already")]
    Registered(String),
    /// Nothing is registered under this name.
    #[error("no database is registered as {0:?}")]
    Unknown(String),
    /// The address is none.
    #[error("address {0:?}: {1}")]
    Address(String, String),
    /// There is no such link.
    #[error("there is no such link")]
    NoLink,
}

#[derive(Default)]
struct State {
    databases: BTreeMap<DatabaseNode, Database>,
    links: BTreeMap<LinkId, (Arc<Link>, JoinHandle<()>)>,
    next_link: u64,
}

/// The databases of this node and their links.
///
/// Links run as tasks of the tokio runtime in which they are made, until they are removed or the topology is
/// shut down.
pub struct Topology {
    identity: Arc<Identity>,
    known: Arc<KnownNodes>,
    options: ConnectOptions,
    state: Mutex<State>,
}

impl Topology {
    /// A topology of a node with this identity. Keys of other nodes are remembered in memory only.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self::with_known_nodes(identity, KnownNodes::in_memory())
    }

    /// A topology that remembers the keys of other nodes in `known`.
    #[must_use]
    pub fn with_known_nodes(identity: Identity, known: KnownNodes) -> Self {
        Self {
            identity: Arc::new(identity),
            known: Arc::new(known),
            options: ConnectOptions::default(),
            state: Mutex::default(),
        }
    }

    /// Databases that each sync both ways with the database of the same name on the hub at `url`.
    ///
    /// # Errors
    /// [`TopologyError`] about a name or the address.
    pub async fn hub_and_spoke(
        identity: Identity,
        url: &str,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        let topology = Self::new(identity);
        for (name, database) in databases {
            let node = topology.register(database, name)?;
            topology.connect_remote(&node, RemoteNode::new(url, name), SyncPolicy::new()).await?;
        }
        Ok(topology)
    }

    /// This node's identity.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Adds a database under a name.
    ///
    /// # Errors
    /// [`TopologyError::Name`] and [`TopologyError::Registered`].
    pub fn register(&self, database: &Database, name: &str) -> Result<DatabaseNode, TopologyError> {
        let parsed = name.parse::<DatabaseName>();
        let node =
            DatabaseNode(parsed.map_err(|error| TopologyError::Name(name.to_owned(), error.to_string()))?);
        let mut state = self.state();
        if state.databases.contains_key(&node) {
            return Err(TopologyError::Registered(name.to_owned()));
        }
        state.databases.insert(node.clone(), database.clone());
        Ok(node)
    }

    /// The database registered under a name.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<Database> {
        let state = self.state();
        state.databases.iter().find(|(node, _)| node.name() == name).map(|(_, database)| database.clone())
    }

    /// Every registered database.
    #[must_use]
    pub fn databases(&self) -> Vec<(DatabaseNode, Database)> {
        self.state().databases.iter().map(|(node, database)| (node.clone(), database.clone())).collect()
    }

    /// Links a database to one on another node and keeps the link up from now on.
    ///
    /// Must be called inside a tokio runtime. Does not wait for the connection: see [`Topology::links`]. A link
    /// in mode [`SyncMode::LocalOnly`] opens no connection.
    ///
    /// # Errors
    /// [`TopologyError`] about the node or the address.
    #[allow(clippy::unused_async, reason = "connecting may come to wait for the coordinator")]
    pub async fn connect_remote(
        &self,
        node: &DatabaseNode,
        remote: RemoteNode,
        policy: SyncPolicy,
    ) -> Result<LinkId, TopologyError> {
        let endpoint = remote.url.parse::<Endpoint>();
        let endpoint =
            endpoint.map_err(|error| TopologyError::Address(remote.url.clone(), error.to_string()))?;
        let pins = match remote.key {
            Some(key) => PinPolicy::Exactly(key),
            None => PinPolicy::FirstUse(Arc::clone(&self.known)),
        };
        let mut state = self.state();
        let database = state.databases.get(node).cloned();
        let link = Link::new(LinkConfig {
            database: database.ok_or_else(|| TopologyError::Unknown(node.name().to_owned()))?,
            database_name: node.name().to_owned(),
            endpoint,
            remote_database: remote.database,
            mode: policy.mode,
            pattern: policy.pattern,
            compression: policy.compression,
            pins,
            identity: Arc::clone(&self.identity),
            options: self.options.clone(),
        });
        state.next_link += 1;
        let id = LinkId(state.next_link);
        let idle = policy.mode == SyncMode::LocalOnly;
        let task = if idle { tokio::spawn(async {}) } else { tokio::spawn(Arc::clone(&link).run()) };
        state.links.insert(id, (link, task));
        Ok(id)
    }

    /// Removes a link; an open session says goodbye first.
    ///
    /// # Errors
    /// [`TopologyError::NoLink`].
    pub async fn remove_connection(&self, id: LinkId) -> Result<(), TopologyError> {
        let removed = self.state().links.remove(&id);
        let (link, task) = removed.ok_or(TopologyError::NoLink)?;
        link.stop();
        let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
        Ok(())
    }

    /// Every link as it is now.
    #[must_use]
    pub fn links(&self) -> Vec<(LinkId, LinkStatus)> {
        let links: Vec<_> =
            self.state().links.iter().map(|(id, (link, _))| (*id, Arc::clone(link))).collect();
        links.into_iter().map(|(id, link)| (id, link.status())).collect()
    }

    /// Links that wait to try again do so at once.
    pub fn retry_now(&self) {
        self.state().links.values().for_each(|(link, _)| link.nudge());
    }

    /// Waits until every link is caught up both ways, as far as it may be. Answers the links that are not when
    /// the time is over.
    pub async fn sync(&self, timeout: Duration) -> Vec<LinkStatus> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let behind: Vec<LinkStatus> =
                self.links().into_iter().map(|(_, status)| status).filter(is_behind).collect();
            let hopeless = !behind.is_empty() && behind.iter().all(|link| link.state == LinkState::Refused);
            if behind.is_empty() || hopeless || tokio::time::Instant::now() >= deadline {
                return behind;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops every link and waits for open sessions to say goodbye.
    pub async fn shutdown(&self) {
        let links = std::mem::take(&mut self.state().links);
        links.values().for_each(|(link, _)| link.stop());
        for (_, task) in links.into_values() {
            let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_behind(link: &LinkStatus) -> bool {
    link.mode != SyncMode::LocalOnly && !link.caught_up
}

impl Drop for Topology {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.links.values().for_each(|(link, _)| link.stop());
    }
}

/// Links two databases of one process, without sockets or encryption, through the same session code.
///
/// Runs until one side's file closes or the returned task is aborted; answers why it ended.
#[must_use]
pub fn link_in_process(client: &Database, server: &Database, direction: Direction) -> JoinHandle<Closed> {
    crate::local::spawn(client.clone(), server.clone(), direction)
}
