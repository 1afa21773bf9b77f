//! Files: passwords, damage, locks, full disks, backups, crashes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use blazedb_store::{Durability, Password, Store, StoreError, StoreOptions, restore};
use common::*;

const SECRET: &str = "correct horse";
const MARKER: &str = "MARKERMARKERMARKER";

fn open(path: &Path, password: &Password) -> Result<Store, StoreError> {
    Store::open(
        path,
        password,
        StoreOptions { clock: TestClock::new().options().clock, ..StoreOptions::default() },
    )
}

fn sealed(path: &Path) -> Store {
    let store = open(path, &SECRET.into()).unwrap();
    for n in 0..300 {
        insert(&store, n, [("text", MARKER.into()), ("n", (n as i64).into())]);
    }
    store
}

#[test]
fn a_file_opens_with_its_password_only_and_the_reasons_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (path, plain) = (dir.path().join("a.blazedb"), dir.path().join("b.blazedb"));
    let before = export(&sealed(&path));
    drop(open(&plain, &Password::Plaintext).unwrap());
    assert_eq!(export(&open(&path, &SECRET.into()).unwrap()), before);
    assert!(matches!(open(&path, &"wrong".into()), Err(StoreError::WrongPassword(_))));
    assert!(matches!(open(&path, &Password::Plaintext), Err(StoreError::PasswordMismatch(..))));
    assert!(matches!(open(&plain, &SECRET.into()), Err(StoreError::PasswordMismatch(..))));
    let absent = Store::open(
        dir.path().join("c.blazedb"),
        &SECRET.into(),
        StoreOptions { create: false, ..StoreOptions::default() },
    );
    assert!(matches!(absent, Err(StoreError::NotFound(_))));
    assert!(!dir.path().join("c.blazedb.lock").exists());
}

#[test]
fn no_file_of_an_encrypted_database_shows_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(&dir.path().join("a.blazedb"));
    store.ensure_index("text").unwrap();
    store.backup(&dir.path().join("backup")).unwrap();
    let shows = || {
        let mut seen = 0;
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            seen += bytes.len();
            for word in [MARKER.as_bytes(), b"records", b"SQLite format"] {
                assert!(!bytes.windows(word.len()).any(|w| w == word), "{}", path.display());
            }
        }
        seen
    };
    assert!(shows() > 100_000);
    store.change_password(&"new".into()).unwrap();
    shows();
}

#[test]
fn damage_anywhere_is_found_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.blazedb");
    drop(sealed(&path));
    let good = fs::read(&path).unwrap();
    let hurt = dir.path().join("hurt.blazedb");
    let step = good.len() / 40;
    for at in (0..40).map(|n| n * step + n * 7).chain([0, 1, 15, 16, 17, 18, 100, good.len() - 1]) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        fs::write(&hurt, &bytes).unwrap();
        let found = open(&hurt, &SECRET.into()).and_then(|store| store.verify());
        match found {
            Err(StoreError::Damaged(..)) => {}
            // The salt is part of what makes the key.
            Err(StoreError::WrongPassword(_)) if (1..16).contains(&at) => {}
            Ok(verified) if !verified.problems.is_empty() => {}
            other => panic!("byte {at} of {}: {other:?}", good.len()),
        }
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(dir.path().join(format!("hurt.blazedb{suffix}")));
        }
    }
}

#[test]
fn a_file_that_is_cut_off_is_damaged_and_an_empty_one_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.blazedb");
    drop(sealed(&path));
    let good = fs::read(&path).unwrap();
    let hurt = dir.path().join("hurt.blazedb");
    for len in [1, 15, 16, 17, 100, 4_095, 4_096, 5_000, 8_192, good.len() / 2, good.len() - 1] {
        fs::write(&hurt, &good[..len]).unwrap();
        let found = open(&hurt, &SECRET.into()).and_then(|store| store.verify());
        let told = match &found {
            Err(StoreError::Damaged(..)) => true,
            Ok(verified) => !verified.problems.is_empty(),
            Err(_) => false,
        };
        assert!(told, "{len}: {found:?}");
    }
    let empty = dir.path().join("empty.blazedb");
    fs::write(&empty, []).unwrap();
    assert!(open(&empty, &SECRET.into()).unwrap().is_empty().unwrap());
}

