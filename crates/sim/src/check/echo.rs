//! A quiet system sends nothing but pings, and equal replicas that meet again send each other no changes.

use blazedb_core::wire::Message;

use crate::Failure;
use crate::world::World;

/// How long nothing may be sent before a system counts as quiet, in virtual milliseconds.
const QUIET_MS: u64 = 5 * 60_000;
/// How long a healed system may take to become quiet, in virtual milliseconds.
const SETTLE_MS: u64 = 40 * 60_000;
/// How long replicas get to meet again, in virtual milliseconds.
const MEET_MS: u64 = 2 * 60_000;

/// Takes note of a frame.
pub(crate) fn on_sent(world: &mut World, bytes: &[u8]) {
    match Message::decode(bytes) {
        Ok(Message::Ping | Message::Pong) => {}
        Ok(Message::Changes(changes)) => {
            world.noise.last_ms = world.now();
            world.noise.changes += u64::from(!changes.data.is_empty());
        }
        _ => world.noise.last_ms = world.now(),
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
