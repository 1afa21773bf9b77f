//! A topology file in the simulator: the node that it declares, the nodes that its links lead to, and a few that come to
//! it or to the same hub, each database in a run of its own.
//!
//! What nodes that the file only names look like is made up: they serve what the pattern promises, to everybody.

use std::collections::{BTreeMap, BTreeSet};

use blazedb_core::Value;
use blazedb_core::access::{AccessRules, RuleError};
use blazedb_core::filter::{Filter, User};
use blazedb_core::topology::{
    Contradiction, DatabaseName, DatabaseSpec, EncryptionSpec, Endpoint, LinkTarget, PatternKind, ServeMode,
    SyncMode, TopologySpec, expand,
};

use crate::config::{LinkPlan, SimConfig};
use crate::ledger;
use crate::patterns::links_of;
use crate::rng::Rng;
use crate::setup::{LinkSetup, NodeSetup, Setup, TEAMS};
use crate::world::World;
use crate::{Failure, Report, Violation, check, finish};

/// Nodes that are made up to connect to a node that serves.
const CLIENTS: usize = 2;

/// Why a topology can't be simulated.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyProblem {
    /// A pattern's promise rules out what goes with it.
    #[error("database {0}: {1}")]
    Contradiction(DatabaseName, Contradiction),
    /// An access rule is none.
    #[error("database {0}: {1}")]
    Rule(DatabaseName, RuleError),
}

/// What breaks in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults {
    /// Nodes crash and start again.
    pub crashes: bool,
    /// Connections break and nodes are cut off from each other.
    pub partitions: bool,
    /// Clocks are wrong, by up to four minutes.
    pub skew: bool,
}

/// A database of a topology, ready to be simulated.
#[derive(Clone, Debug)]
pub struct SimulatedDatabase {
    /// Its name.
    pub name: DatabaseName,
    /// What the nodes are, by number.
    pub nodes: Vec<String>,
    setup: Setup,
    /// Records that a link shows change with time, so that only what holds at any time is asked for.
    timed: bool,
}

/// The databases of a topology.
///
/// # Errors
/// [`TopologyProblem`] for the first that can't be simulated.
pub fn databases(spec: &TopologySpec) -> Result<Vec<SimulatedDatabase>, TopologyProblem> {
    spec.databases.iter().map(|(name, database)| simulated(spec, name, database)).collect()
}

fn simulated(
    spec: &TopologySpec,
    name: &DatabaseName,
    database: &DatabaseSpec,
) -> Result<SimulatedDatabase, TopologyProblem> {
    let access = AccessRules::compile(&database.access);
    let access = access.map_err(|error| TopologyProblem::Rule(name.clone(), error))?;
    let contradiction = |error| TopologyProblem::Contradiction(name.clone(), error);
    let mut cast = Cast::default();
    // Whoever has no keys comes first: the hub.
    let links = expand(database).map_err(contradiction)?;
    for link in &links {
        let serve = serve_of(link.pattern);
        match &link.target {
            LinkTarget::Address(at) => drop(cast.node_at(at, serve)),
            LinkTarget::Nearest { edges, master } => {
                let above = master.as_ref().map(|master| cast.node_at(master, serve));
                for edge in edges {
                    let edge = cast.node_at(edge, serve);
                    above.into_iter().for_each(|above| cast.link(edge, above, SyncMode::Bidirectional));
                }
            }
        }
    }
    let me = cast.add(spec.node.name.clone(), database.serve);
    let places = cast.places.clone();
    cast.links.extend(links_of(me, database, |at| places.get(at).copied()).map_err(contradiction)?);
    cast.add_others(me, database, spec.node.listen.is_some());
    let (attributes, timed) = attributes(database);
    let sealed = cast.links.iter().any(|link| link.encryption != EncryptionSpec::SmartProxy);
    for (node, setup) in cast.nodes.iter_mut().enumerate() {
        setup.member = sealed && node > 0;
        let teams = TEAMS.iter().map(|team| (*team).to_owned()).chain(strings(&attributes)).collect();
        setup.user = Some(User { id: format!("user{node}"), teams, ..User::default() });
    }
    if let Some(node) = cast.nodes.get_mut(me) {
        node.access = access;
    }
    let Cast { names, nodes, links, .. } = cast;
    Ok(SimulatedDatabase {
        name: name.clone(),
        nodes: names,
        setup: Setup { nodes, links, attributes },
        timed,
    })
}

