//! A hub with many subscribers: what a delivered change costs it.

use crate::error::BenchError;
use crate::process::{Ask, Node};
use crate::raw::{as_f64, rows, seal_cpu, send_cpu};
use crate::records::record;
use crate::report::{Measure, Target};

/// Subscribers of one database.
const SUBSCRIBERS: u64 = 100;
/// Changes, each a commit of its own.
const CHANGES: u64 = 1_000;
/// Messages of a reference.
const MESSAGES: u32 = 20_000;
/// A delivery that takes longer has failed, in seconds.
const PATIENCE: u64 = 60;

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let mut hub = Node::with_database(dir.path(), "hub")?;
    let url = hub.listen()?;
    let mut subscribers = Node::start()?;
    let names: Vec<String> = (0..SUBSCRIBERS).map(|n| format!("s{n}")).collect();
    // Only the hub is measured, so its subscribers take what spares the machine.
    let open = Ask::Open { dir: dir.path().to_owned(), names: names.clone(), keyed: false, durable: false };
    subscribers.ask(&open)?;
    for name in &names {
        subscribers.link(name, "hub", &url)?;
    }
    subscribers.ask(&Ask::Sync { seconds: PATIENCE })?;
    let before = hub.usage("hub")?;
    hub.ask(&Ask::Insert { name: "hub".to_owned(), from: 0, count: CHANGES, batch: 1 })?;
    subscribers.ask(&Ask::Reach { head: CHANGES, seconds: PATIENCE })?;
    let after = hub.usage("hub")?;

    let delivered = as_f64(SUBSCRIBERS * CHANGES);
    let cpu = (after.cpu_seconds - before.cpu_seconds) / delivered * 1e6;
    let length = rows(&[record(0)], 0)?.first().map_or(0, |row| row.body.len());
    let raw = (seal_cpu(length, MESSAGES)? + send_cpu(length, MESSAGES)?).as_secs_f64() * 1e6;
    let encoded = as_f64(after.encoded - before.encoded);
    Ok(vec![
        Measure::beside(
            "fanout: hub CPU per delivered change, beside AES-GCM and a raw send",
            cpu,
            "us",
            raw,
        )
        .reach(Target::AtMost(3.0)),
        Measure::beside(
            "fanout: batches encoded for 100 subscribers, beside changes",
            encoded,
            "",
            as_f64(CHANGES),
        )
        .reach(Target::AtMost(1.0)),
    ])
}
