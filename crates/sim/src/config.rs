//! What a simulation is made of: nodes, links, and the faults that are allowed.

use blazedb_core::wire::Direction;

use crate::rng::Rng;

/// How the nodes are linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Devices linked to one hub.
    Star,
    /// Devices on a hub and on an edge that is linked to that hub.
    Relay,
    /// Two hubs that are linked, and devices that are linked to both.
    Ring,
    /// Every node linked to every other.
    Mesh,
    /// Each node linked to the one before.
    Chain,
}

impl Shape {
    /// Whether there is one way only between any two nodes.
    pub(crate) const fn is_tree(self) -> bool {
        matches!(self, Self::Star | Self::Relay | Self::Chain)
    }
}

/// What changes on links while they are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Switches {
    /// Nothing.
    #[default]
    None,
    /// Which records and fields.
    Views,
    /// Which ways; everybody sees everything.
    Modes,
    /// Both.
    Both,
}

/// One link: who connects to whom, and what it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkPlan {
    /// The node that connects.
    pub client: usize,
    /// The node that serves.
    pub server: usize,
    /// Which way changes may go.
    pub direction: Direction,
}

/// What a simulation is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimConfig {
    /// How many nodes.
    pub nodes: usize,
    /// How many transactions are made before everything heals.
    pub steps: u64,
    /// How the nodes are linked.
    pub shape: Shape,
    /// Links of modes other than bidirectional, in percent.
    pub one_way_percent: u64,
    /// Nodes crash and start again.
    pub crashes: bool,
    /// Some nodes commit with durability `normal`, and lose commits when they crash.
    pub lossy: bool,
    /// Connections break and nodes are cut off from each other.
    pub partitions: bool,
    /// How far a node's clock is off, at most, in milliseconds.
    pub skew_ms: u64,
    /// Clients ask for part of the records, and change their minds.
    pub views: bool,
    /// What clients ask to see is given, and nothing that a seed draws.
    pub fixed_views: bool,
    /// What clients also ask for while their sessions are open.
    pub switches: Switches,
    /// The hub has access rules, and users whose teams and roles change.
    pub rules: bool,
    /// The server of each link decides about what its client writes.
    pub authority: bool,
    /// Users stay who they are.
    pub fixed_users: bool,
    /// Devices seal, the hub has no keys, and keys are rotated.
    pub sealed: bool,
    /// Everything was sealed from the first write on.
    pub always_sealed: bool,
    /// Members are removed from the keyring.
    pub removes_members: bool,
    /// Some records are large enough to fill the send window.
    pub bulk: bool,
    /// Most nodes read little of the feed at once, so that sessions stop in the middle of what was written. Then a
    /// transaction of which a part was written over since may arrive in parts.
    pub small_batches: bool,
    /// How long tombstones are kept for who is away, in milliseconds, and nodes drop them; 0: the default, and they do not.
    pub lease_ms: u64,
    /// What kind of run it is, to name it where it can be had again.
    pub run: Option<&'static str>,
    /// Keep a line for everything that happens.
    pub trace: bool,
}

