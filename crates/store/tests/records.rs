//! Local records: reading, writing, transactions, queries.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use blazedb_core::limits::MAX_TRANSACTION_BYTES;
use blazedb_core::{FieldEdit, Filter, Value};
use blazedb_store::{OrderBy, Query, StoreError};
use common::*;

#[test]
fn a_record_is_read_as_it_was_written_changed_and_deleted() {
    let store = Temp::new();
    insert(&store, 1, [("title", "crash".into()), ("priority", 8.into())]);
    assert_eq!(
        store.get(id(1)).unwrap().unwrap().fields,
        fields([("title", "crash".into()), ("priority", 8.into())])
    );
    assert_eq!(store.get_field(id(1), "priority").unwrap(), Some(Value::Int(8)));
    assert_eq!(store.get_field(id(1), "nothing").unwrap(), None);
    update(&store, 1, &set("priority", 9));
    assert_eq!(store.get_field(id(1), "priority").unwrap(), Some(Value::Int(9)));
    assert_eq!(store.get_field(id(1), "title").unwrap(), Some("crash".into()));
    update(&store, 1, &edits([("title", FieldEdit::Unset), ("note", FieldEdit::Set(Value::Null))]));
    assert_eq!(
        store.get(id(1)).unwrap().unwrap().fields,
        fields([("note", Value::Null), ("priority", 9.into())])
    );
    delete(&store, 1);
    assert_eq!(store.get(id(1)).unwrap(), None);
    assert_eq!(store.get_field(id(1), "priority").unwrap(), None);
    assert_eq!(store.count(None).unwrap(), 0);
    assert!(!store.is_empty().unwrap());
}

#[test]
fn edits_of_what_is_not_there_and_inserts_of_what_is_are_refused() {
    let store = Temp::new();
    let missing = |result: Result<(), StoreError>| matches!(result, Err(StoreError::NoRecord(_)));
    assert!(missing(store.transaction(|tx| tx.update(id(1), &set("a", 1)))));
    assert!(missing(store.transaction(|tx| tx.delete(id(1)))));
    insert(&store, 1, []);
    let again = store.transaction(|tx| tx.insert(id(1), &fields([("a", 1.into())])));
    assert!(matches!(again, Err(StoreError::RecordExists(_))));
    assert_eq!(store.get(id(1)).unwrap().unwrap().fields, fields([]));
    delete(&store, 1);
    assert!(missing(store.transaction(|tx| tx.update(id(1), &set("a", 1)))));
    assert!(missing(store.transaction(|tx| tx.delete(id(1)))));
}

#[test]
fn field_names_that_no_record_may_use_are_refused() {
    let store = Temp::new();
    for name in ["", "id", "$set", "x".repeat(256).as_str()] {
        let refused = store.transaction(|tx| tx.insert(id(1), &fields([(name, 1.into())])));
        assert!(matches!(refused, Err(StoreError::FieldName(..))), "{name}");
    }
    assert!(store.is_empty().unwrap());
}

#[test]
fn an_insert_over_a_deletion_is_a_new_incarnation_without_the_old_fields() {
    let store = Temp::new();
    insert(&store, 1, [("a", 1.into()), ("n", Value::Counter(5))]);
    delete(&store, 1);
    insert(&store, 1, [("b", 2.into())]);
    assert_eq!(store.get(id(1)).unwrap().unwrap().fields, fields([("b", 2.into())]));
    update(&store, 1, &edits([("n", FieldEdit::Increment(1))]));
    assert_eq!(store.get_field(id(1), "n").unwrap(), Some(Value::Counter(1)));
    store
        .transaction(|tx| {
            tx.delete(id(1))?;
            tx.insert(id(1), &fields([("c", 3.into())]))?;
            tx.delete(id(1))?;
            tx.insert(id(1), &fields([("d", 4.into())]))
        })
        .unwrap();
    assert_eq!(store.get(id(1)).unwrap().unwrap().fields, fields([("d", 4.into())]));
}

