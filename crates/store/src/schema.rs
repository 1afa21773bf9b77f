//! The tables of a file, their version, and how older files are brought up to it.

use blazedb_core::ReplicaId;
use blazedb_sqlite::rusqlite::{Connection, Result, params};

/// The version that this program writes.
pub(crate) const VERSION: i64 = 7;
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

/// Version 2: what readers with restricted views were shown, former states, and records on their way out.
const V2: &str = "
CREATE TABLE views(
    link TEXT NOT NULL, replica BLOB NOT NULL, views BLOB NOT NULL, acked INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL, PRIMARY KEY(link, replica)) WITHOUT ROWID;
CREATE TABLE shadows(
    id BLOB NOT NULL, seq INTEGER NOT NULL, until INTEGER NOT NULL, origin INTEGER NOT NULL, body BLOB,
    PRIMARY KEY(id, seq)) WITHOUT ROWID;
CREATE INDEX shadows_until ON shadows(until);
CREATE TABLE leaving(
    link TEXT NOT NULL, id BLOB NOT NULL, reason INTEGER NOT NULL, PRIMARY KEY(link, id)) WITHOUT ROWID;
";
/// Version 5: the keyring of sealed databases, and which records could not be opened.
const V5: &str = "
CREATE TABLE keyring(no INTEGER PRIMARY KEY, statement BLOB NOT NULL);
CREATE TABLE unopened(id BLOB PRIMARY KEY, reason TEXT NOT NULL, keyless INTEGER NOT NULL, at_ms INTEGER NOT NULL)
    WITHOUT ROWID;
";

/// Version 3, access rules: whose replicas are whose, what was refused here, and what an authority refused of this
/// replica.
const V3: &str = "
CREATE TABLE replica_owners(replica BLOB PRIMARY KEY, node BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX replica_owners_node ON replica_owners(node);
CREATE TABLE refusals(
    no INTEGER PRIMARY KEY AUTOINCREMENT, peer_no INTEGER NOT NULL, id BLOB NOT NULL, operation INTEGER NOT NULL,
    stamp BLOB NOT NULL, reason TEXT NOT NULL, UNIQUE(peer_no, id));
CREATE INDEX refusals_of_peer ON refusals(peer_no, no);
CREATE TABLE rejected(
    no INTEGER PRIMARY KEY, id BLOB NOT NULL, operation INTEGER NOT NULL, stamp BLOB NOT NULL, reason TEXT NOT NULL,
    body BLOB NOT NULL, unset BLOB NOT NULL, at_ms INTEGER NOT NULL, UNIQUE(id, stamp));
";

/// Version 4: parts of transactions over several files, until they are decided. See `docs/spec/transactions.md`.
const V4: &str = "
CREATE TABLE prepared(
    no INTEGER PRIMARY KEY, tx BLOB NOT NULL UNIQUE, journal BLOB NOT NULL, path TEXT NOT NULL,
    at_ms INTEGER NOT NULL, rows BLOB NOT NULL);
";

/// Version 6: graves of dropped tombstones, and when readers were here last.
const V6: &str = "
CREATE TABLE graves(
    id BLOB PRIMARY KEY, time INTEGER NOT NULL, writer INTEGER NOT NULL, after_time INTEGER, after_writer INTEGER)
    WITHOUT ROWID;
CREATE INDEX tombstones ON records(state) WHERE state=1;
ALTER TABLE peers ADD COLUMN seen_ms INTEGER;
";

/// Version 7: deletions made here that others have taken the place of, until it shows whether those stand.
const V7: &str = "
CREATE TABLE outdone(id BLOB PRIMARY KEY, stamp BLOB NOT NULL) WITHOUT ROWID;
";

/// What leads from each version to the next, from 0 on. Steps are only ever added: files of every version open
/// for ever.
pub(crate) const STEPS: &[&str] = &[V1, V2, V3, V4, V5, V6, V7];

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

/// `meta`: the ids that this file had before, one after the other.
const FORMER: &str = "former_replicas";
/// Of those, the latest are kept in mind.
const MAX_FORMER: usize = 64;

/// Gives the file another id, and keeps the one that it had in mind.
pub(crate) fn renew_replica(db: &Connection, new: ReplicaId) -> Result<()> {
    let mut former: Vec<u8> = meta(db, FORMER)?.unwrap_or_default();
    former.extend(meta::<[u8; 16]>(db, "replica")?.into_iter().flatten());
    let surplus = former.len().saturating_sub(MAX_FORMER * 16);
    former.drain(..surplus);
    set_meta(db, FORMER, former)?;
    set_meta(db, "replica", new.as_bytes().as_slice())
}

/// The ids that the file had before.
pub(crate) fn former_replicas(db: &Connection) -> Result<Vec<ReplicaId>> {
    let former: Vec<u8> = meta(db, FORMER)?.unwrap_or_default();
    Ok(former.as_chunks().0.iter().copied().map(ReplicaId::from_bytes).collect())
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
        let next = "ALTER TABLE records ADD COLUMN extra";
        let steps = [STEPS, &[next]].concat();
        migrate(&db, version(&db), &steps).unwrap();
        assert_eq!(version(&db), VERSION + 1);
        migrate(&db, version(&db), &steps).unwrap();
        let broken = [&steps[..], &["CREATE TABLE more(a); SELECT * FROM missing"]].concat();
        assert!(migrate(&db, VERSION + 1, &broken).is_err());
        assert_eq!(version(&db), VERSION + 1);
        assert!(db.prepare("SELECT * FROM more").is_err());
        assert!(db.prepare("SELECT extra FROM records").is_ok());
        assert_eq!(meta::<[u8; 16]>(&db, "replica").unwrap(), Some([1; 16]));
    }
}
