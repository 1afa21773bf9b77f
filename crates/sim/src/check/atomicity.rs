//! Changes that were committed together are seen together, on every node, after every commit.

use crate::Failure;
use crate::ledger::{Class, PAIR, shown};
use crate::workload::second_of;
use crate::world::World;

/// Checks every pair of records on a node.
pub(crate) fn check(world: &World, node: usize) -> Result<(), Failure> {
    let Some(store) = world.nodes.get(node).and_then(|node| node.store.as_ref()) else { return Ok(()) };
    for subject in world.ledger.subjects.iter().filter(|subject| subject.class == Class::Pair) {
        let (first, second) = (store.get(subject.id)?, store.get(second_of(subject.id))?);
        let (a, b) = (shown(first.as_ref(), PAIR), shown(second.as_ref(), PAIR));
        if a != b {
            let detail = format!("node {node} shows {a:?} and {b:?} of one transaction, pair {}", subject.id);
            return Err(Failure::new("atomicity", detail));
        }
    }
    Ok(())
}
