//! `blazedb verify`, `backup`, `restore` and `passwd`: care of a database's file.
//!
//! Invariant: no password is an argument; other users of the machine can see those.

use std::path::PathBuf;

use blazedb_core::topology::DatabaseName;
use clap::Args;

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Database
    pub db: DatabaseName,
}

/// Arguments of `backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Database
    pub db: DatabaseName,
    /// File to write; it must not exist
    pub file: PathBuf,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Backup
    pub file: PathBuf,
    /// Database to make of it; its file must not exist
    pub db: DatabaseName,
}

/// Arguments of `passwd`.
#[derive(Args, Debug)]
pub struct PasswdArgs {
    /// Database
    pub db: DatabaseName,
    /// Environment variable with the new password; without it and --new-password-file, it is asked for
    #[arg(long, value_name = "NAME")]
    pub new_password_env: Option<String>,
    /// File with the new password
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_env")]
    pub new_password_file: Option<PathBuf>,
}
