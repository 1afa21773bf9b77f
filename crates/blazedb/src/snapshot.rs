//! The graph as it is now, as data: what displays, scripts and documents are made of.
//!
//! Invariants: an id names the same node, database or link in every snapshot, whichever of its two ends makes it,
//! once the other node's key is known (before that its address stands in); no record content is in it.

use std::collections::{BTreeMap, BTreeSet};

use blazedb_core::wire::Direction;
use blazedb_transport::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::status::{LinkState, LinkStatus, now_ms};
use crate::topology::Topology;

/// Nodes, the databases in them, and the links between those.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was made, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The id of the node that made it.
    pub this: String,
    /// The nodes that this one knows of, itself included.
    pub nodes: Vec<NodeView>,
    /// Their databases, as far as this node knows.
    pub databases: Vec<DatabaseView>,
    /// Links that begin or end at this node.
    pub links: Vec<LinkView>,
}

/// A node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeView {
    /// Its node id; its address while its key is not known.
    pub id: String,
    /// What it calls itself; empty if it has not said.
    pub name: String,
    /// `this`, `server` (this node connects to it) or `client` (it connects to this node).
    pub kind: String,
    /// Where it listens, or where it connects from.
    pub address: Option<String>,
    /// Its key's fingerprint.
    pub fingerprint: Option<String>,
    /// `running`, `online`, `offline` or `refused`; `stopped` for a node that is not running.
    pub state: String,
    /// Since when, in milliseconds since the Unix epoch; 0 if that is not known.
    pub since_ms: u64,
    /// What keeps changing.
    #[serde(default)]
    pub figures: NodeFigures,
}

/// A node's figures.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Changes a second: of this node's databases; of another node, those that came from it.
    pub ops_per_s: f64,
    /// The longest lag of its links, in milliseconds.
    pub lag_ms: u64,
}

/// A database on a node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DatabaseView {
    /// The node's id, a slash, the name.
    pub id: String,
    /// The node's id.
    pub node: String,
    /// Its name there.
    pub name: String,
    /// The pattern that it wants, where that is known.
    pub pattern: Option<String>,
    /// Its mode, where that is known.
    pub mode: Option<String>,
    /// How it is served, where that is known.
    pub serve: Option<String>,
    /// The replica.
    pub replica: Option<String>,
    /// How its content is sealed end to end, where there is a keyring here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<SealingView>,
    /// What keeps changing.
    #[serde(default)]
    pub figures: DatabaseFigures,
}

/// What a database's keyring says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SealingView {
    /// `smart-proxy` (nothing is sealed), `e2e-only` (all but the routing fields), `seal` (some fields).
    pub encryption: String,
    /// The epoch of the keys that seal what is written now.
    pub epoch: u32,
    /// Whether this node is a member: it has the keys. A hub is not.
    pub member: bool,
}

/// A database's figures.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DatabaseFigures {
    /// Records, where that is known; it may be some seconds old.
    pub records: Option<u64>,
    /// The end of its feed: changes since it was made. 0 where that is not known.
    pub head: u64,
    /// Changes a second.
    pub ops_per_s: f64,
}

/// Why a link does not work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorView {
    /// In words.
    pub message: String,
    /// Trying again later may help.
    pub temporary: bool,
    /// It is about keys, access or identity.
    pub refused: bool,
}

/// What may travel on a link, as it was declared.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PolicyView {
    /// The filter that records must match.
    pub filter: Option<String>,
    /// Fields that do not travel.
    pub exclude_fields: Vec<String>,
    /// Whether batches are compressed: `auto`, `always` or `never`.
    pub compression: String,
    /// Fields that are sealed; `*` for all but the routing fields.
    pub sealed_fields: Vec<String>,
    /// Fields that stay readable when all others are sealed.
    pub routing_fields: Vec<String>,
    /// Links of this node with a higher one go first.
    #[serde(default)]
    pub priority: i8,
    /// Records are dropped here once they are acknowledged.
    pub release_after_ack: bool,
}

/// A link between two databases.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LinkView {
    /// The connecting database's id, `>`, the other one's.
    pub id: String,
    /// The database that connects.
    pub client: String,
    /// The database that is connected to.
    pub server: String,
    /// Which of them is on this node: `client` or `server`.
    pub role: String,
    /// The address that is connected to, or from.
    pub address: String,
    /// The pattern that asked for it, where that is known.
    pub pattern: Option<String>,
    /// Its mode, seen from the client.
    pub mode: String,
    /// Changes of the client go to the server, and the other way, while there is a session.
    pub granted: Option<Grant>,
    /// `connecting`, `syncing`, `idle`, `offline`, `refused` or `stopped`.
    pub state: String,
    /// The server decides: writes of the client are provisional until it has taken them.
    pub authority: bool,
    /// Why less is granted than was asked for.
    pub notice: Option<String>,
    /// The last error; gone once a session is open.
    pub error: Option<ErrorView>,
    /// What is sealed with keys that the hub does not have: `smart-proxy` (nothing), `e2e-only` (all but the routing
    /// fields), `seal` (some fields). `None` where that is not known. Connections are encrypted in any case.
    pub encryption: Option<String>,
    /// The number of its configuration, where there is one.
    pub epoch: Option<u64>,
    /// What may travel, where that is known.
    pub policy: Option<PolicyView>,
    /// When it went online or stopped being so, in milliseconds since the Unix epoch; 0 if that is not known.
    pub since_ms: u64,
    /// How often a session was opened.
    pub sessions: u64,
    /// Of a client: its user, if a token has told who that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What keeps changing.
    #[serde(default)]
    pub figures: LinkFigures,
}

