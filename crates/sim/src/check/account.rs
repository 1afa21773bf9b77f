//! No loss, whatever policies, rules, modes and keys do meanwhile: once everything is quiet, every write is shown
//! where all writes go, or where it was made, or a later one is, or a conflict log or a list of refused writes has it.

use blazedb_core::Record;
use blazedb_core::access::Operation;

use crate::Failure;
use crate::keys::KEEPER;
use crate::ledger::{Kind, Op, shown};
use crate::world::World;

/// Asks for every write.
pub(crate) fn check(world: &mut World) -> Result<(), Failure> {
    for store in world.nodes.iter().filter_map(|node| node.store.as_ref()) {
        world.ledger.note_conflicts(store)?;
    }
    // What is sealed, a hub can't show.
    let center = if world.config.sealed { KEEPER } else { 0 };
    for op in world.ledger.ops.iter().filter(|op| !op.doubtful) {
        let Some(id) = world.ledger.id_of(op.subject) else { continue };
        let mut found = false;
        for node in [center, op.node] {
            let Some(store) = world.nodes.get(node).and_then(|node| node.store.as_ref()) else { continue };
            found |= world.ledger.accounts_for(op, store.get(id)?.as_ref());
        }
        // A removed field is nothing that would be kept. What a hub has sealed and no device is shown is there.
        found |= matches!(op.kind, Kind::Unset(_));
        // Nor is what its own writer removed again.
        found |= world.ledger.of_subject(op.subject).any(|later| is_removal_of(later, op));
        if world.config.sealed && world.config.fixed_views {
            let hub = world.nodes.first().and_then(|node| node.store.as_ref());
            found |= hub.map(|hub| hub.get(id)).transpose()?.flatten().is_some();
        }
        // Who may write to a record no more is not told what its write lost to.
        let deleted = world.config.rules && world.ledger.is_mortal(op);
        if !found && !deleted && !is_rejected(world, op)? {
            let written = super::lines(world.ledger.of_subject(op.subject));
            let detail =
                format!("{op:?} is nowhere: not shown, not refused, in no conflict log; written:{written}");
            return Err(Failure::new("account", detail));
        }
    }
    Ok(())
}

fn is_removal_of(later: &Op, op: &Op) -> bool {
    let same =
        matches!((&later.kind, &op.kind), (Kind::Unset(removed), Kind::Write(field)) if removed == field);
    same && later.node == op.node && later.stamp > op.stamp
}

/// Whether its writer keeps it as refused, or who wrote over it keeps what took its place.
fn is_rejected(world: &World, op: &Op) -> Result<bool, Failure> {
    for node in 0..world.nodes.len() {
        if is_rejected_at(world, node, op)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_rejected_at(world: &World, node: usize, op: &Op) -> Result<bool, Failure> {
    let Some(id) = world.ledger.id_of(op.subject) else { return Ok(false) };
    let Some(store) = world.nodes.get(node).and_then(|node| node.store.as_ref()) else { return Ok(false) };
    let accounts = |record: &Record, field: &str| {
        let number = shown(Some(record), field);
        let by = number.and_then(|number| world.ledger.op(number));
        by.is_some_and(|by| by.stamp >= op.stamp && (by.node == node || node == op.node))
    };
    Ok(store.rejected()?.iter().filter(|rejected| rejected.record.id == id).any(|rejected| match &op.kind {
        Kind::Write(field) => {
            accounts(&rejected.record, field)
                || rejected.unset.iter().any(|unset| unset == field) && removed_at(world, node, op, field)
        }
        Kind::Delete(_) => node == op.node && rejected.operation == Operation::Delete,
        _ => false,
    }))
}

/// Whether an application of this node has removed what was written.
fn removed_at(world: &World, node: usize, op: &Op, field: &str) -> bool {
    let removed = |other: &Op| {
        other.node == node
            && matches!(other.kind, Kind::Unset(removed) if removed == field)
            && other.stamp > op.stamp
    };
    world.ledger.of_subject(op.subject).any(removed)
}
