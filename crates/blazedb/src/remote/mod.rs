//! Questions to the database on the other side of a link: what this node does not hold, the hub can be asked for.
//!
//! Invariants: a question has a connection of its own, with the handshake, the pins and the token of the link; what is
//! sealed for the other side is never asked about, and the caller is told why.

mod build;
mod rows;

use std::sync::Arc;

use blazedb_core::Filter;
use blazedb_core::topology::{EncryptionSpec, LinkTarget, SyncMode};
use blazedb_core::wire::ask::{Ask, AskCode, Question, Wanted};
use blazedb_transport::ws::{self, ConnectError, ConnectOptions};
use blazedb_transport::{Endpoint, Identity, PinPolicy, Purpose};

pub use build::{RemoteGroups, RemoteQuery, RemoteSearch};
pub use rows::RemoteRows;

use crate::database::Database;
use crate::fanout::blocking;
use crate::link::Link;
use crate::policy::SyncPolicy;
use crate::registered::Registered;
use crate::remote_node::RemoteNode;
use crate::token_source::TokenSource;
use crate::topology::{DatabaseNode, Topology, TopologyError};

/// A question to another node was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The other node can't be reached, or is not the one that is meant.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    /// This node's token can't be read.
    #[error("token_file {0}")]
    Token(String),
    /// The question is about what is sealed for the other node.
    #[error("database {database}: {what} for the other side, which can't be asked about it{open}")]
    Sealed {
        /// The database.
        database: String,
        /// What is sealed.
        what: String,
        /// What is not, in words; empty if that is no help.
        open: String,
    },
    /// A filter of the question is none.
    #[error("{0}")]
    Filter(String),
    /// The other node does not answer, and says why.
    #[error("{remote}: {reason}")]
    Refused {
        /// The other node.
        remote: Endpoint,
        /// What kind of refusal it is.
        code: AskCode,
        /// Its words.
        reason: String,
    },
    /// The connection ended before the answer did.
    #[error("{remote}: the answer broke off: {reason}")]
    Broken {
        /// The other node.
        remote: Endpoint,
        /// What happened.
        reason: String,
    },
    /// The other node did not answer in time.
    #[error("{remote}: no answer in time")]
    Silent {
        /// The other node.
        remote: Endpoint,
    },
}

/// The database on the other side of a link, to be asked: see [`Topology::remote`].
#[derive(Clone)]
pub struct RemoteDatabase {
    target: Arc<Target>,
}

struct Target {
    database: Database,
    endpoint: Endpoint,
    names: (String, String),
    identity: Arc<Identity>,
    pins: PinPolicy,
    options: ConnectOptions,
    tokens: Arc<TokenSource>,
    encryption: EncryptionSpec,
}

impl Topology {
    /// The other side of a database's link, to be asked about records that this node need not hold: of several, one
    /// that is connected now.
    ///
    /// The other side answers under its access rules, as the user of this node; what the link's policy leaves out can be
    /// asked for, what it seals can't.
    ///
    /// ```no_run
    /// # async fn ask(topology: blazedb::Topology, comments: blazedb::Database) -> Result<(), Box<dyn std::error::Error>> {
    /// let hub = topology.remote(&comments)?;
    /// for hit in hub.search("crash start*").limit(10).all().await? {
    ///     println!("{:.2} {}", hit.score, hit.snippet);
    /// }
    /// let mut all = hub.query().order_by("createdAt").rows().await?;
    /// while let Some(row) = all.next().await? {
    ///     println!("{row:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TopologyError::Unknown`], [`TopologyError::NobodyToAsk`].
    pub fn remote(&self, database: impl Registered) -> Result<RemoteDatabase, TopologyError> {
        let node = self.node_of(&database)?;
        let state = self.state();
        // What stays on this node is not asked for elsewhere either.
        let asks = |link: &Link| {
            link.is_of(&node) && link.is_accepted() && link.terms().policy.mode != SyncMode::LocalOnly
        };
        let mut own: Vec<_> = state.links.values().map(|held| &held.link).filter(|link| asks(link)).collect();
        own.sort_by_key(|link| !link.report.is_open());
        let place = own.first().and_then(|link| Some((link, link.route.current()?)));
        let Some((link, endpoint)) = place else {
            return Err(TopologyError::NobodyToAsk(node.name().to_owned()));
        };
        let (config, terms) = (link.config.clone(), link.terms().clone());
        Ok(RemoteDatabase::of(Target {
            database: config.database,
            endpoint,
            names: (config.database_name, config.remote_database),
            identity: config.identity,
            pins: terms.pins,
            options: config.options,
            tokens: config.tokens,
            encryption: terms.policy.encryption,
        }))
    }

