//! A device returns after 1 % of the records has changed.

use std::time::Instant;

use crate::bulk::json_bytes;
use crate::error::BenchError;
use crate::process::{Ask, Node};
use crate::raw::as_f64;
use crate::report::Measure;

/// Records at most, whatever is asked for.
const MAX_RECORDS: u64 = 50_000;
/// One record in so many has changed.
const EVERY: u64 = 100;
/// A sync slower than this has failed, in seconds.
const PATIENCE: u64 = 120;

pub(crate) fn run(asked: u64) -> Result<Vec<Measure>, BenchError> {
    let count = asked.clamp(EVERY, MAX_RECORDS);
    let dir = tempfile::tempdir()?;
    let mut hub = Node::with_database(dir.path(), "hub")?;
    let mut device = Node::with_database(dir.path(), "device")?;
    hub.ask(&Ask::Insert { name: "hub".to_owned(), from: 0, count, batch: 1_000 })?;
    let url = hub.listen()?;
    let (first, _) = sync(&mut device, &url)?;
    device.ask(&Ask::Unlink)?;
    hub.ask(&Ask::Change { name: "hub".to_owned(), every: usize::try_from(EVERY).unwrap_or(usize::MAX) })?;
    let (again, bytes) = sync(&mut device, &url)?;
    let changed = json_bytes(count) * as_f64(count.div_ceil(EVERY));
    Ok(vec![
        Measure::beside("reconnect: time with 1 % changed, beside the first sync", again, "ms", first),
        Measure::beside(
            "reconnect: bytes on the wire, beside the changed records as JSON",
            bytes,
            "B",
            changed,
        ),
    ])
}

/// Links the device and waits; answers milliseconds and bytes.
fn sync(device: &mut Node, url: &str) -> Result<(f64, f64), BenchError> {
    let begin = Instant::now();
    device.link("device", "hub", url)?;
    device.ask(&Ask::Sync { seconds: PATIENCE })?;
    let time = begin.elapsed().as_secs_f64() * 1e3;
    Ok((time, as_f64(device.usage("device")?.wire_bytes)))
}
