//! A peer passes over what it brought itself, and over nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod common;

use blazedb_store::{Password, Store};
use common::{TestClock, everything, insert, pump, pump_once, set, update};

fn open(dir: &tempfile::TempDir, clock: &TestClock, name: &str) -> Store {
    Store::open(dir.path().join(name), &Password::Plaintext, clock.options()).unwrap()
}

fn no(at: &Store, of: &Store) -> u32 {
    at.peer("any", of.replica()).unwrap().0
}

#[test]
fn a_peer_stands_behind_what_it_brought_and_another_does_not() {
    let (clock, dir) = (TestClock::new(), tempfile::tempdir().unwrap());
    let [hub, a, b] = ["hub", "a", "b"].map(|name| open(&dir, &clock, name));
    (1..=50).for_each(|n| insert(&a, n, [("text", "x".repeat(200).into())]));
    pump(&a, &hub);
    let (from_a, from_b) = (no(&hub, &a), no(&hub, &b));
    assert_eq!(hub.head(), 50);
    assert_eq!(
        (hub.behind_own(0, from_a, &everything()), hub.behind_own(20, from_a, &everything())),
        (50, 50)
    );
    assert_eq!((hub.behind_own(0, from_b, &everything()), hub.behind_own(0, 0, &everything())), (0, 0));
    // It has come to the end: what follows is sent without what it has.
    assert_eq!(hub.known_at(50), 50);
    insert(&hub, 51, [("text", "own".into())]);
    pump(&a, &hub);
    assert_eq!(hub.behind_own(50, from_a, &everything()), 50, "not over what is local");
    assert_eq!(hub.feed(50, usize::MAX, &everything()).unwrap().entries.len(), 1);
}

#[test]
fn a_batch_of_which_something_is_news_to_its_sender_is_read() {
    let (clock, dir) = (TestClock::new(), tempfile::tempdir().unwrap());
    let [hub, a] = ["hub", "a"].map(|name| open(&dir, &clock, name));
    insert(&a, 1, [("text", "x".into())]);
    pump(&a, &hub);
    pump(&hub, &a);
    // Both change the record: what the hub makes of it is neither's.
    update(&hub, 1, &set("m", 1));
    update(&a, 1, &set("n", 1));
    insert(&a, 2, [("text", "y".into())]);
    let before = hub.head();
    let (applied, more) = pump_once(&a, &hub, usize::MAX);
    assert_eq!((applied.changed, more), (2, false));
    assert_eq!(hub.behind_own(before, no(&hub, &a), &everything()), before);
    pump(&hub, &a);
    assert_eq!(common::export(&hub), common::export(&a));
}