#[test]
fn a_file_of_another_program_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    let other = blazedb_sqlite::rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(1)").unwrap();
    drop(other);
    let before = fs::read(&path).unwrap();
    assert!(matches!(open(&path, &Password::Plaintext), Err(StoreError::Damaged(..))));
    assert_eq!(fs::read(&path).unwrap(), before);
    let target = dir.path().join("restored");
    assert!(matches!(restore(&path, &target, &Password::Plaintext), Err(StoreError::Damaged(..))));
    fs::write(&path, "not a database at all, but longer than a header").unwrap();
    assert!(matches!(open(&path, &SECRET.into()), Err(StoreError::Damaged(..))));
    assert!(matches!(open(&path, &Password::Plaintext), Err(StoreError::Damaged(..))));
    assert!(!target.exists());
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.blazedb");
    drop(open(&path, &Password::Plaintext).unwrap());
    let raw = blazedb_sqlite::rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("PRAGMA user_version=99").unwrap();
    drop(raw);
    assert!(matches!(open(&path, &Password::Plaintext), Err(StoreError::NewerSchema { found: 99, .. })));
}

/// What was open in an application's transaction is undone before anybody else writes: no peer's number goes with it.
#[test]
fn a_panic_in_a_transaction_takes_nothing_with_it_that_came_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(&dir.path().join("a.blazedb"));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.transaction::<()>(|_| std::panic::resume_unwind(Box::new("an application's bug")))
    }));
    assert!(panicked.is_err());
    let number = |byte| store.peer("l", blazedb_core::ReplicaId::from_bytes([byte; 16])).unwrap().0;
    let first = number(1);
    insert(&store, 9_000, [("n", 1.into())]);
    assert_ne!(number(2), first);
    assert_eq!(number(1), first);
}

/// What a killed process leaves beside its file is not written over the one that takes its place.
#[test]
fn a_log_that_was_left_behind_does_not_undo_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    for password in [Password::Plaintext, SECRET.into()] {
        let path = dir.path().join("a.blazedb");
        let store = open(&path, &password).unwrap();
        insert(&store, 1, [("n", 1.into())]);
        let backup = dir.path().join("a.backup");
        store.backup(&backup).unwrap();
        let saved = export(&store);
        (2..50).for_each(|n| insert(&store, n, [("n", 2.into())]));
        let (log, left) = (dir.path().join("a.blazedb-wal"), dir.path().join("left"));
        fs::copy(&log, &left).unwrap();
        assert!(fs::metadata(&left).unwrap().len() > 0);
        let replica = store.replica();
        drop(store);
        fs::remove_file(&path).unwrap();
        fs::rename(&left, &log).unwrap();
        restore(&backup, &path, &password).unwrap();
        let restored = open(&path, &password).unwrap();
        assert_eq!(export(&restored), saved);
        assert_ne!(restored.replica(), replica);
        drop(restored);
        [&path, &backup].into_iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

#[test]
fn a_backup_is_taken_while_writers_go_on_and_restores_to_another_replica() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(&dir.path().join("a.blazedb"));
    let (_, none) = store.peer("l", blazedb_core::ReplicaId::from_bytes([9; 16])).unwrap();
    assert_eq!(none, None);
    let writer = store.clone();
    let writing =
        std::thread::spawn(move || (1_000..1_300).for_each(|n| insert(&writer, n, [("n", 1.into())])));
    let backup = dir.path().join("a.backup");
    store.backup(&backup).unwrap();
    writing.join().unwrap();
    assert!(matches!(store.backup(&backup), Err(StoreError::Exists(_))));
    let target = dir.path().join("b.blazedb");
    assert!(matches!(restore(&backup, &target, &"wrong".into()), Err(StoreError::WrongPassword(_))));
    restore(&backup, &target, &SECRET.into()).unwrap();
    assert!(matches!(restore(&backup, &target, &SECRET.into()), Err(StoreError::Exists(_))));
    let restored = open(&target, &SECRET.into()).unwrap();
    assert_ne!(restored.replica(), store.replica());
    let records = export(&restored);
    assert!(records.len() >= 300);
    assert_eq!(records[..], export(&store)[..records.len()]);
    assert!(restored.verify().unwrap().problems.is_empty());
    insert(&restored, 5_000, [("n", 1.into())]);
    insert(&store, 5_001, [("n", 1.into())]);
    settle(&[(&store, &restored)]);
    assert_eq!(export(&store), export(&restored));
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".restore") || name.contains(".backup."))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_restored_file_knows_no_readers_of_the_one_it_was_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(&dir.path().join("a.blazedb"));
    let view = blazedb_core::view::ViewRequest { filter: Some("n == 1".to_owned()), excluded: Vec::new() };
    let view = view.view(None, blazedb_core::Timestamp(0)).unwrap();
    let reader = blazedb_core::ReplicaId::from_bytes([9; 16]);
    store.show("l", reader, &view, false, false).unwrap();
    let shown = store.show("l", reader, &blazedb_core::view::View::all(), true, false).unwrap();
    assert!(store.notes_readers() && shown.held.len() == 1);
    let (backup, target) = (dir.path().join("a.backup"), dir.path().join("b.blazedb"));
    store.backup(&backup).unwrap();
    restore(&backup, &target, &SECRET.into()).unwrap();
    let restored = open(&target, &SECRET.into()).unwrap();
    assert!(!restored.notes_readers(), "no former states are kept for anybody");
    let shown = restored.show("l", reader, &blazedb_core::view::View::all(), false, false).unwrap();
    assert!(shown.held.is_empty() && !shown.unsettled);
}

