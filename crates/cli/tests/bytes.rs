//! What a contact moves, counted by a relay in front of the hub.
//!
//! `BLAZEDB_RECORDS=100000` takes that many records.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::collections::BTreeSet;

use common::proxy::Proxy;
use common::trace::random;
use common::{Place, Running, device, hub};

const BUGS: &[&str] = &["bugs"];

/// The most that finding out may cost beside what differs, in bytes.
const FINDING_OUT: u64 = 64 << 10;

fn records() -> usize {
    common::asked_for("BLAZEDB_RECORDS", 20_000)
}

/// Bugs with random ids, all different; `group` says to which hundredth one belongs.
fn bugs(count: usize) -> String {
    let mut state = 42;
    let mut lines = String::new();
    for number in 0..count {
        let (a, b, c) = (random(&mut state), random(&mut state), random(&mut state));
        lines += &format!(
            "{{\"id\":\"{:08x}-{:04x}-5{:03x}-8{:03x}-{:012x}\",\"number\":{number},\"group\":{},\"title\":\"crash {c:x} in {}\",\
             \"status\":\"open\",\"team\":\"team {}\"}}\n",
            a >> 32,
            a & 0xffff,
            b & 0xfff,
            (b >> 12) & 0xfff,
            c >> 16,
            number % 100,
            number / 7,
            b % 23,
        );
    }
    lines
}

fn import(place: &Place, db: &str, lines: &str) {
    let done = place.run_with(&["import", db, "-"], lines);
    assert_eq!(done.code, 0, "{}", done.err);
}

fn sync(place: &Place) {
    place.ok(&["sync", "--timeout", "120"]);
}

/// The records of two exports that are not in both, in bytes of JSON.
fn differing_bytes(one: &str, other: &str) -> u64 {
    let [one, other] = [one, other].map(|text| text.lines().collect::<BTreeSet<_>>());
    one.symmetric_difference(&other).map(|line| line.len() as u64).sum()
}

struct World {
    dir: tempfile::TempDir,
    hub: Place,
    _node: Running,
    relay: Proxy,
}

impl World {
    fn new(databases: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path(), "bidirectional", databases);
        Self { hub, _node: node, relay: Proxy::before(&address), dir }
    }

    fn device(&self, name: &str, databases: &[&str]) -> Place {
        device(self.dir.path(), name, &self.relay.address, "bidirectional", databases)
    }

    /// What one sync of this device moves, both ways.
    fn moved(&self, place: &Place) -> u64 {
        self.relay.take();
        sync(place);
        self.relay.total()
    }
}

#[test]
fn a_contact_without_changes_is_cheap() {
    let (all, databases) = (["a", "b", "c", "d", "fresh"], ["a", "b", "c", "d"]);
    let world = World::new(&all);
    let device = world.device("device", &all);
    for (no, db) in databases.iter().enumerate() {
        for place in [&device, &world.hub] {
            let lines = format!("{{\"n\":{no}}}\n").repeat(50);
            assert_eq!(place.run_with(&["import", db, "-"], &lines).code, 0);
        }
    }
    // One of them goes to an empty hub.
    import(&device, "fresh", &bugs(2_000));
    let first = world.moved(&device);
    for _ in 0..3 {
        let again = world.moved(&device);
        println!("first contact {first} B, without changes {again} B, {} databases", databases.len() + 1);
        assert!(again < 1_024 * (databases.len() as u64 + 1), "{again} B");
    }
}

#[test]
fn one_changed_record_in_a_hundred_moves_a_hundredth() {
    let world = World::new(BUGS);
    let device = world.device("device", BUGS);
    let lines = bugs(records());
    import(&device, "bugs", &lines);
    let first = world.moved(&device);
    world.hub.ok(&["update-all", "bugs", "group == 17", r#"{"status":"closed"}"#]);
    let changed = world.hub.ok(&["query", "bugs", "group == 17"]);
    assert_eq!(changed.lines().count(), records() / 100);
    let again = world.moved(&device);
    println!("first sync {first} B, then {again} B for {} B of JSON", changed.len());
    assert_eq!(device.ok(&["query", "bugs", "group == 17"]), changed);
    assert!(again < changed.len() as u64 + 4_096, "{again} B for {} B of changed records", changed.len());
    assert!(again < first / 20, "{again} B after {first} B");
}

#[test]
fn two_that_never_met_move_what_differs_and_little_else() {
    let world = World::new(BUGS);
    let lines = bugs(records());
    import(&world.hub, "bugs", &lines);
    let same = world.device("same", BUGS);
    import(&same, "bugs", &lines);
    let moved = world.moved(&same);
    println!("{} equal records, never met: {moved} B", records());
    assert!(moved < FINDING_OUT, "{moved} B");
    // Scattered differences. Nobody knows before which of two versions is the newer one, so both travel.
    for (name, differing) in [("few", 10), ("some", records() / 1_000), ("many", records() / 100)] {
        let other = world.device(name, BUGS);
        let mut own: Vec<String> = lines.lines().map(str::to_owned).collect();
        let step = own.len() / differing;
        for no in 0..differing {
            own[no * step] = own[no * step].replace("\"open\"", &format!("\"changed by {name}\""));
        }
        import(&other, "bugs", &own.join("\n"));
        let differs = differing_bytes(&world.hub.ok(&["export", "bugs"]), &other.ok(&["export", "bugs"]));
        let moved = world.moved(&other);
        let bound = FINDING_OUT + differs;
        println!("{differing} of {} records differ ({differs} B of JSON): {moved} B", records());
        assert!(moved < bound, "{moved} B where {bound} B are allowed");
        other.until_holds("bugs", &world.hub.ok(&["export", "bugs"]));
    }
}
