//! Feeds between stores: what is sent, what is applied, and that all replicas agree in the end.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::sync::Arc;

use blazedb_core::feed::{Incoming, PeerNames};
use blazedb_core::merge::ConflictKind;
use blazedb_core::{FieldEdit, Value};
use blazedb_store::{Source, Store, StoreError};
use common::*;
use proptest::prelude::*;

#[test]
fn the_feed_has_the_newest_state_only_and_deltas_have_only_what_is_newer() {
    let store = Temp::new();
    insert(&store, 1, [("large", Value::Bytes(vec![1; 1_000])), ("n", 0.into())]);
    insert(&store, 2, []);
    assert_eq!(store.feed(0, usize::MAX, &everything()).unwrap().upto, 2);
    for n in 1..=10 {
        update(&store, 1, &set("n", n));
    }
    let all = store.feed(0, usize::MAX, &everything()).unwrap();
    assert_eq!(all.entries.len(), 2);
    assert_eq!(all.upto, store.head());
    let delta = store.feed(2, usize::MAX, &everything()).unwrap();
    assert_eq!(delta.entries.len(), 1);
    assert!(delta.data.len() < 100, "the large field is old");
    assert_eq!(delta.names.fields.len(), 1);
    assert!(store.feed(store.head(), usize::MAX, &everything()).unwrap().entries.is_empty());
    let full = store.records_in_full(&[id(1), id(77)], &everything()).unwrap();
    assert_eq!(full.entries.len(), 1);
    assert!(full.data.len() > 1_000);
}

#[test]
fn a_record_that_moved_on_while_its_reader_was_on_the_way_is_sent_whole() {
    let (a, b) = (Temp::new(), Temp::new());
    insert(&a, 1, [("old", 1.into())]);
    insert(&a, 2, []);
    update(&a, 1, &set("new", 2));
    assert!(pump_once(&a, &b, 1).1);
    pump(&a, &b);
    assert_eq!(export(&a), export(&b));
    // The same where the place has been the end for another reader.
    let (a, b, c) = (Temp::new(), Temp::new(), Temp::new());
    insert(&a, 1, [("old", 1.into())]);
    insert(&a, 2, []);
    pump(&a, &c);
    update(&a, 1, &set("new", 2));
    insert(&a, 3, []);
    pump_once(&a, &b, 1);
    for to in [&b, &c] {
        pump(&a, to);
        assert_eq!(export(&a), export(to));
    }
}

#[test]
fn batches_hold_whole_transactions_and_end_where_they_say() {
    let store = Temp::new();
    for group in 0..5 {
        store
            .transaction(|tx| {
                for n in 0..10 {
                    tx.insert(id(group * 10 + n), &fields([("t", "x".repeat(100).into())]))?;
                }
                Ok(())
            })
            .unwrap();
    }
    let mut after = 0;
    let mut ends = Vec::new();
    while after < store.head() {
        let batch = store.feed(after, 1_500, &everything()).unwrap();
        assert!(batch.upto > after);
        after = batch.upto;
        ends.push(after);
    }
    assert_eq!(ends, [20, 40, 50]);
}

#[test]
fn applying_what_is_known_changes_nothing_and_a_quiet_system_stays_quiet() {
    let (a, b) = (Temp::new(), Temp::new());
    for n in 0..20 {
        insert(&a, n, [("n", (n as i64).into())]);
        insert(&b, 100 + n, [("m", (n as i64).into())]);
    }
    settle(&[(&a, &b)]);
    assert_eq!(export(&a), export(&b));
    let heads = (a.head(), b.head());
    // Everything once more, in full.
    for (from, to) in [(&a, &b), (&b, &a)] {
        let all: Vec<_> = export(from).iter().map(|record| record.id).collect();
        let batch = from.records_in_full(&all, &everything()).unwrap();
        let (peer_no, _) = to.peer("again", from.replica()).unwrap();
        assert!(batch.is_all_for(peer_no));
        let mut names = PeerNames::default();
        assert!(names.learn(batch.names));
        let incoming = Incoming { data: batch.data, names: Arc::new(names), checkpoint: None, peer_has: 0 };
        let source = Source::new("again".into(), from.replica(), peer_no);
        let applied = to.apply(&[to.check(source, incoming).unwrap()]).unwrap();
        assert_eq!(applied.changed, 0);
    }
    assert_eq!((a.head(), b.head()), heads);
    assert_eq!(pump(&a, &b) + pump(&b, &a), 0);
}

