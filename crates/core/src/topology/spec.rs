//! The specification's types. They hold what a file or an application asked for, defaults filled in.
//!
//! Paths are as written: relative ones are relative to the topology file, a database's file to `node.data`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::address::ListenAddress;
use super::error::Contradiction;
use super::keyword::keyword;
use super::name::DatabaseName;
use super::pattern::{Pattern, PatternKind, StarRole, SyncMode};
use super::policy::{EncryptionSpec, FilterText, PolicySpec};
use super::serve::ServeMode;
use crate::limits::{DEFAULT_DRIFT_LIMIT_MS, TOMBSTONE_LEASE_MS};

/// A whole topology: one node and its databases.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopologySpec {
    /// The process.
    pub node: NodeSpec,
    /// Who may connect to it.
    pub auth: AuthSpec,
    /// Its databases.
    pub databases: BTreeMap<DatabaseName, DatabaseSpec>,
}

/// `[node]`: the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSpec {
    /// What it is called in messages and graphs.
    pub name: String,
    /// Directory of the node's files.
    pub data: PathBuf,
    /// Where it accepts sessions, if it does.
    pub listen: Option<ListenAddress>,
    /// Where it serves the HTTP API and the visualizer, if it does.
    pub admin: Option<ListenAddress>,
    /// The file with the token that the HTTP API demands.
    pub admin_token_file: Option<PathBuf>,
    /// TLS for `listen`.
    pub tls: Option<TlsSpec>,
    /// The file with the token that says who this node is to others.
    pub token_file: Option<PathBuf>,
    /// How far a stamp may be ahead of this node's clock.
    pub clock_drift_limit: Duration,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            name: "node".to_owned(),
            data: PathBuf::from("."),
            listen: None,
            admin: None,
            admin_token_file: None,
            tls: None,
            token_file: None,
            clock_drift_limit: Duration::from_millis(DEFAULT_DRIFT_LIMIT_MS),
        }
    }
}

/// Certificate and key of a listener, as PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSpec {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[auth]`: who may connect to a node that listens. By default nobody.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthSpec {
    /// Whether peers without a token are let in (access rules still hold).
    pub anonymous: bool,
    /// Whether `anonymous` is meant on an address that other machines reach.
    pub insecure: bool,
    /// Whose tokens are accepted.
    pub issuers: Vec<IssuerSpec>,
    /// A JWKS file whose keys are accepted for any issuer.
    pub jwks_file: Option<PathBuf>,
    /// The list of tokens, users and nodes that are no longer accepted.
    pub revoked_file: Option<PathBuf>,
}

/// An issuer of tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuerSpec {
    /// The `iss` that its tokens carry.
    pub name: String,
    /// Where its keys are.
    pub key: IssuerKey,
    /// What the `aud` of its tokens must hold; without it they must have none.
    pub audience: Option<String>,
}

/// Where an issuer's public keys are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IssuerKey {
    /// A file with one public key.
    KeyFile(PathBuf),
    /// A file with a JSON Web Key Set (RFC 7517).
    JwksFile(PathBuf),
}

keyword! {
    /// What an acknowledged write survives.
    pub Durability {
        /// The loss of power.
        Full = "full",
        /// The crash of the process.
        Normal = "normal",
    }
}

keyword! {
    /// What the deletion of a record does to those that refer to it.
    pub OnDelete {
        /// It is refused as long as there are any.
        Restrict = "restrict",
        /// They are deleted too.
        Cascade = "cascade",
        /// Their field becomes null.
        SetNull = "set-null",
    }
}

keyword! {
    /// What an authority does about a write that had not seen what it holds.
    pub Resolver {
        /// What it holds stands.
        Parent = "parent",
        /// The newer one stands.
        Newest = "newest",
    }
}

/// `[databases.NAME.relations.FIELD]`: the field holds the id of a record of another database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelationSpec {
    /// The other database (or the same).
    pub to: DatabaseName,
    /// What a deletion there does here.
    pub on_delete: OnDelete,
}

/// Where a database's password comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PasswordSource {
    /// The environment variable of this name.
    Env(String),
    /// This file's content, without the end of its last line.
    File(PathBuf),
    /// The file is not encrypted, and somebody said so.
    Plaintext,
    /// Nobody said anything: the database can be looked at here but not opened.
    None,
}

/// `[databases.NAME]`: one database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabaseSpec {
    /// Its file, relative to `node.data` and inside it.
    pub file: PathBuf,
    /// Its password.
    pub password: PasswordSource,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// How long what a reader needs is kept for it while it is away.
    pub tombstone_lease: Duration,
    /// Fields with an index.
    pub indexes: Vec<String>,
    /// Fields in the full-text index.
    pub search: Vec<String>,
    /// Fields that hold ids of records of another database.
    pub relations: BTreeMap<String, RelationSpec>,
    /// The pattern and what goes with it.
    pub sync: SyncSpec,
    /// Hybrid: further links beside the pattern's.
    pub links: Vec<SyncSpec>,
    /// How it is served to nodes that connect.
    pub serve: ServeMode,
    /// What this node does as an authority, if anything was said about that.
    pub resolver: Option<Resolver>,
    /// Who may do what, on every path.
    pub access: AccessSpec,
}

