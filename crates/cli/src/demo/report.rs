//! What the demo tells: how it goes, and how it ended.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use blazedb::{LiveEvent, LiveQuery, RecordId};
use serde_json::json;

use super::edits::Editor;
use super::world::{World, failed};
use crate::output::{CliError, Output};

/// Measures how long a bug written on the laptop takes to be seen on the tablet.
pub(crate) struct LagProbe {
    live: LiveQuery,
    waiting: HashMap<RecordId, Instant>,
    lags: Vec<Duration>,
}

impl LagProbe {
    /// `None` if the tablet has no bugs database.
    pub(crate) fn start(world: &World) -> Result<Option<Self>, CliError> {
        let tablet = world.devices().iter().find(|device| device.name == "tablet");
        let Some(bugs) = tablet.and_then(|tablet| tablet.database("bugs")) else { return Ok(None) };
        let live = bugs.query().watch().map_err(failed)?;
        Ok(Some(Self { live, waiting: HashMap::new(), lags: Vec::new() }))
    }

    /// A bug was committed on the laptop just now.
    pub(crate) fn wrote(&mut self, id: RecordId) {
        self.waiting.insert(id, Instant::now());
    }

    /// Waits for the next difference on the tablet.
    pub(crate) async fn next(&mut self) -> Result<(), CliError> {
        match self.live.next().await.map_err(failed)? {
            Some(LiveEvent::Added(record)) => {
                self.lags.extend(self.waiting.remove(&record.id).map(|since| since.elapsed()));
                Ok(())
            }
            Some(_) => Ok(()),
            None => std::future::pending().await,
        }
    }

    fn percentile(&self, share: usize) -> f64 {
        let mut lags = self.lags.clone();
        lags.sort_unstable();
        let at = lags.len().saturating_sub(1) * share / 100;
        lags.get(at).map_or(0.0, |lag| lag.as_secs_f64() * 1_000.0)
    }
}

/// One line on how it goes.
pub(crate) fn progress(world: &World, editor: &Editor, probe: &LagProbe) -> String {
    let pending: u64 = world.links().iter().map(|link| link.pending).sum();
    format!(
        "edits {:>6}  pending {pending:>4}  devices online {}/{}  lag p50 {:.1} ms",
        editor.edits(),
        world.online(),
        world.devices().len(),
        probe.percentile(50)
    )
}

/// How it ended.
pub(crate) struct Summary {
    edits: u64,
    synced: u64,
    converged: bool,
    settled: Duration,
    lag: [f64; 2],
    databases: Vec<(String, u64)>,
    bytes: u64,
    conflicts: usize,
}

impl Summary {
    pub(crate) fn new(
        world: &World,
        editor: &Editor,
        probe: &LagProbe,
        converged: bool,
        settled: Duration,
    ) -> Result<Self, CliError> {
        let links = world.links();
        let mut databases = Vec::new();
        let mut conflicts = 0;
        for (name, database) in world.hub().databases() {
            databases.push((name.to_owned(), database.query().count().map_err(failed)?));
            conflicts += database.conflicts().map_err(failed)?.len();
        }
        Ok(Self {
            edits: editor.edits(),
            synced: editor.edits().saturating_sub(links.iter().map(|link| link.pending).sum()),
            converged,
            settled,
            lag: [probe.percentile(50), probe.percentile(99)],
            databases,
            bytes: links.iter().map(|link| link.traffic.bytes_sent + link.traffic.bytes_received).sum(),
            conflicts,
        })
    }

    pub(crate) fn print(&self, output: &mut Output) -> Result<(), CliError> {
        let [p50, p99] = self.lag;
        let settled_ms = self.settled.as_millis();
        if output.json() {
            let databases: serde_json::Map<_, _> =
                self.databases.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
            return output.line(json!({
                "edits": self.edits, "synced": self.synced, "converged": self.converged,
                "settled_ms": u64::try_from(settled_ms).unwrap_or(u64::MAX),
                "lag_ms": { "p50": p50, "p99": p99 }, "bytes": self.bytes,
                "conflicts": self.conflicts, "hub_records": databases,
            }));
        }
        let yes_no = if self.converged { "yes" } else { "no" };
        output.line(format_args!("edits     {}", self.edits))?;
        output.line(format_args!("synced    {}", self.synced))?;
        output.line(format_args!("converged {yes_no} ({settled_ms} ms after the last edit)"))?;
        output.line(format_args!(
            "lag       p50 {p50:.1} ms, p99 {p99:.1} ms (laptop to tablet, through the hub)"
        ))?;
        output.line(format_args!(
            "carried   {} KiB, {} conflicts kept on the hub",
            self.bytes >> 10,
            self.conflicts
        ))?;
        for (name, count) in &self.databases {
            output.line(format_args!("hub       {name}: {count} records"))?;
        }
        Ok(())
    }
}
