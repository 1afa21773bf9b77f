//! `GET /metrics`: the node's counters in the text format of Prometheus (version 0.0.4).
//!
//! Invariants: names end in their unit, counters in `_total`; label values are escaped; nothing of a record is in it.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use blazedb::snapshot::{LinkView, Snapshot};
use blazedb_core::histogram::{BOUNDS_US, HistogramCounts};

use super::error::ApiError;
use super::{Api, blocking};
use crate::node::Node;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    let node = Arc::clone(&api.node);
    let text = blocking(move || Ok(describe(&node))).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

type Labels<'a> = [(&'a str, &'a str)];

/// Text in the making. All samples of one metric stand together, behind its description.
#[derive(Default)]
struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: impl std::fmt::Display) {
        self.0.push_str(name);
        self.labels(labels);
        let _ = writeln!(self.0, " {value}");
    }

    fn labels(&mut self, labels: &Labels<'_>) {
        for (at, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{name}=\"", if at == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
    }

    fn histogram(&mut self, name: &str, labels: &Labels<'_>, counted: &HistogramCounts) {
        let (bucket, mut below) = (format!("{name}_bucket"), 0);
        let bounds = BOUNDS_US.iter().map(|us| seconds(*us)).chain(["+Inf".to_owned()]);
        for (count, bound) in counted.counts.iter().zip(bounds) {
            below += count;
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, seconds(counted.sum_us));
        self.sample(&format!("{name}_count"), labels, below);
    }
}

/// Microseconds as seconds, without rounding.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn describe(node: &Node) -> String {
    let mut page = Page::default();
    page.metric("blazedb_build_info", "gauge", "The node and its version.");
    let spec = node.spec();
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("node", spec.node.name.as_str())];
    page.sample("blazedb_build_info", &labels, 1);
    if let Some(bytes) = resident_bytes() {
        page.metric("process_resident_memory_bytes", "gauge", "Resident memory of the process.");
        page.sample("process_resident_memory_bytes", &[], bytes);
    }
    describe_databases(node, &mut page);
    describe_links(&node.snapshot(), &mut page);
    describe_sessions(node, &mut page);
    page.0
}

fn describe_databases(node: &Node, page: &mut Page) {
    let name = "blazedb_feed_head";
    page.metric(
        name,
        "gauge",
        "End of the feed: changes to a database since it was made. Its rate is changes a second.",
    );
    for (database, open) in node.databases() {
        page.sample(name, &[("database", database.as_str())], open.store().head());
    }
    let name = "blazedb_commit_seconds";
    page.metric(name, "histogram", "How long commits took, group commits of peers' changes included.");
    for (database, open) in node.databases() {
        page.histogram(name, &[("database", database.as_str())], &open.store().commit_times());
    }
    let name = "blazedb_acknowledgement_seconds";
    page.metric(
        name,
        "histogram",
        "Time from when a session saw a change until its peer had acknowledged it.",
    );
    for (database, open) in node.databases() {
        page.histogram(name, &[("database", database.as_str())], &open.acknowledgement_times());
    }
    let name = "blazedb_apply_queue_batches";
    page.metric(name, "gauge", "Batches of peers that wait to be applied.");
    for (database, open) in node.databases() {
        page.sample(name, &[("database", database.as_str())], open.batches_waiting());
    }
    let name = "blazedb_rejected_writes";
    page.metric(name, "gauge", "Writes that an authority refused, kept until they are retried or dropped.");
    for (database, open) in node.databases() {
        if let Ok(kept) = open.rejected_count() {
            page.sample(name, &[("database", database.as_str())], kept);
        }
    }
    let name = "blazedb_batches_encoded_total";
    page.metric(name, "counter", "Batches of the feed encoded for subscribers.");
    for (database, open) in node.databases() {
        page.sample(name, &[("database", database.as_str())], open.batches_encoded());
    }
}

