//! What the tests of the store share: temporary stores with a clock of their own, and a pump that carries feeds
//! from one to another as a session would.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_core::feed::{Incoming, PeerNames};
use blazedb_core::view::{Lens, Side};
use blazedb_core::{FieldEdit, FieldEdits, Record, RecordId, Value};
use blazedb_store::{Applied, Durability, Password, Source, Store, StoreOptions};
use tempfile::TempDir;

/// How a feed is read for somebody who sees everything.
pub(crate) fn everything() -> Lens {
    Lens::all(Side::Serve)
}

/// 2026-01-01, in milliseconds since the Unix epoch.
pub(crate) const NOW: u64 = 1_767_225_600_000;

/// A clock that a test sets.
#[derive(Clone)]
pub(crate) struct TestClock(pub(crate) Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW)))
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    pub(crate) fn options(&self) -> StoreOptions {
        let now = Arc::clone(&self.0);
        StoreOptions { clock: Arc::new(move || now.load(Ordering::Relaxed)), ..StoreOptions::default() }
    }
}

/// A store in a directory that goes away with it.
pub(crate) struct Temp {
    pub(crate) store: Store,
    pub(crate) clock: TestClock,
    pub(crate) dir: TempDir,
}

impl Temp {
    pub(crate) fn new() -> Self {
        Self::with(Durability::Normal)
    }

    pub(crate) fn with(durability: Durability) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        let options = StoreOptions { durability, ..clock.options() };
        let store = Store::open(dir.path().join("t.blazedb"), &Password::Plaintext, options).unwrap();
        Self { store, clock, dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.store.path().to_owned()
    }
}

impl std::ops::Deref for Temp {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

pub(crate) fn id(number: u64) -> RecordId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    RecordId::v7(NOW + number, random)
}

pub(crate) fn fields<const N: usize>(fields: [(&str, Value); N]) -> BTreeMap<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(crate) fn edits<const N: usize>(edits: [(&str, FieldEdit); N]) -> FieldEdits {
    edits.into_iter().map(|(name, edit)| (name.to_owned(), edit)).collect()
}

pub(crate) fn set(name: &str, value: impl Into<Value>) -> FieldEdits {
    edits([(name, FieldEdit::Set(value.into()))])
}

pub(crate) fn insert<const N: usize>(store: &Store, record: u64, values: [(&str, Value); N]) {
    store.transaction(|tx| tx.insert(id(record), &fields(values))).unwrap();
}

pub(crate) fn update(store: &Store, record: u64, edits: &FieldEdits) {
    store.transaction(|tx| tx.update(id(record), edits)).unwrap();
}

pub(crate) fn delete(store: &Store, record: u64) {
    store.transaction(|tx| tx.delete(id(record))).unwrap();
}

pub(crate) fn export(store: &Store) -> Vec<Record> {
    let mut all = Vec::new();
    store
        .export(|record| {
            all.push(record);
            true
        })
        .unwrap();
    all
}

fn link_of(a: &Store, b: &Store) -> String {
    let (a, b) = (a.replica(), b.replica());
    format!("{}-{}", a.min(b), a.max(b))
}

/// Carries one batch of at most `max_bytes` (and one transaction) from `from` to `to`. Answers what it did and
/// whether more may be there.
pub(crate) fn pump_once(from: &Store, to: &Store, max_bytes: usize) -> (Applied, bool) {
    let link = link_of(from, to);
    let (peer_at_from, peer_has) = from.peer(&link, to.replica()).unwrap();
    let (peer_at_to, after) = to.peer(&link, from.replica()).unwrap();
    let after = after.unwrap_or(0);
    let batch = from.feed(after, max_bytes, &everything()).unwrap();
    let more = batch.upto < from.head();
    let mut names = PeerNames::default();
    let data = batch.data_for(peer_at_from);
    if data.is_empty() && batch.upto == after {
        return (Applied::default(), false);
    }
    assert!(names.learn(batch.names));
    let incoming = Incoming {
        data,
        names: Arc::new(names),
        checkpoint: Some(batch.upto),
        peer_has: peer_has.unwrap_or(0),
    };
    let source = Source::new(link.into(), from.replica(), peer_at_to);
    let checked = to.check(source, incoming).unwrap();
    (to.apply(&[checked]).unwrap(), more)
}

/// Carries everything from `from` to `to`.
pub(crate) fn pump(from: &Store, to: &Store) -> u64 {
    let mut changed = 0;
    loop {
        let (applied, more) = pump_once(from, to, 4_096);
        changed += applied.changed;
        if !more {
            return changed;
        }
    }
}

/// Pumps along `links`, both ways, until nothing changes.
pub(crate) fn settle(links: &[(&Store, &Store)]) {
    for _ in 0..20 {
        let mut changed = 0;
        for (a, b) in links {
            changed += pump(a, b) + pump(b, a);
        }
        if changed == 0 {
            return;
        }
    }
    panic!("the replicas do not come to rest");
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with(".lock") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