#[test]
fn what_a_peer_brought_is_not_sent_back_to_it_but_to_others() {
    let (a, b) = (Temp::new(), Temp::new());
    insert(&a, 1, [("n", 1.into())]);
    pump(&a, &b);
    let (no, _) = b.peer("x", a.replica()).unwrap();
    let batch = b.feed(0, usize::MAX, &everything()).unwrap();
    assert!(batch.data_for(no).is_empty());
    assert!(!batch.data_for(no + 1).is_empty());
    assert_eq!(b.pending(0, no).unwrap(), 0);
    assert_eq!(b.pending(0, no + 1).unwrap(), 1);
    assert!(
        b.records_in_full(&[id(1)], &everything()).unwrap().is_all_for(no),
        "whoever asks for a record gets it"
    );
}

#[test]
fn a_local_edit_of_what_a_peer_brought_goes_back_to_it() {
    let (a, b) = (Temp::new(), Temp::new());
    insert(&a, 1, [("n", 1.into()), ("m", 1.into())]);
    pump(&a, &b);
    update(&b, 1, &set("m", 2));
    update(&a, 1, &set("n", 2));
    settle(&[(&a, &b)]);
    assert_eq!(export(&a), export(&b));
    assert_eq!(a.get(id(1)).unwrap().unwrap().fields, fields([("n", 2.into()), ("m", 2.into())]));
}

#[test]
fn a_delete_beats_a_concurrent_update_everywhere_and_the_update_is_in_the_conflict_log() {
    let (a, b) = (Temp::new(), Temp::new());
    insert(&a, 1, [("n", 1.into())]);
    settle(&[(&a, &b)]);
    b.clock.advance(1_000);
    update(&b, 1, &set("n", 2));
    delete(&a, 1);
    settle(&[(&a, &b)]);
    assert!(export(&a).is_empty() && export(&b).is_empty());
    let lost: Vec<_> = a.conflicts().unwrap().into_iter().chain(b.conflicts().unwrap()).collect();
    assert!(
        lost.iter().any(|c| c.kind == ConflictKind::Deleted && c.value == Some(2.into()) && c.field == "n")
    );
    insert(&a, 1, [("again", 1.into())]);
    settle(&[(&a, &b)]);
    assert_eq!(export(&b)[0].fields, fields([("again", 1.into())]));
}

#[test]
fn of_two_concurrent_writes_the_later_wins_and_the_earlier_is_in_the_conflict_log_once() {
    let (a, b) = (Temp::new(), Temp::new());
    insert(&a, 1, [("n", 1.into())]);
    settle(&[(&a, &b)]);
    assert!(a.conflicts().unwrap().is_empty() && b.conflicts().unwrap().is_empty());
    a.clock.advance(10);
    b.clock.advance(20);
    update(&a, 1, &set("n", 2));
    update(&b, 1, &set("n", 3));
    settle(&[(&a, &b)]);
    assert_eq!(a.get_field(id(1), "n").unwrap(), Some(3.into()));
    assert_eq!(export(&a), export(&b));
    let lost: Vec<_> = [&a, &b].iter().flat_map(|s| s.conflicts().unwrap()).collect();
    assert!(!lost.is_empty());
    assert!(lost.iter().all(|c| c.value == Some(2.into()) && c.stamp.writer == a.replica()));
    assert!(lost.iter().all(|c| c.winner.writer == b.replica() && c.kind == ConflictKind::Overwritten));
}

#[test]
fn a_counter_begun_on_a_record_that_outlived_a_deletion_counts_everywhere() {
    let (a, b, c) = (Temp::new(), Temp::new(), Temp::new());
    insert(&a, 1, [("x", 1.into())]);
    delete(&a, 1);
    // A replica that never heard of it inserts the same id, later.
    c.clock.advance(1_000);
    insert(&c, 1, [("y", 1.into())]);
    settle(&[(&a, &b), (&b, &c)]);
    assert_eq!(b.get(id(1)).unwrap().unwrap().fields, fields([("y", 1.into())]));
    update(&a, 1, &edits([("n", FieldEdit::Increment(2))]));
    update(&b, 1, &edits([("n", FieldEdit::Increment(3))]));
    update(&c, 1, &edits([("s", FieldEdit::SetEdit { add: vec![1.into()], remove: vec![] })]));
    settle(&[(&a, &b), (&b, &c)]);
    assert_eq!(export(&a), export(&b));
    assert_eq!(export(&a), export(&c));
    assert_eq!(a.get_field(id(1), "n").unwrap(), Some(Value::Counter(5)));
    assert_eq!(a.get_field(id(1), "s").unwrap(), Some(Value::Set(vec![1.into()])));
}