/// How the other end of a pattern's links serves.
const fn serve_of(pattern: PatternKind) -> ServeMode {
    match pattern {
        PatternKind::Broadcast => ServeMode::Broadcast,
        PatternKind::Aggregation => ServeMode::Aggregate,
        _ => ServeMode::Bidirectional,
    }
}

/// Who takes part.
#[derive(Default)]
struct Cast {
    names: Vec<String>,
    nodes: Vec<NodeSetup>,
    links: Vec<LinkSetup>,
    places: BTreeMap<Endpoint, usize>,
}

impl Cast {
    fn add(&mut self, name: String, serve: ServeMode) -> usize {
        self.names.push(name);
        self.nodes.push(NodeSetup { serve, ..NodeSetup::default() });
        self.nodes.len() - 1
    }

    fn node_at(&mut self, at: &Endpoint, serve: ServeMode) -> usize {
        if let Some(known) = self.places.get(at) {
            return *known;
        }
        let node = self.add(at.to_string(), serve);
        self.places.insert(at.clone(), node);
        node
    }

    fn link(&mut self, client: usize, server: usize, mode: SyncMode) {
        let plan = LinkPlan { client, server, direction: mode.direction() };
        let known = self.links.iter().any(|link| (link.plan.client, link.plan.server) == (client, server));
        if client != server && !known {
            self.links.push(LinkSetup::new(plan, "to".to_owned()));
        }
    }

    /// Somebody else on the same hub, and clients of this node if it serves any; the peers of a mesh are linked too.
    fn add_others(&mut self, me: usize, database: &DatabaseSpec, listens: bool) {
        let own: Vec<LinkSetup> = self.links.iter().filter(|link| link.plan.client == me).cloned().collect();
        if let (Some(first), false) = (own.first(), database.sync.pattern.kind() == PatternKind::Mesh) {
            let other = self.add("another device".to_owned(), ServeMode::None);
            let plan = LinkPlan { client: other, ..first.plan };
            self.links.push(LinkSetup { plan, ..first.clone() });
        }
        if database.sync.pattern.kind() == PatternKind::Mesh {
            for (at, a) in own.iter().enumerate() {
                own.iter()
                    .take(at)
                    .for_each(|b| self.link(a.plan.server, b.plan.server, SyncMode::Bidirectional));
            }
        }
        let mode = match database.serve {
            ServeMode::Broadcast => SyncMode::ReadOnly,
            ServeMode::Aggregate => SyncMode::WriteOnly,
            ServeMode::Bidirectional => SyncMode::Bidirectional,
            ServeMode::None => return,
        };
        for client in 1..=if listens { CLIENTS } else { 0 } {
            let client = self.add(format!("client {client}"), ServeMode::None);
            self.link(client, me, mode);
        }
    }
}

/// What filters and rules look at, with values to draw, and whether one of them looks at the time.
fn attributes(database: &DatabaseSpec) -> (Vec<(String, Vec<Value>)>, bool) {
    let syncs = std::iter::once(&database.sync).chain(&database.links);
    let policies = syncs.filter_map(|sync| sync.policy.combined_filter());
    let access = &database.access;
    let rules = [&access.read, &access.insert, &access.update, &access.delete];
    let rules = rules.into_iter().flatten().map(|rule| rule.text.clone());
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut timed = false;
    for text in policies.chain(rules) {
        let Ok(filter) = Filter::parse_rule(&text) else { continue };
        timed |= filter.depends_on_time();
        for field in filter.fields().into_iter().filter(|field| !ledger::is_taken(field)) {
            drawn.entry(field.to_owned()).or_default().extend(literals(&text));
        }
    }
    let values = |texts: BTreeSet<String>| {
        let teams = TEAMS.map(Value::from);
        texts.iter().map(|text| value(text)).chain(teams).collect()
    };
    (drawn.into_iter().map(|(field, texts)| (field, values(texts))).collect(), timed)
}

