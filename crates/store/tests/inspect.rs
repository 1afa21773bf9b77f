//! Looking into a file: records' histories and the last changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

mod common;

use blazedb_core::FieldEdit;
use common::*;

#[test]
fn a_trace_says_who_wrote_each_field_when_and_what_it_replaced() {
    let store = Temp::new();
    insert(&store, 1, [("title", "crash".into()), ("priority", 8.into())]);
    store.clock.advance(10);
    update(&store, 1, &edits([("title", FieldEdit::Unset), ("priority", FieldEdit::Set(9.into()))]));
    let trace = store.trace(id(1)).unwrap().unwrap();
    assert!(trace.alive && trace.origin == 0 && trace.brought_by.is_none());
    let names: Vec<_> = trace.fields.iter().map(|field| (field.name.as_str(), field.removed)).collect();
    assert_eq!(names, [("priority", false), ("title", true)]);
    for field in &trace.fields {
        assert_eq!((field.stamp.time.millis(), field.stamp.writer), (NOW + 10, store.replica()));
    }
    assert_eq!(trace.seq, store.head());
    assert!(store.trace(id(2)).unwrap().is_none());
}

#[test]
fn the_last_changes_come_newest_first_with_who_brought_them() {
    let (store, other) = (Temp::new(), Temp::new());
    for n in 1..=5 {
        insert(&store, n, [("n", "x".into())]);
    }
    delete(&store, 2);
    let recent = store.recent(3).unwrap();
    let seen: Vec<_> = recent.iter().map(|change| (change.id, change.alive)).collect();
    assert_eq!(seen, [(id(2), false), (id(5), true), (id(4), true)]);
    assert!(recent.iter().all(|change| change.brought_by.is_none() && change.newest.is_some()));
    pump(&store, &other);
    assert_eq!(other.recent(1).unwrap()[0].brought_by, Some(store.replica()));
    assert_eq!(other.trace(id(2)).unwrap().unwrap().brought_by, Some(store.replica()));
    assert!(store.commit_times().counts.iter().sum::<u64>() >= 6);
}