/// Ways that changes may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// From client to server.
    pub push: bool,
    /// From server to client.
    pub pull: bool,
}

impl From<Direction> for Grant {
    fn from(direction: Direction) -> Self {
        Self { push: direction.push, pull: direction.pull }
    }
}

/// A link's figures, seen from this node.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LinkFigures {
    /// Both directions are done, as far as they are granted.
    pub caught_up: bool,
    /// Changes here that the other side has not acknowledged; `None` if that is not known.
    pub pending: Option<u64>,
    /// Time since the oldest of them, in milliseconds.
    pub lag_ms: u64,
    /// Bytes sent from here since this node started.
    pub bytes_sent: u64,
    /// Bytes received here since then.
    pub bytes_received: u64,
    /// Changes sent from here since then.
    pub changes_sent: u64,
    /// Changes received here since then.
    pub changes_received: u64,
    /// Bytes sent a second.
    pub bytes_sent_per_s: f64,
    /// Bytes received a second.
    pub bytes_received_per_s: f64,
    /// Changes sent a second.
    pub changes_sent_per_s: f64,
    /// Changes received a second.
    pub changes_received_per_s: f64,
}

/// The id of a database.
#[must_use]
pub fn database_id(node: &str, name: &str) -> String {
    format!("{node}/{name}")
}

/// The id of a node: that of its key or, while that is not known, its address.
#[must_use]
pub fn node_id(key: Option<Fingerprint>, address: &str) -> String {
    key.map_or_else(|| address.to_owned(), |key| key.node_id().to_string())
}

impl Topology {
    /// The graph of this node, its databases, its links and their other ends. Rates need two looks: they are 0 here.
    ///
    /// ```
    /// # let identity = blazedb::Identity::generate()?;
    /// let topology = blazedb::Topology::new(identity.named("phone"));
    /// let snapshot = topology.snapshot();
    /// assert_eq!((snapshot.nodes.len(), snapshot.nodes[0].name.as_str()), (1, "phone"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let identity = self.identity();
        let this = identity.node_id().to_string();
        let mut graph = Graph::new(NodeView {
            id: this.clone(),
            name: identity.name().to_owned(),
            kind: "this".to_owned(),
            fingerprint: Some(identity.fingerprint().to_string()),
            state: "running".to_owned(),
            ..NodeView::default()
        });
        for (node, database) in self.databases() {
            let store = database.store();
            graph.put_database(DatabaseView {
                id: database_id(&this, node.name()),
                node: this.clone(),
                name: node.name().to_owned(),
                replica: Some(store.replica().to_string()),
                figures: DatabaseFigures { head: store.head(), ..DatabaseFigures::default() },
                ..DatabaseView::default()
            });
        }
        self.links().iter().for_each(|(_, status)| graph.put_link(&this, status));
        graph.finish()
    }
}

/// A snapshot in the making.
#[derive(Debug)]
pub struct Graph {
    this: String,
    nodes: BTreeMap<String, NodeView>,
    databases: BTreeMap<String, DatabaseView>,
    links: Vec<LinkView>,
    ids: BTreeSet<String>,
}

impl Graph {
    /// A graph of this node alone.
    #[must_use]
    pub fn new(this: NodeView) -> Self {
        let id = this.id.clone();
        let nodes = BTreeMap::from([(id.clone(), this)]);
        Self { this: id, nodes, databases: BTreeMap::new(), links: Vec::new(), ids: BTreeSet::new() }
    }

