//! A quiet system sends nothing but pings, equal replicas that meet again send each other no changes, and a write
//! goes to every node that may have it once and back to none.

use blazedb_core::blazebinary::DecodeError;
use blazedb_core::wire::Message;

use crate::Failure;
use crate::check::reaches;
use crate::world::World;

/// How long nothing may be sent before a system counts as quiet, in virtual milliseconds.
const QUIET_MS: u64 = 5 * 60_000;
/// How long a healed system may take to become quiet, in virtual milliseconds.
const SETTLE_MS: u64 = 40 * 60_000;
/// How long replicas get to meet again, in virtual milliseconds.
const MEET_MS: u64 = 2 * 60_000;

/// Takes note of a frame.
pub(crate) fn on_sent(world: &mut World, message: &Result<Message, DecodeError>) {
    match message {
        Ok(Message::Ping | Message::Pong) => {}
        Ok(Message::Changes(changes)) => {
            world.noise.last_ms = world.now();
            world.counts.changes += u64::from(!changes.data.is_empty());
            world.noise.changes += u64::from(!changes.data.is_empty());
        }
        _ => world.noise.last_ms = world.now(),
    }
    if !matches!(message, Ok(Message::Ping | Message::Pong)) {
        world.counts.messages += 1;
    }
}

/// Lets a healed system come to rest.
pub(crate) fn settle(world: &mut World) -> Result<(), Failure> {
    let give_up = world.now() + SETTLE_MS;
    world.noise.last_ms = world.now();
    while world.now() < world.noise.last_ms + QUIET_MS {
        world.step(world.noise.last_ms + QUIET_MS)?;
        if world.now() > give_up {
            return Err(Failure::new("echo", "a healed system does not come to rest".to_owned()));
        }
    }
    Ok(())
}

/// Breaks every connection of a system at rest: when they are back, nothing is to be said.
pub(crate) fn check(world: &mut World) -> Result<(), Failure> {
    world.noise.changes = 0;
    let conns: Vec<u64> = world.conns.keys().copied().collect();
    conns.into_iter().for_each(|conn| world.cut(conn, false));
    let until = world.now() + MEET_MS;
    while world.step(until)? {}
    if world.noise.changes > 0 {
        let detail = format!("equal replicas that met again sent {} batches of changes", world.noise.changes);
        return Err(Failure::new("echo", detail));
    }
    Ok(())
}

/// Writes one record in a system at rest, and counts how often it is sent.
pub(crate) fn check_one_write(world: &mut World) -> Result<(), Failure> {
    world.noise.changes = 0;
    let node = world.rng.index(world.config.nodes);
    world.write_one(node)?;
    let until = world.now() + MEET_MS;
    while world.step(until)? {}
    let reached = (0..world.config.nodes).filter(|to| *to != node && reaches(world, node, *to)).count();
    // Where there is more than one way to a node, a write may take each of them, and meet itself on each link.
    let most = if world.config.shape.is_tree() { reached } else { 2 * world.links.len() };
    let sent = world.noise.changes;
    if sent < reached as u64 || sent > most as u64 {
        let detail = format!(
            "a write of node {node} was sent {sent} times, to reach {reached} nodes ({most} at most)"
        );
        return Err(Failure::new("echo", detail));
    }
    Ok(())
}
