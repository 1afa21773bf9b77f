//! Readers who share batches: each ends with everything, wherever it stood and whenever it came there.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::sync::Arc;

use blazedb_core::feed::{FeedBatch, Incoming, PeerNames, Seq};
use blazedb_core::view::Lens;
use blazedb_store::{FeedCache, Source, Store};
use common::{Temp, everything, id, insert, set, update};

const ALL: usize = 1 << 20;

fn take(cache: &FeedCache, after: Seq, max_bytes: usize) -> Arc<FeedBatch> {
    let lens: Arc<Lens> = Arc::new(everything());
    cache.find(after, &lens).unwrap().unwrap_or_else(|| cache.read(after, max_bytes, &lens).unwrap())
}

#[test]
fn a_batch_for_readers_who_had_more_is_not_for_one_who_had_less() {
    let hub = Temp::new();
    let cache = FeedCache::new(hub.store.clone());
    for no in [1, 2] {
        insert(&hub, no, [("text", "x".repeat(200).into())]);
    }
    // One has come to the end, which is 2; then the first record changes and moves behind it.
    assert_eq!(take(&cache, 0, ALL).upto, 2);
    update(&hub, 1, &set("n", 1));
    let delta = take(&cache, 2, ALL);
    assert_eq!((delta.known, delta.entries.len(), cache.encoded()), (2, 1, 2));
    assert!(Arc::ptr_eq(&delta, &take(&cache, 2, ALL)), "whoever has everything up to there shares it");
    // Another comes to the same place without ever having seen the first record.
    assert_eq!(hub.feed(0, 1, &everything()).unwrap().upto, 2);
    let whole = take(&cache, 2, ALL);
    assert_eq!((whole.known, whole.entries.len(), cache.encoded()), (0, 1, 3));
    assert!(whole.data.len() > 200 && delta.data.len() < 200);
}

/// A hub with few batches at hand, whose readers stand wherever they happen to stand.
struct Crowd {
    hub: Temp,
    cache: FeedCache,
    readers: Vec<(Temp, Seq)>,
    records: u64,
    random: u64,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let hub = Temp::new();
        let mut crowd = Self {
            cache: FeedCache::new(hub.store.clone()),
            hub,
            readers: (0..3).map(|_| (Temp::new(), 0)).collect(),
            records: 0,
            random: seed,
        };
        crowd.cache = FeedCache::new(crowd.hub.store.clone()).with_room(1 + crowd.random(4));
        crowd
    }

    fn random(&mut self, below: u64) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.random >> 33) % below) as usize
    }

    /// Writes one field of a record, which may be new.
    fn write(&mut self) {
        let (field, value) = (["a", "b", "c", "d"][self.random(4)], self.random as i64);
        match self.random(self.records + 3) as u64 {
            no if no < self.records => update(&self.hub, no, &set(field, value)),
            _ => {
                insert(&self.hub, self.records, [(field, value.into())]);
                self.records += 1;
            }
        }
    }

    /// One reader takes one batch.
    fn read(&mut self, reader: usize, max_bytes: usize) {
        let (store, place) = &mut self.readers[reader];
        let batch = take(&self.cache, *place, max_bytes);
        *place = batch.upto;
        let mut names = PeerNames::default();
        assert!(names.learn(batch.names.clone()));
        let (data, names) = (batch.data.clone(), Arc::new(names));
        let incoming = Incoming { data, names, checkpoint: Some(batch.upto), peer_has: 0 };
        let source = Source::new("hub".into(), self.hub.replica(), 1);
        store.apply(&[store.check(source, incoming).unwrap()]).unwrap();
    }

    fn step(&mut self) {
        let (what, reader) = (self.random(8), self.random(3));
        let max_bytes = [1, 1, 60, ALL][self.random(4)];
        if what < 4 { self.write() } else { self.read(reader, max_bytes) }
    }

    fn all_hold_the_same(&mut self) -> bool {
        for reader in 0..self.readers.len() {
            while self.readers[reader].1 < self.hub.head() {
                self.read(reader, ALL);
            }
        }
        let held = |store: &Store, no| store.get(id(no)).unwrap().unwrap().fields;
        (0..self.records)
            .all(|no| self.readers.iter().all(|(store, _)| held(store, no) == held(&self.hub, no)))
    }
}

#[test]
fn whoever_shares_batches_ends_with_everything() {
    for seed in 0..40 {
        let mut crowd = Crowd::new(seed);
        (0..100).for_each(|_| crowd.step());
        assert!(crowd.all_hold_the_same(), "seed {seed}");
    }
}
