//! The graph that a node shows: its own links, its clients, and what its topology file says of both.

use std::sync::Arc;

use blazedb::snapshot::{
    DatabaseView, ErrorView, Grant, Graph, LinkFigures, LinkView, NodeFigures, NodeView, PolicyView,
    SealingView, Snapshot, database_id, node_id,
};
use blazedb::{Database, Direction, Filter, SyncMode};
use blazedb_core::topology::{
    self, DatabaseSpec, EncryptionSpec, LinkSpec, LinkTarget, PolicySpec, ServeMode, TopologySpec,
};

use blazedb_core::view::View;

use crate::node::Node;
use crate::sessions::ClientSession;

/// A link of one database, with what it takes to say where a change of it stands.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) view: LinkView,
    /// The other node.
    pub(crate) peer: String,
    pub(crate) peer_name: String,
    /// The other side's number in the local database; 0 if it was not met since this node started.
    pub(crate) peer_no: u32,
    /// It has the local feed up to here.
    pub(crate) pushed: u64,
    /// What the other side is shown, if it is a client.
    pub(crate) view_of_client: Option<Arc<View>>,
    /// Changes go from here to there, and from there to here, as far as is known.
    pub(crate) sends: bool,
    pub(crate) receives: bool,
}

impl Node {
    /// The graph as it is now. Rates need two looks: they are 0 here. Reads the databases: not for async threads.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.topology().snapshot();
        let this = snapshot.this.clone();
        let listens = self.listener().map(|listener| listener.address().to_string());
        for node in snapshot.nodes.iter_mut().filter(|node| node.id == this) {
            node.address = listens.clone();
        }
        for database in snapshot.databases.iter_mut().filter(|database| database.node == this) {
            if let Some((_, spec)) = self.spec().databases.iter().find(|(n, _)| n.as_str() == database.name) {
                declare_database(database, spec);
            }
            database.sealing = self.database(&database.name).as_ref().and_then(sealing);
        }
        for link in &mut snapshot.links {
            let declared = self.declared(&this, link);
            if let Some(spec) = declared {
                declare_link(link, &spec);
            }
            let local = link.client.rsplit_once('/').and_then(|(_, name)| self.database(name));
            say_sealed(link, local.as_ref());
        }
        let mut graph = Graph::from_snapshot(snapshot);
        let clients = self.listener().map(|listener| listener.sessions().clients()).unwrap_or_default();
        clients.iter().for_each(|client| self.put_client(&mut graph, &this, client));
        graph.finish()
    }

    /// The links of one database.
    pub(crate) fn ways(&self, database: &str) -> Vec<Way> {
        let snapshot = self.snapshot();
        let local = database_id(&snapshot.this, database);
        let clients = self.listener().map(|listener| listener.sessions().clients()).unwrap_or_default();
        let own = self.links();
        let way = |view: LinkView| {
            let is_client = view.role == "client";
            let (mine, other) =
                if is_client { (&view.client, &view.server) } else { (&view.server, &view.client) };
            if *mine != local {
                return None;
            }
            let (peer, remote) = other.rsplit_once('/')?;
            let (peer_no, pushed, view_of_client) = if is_client {
                let status = own.iter().map(|(_, status)| status).find(|status| {
                    status.database == database
                        && status.remote == view.address
                        && status.remote_database == remote
                })?;
                (status.peer_no, status.session.pushed, None)
            } else {
                let key = |c: &&ClientSession| {
                    c.key.node.to_string() == peer && c.key.from == remote && c.key.database == database
                };
                let report = &clients.iter().find(key)?.report;
                (report.peer_no(), report.status().pushed, report.view())
            };
            let asked = view.mode.parse::<SyncMode>().map_or(Direction::default(), SyncMode::direction);
            let granted = view.granted.unwrap_or(Grant { push: asked.push, pull: asked.pull });
            let (sends, receives) =
                if is_client { (granted.push, granted.pull) } else { (granted.pull, granted.push) };
            let named = snapshot.nodes.iter().find(|node| node.id == peer);
            let peer_name = named.map(|node| node.name.clone()).unwrap_or_default();
            let peer = peer.to_owned();
            Some(Way { view, peer, peer_name, peer_no, pushed, view_of_client, sends, receives })
        };
        snapshot.links.clone().into_iter().filter_map(way).collect()
    }

    /// What the topology file says of a link of this node.
    fn declared(&self, this: &str, link: &LinkView) -> Option<LinkSpec> {
        let name = link.client.strip_prefix(this)?.strip_prefix('/')?;
        let whole = self.spec();
        let (_, spec) = whole.databases.iter().find(|(declared, _)| declared.as_str() == name)?;
        let (_, remote) = link.server.rsplit_once('/')?;
        let is_it = |declared: &LinkSpec| {
            let leads_there = targets(declared).contains(&link.address);
            leads_there && declared.remote.as_str() == remote
        };
        let named = topology::expand(spec).ok()?.into_iter().find(is_it);
        let address = link.address.parse().ok()?;
        let mut seekers = topology::seekers(spec).filter(|sync| sync.remote.as_str() == remote);
        named.or_else(|| topology::peer_link(seekers.next()?, address))
    }

    fn put_client(&self, graph: &mut Graph, this: &str, client: &ClientSession) {
        let Some(database) = self.database(&client.key.database) else { return };
        let whole = self.spec();
        let spec = whole.databases.iter().find(|(name, _)| name.as_str() == client.key.database);
        let link = client_link(this, client, &database, spec.map(|(_, spec)| spec));
        let lag_ms = link.figures.lag_ms;
        let state = match (client.live, &client.refused) {
            (true, _) => "online",
            (false, Some(_)) => "refused",
            (false, None) => "offline",
        };
        graph.put_node(NodeView {
            id: client.key.node.to_string(),
            name: client.name.clone(),
            kind: "client".to_owned(),
            address: Some(client.address.to_string()),
            fingerprint: Some(client.fingerprint.to_string()),
            state: state.to_owned(),
            since_ms: client.since_ms,
            figures: NodeFigures { lag_ms, ..NodeFigures::default() },
        });
        let agreed = client.report.last_agreed();
        graph.put_database(DatabaseView {
            id: link.client.clone(),
            node: client.key.node.to_string(),
            name: client.key.from.clone(),
            replica: agreed.map(|agreed| agreed.replica.to_string()),
            ..DatabaseView::default()
        });
        graph.put_link_view(link);
    }
}

