//! Edit traces: one store that takes a whole trace ends in the state of many that took a part each and synced.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use blazedb_core::{Hlc, RecordId, ReplicaId, Stamp, Value};
use blazedb_store::{Store, StoreError, TracedEdit, TracedOp};
use common::*;
use proptest::prelude::*;

fn actor_id(actor: u8) -> ReplicaId {
    ReplicaId::from_bytes([actor + 1; 16])
}

fn replay(store: &Store, edits: &[&TracedEdit]) {
    for chunk in edits.chunks(50) {
        store.transaction(|tx| chunk.iter().try_for_each(|edit| tx.apply_traced(edit))).unwrap();
    }
}

/// Replays `edits` whole, and split by `part`; `order` decides who syncs with whom in between.
fn same_in_parts(edits: &[TracedEdit], part: impl Fn(&TracedEdit) -> usize, order: &[(usize, usize)]) {
    let whole = Temp::new();
    replay(&whole, &edits.iter().collect::<Vec<_>>());
    let parts = [Temp::new(), Temp::new(), Temp::new()];
    let mut order = order.iter().cycle();
    for chunk in edits.chunks(edits.len() / 7 + 1) {
        for (at, store) in parts.iter().enumerate() {
            replay(store, &chunk.iter().filter(|edit| part(edit) % 3 == at).collect::<Vec<_>>());
        }
        if let Some((from, to)) = order.next() {
            pump_once(&parts[*from], &parts[*to], 500);
        }
    }
    let [a, b, c] = &parts;
    settle(&[(a, b), (b, c)]);
    assert_eq!(export(a), export(&whole));
    assert_eq!(export(b), export(&whole));
    assert_eq!(export(c), export(&whole));
}

fn edit() -> impl Strategy<Value = (u8, u64, u8, BTreeMap<String, Value>)> {
    let value = prop_oneof![(0i64..9).prop_map(Value::from), Just(Value::from("text")), Just(Value::Null)];
    let fields = prop::collection::btree_map("[a-d]", value, 0..4);
    (0u8..6, 0u64..5, 0u8..7, fields)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_trace_in_parts_is_the_trace_as_a_whole(
        trace in prop::collection::vec(edit(), 1..60),
        order in prop::collection::vec((0usize..3, 1usize..3), 1..8),
    ) {
        let trace: Vec<_> = (0u64..).zip(trace).map(|(at, (actor, record, op, fields))| {
            let op = match op {
                0 | 1 => TracedOp::Insert(fields),
                2 => TracedOp::Delete,
                _ => TracedOp::Update(fields),
            };
            // Several edits share a millisecond.
            let stamp = Stamp::new(Hlc::new(NOW - 1_000 + at / 3, (at % 3) as u16), actor_id(actor));
            TracedEdit { id: id(record), stamp, op }
        }).collect();
        let order: Vec<_> = order.into_iter().map(|(from, by)| (from, (from + by) % 3)).collect();
        same_in_parts(&trace, |edit| usize::from(edit.stamp.writer.as_bytes()[0]), &order);
    }
}

fn value_of(json: &serde_json::Value) -> Value {
    blazedb_core::json::value_from_json(json.clone()).unwrap()
}

fn read_trace(path: &Path) -> Option<Vec<TracedEdit>> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut last: HashMap<ReplicaId, Hlc> = HashMap::new();
    let edits = text.lines().map(|line| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let id: RecordId = json["id"].as_str().unwrap().parse().unwrap();
        let actor: u64 = json["actor"].as_str().unwrap().parse().unwrap();
        let mut bytes = [0xac; 16];
        bytes[..8].copy_from_slice(&actor.to_be_bytes());
        let writer = ReplicaId::from_bytes(bytes);
        let at = Hlc::new(json["at"].as_u64().unwrap(), 0);
        let time = last.get(&writer).map_or(at, |last| at.max(Hlc(last.0 + 1)));
        last.insert(writer, time);
        let fields = || {
            let set = json["set"].as_object().cloned().unwrap_or_default();
            set.iter()
                .filter(|(name, _)| *name != "id")
                .map(|(name, json)| (name.clone(), value_of(json)))
                .collect()
        };
        let op = match json["op"].as_str().unwrap() {
            "insert" => TracedOp::Insert(fields()),
            "update" => TracedOp::Update(fields()),
            _ => TracedOp::Delete,
        };
        TracedEdit { id, stamp: Stamp::new(time, writer), op }
    });
    Some(edits.collect())
}

#[test]
fn the_sample_traces_in_parts_are_the_traces_as_a_whole() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    for name in ["bugs.sample.ndjson", "forum.sample.ndjson"] {
        // The workspace, or a work tree of it one directory further down.
        let found = read_trace(&data.join(name))
            .or_else(|| read_trace(&data.join("../../../shared/data").join(name)));
        let Some(trace) = found else {
            println!("skipped: there is no {name} beside the workspace");
            continue;
        };
        assert!(trace.len() > 100);
        for order in [&[(0, 1), (1, 2), (2, 0)][..], &[(2, 1)], &[(1, 0), (1, 2), (0, 1), (0, 2)]] {
            same_in_parts(&trace, |edit| edit.stamp.writer.as_bytes()[7].into(), order);
        }
    }
}

#[test]
fn an_edit_from_the_future_is_refused_and_nothing_of_its_transaction_is_written() {
    let store = Temp::new();
    let edit = |ms: u64, record| TracedEdit {
        id: id(record),
        stamp: Stamp::new(Hlc::new(NOW + ms, 0), actor_id(1)),
        op: TracedOp::Insert(fields([("a", 1.into())])),
    };
    let refused = store.transaction(|tx| {
        tx.apply_traced(&edit(300_000, 1))?;
        tx.apply_traced(&edit(300_001, 2))
    });
    assert!(matches!(refused, Err(StoreError::Drift(error)) if error.drift_ms == 300_001));
    assert!(store.is_empty().unwrap());
    assert!(
        store.transaction(|tx| Ok(tx.time())).unwrap() < Hlc::new(NOW + 1_000, 0),
        "the clock did not move"
    );
    store.transaction(|tx| tx.apply_traced(&edit(300_000, 1))).unwrap();
    let head = store.head();
    store.transaction(|tx| tx.apply_traced(&edit(300_000, 1))).unwrap();
    assert_eq!(store.head(), head, "what is known makes no feed entry");
}
