//! Tombstones go, deletions stay.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use blazedb_core::feed::{FeedBatch, Incoming, PeerNames, Seq};
use blazedb_core::merge::ConflictKind;
use blazedb_core::view::View;
use blazedb_core::{ReplicaId, Value};
use blazedb_store::{Durability, Password, Source, Store, StoreOptions, Tombstones};
use common::*;
use proptest::prelude::*;

const LEASE_MS: u64 = 1_000;

fn open(dir: &std::path::Path, name: &str, clock: &TestClock, replica: u8) -> Store {
    let new_replica = Arc::new(move || Ok(ReplicaId::from_bytes([replica; 16])));
    let durability = Durability::Normal;
    let options = StoreOptions { durability, tombstone_lease_ms: LEASE_MS, new_replica, ..clock.options() };
    Store::open(dir.join(name), &Password::Plaintext, options).unwrap()
}

/// Replicas in one directory, with one clock.
struct World {
    stores: Vec<Store>,
    clock: TestClock,
    dir: tempfile::TempDir,
}

impl World {
    fn new(count: u8) -> Self {
        // In memory where there is such a place: nothing here depends on a disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = TestClock::new();
        let stores = (0..count).map(|no| open(dir.path(), &format!("{no}.db"), &clock, no + 1)).collect();
        Self { stores, clock, dir }
    }
}

/// A session in which `reader` reads at `store`, from `place` on.
fn session(store: &Store, reader: &Store, place: Seq, asked: bool) -> (Source, bool) {
    let (no, _) = store.peer("l", reader.replica()).unwrap();
    let source = Source::new("l".into(), reader.replica(), no).reading(Some(&View::all()), place, asked);
    let stands = store.meet_reader(&source).unwrap();
    (source, stands)
}

/// Hands a batch of `from` to `to`, in a session that began when the other side had `to` up to `elsewhere`.
fn hand(from: &Store, to: &Store, batch: FeedBatch, elsewhere: Seq) -> u64 {
    let (at_from, _) = from.peer("l", to.replica()).unwrap();
    let (source, _) = session(to, from, elsewhere, true);
    let data = batch.data_for(at_from);
    let mut names = PeerNames::default();
    assert!(names.learn(batch.names));
    let incoming = Incoming { data, names: Arc::new(names), checkpoint: None, peer_has: 0 };
    to.apply(&[to.check(source, incoming).unwrap()]).unwrap().changed
}

/// Shows `to` all that `from` holds, tombstones too, as a comparison would.
fn show_all(from: &Store, to: &Store) -> u64 {
    let ids: Vec<_> = from.changes(0, usize::MAX, None).unwrap().iter().map(|change| change.id).collect();
    hand(from, to, from.records_in_full(&ids, &everything()).unwrap(), 0)
}

fn kept(store: &Store) -> (u64, u64) {
    let Tombstones { kept, dropped } = store.tombstones().unwrap();
    (kept, dropped)
}

#[test]
fn a_tombstone_is_kept_until_every_reader_has_passed_it_or_was_away_for_the_lease() {
    let world = World::new(3);
    let [hub, near, far] = &world.stores[..] else { panic!() };
    insert(hub, 1, [("n", 1.into())]);
    insert(hub, 2, [("n", 2.into())]);
    let (near_here, _) = session(hub, near, 0, true);
    let (far_here, _) = session(hub, far, 0, true);
    delete(hub, 1);
    assert_eq!(hub.drop_tombstones().unwrap(), 0);
    near_here.has_passed(hub.head());
    far_here.has_passed(2);
    assert_eq!((hub.drop_tombstones().unwrap(), hub.fence()), (0, 0), "one of them is behind");
    drop(far_here);
    world.clock.advance(LEASE_MS);
    assert_eq!(hub.drop_tombstones().unwrap(), 0, "it left a moment ago");
    world.clock.advance(LEASE_MS);
    assert_eq!((hub.drop_tombstones().unwrap(), kept(hub)), (0, (1, 0)), "within the lease");
    world.clock.advance(1);
    assert_eq!((hub.drop_tombstones().unwrap(), kept(hub)), (1, (0, 1)));
    assert_eq!(hub.fence(), 3);
    // Who is behind the fence may not go on; who passed it may, and who begins does.
    assert!(!session(hub, far, 2, true).1);
    assert!(session(hub, near, 3, true).1 && session(hub, far, 0, true).1);
    assert_eq!(hub.feed(0, usize::MAX, &everything()).unwrap().entries.len(), 1);
    assert!(!hub.is_empty().unwrap());
    // All of that is in the file, and no place of the feed is used twice.
    drop((near_here, world.stores));
    let hub = open(world.dir.path(), "0.db", &world.clock, 1);
    assert_eq!((hub.fence(), kept(&hub), hub.head()), (3, (0, 1), 3));
    assert!(hub.verify().unwrap().problems.is_empty());
}

