//! Single durable writes, with and without a link to a hub in another process.

use std::time::Duration;

use blazedb::Database;

use crate::error::BenchError;
use crate::node;
use crate::process::Node;
use crate::raw::{rate, timed};
use crate::records::record;
use crate::report::{Measure, Target};

/// Writes in one turn, and turns of each kind.
const WRITES: u64 = 600;
const TURNS: u64 = 6;
/// A link that takes longer to catch up has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let mut hub = Node::with_database(dir.path(), "hub")?;
    let url = hub.listen()?;
    let synced = node::open(dir.path(), "synced", true, true)?;
    let alone = node::open(dir.path(), "alone", true, true)?;
    let link = runtime.block_on(node::link(&synced, "synced", "hub", &url, true))?;
    runtime.block_on(node::caught_up(&link, PATIENCE))?;
    let (mut with, mut without) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..TURNS {
        without += write(&alone, turn)?;
        with += write(&synced, turn)?;
        runtime.block_on(node::caught_up(&link, PATIENCE))?;
    }
    runtime.block_on(link.shutdown());
    let total = WRITES * TURNS;
    let arrived = hub.usage("hub")?.head;
    if arrived < total {
        return Err(BenchError::Missing { found: arrived, expected: total, waited: PATIENCE });
    }
    let measure = Measure::beside(
        "sustained: single durable writes, synced",
        rate(total, with),
        "/s",
        rate(total, without),
    );
    Ok(vec![measure.reach(Target::AtLeast(0.8))])
}

fn write(database: &Database, turn: u64) -> Result<Duration, BenchError> {
    let fields: Vec<_> = (turn * WRITES..(turn + 1) * WRITES).map(record).collect();
    let (time, done) = timed(|| fields.into_iter().try_for_each(|one| database.insert(one).map(drop)));
    done?;
    Ok(time)
}
