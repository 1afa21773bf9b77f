//! Compiles the SQLite3 Multiple Ciphers amalgamation, the SQLite that `rusqlite` is linked with.
//!
//! `libsqlite3-sys` is told (feature `in_gecko`) that somebody else links SQLite: this script does. Why
//! this way: `docs/decisions/0001-page-cipher.md`.

fn main() {
    let dir = sqlite3mc_src::source_dir();
    let mut build = cc::Build::new();
    build.file(dir.join(sqlite3mc_src::SOURCE_FILE)).include(dir).warnings(false).opt_level(2);
    for (name, value) in [
        ("SQLITE_CORE", "1"),
        // One connection is never used by two threads at once: every connection sits in a mutex or a pool.
        ("SQLITE_THREADSAFE", "2"),
        ("SQLITE_TEMP_STORE", "2"),
        ("SQLITE_DQS", "0"),
        ("SQLITE_DEFAULT_MEMSTATUS", "0"),
        // A third of the usual pool of small memory: a node has many connections, and most are idle.
        ("SQLITE_DEFAULT_LOOKASIDE", "1200,13"),
        ("SQLITE_LIKE_DOESNT_MATCH_BLOBS", "1"),
        ("SQLITE_MAX_EXPR_DEPTH", "1000"),
        ("SQLITE_OMIT_DEPRECATED", "1"),
        ("SQLITE_OMIT_LOAD_EXTENSION", "1"),
        ("SQLITE_ENABLE_API_ARMOR", "1"),
        ("SQLITE_ENABLE_COLUMN_METADATA", "1"),
        ("SQLITE_ENABLE_FTS5", "1"),
        ("SQLITE_ENABLE_STAT4", "1"),
        ("HAVE_USLEEP", "1"),
    ] {
        build.define(name, value);
    }
    build.compile("sqlite3mc");
}
