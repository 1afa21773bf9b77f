//! A node as its topology file declares it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use blazedb::{
    AccessRules, Database, DatabaseNode, Dispute, Durability, Identity, KnownNodes, LinkId, LinkStatus,
    Password, Resolution, StoreError, StoreOptions, Topology, TopologyError,
};
use blazedb_core::topology::{
    self, AccessSpec, Actual, FileSpec, LinkSpec, PasswordSource, PlanError, Resolver, ServeMode, SyncSpec,
    TopologySpec,
};
use blazedb_transport::tls::{TlsError, acceptor_from_files};
use blazedb_transport::{FingerprintError, IdentityError, PinError};

use crate::auth::{AuthError, Authenticator, Inviter};
use crate::listener::{Listener, ListenerOptions, Served};
use crate::terms::{found_terms, terms};

/// A node can't be set up or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A database file can't be opened.
    #[error("database {name}: {error}")]
    Store {
        /// The database.
        name: String,
        /// Why.
        error: StoreError,
    },
    /// A password is not where it should be.
    #[error("database {name}: {problem}")]
    Password {
        /// The database.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The identity file can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The file of known nodes can't be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// A link can't be declared.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A pinned key is none.
    #[error("database {name}: remote_key: {error}")]
    Key {
        /// The database.
        name: String,
        /// Why.
        error: FingerprintError,
    },
    /// The specification contradicts itself.
    #[error("database {name}: {problem}")]
    Spec {
        /// The database.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The specification can't be put to work.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// `[auth]` can't be put to work.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// An address can't be listened on.
    #[error("{address}: can't listen: {error}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        error: std::io::Error,
    },
    /// A directory can't be made.
    #[error("{}: {error}", .path.display())]
    Data {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The token of a node that names no other `token_file`, among its own files.
pub const TOKEN_FILE: &str = "token.jwt";

/// What a node does once its databases are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Only files: no link, no listener.
    FilesOnly,
    /// Links, but no listener.
    Links,
    /// Everything.
    Serve,
}

/// A running node.
pub struct Node {
    file: PathBuf,
    data: PathBuf,
    topology: Topology,
    listener: Option<Listener>,
    state: RwLock<State>,
    /// Held by whoever changes what the node runs.
    pub(crate) applying: tokio::sync::Mutex<()>,
}

/// What a node runs; it may change while it does.
pub(crate) struct State {
    /// What was declared last.
    pub(crate) spec: Arc<TopologySpec>,
    /// What there is of it.
    pub(crate) actual: Actual,
    pub(crate) databases: BTreeMap<String, (DatabaseNode, Database)>,
    /// Links by the database's name and their place there.
    pub(crate) links: Vec<(String, LinkSpec, LinkId)>,
}

impl Node {
    /// The directory of a node's files: `spec.node.data` relative to the topology file.
    #[must_use]
    pub fn data_dir(spec: &TopologySpec, topology_file: &Path) -> PathBuf {
        let base = topology_file.parent().unwrap_or(Path::new("."));
        base.join(&spec.node.data)
    }

    /// The local socket of a node with this data directory.
    #[must_use]
    pub fn socket_path(data: &Path) -> PathBuf {
        data.join("node.sock")
    }

    /// Opens the databases of `spec` (all, or those in `only`), then links and listens as `mode` says.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub async fn open(
        spec: TopologySpec,
        topology_file: &Path,
        mode: OpenMode,
        only: Option<&[String]>,
    ) -> Result<Self, NodeError> {
        let base = topology_file.parent().unwrap_or(Path::new(".")).to_owned();
        let data = Self::data_dir(&spec, topology_file);
        std::fs::create_dir_all(&data).map_err(|error| NodeError::Data { path: data.clone(), error })?;
        let identity = Identity::load_or_create(&data.join("identity.key"))?.named(&spec.node.name);
        let known = KnownNodes::open(&data.join("known_nodes"))?;
        let topology = Topology::with_known_nodes(identity, known);
        let topology = match &spec.node.token_file {
            Some(file) => topology.with_token_file(base.join(file), true),
            None => topology.with_token_file(data.join(TOKEN_FILE), false),
        };
        let actual = Actual::of(&spec)?;
        let (databases, links) = (BTreeMap::new(), Vec::new());
        let only = only.map(|only| with_relations(&spec, only));
        let state = RwLock::new(State { spec: Arc::new(spec), actual, databases, links });
        let file = topology_file.to_owned();
        let applying = tokio::sync::Mutex::default();
        let mut node = Self { file, data, topology, listener: None, state, applying };
        node.open_databases(&base, only.as_deref()).await?;
        node.relate()?;
        if mode == OpenMode::Serve {
            node.listen(&base).await?;
        }
        if mode != OpenMode::FilesOnly {
            node.link().await?;
        }
        if mode == OpenMode::Serve {
            node.announce()?;
        }
        Ok(node)
    }

    /// What was declared.
    #[must_use]
    pub fn spec(&self) -> Arc<TopologySpec> {
        Arc::clone(&self.state().spec)
    }

    /// The topology file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What paths in the topology file are relative to.
    pub(crate) fn base(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of this node's files.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The coordinator.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The listener, if this node has one.
    #[must_use]
    pub const fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// An open database.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<Database> {
        self.state().databases.get(name).map(|(_, database)| database.clone())
    }

    /// Every open database by name.
    #[must_use]
    pub fn databases(&self) -> Vec<(String, Database)> {
        let state = self.state();
        state.databases.iter().map(|(name, (_, database))| (name.clone(), database.clone())).collect()
    }

    /// Every link as it is now.
    #[must_use]
    pub fn links(&self) -> Vec<(LinkId, LinkStatus)> {
        self.topology.links()
    }

    /// Waits until every link is caught up; answers those that are not in time.
    pub async fn sync(&self, timeout: Duration) -> Vec<LinkStatus> {
        self.topology.sync(timeout).await
    }

    /// Stops links and listener; the databases close with the node.
    pub async fn shutdown(&self) {
        if let Some(listener) = &self.listener {
            listener.stop().await;
        }
        self.topology.shutdown().await;
    }

    async fn open_databases(&self, base: &Path, only: Option<&[String]>) -> Result<(), NodeError> {
        let spec = self.spec();
        let wanted = spec.databases.iter().map(|(name, spec)| (name.to_string(), spec));
        for (name, spec) in wanted.filter(|(name, _)| only.is_none_or(|only| only.contains(name))) {
            let opened = self.open_database(&name, &FileSpec::of(spec), base).await?;
            index(&name, opened, spec.indexes.clone(), spec.search.clone()).await?;
        }
        Ok(())
    }

    fn relate(&self) -> Result<(), NodeError> {
        for (name, spec) in &self.spec().databases {
            let Some(child) = self.database(name.as_str()) else { continue };
            for (field, relation) in &spec.relations {
                let Some(parent) = self.database(relation.to.as_str()) else { continue };
                let related = self.topology.relate(&child, field, &parent, relation.on_delete);
                related.map_err(|error| NodeError::Store { name: name.to_string(), error })?;
            }
        }
        Ok(())
    }

    /// Opens a database's file.
    pub(crate) async fn open_database(
        &self,
        name: &str,
        file: &FileSpec,
        base: &Path,
    ) -> Result<Database, NodeError> {
        let password = database_password(name, &file.password, base)?;
        let path = self.data.join(&file.file);
        let drift = self.spec().node.clock_drift_limit.as_millis();
        let options = StoreOptions {
            durability: match file.durability {
                topology::Durability::Full => Durability::Full,
                topology::Durability::Normal => Durability::Normal,
            },
            drift_limit_ms: u64::try_from(drift).unwrap_or(u64::MAX),
            tombstone_lease_ms: u64::try_from(file.tombstone_lease.as_millis()).unwrap_or(u64::MAX),
            ..StoreOptions::default()
        };
        // Deriving a key and checking a file take a while: not on a thread that others wait for.
        let opened = tokio::task::spawn_blocking(move || Database::open_with(path, &password, options)).await;
        let database = opened
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
            .map_err(|error| NodeError::Store { name: name.to_owned(), error })?;
        let registered = self.topology.register(&database, name)?;
        self.state_mut().databases.insert(name.to_owned(), (registered, database.clone()));
        Ok(database)
    }

    async fn link(&self) -> Result<(), NodeError> {
        let databases = self.state().actual.databases.clone();
        for (name, database) in databases {
            if self.database(name.as_str()).is_some() {
                for link in database.links {
                    self.open_link(name.as_str(), link).await?;
                }
                self.seek(name.as_str(), &database.seeks).await?;
            }
        }
        Ok(())
    }

    /// Has an open database look for peers in these ways, and in no others.
    pub(crate) async fn seek(&self, name: &str, seeks: &[SyncSpec]) -> Result<(), NodeError> {
        let found = self.state().databases.get(name).map(|(registered, _)| *registered);
        let registered = found.ok_or_else(|| TopologyError::Unknown(name.to_owned()))?;
        let remotes: Vec<&str> = seeks.iter().map(|sync| sync.remote.as_str()).collect();
        self.topology.leave_peers_but(registered, &remotes).await?;
        for sync in seeks {
            let (_, policy) = found_terms(name, sync)?;
            self.topology.seek_peers(registered, sync.remote.as_str(), policy)?;
        }
        Ok(())
    }

    /// Says on the local network which databases peers find here: those that are served and look for peers themselves.
    pub(crate) fn announce(&self) -> Result<(), NodeError> {
        let state = self.state();
        let on_offer = |(_, database): &(_, &topology::ActualDatabase)| {
            database.serve != ServeMode::None && !database.seeks.is_empty()
        };
        let offers = state.actual.databases.iter().filter(on_offer).map(|(name, _)| name.to_string());
        Ok(self.topology.announce(offers)?)
    }

    /// Opens a link of an open database and keeps it up.
    pub(crate) async fn open_link(&self, name: &str, link: LinkSpec) -> Result<(), NodeError> {
        let (remote, policy) = terms(name, &link)?;
        let found = self.state().databases.get(name).map(|(registered, _)| *registered);
        let registered = found.ok_or_else(|| TopologyError::Unknown(name.to_owned()))?;
        let id = self.topology.connect_remote(registered, remote, policy).await?;
        self.state_mut().links.push((name.to_owned(), link, id));
        Ok(())
    }

    /// A database as it is to be served; `None` if it is not.
    ///
    /// # Errors
    /// [`NodeError::Spec`] if an access rule is none.
    pub(crate) fn served(
        &self,
        name: &str,
        serve: ServeMode,
        access: &AccessSpec,
        decides: Option<Resolver>,
    ) -> Result<Option<Served>, NodeError> {
        let Some(database) = self.database(name) else { return Ok(None) };
        database.store().set_decides(decides.is_some());
        let newest = decides == Some(Resolver::Newest);
        database.store().set_resolver(newest.then(|| Arc::new(newest_stands) as blazedb::Resolver));
        if serve == ServeMode::None {
            return Ok(None);
        }
        let access = AccessRules::compile(access)
            .map_err(|error| NodeError::Spec { name: name.to_owned(), problem: error.to_string() })?;
        Ok(Some(Served { database, serve, access: Arc::new(access) }))
    }

    async fn listen(&mut self, base: &Path) -> Result<(), NodeError> {
        let spec = self.spec();
        let Some(address) = &spec.node.listen else { return Ok(()) };
        let tls = match &spec.node.tls {
            Some(tls) => Some(acceptor_from_files(&base.join(&tls.cert), &base.join(&tls.key))?),
            None => None,
        };
        let mut served = BTreeMap::new();
        for (name, database) in &spec.databases {
            let decides = database.decides();
            let entry = self.served(name.as_str(), database.serve, &database.access, decides)?;
            served.extend(entry.map(|entry| (name.to_string(), entry)));
        }
        let auth = Arc::new(Authenticator::new(&spec.auth, base, &self.data)?);
        let inviter = Inviter { spec: spec.auth.clone(), base: base.to_owned(), data: self.data.clone() };
        let options = ListenerOptions { auth, inviter: Some(inviter), tls, ..ListenerOptions::default() };
        let identity = Arc::clone(self.topology.identity());
        let address = address.to_string();
        let with_tls = options.tls.is_some();
        let listener = Listener::bind(&address, identity, served, options)
            .await
            .map_err(|error| NodeError::Listen { address, error })?;
        self.topology.listens(listener.address(), with_tls, listener.doorman());
        self.listener = Some(listener);
        Ok(())
    }
}

