//! Flow control: what is sent and not acknowledged stays within the window.

use blazedb_core::limits::{BATCH_BYTES, MAX_RECORD_BYTES, SEND_WINDOW_BYTES};

use crate::Failure;
use crate::network::Place;
use crate::world::World;

/// The window, and what one batch may go beyond it.
const MOST: usize = SEND_WINDOW_BYTES + BATCH_BYTES + MAX_RECORD_BYTES;

/// Checks one session.
pub(crate) fn check(world: &World, place: Place) -> Result<(), Failure> {
    let conn = world.conns.get(&place.conn);
    let Some(session) = conn.and_then(|conn| conn.end(place.end).session.as_ref()) else { return Ok(()) };
    let bytes = session.status().in_flight_bytes;
    if bytes > MOST {
        let detail = format!("{place:?} has {bytes} bytes under way, the window allows {MOST}");
        return Err(Failure::new("window", detail));
    }
    Ok(())
}