fn strings(attributes: &[(String, Vec<Value>)]) -> Vec<String> {
    let values = attributes.iter().flat_map(|(_, values)| values);
    values
        .filter_map(|value| if let Value::String(text) = value { Some(text.to_string()) } else { None })
        .collect()
}

/// The strings and numbers in a filter's text, and the numbers beside them.
fn literals(text: &str) -> Vec<String> {
    let mut found: Vec<String> =
        text.split('"').skip(1).step_by(2).map(|string| format!("\"{string}")).collect();
    for number in
        text.split(|c: char| !c.is_ascii_digit() && c != '-').filter_map(|word| word.parse::<i64>().ok())
    {
        found.extend(
            [number.saturating_sub(1), number, number.saturating_add(1)].map(|near| near.to_string()),
        );
    }
    found
}

fn value(text: &str) -> Value {
    match (text.strip_prefix('"'), text.parse::<i64>()) {
        (Some(string), _) => Value::from(string),
        (None, Ok(number)) => Value::Int(number),
        (None, Err(_)) => Value::Null,
    }
}

impl SimulatedDatabase {
    /// Runs the database from a seed and checks every property.
    ///
    /// # Errors
    /// The first [`Violation`] that was found.
    pub fn simulate(&self, seed: u64, steps: u64, faults: Faults) -> Result<Report, Box<Violation>> {
        let sealed = self.setup.links.iter().any(|link| link.encryption != EncryptionSpec::SmartProxy);
        let rules = self.setup.nodes.iter().any(|node| !node.access.is_public());
        let config = SimConfig {
            steps,
            crashes: faults.crashes,
            partitions: faults.partitions,
            skew_ms: if faults.skew { 240_000 } else { 0 },
            views: true,
            fixed_views: true,
            sealed,
            rules,
            fixed_users: true,
            run: Some("topology"),
            ..SimConfig::views_for_seed(seed)
        };
        let make = |config| World::of(seed, config, self.setup.clone(), Rng::new(seed));
        finish(seed, &config, make, |world| self.run(world))
    }

    fn run(&self, world: &mut World) -> Result<(), Failure> {
        // Whom the rules never let in would ask for ever.
        let denied: Vec<bool> =
            world.links.iter().map(|link| !check::convergence::may_connect(world, link)).collect();
        world.links.iter_mut().zip(denied).for_each(|(link, denied)| link.removed |= denied);
        while world.steps_left > 0 {
            world.step(u64::MAX)?;
        }
        world.heal()?;
        check::echo::settle(world)?;
        self.check(world)?;
        // Who turns to another edge may have something for it that it has already.
        if self.setup.links.iter().all(|link| link.fallbacks.is_empty()) {
            check::echo::check(world)?;
        }
        self.check(world)
    }

    fn check(&self, world: &mut World) -> Result<(), Failure> {
        check::sealed::check(world)?;
        check::convergence::check_sessions(world)?;
        if !self.timed && !self.is_relaying() {
            check::view::check(world)?;
        }
        check::account::check(world)
    }

    /// Whether some node gets records in more than one way: then no link alone says what it holds.
    fn is_relaying(&self) -> bool {
        let ends = |node: usize| {
            let links = self.setup.links.iter();
            links.filter(|link| link.plan.client == node).count()
                + usize::from(self.setup.links.iter().any(|link| link.plan.server == node))
        };
        let narrowed = self.setup.links.iter().any(|link| link.request != Default::default());
        narrowed && (0..self.setup.nodes.len()).any(|node| ends(node) > 1)
    }

    /// How many links there are.
    #[must_use]
    pub fn links(&self) -> usize {
        self.setup.links.len()
    }
}
