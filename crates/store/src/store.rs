//! An open database file.
//!
//! Invariants: one process, one writer connection, any number of readers; a record, its stamps, its feed entry
//! and the checkpoints that led to it commit together; feed sequences only rise, also over a crash.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb_core::feed::Seq;
use blazedb_core::limits::DEFAULT_DRIFT_LIMIT_MS;
use blazedb_core::{Clock, Hlc, ReplicaId};
use blazedb_sqlite::rusqlite::{self, Connection};

use crate::connection::{CacheKib, Durability, open_reader, open_writer, use_log};
use crate::error::{StoreError, from_sqlite};
use crate::functions::SharedNames;
use crate::key::{FileKey, HEADER_LEN, Password, is_plaintext};
use crate::lock_file::LockFile;
use crate::names::NameTable;
use crate::reached::Reached;
use crate::row::RowBuffer;
use crate::schema::{self, meta, set_meta};

/// A wall clock: milliseconds since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Draws the ids of new replicas.
pub type ReplicaSource = Arc<dyn Fn() -> Result<ReplicaId, StoreError> + Send + Sync>;

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
    /// Page cache of the writer, in KiB. Readers get as much.
    pub cache_kib: u32,
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
            cache_kib: 16 << 10,
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
    pub(crate) names: SharedNames,
    pub(crate) reached: Mutex<Reached>,
    pub(crate) accesses: AtomicU64,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) readers: Mutex<Vec<Connection>>,
    head: AtomicU64,
    listeners: Mutex<Vec<Listener>>,
    closed: bool,
    lock: Option<LockFile>,
}

type Listener = Box<dyn Fn(Seq) + Send + Sync>;