impl DatabaseSpec {
    /// A database that stays local: default file, no password source, full durability, no access.
    #[must_use]
    pub fn local(name: &DatabaseName) -> Self {
        Self {
            file: PathBuf::from(format!("{name}.blazedb")),
            password: PasswordSource::None,
            durability: Durability::Full,
            tombstone_lease: Duration::from_millis(TOMBSTONE_LEASE_MS),
            indexes: Vec::new(),
            search: Vec::new(),
            relations: BTreeMap::new(),
            sync: SyncSpec::new(Pattern::LocalOnly, name.clone()),
            links: Vec::new(),
            serve: ServeMode::None,
            resolver: None,
            access: AccessSpec::default(),
        }
    }

    /// What this node does as the authority of every node that connects; `None` if it is not one: it then decides only
    /// for those that ask it to.
    #[must_use]
    pub fn decides(&self) -> Option<Resolver> {
        let mut patterns = std::iter::once(&self.sync).chain(&self.links).map(|sync| &sync.pattern);
        let declared = patterns.any(|pattern| {
            matches!(pattern, Pattern::Star { role: StarRole::Parent } | Pattern::Hierarchical { .. })
        });
        let served = self.serve != ServeMode::None;
        self.resolver.or(declared.then_some(Resolver::Parent)).filter(|_| served)
    }
}

/// A pattern and how its links behave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncSpec {
    /// Which links.
    pub pattern: Pattern,
    /// The database's name over there.
    pub remote: DatabaseName,
    /// The fingerprint that the remote's key must have; otherwise the first one seen is pinned.
    pub remote_key: Option<String>,
    /// Which ways.
    pub mode: SyncMode,
    /// Which records and fields, and how.
    pub policy: PolicySpec,
}

impl SyncSpec {
    /// A pattern with its default mode and policy.
    #[must_use]
    pub fn new(pattern: Pattern, remote: DatabaseName) -> Self {
        let mode = pattern.kind().default_mode();
        Self { pattern, remote, remote_key: None, mode, policy: PolicySpec::default() }
    }

    /// Finds what the pattern's promise rules out.
    ///
    /// # Errors
    /// The first [`Contradiction`].
    pub fn check(&self) -> Result<(), Contradiction> {
        let kind = self.pattern.kind();
        if !kind.allows(self.mode) {
            return Err(Contradiction::Mode { pattern: kind, mode: self.mode });
        }
        if self.policy.release_after_ack && self.mode != SyncMode::WriteOnly {
            return Err(Contradiction::ReleaseOfReader { mode: self.mode });
        }
        if matches!(&self.pattern, Pattern::Hierarchical { master: None, edges } if edges.is_empty()) {
            return Err(Contradiction::NoAddress);
        }
        if matches!(&self.policy.encryption, EncryptionSpec::Seal(fields) if fields.is_empty()) {
            return Err(Contradiction::NothingSealed);
        }
        if self.remote_key.is_some() && self.may_reach_many() {
            return Err(Contradiction::OneKeyForMany { pattern: kind });
        }
        Ok(())
    }

    /// Whether it looks for peers on the local network.
    #[must_use]
    pub fn seeks_peers(&self) -> bool {
        self.mode != SyncMode::LocalOnly && matches!(self.pattern, Pattern::Mesh { discover: true, .. })
    }

    /// Whether more than one remote node may answer.
    fn may_reach_many(&self) -> bool {
        match &self.pattern {
            Pattern::Mesh { peers, discover, .. } => *discover || peers.len() > 1,
            Pattern::Hierarchical { master, edges } => edges.len() + usize::from(master.is_some()) > 1,
            _ => false,
        }
    }

    /// Whether the other end of the links decides.
    #[must_use]
    pub const fn remote_is_authority(&self) -> bool {
        matches!(self.pattern.kind(), PatternKind::Star | PatternKind::Hierarchical)
    }
}

/// `[databases.NAME.access]`: rules in the filter language. A missing rule denies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessSpec {
    /// Everybody who connects may do everything; there are then no rules.
    pub public: bool,
    /// Who may connect, over `user`.
    pub connect: Option<FilterText>,
    /// Which records a user may read.
    pub read: Option<FilterText>,
    /// Which records a user may insert.
    pub insert: Option<FilterText>,
    /// Which updates a user may make, over `old` and `record`.
    pub update: Option<FilterText>,
    /// Which records a user may delete.
    pub delete: Option<FilterText>,
    /// Who may bring writes of other nodes, over `user`.
    pub relay: Option<FilterText>,
    /// Who may begin the database's keyring, over `user`. Missing: whoever may both insert and update something.
    pub keys: Option<FilterText>,
}
