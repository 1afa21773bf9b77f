//! What a file is found to be when it is opened: its header, its key, its version.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use blazedb_core::ReplicaId;
use blazedb_sqlite::rusqlite::Connection;

use crate::error::{StoreError, from_sqlite};
use crate::key::{FileKey, HEADER_LEN, Password, is_plaintext};
use crate::schema::{self, meta};
use crate::store::ReplicaSource;

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

pub(crate) fn new_key(password: &Password) -> Result<Option<FileKey>, StoreError> {
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
pub(crate) fn prepare(
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
    fill_random(&mut bytes)?;
    Ok(ReplicaId(uuid::Builder::from_random_bytes(bytes).into_uuid()))
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), StoreError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| StoreError::Kdf("no randomness".to_owned()))
}