#[test]
fn a_transaction_arrives_as_one_piece() {
    let (a, b, c) = (Temp::new(), Temp::new(), Temp::new());
    for round in 0..5 {
        a.transaction(|tx| {
            tx.insert(id(2 * round), &fields([("half", 1.into())]))?;
            tx.insert(id(2 * round + 1), &fields([("half", 2.into())]))
        })
        .unwrap();
    }
    while pump_once(&a, &b, 1).1 {
        assert_eq!(b.count(None).unwrap() % 2, 0);
    }
    while pump_once(&b, &c, 1).1 {
        assert_eq!(c.count(None).unwrap() % 2, 0);
    }
    assert_eq!(c.count(None).unwrap(), 10);
}

fn incoming_from(store: &Store) -> Incoming {
    let batch = store.feed(0, usize::MAX, &everything()).unwrap();
    let mut names = PeerNames::default();
    assert!(names.learn(batch.names));
    Incoming { data: batch.data, names: Arc::new(names), checkpoint: Some(batch.upto), peer_has: 0 }
}

fn source(store: &Store) -> Source {
    Source::new("l".into(), store.replica(), 1)
}

#[test]
fn a_stamp_from_the_future_is_refused_and_nothing_is_written() {
    let (a, b) = (Temp::new(), Temp::new());
    a.clock.advance(5 * 60_000 + 1);
    insert(&a, 1, []);
    let refused = b.check(source(&a), incoming_from(&a));
    assert!(matches!(refused, Err(StoreError::Drift(error)) if error.drift_ms == 300_001));
    assert!(b.is_empty().unwrap());
    b.clock.advance(1);
    assert_eq!(pump(&a, &b), 1);
}

#[test]
fn checkpoints_are_kept_per_link_and_commit_with_the_changes() {
    let (a, b) = (Temp::new(), Temp::new());
    insert(&a, 1, []);
    assert_eq!(b.link_checkpoint("l").unwrap(), None);
    let (peer_no, none) = b.peer("l", a.replica()).unwrap();
    assert_eq!(none, None);
    let source = Source::new("l".into(), a.replica(), peer_no);
    b.apply(&[b.check(source, incoming_from(&a)).unwrap()]).unwrap();
    assert_eq!(b.peer("l", a.replica()).unwrap(), (peer_no, Some(1)));
    assert_eq!(b.peer("other", a.replica()).unwrap(), (peer_no, None));
    assert_eq!(b.link_checkpoint("l").unwrap(), Some((a.replica(), 1)));
}

#[test]
fn bytes_that_are_not_a_batch_are_refused_whole() {
    let a = Temp::new();
    for n in 0..5 {
        insert(&a, n, [("n", Value::Counter(1)), ("s", Value::Set(vec!["a".into()]))]);
        update(&a, n, &edits([("n", FieldEdit::Increment(1)), ("gone", FieldEdit::Unset)]));
    }
    delete(&a, 3);
    let good = incoming_from(&a);
    let b = Temp::new();
    for cut in 0..good.data.len() {
        let damaged = Incoming { data: good.data[..cut].to_vec(), ..good.clone() };
        let _ = b.check(source(&a), damaged);
        for bit in [1, 16, 128] {
            let mut damaged = good.clone();
            damaged.data[cut] ^= bit;
            if let Ok(checked) = b.check(source(&a), damaged) {
                let scratch = Temp::new();
                scratch.apply(&[checked]).unwrap();
                export(&scratch);
                assert!(scratch.verify().unwrap().problems.is_empty());
            }
        }
    }
    let nameless = Incoming { names: Arc::default(), ..good };
    assert!(matches!(b.check(source(&a), nameless), Err(StoreError::Malformed(_))));
    assert!(b.is_empty().unwrap());
}

