//! Joins: what they find, what they use, that they see one moment, and how they follow changes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use blazedb_core::{FieldEdit, Filter, RecordId, Value};
use blazedb_store::{Durability, Join, JoinChange, OrderBy, Password, Store, StoreOptions};
use common::{edits, fields, id};

struct Pair {
    bugs: Store,
    users: Store,
    _dir: tempfile::TempDir,
}

impl Pair {
    /// An encrypted and a plain file, whose fields have different numbers.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, password: Password| {
            let options = StoreOptions { durability: Durability::Normal, ..StoreOptions::default() };
            Store::open(dir.path().join(name), &password, options).unwrap()
        };
        let (bugs, users) = (open("bugs", "secret".into()), open("us ers%20", Password::Plaintext));
        users
            .transaction(|tx| {
                tx.insert(
                    id(101),
                    &fields([("x", 1.into()), ("name", "eva".into()), ("team", "ios".into())]),
                )?;
                tx.insert(id(102), &fields([("name", "ned".into()), ("active", true.into())]))?;
                tx.insert(id(103), &fields([("name", "nobody's".into())]))
            })
            .unwrap();
        bugs.transaction(|tx| {
            tx.insert(id(1), &fields([("p", 1.into()), ("author", id(101).into())]))?;
            // As text, the way that JSON brings it.
            tx.insert(id(2), &fields([("p", 2.into()), ("author", id(102).to_string().into())]))?;
            tx.insert(id(3), &fields([("p", 3.into()), ("author", id(101).into()), ("name", "eva".into())]))?;
            tx.insert(id(4), &fields([("p", 4.into()), ("author", id(999).into())]))?;
            tx.insert(id(5), &fields([("p", 5.into()), ("author", Value::Null)]))?;
            tx.insert(id(6), &fields([("p", 6.into())]))?;
            tx.insert(id(7), &fields([("p", 7.into()), ("author", id(101).into())]))
        })
        .unwrap();
        bugs.transaction(|tx| tx.delete(id(7))).unwrap();
        Self { bugs, users, _dir: dir }
    }

    fn found(&self, join: &Join) -> Vec<(RecordId, Option<RecordId>)> {
        let mut pairs = Vec::new();
        self.bugs
            .join(&self.users, join, |row| {
                pairs.push((row.left.id, row.right.map(|right| right.id)));
                true
            })
            .unwrap();
        pairs
    }
}

fn on(left: &str, right: &str) -> Join {
    let mut join = Join::new("bugs", "users", (left.to_owned(), right.to_owned()));
    join.order_by = vec![OrderBy { field: "p".to_owned(), descending: false }];
    join
}

fn pairs(expected: &[(u64, u64)]) -> Vec<(RecordId, Option<RecordId>)> {
    expected.iter().map(|(left, right)| (id(*left), (*right > 0).then(|| id(*right)))).collect()
}

#[test]
fn records_that_hold_the_same_are_found_in_every_direction() {
    let pair = Pair::new();
    let by_author = on("author", "id");
    assert_eq!(pair.found(&by_author), pairs(&[(1, 101), (2, 102), (3, 101)]));
    for (field, store) in [("author", &pair.bugs), ("name", &pair.users)] {
        store.ensure_index(field).unwrap();
        assert_eq!(pair.found(&by_author), pairs(&[(1, 101), (2, 102), (3, 101)]), "{field}");
    }
    let outer = Join { left: true, ..by_author.clone() };
    assert_eq!(pair.found(&outer), pairs(&[(1, 101), (2, 102), (3, 101), (4, 0), (5, 0), (6, 0)]));
    assert_eq!(pair.found(&on("name", "name")), pairs(&[(3, 101)]));
    assert_eq!(pair.found(&on("id", "id")), pairs(&[]));
    assert_eq!(pair.found(&on("nope", "id")), pairs(&[]));
    assert_eq!(pair.found(&on("author", "nope")), pairs(&[]));
    let mut backwards = Vec::new();
    let mut join = on("id", "author");
    join.names = ("users".to_owned(), "bugs".to_owned());
    join.order_by = vec![OrderBy { field: "bugs.p".to_owned(), descending: true }];
    pair.users
        .join(&pair.bugs, &join, |row| {
            backwards.push((row.right.unwrap().id, Some(row.left.id)));
            true
        })
        .unwrap();
    assert_eq!(backwards, pairs(&[(3, 101), (2, 102), (1, 101)]));
}

