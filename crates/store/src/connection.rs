//! Opening connections to a file, and keeping a few for readers.

use std::path::Path;
use std::time::Duration;

use blazedb_sqlite::rusqlite::config::DbConfig;
use blazedb_sqlite::rusqlite::{Connection, OpenFlags, Result};

use crate::error::StoreError;
use crate::functions::{self, SharedNames};
use crate::key::FileKey;

/// How much of a file a connection keeps in memory, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheKib(pub(crate) u32);

/// When a commit counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// After it survives the loss of power.
    #[default]
    Full,
    /// After it survives the end of the process.
    Normal,
}

impl Durability {
    pub(crate) const fn pragma(self) -> &'static str {
        match self {
            Self::Full => "PRAGMA synchronous=FULL",
            Self::Normal => "PRAGMA synchronous=NORMAL",
        }
    }
}

/// Opens `path` for reading and writing.
pub(crate) fn open_writer(
    path: &Path,
    key: Option<&FileKey>,
    cache: CacheKib,
    names: &SharedNames,
) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    open(path, key, flags, cache, names)
}

/// Has a writer's commits go to a write-ahead log, durably.
pub(crate) fn use_log(db: &Connection) -> Result<()> {
    // The log is folded into the file every 4 MiB: large enough that a burst of small commits is not slowed by
    // it, small enough that the log of an idle database is not kept for nothing.
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=1000;
         PRAGMA journal_size_limit=4194304;",
    )
}

/// Opens `path` for reading.
pub(crate) fn open_reader(
    path: &Path,
    key: Option<&FileKey>,
    cache: CacheKib,
    names: &SharedNames,
) -> Result<Connection> {
    let db = open(path, key, OpenFlags::SQLITE_OPEN_READ_WRITE, cache, names)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

/// A file and its key as SQLite's `ATTACH` and `VACUUM INTO` take them.
pub(crate) fn file_uri(path: &Path, key: Option<&FileKey>) -> std::result::Result<String, StoreError> {
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let text = path
        .to_str()
        .ok_or_else(|| StoreError::Io(path.clone(), std::io::Error::other("the path is not UTF-8")))?;
    let mut uri = String::from("file:");
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    match key {
        Some(key) => uri.push_str(&format!("?cipher=aegis&key={}", key.raw())),
        None => uri.push_str("?cipher=aegis&key="),
    }
    Ok(uri)
}

fn open(
    path: &Path,
    key: Option<&FileKey>,
    flags: OpenFlags,
    cache: CacheKib,
    names: &SharedNames,
) -> Result<Connection> {
    // URIs are for the target of `VACUUM INTO`; an absolute path can't be mistaken for one.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(10))?;
    if let Some(key) = key {
        db.execute_batch(&format!("PRAGMA cipher='aegis'; PRAGMA key='{}';", key.raw()))?;
    }
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    db.execute_batch(&format!(
        "PRAGMA cache_size=-{}; PRAGMA temp_store=MEMORY; PRAGMA secure_delete=FAST;",
        cache.0
    ))?;
    functions::register(&db, names)?;
    db.set_prepared_statement_cache_capacity(48);
    Ok(db)
}
