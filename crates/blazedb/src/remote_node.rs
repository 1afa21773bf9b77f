//! Databases on other nodes, as an application names them.

use blazedb_core::topology::LinkTarget;
use blazedb_transport::{Endpoint, Fingerprint};

/// A database on another node.
#[derive(Clone, Debug)]
pub struct RemoteNode {
    /// Or the address that is none, and why.
    pub(crate) target: Result<LinkTarget, (String, String)>,
    pub(crate) database: String,
    pub(crate) key: Option<Fingerprint>,
}

impl RemoteNode {
    /// The database `database` of the node at `url` (`ws://host:port` or `wss://host:port`).
    #[must_use]
    pub fn new(url: impl Into<String>, database: impl Into<String>) -> Self {
        let target = address(url.into()).map(LinkTarget::Address);
        Self { target, database: database.into(), key: None }
    }

    /// The database `database` of the nearest of `edges` that answers, by measured latency; of `master` while none does.
    #[must_use]
    pub fn nearest<U: Into<String>>(
        edges: impl IntoIterator<Item = U>,
        master: Option<&str>,
        database: impl Into<String>,
    ) -> Self {
        let edges: Result<Vec<Endpoint>, _> = edges.into_iter().map(|url| address(url.into())).collect();
        let master = master.map(|url| address(url.to_owned())).transpose();
        let target = edges.and_then(|edges| master.map(|master| LinkTarget::Nearest { edges, master }));
        Self { target, database: database.into(), key: None }
    }

    /// The database `database` where a link of a topology specification leads.
    #[must_use]
    pub fn at(target: LinkTarget, database: impl Into<String>) -> Self {
        Self { target: Ok(target), database: database.into(), key: None }
    }

    /// Only a node with this key will do. Without it the key of the first contact is remembered.
    #[must_use]
    pub const fn key(mut self, key: Fingerprint) -> Self {
        self.key = Some(key);
        self
    }
}

pub(crate) fn address(url: String) -> Result<Endpoint, (String, String)> {
    url.parse::<Endpoint>().map_err(|error| (url, error.to_string()))
}