#[test]
fn the_password_changes_in_every_direction_and_everything_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("name with ? and % and 'quotes'.blazedb");
    let store = sealed(&path);
    let (before, replica, head) = (export(&store), store.replica(), store.head());
    let held = store.clone();
    assert!(matches!(store.change_password(&"new".into()), Err(StoreError::InUse(..))));
    held.change_password(&"new".into()).unwrap();
    assert!(matches!(open(&path, &SECRET.into()), Err(StoreError::WrongPassword(_))));
    let passwords = ["new".into(), Password::Plaintext, "back".into(), SECRET.into()];
    for pair in passwords.windows(2) {
        let store = open(&path, &pair[0]).unwrap();
        assert_eq!((export(&store), store.replica(), store.head()), (before.clone(), replica, head));
        assert!(store.verify().unwrap().problems.is_empty());
        store.change_password(&pair[1]).unwrap();
    }
    let store = open(&path, &SECRET.into()).unwrap();
    insert(&store, 900, []);
    assert_eq!(store.count(None).unwrap(), 301);
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| !name.to_string_lossy().contains(".passwd")), "{files:?}");
}

/// What this test binary does when it is started again as a helper: the variable holds the path.
const CHILD: &str = "BLAZEDB_TEST_CHILD";

fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped());
    command
}

