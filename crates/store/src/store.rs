//! An open database file.
//!
//! Invariants: one process, one writer connection, any number of readers; a record, its stamps, its feed entry
//! and the checkpoints that led to it commit together; feed sequences only rise, also over a crash.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb_core::feed::Seq;
use blazedb_core::histogram::Histogram;
use blazedb_core::limits::{DEFAULT_DRIFT_LIMIT_MS, TOMBSTONE_LEASE_MS};
use blazedb_core::{Clock, Hlc, ReplicaId};
use blazedb_sqlite::rusqlite::{self, Connection};

use crate::authority::Authority;
use crate::bonds::Ties;
use crate::brought::{Brought, Stretch};
use crate::connection::{CacheKib, Durability, open_reader, open_writer, use_log};
use crate::error::{StoreError, from_sqlite};
use crate::functions::SharedNames;
use crate::ids::IdSource;
use crate::journal::Journal;
use crate::key::{FileKey, Password};
use crate::keys::{Keys, SharedKeys};
use crate::leaving;
use crate::lock_file::LockFile;
use crate::names::NameTable;
use crate::opening::{check_ours, existing_key, fill_random, new_key, prepare, random_replica, read_header};
use crate::pair::Joiner;
use crate::patience::read_with;
use crate::reached::Reached;
use crate::readers::Reading;
use crate::retire::waiting_to_go;
use crate::row::RowBuffer;
use crate::schema::{former_replicas, meta, renew_replica, set_meta};
use crate::sleep::Slot;
use crate::tombstones;
use crate::views::{self, Taken};

/// A wall clock: milliseconds since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Draws the ids of new replicas.
pub type ReplicaSource = Arc<dyn Fn() -> Result<ReplicaId, StoreError> + Send + Sync>;

/// Fills a buffer with bytes that nobody can guess.
pub type EntropySource = Arc<dyn Fn(&mut [u8]) -> Result<(), StoreError> + Send + Sync>;

/// How to open a file.
#[derive(Clone)]
pub struct StoreOptions {
    /// When a commit counts as done.
    pub durability: Durability,
    /// How far a stamp may be ahead of the clock, in milliseconds.
    pub drift_limit_ms: u64,
    /// The clock.
    pub clock: WallClock,
    /// Where the id of a new replica comes from. Two files must never get the same one.
    pub new_replica: ReplicaSource,
    /// Where secrets of the keyring come from.
    pub entropy: EntropySource,
    /// Page cache of the writer, in KiB. Readers get as much.
    pub cache_kib: u32,
    /// How long what a reader needs is kept for it while it is away (tombstones, former states), in milliseconds.
    pub tombstone_lease_ms: u64,
    /// Make the file if there is none.
    pub create: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            drift_limit_ms: DEFAULT_DRIFT_LIMIT_MS,
            clock: Arc::new(system_clock),
            new_replica: Arc::new(random_replica),
            entropy: Arc::new(fill_random),
            cache_kib: 16 << 10,
            tombstone_lease_ms: TOMBSTONE_LEASE_MS,
            create: true,
        }
    }
}

fn system_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// An open database file. Cloning is cheap; the file closes with the last clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) path: PathBuf,
    pub(crate) key: Option<FileKey>,
    pub(crate) options: StoreOptions,
    pub(crate) replica: ReplicaId,
    pub(crate) former: Vec<ReplicaId>,
    pub(crate) names: SharedNames,
    pub(crate) reached: Mutex<Reached>,
    pub(crate) brought: Mutex<Brought>,
    pub(crate) authority: Authority,
    pub(crate) ties: Mutex<Ties>,
    pub(crate) accesses: AtomicU64,
    pub(crate) commit_times: Histogram,
    pub(crate) writer: Mutex<Slot>,
    pub(crate) readers: Mutex<Vec<Connection>>,
    /// Connections that have another file attached: see [`crate::pair`].
    pub(crate) joiners: Mutex<Vec<Joiner>>,
    /// Odd while a commit is becoming visible.
    pub(crate) commits: AtomicU64,
    /// The journal of transactions whose first database this is.
    pub(crate) journal: Mutex<Option<Journal>>,
    /// A part of a decided transaction waits to be applied.
    pub(crate) behind: AtomicU64,
    /// From here on former states are kept, see [`crate::views`].
    pub(crate) shadows_from: AtomicU64,
    /// Sessions that read here, see [`crate::readers`].
    pub(crate) readers_here: Mutex<Vec<Arc<Reading>>>,
    /// Up to here tombstones may be missing, see [`crate::tombstones`].
    pub(crate) fence: AtomicU64,
    /// Some are, see [`crate::graves`].
    pub(crate) has_graves: AtomicBool,
    /// Records that wait to be taken away.
    pub(crate) leaving: AtomicU64,
    /// Records that were taken away since the file was opened, see [`crate::views`].
    pub(crate) taken: Taken,
    pub(crate) ids: Mutex<IdSource>,
    pub(crate) head: AtomicU64,
    pub(crate) listeners: Mutex<Vec<Listener>>,
    pub(crate) keys: SharedKeys,
    pub(crate) joining: Mutex<()>,
    /// Held by whoever changes the keys, from reading them to publishing them.
    pub(crate) changing_keys: Mutex<()>,
    pub(crate) needs_scrub: AtomicBool,
    pub(crate) retiring: AtomicBool,
    /// How far the feed went when a dictionary was last tried, see [`crate::dictionary`].
    pub(crate) dictionary_tried: AtomicU64,
    pub(crate) keyring_listeners: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
    closed: bool,
    lock: Option<LockFile>,
}

