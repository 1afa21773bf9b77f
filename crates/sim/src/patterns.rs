//! Patterns that are switched while applications write and things break: every node goes over to another
//! configuration of pattern, mode, policy and encryption, one after the other.
//!
//! Links are what the specification of each node expands to, as on a running node: those that stay, stay connected and
//! change on the open session, others come or go.

use blazedb_core::session::Input;
use blazedb_core::topology::{
    Contradiction, DatabaseName, DatabaseSpec, EncryptionSpec, Endpoint, FilterText, LinkSpec, LinkTarget,
    Pattern, ServeMode, StarRole, SyncMode, SyncSpec, expand,
};
use blazedb_core::view::ViewRequest;

use crate::config::{LinkPlan, SimConfig};
use crate::keys::KEEPER;
use crate::network::{End, Event, Link, Place};
use crate::rng::Rng;
use crate::setup::{LinkSetup, NodeSetup, Setup, TEAM, TEAMS};
use crate::workload::MARKED;
use crate::world::World;
use crate::{Failure, Report, Violation, check, finish};

/// Nodes of a run with patterns: a hub (or parent, source, sink, master) and three more.
const NODES: usize = 4;
/// Transactions of a run, in each of its parts.
const STEPS: u64 = 8;

/// A pattern with a mode, a policy and an encryption, for all nodes of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "their names say it; `Configuration::name` does in words")]
pub enum Configuration {
    Hub,
    HubReadOnly,
    HubWriteOnly,
    HubOfATeam,
    HubWithoutAField,
    HubSealed,
    HubFieldSealedOfATeam,
    Mesh,
    Chain,
    Star,
    Hierarchical,
    Broadcast,
    Aggregation,
    Hybrid,
    LocalOnly,
}

impl Configuration {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Hub,
        Self::HubReadOnly,
        Self::HubWriteOnly,
        Self::HubOfATeam,
        Self::HubWithoutAField,
        Self::HubSealed,
        Self::HubFieldSealedOfATeam,
        Self::Mesh,
        Self::Chain,
        Self::Star,
        Self::Hierarchical,
        Self::Broadcast,
        Self::Aggregation,
        Self::Hybrid,
        Self::LocalOnly,
    ];

    /// What it is, in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub-and-spoke",
            Self::HubReadOnly => "hub-and-spoke, read-only",
            Self::HubWriteOnly => "hub-and-spoke, write-only",
            Self::HubOfATeam => "hub-and-spoke, records of a team",
            Self::HubWithoutAField => "hub-and-spoke, without a field",
            Self::HubSealed => "hub-and-spoke, e2e-only",
            Self::HubFieldSealedOfATeam => "hub-and-spoke, a sealed field, records of a team",
            Self::Mesh => "mesh",
            Self::Chain => "chain",
            Self::Star => "star",
            Self::Hierarchical => "hierarchical",
            Self::Broadcast => "broadcast",
            Self::Aggregation => "aggregation",
            Self::Hybrid => "hub-and-spoke and a direct peer",
            Self::LocalOnly => "local-only",
        }
    }

    fn pattern(self, node: usize) -> Result<Pattern, Failure> {
        let hub = endpoint(0)?;
        Ok(match (self, node) {
            (Self::Mesh, _) => Pattern::Mesh {
                peers: (0..node).map(endpoint).collect::<Result<_, _>>()?,
                discover: false,
                fallback_to_local: true,
            },
            (Self::LocalOnly, _) | (_, 0) => Pattern::LocalOnly,
            (Self::Chain, node) => Pattern::Chain { upstream: endpoint(node - 1)? },
            (Self::Star, _) => Pattern::Star { role: StarRole::Child { parent: hub } },
            (Self::Hierarchical, 1) => Pattern::Hierarchical { master: Some(hub), edges: Vec::new() },
            (Self::Hierarchical, _) => Pattern::Hierarchical { master: Some(hub), edges: vec![endpoint(1)?] },
            (Self::Broadcast, _) => Pattern::Broadcast { source: hub },
            (Self::Aggregation, _) => Pattern::Aggregation { sink: hub },
            _ => Pattern::HubAndSpoke { hub },
        })
    }

    fn specification(self, node: usize, name: &DatabaseName) -> Result<DatabaseSpec, Failure> {
        let mut spec = DatabaseSpec::local(name);
        spec.sync = SyncSpec::new(self.pattern(node)?, name.clone());
        let policy = &mut spec.sync.policy;
        match self {
            _ if !spec.sync.pattern.has_links() => {}
            Self::HubReadOnly => spec.sync.mode = SyncMode::ReadOnly,
            Self::HubWriteOnly => spec.sync.mode = SyncMode::WriteOnly,
            Self::HubOfATeam => policy.filter = Some(FilterText::new("team == \"a\"")),
            Self::HubWithoutAField => policy.exclude_fields = vec!["f3".to_owned()],
            Self::HubSealed => policy.encryption = self.encryption(),
            Self::HubFieldSealedOfATeam => {
                policy.encryption = self.encryption();
                policy.filter = Some(FilterText::new("team in [\"a\", \"b\"]"));
            }
            Self::Hybrid if node == 3 => {
                let peers = vec![endpoint(2)?];
                let mesh = Pattern::Mesh { peers, discover: false, fallback_to_local: true };
                spec.links.push(SyncSpec::new(mesh, name.clone()));
            }
            _ => {}
        }
        spec.serve = match (self, node) {
            (Self::Broadcast, 0) => ServeMode::Broadcast,
            (Self::Aggregation, 0) => ServeMode::Aggregate,
            _ => ServeMode::Bidirectional,
        };
        Ok(spec)
    }

    fn encryption(self) -> EncryptionSpec {
        match self {
            Self::HubSealed => EncryptionSpec::e2e_only([TEAM]),
            Self::HubFieldSealedOfATeam => EncryptionSpec::seal([MARKED]),
            _ => EncryptionSpec::SmartProxy,
        }
    }

    fn setup(self) -> Result<Setup, Failure> {
        let name: DatabaseName =
            "records".parse().map_err(|_| Failure::new("topology", "a name".to_owned()))?;
        let mut setup = Setup::default();
        for node in 0..NODES {
            let spec = self.specification(node, &name)?;
            setup.links.extend(links_of(node, &spec, node_of).map_err(contradiction)?);
            setup.nodes.push(NodeSetup { serve: spec.serve, member: node > 0, ..NodeSetup::default() });
        }
        setup.attributes = vec![(TEAM.to_owned(), TEAMS.map(blazedb_core::Value::from).to_vec())];
        Ok(setup)
    }
}