#[test]
fn a_reader_of_whom_nothing_is_asked_is_waited_for_without_an_end_and_nobody_for_the_lease() {
    let world = World::new(2);
    let [device, sink] = &world.stores[..] else { panic!() };
    insert(device, 1, []);
    delete(device, 1);
    let here = session(device, sink, 1, false);
    assert_eq!(device.drop_tombstones().unwrap(), 0);
    drop(here);
    for _ in 0..3 {
        world.clock.advance(10 * LEASE_MS);
        assert_eq!(device.drop_tombstones().unwrap(), 0);
    }
    let (here, stands) = session(device, sink, 1, false);
    assert!(stands);
    here.has_passed(device.head());
    assert_eq!(device.drop_tombstones().unwrap(), 1);
    // A replica that nobody reads keeps it for as long.
    let alone = Temp::new();
    insert(&alone, 1, []);
    delete(&alone, 1);
    assert_eq!(alone.drop_tombstones().unwrap(), 0);
    alone.clock.advance(91 * 24 * 3_600 * 1_000);
    assert_eq!(alone.drop_tombstones().unwrap(), 1);
}

#[test]
fn what_a_replica_that_was_away_brings_of_a_deleted_record_meets_the_deletion() {
    let world = World::new(2);
    let [hub, device] = &world.stores[..] else { panic!() };
    for record in 1..=3 {
        insert(hub, record, [("a", 1.into()), ("b", 1.into())]);
    }
    show_all(hub, device);
    let acked = device.head();
    // Not told to anybody: an edit before the deletion, one after it, and a record of its own.
    update(device, 2, &set("a", "before"));
    world.clock.advance(10);
    (1..=3).for_each(|record| delete(hub, record));
    world.clock.advance(10);
    update(device, 3, &set("b", "after"));
    insert(device, 9, [("own", true.into())]);
    world.clock.advance(2 * LEASE_MS);
    assert_eq!((hub.drop_tombstones().unwrap(), kept(hub)), (3, (0, 3)));
    show_all(device, hub);
    assert_eq!(export(hub).iter().map(|record| record.id).collect::<Vec<_>>(), [id(9)]);
    assert_eq!(kept(hub), (3, 0), "they are told anew");
    hand(hub, device, hub.feed(0, usize::MAX, &everything()).unwrap(), acked);
    assert_eq!(export(device), export(hub));
    // What it wrote itself is offered, and nothing else.
    let offered: Vec<_> = device
        .conflicts()
        .unwrap()
        .into_iter()
        .map(|lost| (lost.id, lost.field, lost.value, lost.kind))
        .collect();
    let deleted = ConflictKind::Deleted;
    assert_eq!(
        offered,
        [
            (id(3), "b".to_owned(), Some("after".into()), deleted),
            (id(2), "a".to_owned(), Some("before".into()), deleted)
        ]
    );
    assert_eq!(show_all(hub, device) + show_all(device, hub), 0);
    assert!(hub.verify().unwrap().problems.is_empty() && device.verify().unwrap().problems.is_empty());
}

#[test]
fn a_tombstone_that_is_known_as_a_mark_is_taken_in_without_a_trace() {
    let world = World::new(2);
    let [a, b] = &world.stores[..] else { panic!() };
    insert(a, 1, []);
    show_all(a, b);
    delete(a, 1);
    show_all(a, b);
    world.clock.advance(2 * LEASE_MS);
    a.drop_tombstones().unwrap();
    let head = a.head();
    assert_eq!((show_all(b, a), a.head(), kept(a)), (0, head, (0, 1)));
    // Whoever wants it or names the record is told from the grave.
    assert_eq!(a.records_in_full(&[id(1)], &everything()).unwrap().entries.len(), 1);
    let [(_, born)] = b.births(&[id(1)]).unwrap()[..] else { panic!() };
    assert_eq!(a.unshown(&[(id(1), born)], &everything()).unwrap().entries.len(), 1);
    let later = blazedb_core::Stamp::new(blazedb_core::Hlc(born.time.0 << 1), born.writer);
    assert_eq!(a.unshown(&[(id(1), later)], &everything()).unwrap().entries.len(), 0, "another incarnation");
}

