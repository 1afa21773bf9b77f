//! A hub with many subscribers: what a delivered change costs it.

use crate::error::BenchError;
use crate::process::{Ask, Node};
use crate::raw::{as_f64, rows, seal_cpu, send_cpu};
use crate::records::record;
use crate::report::{Measure, Target, middle};

/// Subscribers of one database.
const SUBSCRIBERS: u64 = 100;
/// Changes of a round, each a commit of its own.
const CHANGES: u64 = 1_000;
/// Rounds, of which the middle one counts.
const ROUNDS: u64 = 5;
/// Messages of a reference.
const MESSAGES: u32 = 20_000;
/// A delivery that takes longer has failed, in seconds.
const PATIENCE: u64 = 60;

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let mut hub = Node::with_database(dir.path(), "hub")?;
    let url = hub.listen()?;
    let alone = ["alone".to_owned()];
    hub.ask(&Ask::Open { dir: dir.path().to_owned(), names: alone.to_vec(), keyed: true, durable: true })?;
    let mut subscribers = Node::start()?;
    let names: Vec<String> = (0..SUBSCRIBERS).map(|n| format!("s{n}")).collect();
    // Only the hub is measured, so its subscribers take what spares the machine.
    let open = Ask::Open { dir: dir.path().to_owned(), names: names.clone(), keyed: false, durable: false };
    subscribers.ask(&open)?;
    for name in &names {
        subscribers.link(name, "hub", &url)?;
    }
    subscribers.ask(&Ask::Sync { seconds: PATIENCE })?;
    let rounds = (0..ROUNDS).map(|n| round(&mut hub, &mut subscribers, n)).collect::<Result<Vec<_>, _>>()?;
    let Round { cpu, raw, encoded, commits } =
        middle(rounds, |round| round.cpu / round.raw).ok_or(BenchError::NodeGone)?;
    Ok(vec![
        Measure::beside(
            "fanout: hub CPU per delivered change, beside AES-GCM and a raw send",
            cpu,
            "us",
            raw,
        )
        .reach(Target::AtMost(3.0)),
        Measure::beside(
            "fanout: of it, committing the changes to a database without subscribers",
            commits,
            "us",
            raw,
        ),
        Measure::beside(
            "fanout: batches encoded for 100 subscribers, beside changes",
            encoded,
            "",
            as_f64(CHANGES),
        )
        .reach(Target::AtMost(1.0)),
    ])
}

/// One round: the hub's processor time for a delivered change and that of the raw parts, both in microseconds, and
/// the batches that were encoded.
struct Round {
    cpu: f64,
    raw: f64,
    encoded: f64,
    /// What the commits take without anybody to deliver to.
    commits: f64,
}

fn round(hub: &mut Node, subscribers: &mut Node, n: u64) -> Result<Round, BenchError> {
    let from = n * CHANGES;
    let before = hub.usage("hub")?;
    hub.ask(&Ask::Insert { name: "hub".to_owned(), from, count: CHANGES, batch: 1 })?;
    subscribers.ask(&Ask::Reach { head: from + CHANGES, seconds: PATIENCE })?;
    let after = hub.usage("hub")?;
    hub.ask(&Ask::Insert { name: "alone".to_owned(), from, count: CHANGES, batch: 1 })?;
    let alone = hub.usage("hub")?.cpu_seconds - after.cpu_seconds;
    let delivered = as_f64(SUBSCRIBERS * CHANGES);
    let cpu = (after.cpu_seconds - before.cpu_seconds) / delivered * 1e6;
    let length = rows(&[record(0)], 0)?.first().map_or(0, |row| row.body.len());
    let raw = (seal_cpu(length, MESSAGES)? + send_cpu(length, MESSAGES)?).as_secs_f64() * 1e6;
    let commits = alone / delivered * 1e6;
    Ok(Round { cpu, raw, commits, encoded: as_f64(after.encoded - before.encoded) })
}