#[test]
fn a_failed_transaction_leaves_nothing_neither_rows_nor_names_nor_places_in_the_feed() {
    let store = Temp::new();
    insert(&store, 1, [("a", 1.into())]);
    let head = store.head();
    let failed: Result<(), _> = store.transaction(|tx| {
        tx.insert(id(2), &fields([("fresh", 1.into()), ("newer", 2.into())]))?;
        tx.update(id(1), &set("a", 2))?;
        tx.delete(id(1))?;
        tx.delete(id(9))
    });
    assert!(matches!(failed, Err(StoreError::NoRecord(_))));
    assert_eq!(store.head(), head);
    assert_eq!(export(&store).len(), 1);
    assert_eq!(store.get_field(id(1), "a").unwrap(), Some(1.into()));
    // The numbers that were taken back go to other names, and nothing is mixed up by it.
    insert(&store, 3, [("other", "x".into()), ("newer", "y".into())]);
    assert_eq!(store.head(), head + 1);
    let record = store.get(id(3)).unwrap().unwrap();
    assert_eq!(record.fields, fields([("other", "x".into()), ("newer", "y".into())]));
    assert_eq!(store.get_field(id(3), "fresh").unwrap(), None);
    let dir = store.dir;
    let path = store.store.path().to_owned();
    drop(store.store);
    let again =
        blazedb_store::Store::open(path, &blazedb_store::Password::Plaintext, store.clock.options()).unwrap();
    assert_eq!(again.get(id(3)).unwrap().unwrap(), record);
    drop(dir);
}

#[test]
fn a_panic_in_a_transaction_takes_it_back() {
    let store = Temp::new();
    insert(&store, 1, [("a", 1.into())]);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = store.transaction(|tx| -> Result<(), StoreError> {
            tx.insert(id(2), &fields([("fresh", 1.into())]))?;
            panic!("on purpose");
        });
    }));
    assert!(panicked.is_err());
    insert(&store, 3, [("b", 1.into())]);
    assert_eq!(store.head(), 2);
    assert_eq!(export(&store).len(), 2);
    assert_eq!(store.get(id(3)).unwrap().unwrap().fields, fields([("b", 1.into())]));
}

#[test]
fn a_transaction_that_is_too_large_to_travel_is_refused_even_if_its_author_looks_away() {
    let store = Temp::new();
    let large = Value::Bytes(vec![7; MAX_TRANSACTION_BYTES / 3]);
    let swallowed = store.transaction(|tx| {
        for record in 0..4 {
            let _ = tx.insert(id(record), &fields([("blob", large.clone())]));
        }
        Ok(())
    });
    assert!(matches!(swallowed, Err(StoreError::TransactionTooLarge { .. })));
    assert!(store.is_empty().unwrap());
}

#[test]
fn counters_and_sets_take_their_edits_and_other_types_refuse_them() {
    let store = Temp::new();
    insert(&store, 1, [("n", Value::Counter(5)), ("s", Value::Set(vec!["a".into()])), ("x", 1.into())]);
    let both = edits([
        ("n", FieldEdit::Increment(-7)),
        ("s", FieldEdit::SetEdit { add: vec!["b".into()], remove: vec!["a".into()] }),
        ("fresh", FieldEdit::Increment(3)),
    ]);
    update(&store, 1, &both);
    update(&store, 1, &edits([("fresh", FieldEdit::Increment(4))]));
    let record = store.get(id(1)).unwrap().unwrap();
    assert_eq!(record.get("n"), Some(&Value::Counter(-2)));
    assert_eq!(record.get("s"), Some(&Value::Set(vec!["b".into()])));
    assert_eq!(record.get("fresh"), Some(&Value::Counter(7)));
    for edit in [FieldEdit::Increment(1), FieldEdit::SetEdit { add: vec![], remove: vec![] }] {
        let refused = store.transaction(|tx| tx.update(id(1), &edits([("x", edit.clone())])));
        assert!(matches!(refused, Err(StoreError::WrongType { found: "int", .. })));
    }
    update(&store, 1, &edits([("n", FieldEdit::Unset)]));
    assert_eq!(store.get_field(id(1), "n").unwrap(), None);
    update(&store, 1, &edits([("n", FieldEdit::Increment(1))]));
    assert_eq!(store.get_field(id(1), "n").unwrap(), Some(Value::Counter(1)));
}

