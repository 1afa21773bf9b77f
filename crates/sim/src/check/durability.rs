//! What a peer has acknowledged, and what was committed durably, is never missing: it is shown, or something
//! later is, or it is in a conflict log.

use std::collections::BTreeSet;

use blazedb_core::RecordId;
use blazedb_core::session::Session;
use blazedb_store::{Durability, Store};

use crate::Failure;
use crate::check::expected_at;
use crate::ledger::{Kind, Op};
use crate::network::Place;
use crate::world::World;

/// A session's peer has acknowledged more: whatever that covers must be there now.
pub(crate) fn on_acknowledged(world: &mut World, place: Place) -> Result<(), Failure> {
    if world.config.views {
        // What a policy takes away again is not there for ever; see `check::view`.
        return Ok(());
    }
    let Some(conn) = world.conns.get_mut(&place.conn) else { return Ok(()) };
    let (peer, cut) = (conn.end(place.other().end).node, conn.cut);
    let end = conn.end_mut(place.end);
    let pushed = end.session.as_ref().map_or(0, |session: &Session| session.status().pushed);
    if pushed <= end.acked {
        return Ok(());
    }
    let (from, node, reconciled) = (std::mem::replace(&mut end.acked, pushed), end.node, end.reconciled);
    let Some(store) = world.nodes.get(node).and_then(|node| node.store.as_ref()) else { return Ok(()) };
    // The feed holds newest states: what was written again since goes out with that.
    let again: BTreeSet<RecordId> =
        store.changes(pushed, usize::MAX, None)?.into_iter().map(|change| change.id).collect();
    let covered = |op: &&Op| {
        let written = op.node == node && !op.doubtful && op.seq > from && op.seq <= pushed;
        // Compared by content, two deletions of a record are one: the difference is settled when it shows.
        let sent = !(reconciled && matches!(op.kind, Kind::Delete(_)));
        written && sent && world.ledger.id_of(op.subject).is_some_and(|id| !again.contains(&id))
    };
    let acknowledged: Vec<i64> = world.ledger.ops.iter().filter(covered).map(|op| op.number).collect();
    // What a node without durable commits said before it lost power binds it to nothing.
    if cut && is_lossy(world, peer) {
        return Ok(());
    }
    if let Some(owed) = world.owed.get_mut(peer) {
        owed.extend(acknowledged.iter().copied());
    }
    check_numbers(world, peer, &acknowledged)
}

/// A node has come back: whatever it had acknowledged must still be there.
pub(crate) fn on_restart(world: &mut World, node: usize) -> Result<(), Failure> {
    if world.config.views {
        return Ok(());
    }
    let owed: Vec<i64> = world.owed.get(node).into_iter().flatten().copied().collect();
    check_numbers(world, node, &owed)?;
    if is_lossy(world, node) {
        return Ok(());
    }
    let own: Vec<i64> = world.ledger.ops.iter().filter(|op| op.node == node).map(|op| op.number).collect();
    check_numbers(world, node, &own)
}

fn is_lossy(world: &World, node: usize) -> bool {
    world.nodes.get(node).is_none_or(|node| node.durability == Durability::Normal)
}

fn check_numbers(world: &mut World, node: usize, numbers: &[i64]) -> Result<(), Failure> {
    let Some(store) = world.nodes.get(node).and_then(|node| node.store.clone()) else { return Ok(()) };
    for number in numbers {
        let Some(op) = world.ledger.op(*number).cloned() else { continue };
        if missing(world, &store, &op)? {
            note_conflicts(world)?;
            if missing(world, &store, &op)? {
                return Err(failure(world, node, &store, &op));
            }
        }
    }
    Ok(())
}

/// Once everything is quiet: nothing that a node should know of is missing anywhere.
pub(crate) fn check(world: &mut World) -> Result<(), Failure> {
    note_conflicts(world)?;
    for (index, node) in world.nodes.iter().enumerate() {
        let Some(store) = &node.store else { continue };
        for op in expected_at(world, index).filter(|op| !op.doubtful) {
            if missing(world, store, op)? {
                return Err(failure(world, index, store, op));
            }
        }
    }
    Ok(())
}

/// A write that lost is in the log of the node where it did.
fn note_conflicts(world: &mut World) -> Result<(), Failure> {
    for store in world.nodes.iter().filter_map(|node| node.store.as_ref()) {
        world.ledger.note_conflicts(store)?;
    }
    Ok(())
}

fn missing(world: &World, store: &Store, op: &Op) -> Result<bool, Failure> {
    let Some(id) = world.ledger.id_of(op.subject) else { return Ok(false) };
    Ok(!world.ledger.accounts_for(op, store.get(id)?.as_ref()))
}

fn failure(world: &World, node: usize, store: &Store, op: &Op) -> Failure {
    let record = world.ledger.id_of(op.subject).and_then(|id| store.get(id).ok().flatten());
    let fields =
        record.map(|record| record.fields.into_iter().filter(|(name, _)| name != "bulk").collect::<Vec<_>>());
    let written = super::lines(world.ledger.of_subject(op.subject));
    Failure::new("durability", format!("node {node} has lost {op:?}; it shows {fields:?}; written:{written}"))
}
