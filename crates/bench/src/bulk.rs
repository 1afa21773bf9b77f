//! The first sync of many records: device, hub, device, three processes, all encrypted at rest and durable.

use std::path::Path;
use std::time::{Duration, Instant};

use blazedb::Fields;

use crate::error::BenchError;
use crate::process::{Answer, Ask, Node};
use crate::raw::{RawTable, as_f64, rate, rows, timed};
use crate::records::{record, records, to_json};
use crate::report::{Measure, Target, middle};

/// Records of one transaction, here and in the reference.
const BATCH: u64 = 1_000;
/// A sync slower than this has failed, in seconds.
const PATIENCE: u64 = 600;
/// Rounds, of which the middle one counts; more records than these get one round.
const ROUNDS: usize = 3;
const RECORDS_IN_ROUNDS: u64 = 200_000;

/// One sync and what it took.
struct Run {
    seconds: f64,
    wire_bytes: u64,
    /// Peaks of sender, hub and receiver.
    nodes: [Answer; 3],
    before: [Answer; 3],
}

impl Run {
    /// Processor time of the three nodes for a record, in microseconds.
    fn cpu(&self, count: u64) -> f64 {
        let used =
            self.nodes.iter().zip(&self.before).map(|(node, before)| node.cpu_seconds - before.cpu_seconds);
        used.sum::<f64>() / as_f64(count) * 1e6
    }
}

/// What is compared, one right after the other.
struct Round {
    raw: Reference,
    compressed: Run,
    plain: Run,
    sealed: Run,
    sealed_plain: Run,
}

pub(crate) fn run(count: u64) -> Result<Vec<Measure>, BenchError> {
    let round = |_| {
        Ok(Round {
            raw: insert_raw(count)?,
            compressed: sync(count, true, false)?,
            plain: sync(count, false, false)?,
            sealed: sync(count, true, true)?,
            sealed_plain: sync(count, false, true)?,
        })
    };
    let rounds = if count > RECORDS_IN_ROUNDS { 1 } else { ROUNDS };
    let rounds = (0..rounds).map(round).collect::<Result<Vec<_>, BenchError>>()?;
    let mut e2e = beside(&rounds, "compressed", |round| (&round.sealed, &round.compressed), count);
    e2e.extend(beside(&rounds, "uncompressed", |round| (&round.sealed_plain, &round.plain), count));
    let Round { raw: Reference { rate: raw, cpu: raw_cpu }, compressed, plain, .. } =
        middle(rounds, |round| 1.0 / round.compressed.seconds / round.raw.rate)
            .ok_or(BenchError::NodeGone)?;
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
        Measure::beside("bulk: processor time of a record, compressed", compressed.cpu(count), "us", raw_cpu),
        Measure::beside("bulk: processor time of a record, uncompressed", plain.cpu(count), "us", raw_cpu),
        wire(&plain, "uncompressed", 0.62),
        wire(&compressed, "compressed", 0.27),
    ];
    measures.extend(e2e);
    let peaks = compressed.nodes.iter().zip(&compressed.before);
    for ((node, before), name) in peaks.zip(["sender", "hub", "receiver"]) {
        let name = format!("bulk: peak memory of the {name}, beside its memory before");
        measures.push(Measure::beside(name, mib(node.peak_kib), "MiB", mib(before.rss_kib)));
    }
    Ok(measures)
}

/// What sealing costs, in the round with the middle ratio of times.
fn beside(rounds: &[Round], name: &str, runs: fn(&Round) -> (&Run, &Run), count: u64) -> Vec<Measure> {
    let pairs = rounds.iter().map(runs).collect();
    let Some((sealed, plain)) = middle(pairs, |(sealed, plain)| sealed.seconds / plain.seconds) else {
        return Vec::new();
    };
    let what = |what: &str| format!("bulk: {what} under e2e-only beside smart-proxy, {name}");
    let bytes = |run: &Run| as_f64(run.wire_bytes) / as_f64(count);
    vec![
        Measure::beside(what("time"), sealed.seconds, "s", plain.seconds).reach(Target::AtMost(1.5)),
        Measure::beside(what("bytes on the wire"), bytes(sealed), "B", bytes(plain))
            .reach(Target::AtMost(1.3)),
        Measure::beside(what("processor time of a record"), sealed.cpu(count), "us", plain.cpu(count)),
    ]
}

fn mib(kib: u64) -> f64 {
    as_f64(kib) / 1024.0
}

/// What inserting takes plain `rusqlite`.
struct Reference {
    /// Records a second.
    rate: f64,
    /// Processor time of a record, in microseconds.
    cpu: f64,
}

/// Has plain `rusqlite` insert the same bytes once into one keyed file.
fn insert_raw(count: u64) -> Result<Reference, BenchError> {
    let dir = tempfile::tempdir()?;
    let table = RawTable::create(&dir.path().join("raw.db"))?;
    let (mut time, mut cpu) = (Duration::ZERO, Duration::ZERO);
    let mut next = 0;
    while next < count {
        let here = BATCH.min(count - next);
        let fields: Vec<Fields> = records(next, here).collect();
        let plain = rows(&fields, next)?;
        let before = crate::usage::thread_cpu();
        let (took, done) = timed(|| table.insert(&plain));
        done?;
        cpu += crate::usage::thread_cpu() - before;
        time += took;
        next += here;
    }
    Ok(Reference { rate: rate(count, time), cpu: cpu.as_secs_f64() * 1e6 / as_f64(count) })
}

/// Mean length of a record as a line of JSON, in bytes.
pub(crate) fn json_bytes(count: u64) -> f64 {
    let sample = count.min(2_000);
    let id = r#","id":"01890a5d-ac96-774b-bcce-b302099a8057""#.len() as u64;
    let length = |n| serde_json::Value::Object(to_json(&record(n))).to_string().len() as u64 + id + 1;
    as_f64((0..sample).map(|n| length(n * (count / sample))).sum()) / as_f64(sample)
}

fn sync(count: u64, compression: bool, sealed: bool) -> Result<Run, BenchError> {
    let dir = tempfile::tempdir()?;
    let mut sender = Node::with_database(dir.path(), "sender")?;
    if sealed {
        seal(dir.path(), &mut sender)?;
    }
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

/// Makes receiver and sender members of one keyring, which the hub then has.
fn seal(dir: &Path, sender: &mut Node) -> Result<(), BenchError> {
    let (mut hub, mut receiver) = pair(dir)?;
    let url = hub.listen()?;
    for (node, name, create) in [(&mut receiver, "receiver", true), (sender, "sender", false)] {
        node.ask(&Ask::Seal { name: name.to_owned(), create })?;
        node.link_with(name, "hub", &url, false)?;
        node.ask(&Ask::Sync { seconds: 30 })?;
        node.ask(&Ask::Unlink)?;
    }
    Ok(())
}

fn pair(dir: &Path) -> Result<(Node, Node), BenchError> {
    Ok((Node::with_database(dir, "hub")?, Node::with_database(dir, "receiver")?))
}
