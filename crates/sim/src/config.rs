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
    /// Some records are large enough to fill the send window.
    pub bulk: bool,
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
            bulk: rng.chance(12),
            trace: false,
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
