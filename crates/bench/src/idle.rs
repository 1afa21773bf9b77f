//! What idle connections and databases keep of a hub's memory.

use std::time::Duration;

use crate::error::BenchError;
use crate::process::{Ask, Node};
use crate::raw::as_f64;
use crate::report::{Measure, Target};

/// Databases of the hub, and connections to each.
const DATABASES: u64 = 200;
const CONNECTIONS_EACH: u64 = 10;
/// Records in each database.
const RECORDS: u64 = 20;
/// After this pause nobody has anything to say, and what is kept is kept.
const SETTLE: Duration = Duration::from_secs(12);
/// Connections that take longer have failed, in seconds.
const PATIENCE: u64 = 120;
/// What a connection and a database may keep, in KiB.
const CONNECTION_KIB: f64 = 20.0;
const DATABASE_KIB: f64 = 64.0;

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let names: Vec<String> = (0..DATABASES).map(|n| format!("d{n}")).collect();
    let mut hub = Node::start()?;
    // One database first: what the node itself takes is no database's.
    let open = |names: &[String]| Ask::Open {
        dir: dir.path().to_owned(),
        names: names.to_vec(),
        keyed: true,
        durable: true,
    };
    let (first, others) = names.split_at(1);
    hub.ask(&open(first))?;
    let empty = hub.usage("")?.rss_kib;
    hub.ask(&open(others))?;
    for name in &names {
        hub.ask(&Ask::Insert { name: name.clone(), from: 0, count: RECORDS, batch: RECORDS })?;
    }
    let url = hub.listen()?;
    std::thread::sleep(SETTLE);
    let with_databases = hub.usage("")?.rss_kib;

    let devices_dir = dir.path().join("devices");
    std::fs::create_dir(&devices_dir)?;
    let mut devices = Node::start()?;
    devices.ask(&Ask::Open { dir: devices_dir, names: names.clone(), keyed: false, durable: false })?;
    for name in &names {
        let times = usize::try_from(CONNECTIONS_EACH).unwrap_or(1);
        let (name, remote, url) = (name.clone(), name.clone(), url.clone());
        devices.ask(&Ask::Link { name, remote, url, compression: true, times })?;
    }
    devices.ask(&Ask::Sync { seconds: PATIENCE })?;
    std::thread::sleep(SETTLE);
    let connected = hub.usage("")?;
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
