//! A node as its topology file declares it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    Database, DatabaseNode, Durability, Fingerprint, Identity, KnownNodes, LinkId, LinkStatus, Password,
    RemoteNode, StoreError, StoreOptions, SyncPolicy, Topology, TopologyError,
};
use blazedb_core::topology::{self, DatabaseSpec, LinkTarget, PasswordSource, ServeMode, TopologySpec};
use blazedb_transport::tls::{TlsError, acceptor_from_files};
use blazedb_transport::{FingerprintError, IdentityError, PinError};

use crate::listener::{Listener, ListenerOptions, Served};

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
    /// The certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    spec: TopologySpec,
    data: PathBuf,
    topology: Topology,
    databases: BTreeMap<String, (DatabaseNode, Database)>,
    listener: Option<Listener>,
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
        let identity = Identity::load_or_create(&data.join("identity.key"))?;
        let known = KnownNodes::open(&data.join("known_nodes"))?;
        let topology = Topology::with_known_nodes(identity, known);
        let mut node = Self { data, topology, databases: BTreeMap::new(), listener: None, spec };
        node.open_databases(&base, only).await?;
        if mode == OpenMode::Serve {
            node.listen(&base).await?;
        }
        if mode != OpenMode::FilesOnly {
            node.link().await?;
        }
        Ok(node)
    }

    /// What was declared.
    #[must_use]
    pub const fn spec(&self) -> &TopologySpec {
        &self.spec
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
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).map(|(_, database)| database)
    }

    /// Every open database by name.
    pub fn databases(&self) -> impl Iterator<Item = (&str, &Database)> {
        self.databases.iter().map(|(name, (_, database))| (name.as_str(), database))
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

    async fn open_databases(&mut self, base: &Path, only: Option<&[String]>) -> Result<(), NodeError> {
        let wanted: Vec<(String, DatabaseSpec)> = self
            .spec
            .databases
            .iter()
            .map(|(name, spec)| (name.to_string(), spec.clone()))
            .filter(|(name, _)| only.is_none_or(|only| only.contains(name)))
            .collect();
        for (name, spec) in wanted {
            let password = database_password(&name, &spec.password, base)?;
            let path = self.data.join(&spec.file);
            let options = StoreOptions {
                durability: match spec.durability {
                    topology::Durability::Full => Durability::Full,
                    topology::Durability::Normal => Durability::Normal,
                },
                drift_limit_ms: u64::try_from(self.spec.node.clock_drift_limit.as_millis())
                    .unwrap_or(u64::MAX),
                ..StoreOptions::default()
            };
            let indexes = spec.indexes.clone();
            // Deriving a key and checking a file take a while: not on a thread that others wait for.
            let opened = tokio::task::spawn_blocking(move || {
                let database = Database::open_with(path, &password, options)?;
                indexes.iter().try_for_each(|field| database.store().ensure_index(field))?;
                Ok(database)
            });
            let database = opened
                .await
                .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
                .map_err(|error| NodeError::Store { name: name.clone(), error })?;
            let registered = self.topology.register(&database, &name)?;
            self.databases.insert(name, (registered, database));
        }
        Ok(())
    }

    async fn link(&self) -> Result<(), NodeError> {
        for (name, (registered, _)) in &self.databases {
            let Some((_, spec)) = self.spec.databases.iter().find(|(n, _)| n.as_str() == name) else {
                continue;
            };
            let links = topology::expand(spec)
                .map_err(|problem| NodeError::Spec { name: name.clone(), problem: problem.to_string() })?;
            for link in links {
                let LinkTarget::Address(endpoint) = &link.target else {
                    let problem = format!("pattern {} is not served by this version", link.pattern);
                    return Err(NodeError::Spec { name: name.clone(), problem });
                };
                let mut remote = RemoteNode::new(endpoint.to_string(), link.remote.to_string());
                if let Some(key) = &link.remote_key {
                    let key = key.parse::<Fingerprint>();
                    remote = remote.key(key.map_err(|error| NodeError::Key { name: name.clone(), error })?);
                }
                if let Some(setting) = unserved_setting(&link.policy) {
                    let problem =
                        format!("policy: {setting} is not served by this version; nothing was linked");
                    return Err(NodeError::Spec { name: name.clone(), problem });
                }
                let compression = link.policy.compression != topology::Compression::Never;
                let policy = SyncPolicy::new().mode(link.mode).compression(compression);
                self.topology
                    .connect_remote(registered, remote, policy.pattern(link.pattern.as_str()))
                    .await?;
            }
        }
        Ok(())
    }

    async fn listen(&mut self, base: &Path) -> Result<(), NodeError> {
        let Some(address) = &self.spec.node.listen else { return Ok(()) };
        let tls = match &self.spec.node.tls {
            Some(tls) => Some(acceptor_from_files(&base.join(&tls.cert), &base.join(&tls.key))?),
            None => None,
        };
        let served = self.databases.iter().filter_map(|(name, (_, database))| {
            let (_, spec) = self.spec.databases.iter().find(|(n, _)| n.as_str() == name)?;
            let public = spec.access.public;
            let served = Served { database: database.clone(), serve: spec.serve, public };
            (spec.serve != ServeMode::None).then(|| (name.clone(), served))
        });
        let options =
            ListenerOptions { anonymous: self.spec.auth.anonymous, tls, ..ListenerOptions::default() };
        let identity = Arc::clone(self.topology.identity());
        let address = address.to_string();
        let listener = Listener::bind(&address, identity, served.collect(), options)
            .await
            .map_err(|error| NodeError::Listen { address, error })?;
        self.listener = Some(listener);
        Ok(())
    }
}

/// A part of a policy that this version can't keep. A link that would leave it out must not come up.
fn unserved_setting(policy: &topology::PolicySpec) -> Option<&'static str> {
    let checks = [
        (!policy.teams.is_empty(), "teams"),
        (policy.filter.is_some(), "where"),
        (!policy.exclude_fields.is_empty(), "exclude_fields"),
        (policy.encryption != topology::EncryptionSpec::SmartProxy, "encryption"),
        (policy.release_after_ack, "release_after_ack"),
    ];
    checks.into_iter().find(|(set, _)| *set).map(|(_, name)| name)
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
