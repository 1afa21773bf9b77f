//! No leak: whatever gets to a node was meant for it when it was sent. At that time its session carried changes that
//! way, and the view that held showed the record and the field as the sender had them.
//!
//! What a receiver is meant to get is noted whenever the sender or the terms of the session change; what is not meant for it
//! any more may still be under way for a moment. Two things go beyond the view: a side that connected tells of an
//! edit that takes a record out of its filter, once, if the other side holds the record; and whose write is refused is
//! given what it may read of the record, though its link may only push.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blazedb_core::wire::Refusals;
use blazedb_core::{Record, RecordId, Value};

use crate::Failure;
use crate::check::convergence::export;
use crate::ledger::NUMBERED;
use crate::network::{End, Place};
use crate::world::World;

/// How long something may be under way, in virtual milliseconds.
const UNDER_WAY_MS: u64 = 2_000;

/// That a record is there (0), or one write that it shows.
type Item = (RecordId, i64);

/// What nodes are meant to get and what they have.
#[derive(Debug, Default)]
pub(crate) struct Entitled {
    /// By the end that receives: what it may be sent now.
    now: BTreeMap<Place, BTreeSet<Item>>,
    /// By node: until when it was meant to get something that it is not meant to get any more.
    until: BTreeMap<(usize, Item), u64>,
    /// By node: what it showed when it was last looked at.
    held: BTreeMap<usize, BTreeSet<Item>>,
}

/// A session is open under (other) terms: the end at `place` may send what they allow.
pub(crate) fn on_terms(world: &mut World, place: Place) -> Result<(), Failure> {
    if let Some(conn) = world.conns.get_mut(&place.conn) {
        let end = conn.end_mut(place.end);
        end.terms = match place.end {
            End::Client => end.asked.clone(),
            End::Server => end.shown.clone(),
        };
    }
    let sender = world.node_of(place);
    sender.map_or(Ok(()), |sender| note(world, sender, &[place]))
}

/// A node's records have changed: so has what it may send.
pub(crate) fn on_commit(world: &mut World, node: usize) -> Result<(), Failure> {
    let places = world.places_of(node);
    note(world, node, &places)
}

/// An end of a session is gone: nothing gets there any more, nor from there.
pub(crate) fn on_end(world: &mut World, place: Place) {
    for receiver in [place, place.other()] {
        let gone = world.entitled.now.remove(&receiver).unwrap_or_default();
        end(world, receiver, gone.into_iter());
    }
}

/// Whose write is refused is given the record as it is, as far as it may be read, whatever its link's mode.
pub(crate) fn on_refusals(world: &mut World, place: Place, refusals: &Refusals) -> Result<(), Failure> {
    let store = world.node_of(place).and_then(|node| world.nodes.get(node)?.store.clone());
    let Some((store, shown)) =
        store.zip(world.conns.get(&place.conn).and_then(|c| c.end(place.end).shown.clone()))
    else {
        return Ok(());
    };
    for write in refusals.writes.iter().filter(|write| write.state.is_some()) {
        let record = store.get(write.id)?.filter(|record| shown.matches(record));
        let items: Vec<_> = record.iter().flat_map(|record| items(world, record)).collect();
        let read = items.into_iter().filter(|(field, _)| field.is_empty() || shown.shows(field));
        end(world, place.other(), read.map(|(_, item)| item).collect::<Vec<_>>().into_iter());
    }
    Ok(())
}

fn end(world: &mut World, receiver: Place, gone: impl Iterator<Item = Item>) {
    let (now, node) = (world.now(), world.node_of(receiver));
    if let Some(node) = node {
        world.entitled.until.extend(gone.map(|item| ((node, item), now)));
    }
}

fn note(world: &mut World, sender: usize, places: &[Place]) -> Result<(), Failure> {
    if !world.config.views {
        return Ok(());
    }
    let Some(store) = world.nodes.get(sender).and_then(|node| node.store.clone()) else { return Ok(()) };
    let records = export(&store)?;
    for place in places {
        let meant = meant(world, *place, &records)?;
        let receiver = place.other();
        let before = world.entitled.now.insert(receiver, meant.clone()).unwrap_or_default();
        end(world, receiver, before.into_iter().filter(|item| !meant.contains(item)));
    }
    Ok(())
}

