//! Once everything is quiet, nodes that hear of each other hold the same, and every session says so.

use std::collections::BTreeMap;

use blazedb_core::{Record, RecordId, Timestamp};
use blazedb_store::Store;

use crate::Failure;
use crate::check::reaches;
use crate::network::{End, Link, Place};
use crate::world::World;

/// Compares what the nodes export, and what sessions report.
pub(crate) fn check(world: &World) -> Result<(), Failure> {
    let mut exports = Vec::new();
    for node in &world.nodes {
        exports.push(node.store.as_ref().map(export).transpose()?.unwrap_or_default());
    }
    for (a, one) in exports.iter().enumerate() {
        for (b, other) in exports.iter().enumerate().skip(a + 1) {
            if reaches(world, a, b) && reaches(world, b, a) && one != other {
                return Err(Failure::new("convergence", difference(a, one, b, other)));
            }
        }
    }
    check_sessions(world)
}

pub(crate) fn check_sessions(world: &World) -> Result<(), Failure> {
    for (no, link) in world.links.iter().enumerate().filter(|(_, link)| !link.removed) {
        if world.removed_at.contains_key(&link.plan.client) || !may_connect(world, link) {
            continue;
        }
        let Some(conn) = link.conn.and_then(|conn| world.conns.get(&conn)) else {
            return Err(Failure::new("convergence", format!("link {no} is down though everything works")));
        };
        for end in [End::Client, End::Server] {
            let status = conn.end(end).session.as_ref().map(blazedb_core::session::Session::status);
            let done = status.is_some_and(|s| s.pushed_all && s.pulled_all && s.in_flight_bytes == 0);
            if !done {
                let place = Place { conn: link.conn.unwrap_or_default(), end };
                let detail = format!("{place:?} of a quiet system reports {status:?}");
                return Err(Failure::new("convergence", detail));
            }
        }
    }
    Ok(())
}

/// Whether the rules let a link's client in.
pub(crate) fn may_connect(world: &World, link: &Link) -> bool {
    let user = world.nodes.get(link.plan.client).and_then(|node| node.user.as_ref());
    let server = world.nodes.get(link.plan.server);
    server.is_none_or(|server| server.access.for_user(user).may_connect(Timestamp::from_millis(world.now())))
}

pub(crate) fn export(store: &Store) -> Result<BTreeMap<RecordId, Record>, Failure> {
    let mut all = BTreeMap::new();
    store.export(|record| {
        all.insert(record.id, record);
        true
    })?;
    Ok(all)
}

fn difference(
    a: usize,
    one: &BTreeMap<RecordId, Record>,
    b: usize,
    other: &BTreeMap<RecordId, Record>,
) -> String {
    let ids = one.keys().chain(other.keys()).find(|id| one.get(id) != other.get(id));
    let short = |record: Option<&Record>| {
        let fields = record.map(|r| r.fields.iter().filter(|(name, _)| *name != "bulk").collect::<Vec<_>>());
        format!("{fields:?}")
    };
    ids.map_or_else(String::new, |id| {
        format!("record {id}: node {a} shows {}, node {b} {}", short(one.get(id)), short(other.get(id)))
    })
}
