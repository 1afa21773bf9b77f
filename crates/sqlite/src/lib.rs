//! SQLite for BlazeDB: `rusqlite` over an amalgamation that encrypts pages.
//!
//! The C library is [SQLite3 Multiple Ciphers](https://utelle.github.io/SQLite3MultipleCiphers/), built from
//! source by this crate. An application that depends on BlazeDB needs nothing but a C compiler.

pub use rusqlite;

pub mod fts5;

mod linked {
    #![allow(unsafe_code, reason = "the foreign symbols that this crate is tied to C by")]
    use std::ffi::{CStr, c_char};

    unsafe extern "C" {
        fn sqlite3mc_version() -> *const c_char;
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
    }

    /// Has all threads of this process share so many heaps, where there is a way to: each heap keeps free memory of its
    /// own. For the start of a program, before it has a second thread.
    pub fn share_heaps(heaps: u8) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            /// `M_ARENA_MAX` of `malloc.h`.
            const ARENA_MAX: std::ffi::c_int = -8;
            // SAFETY: the function sets a number (mallopt(3)). The allocator only compares the count of its heaps with it.
            unsafe {
                mallopt(ARENA_MAX, heaps.into());
            }
        }
        #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
        let _ = heaps;
    }

    /// Hands memory that the C allocator holds but nobody uses back to the system, where there is a way to.
    pub fn return_free_memory() {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: the function may be called at any time, from any thread (malloc_trim(3)).
        unsafe {
            malloc_trim(0);
        }
    }

    /// Version of the linked library, such as `SQLite3 Multiple Ciphers 2.6.1`.
    ///
    /// The call also makes every linker keep the C object of this crate in front of `libsqlite3-sys`, which
    /// declares its symbols but does not bring them.
    #[must_use]
    pub fn library_version() -> String {
        // SAFETY: the function takes nothing and returns a pointer to a static NUL-terminated string.
        let text = unsafe { CStr::from_ptr(sqlite3mc_version()) };
        text.to_string_lossy().into_owned()
    }
}

pub use linked::{library_version, return_free_memory, share_heaps};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_file_shows_no_plaintext_and_refuses_another_key() {
        let dir = std::env::temp_dir().join(format!("blazedb-sqlite-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("t.db");
        let open = |key: &str| {
            let db = rusqlite::Connection::open(&path).unwrap();
            db.execute_batch(&format!("pragma cipher='aegis'; pragma hexkey='{key}'")).unwrap();
            db
        };
        let key = "00".repeat(32);
        open(&key).execute_batch("create table t(a); insert into t values('MARKER')").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"MARKER"));
        assert!(open(&key).query_row("select a from t", [], |r| r.get::<_, String>(0)).is_ok());
        assert!(open(&"11".repeat(32)).query_row("select a from t", [], |r| r.get::<_, String>(0)).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(library_version().contains("Multiple Ciphers"));
    }
}