#[test]
fn filters_orders_limits_and_selections_reach_both_sides() {
    let pair = Pair::new();
    let filtered = |text: &str, left| {
        let filter = Some(Filter::parse(text).unwrap());
        pair.found(&Join { filter, left, ..on("author", "id") })
    };
    assert_eq!(filtered("p > 1 && users.name == \"eva\"", false), pairs(&[(3, 101)]));
    assert_eq!(filtered("bugs.name == users.name", false), pairs(&[(3, 101)]));
    assert_eq!(filtered("users.active", true), pairs(&[(2, 102)]));
    assert_eq!(filtered("users.active || p == 1", true), pairs(&[(1, 101), (2, 102)]));
    assert_eq!(filtered("!has(users.id)", true), pairs(&[(4, 0), (5, 0), (6, 0)]));
    assert_eq!(filtered("has(users.id) && !has(users.x)", true), pairs(&[(2, 102)]));
    assert_eq!(filtered("users.name != \"eva\"", true), pairs(&[(2, 102)]));
    assert_eq!(filtered("users.name.contains(bugs.name)", true), pairs(&[(3, 101)]));
    assert_eq!(filtered(&format!("users.id == \"{}\"", id(102)), true), pairs(&[(2, 102)]));
    assert_eq!(filtered(&format!("users.id != \"{}\"", id(102)), true), pairs(&[(1, 101), (3, 101)]));

    let by_name = |field: &str, descending| OrderBy { field: field.to_owned(), descending };
    let mut join = on("author", "id");
    join.order_by = vec![by_name("users.name", true), by_name("bugs.p", true)];
    (join.limit, join.offset) = (Some(2), 1);
    assert_eq!(pair.found(&join), pairs(&[(3, 101), (1, 101)]));
    join.select = Some(vec!["p".to_owned(), "users.name".to_owned()]);
    let mut rows = Vec::new();
    pair.bugs
        .join(&pair.users, &join, |row| {
            rows.push(row);
            false
        })
        .unwrap();
    assert_eq!(rows[0].left.fields, fields([("p", 3.into())]));
    assert_eq!(rows[0].right.as_ref().unwrap().fields, fields([("name", "eva".into())]));
}

#[test]
fn a_database_joins_itself() {
    let pair = Pair::new();
    let mut join = Join::new("a", "b", ("author".to_owned(), "author".to_owned()));
    join.filter = Some(Filter::parse("a.p < b.p").unwrap());
    let mut found = Vec::new();
    pair.bugs
        .join(&pair.bugs, &join, |row| {
            found.push((row.left.id, Some(row.right.unwrap().id)));
            true
        })
        .unwrap();
    assert_eq!(found, pairs(&[(1, 3)]));
}

#[test]
fn indexes_of_both_files_are_used_whichever_side_is_read_first() {
    let pair = Pair::new();
    pair.bugs.ensure_index("p").unwrap();
    let plan = |text: &str| {
        let filter = Some(Filter::parse(text).unwrap());
        let join = Join { filter, order_by: vec![], ..on("author", "id") };
        let plan = pair.bugs.explain_join(&pair.users, &join).unwrap();
        (plan.indexes, plan.scan)
    };
    assert_eq!(plan("p == 3"), (vec!["bugs.p".to_owned(), "users.id".to_owned()], false));
    pair.bugs.ensure_index("author").unwrap();
    pair.users.ensure_index("name").unwrap();
    let names = vec!["bugs.author".to_owned(), "users.name".to_owned()];
    assert_eq!(plan("users.name == \"eva\""), (names, false));
}

