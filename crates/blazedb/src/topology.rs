//! The coordinator: which databases this node has, and the links that keep them in step with others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blazedb_core::NodeId;
use blazedb_core::limits::MAX_DATABASE_NAME_BYTES;
use blazedb_core::topology::{Contradiction, DatabaseName, OnDelete, SyncMode};
use blazedb_core::wire::Token;
use blazedb_store::StoreError;
use blazedb_transport::ws::ConnectOptions;
use blazedb_transport::{Fingerprint, Identity, KnownNodes, PinPolicy};
use tokio::task::JoinHandle;

use crate::across::CrossTransaction;
use crate::database::Database;
use crate::lan::LanError;
use crate::link::{Link, LinkConfig, Place, Terms};
use crate::meeting::Meeting;
use crate::moment::Moment;
use crate::peers::Peers;
use crate::policy::SyncPolicy;
use crate::registered::Registered;
use crate::remote_node::RemoteNode;
use crate::status::{LinkState, LinkStatus};
use crate::token_source::TokenSource;
use crate::tombstones::keep_dropping;
use crate::turn::Order;

/// How long a link that is removed has to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// A database that is registered with a [`Topology`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatabaseNode {
    /// The name, filled up with zeros: in place, so that a handle is copied like a number.
    name: [u8; MAX_DATABASE_NAME_BYTES],
}

impl DatabaseNode {
    pub(crate) fn new(name: &DatabaseName) -> Self {
        let mut bytes = [0; MAX_DATABASE_NAME_BYTES];
        bytes.iter_mut().zip(name.as_str().bytes()).for_each(|(to, from)| *to = from);
        Self { name: bytes }
    }

    /// The name that it is registered under.
    #[must_use]
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        self.name.get(..end).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

impl std::fmt::Debug for DatabaseNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DatabaseNode").field(&self.name()).finish()
    }
}

/// Names a link of a [`Topology`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(u64);

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
    /// A database can't be connected to itself.
    #[error("{0:?} can't be connected to itself")]
    Itself(String),
    /// The database has no link, so there is nobody to ask.
    #[error("database {0:?} is connected to no other node: there is nobody to ask")]
    NobodyToAsk(String),
    /// There is no such link.
    #[error("there is no such link")]
    NoLink,
    /// A pattern's promise rules out what goes with it.
    #[error("database {0:?}: {1}")]
    Contradiction(String, Contradiction),
    /// The local network can't be used.
    #[error(transparent)]
    Lan(LanError),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) databases: BTreeMap<DatabaseNode, Database>,
    /// Connected databases of this node, each pair in order.
    pub(crate) neighbours: BTreeSet<(DatabaseNode, DatabaseNode)>,
    pub(crate) links: BTreeMap<LinkId, Held>,
    next_link: u64,
    meeting: Meeting,
}

/// A link that is kept up.
pub(crate) struct Held {
    pub(crate) link: Arc<Link>,
    pub(crate) task: JoinHandle<()>,
    pub(crate) origin: Origin,
}

/// Why there is a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Somebody asked for this very link.
    Asked,
    /// The pattern that its database was configured with asks for it.
    Pattern,
    /// The node was found on the local network.
    Found(NodeId),
}

impl Held {
    /// The node that was found, if that is why there is the link.
    pub(crate) const fn found(&self) -> Option<NodeId> {
        match self.origin {
            Origin::Found(node) => Some(node),
            Origin::Asked | Origin::Pattern => None,
        }
    }

    pub(crate) const fn is_found(&self) -> bool {
        self.found().is_some()
    }
}

/// The databases of this node and their links.
///
/// Links run as tasks of the tokio runtime in which they are made, until they are removed or the topology is
/// shut down.
pub struct Topology {
    pub(crate) core: Core,
    pub(crate) peers: Arc<Peers>,
}