pub(crate) type Listener = Box<dyn Fn(Seq) + Send + Sync>;

/// The one connection that writes, and what only it may change.
pub(crate) struct Writer {
    pub(crate) db: Connection,
    pub(crate) names: NameTable,
    pub(crate) clock: Clock,
    /// The file says that no stamp of this replica is later than this.
    pub(crate) clock_ceiling: Hlc,
    pub(crate) next_seq: Seq,
    /// As [`Inner::shadows_from`].
    pub(crate) shadows_from: Seq,
    pub(crate) buffer: RowBuffer,
    /// What peers brought in this transaction.
    pub(crate) brought: Vec<Stretch>,
}

/// After an unclean end under `normal` durability the feed goes on this much further, and the file becomes
/// another replica: what was lost with the power had used sequences, stamps and tallies that peers may have seen.
const SEQ_LEAP: Seq = 1 << 20;
/// How far ahead the clock is reserved in the file, in milliseconds.
const CLOCK_RESERVE_MS: u64 = 1_000;
/// Read connections kept for the next reader.
const READERS_KEPT: usize = 4;

impl Store {
    /// Opens a database file, and makes it first if there is none.
    ///
    /// # Errors
    /// Every [`StoreError`] that is about a file, its password or its lock.
    pub fn open(
        path: impl AsRef<Path>,
        password: &Password,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let path = path.as_ref();
        if !options.create && !path.exists() {
            return Err(StoreError::NotFound(path.to_owned()));
        }
        let lock = LockFile::acquire(path)?;
        let key = match read_header(path)? {
            None if !options.create => return Err(StoreError::NotFound(path.to_owned())),
            None => new_key(password)?,
            Some(header) => existing_key(path, password, header)?,
        };
        let names = SharedNames::default();
        let cache = CacheKib(options.cache_kib);
        let db = open_writer(path, key.as_ref(), cache, &names).map_err(|error| from_sqlite(path, error))?;
        let version = check_ours(path, &db)?;
        use_log(&db).map_err(|error| from_sqlite(path, error))?;
        let mut replica = prepare(path, &db, version, &options.new_replica)?;
        let (needs_scrub, retiring) = waiting_to_go(&db).map_err(|error| from_sqlite(path, error))?;
        let renewed = (options.new_replica)()?;
        let writer =
            Writer::start(db, &options, &mut replica, renewed).map_err(|error| from_sqlite(path, error))?;
        *names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(writer.names.clone());
        let (fence, has_graves) = tombstones::load(&writer.db).map_err(|error| from_sqlite(path, error))?;
        let waiting = leaving::count_leaving(&writer.db).map_err(|error| from_sqlite(path, error))?;
        let inner = Inner {
            path: path.to_owned(),
            key,
            replica,
            keys: SharedKeys::new(Keys::load(&writer.db)?),
            former: former_replicas(&writer.db).map_err(|error| from_sqlite(path, error))?,
            names,
            reached: Mutex::default(),
            brought: Mutex::default(),
            ties: Mutex::new(Ties::load(&writer.db).map_err(|error| from_sqlite(path, error))?),
            shadows_from: AtomicU64::new(writer.shadows_from),
            readers_here: Mutex::default(),
            fence: AtomicU64::new(fence),
            has_graves: AtomicBool::new(has_graves),
            leaving: AtomicU64::new(waiting),
            taken: Taken::default(),
            head: AtomicU64::new(writer.next_seq - 1),
            authority: Authority::default(),
            accesses: AtomicU64::new(0),
            commit_times: Histogram::default(),
            writer: Mutex::new(Slot::of(writer)),
            readers: Mutex::default(),
            joiners: Mutex::default(),
            commits: AtomicU64::new(0),
            journal: Mutex::default(),
            behind: AtomicU64::new(0),
            ids: Mutex::default(),
            listeners: Mutex::default(),
            joining: Mutex::default(),
            changing_keys: Mutex::default(),
            needs_scrub: AtomicBool::new(needs_scrub),
            retiring: AtomicBool::new(retiring),
            dictionary_tried: AtomicU64::new(0),
            keyring_listeners: Mutex::default(),
            options,
            closed: false,
            lock: Some(lock),
        };
        let store = Self { inner: Arc::new(inner) };
        store.recover()?;
        store.finish_changing_keys().map(|()| store)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The id of this file among all files of the database.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.inner.replica
    }