/// What the end at `place` may send of these records.
fn meant(
    world: &World,
    place: Place,
    records: &BTreeMap<RecordId, Record>,
) -> Result<BTreeSet<Item>, Failure> {
    let Some(conn) = world.conns.get(&place.conn) else { return Ok(BTreeSet::new()) };
    let end = conn.end(place.end);
    let (Some(direction), Some(view)) = (end.opened, end.terms.clone()) else { return Ok(BTreeSet::new()) };
    let sends = if place.end == End::Client { direction.push } else { direction.pull };
    if !sends || end.session.is_none() {
        return Ok(BTreeSet::new());
    }
    let receiver = conn.end(place.other().end).node;
    let other = world.nodes.get(receiver).and_then(|node| node.store.as_ref());
    let now = world.now();
    let mut meant = BTreeSet::new();
    for record in records.values() {
        // It holds the record, or that is under way.
        let sent = world.entitled.until.get(&(receiver, (record.id, 0)));
        let there = sent.is_some_and(|until| until + UNDER_WAY_MS >= now)
            || world.entitled.now.get(&place.other()).is_some_and(|all| all.contains(&(record.id, 0)))
            || other.is_some_and(|store| holds(store, record.id));
        let once_more = place.end == End::Client && there;
        if view.matches(record) || once_more {
            let shown = items(world, record).into_iter();
            meant.extend(
                shown.filter(|(field, _)| field.is_empty() || view.shows(field)).map(|(_, item)| item),
            );
        }
    }
    Ok(meant)
}

/// Whether an end sends whatever there is. What it sends may be what others were sent before: earlier states.
fn sends_all(world: &World, place: Place) -> bool {
    let Some(end) = world.conns.get(&place.conn).map(|conn| conn.end(place.end)) else { return false };
    let sends = end.opened.is_some_and(|way| if place.end == End::Client { way.push } else { way.pull });
    sends && end.session.is_some() && end.terms.as_ref().is_some_and(|view| view.is_all())
}

fn holds(store: &blazedb_store::Store, id: RecordId) -> bool {
    store.get(id).is_ok_and(|record| record.is_some())
}

/// What a record shows: that it is there, and the writes in it, with their fields.
fn items(world: &World, record: &Record) -> Vec<(Arc<str>, Item)> {
    let there = (Arc::from(""), (record.id, 0));
    // What is sealed has other names and values on a hub.
    let values = record.fields.iter().filter(|_| !world.config.sealed);
    let numbers = values.filter_map(|(field, value)| match value {
        Value::Int(number) if NUMBERED.contains(&field.as_str()) => {
            Some((Arc::from(field.as_str()), (record.id, *number)))
        }
        _ => None,
    });
    std::iter::once(there).chain(numbers).collect()
}

/// A node has taken changes in: all that is new there was meant for it, or its own.
pub(crate) fn on_applied(world: &mut World, node: usize) -> Result<(), Failure> {
    if !world.config.views {
        return Ok(());
    }
    let Some(store) = world.nodes.get(node).and_then(|node| node.store.clone()) else { return Ok(()) };
    let records = export(&store)?;
    let held: BTreeSet<Item> =
        records.values().flat_map(|record| items(world, record)).map(|(_, item)| item).collect();
    let before = world.entitled.held.insert(node, held.clone()).unwrap_or_default();
    let places = world.places_of(node);
    let now = world.now();
    for (id, number) in held.difference(&before) {
        let own = match number {
            0 => world.ledger.of_id(*id).any(|op| op.node == node),
            number => world.ledger.op(*number).is_none_or(|op| op.node == node),
        };
        let item = (*id, *number);
        let meant =
            places.iter().any(|place| world.entitled.now.get(place).is_some_and(|all| all.contains(&item)));
        let lately = world.entitled.until.get(&(node, item)).is_some_and(|until| until + UNDER_WAY_MS >= now);
        let open = places.iter().any(|place| sends_all(world, place.other()));
        if !own && !meant && !lately && !open {
            let record = records.get(id);
            let detail = format!("node {node} got write {number} of {record:?}, which was not meant for it");
            return Err(Failure::new("leak", detail));
        }
    }
    Ok(())
}
