//! The search index follows every write, whoever makes it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use blazedb_core::{FieldEdit, Filter, RecordId, Value};
use blazedb_store::{Password, QueryProblem, Search, Store, StoreError, StoreOptions};
use common::{Temp, edits, fields, id, pump};

fn found(store: &Store, text: &str) -> Vec<RecordId> {
    let mut ids = Vec::new();
    store
        .search(&Search::new(text), |hit| {
            ids.push(hit.record.id);
            true
        })
        .unwrap();
    ids.sort();
    ids
}

fn searching() -> Temp {
    let temp = Temp::new();
    temp.set_search_fields(&["title".to_owned(), "tags".to_owned()]).unwrap();
    temp
}

fn title(text: &str) -> std::collections::BTreeMap<String, Value> {
    fields([("title", text.into()), ("other", "hidden".into())])
}

#[test]
fn words_phrases_beginnings_and_alternatives_are_found() {
    let temp = searching();
    let tags =
        fields([("title", "Träge Suche".into()), ("tags", Value::Array(vec!["UI".into(), "slow".into()]))]);
    temp.transaction(|tx| {
        tx.insert(id(1), &title("Crash on startup of the editor"))?;
        tx.insert(id(2), &title("The editor crashes on start"))?;
        tx.insert(id(3), &tags)
    })
    .unwrap();
    for (text, ids) in [
        ("crash", &[1][..]),
        ("CRASH*", &[1, 2]),
        ("\"the editor\"", &[1, 2]),
        ("\"on start\"", &[2]),
        ("\"on start\"*", &[1, 2]),
        ("editor -startup", &[2]),
        ("trage", &[3]),
        ("slow ui", &[3]),
        ("\"ui slow\"", &[3]),
        ("slow OR startup", &[1, 3]),
        ("hidden", &[]),
        ("\"; DROP TABLE records; --", &[]),
        ("c0:crash", &[]),
    ] {
        assert_eq!(found(&temp, text), ids.iter().map(|n| id(*n)).collect::<Vec<_>>(), "{text}");
    }
    let mut search = Search::new("editor OR crash");
    search.filter = Some(Filter::parse("title.startsWith(\"The\")").unwrap());
    search.marks = ("<".to_owned(), ">".to_owned());
    let mut snippets = Vec::new();
    temp.search(&search, |hit| {
        assert!(hit.score > 0.0);
        snippets.push(hit.snippet);
        true
    })
    .unwrap();
    assert_eq!(snippets, ["The <editor> crashes on start"]);
}

#[test]
fn the_best_comes_first_and_limits_hold() {
    let temp = searching();
    temp.transaction(|tx| {
        for n in 0..50 {
            tx.insert(id(n), &title(&format!("crash {}", "and more words ".repeat(n as usize))))?;
        }
        tx.insert(id(99), &title("nothing at all"))
    })
    .unwrap();
    let mut search = Search::new("crash");
    (search.limit, search.offset) = (Some(3), 1);
    let (mut ids, mut scores) = (Vec::new(), Vec::new());
    temp.search(&search, |hit| {
        ids.push(hit.record.id);
        scores.push(hit.score);
        true
    })
    .unwrap();
    assert_eq!(ids, [id(1), id(2), id(3)]);
    assert!(scores.is_sorted_by(|a, b| a >= b));
}

