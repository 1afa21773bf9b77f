//! A simulated node: a real store on a real file, with a clock and a power switch of its own.
//!
//! Invariant: what survives a crash under durability `full` is everything committed; under `normal` it is
//! everything up to some commit since the file was opened.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use blazedb_core::ReplicaId;
use blazedb_store::{CheckedBatch, Durability, Password, ReplicaSource, Store, StoreError, StoreOptions};

use crate::network::Place;
use crate::rng::Rng;

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
}

/// A node.
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    pub(crate) store: Option<Store>,
    pub(crate) durability: Durability,
    pub(crate) skew_ms: Arc<AtomicI64>,
    pub(crate) image: Option<Image>,
    pub(crate) queue: VecDeque<Waiting>,
    /// When the latest answer of the applier arrives: answers don't overtake each other.
    pub(crate) last_report: u64,
    clock: Arc<AtomicU64>,
    replicas: Arc<AtomicU64>,
}

impl Node {
    pub(crate) fn open(
        dir: &Path,
        index: usize,
        durability: Durability,
        clock: &Arc<AtomicU64>,
        replicas: &Arc<AtomicU64>,
    ) -> Result<Self, StoreError> {
        let mut node = Self {
            path: dir.join(format!("node{index}.db")),
            store: None,
            durability,
            skew_ms: Arc::default(),
            image: None,
            queue: VecDeque::new(),
            last_report: 0,
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
            cache_kib: 512,
            ..StoreOptions::default()
        };
        self.store = Some(Store::open(&self.path, &Password::Plaintext, options)?);
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
        self.store = None;
        let io = |error| StoreError::Io(self.path.clone(), error);
        std::fs::write(&self.path, &image.main).map_err(io)?;
        let _ = std::fs::remove_file(sibling(&self.path, "-shm"));
        std::fs::write(sibling(&self.path, "-wal"), &image.log).map_err(io)?;
        Ok(image.ops)
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