/// What links are made of.
#[derive(Clone)]
pub(crate) struct Core {
    identity: Arc<Identity>,
    known: Arc<KnownNodes>,
    pub(crate) options: ConnectOptions,
    pub(crate) tokens: Arc<TokenSource>,
    /// Which of the links go first.
    pub(crate) order: Order,
    state: Arc<Mutex<State>>,
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
        let core = Core {
            identity: Arc::new(identity),
            known: Arc::new(known),
            options: ConnectOptions::default(),
            tokens: Arc::default(),
            order: Order::default(),
            state: Arc::default(),
        };
        Self { core, peers: Arc::default() }
    }

    /// The same, with the token in a file as who this node's user is. It is read at every connection, and when it is
    /// replaced, open sessions go on with the new one. If it is `needed`, no link connects without it.
    #[must_use]
    pub fn with_token_file(mut self, path: impl Into<PathBuf>, needed: bool) -> Self {
        self.core.tokens = Arc::new(TokenSource::file(path.into(), needed));
        self
    }

    /// Says who this node's user is, to connections from now on and to open sessions; not for a topology with a
    /// token file, which decides.
    pub fn set_token(&self, token: Option<Token>) {
        self.core.tokens.set(token);
    }

    /// This node's identity.
    #[must_use]
    pub const fn identity(&self) -> &Arc<Identity> {
        &self.core.identity
    }

    /// Adds a database under a name.
    ///
    /// # Errors
    /// [`TopologyError::Name`] and [`TopologyError::Registered`].
    pub fn register(&self, database: &Database, name: &str) -> Result<DatabaseNode, TopologyError> {
        let parsed = name.parse::<DatabaseName>();
        let parsed = parsed.map_err(|error| TopologyError::Name(name.to_owned(), error.to_string()))?;
        let node = DatabaseNode::new(&parsed);
        let mut state = self.state();
        if state.databases.contains_key(&node) {
            return Err(TopologyError::Registered(name.to_owned()));
        }
        database.meet_at(&state.meeting);
        keep_dropping(&database.inner);
        state.databases.insert(node, database.clone());
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
        self.state().databases.iter().map(|(node, database)| (*node, database.clone())).collect()
    }

    /// Declares that a field of `child` holds ids of records of `parent` (which may be the same database), and what
    /// the deletion of such a record does to those that refer to it. It holds for every write through [`Database`]
    /// and [`Topology::transaction`], in the same transaction; deletions that come in over links are followed by
    /// ordinary changes. An id that was never seen here is "not here yet" and no error. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// If the field's index can't be made.
    pub fn relate(
        &self,
        child: &Database,
        field: &str,
        parent: &Database,
        on_delete: OnDelete,
    ) -> Result<(), StoreError> {
        crate::relation::relate(child, field, parent, on_delete)
    }

    /// Runs `work` in a transaction over several databases: all of it happens in all of them or nothing, also if the
    /// process ends or the power fails at any moment, and whichever file is opened first afterwards. A join sees all
    /// of it or nothing. What comes in over links waits meanwhile; `work` must not write in any other way.
    ///
    /// ```
    /// # use blazedb::{Database, Identity, Password, Topology, record};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let open = |name: &str| Database::open(dir.path().join(name), Password::Plaintext);
    /// # let (bugs, comments) = (open("bugs")?, open("comments")?);
    /// # let topology = Topology::new(Identity::generate().unwrap());
    /// topology.transaction([&bugs, &comments], |tx| {
    ///     let bug = tx.insert(&bugs, record! { "title" => "crash" })?;
    ///     tx.insert(&comments, record! { "bugId" => bug, "text" => "on startup" })
    /// })?;
    /// assert_eq!(comments.join(&bugs).on("bugId", "id").all()?.len(), 1);
    /// # Ok::<(), blazedb::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// What `work` answers, and whatever keeps the commit from being durable: then nothing happened.
    /// [`StoreError::Unfinished`] if it happened and a file could not take in its part yet.
    pub fn transaction<'d, T>(
        &self,
        databases: impl IntoIterator<Item = &'d Database>,
        work: impl FnOnce(&mut CrossTransaction<'_, '_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        crate::across::run(databases, work)
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
        node: impl Registered,
        remote: RemoteNode,
        policy: SyncPolicy,
    ) -> Result<LinkId, TopologyError> {
        let node = self.node_of(&node)?;
        self.core.connect(node, remote, policy, Origin::Asked)
    }

    /// Has a link go on in another way, on the session that is open: nothing is lost, sent twice or sent that the
    /// new policy keeps back, and what did not change is not touched. If `key` is given and the other side has
    /// another one, the session ends.
    ///
    /// # Errors
    /// [`TopologyError::NoLink`].
    pub fn change_connection(
        &self,
        id: LinkId,
        key: Option<Fingerprint>,
        policy: SyncPolicy,
    ) -> Result<(), TopologyError> {
        let terms = Terms { policy, pins: self.core.pins(key) };
        self.core.change(id, terms)
    }

    pub(crate) fn node_of(&self, database: &impl Registered) -> Result<DatabaseNode, TopologyError> {
        let state = self.state();
        let found = state.databases.iter().find(|(node, known)| database.is(node, known));
        found.map(|(node, _)| *node).ok_or_else(|| TopologyError::Unknown(database.called()))
    }

    /// Removes a link; an open session says goodbye first.
    ///
    /// # Errors
    /// [`TopologyError::NoLink`].
    pub async fn remove_connection(&self, id: LinkId) -> Result<(), TopologyError> {
        let removed = self.state().links.remove(&id);
        let Held { link, task, .. } = removed.ok_or(TopologyError::NoLink)?;
        link.stop();
        let _ = tokio::time::timeout(GOODBYE, task).await;
        Ok(())
    }

    /// Every link as it is now.
    #[must_use]
    pub fn links(&self) -> Vec<(LinkId, LinkStatus)> {
        let links: Vec<_> =
            self.state().links.iter().map(|(id, held)| (*id, Arc::clone(&held.link))).collect();
        links.into_iter().map(|(id, link)| (id, link.status())).collect()
    }

    /// Every link as it is now. One whose other side has not yet said where its feed ended at this moment is not
    /// caught up.
    #[must_use]
    pub fn links_since(&self, moment: Moment) -> Vec<LinkStatus> {
        let links: Vec<_> = self.state().links.values().map(|held| Arc::clone(&held.link)).collect();
        links.into_iter().map(|link| link.status_since(moment)).collect()
    }

    /// Links that wait to try again do so at once.
    pub fn retry_now(&self) {
        self.state().links.values().for_each(|held| held.link.nudge());
    }

    /// Waits until every link is caught up both ways with what was there when this was called, as far as it may be:
    /// each other side is asked. Answers the links that are not when the time is over.
    pub async fn sync(&self, timeout: Duration) -> Vec<LinkStatus> {
        let deadline = tokio::time::Instant::now() + timeout;
        let now = Moment::now();
        loop {
            let behind: Vec<LinkStatus> =
                self.links_since(now).into_iter().filter(LinkStatus::is_behind).collect();
            let hopeless = !behind.is_empty() && behind.iter().all(|link| link.state == LinkState::Refused);
            let done = behind.is_empty() && self.peers_settled();
            if done || hopeless || tokio::time::Instant::now() >= deadline {
                return behind;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops every link and waits for open sessions to say goodbye.
    pub async fn shutdown(&self) {
        self.peers.leave();
        let links = std::mem::take(&mut self.state().links);
        links.values().for_each(|held| held.link.stop());
        for Held { task, .. } in links.into_values() {
            let _ = tokio::time::timeout(GOODBYE, task).await;
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.core.state()
    }
}

impl Core {
    pub(crate) const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links a database and keeps the link up.
    pub(crate) fn connect(
        &self,
        node: DatabaseNode,
        remote: RemoteNode,
        policy: SyncPolicy,
        origin: Origin,
    ) -> Result<LinkId, TopologyError> {
        let target = remote.target.map_err(|(url, problem)| TopologyError::Address(url, problem))?;
        let terms = Terms { policy, pins: self.pins(remote.key) };
        let origin = (origin, Arc::clone(&self.tokens));
        self.hold(node, (Place::Remote(target), remote.database), terms, origin)
    }

    /// Links a database to another one of this process.
    pub(crate) fn connect_inside(
        &self,
        node: DatabaseNode,
        parent: DatabaseNode,
        served: Database,
        policy: SyncPolicy,
    ) -> Result<LinkId, TopologyError> {
        let terms = Terms { policy, pins: self.pins(None) };
        let origin = (Origin::Asked, Arc::clone(&self.tokens));
        self.hold(node, (Place::Local(parent, served), parent.name().to_owned()), terms, origin)
    }

    pub(crate) fn hold(
        &self,
        node: DatabaseNode,
        (place, remote_database): (Place, String),
        terms: Terms,
        (origin, tokens): (Origin, Arc<TokenSource>),
    ) -> Result<LinkId, TopologyError> {
        let mut state = self.state();
        let database = state.databases.get(&node).cloned();
        let config = LinkConfig {
            database: database.ok_or_else(|| TopologyError::Unknown(node.name().to_owned()))?,
            node,
            database_name: node.name().to_owned(),
            place,
            remote_database,
            identity: Arc::clone(&self.identity),
            options: self.options.clone(),
            tokens,
            order: self.order.clone(),
        };
        if state.next_link == 0 {
            self.tokens.keep_fresh();
        }
        state.next_link += 1;
        let id = LinkId(state.next_link);
        let (link, task) = start(config, terms, matches!(origin, Origin::Found(_)));
        state.links.insert(id, Held { link, task, origin });
        Ok(id)
    }

    pub(crate) fn pins(&self, key: Option<Fingerprint>) -> PinPolicy {
        match key {
            Some(key) => PinPolicy::Exactly(key),
            None => PinPolicy::FirstUse(Arc::clone(&self.known)),
        }
    }

    /// Has a link go on in another way.
    pub(crate) fn change(&self, id: LinkId, terms: Terms) -> Result<(), TopologyError> {
        let mut state = self.state();
        let held = state.links.get_mut(&id).ok_or(TopologyError::NoLink)?;
        let idle = |policy: &SyncPolicy| policy.mode == SyncMode::LocalOnly;
        let was_idle = idle(&held.link.terms().policy);
        match (was_idle, idle(&terms.policy)) {
            (false, false) => held.link.change(terms),
            _ => {
                held.link.stop();
                let (config, found) = (held.link.config.clone(), held.link.found);
                (held.link, held.task) = start(config, terms, found);
            }
        }
        Ok(())
    }
}

/// A link that is kept up from now on, unless it is to stay local.
fn start(config: LinkConfig, terms: Terms, found: bool) -> (Arc<Link>, JoinHandle<()>) {
    let idle = terms.policy.mode == SyncMode::LocalOnly;
    let link = Link::new(config, terms, found);
    if idle {
        return (link, tokio::spawn(async {}));
    }
    link.rank.begin();
    let task = tokio::spawn(Arc::clone(&link).run());
    (link, task)
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.state().links.values().for_each(|held| held.link.stop());
    }
}