/// The one connection that writes, and what only it may change.
pub(crate) struct Writer {
    pub(crate) db: Connection,
    /// `db` is closed, see [`crate::sleep`].
    pub(crate) asleep: bool,
    pub(crate) names: NameTable,
    pub(crate) clock: Clock,
    /// The file says that no stamp of this replica is later than this.
    pub(crate) clock_ceiling: Hlc,
    pub(crate) next_seq: Seq,
    pub(crate) buffer: RowBuffer,
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
        let renewed = (options.new_replica)()?;
        let writer =
            Writer::start(db, &options, &mut replica, renewed).map_err(|error| from_sqlite(path, error))?;
        *names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(writer.names.clone());
        let inner = Inner {
            path: path.to_owned(),
            key,
            replica,
            names,
            reached: Mutex::default(),
            head: AtomicU64::new(writer.next_seq - 1),
            accesses: AtomicU64::new(0),
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            listeners: Mutex::default(),
            options,
            closed: false,
            lock: Some(lock),
        };
        Ok(Self { inner: Arc::new(inner) })
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
        let result = read(&db);
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
        let mut writer = self.writer()?;
        let before = (self.head() + 1, writer.clock.clone());
        if !writer.db.is_autocommit() {
            // A caller's panic left its transaction open.
            self.roll_back(&mut writer, before.clone());
        }
        writer.begin().map_err(|error| self.sqlite(error))?;
        let done = write(&mut writer).and_then(|value| {
            writer.reserve_clock().map_err(|error| self.sqlite(error))?;
            self.publish_names(&writer);
            writer.end().map_err(|error| self.sqlite(error))?;
            Ok(value)
        });
        match done {
            Ok(value) => {
                let head = writer.next_seq - 1;
                self.inner.head.store(head, Ordering::Release);
                drop(writer);
                if before.0 <= head {
                    lock(&self.inner.listeners).iter().for_each(|listener| listener(head));
                }
                Ok(value)
            }
            Err(error) => {
                self.roll_back(&mut writer, before);
                Err(error)
            }
        }
    }

    /// Readers learn new names before they can see rows that use them.
    fn publish_names(&self, writer: &Writer) {
        if self.names().len() != writer.names.len() {
            *self.inner.names.write().unwrap_or_else(PoisonError::into_inner) =
                Arc::new(writer.names.clone());
        }
    }

    fn roll_back(&self, writer: &mut Writer, (next_seq, clock): (Seq, Clock)) {
        let _ = writer.db.execute_batch("ROLLBACK");
        writer.next_seq = next_seq;
        writer.clock = clock;
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
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        writer
            .wake(&self.path, self.key.as_ref(), &self.options, &self.names)
            .and_then(|()| writer.mark_clean())
            .map_err(|error| from_sqlite(&self.path, error))?;
        last(&writer.db)?;
        self.closed = true;
        self.lock.take().ok_or_else(|| StoreError::InUse(self.path.clone(), String::new()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !self.closed {
            let awake = writer.wake(&self.path, self.key.as_ref(), &self.options, &self.names);
            let _ = awake.and_then(|()| writer.mark_clean());
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
            set_meta(&db, "replica", renewed.as_bytes().as_slice())?;
            *replica = renewed;
            db.execute("DELETE FROM checkpoints", [])?;
        }
        set_meta(&db, "clean", 0)?;
        set_meta(&db, "lossy", i64::from(options.durability == Durability::Normal))?;
        db.execute_batch("COMMIT")?;
        db.execute_batch(options.durability.pragma())?;
        Ok(Self {
            names: NameTable::load(&db)?,
            db,
            asleep: false,
            clock: Clock::new(clock, options.drift_limit_ms),
            clock_ceiling: clock,
            next_seq,
            buffer: RowBuffer::default(),
        })
    }

    /// Makes sure that a clock started from the file never repeats a time given out now.
    fn reserve_clock(&mut self) -> rusqlite::Result<()> {
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

    fn begin(&self) -> rusqlite::Result<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    fn end(&self) -> rusqlite::Result<()> {
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

/// The first bytes of the file; `None` if there is no file or nothing in it.
pub(crate) fn read_header(path: &Path) -> Result<Option<[u8; HEADER_LEN]>, StoreError> {
    let io = |error| StoreError::Io(path.to_owned(), error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(None);
    }
    let cut_off = |_| StoreError::Damaged(path.to_owned(), "it is cut off".to_owned());
    let (mut header, mut format) = ([0; HEADER_LEN], [0; 8]);
    file.read_exact(&mut header).map_err(cut_off)?;
    file.read_exact(&mut format).map_err(cut_off)?;
    // No key protects these bytes (SQLite file format, section 1.3): page size, versions, reserved, fractions.
    match format {
        [_, _, 1 | 2, 1 | 2, _, 64, 32, 32] => Ok(Some(header)),
        _ => Err(StoreError::Damaged(path.to_owned(), "its header does not hold".to_owned())),
    }
}

fn new_key(password: &Password) -> Result<Option<FileKey>, StoreError> {
    match password {
        Password::Plaintext => Ok(None),
        Password::Secret(secret) => FileKey::create(secret).map(Some),
    }
}

/// The key of a file that is there.
pub(crate) fn existing_key(
    path: &Path,
    password: &Password,
    header: [u8; HEADER_LEN],
) -> Result<Option<FileKey>, StoreError> {
    let mismatch = |text| Err(StoreError::PasswordMismatch(path.to_owned(), text));
    match (password, is_plaintext(&header)) {
        (Password::Plaintext, true) => Ok(None),
        (Password::Plaintext, false) => mismatch("it is encrypted (or damaged): a password is needed"),
        (Password::Secret(_), true) => mismatch("it is not encrypted: open it with `plaintext = true`"),
        (Password::Secret(secret), false) => FileKey::open(path, secret, header).map(Some),
    }
}

/// Refuses a file of another program, before anything of it is changed, or of a newer version of this one.
/// Answers the schema's version; 0 if there is none yet.
pub(crate) fn check_ours(path: &Path, db: &Connection) -> Result<i64, StoreError> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let sqlite = |error| from_sqlite(path, error);
    let tables = number("SELECT count(*) FROM sqlite_master").map_err(sqlite)?;
    let application = number("PRAGMA application_id").map_err(sqlite)?;
    let found = number("PRAGMA user_version").map_err(sqlite)?;
    match (tables, application, found) {
        (0, 0, 0) => Ok(0),
        (_, schema::APPLICATION_ID, 1..=schema::VERSION) => Ok(found),
        (_, schema::APPLICATION_ID, found) if found > schema::VERSION => {
            Err(StoreError::NewerSchema { path: path.to_owned(), found, known: schema::VERSION })
        }
        _ => Err(StoreError::Damaged(path.to_owned(), "it belongs to another program".to_owned())),
    }
}

/// Makes the tables, or brings them up to date. Answers the replica's id.
fn prepare(
    path: &Path,
    db: &Connection,
    version: i64,
    new_replica: &ReplicaSource,
) -> Result<ReplicaId, StoreError> {
    let sqlite = |error| from_sqlite(path, error);
    if version == 0 {
        let replica = new_replica()?;
        schema::create(db, replica).map_err(sqlite)?;
        return Ok(replica);
    }
    schema::migrate(db, version, schema::STEPS).map_err(sqlite)?;
    let replica: Option<[u8; 16]> = meta(db, "replica").map_err(sqlite)?;
    replica
        .map(ReplicaId::from_bytes)
        .ok_or_else(|| StoreError::Damaged(path.to_owned(), "it has no replica id".to_owned()))
}

pub(crate) fn random_replica() -> Result<ReplicaId, StoreError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Kdf("no randomness".to_owned()))?;
    Ok(ReplicaId(uuid::Builder::from_random_bytes(bytes).into_uuid()))
}
