//! Recorded edits, split by actor over many devices: everybody ends with what one database gets from the whole trace,
//! also if processes are killed at any moment.
//!
//! `BLAZEDB_TRACE_EDITS=1000000` replays the traces to their end, `BLAZEDB_KILLS=50` kills more often.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::trace::{Trace, random};
use common::{Place, Running};

const DEVICES: usize = 20;
/// Devices of the test that kills.
const VICTIMS: usize = 3;
/// Lines of one `replay` in it.
const PORTION: usize = 50;

/// What each database holds after the whole trace.
fn replayed_whole(dir: &std::path::Path, trace: &Trace) -> Vec<String> {
    let whole = common::alone(dir, "whole", trace.databases);
    let done = whole.run_with(&["replay", "-"], &trace.lines.join("\n"));
    assert_eq!(done.code, 0, "{}", done.err);
    trace.databases.iter().map(|db| whole.ok(&["export", db])).collect()
}

fn replay(place: &Place, lines: &[&str]) {
    let done = place.run_with(&["replay", "-"], &lines.join("\n"));
    assert_eq!(done.code, 0, "{}: {}", place.0.display(), done.err);
}

/// Does something for each of several devices, some at a time.
fn for_each<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::SeqCst)) {
                    work(item);
                }
            });
        }
    });
}

fn everybody_holds(places: &[&Place], databases: &[&str], expected: &[String]) {
    for (db, expected) in databases.iter().zip(expected) {
        assert!(!expected.is_empty());
        for_each(places, |place| place.until_holds(db, expected));
    }
}

/// Half of the devices edit while they are connected, the others while they are not, and then the other way round.
fn twenty_devices(file: &str, databases: &'static [&'static str], edits: usize) {
    let trace = Trace::load(file, databases, common::asked_for("BLAZEDB_TRACE_EDITS", edits));
    let dir = tempfile::tempdir().unwrap();
    let expected = replayed_whole(dir.path(), &trace);
    let (hub, _node, address) = common::hub(dir.path(), "bidirectional", databases);
    let device =
        |no: usize| common::device(dir.path(), &format!("device-{no}"), &address, "bidirectional", databases);
    let devices: Vec<(usize, Place)> = (0..DEVICES).map(|no| (no, device(no))).collect();
    let parts = trace.split(DEVICES);
    for turn in 0..2 {
        let online = devices.iter().filter(|(no, _)| no % 2 == turn);
        let nodes: Vec<Running> = online.map(|(_, place)| place.up().0).collect();
        for_each(&devices, |(no, place)| {
            let (first, second) = parts[*no].split_at(parts[*no].len() / 2);
            replay(place, if turn == 0 { first } else { second });
        });
        for node in nodes {
            assert_eq!(node.stop(), Some(0));
        }
    }
    let _nodes: Vec<Running> = devices.iter().map(|(_, place)| place.up().0).collect();
    for_each(&devices, |(_, place)| {
        place.ok(&["sync", "--timeout", "120"]);
    });
    let mut all: Vec<&Place> = devices.iter().map(|(_, place)| place).collect();
    all.push(&hub);
    everybody_holds(&all, databases, &expected);
}

#[test]
fn the_bug_trace_over_twenty_devices() {
    twenty_devices("bugs.ndjson.gz", &["bugs"], 5_000);
}

#[test]
fn the_forum_trace_over_twenty_devices() {
    twenty_devices("forum.ndjson.gz", &["bugs", "comments", "users"], 1_500);
}

/// A node that is killed and started again, as whoever looks after it would.
struct Victim {
    place: Place,
    node: Mutex<Option<Running>>,
}

impl Victim {
    fn new(place: Place) -> Self {
        let node = Mutex::new(Some(place.up().0));
        Self { place, node }
    }

    fn kill_and_restart(&self) {
        let mut node = self.node.lock().unwrap();
        if let Some(node) = node.take() {
            node.kill();
        }
        *node = Some(self.place.up().0);
    }

    fn verify(&self) {
        for node in [true, false] {
            if !node {
                let stopped = self.node.lock().unwrap().take().map(Running::stop);
                assert_eq!(stopped, Some(Some(0)));
            }
            self.place.ok(&["verify", "bugs"]);
        }
    }
}

/// Replays in portions. One that was not acknowledged is sent again, as a script would; one that was is not.
fn replay_in_portions(place: &Place, lines: &[&str], acknowledged: &AtomicUsize) {
    for portion in lines.chunks(PORTION) {
        let text = portion.join("\n");
        let mut said = String::new();
        let done = common::until(|| {
            let answer = place.run_with(&["replay", "-", "-q"], &text);
            said = answer.err;
            answer.code == 0
        });
        assert!(done, "{}: {said}", place.0.display());
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn killed_at_any_moment_nothing_acknowledged_is_lost_and_all_converge() {
    let kills = common::asked_for("BLAZEDB_KILLS", 15);
    let trace = Trace::load("bugs.ndjson.gz", &["bugs"], common::asked_for("BLAZEDB_TRACE_EDITS", 6_000));
    let dir = tempfile::tempdir().unwrap();
    let expected = replayed_whole(dir.path(), &trace);
    let address = common::fixed_address();
    let hub = common::hub_at(dir.path(), &address, "bidirectional", &["bugs"]);
    let mut victims = vec![Victim::new(hub)];
    for no in 0..VICTIMS {
        let name = format!("device-{no}");
        let device = common::device(dir.path(), &name, &address, "bidirectional", &["bugs"]);
        victims.push(Victim::new(device));
    }
    let parts = trace.split(VICTIMS);
    let portions: usize = parts.iter().map(|part| part.len().div_ceil(PORTION)).sum();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (victim, part) in victims[1..].iter().zip(&parts) {
            let acknowledged = Arc::clone(&acknowledged);
            scope.spawn(move || replay_in_portions(&victim.place, part, &acknowledged));
        }
        let mut seed = u64::from(std::process::id());
        for kill in 0..kills {
            // Spread over the replay, however long it takes; and at any point of what goes on just then.
            let due = portions * kill / kills;
            assert!(common::until(|| acknowledged.load(Ordering::SeqCst) >= due));
            std::thread::sleep(Duration::from_millis(random(&mut seed) % 100));
            let victim = usize::try_from(random(&mut seed)).unwrap() % victims.len();
            victims[victim].kill_and_restart();
        }
    });
    assert_eq!(acknowledged.load(Ordering::SeqCst), portions);
    for victim in &victims[1..] {
        victim.place.ok(&["sync", "--timeout", "120"]);
    }
    let all: Vec<&Place> = victims.iter().map(|victim| &victim.place).collect();
    everybody_holds(&all, &["bugs"], &[expected[0].clone()]);
    victims.iter().for_each(Victim::verify);
}