/// These databases and all that relations connect them to: a rule holds only where both ends are open.
fn with_relations(spec: &TopologySpec, only: &[String]) -> Vec<String> {
    let mut all = only.to_vec();
    let mut at = 0;
    while let Some(name) = all.get(at).cloned() {
        for (child, declared) in &spec.databases {
            for relation in declared.relations.values() {
                let ends = [child.as_str(), relation.to.as_str()];
                if ends.contains(&name.as_str()) {
                    let new = ends.into_iter().filter(|end| !all.iter().any(|known| known == end));
                    let new: Vec<String> = new.map(str::to_owned).collect();
                    all.extend(new);
                }
            }
        }
        at += 1;
    }
    all
}

/// As an authority, this node takes the newer of two writes that had not seen each other.
fn newest_stands(dispute: &Dispute<'_>) -> Resolution {
    if dispute.child_stamp > dispute.parent_stamp { Resolution::TakeChild } else { Resolution::KeepParent }
}

/// Makes filters and sorting by some fields fast, and others searchable.
pub(crate) async fn index(
    name: &str,
    database: Database,
    fields: Vec<String>,
    search: Vec<String>,
) -> Result<(), NodeError> {
    let work = move || {
        fields.iter().try_for_each(|field| database.store().ensure_index(field))?;
        database.set_search_fields(search)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        .map_err(|error| NodeError::Store { name: name.to_owned(), error })
}

/// The password of a database, from where its entry says. Files are relative to `base`.
///
/// # Errors
/// [`NodeError::Password`] if it is not there.
pub fn database_password(name: &str, source: &PasswordSource, base: &Path) -> Result<Password, NodeError> {
    let problem = |problem: String| NodeError::Password { name: name.to_owned(), problem };
    match source {
        PasswordSource::Plaintext => Ok(Password::Plaintext),
        PasswordSource::Env(variable) => Password::from_env(variable).map_err(|_| {
            problem(format!("its password is to be in the environment variable {variable}: set it"))
        }),
        PasswordSource::File(file) => {
            let path = base.join(file);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| problem(format!("its password file {}: {error}", path.display())))?;
            Ok(Password::Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        PasswordSource::None => {
            Err(problem("no password: set password_env or password_file, or plaintext = true".to_owned()))
        }
    }
}
