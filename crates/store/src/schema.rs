//! The tables of a file, their version, and how older files are brought up to it.

use blazedb_core::ReplicaId;
use blazedb_sqlite::rusqlite::{Connection, Result, params};

/// The version that this program writes.
pub(crate) const VERSION: i64 = 1;
/// `BLZ1`: marks the file as ours.
pub(crate) const APPLICATION_ID: i64 = 0x424C_5A31;

/// The layout of version 1. See `docs/spec/file-format.md`.
const V1: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE fields(no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE writers(no INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE peers(no INTEGER PRIMARY KEY, replica BLOB NOT NULL UNIQUE, acked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE checkpoints(
    link TEXT NOT NULL, replica BLOB NOT NULL, seq INTEGER NOT NULL, latest INTEGER NOT NULL,
    PRIMARY KEY(link, replica)) WITHOUT ROWID;
CREATE TABLE records(
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, state INTEGER NOT NULL, origin INTEGER NOT NULL,
    tx INTEGER NOT NULL, history BLOB NOT NULL, body BLOB);
CREATE TABLE conflicts(
    no INTEGER PRIMARY KEY, id BLOB NOT NULL, field TEXT NOT NULL, value BLOB, stamp BLOB NOT NULL,
    winner BLOB NOT NULL, kind INTEGER NOT NULL, at_ms INTEGER NOT NULL, UNIQUE(id, field, stamp));
";

/// Makes the tables of a new file.
pub(crate) fn create(db: &Connection, replica: ReplicaId) -> Result<()> {
    db.execute_batch(&format!(
        "BEGIN;{V1}PRAGMA application_id={APPLICATION_ID};PRAGMA user_version={VERSION};"
    ))?;
    set_meta(db, "replica", replica.as_bytes().as_slice())?;
    db.execute_batch("COMMIT")
}

/// Brings an older file up to [`VERSION`], one version at a time, each in a transaction.
pub(crate) fn migrate(_db: &Connection, from: i64) -> Result<()> {
    // Version 1 is the first one. The next one adds its step here: see docs/spec/file-format.md.
    debug_assert_eq!(from, VERSION);
    Ok(())
}

/// A value of the table `meta`.
pub(crate) fn meta<T: blazedb_sqlite::rusqlite::types::FromSql>(
    db: &Connection,
    key: &str,
) -> Result<Option<T>> {
    let mut statement = db.prepare_cached("SELECT value FROM meta WHERE key=?")?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

/// Sets a value of the table `meta`.
pub(crate) fn set_meta(
    db: &Connection,
    key: &str,
    value: impl blazedb_sqlite::rusqlite::ToSql,
) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO meta VALUES(?,?)")?.execute(params![key, value]).map(drop)
}