    /// [`Topology::remote`] without a link: what a link with this policy would be to.
    ///
    /// # Errors
    /// [`TopologyError`] about the node or the address.
    pub fn remote_at(
        &self,
        node: &DatabaseNode,
        remote: RemoteNode,
        policy: &SyncPolicy,
    ) -> Result<RemoteDatabase, TopologyError> {
        let target = remote.target.map_err(|(url, problem)| TopologyError::Address(url, problem))?;
        let endpoint = match target {
            LinkTarget::Address(endpoint) => Some(endpoint),
            LinkTarget::Nearest { edges, master } => edges.into_iter().chain(master).next(),
        };
        let endpoint = endpoint.ok_or_else(|| TopologyError::NobodyToAsk(node.name().to_owned()))?;
        let database = self.state().databases.get(node).cloned();
        Ok(RemoteDatabase::of(Target {
            database: database.ok_or_else(|| TopologyError::Unknown(node.name().to_owned()))?,
            endpoint,
            names: (node.name().to_owned(), remote.database),
            identity: Arc::clone(self.identity()),
            pins: self.core.pins(remote.key),
            options: self.core.options.clone(),
            tokens: Arc::clone(&self.core.tokens),
            encryption: policy.encryption.clone(),
        }))
    }
}

impl RemoteDatabase {
    fn of(target: Target) -> Self {
        Self { target: Arc::new(target) }
    }

    /// Records of the other side, step by step.
    pub fn query(&self) -> RemoteQuery {
        RemoteQuery::new(self.clone())
    }

    /// Records of the other side that have certain words (as [`Database::search`]).
    pub fn search(&self, text: impl Into<String>) -> RemoteSearch {
        RemoteSearch::new(self.clone(), text.into())
    }

    /// Asks a question.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, question: Question) -> Result<RemoteRows, AskError> {
        let Target { endpoint, names, identity, pins, options, tokens, .. } = &*self.target;
        self.check(&question)?;
        let source = Arc::clone(tokens);
        blocking(move || source.refresh()).await.map_err(|problem| AskError::Token(problem.to_string()))?;
        let token = tokens.subscribe().borrow().clone();
        let pair = (names.0.as_str(), names.1.as_str());
        let connection = ws::connect_for(Purpose::Questions, endpoint, pair, identity, pins, options)
            .await
            .map_err(Box::new)?;
        RemoteRows::start(connection, endpoint.clone(), &Ask { token, question }).await
    }

    /// Refuses what is about sealed fields: nothing would be found, which is not the same as there being nothing.
    fn check(&self, question: &Question) -> Result<(), AskError> {
        let fields = fields_of(question)?;
        let sealer = self.target.database.store().sealer().filter(|sealer| sealer.seals());
        let seals = |field: &str| {
            field != "id"
                && (self.target.encryption.seals(field)
                    || sealer.as_ref().is_some_and(|sealer| sealer.rule().seals(field)))
        };
        let rule = sealer.as_ref().map_or(&self.target.encryption, |sealer| sealer.rule());
        let open = match rule {
            EncryptionSpec::E2eOnly { routing_fields } if !routing_fields.is_empty() => {
                format!(", only about {}", routing_fields.join(", "))
            }
            _ => String::new(),
        };
        let sealed = |what: String| {
            Err(AskError::Sealed { database: self.target.names.0.clone(), what, open: open.clone() })
        };
        if let Some(field) = fields.iter().find(|field| seals(field)) {
            return sealed(format!("field {field} is sealed"));
        }
        let all_but_some = matches!(rule, EncryptionSpec::E2eOnly { .. });
        match &question.wanted {
            Wanted::Search { .. } if all_but_some => sealed("its text is sealed".to_owned()),
            Wanted::Records { select, .. } if all_but_some && select.is_empty() => {
                sealed("its records are sealed".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// The fields that a question names.
fn fields_of(question: &Question) -> Result<Vec<String>, AskError> {
    let mut fields = Vec::new();
    if let Some(text) = &question.filter {
        let filter = Filter::parse(text).map_err(|error| AskError::Filter(format!("filter, {error}")))?;
        fields.extend(filter.fields().into_iter().map(str::to_owned));
    }
    match &question.wanted {
        Wanted::Records { select, order_by } => {
            fields.extend(select.iter().cloned());
            fields.extend(order_by.iter().map(|key| key.field.clone()));
        }
        Wanted::Groups { group_by, measures, .. } => {
            fields.extend(group_by.iter().cloned());
            fields.extend(measures.iter().filter_map(|measure| Some(measure.split_once(':')?.1.to_owned())));
        }
        Wanted::Count | Wanted::Search { .. } => {}
    }
    Ok(fields)
}
