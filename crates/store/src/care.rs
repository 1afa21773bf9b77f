//! Looking after files: verify, back up, restore, change the password.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blazedb_sqlite::rusqlite::Connection;

use crate::connection::{CacheKib, file_uri, open_writer};
use crate::error::{StoreError, from_sqlite};
use crate::functions::SharedNames;
use crate::key::{FileKey, Password};
use crate::opening::{check_ours, existing_key, random_replica, read_header};
use crate::row::StoredRow;
use crate::schema::{STEPS, migrate, renew_replica, set_meta};
use crate::store::{Store, StoreOptions};
use crate::tombstones::Tombstones;

/// What a verification looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Rows, also of deleted records.
    pub rows: u64,
    /// Of these, tombstones that are kept for readers; and the graves of those that were dropped.
    pub tombstones: Tombstones,
    /// What is wrong, one line each; empty if all is well.
    pub problems: Vec<String>,
}

impl Store {
    /// Reads every page and every row and reports what does not hold.
    ///
    /// # Errors
    /// If reading fails altogether.
    pub fn verify(&self) -> Result<Verified, StoreError> {
        // What is in the caches of connections would hide what is in the file.
        self.release_memory();
        let doubts = self.in_doubt()?;
        let (search, tombstones) = (self.search_problem()?, self.tombstones()?);
        self.read(|db| {
            let sqlite = |error| self.sqlite(error);
            let doubt = |doubt: crate::prepared::InDoubt| {
                format!("transaction {} is undecided: {} is missing", doubt.id, doubt.journal.display())
            };
            let problems = search.into_iter().chain(doubts.into_iter().map(doubt));
            let mut verified = Verified { problems: problems.collect(), tombstones, ..Verified::default() };
            let mut check = db.prepare("PRAGMA integrity_check(20)").map_err(sqlite)?;
            let lines = check.query_map([], |row| row.get::<_, String>(0)).map_err(sqlite)?;
            for line in lines {
                let line = line.map_err(sqlite)?;
                if line != "ok" {
                    verified.problems.push(line);
                }
            }
            let names = self.names();
            let mut all = db
                .prepare("SELECT seq, id, state, origin, tx, history, body FROM records")
                .map_err(sqlite)?;
            let mut rows = all.query([]).map_err(sqlite)?;
            while let Some(row) = rows.next().map_err(sqlite)? {
                let row = StoredRow::read(row).map_err(sqlite)?;
                verified.rows += 1;
                match row.decode(&names) {
                    Ok(state) if state.life.is_alive() == (row.state == crate::row::ALIVE) => {}
                    Ok(_) => verified
                        .problems
                        .push(format!("record {}: column state contradicts its history", row.id)),
                    Err(error) => verified.problems.push(format!("record {}: {error}", row.id)),
                }
            }
            Ok(verified)
        })
    }

    /// Writes a copy of the database as it is at this moment, with the same password. Writers go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if `target` is there already; what the disk refuses.
    pub fn backup(&self, target: &Path) -> Result<(), StoreError> {
        if target.exists() {
            return Err(StoreError::Exists(target.to_owned()));
        }
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory {
            fs::metadata(directory).map_err(|error| StoreError::Io(directory.to_owned(), error))?;
        }
        let staged = Staged::new(sibling(target, ".backup"));
        let key = self.inner.key.as_ref();
        // Not one of the readers: they refuse every statement that writes, even to another file.
        let db = open_writer(self.path(), key, CacheKib(2_048), &self.inner.names)
            .map_err(|error| self.sqlite(error))?;
        vacuum_into(&db, &staged.path, key)?;
        sync_file(&staged.path)?;
        fs::rename(&staged.path, target).map_err(|error| StoreError::Io(target.to_owned(), error))?;
        sync_parent(target)
    }

