//! Transactions over several files: all or nothing, whatever crashes when and whichever file is opened first.
//!
//! A crash is the end of a process: this test binary runs itself (`child`, ignored otherwise) and ends it at a
//! step, or kills it at a random moment.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use blazedb_core::{FieldEdit, Filter, Value};
use blazedb_store::{
    CommitStep, Durability, Join, Password, Store, StoreError, StoreOptions, observed_transaction_over,
    transaction_over,
};
use common::{copy_dir, edits, everything, fields, id, pump};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn open(dir: &Path, name: &str) -> Store {
    // The second file has a password of its own: no other file can be read to decide for it.
    let password = if name == "b" { Password::from("secret") } else { Password::Plaintext };
    Store::open(dir.join(name), &password, StoreOptions::default()).unwrap()
}

fn n(store: &Store) -> i64 {
    match store.get_field(id(1), "n").unwrap() {
        Some(Value::Int(n)) => n,
        other => panic!("{other:?}"),
    }
}

/// What the transaction of the tests has done to a file: nothing, or all of it.
fn state(store: &Store) -> bool {
    assert_eq!(store.verify().unwrap().problems, Vec::<String>::new());
    let (new, old) = (store.get(id(2)).unwrap().is_some(), store.get(id(3)).unwrap().is_some());
    let parts = [n(store) == 7, new, !old, store.get_field(id(2), "name-new-here").unwrap().is_some()];
    assert!(parts == [true; 4] || parts == [false; 4], "half of it: {parts:?}");
    if parts[0] {
        assert_eq!(store.get_field(id(1), "kept").unwrap(), Some("x".into()));
    }
    new
}

fn prepare_files(dir: &Path) {
    for name in NAMES {
        let store = open(dir, name);
        store
            .transaction(|tx| {
                tx.insert(id(1), &fields([("n", 0.into()), ("kept", "x".into())]))?;
                tx.insert(id(3), &fields([("old", true.into())]))
            })
            .unwrap();
    }
}

fn work(stores: &[&Store], observe: impl FnMut(CommitStep)) -> Result<(), StoreError> {
    observed_transaction_over(stores, observe, |tx| {
        for store in stores {
            let part = tx.on(store)?;
            part.update(id(1), &edits([("n", FieldEdit::Set(7.into()))]))?;
            part.insert(id(2), &fields([("name-new-here", 1.into())]))?;
            part.delete(id(3))?;
            assert!(part.get(id(2))?.is_some() && part.get(id(3))?.is_none());
        }
        Ok(())
    })
}

const STEPS: [CommitStep; 9] = [
    CommitStep::Worked,
    CommitStep::Prepared(1),
    CommitStep::Prepared(2),
    CommitStep::Prepared(3),
    CommitStep::Written,
    CommitStep::Decided,
    CommitStep::Applied(1),
    CommitStep::Applied(2),
    CommitStep::Applied(3),
];

/// Not a test: the process that the others end.
#[test]
#[ignore = "run by the other tests"]
fn child() {
    let dir = std::env::var_os("CRASH_DIR").unwrap();
    let dir = Path::new(&dir);
    match std::env::var("CRASH_AT") {
        Ok(step) => {
            let stores = NAMES.map(|name| open(dir, name));
            let step = STEPS[step.parse::<usize>().unwrap()];
            let all: Vec<&Store> = stores.iter().collect();
            let _ = work(&all, |at| {
                if at == step {
                    std::process::abort();
                }
            });
        }
        Err(_) => under_load(dir),
    }
}