#[test]
fn updates_deletes_and_new_incarnations_are_followed() {
    let temp = searching();
    temp.transaction(|tx| tx.insert(id(1), &title("first words"))).unwrap();
    let set = |text: &str| edits([("title", FieldEdit::Set(text.into()))]);
    temp.transaction(|tx| tx.update(id(1), &set("second words"))).unwrap();
    assert_eq!((found(&temp, "first").len(), found(&temp, "second").len()), (0, 1));
    temp.transaction(|tx| tx.update(id(1), &edits([("other", FieldEdit::Set(1.into()))]))).unwrap();
    assert_eq!(found(&temp, "second").len(), 1);
    temp.transaction(|tx| tx.update(id(1), &edits([("title", FieldEdit::Unset)]))).unwrap();
    assert_eq!(found(&temp, "words").len(), 0);
    temp.transaction(|tx| tx.update(id(1), &set("third words"))).unwrap();
    temp.transaction(|tx| tx.delete(id(1))).unwrap();
    assert_eq!(found(&temp, "words").len(), 0);
    temp.transaction(|tx| tx.insert(id(1), &title("fourth words"))).unwrap();
    assert_eq!(found(&temp, "words").len(), 1);
    let failed: Result<(), StoreError> = temp.transaction(|tx| {
        tx.insert(id(2), &title("rolled back"))?;
        Err(StoreError::NoRecord(id(2)))
    });
    assert!(failed.is_err() && found(&temp, "rolled").is_empty());
    check(&temp);
}

#[test]
fn what_a_peer_sends_is_found_and_what_it_deletes_is_not() {
    let (here, there) = (searching(), Temp::new());
    there.transaction(|tx| tx.insert(id(1), &title("from afar"))).unwrap();
    there.transaction(|tx| tx.insert(id(2), &title("also from afar"))).unwrap();
    pump(&there, &here);
    assert_eq!(found(&here, "afar"), [id(1), id(2)]);
    there.transaction(|tx| tx.update(id(1), &edits([("title", FieldEdit::Set("closer".into()))]))).unwrap();
    there.transaction(|tx| tx.delete(id(2))).unwrap();
    pump(&there, &here);
    assert_eq!((found(&here, "afar"), found(&here, "closer")), (vec![], vec![id(1)]));
    check(&here);
}

#[test]
fn another_list_of_fields_makes_the_index_anew_and_none_removes_it() {
    let temp = Temp::new();
    temp.transaction(|tx| tx.insert(id(1), &title("early"))).unwrap();
    let refused = temp.search(&Search::new("early"), |_| true);
    assert!(matches!(refused, Err(StoreError::Query(QueryProblem::NoSearch))));
    for (fields, text, hits) in
        [(&["title"][..], "early", 1), (&["other"], "early", 0), (&["other", "title"], "hidden early", 1)]
    {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        temp.set_search_fields(&fields).unwrap();
        assert_eq!(temp.search_fields().unwrap(), fields);
        assert_eq!(found(&temp, text).len(), hits, "{fields:?}");
    }
    let (path, head) = (temp.path(), temp.head());
    let Temp { store, dir, clock } = temp;
    drop(store);
    let store = Store::open(&path, &Password::Plaintext, clock.options()).unwrap();
    assert_eq!(found(&store, "early").len(), 1);
    assert_eq!(store.head(), head);
    store.backup(&dir.path().join("copy")).unwrap();
    let copy = Store::open(dir.path().join("copy"), &Password::Plaintext, StoreOptions::default()).unwrap();
    assert_eq!(found(&copy, "early").len(), 1);
    check(&copy);
    store.set_search_fields(&[]).unwrap();
    assert!(store.search(&Search::new("early"), |_| true).is_err());
    store.transaction(|tx| tx.insert(id(2), &title("late"))).unwrap();
    assert!(store.verify().unwrap().problems.is_empty());
}

/// The index agrees with what it was made of.
fn check(store: &Store) {
    assert_eq!(store.verify().unwrap().problems, Vec::<String>::new());
}

proptest::proptest! {
    #[test]
    fn no_text_is_an_error_of_sqlite(text in "\\PC{0,40}", odd in "[\"*\\-:^(){}+~\0 aOR]{0,20}") {
        let temp = searching();
        temp.transaction(|tx| tx.insert(id(1), &title(&text))).unwrap();
        for text in [&text, &odd, &format!("{text} {odd}"), &format!("{odd}{text}")] {
            match temp.search(&Search::new(text.as_str()), |_| true) {
                Ok(()) | Err(StoreError::Query(_)) => {}
                Err(other) => panic!("{text:?}: {other}"),
            }
        }
    }
}
