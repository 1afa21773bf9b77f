//! `blazedb simulate`: the topology file in the simulator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::Place;
use serde_json::Value as Json;

const TOPOLOGY: &str = "\
listen = '127.0.0.1:0'
[auth]
anonymous = true
[databases.bugs]
plaintext = true
pattern = 'hub-and-spoke'
hub = 'ws://127.0.0.1:7500'
[databases.bugs.policy]
where = 'status != \"archived\" && priority > 5'
[databases.served]
plaintext = true
serve = 'bidirectional'
[databases.served.access]
connect = 'true'
read = 'record.teamId in user.teams'
insert = 'record.teamId in user.teams'
update = 'record.teamId in user.teams'
[databases.sealed]
plaintext = true
pattern = 'hub-and-spoke'
hub = 'ws://127.0.0.1:7500'
[databases.sealed.policy]
encryption = 'e2e-only'
routing_fields = ['teamId']
[databases.notes]
plaintext = true
";

fn lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_database_of_the_file_is_simulated_and_a_seed_gives_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "node", TOPOLOGY);
    let run = || place.ok(&["simulate", "--seed", "3", "--steps", "30", "--json"]);
    let first = run();
    let reports = lines(&first);
    let names: Vec<&str> = reports.iter().map(|report| report["database"].as_str().unwrap()).collect();
    assert_eq!(names, ["bugs", "notes", "sealed", "served"]);
    assert!(
        reports.iter().all(|report| report["holds"] == true && report["transactions"].as_u64() > Some(0))
    );
    let links: Vec<u64> = reports.iter().map(|report| report["links"].as_u64().unwrap()).collect();
    assert_eq!(links, [2, 0, 2, 2], "the database's own link and those of others");
    assert!(reports[0]["messages"].as_u64() > Some(0) && reports[1]["messages"] == 0);
    assert_eq!(first, run());
}

#[test]
fn what_breaks_can_be_chosen_and_what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "node", TOPOLOGY);
    let quiet = lines(&place.ok(&["simulate", "--seed", "1", "--steps", "20", "--faults", "none", "--json"]));
    assert!(quiet.iter().all(|report| report["crashes"] == 0));
    let broken =
        lines(&place.ok(&["simulate", "--seed", "1", "--steps", "40", "--faults", "crashes", "--json"]));
    assert!(broken.iter().any(|report| report["crashes"].as_u64() > Some(0)));
    let text = place.ok(&["simulate", "--seed", "1", "--steps", "10"]);
    assert!(text.contains("bugs: every property held in 1 run: 3 nodes, 2 links"), "{text}");
}
