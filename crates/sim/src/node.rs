//! A simulated node: a real store on a real file, with a clock and a power switch of its own.
//!
//! Invariant: what survives a crash under durability `full` is everything committed; under `normal` it is
//! everything up to some commit since the file was opened.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use blazedb_core::ReplicaId;
use blazedb_core::access::AccessRules;
use blazedb_core::filter::User;
use blazedb_core::topology::ServeMode;
use blazedb_store::{
    CheckedBatch, Durability, EntropySource, FeedCache, Password, ReplicaSource, Store, StoreError,
    StoreOptions,
};

use crate::network::Place;
use crate::rng::Rng;

/// So few that whoever comes later has to read for itself.
const SHARED_BATCHES: usize = 3;

/// A database's files as they were at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Writes recorded before it was taken.
    pub(crate) ops: usize,
    main: Vec<u8>,
    log: Vec<u8>,
}

/// A batch on its way into the store.
pub(crate) struct Waiting {
    pub(crate) place: Place,
    pub(crate) batch: CheckedBatch,
    pub(crate) work: Work,
}

/// What a batch does, and so what its session is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Changes,
    Forget,
    TakeBack,
}

/// A node.
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    pub(crate) store: Option<Store>,
    /// What its sessions share of the feed.
    pub(crate) feeds: Option<Arc<FeedCache>>,
    /// The most that they read at once, in bytes: little, so that they stop in the middle of things.
    pub(crate) batch_bytes: usize,
    pub(crate) durability: Durability,
    /// How long tombstones are kept for who is away; 0: the default.
    lease_ms: u64,
    pub(crate) skew_ms: Arc<AtomicI64>,
    pub(crate) image: Option<Image>,
    pub(crate) queue: VecDeque<Waiting>,
    /// When the latest answer of the applier arrives: answers don't overtake each other.
    pub(crate) last_report: u64,
    /// How it serves those who connect,
    pub(crate) serve: ServeMode,
    /// and by which rules.
    pub(crate) access: AccessRules,
    /// Who its user is to others.
    pub(crate) user: Option<User>,
    /// It has the keys of what is sealed, or is to get them.
    pub(crate) member: bool,
    /// Its connections.
    pub(crate) conns: BTreeSet<u64>,
    clock: Arc<AtomicU64>,
    replicas: Arc<AtomicU64>,
}

impl Node {
    pub(crate) fn open(
        dir: &Path,
        index: usize,
        (durability, lease_ms): (Durability, u64),
        clock: &Arc<AtomicU64>,
        replicas: &Arc<AtomicU64>,
    ) -> Result<Self, StoreError> {
        let mut node = Self {
            path: dir.join(format!("node{index}.db")),
            store: None,
            feeds: None,
            batch_bytes: usize::MAX,
            durability,
            lease_ms,
            skew_ms: Arc::default(),
            image: None,
            queue: VecDeque::new(),
            last_report: 0,
            serve: ServeMode::Bidirectional,
            access: AccessRules::public(),
            user: None,
            member: false,
            conns: BTreeSet::new(),
            clock: Arc::clone(clock),
            replicas: Arc::clone(replicas),
        };
        node.start()?;
        Ok(node)
    }

    /// Opens the store.
    pub(crate) fn start(&mut self) -> Result<(), StoreError> {
        let (clock, skew) = (Arc::clone(&self.clock), Arc::clone(&self.skew_ms));
        let options = StoreOptions {
            durability: self.durability,
            clock: Arc::new(move || {
                clock.load(Ordering::Relaxed).saturating_add_signed(skew.load(Ordering::Relaxed))
            }),
            new_replica: replica_source(Arc::clone(&self.replicas)),
            entropy: entropy_source(Arc::clone(&self.replicas)),
            cache_kib: 512,
            ..StoreOptions::default()
        };
        let options = match self.lease_ms {
            0 => options,
            tombstone_lease_ms => StoreOptions { tombstone_lease_ms, ..options },
        };
        let store = Store::open(&self.path, &Password::Plaintext, options)?;
        let feeds = Arc::new(FeedCache::new(store.clone()).with_room(SHARED_BATCHES));
        let shared = Arc::downgrade(&feeds);
        store.on_keyring_change(move || shared.upgrade().iter().for_each(|feeds| feeds.clear()));
        self.feeds = Some(feeds);
        self.store = Some(store);
        self.image = None;
        Ok(())
    }

    /// Keeps the files as they are now, for a loss of power to come back to.
    pub(crate) fn take_image(&mut self, ops: usize) -> Result<(), StoreError> {
        self.image = Some(self.files(ops)?);
        Ok(())
    }

    /// Pulls the plug. Answers how many of the recorded writes came before what is still there.
    pub(crate) fn crash(&mut self, ops: usize, rng: &mut Rng) -> Result<usize, StoreError> {
        let now = self.files(ops)?;
        let image = match (self.durability, self.image.take()) {
            (Durability::Normal, Some(earlier)) if rng.chance(70) => earlier,
            _ => now,
        };
        self.queue.clear();
        // Closing tidies up; the files are then put back as the crash left them.
        (self.store, self.feeds) = (None, None);
        let io = |error| StoreError::Io(self.path.clone(), error);
        std::fs::write(&self.path, &image.main).map_err(io)?;
        let _ = std::fs::remove_file(sibling(&self.path, "-shm"));
        std::fs::write(sibling(&self.path, "-wal"), &image.log).map_err(io)?;
        Ok(image.ops)
    }

    /// Whether a test finds something in the files.
    pub(crate) fn files_hold(&self, test: impl Fn(&[u8]) -> bool) -> Result<bool, StoreError> {
        let files = self.files(0)?;
        Ok(test(&files.main) || test(&files.log))
    }

    fn files(&self, ops: usize) -> Result<Image, StoreError> {
        let io = |error| StoreError::Io(self.path.clone(), error);
        let main = std::fs::read(&self.path).map_err(io)?;
        let log = std::fs::read(sibling(&self.path, "-wal")).unwrap_or_default();
        Ok(Image { ops, main, log })
    }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn replica_source(state: Arc<AtomicU64>) -> ReplicaSource {
    Arc::new(move || {
        let mut rng = Rng::new(state.fetch_add(1, Ordering::Relaxed));
        let mut bytes = [0; 16];
        bytes.iter_mut().for_each(|byte| *byte = (rng.next() & 0xff) as u8);
        Ok(ReplicaId::from_bytes(bytes))
    })
}

/// Secrets that follow from the seed.
fn entropy_source(state: Arc<AtomicU64>) -> EntropySource {
    Arc::new(move |bytes| {
        let mut rng = Rng::new(state.fetch_add(1, Ordering::Relaxed) ^ 0x005E_C2E7);
        bytes.iter_mut().for_each(|byte| *byte = (rng.next() & 0xff) as u8);
        Ok(())
    })
}