fn contradiction(error: Contradiction) -> Failure {
    Failure::new("topology", error.to_string())
}

/// Where a node of a run listens.
fn endpoint(node: usize) -> Result<Endpoint, Failure> {
    let text = format!("ws://node{node}:1");
    text.parse().map_err(|error| Failure::new("topology", format!("{text}: {error}")))
}

fn node_of(endpoint: &Endpoint) -> Option<usize> {
    endpoint.host().strip_prefix("node")?.parse().ok()
}

/// The links that a node's specification expands to, with the nodes that its addresses stand for.
pub(crate) fn links_of(
    node: usize,
    spec: &DatabaseSpec,
    node_of: impl Fn(&Endpoint) -> Option<usize>,
) -> Result<Vec<LinkSetup>, Contradiction> {
    let link = |link: LinkSpec| {
        let targets: Vec<usize> = match &link.target {
            LinkTarget::Address(endpoint) => node_of(endpoint).into_iter().collect(),
            LinkTarget::Nearest { edges, master } => {
                edges.iter().chain(master).filter_map(&node_of).collect()
            }
        };
        let (server, fallbacks) = targets.split_first()?;
        let plan = LinkPlan { client: node, server: *server, direction: link.mode.direction() };
        Some(LinkSetup {
            plan,
            // Checkpoints are kept by where a link leads, whatever pattern asked for it.
            name: "to".to_owned(),
            fallbacks: fallbacks.to_vec(),
            request: ViewRequest {
                filter: link.policy.combined_filter(),
                excluded: link.policy.exclude_fields.clone(),
            },
            encryption: link.policy.encryption,
            authority: link.remote_is_authority,
        })
    };
    Ok(expand(spec)?.into_iter().filter_map(link).collect())
}

/// Runs `from`, has every node go over to `to` while applications write and things break, checks, and has everybody go over to
/// one hub: then everything that was ever written has to be everywhere, once.
///
/// # Errors
/// The first [`Violation`] that was found.
pub fn switch_patterns(seed: u64, from: Configuration, to: Configuration) -> Result<Report, Box<Violation>> {
    let sealed = [from, to].iter().any(|one| one.encryption() != EncryptionSpec::SmartProxy);
    let config = SimConfig {
        sealed,
        views: true,
        fixed_views: true,
        steps: STEPS,
        crashes: true,
        partitions: true,
        trace: std::env::var_os("BLAZEDB_SIM_TRACE").is_some(),
        ..SimConfig::views_for_seed(seed)
    };
    let make = |config| {
        // Who is to have keys gets them on a hub.
        let setup = if sealed { Configuration::Hub } else { from }.setup()?;
        World::of(seed, config, setup, Rng::new(seed))
    };
    finish(seed, &config, make, |world| run(world, from, to))
}