/// What is added up over links of one database and role.
type Figure = (&'static str, &'static str, &'static str, fn(&LinkView) -> u64);

/// One series for each database and role, not for each link: clients come and go, and each would be a series for ever.
const FIGURES: [Figure; 6] = [
    (
        "blazedb_sent_bytes_total",
        "counter",
        "Bytes handed to connections, sealed, without headers of lower layers.",
        |link| link.figures.bytes_sent,
    ),
    ("blazedb_received_bytes_total", "counter", "Bytes received whole.", |link| link.figures.bytes_received),
    ("blazedb_sent_changes_total", "counter", "Changes sent.", |link| link.figures.changes_sent),
    ("blazedb_received_changes_total", "counter", "Changes received.", |link| link.figures.changes_received),
    (
        "blazedb_pending_changes",
        "gauge",
        "Changes that the other sides have not acknowledged, added up.",
        |link| link.figures.pending.unwrap_or(0),
    ),
    (
        "blazedb_lag_max_milliseconds",
        "gauge",
        "Age of the oldest change that a peer has not acknowledged.",
        |link| link.figures.lag_ms,
    ),
];

fn describe_links(snapshot: &Snapshot, page: &mut Page) {
    let mut groups = std::collections::BTreeMap::<(&str, &str), Vec<&LinkView>>::new();
    for link in &snapshot.links {
        let local = if link.role == "client" { &link.client } else { &link.server };
        let database = local.rsplit_once('/').map_or("", |(_, name)| name);
        groups.entry((database, &link.role)).or_default().push(link);
    }
    for (name, kind, help, read) in FIGURES {
        page.metric(name, kind, help);
        for ((database, role), links) in &groups {
            let values = links.iter().map(|link| read(link));
            let value = if name.contains("_max_") { values.max().unwrap_or(0) } else { values.sum() };
            page.sample(name, &[("database", database), ("role", role)], value);
        }
    }
    page.metric(
        "blazedb_links",
        "gauge",
        "Links by state; those of clients that are gone are offline for a while.",
    );
    for ((database, role), links) in &groups {
        let mut states = std::collections::BTreeMap::<&str, u64>::new();
        links.iter().for_each(|link| *states.entry(&link.state).or_default() += 1);
        for (state, count) in states {
            page.sample("blazedb_links", &[("database", database), ("role", role), ("state", state)], count);
        }
    }
}

fn describe_sessions(node: &Node, page: &mut Page) {
    let Some(listener) = node.listener() else { return };
    page.metric("blazedb_sessions", "gauge", "Sessions of clients that are open.");
    page.sample("blazedb_sessions", &[], listener.stats().open());
    page.metric("blazedb_sessions_opened_total", "counter", "Sessions of clients opened.");
    page.sample("blazedb_sessions_opened_total", &[], listener.stats().accepted());
    page.metric("blazedb_refusals_total", "counter", "Connections and sessions refused, by kind of reason.");
    for (kind, count) in listener.sessions().refused_by() {
        page.sample("blazedb_refusals_total", &[("reason", kind)], count);
    }
    let name = "blazedb_handshake_seconds";
    page.metric(name, "histogram", "How long handshakes of clients took that ended well.");
    page.histogram(name, &[], &listener.sessions().handshake_times());
}

/// Resident memory of this process, where the system tells it in `/proc` (Linux).
pub(super) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blazedb_core::histogram::Histogram;

    #[test]
    fn labels_cannot_break_out_and_buckets_add_up() {
        let mut page = Page::default();
        page.sample("x", &[("node", "a\"} 1\nb\\"), ("b", "")], 3);
        assert_eq!(page.0, "x{node=\"a\\\"} 1\\nb\\\\\",b=\"\"} 3\n");

        let histogram = Histogram::default();
        [50, 300, 300, 40_000_000].into_iter().for_each(|us| histogram.add(us));
        let mut page = Page::default();
        page.histogram("h", &[], &histogram.counts());
        let value = |start: &str| {
            let line = page.0.lines().find(|line| line.starts_with(start)).unwrap();
            line.rsplit_once(' ').unwrap().1.to_owned()
        };
        assert_eq!(value("h_bucket{le=\"0.0001\"}"), "1");
        assert_eq!(value("h_bucket{le=\"0.0005\"}"), "3");
        assert_eq!(value("h_bucket{le=\"30\"}"), "3");
        assert_eq!(value("h_bucket{le=\"+Inf\"}"), "4");
        assert_eq!((value("h_count"), value("h_sum")), ("4".to_owned(), "40.00065".to_owned()));
    }
}