/// The link of a client, seen from here.
fn client_link(
    this: &str,
    client: &ClientSession,
    database: &Database,
    spec: Option<&DatabaseSpec>,
) -> LinkView {
    let (agreed, last) = (client.report.agreed(), client.report.last_agreed());
    let status = client.report.status();
    let sends = agreed.as_ref().is_some_and(|agreed| agreed.direction.pull);
    let pushed_all = status.pushed_all && (!sends || status.head >= database.store().head());
    let caught_up = agreed.is_some() && pushed_all && status.pulled_all;
    let pending = match &agreed {
        Some(_) if sends && !pushed_all => {
            database.store().pending(status.pushed, client.report.peer_no()).ok()
        }
        Some(_) => Some(0),
        None => None,
    };
    let state = match (client.live, &agreed) {
        (false, _) if client.refused.is_some() => "refused",
        (false, _) => "offline",
        (true, None) => "connecting",
        (true, Some(_)) if caught_up => "idle",
        (true, Some(_)) => "syncing",
    };
    let direction = last.as_ref().map(|last| last.direction);
    let (traffic, changes) = (client.traffic(), client.changes());
    let error = client.refused.clone().map(|message| ErrorView { message, temporary: false, refused: true });
    let mut link = LinkView {
        client: database_id(&client.key.node.to_string(), &client.key.from),
        server: database_id(this, &client.key.database),
        role: "server".to_owned(),
        address: client.address.to_string(),
        pattern: spec.and_then(|spec| pattern_of(spec.serve)).map(str::to_owned),
        mode: direction.map_or("", mode_of).to_owned(),
        granted: agreed.map(|agreed| Grant::from(agreed.direction)),
        state: state.to_owned(),
        policy: client.report.view().map(|view| policy_of_view(&view)),
        notice: last.map(|last| last.notice).filter(|notice| !notice.is_empty()),
        error,
        since_ms: client.since_ms,
        sessions: client.sessions,
        user: client.user().map(str::to_owned),
        figures: LinkFigures {
            caught_up,
            pending,
            lag_ms: client.report.lag_ms(),
            bytes_sent: traffic.bytes_sent,
            bytes_received: traffic.bytes_received,
            changes_sent: changes.sent,
            changes_received: changes.received,
            ..LinkFigures::default()
        },
        ..LinkView::default()
    };
    say_sealed(&mut link, Some(database));
    link
}

/// How a database is sealed: a fact of its keyring, whatever a topology file declares.
fn sealing(database: &Database) -> Option<SealingView> {
    let store = database.store();
    let keyring = store.keyring()?;
    let encryption = encryption_word(keyring.rule()).to_owned();
    let member = store.sealer().is_some_and(|sealer| sealer.is_active());
    Some(SealingView { encryption, epoch: keyring.epoch(), member })
}

/// What the keyring of the database at this end says goes before what was declared.
fn say_sealed(link: &mut LinkView, local: Option<&Database>) {
    let Some(keyring) = local.and_then(|database| database.store().keyring()) else { return };
    link.encryption = Some(encryption_word(keyring.rule()).to_owned());
    if let Some(policy) = &mut link.policy {
        (policy.sealed_fields, policy.routing_fields) = sealed_fields(keyring.rule());
    }
}

/// What a client asked for and was granted, as a policy.
fn policy_of_view(view: &View) -> PolicyView {
    let everything = Filter::always(true);
    let filters = [view.wanted(), view.granted()].into_iter().filter(|filter| **filter != everything);
    let filters: Vec<String> = filters.map(|filter| format!("({filter})")).collect();
    PolicyView {
        filter: (!filters.is_empty()).then(|| filters.join(" && ")),
        exclude_fields: view.excluded().map(str::to_owned).collect(),
        compression: "auto".to_owned(),
        ..PolicyView::default()
    }
}

