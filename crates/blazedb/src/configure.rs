//! Patterns put to work: from what is wanted of a database to its links, and from one wish to the next.

use std::sync::Arc;

use blazedb_core::topology::{Contradiction, PatternKind, SyncMode};
use blazedb_transport::Identity;

use crate::database::Database;
use crate::link::{Place, Terms};
use crate::pattern::{Pattern, Wanted, is_same};
use crate::policy::SyncPolicy;
use crate::registered::Registered;
use crate::remote_node::RemoteNode;
use crate::topology::{DatabaseNode, LinkId, Origin, Topology, TopologyError};

/// The constructors of one pattern each. All of them take databases with the names that they have on both sides.
impl Topology {
    /// A topology whose databases all have one pattern.
    ///
    /// # Errors
    /// [`TopologyError`] about a name or an address.
    pub async fn with_pattern(
        identity: Identity,
        pattern: Pattern,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        let topology = Self::new(identity);
        for (name, database) in databases {
            topology.register(database, name)?;
            topology.configure(database, pattern.clone()).await?;
        }
        Ok(topology)
    }

    /// Both ways with the hub at `url`.
    ///
    /// ```
    /// # use blazedb::{Database, Identity, Password, Topology};
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let (bugs, identity) = (Database::open(dir.path().join("bugs"), Password::Plaintext)?, Identity::generate()?);
    /// let topology = Topology::hub_and_spoke(identity, "ws://127.0.0.1:7500", [("bugs", &bugs)]).await?;
    /// assert_eq!(topology.links()[0].1.remote, "ws://127.0.0.1:7500");
    /// # topology.shutdown().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Topology::with_pattern`].
    pub async fn hub_and_spoke(
        identity: Identity,
        url: &str,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        Self::with_pattern(identity, Pattern::hub_and_spoke(url), databases).await
    }

    /// Both ways with each of `peers`.
    ///
    /// ```
    /// # use blazedb::{Database, Identity, Password, Topology};
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let (bugs, identity) = (Database::open(dir.path().join("bugs"), Password::Plaintext)?, Identity::generate()?);
    /// let peers = ["ws://127.0.0.1:7401", "ws://127.0.0.1:7402"];
    /// let topology = Topology::mesh(identity, peers, [("bugs", &bugs)]).await?;
    /// assert_eq!(topology.links().len(), 2);
    /// # topology.shutdown().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Topology::with_pattern`].
    pub async fn mesh<U: Into<String>>(
        identity: Identity,
        peers: impl IntoIterator<Item = U>,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        Self::with_pattern(identity, Pattern::mesh(peers), databases).await
    }

    /// Children of the node at `parent`, which decides: see [`SyncPolicy::authority`].
    ///
    /// # Errors
    /// As [`Topology::with_pattern`].
    pub async fn star(
        identity: Identity,
        parent: &str,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        Self::with_pattern(identity, Pattern::star(parent), databases).await
    }

    /// With the nearest of `edges`; with `master` while none answers.
    ///
    /// ```
    /// # use blazedb::{Database, Identity, Password, Topology};
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let (bugs, identity) = (Database::open(dir.path().join("bugs"), Password::Plaintext)?, Identity::generate()?);
    /// let edges = ["ws://127.0.0.1:7501", "ws://127.0.0.1:7502"];
    /// let topology = Topology::hierarchical(identity, "ws://127.0.0.1:7500", edges, [("bugs", &bugs)]).await?;
    /// assert_eq!(topology.links().len(), 1, "it goes to one of them");
    /// # topology.shutdown().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Topology::with_pattern`].
    pub async fn hierarchical<U: Into<String>>(
        identity: Identity,
        master: &str,
        edges: impl IntoIterator<Item = U>,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        Self::with_pattern(identity, Pattern::hierarchical(master, edges), databases).await
    }

    /// With the next node upstream.
    ///
    /// # Errors
    /// As [`Topology::with_pattern`].
    pub async fn chain(
        identity: Identity,
        upstream: &str,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        Self::with_pattern(identity, Pattern::chain(upstream), databases).await
    }

    /// Receivers of the node at `source`.
    ///
    /// # Errors
    /// As [`Topology::with_pattern`].
    pub async fn broadcast(
        identity: Identity,
        source: &str,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        Self::with_pattern(identity, Pattern::broadcast(source), databases).await
    }

    /// Senders to the node at `sink`.
    ///
    /// # Errors
    /// As [`Topology::with_pattern`].
    pub async fn aggregation(
        identity: Identity,
        sink: &str,
        databases: impl IntoIterator<Item = (&str, &Database)>,
    ) -> Result<Self, TopologyError> {
        Self::with_pattern(identity, Pattern::aggregation(sink), databases).await
    }
}

