//! The SQLite engine.

pub mod sql_filter;