/// Ends the other thread, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_join_sees_both_files_at_one_moment() {
    let pair = Pair::new();
    let write = |n: i64| {
        let set = edits([("n", FieldEdit::Set(n.into()))]);
        pair.bugs.transaction(|tx| tx.update(id(50), &set)).unwrap();
        pair.users.transaction(|tx| tx.update(id(50), &set)).unwrap();
    };
    for store in [&pair.bugs, &pair.users] {
        store.transaction(|tx| tx.insert(id(50), &fields([("n", 0.into())]))).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let written = (1..).take_while(|_| !stop.load(Ordering::Relaxed));
            written.inspect(|n| write(*n)).count()
        });
        let _stop = Stop(&stop);
        // The bugs are always written first, so the users are never ahead, and behind by one write at most.
        let started = std::time::Instant::now();
        let mut joins = 0;
        while started.elapsed().as_millis() < 1_500 {
            let join = Join { order_by: vec![], ..on("id", "id") };
            let mut seen = Vec::new();
            let visit = |row: blazedb_store::JoinedRow| {
                let n = |fields: &std::collections::BTreeMap<String, Value>| match fields["n"] {
                    Value::Int(n) => n,
                    _ => panic!("no number"),
                };
                seen.push((n(&row.left.fields), n(&row.right.unwrap().fields)));
                true
            };
            pair.bugs.join(&pair.users, &join, visit).unwrap();
            let (bugs, users) = seen[0];
            assert!(users == bugs || users == bugs - 1, "bugs {bugs}, users {users}");
            joins += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let writes = writer.join().unwrap();
        assert!(joins > 20 && writes > 20, "{joins} joins, {writes} writes");
    });
}

#[test]
fn a_live_join_says_what_comes_changes_and_goes() {
    for left in [false, true] {
        let pair = Pair::new();
        let mut join = Join { left, ..on("author", "id") };
        join.filter = Some(Filter::parse("p < 100").unwrap());
        let (mut members, first) = pair.bugs.start_join_changes(&pair.users, &join).unwrap();
        let mut known: BTreeSet<(RecordId, Option<RecordId>)> = BTreeSet::new();
        let mut follow = |changes: Vec<JoinChange>| -> Vec<String> {
            let mut said = Vec::new();
            for change in changes {
                let of = |row: blazedb_store::JoinedRow| (row.left.id, row.right.map(|right| right.id));
                said.push(match change {
                    JoinChange::Added(row) => {
                        assert!(known.insert(of(row)));
                        "added"
                    }
                    JoinChange::Changed(row) => {
                        assert!(known.contains(&of(row)));
                        "changed"
                    }
                    JoinChange::Removed(left, right) => {
                        assert!(known.remove(&(left, right)));
                        "removed"
                    }
                });
            }
            let found = pair.found(&Join { order_by: vec![], ..join.clone() });
            assert_eq!(known, found.into_iter().collect(), "left: {left}");
            said.into_iter().map(str::to_owned).collect()
        };
        follow(first);
        let mut step = || {
            let changes = pair.bugs.join_changes(&pair.users, &join, &mut members).unwrap();
            assert!(!pair.bugs.join_is_behind(&pair.users, &members));
            follow(changes)
        };
        assert!(step().is_empty());
        let edit = |store: &Store, n: u64, name: &str, value: Value| {
            store.transaction(|tx| tx.update(id(n), &edits([(name, FieldEdit::Set(value))]))).unwrap();
        };
        edit(&pair.users, 101, "team", "web".into());
        assert_eq!(step(), ["changed", "changed"]);
        edit(&pair.bugs, 1, "p", 9.into());
        assert_eq!(step(), ["changed"]);
        edit(&pair.bugs, 1, "author", id(102).into());
        assert_eq!(step(), ["removed", "added"]);
        // An author that arrives after its bug.
        pair.users.transaction(|tx| tx.insert(id(999), &fields([("name", "late".into())]))).unwrap();
        assert_eq!(step(), if left { vec!["removed", "added"] } else { vec!["added"] });
        pair.users.transaction(|tx| tx.delete(id(999))).unwrap();
        assert_eq!(step(), if left { vec!["removed", "added"] } else { vec!["removed"] });
        edit(&pair.bugs, 1, "p", 100.into());
        assert_eq!(step(), ["removed"]);
        pair.bugs.transaction(|tx| tx.delete(id(3))).unwrap();
        assert_eq!(step(), ["removed"]);
        edit(&pair.users, 103, "name", "still nobody's".into());
        assert!(step().is_empty());
    }
}