fn spawn(dir: &Path, step: Option<usize>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env("CRASH_DIR", dir);
    if let Some(step) = step {
        command.env("CRASH_AT", step.to_string());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_crash_at_any_step_leaves_all_or_nothing_whichever_file_is_opened_first() {
    let fresh = tempfile::tempdir().unwrap();
    prepare_files(fresh.path());
    for (at, step) in STEPS.iter().enumerate() {
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(fresh.path(), crashed.path());
        assert!(!spawn(crashed.path(), Some(at)).wait_with_output().unwrap().status.success());
        let happened = at >= 4;
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            // Moved as a whole: the journal is found beside the file.
            let dir = tempfile::tempdir().unwrap();
            copy_dir(crashed.path(), dir.path());
            for file in order {
                let store = open(dir.path(), NAMES[file]);
                assert_eq!(state(&store), happened, "{step:?}, {order:?}, {}", NAMES[file]);
                assert_eq!(store.in_doubt().unwrap(), []);
                // Writes go on, and so does the next transaction.
                store.transaction(|tx| tx.insert(id(9), &fields([("late", true.into())]))).unwrap();
            }
            let stores = NAMES.map(|name| open(dir.path(), name));
            let all: Vec<&Store> = stores.iter().collect();
            transaction_over(&all, |tx| {
                all.iter().try_for_each(|store| tx.on(store)?.insert(id(5), &fields([])))
            })
            .unwrap();
        }
    }
}

#[test]
fn a_file_whose_journal_is_lost_waits_and_can_be_told() {
    let fresh = tempfile::tempdir().unwrap();
    prepare_files(fresh.path());
    let (decided, _) = (5, ());
    assert_eq!(STEPS[decided], CommitStep::Decided);
    spawn(fresh.path(), Some(decided)).wait_with_output().unwrap();
    for happened in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(fresh.path().join("b"), dir.path().join("b")).unwrap();
        std::fs::copy(fresh.path().join("b-wal"), dir.path().join("b-wal")).unwrap();
        // The path in the file still leads to the journal: only a file far away has lost it.
        let lost = fresh.path().join("lost");
        let journals: Vec<_> = std::fs::read_dir(fresh.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().ends_with("-tx"))
            .collect();
        assert_eq!(journals.len(), 1);
        std::fs::rename(&journals[0], &lost).unwrap();
        let store = open(dir.path(), "b");
        let doubts = store.in_doubt().unwrap();
        assert_eq!(doubts.len(), 1);
        assert_eq!(n(&store), 0);
        assert!(store.verify().unwrap().problems[0].contains("undecided"));
        // What is written meanwhile is newer.
        store.transaction(|tx| tx.update(id(1), &edits([("n", FieldEdit::Set(8.into()))]))).unwrap();
        store.resolve(doubts[0].id, happened).unwrap();
        assert_eq!(n(&store), 8);
        assert_eq!(store.get(id(2)).unwrap().is_some(), happened);
        assert_eq!(store.get(id(3)).unwrap().is_none(), happened);
        assert!(matches!(store.resolve(doubts[0].id, happened), Err(StoreError::NotInDoubt(_))));
        std::fs::rename(&lost, &journals[0]).unwrap();
    }
}

/// Transactions that keep two files equal, beside other writes and joins that check it, until the process ends.
fn under_load(dir: &Path) {
    let (a, c) = (open(dir, "a"), open(dir, "c"));
    let start = n(&a);
    assert_eq!(start, n(&c));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for k in 0.. {
                let other = if k % 2 == 0 { &a } else { &c };
                let put = other.transaction(|tx| tx.upsert(id(100 + k % 50), &fields([("k", 1.into())])));
                put.unwrap();
            }
        });
        scope.spawn(|| {
            loop {
                check_join(&a, &c);
            }
        });
        for number in start + 1.. {
            put_both(&a, &c, number);
            println!("done {number}");
        }
    });
}

fn put_both(a: &Store, c: &Store, number: i64) {
    transaction_over(&[a, c], |tx| {
        for store in [a, c] {
            let part = tx.on(store)?;
            part.update(id(1), &edits([("n", FieldEdit::Set(number.into()))]))?;
            let record = u64::try_from(number).unwrap() + 1_000;
            part.insert(id(record), &fields([("n", number.into())]))?;
        }
        Ok(())
    })
    .unwrap();
}

/// A join finds the same number on both sides and no record without its fellow.
fn check_join(a: &Store, c: &Store) {
    let mut join = Join::new("a", "c", ("id".to_owned(), "id".to_owned()));
    join.left = true;
    join.filter = Some(Filter::parse("has(n) && (!has(c.id) || c.n != n)").unwrap());
    let mut half = Vec::new();
    for (left, right) in [(a, c), (c, a)] {
        left.join(right, &join, |row| {
            half.push(row);
            true
        })
        .unwrap();
    }
    if !half.is_empty() {
        println!("half {half:?}");
        std::process::exit(9);
    }
}

/// Kills a process under load at `points` random moments; after each, the files agree and hold what was said done.
fn kill_at_random(points: u32) {
    let dir = tempfile::tempdir().unwrap();
    prepare_files(dir.path());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut recovered = 0;
    for point in 0..points {
        let mut process = spawn(dir.path(), None);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("done "));
        std::thread::sleep(std::time::Duration::from_micros(seed % 30_000));
        process.kill().unwrap();
        process.wait().unwrap();
        let said: Vec<String> = first.into_iter().chain(lines.map_while(Result::ok)).collect();
        assert!(!said.iter().any(|line| line.contains("half")), "{point}: {said:?}");
        let done = said.iter().rev().find_map(|line| line.strip_prefix("done ")?.parse::<i64>().ok());
        let prepared = ["a", "c"].map(|name| has_part(&dir.path().join(name)));
        recovered += u32::from(prepared.contains(&true));
        let (first, second) = if point % 2 == 0 { ("a", "c") } else { ("c", "a") };
        let one = open(dir.path(), first);
        let alone = n(&one);
        drop(one);
        let two = open(dir.path(), second);
        assert_eq!(n(&two), alone, "point {point}");
        assert!(Some(alone) >= done, "point {point}: {alone} after {done:?} was done");
        check_join(&two, &open(dir.path(), first));
    }
    println!("{points} points, {recovered} of them inside a transaction");
}

