//! A share of a real trace for each device: what it exports is its policy's filter applied to the whole, readable or sealed,
//! and the fewer it is shown, the less goes over the wire.
//!
//! `BLAZEDB_TRACE_EDITS=1000000` replays the trace to its end, `BLAZEDB_DEVICES=20` takes more devices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::path::Path;

use common::{Place, Running};
use serde_json::{Value as Json, json};

/// Filters of the devices, from all to little; all of them over fields that stay readable.
const FILTERS: [&str; 5] = [
    "true",
    r#"status != "Closed""#,
    r#"priority in ["1 - Critical", "2 - High"] || status == "Active""#,
    r#"priority == "2 - High" && active"#,
    r#"status == "New" && reassignment_count == 0"#,
];
const ROUTING: &str = "routing_fields = ['status', 'priority', 'active', 'reassignment_count']";

struct World {
    dir: tempfile::TempDir,
    hub: Place,
    _node: Running,
    address: String,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = Place::new(
            dir.path(),
            "hub",
            "listen = '127.0.0.1:0'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
             serve = 'bidirectional'\ndurability = 'normal'\n[databases.bugs.access]\npublic = true\n",
        );
        let (node, ready) = hub.up();
        let address = crate::common::address_in(&ready);
        Self { dir, hub, _node: node, address }
    }

    fn device(&self, name: &str, policy: &str) -> Place {
        device(self.dir.path(), name, &self.address, policy)
    }
}

fn device(dir: &Path, name: &str, address: &str, policy: &str) -> Place {
    let topology = format!(
        "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\n\
         durability = 'normal'\n[databases.bugs.policy]\n{policy}\n"
    );
    Place::new(dir, name, &topology)
}

/// Syncs, and answers what came over the wire, in bytes.
fn sync(place: &Place) -> u64 {
    let synced: Json = serde_json::from_str(&place.ok(&["sync", "--timeout", "120", "--json"])).unwrap();
    synced["links"][0]["bytes_received"].as_u64().unwrap()
}

fn replay(place: &Place, lines: &[String]) {
    let done = place.run_with(&["replay", "-"], &lines.join("\n"));
    assert_eq!(done.code, 0, "{}", done.err);
}

/// What of the whole a filter shows, in the order of an export.
fn share(whole: &Place, filter: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        whole.ok(&["query", "bugs", filter, "--order-by", "id"]).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn exported(place: &Place) -> Vec<String> {
    let mut lines: Vec<String> = place.ok(&["export", "bugs"]).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn asked_for(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(usual)
}

/// The first edits of the recorded trace; where it is not at hand, of one that is made up.
fn trace(edits: usize) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/bugs.ndjson.gz");
    match std::process::Command::new("gzip").arg("-dc").arg(&file).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).unwrap().lines().take(edits).map(str::to_owned).collect()
        }
        _ => {
            eprintln!("{}: not here; a made-up trace takes its place", file.display());
            (0..edits).map(made_up).collect()
        }
    }
}

/// One edit: every third one is a new ticket, the others change one of the last tickets.
fn made_up(no: usize) -> String {
    let pick = |words: &[&str], by: usize| words[(no * 7 + by) % words.len()].to_owned();
    let status = pick(&["New", "Active", "Closed"], no / 5);
    let (op, ticket, set) = if no.is_multiple_of(3) {
        let priority = pick(&["1 - Critical", "2 - High", "3 - Moderate", "4 - Low"], no / 3);
        let set = json!({
            "number": format!("INC{no:07}"), "status": status, "priority": priority, "active": true,
            "reassignment_count": 0, "symptom": format!("Symptom {}", no % 50),
        });
        ("insert", no, set)
    } else {
        let set = json!({ "status": status, "active": !no.is_multiple_of(4), "reassignment_count": no % 3 });
        ("update", no / 6 * 3, set)
    };
    let id = format!("018f0000-0000-7000-8000-{ticket:012}");
    json!({ "at": 1_456_700_000_000_u64 + no as u64 * 60_000, "actor": format!("{}", no % 40), "db": "bugs",
            "op": op, "id": id, "set": set })
    .to_string()
}

/// Half of the trace is there when the devices come, and the other half happens while they are away.
fn shares(sealed: bool) {
    let trace = trace(asked_for("BLAZEDB_TRACE_EDITS", 2_000));
    let (first, second) = trace.split_at(trace.len() / 2);
    let world = World::new();
    let sealing = if sealed { format!("encryption = 'e2e-only'\n{ROUTING}\n") } else { String::new() };
    let writer = world.device("writer", &sealing);
    replay(&writer, first);
    if sealed {
        writer.ok(&["key", "create", "bugs"]);
    }
    sync(&writer);
    let devices: Vec<(Place, &str)> = (0..asked_for("BLAZEDB_DEVICES", 2 * FILTERS.len()))
        .map(|no| {
            let filter = FILTERS[no % FILTERS.len()];
            let device = world.device(&format!("device-{no}"), &format!("{sealing}where = '{filter}'"));
            if sealed {
                let code = writer.ok(&["key", "invite", "bugs"]);
                device.ok(&["key", "join", "bugs", &code]);
            }
            (device, filter)
        })
        .collect();
    let mut bytes: Vec<u64> = devices.iter().map(|(device, _)| sync(device)).collect();
    let hold = || {
        for (device, filter) in &devices {
            let (has, wanted) = (exported(device), share(&writer, filter));
            assert!(has == wanted, "{filter}: {} records instead of {}", has.len(), wanted.len());
        }
    };
    hold();
    replay(&writer, second);
    sync(&writer);
    devices.iter().zip(&mut bytes).for_each(|((device, _), bytes)| *bytes += sync(device));
    hold();
    let sizes: Vec<usize> = devices.iter().map(|(device, _)| exported(device).len()).collect();
    eprintln!("records {sizes:?}, bytes {bytes:?}");
    assert!(
        sizes[0] > sizes[3] && bytes[1..FILTERS.len()].iter().all(|few| *few < bytes[0]),
        "{sizes:?} {bytes:?}"
    );
    assert!(bytes[3] < bytes[0] / 2 && bytes[4] < bytes[0] / 2, "{sizes:?} {bytes:?}");
    if sealed {
        assert_eq!(world.hub.ok(&["query", "bugs", "has(number)", "--count"]), "0");
    } else {
        assert_eq!(exported(&world.hub), exported(&writer));
    }
}

#[test]
fn each_device_holds_its_filter_of_the_whole() {
    shares(false);
}

#[test]
fn each_device_holds_its_filter_of_the_whole_that_is_sealed() {
    shares(true);
}