#[test]
fn equal_replicas_have_equal_reconciliation_sets_whatever_numbers_their_names_have() {
    let (a, b) = (Temp::new(), Temp::new());
    insert(&b, 50, [("z", Value::Counter(1)), ("y", Value::Set(vec![1.into()])), ("x", 1.into())]);
    for n in 0..10 {
        insert(&a, n, [("x", 1.into()), ("y", Value::Set(vec![])), ("z", Value::Counter(2))]);
        update(&a, n, &edits([("z", FieldEdit::Increment(1)), ("x", FieldEdit::Unset)]));
    }
    delete(&a, 4);
    settle(&[(&a, &b)]);
    let sorted = |store: &Store| {
        let set = store.reconcile_set(&everything()).unwrap();
        assert_eq!(set.snapshot, store.head());
        let key = |items: &[blazedb_core::session::ReconcileItem]| {
            let mut items: Vec<_> = items.iter().map(|item| (item.order, item.hash, item.id)).collect();
            items.sort_unstable();
            items
        };
        (key(&set.history), key(&set.content))
    };
    assert_eq!(sorted(&a), sorted(&b));
    update(&a, 5, &set("w", 1));
    assert_ne!(sorted(&a).0, sorted(&b).0);
    assert_ne!(sorted(&a).1, sorted(&b).1);
}

