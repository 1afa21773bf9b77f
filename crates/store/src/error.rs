//! What can go wrong with a database file, told apart by who can do something about it.

use std::path::PathBuf;

use blazedb_core::blazebinary::{DecodeError, EncodeError};
use blazedb_core::{DriftError, RecordId};
use blazedb_sqlite::rusqlite;

/// An operation on a database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The password does not open the file.
    #[error("{}: wrong password", .0.display())]
    WrongPassword(PathBuf),
    /// The file is encrypted and no password was given, or the other way round.
    #[error("{}: {}", .0.display(), .1)]
    PasswordMismatch(PathBuf, &'static str),
    /// The file is not a BlazeDB database, or its bytes were altered.
    #[error("{}: damaged or not a BlazeDB database ({}); restore it from a backup", .0.display(), .1)]
    Damaged(PathBuf, String),
    /// The file was written by a newer version.
    #[error("{}: has schema version {found}, this program knows up to {known}: update it", .path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// Another process has the file open.
    #[error("{}: in use by another process{}; stop it, or reach the database through it", .0.display(), .1)]
    InUse(PathBuf, String),
    /// There is no file, and none was to be made.
    #[error("{}: no such database", .0.display())]
    NotFound(PathBuf),
    /// A file is in the way.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// The disk is full.
    #[error("{}: the disk is full; nothing was written", .0.display())]
    DiskFull(PathBuf),
    /// No record has this id.
    #[error("no record {0}")]
    NoRecord(RecordId),
    /// A record with this id is there already.
    #[error("record {0} exists already; use update")]
    RecordExists(RecordId),
    /// An edit does not fit the field.
    #[error("field {field:?} is a {found}: {problem}")]
    WrongType {
        /// The field.
        field: String,
        /// What it holds.
        found: &'static str,
        /// What was asked of it.
        problem: &'static str,
    },
    /// A field name can't be used.
    #[error("field name {0:?} can't be used: {1}")]
    FieldName(String, &'static str),
    /// A transaction changes more than may travel as one piece.
    #[error("the transaction changes more than {limit} bytes: split it")]
    TransactionTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A value is too large or nests too deep.
    #[error("record {id}: {error}")]
    Encode {
        /// The record.
        id: RecordId,
        /// What is wrong with it.
        error: EncodeError,
    },
    /// Bytes from a peer are malformed.
    #[error("malformed change: {0}")]
    Malformed(#[from] DecodeError),
    /// A peer's stamp lies too far in the future.
    #[error(transparent)]
    Drift(#[from] DriftError),
    /// A batch follows one that could not be taken in.
    #[error("an earlier change of the same session could not be taken in")]
    Interrupted,
    /// The password could not be turned into a key.
    #[error("deriving the key failed: {0}")]
    Kdf(String),
    /// The operating system refused something.
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] std::io::Error),
    /// SQLite refused something.
    #[error("{}: {}", .0.display(), .1)]
    Sqlite(PathBuf, #[source] rusqlite::Error),
}

/// An error of SQLite as what it means for `path`.
pub(crate) fn from_sqlite(path: &std::path::Path, error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged(path, error.to_string())
        }
        _ => StoreError::Sqlite(path, error),
    }
}