impl Topology {
    /// Gives a database a pattern, in place of the one that it was given before. Links to the same place go on, on their
    /// open sessions; the others are closed and opened. Links made by [`Topology::connect_remote`] and
    /// [`Topology::add_peer_connection`] are not the pattern's, and stay. Must be called inside a tokio runtime.
    ///
    /// ```
    /// # use blazedb::{Database, Identity, Password, Pattern, SyncMode, Topology};
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let users = Database::open(dir.path().join("users"), Password::Plaintext)?;
    /// let topology = Topology::new(Identity::generate()?);
    /// topology.register(&users, "users")?;
    /// topology.configure(&users, Pattern::broadcast("wss://hub.example.com").mode(SyncMode::ReadOnly)).await?;
    /// assert_eq!(topology.links()[0].1.pattern, "broadcast");
    /// topology.configure(&users, Pattern::local_only()).await?;
    /// assert!(topology.links().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TopologyError`]; then nothing has changed.
    pub async fn configure(&self, database: impl Registered, pattern: Pattern) -> Result<(), TopologyError> {
        let node = self.node_of(&database)?;
        let (wanted, sought) = pattern.expand(node.name())?;
        for id in self.not_wanted(&node, &wanted) {
            self.remove_connection(id).await?;
        }
        for Wanted { remote, policy } in wanted {
            match self.link_to(&node, &remote) {
                Some((id, terms)) => {
                    let new = Terms { policy, pins: self.core.pins(remote.key) };
                    if !new.is_same(&terms) {
                        self.core.change(id, new)?;
                    }
                    self.state()
                        .links
                        .get_mut(&id)
                        .into_iter()
                        .for_each(|held| held.origin = Origin::Pattern);
                }
                None => drop(self.core.connect(node, remote, policy, Origin::Pattern)?),
            }
        }
        if sought.is_empty() {
            return self.leave_peers(node).await;
        }
        sought.into_iter().try_for_each(|peers| self.seek_peers(node, peers.remote.as_str(), peers.policy))
    }

    /// Links of a database that its pattern asked for and does not ask for any more.
    fn not_wanted(&self, node: &DatabaseNode, wanted: &[Wanted]) -> Vec<LinkId> {
        let state = self.state();
        let own =
            state.links.iter().filter(|(_, held)| held.origin == Origin::Pattern && held.link.is_of(node));
        let is_wanted = |place: &Place, database: &str| {
            let Place::Remote(target) = place else { return false };
            wanted.iter().any(|wanted| is_same(target, database, &wanted.remote))
        };
        own.filter(|(_, held)| !is_wanted(&held.link.config.place, &held.link.config.remote_database))
            .map(|(id, _)| *id)
            .collect()
    }

    fn link_to(&self, node: &DatabaseNode, remote: &RemoteNode) -> Option<(LinkId, Terms)> {
        let state = self.state();
        let leads_there = |place: &Place, database: &str| match place {
            Place::Remote(target) => is_same(target, database, remote),
            Place::Local(..) => false,
        };
        state
            .links
            .iter()
            .filter(|(_, held)| held.link.is_of(node))
            .find(|(_, held)| leads_there(&held.link.config.place, &held.link.config.remote_database))
            .map(|(id, held)| (*id, held.link.terms().clone()))
    }

    /// Has every link of a database go on as `change` says, on the sessions that are open.
    ///
    /// ```
    /// # use blazedb::{Database, Identity, Password, SyncMode, Topology};
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let (bugs, identity) = (Database::open(dir.path().join("bugs"), Password::Plaintext)?, Identity::generate()?);
    /// # let topology = Topology::hub_and_spoke(identity, "ws://127.0.0.1:7500", [("bugs", &bugs)]).await?;
    /// topology.reconfigure(&bugs, |spec| spec.mode(SyncMode::ReadOnly)).await?;
    /// assert_eq!(topology.links()[0].1.mode, SyncMode::ReadOnly);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TopologyError::Unknown`]; [`TopologyError::Contradiction`] if the pattern of a link does not allow its new mode:
    /// then no link has changed.
    #[allow(clippy::unused_async, reason = "reconfiguring may come to wait for the other sides")]
    pub async fn reconfigure(
        &self,
        database: impl Registered,
        change: impl Fn(SyncPolicy) -> SyncPolicy,
    ) -> Result<(), TopologyError> {
        let node = self.node_of(&database)?;
        let links: Vec<(LinkId, Terms)> = {
            let state = self.state();
            let own = state.links.iter().filter(|(_, held)| held.link.is_of(&node));
            own.map(|(id, held)| (*id, held.link.terms().clone())).collect()
        };
        let change = |policy| {
            let policy = change(policy);
            check_mode(&policy)
                .map_err(|problem| TopologyError::Contradiction(node.name().to_owned(), problem))?;
            Ok(policy)
        };
        let changed = links
            .into_iter()
            .map(|(id, Terms { policy, pins })| Ok((id, Terms { policy: change(policy)?, pins })));
        let changed = changed.collect::<Result<Vec<_>, TopologyError>>()?;
        // First: links to peers that are found follow what is looked for.
        self.peers.reconfigure(node, change)?;
        changed.into_iter().try_for_each(|(id, terms)| self.core.change(id, terms))
    }

