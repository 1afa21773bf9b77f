//! One checker per property. Each looks at the world and at what was written, never at how it was merged.

pub(crate) mod account;
pub(crate) mod atomicity;
pub(crate) mod authority;
pub(crate) mod convergence;
pub(crate) mod delete;
pub(crate) mod durability;
pub(crate) mod echo;
pub(crate) mod leak;
pub(crate) mod mergeable;
pub(crate) mod mode;
pub(crate) mod sealed;
pub(crate) mod view;
pub(crate) mod window;

use crate::ledger::Op;
use crate::world::World;

/// The writes that a node must know of once everything is quiet.
fn expected_at(world: &World, node: usize) -> impl Iterator<Item = &Op> {
    world.ledger.ops.iter().filter(move |op| reaches(world, op.node, node))
}

fn reaches(world: &World, from: usize, to: usize) -> bool {
    world.reach.get(from).and_then(|row| row.get(to)).copied().unwrap_or(false)
}

/// Writes, one a line.
fn lines<'a>(ops: impl Iterator<Item = &'a Op>) -> String {
    ops.map(|op| format!("\n  {op:?}")).collect()
}