/// Whether a plain file has a part that is not decided, without opening it as a database.
fn has_part(path: &Path) -> bool {
    let db = blazedb_sqlite::rusqlite::Connection::open(path).unwrap();
    db.query_row("SELECT count(*) FROM prepared", [], |row| row.get::<_, i64>(0)).unwrap() > 0
}

#[test]
fn kills_at_random_moments_under_load_leave_all_or_nothing() {
    kill_at_random(12);
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_kills_at_random_moments_under_load_leave_all_or_nothing() {
    kill_at_random(1_000);
}

#[test]
fn a_join_never_sees_half_of_a_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let options = || StoreOptions { durability: Durability::Normal, ..StoreOptions::default() };
    let open = |name| Store::open(dir.path().join(name), &Password::Plaintext, options()).unwrap();
    let (a, c) = (open("a"), open("c"));
    for store in [&a, &c] {
        store.transaction(|tx| tx.insert(id(1), &fields([("n", 0.into())]))).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..300).for_each(|number| put_both(&a, &c, number));
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            check_join(&a, &c);
        }
    });
    assert_eq!(n(&a), 299);
}

#[test]
fn what_fails_leaves_nothing_and_one_changed_file_is_a_plain_transaction() {
    let dir = tempfile::tempdir().unwrap();
    prepare_files(dir.path());
    let stores = NAMES.map(|name| open(dir.path(), name));
    let [a, b, c] = &stores;
    let heads = || [a.head(), b.head(), c.head()];
    let before = heads();
    let failed: Result<(), _> = transaction_over(&[a, b], |tx| {
        tx.on(a)?.insert(id(50), &fields([("fresh-name", 1.into())]))?;
        tx.on(b)?.update(id(999), &edits([("n", FieldEdit::Set(1.into()))]))
    });
    assert!(matches!(failed, Err(StoreError::NoRecord(_))));
    let strange = transaction_over(&[a, b], |tx| tx.on(c).map(drop));
    assert!(matches!(strange, Err(StoreError::NotPartOf(_))));
    assert_eq!(heads(), before);
    let mut steps = Vec::new();
    observed_transaction_over(
        &[a, b, a],
        |step| steps.push(step),
        |tx| tx.on(b)?.insert(id(51), &fields([("fresh-name", 1.into())])),
    )
    .unwrap();
    assert_eq!(steps, [CommitStep::Worked]);
    assert_eq!(heads(), [before[0], before[1] + 1, before[2]]);
    work(&[a, b, c], |_| ()).unwrap();
    assert!(stores.iter().all(state));
    // The journal holds nothing any more but its head.
    let journal = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
    let lens: Vec<u64> = journal
        .filter(|entry| entry.file_name().to_string_lossy().ends_with("-tx"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert_eq!(lens, [24]);
}

#[test]
fn listeners_hear_of_it_after_the_last_file_and_it_travels_as_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    prepare_files(dir.path());
    let (a, c) = (open(dir.path(), "a"), open(dir.path(), "c"));
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    for store in [&a, &c] {
        let (heard, a, c) = (heard.clone(), a.clone(), c.clone());
        store.on_commit(move |_| heard.lock().unwrap().push((state(&a), state(&c))));
    }
    work(&[&a, &c], |_| ()).unwrap();
    assert_eq!(*heard.lock().unwrap(), [(true, true); 2]);
    let subscriber = open(dir.path(), "d");
    let batch = a.feed(2, 1, &everything()).unwrap();
    assert_eq!(batch.entries.len(), 3, "a batch ends at no place inside a transaction");
    pump(&a, &subscriber);
    assert!(state(&subscriber));
    assert!(a.conflicts().unwrap().is_empty());
}

/// A file that could not take in its part when it was decided takes it in before it is written again.
#[test]
fn a_part_that_is_applied_late_loses_no_increment() {
    let dir = tempfile::tempdir().unwrap();
    prepare_files(dir.path());
    let [a, c] = ["a", "c"].map(|name| open(dir.path(), name));
    let count = |observe: &mut dyn FnMut(CommitStep)| {
        observed_transaction_over(&[&a, &c], observe, |tx| {
            tx.on(&a)?.update(id(1), &edits([("n", FieldEdit::Set(7.into()))]))?;
            tx.on(&c)?.update(id(1), &edits([("votes", FieldEdit::Increment(1))]))
        })
    };
    let other = blazedb_sqlite::rusqlite::Connection::open(dir.path().join("c")).unwrap();
    let cut_off = count(&mut |step| {
        if step == CommitStep::Decided {
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
        }
    });
    assert!(matches!(cut_off, Err(StoreError::Unfinished { .. })), "{cut_off:?}");
    other.execute_batch("ROLLBACK").unwrap();
    count(&mut |_| {}).unwrap();
    assert_eq!(c.get_field(id(1), "votes").unwrap(), Some(Value::Counter(2)));
}