fn ids(store: &Temp, query: &Query) -> Vec<u64> {
    let mut found = Vec::new();
    store
        .query(query, |record| {
            found.push((0..100).find(|n| id(*n) == record.id).unwrap());
            true
        })
        .unwrap();
    found
}

#[test]
fn queries_filter_sort_and_cut_with_and_without_an_index() {
    let store = Temp::new();
    for n in 0..50u64 {
        insert(&store, n, [("p", ((n * 7 % 10) as i64).into()), ("even", (n % 2 == 0).into())]);
    }
    delete(&store, 10);
    let order = |field: &str, descending| OrderBy { field: field.to_owned(), descending };
    let query = Query {
        filter: Some(Filter::parse("p >= 8 && even").unwrap()),
        order_by: vec![order("p", true), order("id", false)],
        limit: Some(3),
        offset: 1,
        select: Some(vec!["p".to_owned()]),
    };
    let before = ids(&store, &query);
    assert_eq!(before, [14, 24, 34]);
    store.ensure_index("p").unwrap();
    store.ensure_index("p").unwrap();
    assert_eq!(ids(&store, &query), before);
    assert_eq!(store.count(Some(&Filter::parse("p == 0").unwrap())).unwrap(), 4);
    assert_eq!(store.count(Some(&Filter::parse("nobody == 0").unwrap())).unwrap(), 0);
    let mut selected = Vec::new();
    store
        .query(&query, |record| {
            selected.push(record.fields.len());
            false
        })
        .unwrap();
    assert_eq!(selected, [1], "one field, and the visit ends when told so");
    update(&store, 14, &set("p", 1));
    assert_eq!(ids(&store, &query), [24, 34, 44]);
}

#[test]
fn export_is_in_order_of_id_and_changes_in_order_of_the_feed() {
    let store = Temp::new();
    for n in [5, 3, 9] {
        insert(&store, n, [("n", (n as i64).into())]);
    }
    update(&store, 5, &set("n", 50));
    delete(&store, 3);
    assert_eq!(export(&store).iter().map(|r| r.id).collect::<Vec<_>>(), [id(5), id(9)]);
    let changes = store.changes(0, 100, None).unwrap();
    assert_eq!(changes.iter().map(|c| c.id).collect::<Vec<_>>(), [id(9), id(5), id(3)]);
    assert!(changes[2].record.is_none());
    assert_eq!(changes.last().unwrap().seq, store.head());
    assert_eq!(store.changes(changes[0].seq, 1, None).unwrap()[0].id, id(5));
    let matching = store.changes(0, 100, Some(&Filter::parse("n > 10").unwrap())).unwrap();
    assert_eq!(matching.iter().map(|c| c.record.is_some()).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn readers_never_miss_a_field_whose_name_came_while_they_were_reading() {
    let store = Temp::new();
    let writer = store.store.clone();
    let writing = std::thread::spawn(move || {
        for n in 0..400u64 {
            insert(&writer, n, [(format!("f{n}").as_str(), 1.into())]);
        }
    });
    while !writing.is_finished() {
        for record in export(&store) {
            assert_eq!(record.fields.len(), 1);
        }
        let known = store.count(None).unwrap();
        if known > 0 {
            assert_eq!(store.get(id(known - 1)).unwrap().unwrap().fields.len(), 1);
        }
        store.feed(0, usize::MAX, &everything()).unwrap();
    }
    writing.join().unwrap();
}

#[test]
fn commits_are_told_and_rolled_back_ones_are_not() {
    let store = Temp::new();
    let (told, heard) = std::sync::mpsc::channel();
    store.on_commit(move |head| told.send(head).unwrap());
    insert(&store, 1, []);
    let _ = store.transaction(|tx| tx.insert(id(1), &fields([])));
    store.transaction(|_| Ok(())).unwrap();
    insert(&store, 2, []);
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [1, 2]);
}