    /// Changes the password. The store must be the only user of the file and is closed by this; a crash leaves
    /// the file under the old password or under the new one.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while there are clones of the store; what the disk refuses. The file then keeps its
    /// old password.
    pub fn change_password(self, password: &Password) -> Result<(), StoreError> {
        let path = self.path().to_owned();
        let key = match password {
            Password::Plaintext => None,
            Password::Secret(secret) => Some(FileKey::create(secret)?),
        };
        let held = || StoreError::InUse(path.clone(), " (it is open elsewhere in this process)".to_owned());
        let inner = Arc::into_inner(self.inner).ok_or_else(held)?;
        let staged = Staged::new(sibling(&path, ".passwd"));
        let sqlite = |error| from_sqlite(&path, error);
        let lock = inner.close(|db| {
            vacuum_into(db, &staged.path, key.as_ref())?;
            db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(sqlite)
        })?;
        sync_file(&staged.path)?;
        // It is empty and nobody has it open.
        remove_log(&path)?;
        fs::rename(&staged.path, &path).map_err(|error| StoreError::Io(path.clone(), error))?;
        let done = sync_parent(&path);
        drop(lock);
        done
    }
}

/// Removes the log beside a file that another one takes the place of: SQLite would write it over that one.
fn remove_log(path: &Path) -> Result<(), StoreError> {
    for suffix in ["-wal", "-shm"] {
        let log = sibling(path, suffix);
        match fs::remove_file(&log) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(StoreError::Io(log, error)),
            _ => {}
        }
    }
    Ok(())
}

/// A file on its way: it and what SQLite puts beside it go away with this.
struct Staged {
    path: PathBuf,
}

impl Staged {
    fn new(path: PathBuf) -> Self {
        let staged = Self { path };
        staged.remove();
        staged
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal", ".lock"] {
            let _ = fs::remove_file(sibling(&self.path, suffix));
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Puts a backup in place as a new replica: it gets an id of its own, so that peers don't take it for the one
/// that the backup was made of.
///
/// # Errors
/// [`StoreError::Exists`] if `target` is there already; a wrong password; a damaged backup.
pub fn restore(backup: &Path, target: &Path, password: &Password) -> Result<(), StoreError> {
    if target.exists() {
        return Err(StoreError::Exists(target.to_owned()));
    }
    let header = read_header(backup)?.ok_or_else(|| StoreError::NotFound(backup.to_owned()))?;
    let key = existing_key(backup, password, header)?;
    let staged = Staged::new(sibling(target, ".restore"));
    fs::copy(backup, &staged.path).map_err(|error| StoreError::Io(staged.path.clone(), error))?;
    renew(backup, &staged.path, key.as_ref())?;
    // Opened once, so that a backup that can't be used is found out now.
    drop(Store::open(&staged.path, password, StoreOptions { create: false, ..StoreOptions::default() })?);
    sync_file(&staged.path)?;
    remove_log(target)?;
    fs::rename(&staged.path, target).map_err(|error| StoreError::Io(target.to_owned(), error))?;
    sync_parent(target)
}

/// Gives the file a new replica id and forgets whom the old one had met, and what they were shown.
fn renew(backup: &Path, staged: &Path, key: Option<&FileKey>) -> Result<(), StoreError> {
    let sqlite = |error| from_sqlite(backup, error);
    let names = SharedNames::default();
    let db = open_writer(staged, key, CacheKib(2_048), &names).map_err(sqlite)?;
    let version = check_ours(backup, &db)?;
    if version == 0 {
        return Err(StoreError::Damaged(backup.to_owned(), "it is empty".to_owned()));
    }
    migrate(&db, version, STEPS).map_err(sqlite)?;
    renew_replica(&db, random_replica()?).map_err(sqlite)?;
    set_meta(&db, "clean", 1).map_err(sqlite)?;
    db.execute_batch(
        "DELETE FROM checkpoints; UPDATE records SET origin=0 WHERE origin<>0; DELETE FROM peers;
         DELETE FROM refusals; DELETE FROM views; DELETE FROM shadows; DELETE FROM leaving;
         DELETE FROM meta WHERE key='shadows_from';
         PRAGMA wal_checkpoint(TRUNCATE);",
    )
    .map_err(sqlite)
}

fn vacuum_into(db: &Connection, target: &Path, key: Option<&FileKey>) -> Result<(), StoreError> {
    let uri = file_uri(target, key)?;
    db.execute("VACUUM INTO ?", [uri]).map(drop).map_err(|error| from_sqlite(target, error))
}

pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::Io(path.to_owned(), error);
    File::open(path).and_then(|file| file.sync_all()).map_err(io)?;
    sync_parent(path)
}

/// A rename is durable once its directory is.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| StoreError::Io(parent.to_owned(), error))
}