#[test]
fn a_record_that_is_inserted_again_after_its_tombstone_was_dropped_lives_everywhere() {
    let world = World::new(3);
    let [a, b, stale] = &world.stores[..] else { panic!() };
    // Deleted twice: whoever still has the second tombstone takes nothing of the first incarnation.
    insert(a, 1, [("old", 1.into())]);
    show_all(a, b);
    show_all(a, stale);
    delete(a, 1);
    insert(a, 1, [("old", 2.into())]);
    delete(a, 1);
    show_all(a, b);
    world.clock.advance(2 * LEASE_MS);
    a.drop_tombstones().unwrap();
    assert_eq!((kept(a), kept(b)), ((0, 1), (1, 0)));
    insert(a, 1, [("new", 3.into())]);
    assert_eq!(kept(a), (0, 0));
    show_all(a, b);
    show_all(stale, a);
    show_all(a, stale);
    let alive = fields([("new", 3.into())]);
    for store in [a, b, stale] {
        assert_eq!(store.get(id(1)).unwrap().unwrap().fields, alive);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u8, u64),
    Update(u8, u64, u8),
    Delete(u8, u64),
    Show(u8, u8),
    Drop(u8),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let (store, record) = (0u8..3, 1u64..4);
    prop_oneof![
        2 => (store.clone(), record.clone()).prop_map(|(s, r)| Step::Insert(s, r)),
        2 => (store.clone(), record.clone(), 0u8..3).prop_map(|(s, r, f)| Step::Update(s, r, f)),
        2 => (store.clone(), record).prop_map(|(s, r)| Step::Delete(s, r)),
        4 => (store.clone(), store.clone()).prop_map(|(a, b)| Step::Show(a, b)),
        2 => store.prop_map(Step::Drop),
        1 => Just(Step::Wait),
    ]
}

/// Carries the steps out and has all replicas compare. What they show, and the writes that a log has.
fn run(steps: &[Step], drops: bool) -> (Vec<Vec<blazedb_core::Record>>, u64) {
    let world = World::new(3);
    let stores = &world.stores;
    let mut dropped = 0;
    for (no, step) in steps.iter().enumerate() {
        world.clock.advance(1);
        let value = Value::Int(no as i64);
        match *step {
            Step::Insert(store, record) => {
                let fields = BTreeMap::from([("f0".to_owned(), value)]);
                let _ = stores[store as usize].transaction(|tx| tx.insert(id(record), &fields));
            }
            Step::Update(store, record, field) => {
                let edits = set(&format!("f{field}"), value);
                let _ = stores[store as usize].transaction(|tx| tx.update(id(record), &edits));
            }
            Step::Delete(store, record) => {
                let _ = stores[store as usize].transaction(|tx| tx.delete(id(record)));
            }
            Step::Show(a, b) if a != b => drop(show_all(&stores[a as usize], &stores[b as usize])),
            Step::Show(..) => {}
            Step::Drop(store) if drops => dropped += stores[store as usize].drop_tombstones().unwrap(),
            Step::Drop(_) => {}
            Step::Wait => world.clock.advance(10 * LEASE_MS),
        }
    }
    for _ in 0..20 {
        let pairs = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)];
        if pairs.iter().map(|(a, b)| show_all(&stores[*a], &stores[*b])).sum::<u64>() == 0 {
            return (stores.iter().map(export).collect(), dropped);
        }
    }
    panic!("the replicas do not come to rest");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn dropping_tombstones_changes_nothing_that_a_replica_shows(steps in prop::collection::vec(step(), 1..40)) {
        let (with, _) = run(&steps, true);
        let (without, none) = run(&steps, false);
        prop_assert_eq!(none, 0);
        prop_assert_eq!(&with, &without);
        prop_assert!(with.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
