//! The first sync of many records: device, hub, device, three processes, all encrypted at rest and durable.

use std::path::Path;
use std::time::{Duration, Instant};

use blazedb::Fields;

use crate::error::BenchError;
use crate::process::{Answer, Ask, Node};
use crate::raw::{RawTable, as_f64, rate, rows, timed};
use crate::records::{record, records, to_json};
use crate::report::{Measure, Target};

/// Records of one transaction, here and in the reference.
const BATCH: u64 = 1_000;
/// A sync slower than this has failed, in seconds.
const PATIENCE: u64 = 600;

/// One sync and what it took.
struct Run {
    seconds: f64,
    wire_bytes: u64,
    /// Peaks of sender, hub and receiver.
    nodes: [Answer; 3],
    before: [Answer; 3],
}

pub(crate) fn run(count: u64) -> Result<Vec<Measure>, BenchError> {
    let raw = reference(count)?;
    let compressed = sync(count, true)?;
    let plain = sync(count, false)?;
    let json = json_bytes(count);
    let third = |run: &Run, name: &str| {
        let ours = as_f64(count) / run.seconds;
        Measure::beside(format!("bulk: {count} records over two hops, {name}"), ours, "/s", raw)
            .reach(Target::AtLeast(1.0 / 3.0))
    };
    let wire = |run: &Run, name: &str, ceiling: f64| {
        let bytes = as_f64(run.wire_bytes) / as_f64(count);
        Measure::beside(format!("bulk: bytes on the wire beside JSON, {name}"), bytes, "B", json)
            .reach(Target::AtMost(ceiling))
    };
    let mut measures = vec![
        third(&compressed, "compressed"),
        third(&plain, "uncompressed"),
        Measure::alone("bulk: time, compressed", compressed.seconds, "s"),
        wire(&plain, "uncompressed", 0.62),
        wire(&compressed, "compressed", 0.27),
    ];
    let peaks = compressed.nodes.iter().zip(&compressed.before);
    for ((node, before), name) in peaks.zip(["sender", "hub", "receiver"]) {
        let name = format!("bulk: peak memory of the {name}, beside its memory before");
        measures.push(Measure::beside(name, mib(node.peak_kib), "MiB", mib(before.rss_kib)));
    }
    Ok(measures)
}

fn mib(kib: u64) -> f64 {
    as_f64(kib) / 1024.0
}

/// The rate at which plain `rusqlite` inserts the same bytes once into one keyed file.
pub(crate) fn reference(count: u64) -> Result<f64, BenchError> {
    let dir = tempfile::tempdir()?;
    let table = RawTable::create(&dir.path().join("raw.db"))?;
    let mut time = Duration::ZERO;
    let mut next = 0;
    while next < count {
        let here = BATCH.min(count - next);
        let fields: Vec<Fields> = records(next, here).collect();
        let plain = rows(&fields, next)?;
        let (took, done) = timed(|| table.insert(&plain));
        done?;
        time += took;
        next += here;
    }
    Ok(rate(count, time))
}

/// Mean length of a record as a line of JSON, in bytes.
pub(crate) fn json_bytes(count: u64) -> f64 {
    let sample = count.min(2_000);
    let id = r#","id":"01890a5d-ac96-774b-bcce-b302099a8057""#.len() as u64;
    let length = |n| serde_json::Value::Object(to_json(&record(n))).to_string().len() as u64 + id + 1;
    as_f64((0..sample).map(|n| length(n * (count / sample))).sum()) / as_f64(sample)
}

fn sync(count: u64, compression: bool) -> Result<Run, BenchError> {
    let dir = tempfile::tempdir()?;
    let mut sender = Node::with_database(dir.path(), "sender")?;
    sender.ask(&Ask::Insert { name: "sender".to_owned(), from: 0, count, batch: BATCH })?;
    drop(sender);
    // A new process: its peak is of the sync alone.
    let mut sender = Node::with_database(dir.path(), "sender")?;
    let (mut hub, mut receiver) = pair(dir.path())?;
    let before = [sender.usage("sender")?, hub.usage("hub")?, receiver.usage("receiver")?];
    let url = hub.listen()?;
    receiver.link_with("receiver", "hub", &url, compression)?;
    receiver.ask(&Ask::Sync { seconds: 10 })?;
    let begin = Instant::now();
    sender.link_with("sender", "hub", &url, compression)?;
    receiver.ask(&Ask::Reach { head: count, seconds: PATIENCE })?;
    sender.ask(&Ask::Sync { seconds: PATIENCE })?;
    let seconds = begin.elapsed().as_secs_f64();
    let nodes = [sender.usage("sender")?, hub.usage("hub")?, receiver.usage("receiver")?];
    let wire_bytes = nodes.iter().map(|node| node.wire_bytes).max().unwrap_or(0);
    Ok(Run { seconds, wire_bytes, nodes, before })
}

fn pair(dir: &Path) -> Result<(Node, Node), BenchError> {
    Ok((Node::with_database(dir, "hub")?, Node::with_database(dir, "receiver")?))
}