    /// [`Topology::reconfigure`], with the modes left as they are.
    ///
    /// # Errors
    /// [`TopologyError::Unknown`].
    pub async fn update_policy(
        &self,
        database: impl Registered,
        change: impl Fn(SyncPolicy) -> SyncPolicy,
    ) -> Result<(), TopologyError> {
        self.reconfigure(database, |policy| {
            let mode = policy.mode;
            change(policy).mode(mode)
        })
        .await
    }

    /// Links a database to a peer besides. The link has the policy of the database's first one, if there is one: adding
    /// a link never opens what the database closed.
    ///
    /// # Errors
    /// As [`Topology::connect_remote`].
    pub async fn add_peer_connection(
        &self,
        database: impl Registered,
        remote: RemoteNode,
    ) -> Result<LinkId, TopologyError> {
        let node = self.node_of(&database)?;
        let policy = {
            let state = self.state();
            let mut own = state.links.values().filter(|held| held.link.is_of(&node));
            own.next().map(|held| held.link.terms().policy.clone())
        };
        self.core.connect(
            node,
            remote,
            policy.unwrap_or_default().pattern("mesh").authority(false),
            Origin::Asked,
        )
    }

    /// Registers `child` under a name and links it to a database of this node, inside the process: no socket, but the same
    /// session, policy and status as any other link. The child is the side that connects.
    ///
    /// ```
    /// # use blazedb::{Database, Identity, Password, SyncPolicy, Topology, field, record};
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let open = |name: &str| Database::open(dir.path().join(name), Password::Plaintext);
    /// let (bugs, urgent) = (open("bugs")?, open("urgent")?);
    /// let topology = Topology::new(Identity::generate()?);
    /// topology.register(&bugs, "bugs")?;
    /// let policy = SyncPolicy::new().filter(field("priority").gt(5));
    /// topology.create_child(&bugs, &urgent, "urgent", policy).await?;
    /// bugs.insert(record! { "priority" => 1 })?;
    /// bugs.insert(record! { "priority" => 8 })?;
    /// assert!(topology.sync(std::time::Duration::from_secs(30)).await.is_empty());
    /// assert_eq!(urgent.query().count()?, 1);
    /// # topology.shutdown().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TopologyError`] about a name, or [`TopologyError::Itself`].
    #[allow(clippy::unused_async, reason = "connecting may come to wait for the coordinator")]
    pub async fn create_child(
        &self,
        parent: impl Registered,
        child: &Database,
        name: &str,
        policy: SyncPolicy,
    ) -> Result<LinkId, TopologyError> {
        let parent = self.node_of(&parent)?;
        let Some(served) = self.database(parent.name()) else {
            return Err(TopologyError::Unknown(parent.name().to_owned()));
        };
        if Arc::ptr_eq(&served.inner, &child.inner) {
            return Err(TopologyError::Itself(parent.name().to_owned()));
        }
        let node = self.register(child, name)?;
        self.core.connect_inside(node, parent, served, policy.pattern("star"))
    }

    /// Forgets a database and removes its links; open sessions say goodbye first.
    ///
    /// # Errors
    /// [`TopologyError::Unknown`].
    pub async fn unregister(&self, database: impl Registered) -> Result<(), TopologyError> {
        let node = self.node_of(&database)?;
        self.peers.forget(node);
        let links: Vec<LinkId> = {
            let mut state = self.state();
            state.databases.remove(&node);
            let own = state.links.iter().filter(|(_, held)| held.link.concerns(&node));
            own.map(|(id, _)| *id).collect()
        };
        for id in links {
            self.remove_connection(id).await?;
        }
        Ok(())
    }
}

/// A link stays what its pattern promises.
fn check_mode(policy: &SyncPolicy) -> Result<(), Contradiction> {
    match policy.pattern.parse::<PatternKind>() {
        Ok(pattern) if !pattern.allows(policy.mode) => {
            Err(Contradiction::Mode { pattern, mode: policy.mode })
        }
        _ if policy.release && policy.mode != SyncMode::WriteOnly => {
            Err(Contradiction::ReleaseOfReader { mode: policy.mode })
        }
        _ => Ok(()),
    }
}
