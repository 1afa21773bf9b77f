//! Modes and what every sync has to carry: records from before the link, batches, deletions, removed fields, counters
//! and sets that both sides edited.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::proxy::Proxy;
use common::{Place, device, hub};
use serde_json::Value as Json;

fn sync(place: &Place) {
    place.ok(&["sync", "--timeout", "60"]);
}

/// The `who` of every record, sorted.
fn held(place: &Place) -> String {
    let who = |line: &str| {
        let record: Json = serde_json::from_str(line).unwrap();
        record["who"].as_str().unwrap().to_owned()
    };
    let mut all: Vec<String> = place.ok(&["export", "bugs"]).lines().map(who).collect();
    all.sort();
    all.join(" ")
}

fn insert(place: &Place, who: &str) -> String {
    place.ok(&["insert", "bugs", &format!(r#"{{"who":"{who}"}}"#)])
}

#[test]
fn every_mode_does_what_its_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
    let modes = ["bidirectional", "read-only", "write-only", "local-only"];
    let relays = modes.map(|_| Proxy::before(&address));
    let places =
        [0, 1, 2, 3].map(|no| device(dir.path(), modes[no], &relays[no].address, modes[no], &["bugs"]));
    let first = insert(&hub, "hub");
    for (place, mode) in places.iter().zip(modes) {
        insert(place, mode);
    }
    // Twice: the second time round, they have heard of each other.
    for _ in 0..2 {
        places.iter().for_each(sync);
    }
    let [both, reader, writer, local] = &places;
    let expected = |also: &str| {
        let mut all: Vec<&str> = ["hub bidirectional write-only", also].join(" ").leak().split(' ').collect();
        all.retain(|who| !who.is_empty());
        all.sort_unstable();
        all.join(" ")
    };
    assert_eq!(held(&hub), expected(""));
    assert_eq!(held(both), expected(""));
    assert_eq!(held(reader), expected("read-only"));
    assert_eq!((held(writer).as_str(), held(local).as_str()), ("write-only", "local-only"));
    assert_eq!(relays[3].connections(), 0, "local-only opens no connection");
    // As running nodes: edits of what a reader has been given go nowhere, and a writer hears nothing of others' edits.
    let _nodes = places.each_ref().map(Place::up);
    reader.ok(&["update", "bugs", &first, r#"{"who":"reader's"}"#]);
    both.ok(&["update", "bugs", &first, r#"{"note":"seen by all but the writer"}"#]);
    insert(writer, "reported");
    [both, reader, writer].into_iter().for_each(sync);
    assert!(common::until(|| held(&hub).contains("reported") && held(reader).contains("reported")));
    let at_hub = hub.ok(&["get", "bugs", &first]);
    assert!(at_hub.contains(r#""who":"hub""#) && at_hub.contains("note"), "{at_hub}");
    let at_reader = reader.ok(&["get", "bugs", &first]);
    assert!(at_reader.contains("reader's") && at_reader.contains("note"), "{at_reader}");
    assert_eq!(held(writer), "reported write-only");
    assert_eq!(relays[3].connections(), 0, "local-only opens no connection");
}

#[test]
fn a_hub_that_collects_sends_nothing_and_one_that_broadcasts_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, _node, address) = hub(dir.path(), "aggregate", &["bugs"]);
    let secret = sink.ok(&["insert", "bugs", r#"{"who":"sink","secret":"in no message"}"#]);
    let one = device(dir.path(), "one", &address, "write-only", &["bugs"]);
    insert(&one, "one");
    sync(&one);
    assert_eq!((held(&sink).as_str(), held(&one).as_str()), ("one sink", "one"));
    // One that asks for both directions delivers, is told that nothing comes back, and gets nothing.
    let both = device(dir.path(), "both", &address, "bidirectional", &["bugs"]);
    insert(&both, "both");
    let told = both.ok(&["sync", "--timeout", "60", "--json"]);
    assert!(told.contains("aggregated here"), "{told}");
    assert_eq!((held(&sink).as_str(), held(&both).as_str()), ("both one sink", "both"));
    assert_eq!(both.fails(&["get", "bugs", &secret], 1).0, "not_found");
    let reader = device(dir.path(), "reader", &address, "read-only", &["bugs"]);
    let (code, message) = reader.fails(&["sync", "--timeout", "30", "-q"], 4);
    assert!(code == "forbidden" && message.contains("aggregate"), "{message}");
    assert_eq!(held(&reader), "");
    drop(_node);

    std::fs::rename(dir.path().join("hub"), dir.path().join("sink")).unwrap();
    let (source, _node, address) = hub(dir.path(), "broadcast", &["bugs"]);
    insert(&source, "source");
    let writer = device(dir.path(), "writer", &address, "write-only", &["bugs"]);
    insert(&writer, "writer");
    let (code, message) = writer.fails(&["sync", "--timeout", "30", "-q"], 4);
    assert!(code == "forbidden" && message.contains("broadcast"), "{message}");
    assert_eq!((held(&source).as_str(), held(&writer).as_str()), ("source", "writer"));
}

#[test]
fn what_was_there_before_the_link_syncs_and_so_do_batches() {
    let dir = tempfile::tempdir().unwrap();
    // Both sides have records, and changed and deleted some, before they know of each other.
    let lines = |from: usize, to: usize| -> String {
        (from..to).map(|n| format!("{{\"who\":\"r{n:03}\",\"n\":{n}}}\n")).collect()
    };
    let one = common::alone(dir.path(), "one", &["bugs"]);
    assert_eq!(one.run_with(&["import", "bugs", "-"], &lines(0, 300)).code, 0);
    one.ok(&["update-all", "bugs", "n < 100", r#"{"batch":1}"#]);
    one.ok(&["delete-all", "bugs", "n >= 250"]);
    let (hub, _node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
    assert_eq!(hub.run_with(&["import", "bugs", "-"], &lines(300, 500)).code, 0);
    let one = device(dir.path(), "one", &address, "bidirectional", &["bugs"]);
    let two = device(dir.path(), "two", &address, "bidirectional", &["bugs"]);
    [&one, &two, &one].into_iter().for_each(sync);
    let all = hub.ok(&["export", "bugs"]);
    assert_eq!((all.lines().count(), all.matches("\"batch\":1").count()), (450, 100));
    assert_eq!(one.ok(&["export", "bugs"]), all);
    assert_eq!(two.ok(&["export", "bugs"]), all);
    // Batches on linked, running nodes.
    let _nodes = [one.up(), two.up()];
    two.ok(&["update-all", "bugs", "n >= 300", r#"{"batch":2}"#]);
    one.ok(&["delete-all", "bugs", "n < 200"]);
    assert_eq!(one.run_with(&["import", "bugs", "-"], &lines(500, 600)).code, 0);
    let places = [&hub, &one, &two];
    let count = |place: &Place| place.ok(&["query", "bugs", "--count"]);
    assert!(common::until(|| places.iter().all(|place| count(place) == "350")), "{:?}", places.map(count));
    sync(&two);
    hub.until_holds("bugs", &two.ok(&["export", "bugs"]));
    one.until_holds("bugs", &two.ok(&["export", "bugs"]));
    assert_eq!(hub.ok(&["query", "bugs", "batch == 2", "--count"]), "200");
}

#[test]
fn deleted_stays_deleted_though_the_last_to_return_has_edited_it() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
    let places =
        ["one", "two", "late"].map(|name| device(dir.path(), name, &address, "bidirectional", &["bugs"]));
    let [one, two, late] = &places;
    let ids = ["a", "b", "c"].map(|who| insert(one, who));
    places.iter().for_each(sync);
    assert_eq!(held(late), "a b c");
    // `late` is away. One record is deleted, one deleted and inserted again, one loses a field.
    one.ok(&["delete", "bugs", &ids[0]]);
    two.ok(&["delete", "bugs", &ids[1]]);
    two.ok(&["insert", "bugs", &format!(r#"{{"id":"{}","who":"b again"}}"#, ids[1])]);
    for place in [one, two, one] {
        sync(place);
    }
    for id in &ids {
        late.ok(&["update", "bugs", id, r#"{"who":"late","note":"edited meanwhile"}"#]);
    }
    sync(late);
    [one, two, one].into_iter().for_each(sync);
    let end = hub.ok(&["export", "bugs"]);
    for place in &places {
        assert_eq!(place.ok(&["export", "bugs"]), end);
        assert_eq!(place.fails(&["get", "bugs", &ids[0]], 1).0, "not_found");
    }
    assert_eq!(held(&hub), "b again late");
    assert!(!hub.ok(&["get", "bugs", &ids[1]]).contains("note"), "the edit belongs to what was deleted");
    // What the deletion displaced is not lost: it can be read where it was written or merged.
    let told = |place: &Place| place.ok(&["conflicts", "bugs"]).contains(&ids[0]);
    assert!(places.iter().any(told) || told(&hub), "nobody tells of the edit that lost");
}

#[test]
fn a_removed_field_reaches_everyone_and_both_sides_edits_of_counters_and_sets_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
    let places = ["one", "two"].map(|name| device(dir.path(), name, &address, "bidirectional", &["bugs"]));
    let [one, two] = &places;
    let id = one.ok(&[
        "insert",
        "bugs",
        r#"{"who":"x","note":"goes","votes":{"$counter":10},"tags":{"$set":["a","b"]}}"#,
    ]);
    [one, two].into_iter().for_each(sync);
    one.ok(&["update", "bugs", &id, r#"{"votes":{"$inc":5},"tags":{"$add":["c"]}}"#, "--unset", "note"]);
    two.ok(&["update", "bugs", &id, r#"{"votes":{"$inc":-2},"tags":{"$add":["d"],"$remove":["a"]}}"#]);
    hub.ok(&["update", "bugs", &id, r#"{"votes":{"$inc":100},"tags":{"$remove":["b"]}}"#]);
    [one, two, one].into_iter().for_each(sync);
    let expected =
        format!(r#"{{"id":"{id}","tags":{{"$set":["c","d"]}},"votes":{{"$counter":113}},"who":"x"}}"#);
    for place in [&hub, one, two] {
        assert_eq!(place.ok(&["get", "bugs", &id]), expected);
    }
    // Both touch the same element: adding wins. A field that comes back after it was removed is there for everyone.
    one.ok(&["update", "bugs", &id, r#"{"tags":{"$remove":["c"]}}"#]);
    two.ok(&["update", "bugs", &id, r#"{"tags":{"$add":["c"]},"note":"back"}"#]);
    [one, two, one].into_iter().for_each(sync);
    for place in [&hub, one, two] {
        let record = place.ok(&["get", "bugs", &id]);
        assert!(record.contains(r#"["c","d"]"#) && record.contains(r#""note":"back""#), "{record}");
    }
}