impl SimConfig {
    /// A configuration drawn from a seed.
    #[must_use]
    pub fn for_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xC0F1_6000);
        let shapes = [Shape::Star, Shape::Relay, Shape::Ring, Shape::Mesh, Shape::Chain];
        Self {
            nodes: 3 + rng.index(4),
            steps: rng.range(20, 120),
            shape: rng.pick(&shapes).copied().unwrap_or(Shape::Star),
            one_way_percent: if rng.chance(50) { 35 } else { 0 },
            crashes: rng.chance(70),
            lossy: rng.chance(40),
            partitions: rng.chance(80),
            skew_ms: [0, 1_000, 60_000, 240_000].get(rng.index(4)).copied().unwrap_or(0),
            views: false,
            fixed_views: false,
            switches: Switches::None,
            rules: false,
            authority: false,
            fixed_users: false,
            sealed: false,
            always_sealed: false,
            removes_members: false,
            bulk: rng.chance(12),
            small_batches: false,
            lease_ms: 0,
            run: None,
            trace: false,
        }
    }

    /// The same as [`SimConfig::for_seed`], with sessions that stop in the middle.
    #[must_use]
    pub fn small_batches_for_seed(seed: u64) -> Self {
        Self { small_batches: true, bulk: false, run: Some("batches"), ..Self::for_seed(seed) }
    }

    /// A configuration drawn from a seed, of devices with policies on one hub.
    #[must_use]
    pub fn views_for_seed(seed: u64) -> Self {
        let lossy = false;
        Self {
            shape: Shape::Star,
            views: true,
            run: Some("views"),
            bulk: false,
            one_way_percent: 0,
            lossy,
            ..Self::for_seed(seed)
        }
    }

    /// A configuration drawn from a seed, of nodes that drop tombstones after moments, and are away for longer; every third
    /// time of devices with policies on one hub.
    #[must_use]
    pub fn leases_for_seed(seed: u64) -> Self {
        let config = if seed % 3 == 2 { Self::views_for_seed(seed) } else { Self::for_seed(seed) };
        let lease_ms = Rng::new(seed ^ 0x1EA5_E000).range(200, 4_000);
        let steps = if config.views { config.steps } else { config.steps * 2 };
        // Who only reads keeps what nobody it reads from has heard of: see the known limits in `docs/simulator.md`.
        let lossy = config.lossy && config.one_way_percent == 0;
        Self { lease_ms, steps, lossy, partitions: true, run: Some("leases"), ..config }
    }

    /// The same, with links that change while they are open.
    #[must_use]
    pub fn switches_for_seed(seed: u64) -> Self {
        Self { switches: Switches::Both, run: Some("switches"), ..Self::views_for_seed(seed) }
    }

    /// A configuration drawn from a seed, of a hub with access rules and devices whose users, modes and policies change.
    #[must_use]
    pub fn rules_for_seed(seed: u64) -> Self {
        let switches = if seed.is_multiple_of(3) { Switches::Both } else { Switches::None };
        Self { rules: true, switches, run: Some("rules"), ..Self::views_for_seed(seed) }
    }

    /// A configuration drawn from a seed, of a parent that decides about what its children write, or of one with an edge
    /// that decides about its own and is decided about.
    #[must_use]
    pub fn authority_for_seed(seed: u64) -> Self {
        let shape = if seed.is_multiple_of(3) { Shape::Relay } else { Shape::Star };
        Self {
            authority: true,
            fixed_views: true,
            shape,
            run: Some("authority"),
            ..Self::views_for_seed(seed)
        }
    }

    /// A configuration drawn from a seed, of devices that seal and a hub without keys, which are rotated; now and then
    /// a member is removed.
    #[must_use]
    pub fn sealed_for_seed(seed: u64) -> Self {
        let removes_members = seed.is_multiple_of(2);
        let switches = if seed.is_multiple_of(3) { Switches::Both } else { Switches::None };
        let run = Some("sealed");
        Self {
            sealed: true,
            always_sealed: true,
            removes_members,
            switches,
            run,
            ..Self::views_for_seed(seed)
        }
    }

    /// The links, with directions drawn from `rng`.
    pub(crate) fn links(&self, rng: &mut Rng) -> Vec<LinkPlan> {
        let pairs: Vec<(usize, usize)> = match self.shape {
            Shape::Star => (1..self.nodes).map(|node| (node, 0)).collect(),
            Shape::Chain => (1..self.nodes).map(|node| (node, node - 1)).collect(),
            Shape::Relay => (1..self.nodes).map(|n| (n, usize::from(n > 1 && n % 2 == 1))).collect(),
            Shape::Ring => {
                let devices = (2..self.nodes).flat_map(|node| [(node, 0), (node, 1)]);
                std::iter::once((1, 0)).chain(devices).collect()
            }
            Shape::Mesh => (1..self.nodes).flat_map(|a| (0..a).map(move |b| (a, b))).collect(),
        };
        let direction = |rng: &mut Rng| match rng.chance(self.one_way_percent) {
            true if rng.chance(50) => Direction { push: false, pull: true },
            true => Direction { push: true, pull: false },
            false => Direction { push: true, pull: true },
        };
        pairs
            .into_iter()
            .map(|(client, server)| LinkPlan { client, server, direction: direction(rng) })
            .collect()
    }
}

/// Which node's changes get to which: `reaches[a]` holds every node that learns of what `a` writes.
pub(crate) fn reach(nodes: usize, links: &[LinkPlan]) -> Vec<Vec<bool>> {
    let mut reach: Vec<Vec<bool>> = (0..nodes).map(|a| (0..nodes).map(|b| a == b).collect()).collect();
    for row in &mut reach {
        for _ in 0..nodes {
            for link in links {
                let has = |row: &[bool], node: usize| row.get(node).copied().unwrap_or(false);
                let to_server = link.direction.push && has(row, link.client);
                let to_client = link.direction.pull && has(row, link.server);
                row.get_mut(link.server).into_iter().for_each(|slot| *slot |= to_server);
                row.get_mut(link.client).into_iter().for_each(|slot| *slot |= to_client);
            }
        }
    }
    reach
}