#[test]
fn replicas_filled_from_the_same_source_agree_by_content_though_not_by_history() {
    let (a, b) = (Temp::new(), Temp::new());
    b.clock.advance(5_000);
    for n in 0..5 {
        insert(&a, n, [("x", 1.into()), ("t", "text".into())]);
        insert(&b, n, [("t", "text".into()), ("x", 1.into())]);
    }
    let hashes = |items: Vec<blazedb_core::session::ReconcileItem>| {
        let mut hashes: Vec<_> = items.iter().map(|item| (item.order, item.hash)).collect();
        hashes.sort_unstable();
        hashes
    };
    let (a, b) = (a.reconcile_set(&everything()).unwrap(), b.reconcile_set(&everything()).unwrap());
    assert_eq!(hashes(a.content), hashes(b.content));
    assert_ne!(hashes(a.history), hashes(b.history));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Insert(usize, u64, i64),
    Set(usize, u64, u8, i64),
    Unset(usize, u64, u8),
    Count(usize, u64, i64),
    SetEdit(usize, u64, u8, bool),
    Delete(usize, u64),
    Pump(usize, usize, usize),
    Advance(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (store, record, field) = (0usize..3, 0u64..4, 0u8..3);
    prop_oneof![
        2 => (store.clone(), record.clone(), 0i64..9).prop_map(|(s, r, v)| Step::Insert(s, r, v)),
        4 => (store.clone(), record.clone(), field.clone(), 0i64..9).prop_map(|(s, r, f, v)| Step::Set(s, r, f, v)),
        1 => (store.clone(), record.clone(), field).prop_map(|(s, r, f)| Step::Unset(s, r, f)),
        2 => (store.clone(), record.clone(), -3i64..4).prop_map(|(s, r, v)| Step::Count(s, r, v)),
        2 => (store.clone(), record.clone(), 0u8..3, any::<bool>()).prop_map(|(s, r, v, on)| Step::SetEdit(s, r, v, on)),
        1 => (store.clone(), record).prop_map(|(s, r)| Step::Delete(s, r)),
        5 => (store.clone(), 1usize..3, 1usize..400).prop_map(|(s, d, b)| Step::Pump(s, (s + d) % 3, b)),
        1 => (store, 0u64..50).prop_map(|(s, ms)| Step::Advance(s, ms)),
    ]
}

fn play(stores: &[Temp; 3], step: &Step) {
    let edit = |store: usize, record: u64, edits: blazedb_core::FieldEdits| {
        // Refused where the record is not there or the field is of another type.
        let _ = stores[store].transaction(|tx| tx.update(id(record), &edits));
    };
    match step.clone() {
        Step::Insert(s, r, v) => {
            let values = fields([("f0", v.into()), ("f1", "text".into()), ("n", Value::Counter(v))]);
            let _ = stores[s].transaction(|tx| tx.insert(id(r), &values));
        }
        Step::Set(s, r, f, v) => edit(s, r, set(&format!("f{f}"), v)),
        Step::Unset(s, r, f) => edit(s, r, edits([(format!("f{f}").as_str(), FieldEdit::Unset)])),
        Step::Count(s, r, v) => {
            edit(s, r, edits([("n", FieldEdit::Increment(v)), ("m", FieldEdit::Increment(v))]))
        }
        Step::SetEdit(s, r, v, on) => {
            let (add, remove) = if on { (vec![v.into()], vec![]) } else { (vec![], vec![v.into()]) };
            edit(s, r, edits([("s", FieldEdit::SetEdit { add, remove })]));
        }
        Step::Delete(s, r) => {
            let _ = stores[s].transaction(|tx| tx.delete(id(r)));
        }
        Step::Pump(from, to, bytes) => {
            pump_once(&stores[from], &stores[to], bytes);
        }
        Step::Advance(s, ms) => stores[s].clock.advance(ms),
    }
}

fn all_agree(stores: &[Temp; 3]) {
    let [a, b, c] = stores;
    assert_eq!(export(a), export(b));
    assert_eq!(export(a), export(c));
    let history = |store: &Store| {
        let mut all: Vec<_> =
            store.reconcile_set(&everything()).unwrap().history.iter().map(|item| item.hash).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(history(a), history(b));
    assert_eq!(history(a), history(c));
    for store in stores {
        assert_eq!(store.verify().unwrap().problems, Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn replicas_in_a_triangle_agree_after_any_history(steps in prop::collection::vec(step(), 1..60)) {
        let stores = [Temp::new(), Temp::new(), Temp::new()];
        steps.iter().for_each(|step| play(&stores, step));
        let [a, b, c] = &stores;
        settle(&[(a, b), (b, c), (c, a)]);
        all_agree(&stores);
        let heads: Vec<_> = stores.iter().map(|s| s.head()).collect();
        prop_assert_eq!(pump(a, b) + pump(b, c) + pump(c, a) + pump(b, a), 0);
        prop_assert_eq!(stores.iter().map(|s| s.head()).collect::<Vec<_>>(), heads);
    }

    #[test]
    fn replicas_in_a_chain_agree_after_any_history(steps in prop::collection::vec(step(), 1..60)) {
        let stores = [Temp::new(), Temp::new(), Temp::new()];
        for step in &steps {
            if !matches!(step, Step::Pump(0, 2, _) | Step::Pump(2, 0, _)) {
                play(&stores, step);
            }
        }
        let [a, b, c] = &stores;
        settle(&[(a, b), (b, c)]);
        all_agree(&stores);
    }
}

#[test]
fn updates_of_a_record_that_has_not_arrived_are_not_taken_for_equal() {
    use std::collections::BTreeMap;

    use blazedb_core::{Hlc, RecordId, ReplicaId, Stamp};
    use blazedb_store::{Password, StoreOptions, TracedEdit, TracedOp};
    let set_of = |field: &str| {
        let world = tempfile::tempdir().unwrap();
        let store =
            Store::open(world.path().join("x"), &Password::Plaintext, StoreOptions::default()).unwrap();
        let stamp = Stamp::new(Hlc::new(1_700_000_000_000, 0), ReplicaId::from_bytes([1; 16]));
        let op = TracedOp::Update(BTreeMap::from([(field.to_owned(), Value::Int(1))]));
        let edit = TracedEdit { id: RecordId::from_bytes([7; 16]), stamp, op };
        store.transaction(|tx| tx.apply_traced(&edit)).unwrap();
        store.reconcile_set(&everything()).unwrap()
    };
    let (a, b) = (set_of("a"), set_of("b"));
    assert_ne!(a.history[0].hash, b.history[0].hash);
    assert_ne!(a.content[0].hash, b.content[0].hash);
}

#[test]
fn a_slow_reader_gets_bounded_batches_however_many_others_have_come_to_the_end() {
    let clock = TestClock::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let store = Store::open(path, &blazedb_store::Password::Plaintext, clock.options()).unwrap();
    // A slow one stops early; a quick one stands at the end after every transaction.
    let write = |n: u64| insert(&store, n, [("text", "x".repeat(2_000).into())]);
    (1..=3).for_each(write);
    let first = store.feed(0, 1, &everything()).unwrap();
    for n in 4..=400 {
        write(n);
        assert_eq!(store.feed(store.head() - 1, 1 << 20, &everything()).unwrap().upto, store.head());
    }
    let (mut at, mut batches) = (first.upto, 0);
    while at < store.head() {
        let batch = store.feed(at, 10_000, &everything()).unwrap();
        assert!(batch.data.len() < 60_000, "{} bytes in one batch", batch.data.len());
        assert!(batch.known <= store.known_at(at));
        at = batch.upto;
        batches += 1;
    }
    assert!(batches > 10);
}
