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

/// What leads from each version to the next, from 0 on. Steps are only ever added: files of every version open
/// for ever.
pub(crate) const STEPS: &[&str] = &[V1];

/// Makes the tables of a new file.
pub(crate) fn create(db: &Connection, replica: ReplicaId) -> Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    for step in STEPS {
        db.execute_batch(step)?;
    }
    db.execute_batch(&format!("PRAGMA application_id={APPLICATION_ID};PRAGMA user_version={VERSION};"))?;
    set_meta(db, "replica", replica.as_bytes().as_slice())?;
    db.execute_batch("COMMIT")
}

/// Brings a file of version `from` up to date, one version at a time, each in a transaction.
pub(crate) fn migrate(db: &Connection, from: i64, steps: &[&str]) -> Result<()> {
    for (version, step) in (1i64..).zip(steps) {
        if version > from {
            let sql = format!("BEGIN IMMEDIATE;{step};PRAGMA user_version={version};COMMIT");
            if let Err(error) = db.execute_batch(&sql) {
                let _ = db.execute_batch("ROLLBACK");
                return Err(error);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn version(db: &Connection) -> i64 {
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_steps_lead_to_the_version() {
        assert_eq!(STEPS.len() as i64, VERSION);
    }

    #[test]
    fn every_step_behind_the_version_of_the_file_runs_once_and_a_failed_one_leaves_no_trace() {
        let db = Connection::open_in_memory().unwrap();
        create(&db, ReplicaId::from_bytes([1; 16])).unwrap();
        let second = "ALTER TABLE records ADD COLUMN extra";
        migrate(&db, version(&db), &[V1, second]).unwrap();
        assert_eq!(version(&db), 2);
        migrate(&db, version(&db), &[V1, second]).unwrap();
        let broken = "CREATE TABLE more(a); SELECT * FROM missing";
        assert!(migrate(&db, 2, &[V1, second, broken]).is_err());
        assert_eq!(version(&db), 2);
        assert!(db.prepare("SELECT * FROM more").is_err());
        assert!(db.prepare("SELECT extra FROM records").is_ok());
        assert_eq!(meta::<[u8; 16]>(&db, "replica").unwrap(), Some([1; 16]));
    }
}