    /// A graph that goes on from a snapshot.
    #[must_use]
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        let Snapshot { this, nodes, databases, links, .. } = snapshot;
        Self {
            this,
            nodes: nodes.into_iter().map(|node| (node.id.clone(), node)).collect(),
            databases: databases.into_iter().map(|database| (database.id.clone(), database)).collect(),
            ids: links.iter().map(|link| link.id.clone()).collect(),
            links,
        }
    }

    /// Adds what is known of a node. What is known already stays; a node is online if any of its links is.
    pub fn put_node(&mut self, node: NodeView) {
        match self.nodes.get_mut(&node.id) {
            None => drop(self.nodes.insert(node.id.clone(), node)),
            Some(known) => {
                if known.name.is_empty() {
                    known.name = node.name;
                }
                if known.kind != "this" && known.state != "online" {
                    known.state = node.state;
                    known.since_ms = node.since_ms;
                }
                known.address = known.address.take().or(node.address);
                known.fingerprint = known.fingerprint.take().or(node.fingerprint);
                known.figures.lag_ms = known.figures.lag_ms.max(node.figures.lag_ms);
            }
        }
    }

    /// Adds a database, unless it is there.
    pub fn put_database(&mut self, database: DatabaseView) {
        self.databases.entry(database.id.clone()).or_insert(database);
    }

    /// Adds a link and makes its id, of which the ends are set, unlike all others.
    pub fn put_link_view(&mut self, mut link: LinkView) {
        let id = format!("{}>{}", link.client, link.server);
        let numbers = (1..).map(|number| if number == 1 { id.clone() } else { format!("{id}#{number}") });
        link.id = numbers.into_iter().find(|id| !self.ids.contains(id)).unwrap_or(id);
        self.ids.insert(link.id.clone());
        self.links.push(link);
    }

    /// Adds a link of this node and its other end.
    fn put_link(&mut self, this: &str, status: &LinkStatus) {
        let remote = node_id(status.fingerprint, &status.remote);
        self.put_node(NodeView {
            id: remote.clone(),
            kind: "server".to_owned(),
            address: Some(status.remote.clone()),
            fingerprint: status.fingerprint.map(|key| key.to_string()),
            state: node_state(status.state).to_owned(),
            since_ms: status.since_ms,
            figures: NodeFigures { lag_ms: status.lag_ms, ..NodeFigures::default() },
            ..NodeView::default()
        });
        let server = database_id(&remote, &status.remote_database);
        self.put_database(DatabaseView {
            id: server.clone(),
            node: remote,
            name: status.remote_database.clone(),
            replica: status.replica.map(|replica| replica.to_string()),
            ..DatabaseView::default()
        });
        self.put_link_view(link_view(database_id(this, &status.database), server, status));
    }

    /// The snapshot.
    #[must_use]
    pub fn finish(mut self) -> Snapshot {
        let lag_ms = self.links.iter().map(|link| link.figures.lag_ms).max().unwrap_or(0);
        if let Some(this) = self.nodes.get_mut(&self.this) {
            this.figures.lag_ms = lag_ms;
        }
        self.links.sort_by(|a, b| a.id.cmp(&b.id));
        Snapshot {
            at_ms: now_ms(),
            this: self.this,
            nodes: self.nodes.into_values().collect(),
            databases: self.databases.into_values().collect(),
            links: self.links,
        }
    }
}

/// What the state of a link says of the node at its other end.
const fn node_state(state: LinkState) -> &'static str {
    match state {
        LinkState::Idle | LinkState::Syncing => "online",
        LinkState::Refused => "refused",
        LinkState::Connecting | LinkState::Offline | LinkState::Stopped => "offline",
    }
}

fn link_view(client: String, server: String, status: &LinkStatus) -> LinkView {
    let error = status.error.as_ref().map(|error| ErrorView {
        message: error.message.clone(),
        temporary: error.temporary,
        refused: error.refused,
    });
    LinkView {
        client,
        server,
        role: "client".to_owned(),
        address: status.remote.clone(),
        pattern: Some(status.pattern.to_owned()),
        mode: status.mode.as_str().to_owned(),
        granted: status.granted.map(Grant::from),
        state: status.state.as_str().to_owned(),
        notice: (!status.notice.is_empty()).then(|| status.notice.clone()),
        error,
        since_ms: status.since_ms,
        sessions: status.sessions,
        figures: LinkFigures {
            caught_up: status.caught_up,
            pending: Some(status.pending),
            lag_ms: status.lag_ms,
            bytes_sent: status.traffic.bytes_sent,
            bytes_received: status.traffic.bytes_received,
            changes_sent: status.changes.sent,
            changes_received: status.changes.received,
            ..LinkFigures::default()
        },
        ..LinkView::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unlike_and_a_node_is_online_if_any_of_its_links_is() {
        let mut graph = Graph::new(NodeView { id: "me".into(), kind: "this".into(), ..NodeView::default() });
        for state in ["offline", "online", "refused"] {
            graph.put_node(NodeView { id: "a".into(), state: state.into(), ..NodeView::default() });
            graph.put_link_view(LinkView {
                client: "a/x".into(),
                server: "me/x".into(),
                ..LinkView::default()
            });
        }
        let snapshot = graph.finish();
        let ids: Vec<&str> = snapshot.links.iter().map(|link| link.id.as_str()).collect();
        assert_eq!(ids, ["a/x>me/x", "a/x>me/x#2", "a/x>me/x#3"]);
        assert_eq!((snapshot.nodes.len(), snapshot.nodes[0].state.as_str()), (2, "online"));
    }
}
