//! Many nodes: a master, edges, and devices that follow the records of their edge's region.
//!
//! Nothing breaks here; what is counted is what it takes until everybody has the edits of a few.

use blazedb_core::topology::SyncMode;
use blazedb_core::view::ViewRequest;
use blazedb_core::{RecordId, Value};

use crate::config::{LinkPlan, SimConfig};
use crate::network::End;
use crate::rng::Rng;
use crate::setup::{LinkSetup, NodeSetup, Setup, TEAM};
use crate::world::World;
use crate::{Failure, Violation, check, finish};

/// Of so many nodes one is an edge.
const NODES_OF_AN_EDGE: usize = 33;
/// Of so many nodes one edits.
const NODES_OF_AN_EDIT: usize = 100;

/// What it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// Nodes, with the master and the edges.
    pub nodes: usize,
    /// Edges.
    pub edges: usize,
    /// Nodes that edited.
    pub edits: usize,
    /// Nodes that got an edit, counted once for each edit.
    pub deliveries: usize,
    /// Messages until everybody was connected and at rest, without pings.
    pub opening_messages: u64,
    /// Messages from the edits until everybody was at rest again, without pings.
    pub messages: u64,
    /// Those of them that carried changes.
    pub changes: u64,
    /// Their bytes, with pings.
    pub bytes: u64,
}

/// Connects `nodes` nodes in three levels, lets every hundredth edit, and checks that who is to have an edit has it, and
/// nobody else.
///
/// # Errors
/// The [`Violation`] that was found.
pub fn simulate_hierarchy(seed: u64, nodes: usize) -> Result<Scale, Box<Violation>> {
    let edges = (nodes / NODES_OF_AN_EDGE).max(1);
    let config = SimConfig {
        nodes,
        steps: 0,
        crashes: false,
        lossy: false,
        partitions: false,
        skew_ms: 0,
        bulk: false,
        small_batches: false,
        fixed_views: true,
        ..SimConfig::for_seed(seed)
    };
    let mut scale = Scale {
        nodes,
        edges,
        edits: (nodes / NODES_OF_AN_EDIT).max(1),
        deliveries: 0,
        opening_messages: 0,
        messages: 0,
        changes: 0,
        bytes: 0,
    };
    let make = |config| World::of(seed, config, hierarchy(nodes, edges), Rng::new(seed));
    finish(seed, &config, make, |world| run(world, &mut scale)).map(|_| scale)
}

/// The region of a node, which is that of its edge; the master has none.
const fn region(node: usize, edges: usize) -> usize {
    if node == 0 { usize::MAX } else { (node - 1) % edges }
}

fn hierarchy(nodes: usize, edges: usize) -> Setup {
    let link = |node: usize| {
        let server = if node <= edges { 0 } else { 1 + region(node, edges) };
        let plan = LinkPlan { client: node, server, direction: SyncMode::Bidirectional.direction() };
        let filter = Some(format!("{TEAM} == \"r{}\"", region(node, edges)));
        let request = ViewRequest { filter, excluded: Vec::new() };
        LinkSetup { request, ..LinkSetup::new(plan, "edge".to_owned()) }
    };
    Setup {
        nodes: vec![NodeSetup::default(); nodes],
        links: (1..nodes).map(link).collect(),
        attributes: Vec::new(),
    }
}

fn run(world: &mut World, scale: &mut Scale) -> Result<(), Failure> {
    world.healed = true;
    rest(world)?;
    scale.opening_messages = world.counts.messages;
    let before = world.counts;
    let mut edits = Vec::new();
    for edit in 0..scale.edits {
        // Devices, one after the other region.
        let node = 1 + scale.edges + edit * NODES_OF_AN_EDIT % (scale.nodes - scale.edges - 1);
        let value = Value::from(format!("r{}", region(node, scale.edges)).as_str());
        edits.push((region(node, scale.edges), world.insert_one(node, (TEAM.to_owned(), value))?));
    }
    rest(world)?;
    let after = world.counts;
    scale.messages = after.messages - before.messages;
    scale.changes = after.changes - before.changes;
    scale.bytes = after.bytes - before.bytes;
    check::convergence::check_sessions(world)?;
    scale.deliveries =
        edits.iter().map(|edit| deliveries(world, scale.edges, *edit)).sum::<Result<_, _>>()?;
    Ok(())
}

/// Until nobody has anything to say; pings would only take time.
fn rest(world: &mut World) -> Result<(), Failure> {
    let quiet = |world: &World| {
        world.links.iter().all(|link| {
            let conn = link.conn.and_then(|conn| world.conns.get(&conn));
            conn.is_some_and(|conn| {
                [End::Client, End::Server].iter().all(|end| {
                    let status = conn.end(*end).session.as_ref().map(blazedb_core::session::Session::status);
                    status.is_some_and(|s| s.pushed_all && s.pulled_all && s.in_flight_bytes == 0)
                })
            })
        })
    };
    for _ in 0..60 {
        let until = world.now() + 2_000;
        while world.step(until)? {}
        let still = world.noise.last_ms + 1_500 < world.now();
        if still && quiet(world) {
            for store in world.nodes.iter().filter_map(|node| node.store.as_ref()) {
                store.release_memory();
            }
            return Ok(());
        }
    }
    Err(Failure::new("convergence", "the nodes do not come to rest".to_owned()))
}

/// How many nodes have an edit of a region; they must be those of the region, and the master.
fn deliveries(world: &World, edges: usize, (of, id): (usize, RecordId)) -> Result<usize, Failure> {
    let mut count = 0;
    for (node, store) in
        world.nodes.iter().enumerate().filter_map(|(no, node)| Some((no, node.store.as_ref()?)))
    {
        let (has, may) = (store.get(id)?.is_some(), node == 0 || region(node, edges) == of);
        if has != may {
            let detail = format!(
                "node {node} of region {} has record {id} of region {of}: {has}",
                region(node, edges)
            );
            return Err(Failure::new(if has { "leak" } else { "convergence" }, detail));
        }
        count += usize::from(has);
    }
    Ok(count)
}
