//! Many at once, and each by itself: databases of one directory, devices of one process, a hub with many databases.
//!
//! `BLAZEDB_CROWD=10` lets that many nodes connect to each of the 200 databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use blazedb::{Database, Identity, Password, Topology, record};
use common::{Running, device, hub};
use serde_json::Value as Json;

#[test]
fn two_databases_in_one_directory_keep_to_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let databases = ["left", "right"];
    let (hub, _node, address) = hub(dir.path(), "bidirectional", &databases);
    let device = device(dir.path(), "device", &address, "bidirectional", &databases);
    let (_running, _) = device.up();
    let mut seen = device.start(&["watch", "right"]);
    // The same id in both: two records that have nothing to do with each other.
    let id = device.ok(&["insert", "left", r#"{"side":"left"}"#]);
    device.ok(&["sync", "--timeout", "60"]);
    for place in [&hub, &device] {
        assert_eq!(place.ok(&["query", "left", "--count"]), "1");
        assert_eq!(place.ok(&["query", "right", "--count"]), "0");
    }
    hub.ok(&["insert", "right", &format!(r#"{{"id":"{id}","side":"right"}}"#)]);
    assert_eq!(seen.line(), format!(r#"{{"kind":"added","record":{{"id":"{id}","side":"right"}}}}"#));
    device.ok(&["delete", "left", &id]);
    device.ok(&["sync", "--timeout", "60"]);
    for place in [&hub, &device] {
        assert_eq!(place.ok(&["query", "left", "--count"]), "0");
        assert_eq!(place.ok(&["get", "right", &id]), format!(r#"{{"id":"{id}","side":"right"}}"#));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_in_one_process_keep_to_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let devices = ["one", "two"].map(|name| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let bugs = Database::open(path.join("bugs.blazedb"), Password::Plaintext).unwrap();
        let topology = Topology::new(Identity::generate().unwrap());
        topology.register(&bugs, "bugs").unwrap();
        (bugs, topology)
    });
    let [(one, first), (two, second)] = &devices;
    let mut live = two.query().watch().unwrap();
    while live.try_next().unwrap().is_some() {}
    let id = one.insert(record! { "title" => "mine" }).unwrap();
    two.insert(record! { "title" => "other" }).unwrap();
    assert!(one.get(id).unwrap().is_some() && two.get(id).unwrap().is_none());
    let event = live.next().await.unwrap().unwrap();
    assert!(!format!("{event:?}").contains("mine"), "{event:?}");
    assert!(live.try_next().unwrap().is_none());
    assert!(first.links().is_empty() && second.links().is_empty());
}

fn links(status: &str) -> Vec<Json> {
    let status: Json = serde_json::from_str(status).unwrap();
    status["links"].as_array().unwrap().clone()
}

#[test]
fn a_hub_with_two_hundred_databases_and_their_connections_answers() {
    let nodes = common::asked_for("BLAZEDB_CROWD", 2);
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..200).map(|no| format!("db{no:03}")).collect();
    let databases: Vec<&str> = names.iter().map(String::as_str).collect();
    let (hub, _node, address) = hub(dir.path(), "bidirectional", &databases);
    let places: Vec<_> = (0..nodes)
        .map(|no| device(dir.path(), &format!("node-{no}"), &address, "bidirectional", &databases))
        .collect();
    let _running: Vec<Running> = places.iter().map(|place| place.up().0).collect();
    for place in &places {
        let all = || links(&place.ok(&["status", "--json"]));
        let idle = |link: &Json| link["state"] == "idle" && link["caught_up"] == true;
        assert!(common::until(|| all().iter().filter(|link| idle(link)).count() == 200), "{:?}", all());
    }
    // Everybody is connected: the hub still answers, and a change reaches its database everywhere, and no other one.
    let last = &places[nodes - 1];
    for db in ["db000", "db137", "db199"] {
        let id = last.ok(&["insert", db, r#"{"from":"last"}"#]);
        let expected = format!("{{\"id\":\"{id}\",\"from\":\"last\"}}");
        for place in places.iter().chain([&hub]) {
            place.until_holds(db, &expected);
        }
    }
    for place in places.iter().chain([&hub]) {
        let told: Json = serde_json::from_str(&place.ok(&["status", "--json"])).unwrap();
        let with_records = told["databases"].as_array().unwrap().iter().filter(|db| db["records"] == 1);
        assert_eq!(with_records.count(), 3);
    }
}
