//! What a full-text hit's rank is worked out from, row by row.
//!
//! FTS5's own ranking counts words over the whole index. Whoever may see only some of its rows must not learn from a
//! rank what the others hold: so the counts of one row are made available, and the caller adds up those of the rows
//! that count.
#![allow(unsafe_code, reason = "auxiliary functions of FTS5 exist in C only")]

use std::ffi::{c_int, c_void};
use std::ptr;

use rusqlite::{Connection, Error, Result, ffi};

/// Adds the function `bz_hits(TABLE)` to a connection: a blob of little-endian `u32`s, first how many words the row has,
/// then for each phrase of the query how often it is in the row.
///
/// # Errors
/// If FTS5 is not there, or refuses.
pub fn register_hits(db: &Connection) -> Result<()> {
    // SAFETY: the handle is that of an open connection, which outlives both calls; the name is NUL-terminated and is
    // copied; the function has no user data and no destructor.
    let code = unsafe {
        let api = api(db.handle())?;
        match api.as_ref().and_then(|api| api.xCreateFunction) {
            Some(create) => create(api, c"bz_hits".as_ptr(), ptr::null_mut(), Some(hits), None),
            None => ffi::SQLITE_ERROR,
        }
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failure(code)) }
}

/// FTS5's interface, as `SELECT fts5(?)` gives it.
///
/// # Safety
/// `db` must be the handle of an open connection.
unsafe fn api(db: *mut ffi::sqlite3) -> Result<*mut ffi::fts5_api> {
    let mut statement = ptr::null_mut();
    let mut api: *mut ffi::fts5_api = ptr::null_mut();
    // SAFETY: the text and the pointer's type are NUL-terminated and static; `api` lives until the statement, which
    // alone writes to it, is finalized.
    unsafe {
        let prepared =
            ffi::sqlite3_prepare_v2(db, c"SELECT fts5(?1)".as_ptr(), -1, &raw mut statement, ptr::null_mut());
        if prepared != ffi::SQLITE_OK {
            return Err(failure(prepared));
        }
        let place: *mut c_void = (&raw mut api).cast();
        ffi::sqlite3_bind_pointer(statement, 1, place, c"fts5_api_ptr".as_ptr(), None);
        ffi::sqlite3_step(statement);
        let ended = ffi::sqlite3_finalize(statement);
        if ended == ffi::SQLITE_OK { Ok(api) } else { Err(failure(ended)) }
    }
}

fn failure(code: c_int) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), None)
}

/// # Safety
/// Called by FTS5, with what its documentation promises.
unsafe extern "C" fn hits(
    api: *const ffi::Fts5ExtensionApi,
    fts: *mut ffi::Fts5Context,
    ctx: *mut ffi::sqlite3_context,
    _: c_int,
    _: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: all pointers are FTS5's own and valid during this call; the blob is copied by SQLite.
    unsafe {
        match api.as_ref().and_then(|api| counts(api, fts)) {
            Some(counts) => {
                let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
                let len = c_int::try_from(bytes.len()).unwrap_or(0);
                ffi::sqlite3_result_blob(ctx, bytes.as_ptr().cast(), len, ffi::SQLITE_TRANSIENT());
            }
            None => ffi::sqlite3_result_error_code(ctx, ffi::SQLITE_ERROR),
        }
    }
}

/// The row's words, and how often each phrase is in it.
///
/// # Safety
/// `fts` must be the context that FTS5 called with.
unsafe fn counts(api: &ffi::Fts5ExtensionApi, fts: *mut ffi::Fts5Context) -> Option<Vec<u32>> {
    let (mut words, mut instances): (c_int, c_int) = (0, 0);
    // SAFETY: the functions are FTS5's, called with its own context and places for what they answer.
    unsafe {
        let phrases = usize::try_from((api.xPhraseCount?)(fts)).ok()?;
        let mut counts = vec![0u32; 1 + phrases];
        if (api.xColumnSize?)(fts, -1, &raw mut words) != ffi::SQLITE_OK
            || (api.xInstCount?)(fts, &raw mut instances) != ffi::SQLITE_OK
        {
            return None;
        }
        *counts.first_mut()? = u32::try_from(words).ok()?;
        let instance = api.xInst?;
        for at in 0..instances {
            let (mut phrase, mut column, mut offset): (c_int, c_int, c_int) = (0, 0, 0);
            if instance(fts, at, &raw mut phrase, &raw mut column, &raw mut offset) != ffi::SQLITE_OK {
                return None;
            }
            let count = counts.get_mut(1 + usize::try_from(phrase).ok()?)?;
            *count = count.saturating_add(1);
        }
        Some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_its_words_and_how_often_it_has_each_phrase() {
        assert!(!crate::library_version().is_empty());
        let db = Connection::open_in_memory().unwrap();
        register_hits(&db).unwrap();
        db.execute_batch(
            "CREATE VIRTUAL TABLE t USING fts5(a, b);
             INSERT INTO t VALUES('crash on start, crash again', 'crash'), ('no', 'start');",
        )
        .unwrap();
        let mut read = db.prepare("SELECT bz_hits(t) FROM t WHERE t MATCH ? ORDER BY rowid").unwrap();
        let mut hits = |text: &str| -> Vec<Vec<u32>> {
            let blobs = read.query_map([text], |row| row.get::<_, Vec<u8>>(0)).unwrap();
            let counts = |blob: Vec<u8>| {
                blob.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
            };
            blobs.map(|blob| counts(blob.unwrap())).collect()
        };
        assert_eq!(hits("crash"), [[6, 3]]);
        assert_eq!(hits("\"on start\" OR start"), [[6, 1, 1].to_vec(), [2, 0, 1].to_vec()]);
        assert!(hits("nothing").is_empty());
    }
}