fn run(world: &mut World, from: Configuration, to: Configuration) -> Result<(), Failure> {
    if world.config.sealed {
        world.healed = true;
        world.steps_left = 0;
        check::echo::settle(world)?;
        world.healed = false;
        world.schedule(500, Event::Fault);
        world.go_over(from)?;
    }
    world.work(STEPS)?;
    world.go_over(to)?;
    world.work(STEPS)?;
    world.heal()?;
    world.settle_keys()?;
    check::echo::settle(world)?;
    check::sealed::check(world)?;
    check::view::check(world)?;
    world.go_over(Configuration::Hub)?;
    world.settle_keys()?;
    check::echo::settle(world)?;
    world.reach = vec![vec![true; NODES]; NODES];
    check::convergence::check(world)?;
    check::mergeable::check(world)?;
    check::account::check(world)?;
    check::echo::check(world)?;
    check::convergence::check(world)
}

impl World {
    /// Lets applications make so many transactions.
    fn work(&mut self, steps: u64) -> Result<(), Failure> {
        let idle = self.steps_left == 0;
        self.steps_left = steps;
        if idle {
            self.schedule(1, Event::Work);
        }
        while self.steps_left > 0 {
            self.step(u64::MAX)?;
        }
        Ok(())
    }

    /// Every node goes over to another configuration, in some order, while others still have the one before.
    fn go_over(&mut self, to: Configuration) -> Result<(), Failure> {
        let setup = to.setup()?;
        let mut nodes: Vec<usize> = (0..NODES).collect();
        while !nodes.is_empty() {
            let node = nodes.remove(self.rng.index(nodes.len()));
            self.apply_node(node, &setup)?;
            if node == KEEPER && self.config.sealed {
                self.set_rule(&to.encryption())?;
            }
            if !self.healed {
                self.work(2)?;
            }
        }
        Ok(())
    }

    /// A node becomes what a setup says: links that stay change on the open session.
    fn apply_node(&mut self, node: usize, setup: &Setup) -> Result<(), Failure> {
        let serve = setup.nodes.get(node).map_or(ServeMode::None, |node| node.serve);
        let served_otherwise = self.nodes.get(node).is_some_and(|node| node.serve != serve);
        self.nodes.get_mut(node).into_iter().for_each(|node| node.serve = serve);
        if served_otherwise {
            let places = self.places_of(node).into_iter().filter(|place| place.end == End::Server);
            places
                .collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|place| self.feed(place, Input::UserChanged))?;
        }
        let wanted: Vec<&LinkSetup> = setup.links.iter().filter(|link| link.plan.client == node).collect();
        let same = |link: &Link, wanted: &LinkSetup| {
            link.plan.server == wanted.plan.server && link.fallbacks == wanted.fallbacks
        };
        let mine = |link: &Link| link.plan.client == node && !link.removed;
        let gone: Vec<usize> = (0..self.links.len())
            .filter(|no| self.links.get(*no).is_some_and(|l| mine(l) && !wanted.iter().any(|w| same(l, w))))
            .collect();
        gone.into_iter().try_for_each(|link| self.remove_link(link))?;
        for wanted in wanted {
            let known = self.links.iter().position(|link| mine(link) && same(link, wanted));
            match known {
                Some(link) => self.change_to(link, wanted)?,
                None => {
                    self.links.push(Link::from(wanted.clone()));
                    self.connect_in(self.links.len() - 1, 200);
                }
            }
        }
        Ok(())
    }

    fn change_to(&mut self, link: usize, wanted: &LinkSetup) -> Result<(), Failure> {
        let Some(slot) = self.links.get_mut(link) else { return Ok(()) };
        let (sealed, asked) = (slot.encryption != wanted.encryption, (slot.plan.direction, &slot.request));
        let same = asked == (wanted.plan.direction, &wanted.request) && slot.authority == wanted.authority;
        slot.authority = wanted.authority;
        slot.encryption = wanted.encryption.clone();
        if sealed {
            // Another encryption is another form of everything: such a session starts anew.
            (slot.plan.direction, slot.request) = (wanted.plan.direction, wanted.request.clone());
            let place = slot.conn.map(|conn| Place { conn, end: End::Client });
            return place.map_or(Ok(()), |place| self.feed(place, Input::Shutdown));
        }
        if same { Ok(()) } else { self.change_link(link, wanted.plan.direction, wanted.request.clone()) }
    }

    fn remove_link(&mut self, link: usize) -> Result<(), Failure> {
        self.note(|| format!("link {link} is not wanted any more"));
        let Some(slot) = self.links.get_mut(link) else { return Ok(()) };
        slot.removed = true;
        let place = slot.conn.map(|conn| Place { conn, end: End::Client });
        place.map_or(Ok(()), |place| self.feed(place, Input::Shutdown))
    }
}