/// The mode that asks for a direction.
const fn mode_of(direction: Direction) -> &'static str {
    match (direction.push, direction.pull) {
        (true, true) => SyncMode::Bidirectional.as_str(),
        (false, true) => SyncMode::ReadOnly.as_str(),
        (true, false) => SyncMode::WriteOnly.as_str(),
        (false, false) => "",
    }
}

/// The pattern that clients of a database most likely have: their topology files say, not this one.
const fn pattern_of(serve: ServeMode) -> Option<&'static str> {
    match serve {
        ServeMode::Bidirectional => Some("hub-and-spoke"),
        ServeMode::Broadcast => Some("broadcast"),
        ServeMode::Aggregate => Some("aggregation"),
        ServeMode::None => None,
    }
}

fn declare_database(database: &mut DatabaseView, spec: &DatabaseSpec) {
    database.pattern = Some(spec.sync.pattern.kind().as_str().to_owned());
    database.mode = Some(spec.sync.mode.as_str().to_owned());
    database.serve = Some(spec.serve.as_str().to_owned());
}

fn declare_link(link: &mut LinkView, spec: &LinkSpec) {
    link.pattern = Some(spec.pattern.as_str().to_owned());
    link.authority = spec.remote_is_authority;
    link.encryption = Some(encryption_word(&spec.policy.encryption).to_owned());
    link.policy = Some(policy_view(&spec.policy));
}

const fn encryption_word(encryption: &EncryptionSpec) -> &'static str {
    match encryption {
        EncryptionSpec::SmartProxy => "smart-proxy",
        EncryptionSpec::E2eOnly { .. } => "e2e-only",
        EncryptionSpec::Seal(_) => "seal",
    }
}

/// Fields that are sealed (`*`: all but the routing fields), and the routing fields.
fn sealed_fields(encryption: &EncryptionSpec) -> (Vec<String>, Vec<String>) {
    match encryption {
        EncryptionSpec::SmartProxy => (Vec::new(), Vec::new()),
        EncryptionSpec::E2eOnly { routing_fields } => (vec!["*".to_owned()], routing_fields.clone()),
        EncryptionSpec::Seal(fields) => (fields.clone(), Vec::new()),
    }
}

/// A declared policy, as displays show it.
pub(crate) fn policy_view(policy: &PolicySpec) -> PolicyView {
    let (sealed_fields, routing_fields) = sealed_fields(&policy.encryption);
    PolicyView {
        filter: policy.combined_filter(),
        exclude_fields: policy.exclude_fields.clone(),
        compression: policy.compression.as_str().to_owned(),
        sealed_fields,
        routing_fields,
        priority: policy.priority,
        release_after_ack: policy.release_after_ack,
    }
}

/// The graph of a node that is not running, from its topology file alone.
#[must_use]
pub fn declared_snapshot(spec: &TopologySpec) -> Snapshot {
    let this = spec.node.name.clone();
    let stopped = || "stopped".to_owned();
    let mut graph = Graph::new(NodeView {
        id: this.clone(),
        name: this.clone(),
        kind: "this".to_owned(),
        address: spec.node.listen.as_ref().map(ToString::to_string),
        state: stopped(),
        ..NodeView::default()
    });
    for (name, spec) in &spec.databases {
        let id = database_id(&this, name.as_str());
        let name = name.to_string();
        let mut database =
            DatabaseView { id: id.clone(), node: this.clone(), name, ..DatabaseView::default() };
        declare_database(&mut database, spec);
        graph.put_database(database);
        for link in topology::expand(spec).unwrap_or_default() {
            for endpoint in targets(&link) {
                let node = node_id(None, &endpoint);
                let (server, name) = (database_id(&node, link.remote.as_str()), link.remote.to_string());
                graph.put_node(NodeView {
                    id: node.clone(),
                    kind: "server".to_owned(),
                    address: Some(endpoint.clone()),
                    state: stopped(),
                    ..NodeView::default()
                });
                graph.put_database(DatabaseView {
                    id: server.clone(),
                    node,
                    name,
                    ..DatabaseView::default()
                });
                let mut view = LinkView {
                    client: id.clone(),
                    server,
                    role: "client".to_owned(),
                    address: endpoint,
                    mode: link.mode.as_str().to_owned(),
                    state: stopped(),
                    ..LinkView::default()
                };
                declare_link(&mut view, &link);
                graph.put_link_view(view);
            }
        }
    }
    graph.finish()
}

fn targets(link: &LinkSpec) -> Vec<String> {
    match &link.target {
        LinkTarget::Address(endpoint) => vec![endpoint.to_string()],
        LinkTarget::Nearest { edges, master } => {
            edges.iter().chain(master).map(ToString::to_string).collect()
        }
    }
}
