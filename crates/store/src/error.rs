//! What can go wrong with a database file, told apart by who can do something about it.

use std::path::PathBuf;

use blazedb_core::blazebinary::{DecodeError, EncodeError};
use blazedb_core::typed::TypedError;
use blazedb_core::{DriftError, RecordId};
use blazedb_sqlite::rusqlite;

/// An operation on a database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A link's filter can't be used.
    #[error("the filter of a link can't be used: {0}")]
    Filter(String),
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
    /// The other side is the one that decides about this database.
    #[error(
        "the other side decides about this database and can't be its child: two authorities in a ring have none"
    )]
    Ring,
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
    /// The keyring does not allow it.
    #[error(transparent)]
    Keyring(#[from] blazedb_core::keyring::KeyringError),
    /// Something can't be sealed.
    #[error("can't be sent: {0}")]
    Seal(#[from] blazedb_core::seal::SealError),
    /// A peer sent a field readable that the keyring says is sealed.
    #[error(
        "field {0:?} is sealed in this database, and came readable: the device needs the keyring \
         (`blazedb key join`)"
    )]
    NotSealed(String),
    /// Nothing that was refused of this record is kept.
    #[error("no refused write of record {0}: `blazedb rejected` lists what there is")]
    NoRejected(RecordId),
    /// A peer goes on sending what is refused without taking the refusals.
    #[error("{limit} refused writes wait to be taken: take them first")]
    TooManyRefused {
        /// The limit.
        limit: u64,
    },
    /// A batch follows one that could not be taken in.
    #[error("an earlier change of the same session could not be taken in")]
    Interrupted,
    /// A reader stands where tombstones were dropped since it said so: it has to compare what it holds.
    #[error("tombstones were dropped behind the place where the other side stands: connect again to compare")]
    Fenced,
    /// A transaction over several databases is not over this one.
    #[error("{}: the transaction was not begun over this database; name it among the others", .0.display())]
    NotPartOf(PathBuf),
    /// There is no such transaction in doubt.
    #[error("no transaction {0} is undecided here")]
    NotInDoubt(uuid::Uuid),
    /// A transaction over several databases happened, and one of them could not take it in yet.
    #[error("{}: the transaction is committed and will be taken in with the next write, or when the file is opened next; now: {error}", .path.display())]
    Unfinished {
        /// The file that is behind.
        path: PathBuf,
        /// Why.
        error: Box<StoreError>,
    },
    /// A relation keeps a record from being deleted.
    #[error("record {id} can't be deleted: {count} records of {} refer to it as {field}", .path.display())]
    Restricted {
        /// The record.
        id: RecordId,
        /// How many refer to it.
        count: usize,
        /// The file that they are in.
        path: PathBuf,
        /// By which field.
        field: String,
    },
    /// A field refers to a record that was deleted.
    #[error("{field} of record {id} refers to {target}, which was deleted from {}", .path.display())]
    Dangling {
        /// The record.
        id: RecordId,
        /// Its field.
        field: String,
        /// What it refers to.
        target: RecordId,
        /// The file that it was deleted from.
        path: PathBuf,
    },
    /// A read was ended: see [`crate::Patience`].
    #[error("the read was ended before it was done")]
    Ended,
    /// A query asks for what can't be answered.
    #[error("the query can't be run: {0}")]
    Query(#[from] QueryProblem),
    /// A Rust value is no record, or a record no value of the Rust type.
    #[error(transparent)]
    Typed(#[from] TypedError),
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

/// What is wrong with a query.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryProblem {
    /// A cursor that was altered, or is none.
    #[error("the cursor is not one that a page gave; start again without it")]
    Cursor,
    /// A cursor of a query in another order.
    #[error("the cursor belongs to a query in another order: keep the order, or start again without it")]
    CursorOrder,
    /// A column of a grouping that is there twice.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// A grouping sorted by what it does not have.
    #[error("a grouping is sorted by what it shows; {0:?} is not among it")]
    NotShown(String),
    /// Grouping by the id.
    #[error("the id is different in every record: there is nothing to group")]
    GroupById,
    /// A measure that does not exist.
    #[error(
        "{0:?} is none of count, count:FIELD, distinct:FIELD, sum:FIELD, avg:FIELD, min:FIELD, max:FIELD"
    )]
    Measure(String),
    /// A search in a database that has no fields for it.
    #[error("the database has no fields to search: name them as `search` in the topology file")]
    NoSearch,
    /// A search for nothing.
    #[error("the search text has no word in it")]
    NoWord,
    /// A search that only says what is not wanted.
    #[error("a search also names a word that is wanted, beside those that are not")]
    OnlyWithout,
    /// A search text that is too long.
    #[error("the search text has {bytes} bytes, and at most {limit} are allowed")]
    SearchTooLong {
        /// Its length, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A search text of too many words.
    #[error("the search text has more than {limit} words and phrases")]
    TooManyTerms {
        /// The limit.
        limit: usize,
    },
    /// A vector without numbers, or with what is no number.
    #[error("a vector to compare with has at least one element, all of them finite numbers")]
    Vector,
}

/// The same error without the keys of files: SQLite quotes the address that a file was opened by, and the key is in it.
fn without_keys(error: rusqlite::Error) -> rusqlite::Error {
    use rusqlite::Error::{SqlInputError, SqliteFailure};
    match error {
        SqliteFailure(code, Some(text)) => SqliteFailure(code, Some(blank_keys(text))),
        SqlInputError { error, msg, sql, offset } => {
            SqlInputError { error, msg: blank_keys(msg), sql: blank_keys(sql), offset }
        }
        other => other,
    }
}

fn blank_keys(mut text: String) -> String {
    const MARK: &str = "key=raw:";
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find(MARK)) {
        from += found + MARK.len();
        let length = text.get(from..).map_or(0, |key| key.bytes().take_while(u8::is_ascii_hexdigit).count());
        text.replace_range(from..from + length, "...");
    }
    text
}

/// An error of SQLite as what it means for `path`.
pub(crate) fn from_sqlite(path: &std::path::Path, error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let path = path.to_owned();
    let error = without_keys(error);
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged(path, error.to_string())
        }
        _ => StoreError::Sqlite(path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_holds_a_key() {
        let blanked = blank_keys("a key=raw:00ffAA' and file:b?key=raw:12&x key=raw:".to_owned());
        assert_eq!(blanked, "a key=raw:...' and file:b?key=raw:...&x key=raw:...");
    }
}
