//! From a commit on one device to its sight on another, over a hub; all three encrypted and durable.

use std::time::{Duration, Instant};

use blazedb::Fields;

use crate::error::BenchError;
use crate::node;
use crate::raw::{Echo, RawTable, percentile, rows};
use crate::records::records;
use crate::report::{Measure, Target};

/// Changes measured, and those that only warm up.
const SAMPLES: u64 = 400;
const WARM_UP: u64 = 20;
/// A change that takes longer has been lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause between two changes, so that each meets an idle system.
const PAUSE: Duration = Duration::from_millis(3);

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let (_listener, url) = node::hub(dir.path()).await?;
    let (a, b) = (node::open(dir.path(), "a", true, true)?, node::open(dir.path(), "b", true, true)?);
    let link_a = node::link(&a, "a", "hub", &url, true).await?;
    let link_b = node::link(&b, "b", "hub", &url, true).await?;
    node::caught_up(&link_a, PATIENCE).await?;
    node::caught_up(&link_b, PATIENCE).await?;
    let raw_file = |name| RawTable::create(&dir.path().join(name));
    let files = [raw_file("raw0.db")?, raw_file("raw1.db")?, raw_file("raw2.db")?];
    let mut echo = Echo::start().await?;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let mut heads = b.watch_head();
    let fields: Vec<Fields> = records(0, SAMPLES + WARM_UP).collect();
    for (n, row) in (0..).zip(rows(&fields, 0)?) {
        tokio::time::sleep(PAUSE).await;
        let [before, first, second] = &files;
        // As the device's own commit does, this wakes the disk before the clock starts.
        before.insert(std::slice::from_ref(&row))?;
        let begin = Instant::now();
        first.insert(std::slice::from_ref(&row))?;
        echo.round_trip(&row.body).await?;
        second.insert(std::slice::from_ref(&row))?;
        let took = begin.elapsed();
        if n >= WARM_UP {
            raw.push(took.as_secs_f64() * 1e3);
        }

        tokio::time::sleep(PAUSE).await;
        let id = a.insert(crate::records::record(n))?;
        let begin = Instant::now();
        while b.get_field(id, "number")?.is_none() {
            let waiting = tokio::time::timeout(PATIENCE, heads.changed()).await;
            if !matches!(waiting, Ok(Ok(()))) {
                return Err(BenchError::Missing { found: n, expected: n + 1, waited: PATIENCE });
            }
        }
        let took = begin.elapsed();
        if n >= WARM_UP {
            ours.push(took.as_secs_f64() * 1e3);
        }
    }
    link_a.shutdown().await;
    link_b.shutdown().await;
    let mut figure = |name: &str, share: f64, ceiling: f64| {
        let (ours, raw) = (percentile(&mut ours, share), percentile(&mut raw, share));
        Measure::beside(format!("latency: {name}, two commits and two hops"), ours, "ms", raw)
            .reach(Target::AtMost(ceiling))
    };
    Ok(vec![figure("p50", 0.5, 3.0), figure("p99", 0.99, 10.0)])
}
