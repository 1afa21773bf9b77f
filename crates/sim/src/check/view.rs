//! Once everything is quiet, a device holds what its policy shows of the hub, and nothing else but what it may not send.

use std::collections::BTreeMap;

use blazedb_core::access::Rights;
use blazedb_core::view::View;
use blazedb_core::{Record, RecordId, Timestamp};
use blazedb_store::Store;

use crate::Failure;
use crate::check::convergence::{check_sessions, export};
use crate::keys::KEEPER;
use crate::ledger::Kind;
use crate::network::Link;
use crate::world::World;

/// Compares every device with the hub, as its link sees it.
pub(crate) fn check(world: &World) -> Result<(), Failure> {
    for link in &world.links {
        let stores = [link.plan.client, link.plan.server]
            .map(|node| world.nodes.get(node).and_then(|node| node.store.as_ref()));
        if let [Some(device), Some(hub)] = stores
            && !link.removed
            && !world.removed_at.contains_key(&link.plan.client)
        {
            compare(world, link, device, hub)?;
        }
    }
    check_sessions(world)
}

/// What a link's client is shown: what it asks for, cut by what the rules let its user read.
fn view_of(world: &World, link: &Link) -> Result<View, Failure> {
    let client = world.nodes.get(link.plan.client).and_then(|node| node.user.as_ref());
    let rights = world.nodes.get(link.plan.server).map(|node| node.access.for_user(client));
    let read = rights.as_ref().filter(|rights| !rights.is_public()).map(Rights::read);
    let view = link.request.view(read, Timestamp(0));
    view.map_err(|error| Failure::new("view", error.to_string()))
}

/// What a sealing client is to hold of what the hub has, the keeper of the keys shows.
fn read_by_keeper(
    world: &World,
    mine: &BTreeMap<RecordId, Record>,
    theirs: BTreeMap<RecordId, Record>,
) -> Result<BTreeMap<RecordId, Record>, Failure> {
    let keeper = world.nodes.get(KEEPER).and_then(|node| node.store.as_ref());
    let (true, Some(keeper)) = (world.config.sealed, keeper) else { return Ok(theirs) };
    let known = export(keeper)?;
    // What that has not, is compared with nothing.
    let read = |id, record| known.get(&id).or_else(|| mine.get(&id)).cloned().unwrap_or(record);
    Ok(theirs.into_iter().map(|(id, record)| (id, read(id, record))).collect())
}

fn compare(world: &World, link: &Link, device: &Store, hub: &Store) -> Result<(), Failure> {
    let view = view_of(world, link)?;
    let mine = export(device)?;
    let theirs = read_by_keeper(world, &mine, export(hub)?)?;
    let both_ways = link.plan.direction.push && link.plan.direction.pull;
    let leaving = device.leaving()?;
    // Where changes go one way, a deletion on the other side is not known.
    let deleted = |id: &RecordId| world.ledger.of_id(*id).any(|op| matches!(op.kind, Kind::Delete(_)));
    for (id, record) in theirs.iter().filter(|(id, _)| both_ways || !deleted(id)) {
        let shown = view.matches(record);
        let held = mine.get(id);
        let same = held.map(|held| visible(held, &view)) == Some(visible(record, &view));
        let wrong = match (shown, held) {
            (true, None) => link.plan.direction.pull,
            (true, Some(_)) => both_ways && !same,
            // Edits that may not be sent keep a record here.
            (false, Some(_)) => link.plan.direction.pull && leaving.iter().all(|leaving| leaving.id != *id),
            (false, None) => false,
        };
        if wrong {
            let detail = format!("{link:?}: hub {record:?} shown {shown}, device {held:?}");
            return Err(Failure::new("view", detail));
        }
    }
    // What was taken away and had to stay is not kept up to date.
    let kept = |id: &RecordId| leaving.iter().any(|leaving| leaving.id == *id) || (!both_ways && deleted(id));
    let mine = mine.into_iter().filter(|(id, _)| !kept(id)).collect();
    check_own(link, &view, &mine, &theirs)
}

/// What only the device holds is what it may not send.
fn check_own(
    link: &Link,
    view: &View,
    mine: &BTreeMap<RecordId, Record>,
    theirs: &BTreeMap<RecordId, Record>,
) -> Result<(), Failure> {
    let unsent = mine
        .iter()
        .find(|(id, record)| link.plan.direction.push && !theirs.contains_key(id) && view.matches(*record));
    match unsent {
        Some((_, record)) => Err(Failure::new("view", format!("{link:?}: the hub lacks {record:?}"))),
        None => Ok(()),
    }
}

fn visible<'r>(record: &'r Record, view: &View) -> BTreeMap<&'r str, String> {
    let shown = record.fields.iter().filter(|(name, _)| view.shows(name));
    shown.map(|(name, value)| (name.as_str(), format!("{value:?}"))).collect()
}
