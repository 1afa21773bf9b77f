//! What idle connections and databases keep of a hub's memory.

use std::path::Path;
use std::time::Duration;

use crate::error::BenchError;
use crate::process::{Answer, Ask, Node};
use crate::raw::as_f64;
use crate::report::{Measure, Target};

/// Databases of the hub, and connections to each.
const DATABASES: u64 = 200;
const CONNECTIONS_EACH: u64 = 10;
/// Records in each database.
const RECORDS: u64 = 20;
/// A database is idle after twice the hub's four seconds; before that nothing is given back.
const IDLE_AFTER: Duration = Duration::from_secs(9);
/// Between two looks at a process's memory, and how often in a row they are to see the same.
const LOOK: Duration = Duration::from_secs(1);
const STEADY: usize = 4;
/// What counts as the same, in KiB.
const SAME_KIB: u64 = 256;
/// Looks at a memory that never comes to rest.
const MAX_LOOKS: usize = 120;
/// Connections that take longer have failed, in seconds.
const PATIENCE: u64 = 120;
/// What a connection and a database may keep, in KiB.
const CONNECTION_KIB: f64 = 20.0;
const DATABASE_KIB: f64 = 64.0;

/// Waits until the memory of `node` stays what it is: sooner on an idle machine than on a busy one.
fn settled(node: &mut Node) -> Result<Answer, BenchError> {
    std::thread::sleep(IDLE_AFTER);
    let (mut steady, mut last) = (0, node.usage("")?);
    for _ in 0..MAX_LOOKS {
        if steady >= STEADY {
            break;
        }
        std::thread::sleep(LOOK);
        let now = node.usage("")?;
        steady = if now.rss_kib.abs_diff(last.rss_kib) <= SAME_KIB { steady + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

/// A process with a replica of each of these databases, each linked to the hub over so many connections.
fn connect(dir: &Path, names: &[String], url: &str) -> Result<Node, BenchError> {
    std::fs::create_dir(dir)?;
    let mut devices = Node::start()?;
    devices.ask(&Ask::Open { dir: dir.to_owned(), names: names.to_vec(), keyed: false, durable: false })?;
    for name in names {
        let times = usize::try_from(CONNECTIONS_EACH).unwrap_or(1);
        let (name, remote, url) = (name.clone(), name.clone(), url.to_owned());
        devices.ask(&Ask::Link { name, remote, url, compression: true, times })?;
    }
    devices.ask(&Ask::Sync { seconds: PATIENCE })?;
    Ok(devices)
}

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let names: Vec<String> = (0..DATABASES).map(|n| format!("d{n}")).collect();
    let mut hub = Node::start()?;
    let serve = |hub: &mut Node, names: &[String]| {
        let names = names.to_vec();
        hub.ask(&Ask::Open { dir: dir.path().to_owned(), names: names.clone(), keyed: true, durable: true })?;
        for name in names {
            hub.ask(&Ask::Insert { name, from: 0, count: RECORDS, batch: RECORDS })?;
        }
        hub.listen()
    };
    // One database first, used as the others will be: what the node itself takes is no database's, and the pages of
    // the program that it comes to need are no connection's.
    let (first, others) = names.split_at(1);
    let url = serve(&mut hub, first)?;
    drop(connect(&dir.path().join("first"), first, &url)?);
    let empty = settled(&mut hub)?.rss_kib;
    let url = serve(&mut hub, others)?;
    let with_databases = settled(&mut hub)?.rss_kib;
    let devices = connect(&dir.path().join("devices"), &names, &url)?;
    let connected = settled(&mut hub)?;
    drop(devices);
    let connections = DATABASES * CONNECTIONS_EACH;
    if connected.open < connections {
        let waited = Duration::from_secs(PATIENCE);
        return Err(BenchError::Missing { found: connected.open, expected: connections, waited });
    }
    let each = |kib: u64, of: u64| as_f64(kib) / as_f64(of);
    let connection = each(connected.rss_kib.saturating_sub(with_databases), connections);
    let database = each(with_databases.saturating_sub(empty), DATABASES - 1);
    Ok(vec![
        Measure::beside(
            "idle: hub memory per connection, beside the limit",
            connection,
            "KiB",
            CONNECTION_KIB,
        )
        .reach(Target::AtMost(1.0)),
        Measure::beside("idle: hub memory per database, beside the limit", database, "KiB", DATABASE_KIB)
            .reach(Target::AtMost(1.0)),
    ])
}