    /// The end of the feed: the sequence of the last change.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.inner.head.load(Ordering::Acquire)
    }

    /// Calls `listener` with the new end of the feed after every commit. It must not block.
    pub fn on_commit(&self, listener: impl Fn(Seq) + Send + Sync + 'static) {
        lock(&self.inner.listeners).push(Box::new(listener));
    }

    /// The wall clock that this database goes by, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.inner.options.clock)()
    }

    /// The names as of now. Taken inside a snapshot, they are never fewer than what its rows use.
    pub(crate) fn names(&self) -> Arc<NameTable> {
        Arc::clone(&self.inner.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn sqlite(&self, error: rusqlite::Error) -> StoreError {
        from_sqlite(&self.inner.path, error)
    }

    /// Runs `read` on a read connection, inside one snapshot.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.read_once(|db| {
            let run = |sql: &str| db.prepare_cached(sql).and_then(|mut run| run.execute([]));
            run("BEGIN").map_err(|error| self.sqlite(error))?;
            // The snapshot is taken by the first statement that reads, and names are looked up after that.
            db.prepare_cached("SELECT 1 FROM meta LIMIT 1")
                .and_then(|mut pin| pin.query([])?.next().map(drop))
                .map_err(|error| self.sqlite(error))?;
            let result = read(db);
            run("COMMIT").map_err(|error| self.sqlite(error))?;
            result
        })
    }

    /// Runs `read`, which is a single statement, on a read connection.
    pub(crate) fn read_once<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.count_access();
        let kept = lock(&self.inner.readers).pop();
        let db = match kept {
            Some(db) => db,
            None => {
                let cache = CacheKib(self.inner.options.cache_kib);
                open_reader(&self.inner.path, self.inner.key.as_ref(), cache, &self.inner.names)
                    .map_err(|error| self.sqlite(error))?
            }
        };
        let result = read_with(&db, read);
        let mut readers = lock(&self.inner.readers);
        if readers.len() < READERS_KEPT {
            readers.push(db);
        }
        result
    }

    /// Runs `write` in a transaction; what it did becomes the feed up to the writer's `next_seq`.
    pub(crate) fn commit<T>(
        &self,
        write: impl FnOnce(&mut Writer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.commit_with(self.slot_caught_up()?, write)
    }

    pub(crate) fn commit_with<T>(
        &self,
        mut slot: MutexGuard<'_, Slot>,
        write: impl FnOnce(&mut Writer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let started = std::time::Instant::now();
        let writer = self.awake(&mut slot)?;
        let before = (self.head() + 1, writer.clock.clone());
        writer.begin().map_err(|error| self.sqlite(error))?;
        let done = write(writer).and_then(|value| {
            writer.reserve_clock().map_err(|error| self.sqlite(error))?;
            self.publish_names(writer);
            let _becoming_visible = self.changing();
            writer.end().map_err(|error| self.sqlite(error))?;
            Ok(value)
        });
        match done {
            Ok(value) => {
                let head = writer.next_seq - 1;
                let mut brought = lock(&self.inner.brought);
                writer.brought.drain(..).for_each(|stretch| brought.add(stretch));
                self.inner.head.store(head, Ordering::Release);
                drop((brought, slot));
                self.inner.commit_times.add(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
                if before.0 <= head {
                    lock(&self.inner.listeners).iter().for_each(|listener| listener(head));
                }
                Ok(value)
            }
            Err(error) => {
                self.roll_back(writer, before);
                Err(error)
            }
        }
    }

    /// Readers learn new names before they can see rows that use them.
    pub(crate) fn publish_names(&self, writer: &Writer) {
        if self.names().len() != writer.names.len() {
            *self.inner.names.write().unwrap_or_else(PoisonError::into_inner) =
                Arc::new(writer.names.clone());
        }
    }

    pub(crate) fn roll_back(&self, writer: &mut Writer, (next_seq, clock): (Seq, Clock)) {
        let _ = writer.db.execute_batch("ROLLBACK");
        writer.next_seq = next_seq;
        writer.clock = clock;
        // What was reserved may have been undone as well: it is reserved anew.
        writer.clock_ceiling = Hlc::default();
        writer.brought.clear();
        if let Ok(names) = NameTable::load(&writer.db) {
            *self.inner.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names.clone());
            writer.names = names;
        }
    }
}

impl Inner {
    /// Closes the file: `last` runs on the only connection that is left. The lock is still held.
    pub(crate) fn close(
        mut self,
        last: impl FnOnce(&Connection) -> Result<(), StoreError>,
    ) -> Result<LockFile, StoreError> {
        self.readers.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        self.joiners.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let slot = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        let writer = slot
            .wake(&self.path, self.key.as_ref(), &self.options, &self.names)
            .map_err(|error| from_sqlite(&self.path, error))?;
        writer.mark_clean().map_err(|error| from_sqlite(&self.path, error))?;
        last(&writer.db)?;
        self.closed = true;
        self.lock.take().ok_or_else(|| StoreError::InUse(self.path.clone(), String::new()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let slot = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !self.closed {
            let awake = slot.wake(&self.path, self.key.as_ref(), &self.options, &self.names);
            let _ = awake.and_then(|writer| writer.mark_clean());
        }
    }
}

impl Writer {
    fn start(
        db: Connection,
        options: &StoreOptions,
        replica: &mut ReplicaId,
        renewed: ReplicaId,
    ) -> rusqlite::Result<Self> {
        let last: Option<Seq> = db.query_row("SELECT max(seq) FROM records", [], |row| row.get(0))?;
        let floor: Seq = meta(&db, "seq_floor")?.unwrap_or(0);
        let clock: i64 = meta(&db, "clock")?.unwrap_or(0);
        let clock = Hlc(clock.cast_unsigned());
        let mut next_seq = last.unwrap_or(0).max(floor) + 1;
        let unclean = meta::<i64>(&db, "clean")? == Some(0);
        let lossy = meta::<i64>(&db, "lossy")? == Some(1);
        // What this open says about itself must be on the disk before the first commit that may get lost.
        db.execute_batch("PRAGMA synchronous=FULL; BEGIN IMMEDIATE")?;
        if unclean && lossy {
            next_seq += SEQ_LEAP;
            set_meta(&db, "seq_floor", next_seq - 1)?;
            renew_replica(&db, renewed)?;
            *replica = renewed;
            db.execute("DELETE FROM checkpoints", [])?;
        }
        set_meta(&db, "clean", 0)?;
        set_meta(&db, "lossy", i64::from(options.durability == Durability::Normal))?;
        db.execute_batch("COMMIT")?;
        db.execute_batch(options.durability.pragma())?;
        Ok(Self {
            names: NameTable::load(&db)?,
            shadows_from: views::load_shadows_from(&db)?,
            db,
            clock: Clock::new(clock, options.drift_limit_ms),
            clock_ceiling: clock,
            next_seq,
            buffer: RowBuffer::default(),
            brought: Vec::new(),
        })
    }

    /// Makes sure that a clock started from the file never repeats a time given out now.
    pub(crate) fn reserve_clock(&mut self) -> rusqlite::Result<()> {
        if self.clock.last() > self.clock_ceiling {
            let ceiling = Hlc::new(self.clock.last().millis() + CLOCK_RESERVE_MS, 0);
            set_meta(&self.db, "clock", ceiling.0.cast_signed())?;
            self.clock_ceiling = ceiling;
        }
        Ok(())
    }

    /// Says in the file that nothing of it can have got lost.
    pub(crate) fn mark_clean(&self) -> rusqlite::Result<()> {
        set_meta(&self.db, "clock", self.clock.last().0.cast_signed())?;
        set_meta(&self.db, "clean", 1)
    }

    pub(crate) fn begin(&self) -> rusqlite::Result<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    pub(crate) fn end(&self) -> rusqlite::Result<()> {
        self.db.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    /// Takes the next feed sequence.
    pub(crate) fn take_seq(&mut self) -> Seq {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