#[test]
fn a_second_process_is_told_who_has_the_file() {
    if let Some(path) = std::env::var_os(CHILD) {
        match open(Path::new(&path), &Password::Plaintext) {
            Err(error @ StoreError::InUse(..)) => println!("child: {error}"),
            other => println!("child: opened {}", other.is_ok()),
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.blazedb");
    let store = open(&path, &Password::Plaintext).unwrap();
    let run = || {
        let output = child("a_second_process_is_told_who_has_the_file", &path).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = run();
    assert!(
        told.contains("in use by another process") && told.contains(&std::process::id().to_string()),
        "{told}"
    );
    assert!(matches!(open(&path, &Password::Plaintext), Err(StoreError::InUse(..))));
    drop(store);
    assert!(run().contains("opened true"));
}

#[test]
fn what_was_acknowledged_is_there_after_the_process_was_killed() {
    use std::io::{BufRead, BufReader};
    if let Some(path) = std::env::var_os(CHILD) {
        let store = open(Path::new(&path), &Password::Plaintext).unwrap();
        let first = store.count(None).unwrap() / 2;
        for n in first.. {
            store
                .transaction(|tx| {
                    tx.insert(id(2 * n), &fields([("half", 1.into())]))?;
                    tx.insert(
                        id(2 * n + 1),
                        &fields([("half", 2.into()), (format!("f{n}").as_str(), 1.into())]),
                    )
                })
                .unwrap();
            println!("acknowledged {n}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.blazedb");
    let mut acknowledged = 0;
    for round in 0..12 {
        let mut writer =
            child("what_was_acknowledged_is_there_after_the_process_was_killed", &path).spawn().unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            if let Some(n) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = acknowledged.max(n.parse().unwrap());
                seen += 1;
            }
            if seen == 1 + round * 7 {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        let store = open(&path, &Password::Plaintext).unwrap();
        let count = store.count(None).unwrap();
        assert_eq!(count % 2, 0, "half a transaction");
        assert!(count / 2 > acknowledged);
        assert!(store.get(id(2 * acknowledged + 1)).unwrap().is_some());
        assert!(store.verify().unwrap().problems.is_empty());
    }
}

#[test]
fn after_an_unclean_end_without_full_durability_the_file_is_another_replica_further_on() {
    for (durability, lossy) in [(Durability::Normal, true), (Durability::Full, false)] {
        let a = Temp::with(durability);
        let b = Temp::new();
        insert(&a, 1, [("n", 1.into())]);
        insert(&b, 2, []);
        settle(&[(&a, &b)]);
        // A copy of the open files is what a machine finds that lost its power.
        let copy = tempfile::tempdir().unwrap();
        copy_dir(a.dir.path(), copy.path());
        let options = StoreOptions { durability, ..a.clock.options() };
        let after = Store::open(copy.path().join("t.blazedb"), &Password::Plaintext, options).unwrap();
        assert_eq!(export(&after), export(&a));
        assert_eq!(after.replica() != a.replica(), lossy);
        assert_eq!(after.head() > a.head() + 1_000, lossy);
        let link = format!("{}-{}", a.replica().min(b.replica()), a.replica().max(b.replica()));
        assert_eq!(after.peer(&link, b.replica()).unwrap().1.is_none(), lossy);
        assert_eq!(after.feed(0, usize::MAX, &everything()).unwrap().upto, after.head());
        assert_eq!(after.feed(a.head(), 1, &everything()).unwrap().upto, after.head());
        if lossy {
            insert(&after, 3, []);
            settle(&[(&after, &b)]);
            assert_eq!(export(&after), export(&b));
            // Cleanly closed and opened: nothing changes.
            let (replica, head, path) = (after.replica(), after.head(), after.path().to_owned());
            drop(after);
            let again = Store::open(path, &Password::Plaintext, a.clock.options()).unwrap();
            assert_eq!((again.replica(), again.head()), (replica, head));
        }
    }
}

#[test]
fn a_clock_that_fell_back_between_two_runs_gives_no_time_twice() {
    let a = Temp::new();
    a.clock.advance(60_000);
    let last = a.transaction(|tx| Ok(tx.time())).unwrap();
    insert(&a, 1, []);
    let copy = tempfile::tempdir().unwrap();
    copy_dir(a.dir.path(), copy.path());
    let again =
        Store::open(copy.path().join("t.blazedb"), &Password::Plaintext, TestClock::new().options()).unwrap();
    assert!(again.transaction(|tx| Ok(tx.time())).unwrap() > last);
}

/// A small file system in memory, as long as this lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("size=2m") else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let path = disk.0.path().join("a.blazedb");
    let store = open(&path, &SECRET.into()).unwrap();
    let mut written = 0;
    let full = loop {
        let done = store.transaction(|tx| {
            tx.insert(id(2 * written), &fields([("t", "x".repeat(900).into())]))?;
            tx.insert(id(2 * written + 1), &fields([("t", "y".repeat(900).into())]))
        });
        match done {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::DiskFull(_)), "{full:?}");
    assert!(written > 50);
    assert_eq!(store.count(None).unwrap(), 2 * written);
    assert!(store.verify().unwrap().problems.is_empty());
    assert!(matches!(store.backup(&disk.0.path().join("backup")), Err(StoreError::DiskFull(_))));
    assert!(!disk.0.path().join("backup").exists());
    let refused = store.transaction(|tx| tx.insert(id(9_999), &fields([("t", "z".repeat(90_000).into())])));
    assert!(matches!(refused, Err(StoreError::DiskFull(_))));
    drop(store);
    let store = open(&path, &SECRET.into()).unwrap();
    assert_eq!(store.count(None).unwrap(), 2 * written);
    let grown = Command::new("mount").args(["-o", "remount,size=8m"]).arg(disk.0.path()).status();
    assert!(grown.unwrap().success());
    insert(&store, 9_999, [("t", "z".repeat(90_000).into())]);
    assert_eq!(store.count(None).unwrap(), 2 * written + 1);
}

/// The newest version: its fixture is made by this test under `BLAZEDB_WRITE_FIXTURE`.
const SCHEMA: u32 = 7;

#[test]
fn a_file_of_every_schema_version_opens() {
    [1, 5, 6, SCHEMA].into_iter().for_each(file_of_version_opens);
}

fn file_of_version_opens(version: u32) {
    let name = format!("tests/fixtures/schema-{version}.blazedb");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if version == SCHEMA && std::env::var_os("BLAZEDB_WRITE_FIXTURE").is_some() {
        let _ = fs::remove_file(&fixture);
        let store = open(&fixture, &"fixture".into()).unwrap();
        insert(&store, 1, [("title", "crash".into()), ("n", blazedb_core::Value::Counter(3))]);
        insert(&store, 2, [("title", "gone".into())]);
        insert(&store, 3, [("s", blazedb_core::Value::Set(vec!["a".into()]))]);
        update(&store, 1, &set("title", "crash on start"));
        delete(&store, 2);
        store.ensure_index("title").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.blazedb");
    fs::copy(&fixture, &path).unwrap();
    let store = open(&path, &"fixture".into()).unwrap();
    let records = export(&store);
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].get("title"), Some(&"crash on start".into()));
    assert_eq!(records[0].get("n"), Some(&blazedb_core::Value::Counter(3)));
    assert_eq!(records[1].get("s"), Some(&blazedb_core::Value::Set(vec!["a".into()])));
    assert_eq!(store.feed(0, usize::MAX, &everything()).unwrap().entries.len(), 3);
    assert!(store.verify().unwrap().problems.is_empty());
    insert(&store, 2, [("title", "again".into())]);
    assert_eq!(store.count(None).unwrap(), 3);
    // What later versions added.
    let node = blazedb_core::NodeId::from_bytes([1; 16]);
    assert_eq!(store.claim_replica(store.replica(), node).unwrap(), blazedb_store::Claim::Granted);
    assert!(store.rejected().unwrap().is_empty() && !store.has_refusals(1).unwrap());
}
