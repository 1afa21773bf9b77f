//! `blazedb verify`, `backup`, `restore` and `passwd`: care of a database's file.
//!
//! Invariant: no password is an argument; other users of the machine can see those.

use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::Method;
use blazedb::Password;
use blazedb_core::topology::DatabaseName;
use blazedb_hub::{Node, OpenMode, database_password};
use clap::Args;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::load::{entry, load};
use crate::output::{CliError, ErrorCode, Output};

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
    #[arg(id = "path", value_name = "FILE")]
    pub file: PathBuf,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Backup
    #[arg(id = "path", value_name = "FILE")]
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

/// `verify`.
///
/// # Errors
/// [`ErrorCode::Damaged`] if anything does not hold.
pub async fn verify(args: &VerifyArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    let path = format!("/v1/databases/{}/verify", args.db);
    let verified = client.json(Method::POST, &path, Body::empty()).await?;
    let problems: Vec<&str> = verified["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|problem| problem.as_str())
        .collect();
    if output.json() {
        output.line(&verified)?;
    } else {
        problems.iter().try_for_each(|problem| output.line(problem))?;
    }
    output.flush()?;
    if problems.is_empty() {
        let (rows, kept, dropped) =
            (&verified["rows"], &verified["tombstones"], &verified["tombstones_dropped"]);
        output.note(format_args!(
            "{}: {rows} rows, {kept} of them tombstones ({dropped} more dropped), no problem",
            args.db
        ));
        return Ok(());
    }
    Err(CliError::new(ErrorCode::Damaged, format!("database {}: {} problems", args.db, problems.len()))
        .with_hint("restore it from a backup"))
}

/// `backup`.
///
/// # Errors
/// [`ErrorCode::Conflict`] if the file exists.
pub async fn backup(args: &BackupArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let path = std::path::absolute(&args.file).map_err(|error| CliError::io(args.file.display(), &error))?;
    let text =
        path.to_str().ok_or_else(|| CliError::new(ErrorCode::Usage, "the file's path is not UTF-8"))?;
    let mut client = Client::open(global, &args.db).await?;
    let body = json!({ "path": text }).to_string();
    client.ask(Method::POST, &format!("/v1/databases/{}/backup", args.db), body.into()).await?;
    done(output, "file", &path)
}

/// `restore`.
///
/// # Errors
/// [`ErrorCode::Conflict`] if the database exists, [`ErrorCode::NotFound`] if the backup does not.
pub fn restore(args: &RestoreArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let declared = entry(&spec, &args.db)?;
    let base = global.file.parent().unwrap_or(Path::new("."));
    let password = database_password(args.db.as_str(), &declared.password, base)?;
    let target = Node::data_dir(&spec, &global.file).join(&declared.file);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(|error| CliError::io(parent.display(), &error))?;
    }
    blazedb::restore(&args.file, &target, &password)?;
    done(output, "file", &target)
}

fn done(output: &mut Output, what: &str, path: &Path) -> Result<(), CliError> {
    if output.json() {
        return output.line(json!({ what: path.display().to_string() }));
    }
    output.note(format_args!("wrote {}", path.display()));
    Ok(())
}

/// `passwd`.
///
/// # Errors
/// [`ErrorCode::Locked`] while a node has the database open, [`ErrorCode::WrongPassword`] if the old one is wrong.
pub async fn passwd(args: &PasswdArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    entry(&spec, &args.db)?;
    let path = Node::data_dir(&spec, &global.file).join(&entry(&spec, &args.db)?.file);
    if !path.exists() {
        return Err(CliError::new(ErrorCode::NotFound, format!("{}: no such database", path.display())));
    }
    let name = args.db.to_string();
    let node = Node::open(spec, &global.file, OpenMode::FilesOnly, Some(std::slice::from_ref(&name))).await?;
    let store = node.database(&name).map(|database| database.store().clone());
    let store = store.ok_or_else(|| CliError::new(ErrorCode::Failed, "the database is not open"))?;
    let password = new_password(args)?;
    // Nobody else may use the file while it changes.
    drop(node);
    store.change_password(&password)?;
    output.note(format_args!(
        "{name}: the password is changed; change it where the topology file points to as well"
    ));
    Ok(())
}

fn new_password(args: &PasswdArgs) -> Result<Password, CliError> {
    let secret = match (&args.new_password_env, &args.new_password_file) {
        (Some(variable), _) => std::env::var(variable).map_err(|_| {
            CliError::new(ErrorCode::Usage, format!("environment variable {variable} is not set"))
        })?,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).map_err(|error| CliError::io(file.display(), &error))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, None) => asked()?,
    };
    if secret.is_empty() {
        return Err(CliError::new(ErrorCode::Usage, "the new password is empty"));
    }
    Ok(Password::Secret(secret))
}

fn asked() -> Result<String, CliError> {
    let terminal = console::Term::stderr();
    if !terminal.is_term() {
        return Err(CliError::new(ErrorCode::Usage, "no terminal to ask for the new password on")
            .with_hint("give --new-password-env or --new-password-file"));
    }
    let ask = |prompt: &str| {
        terminal.write_str(prompt)?;
        terminal.read_secure_line()
    };
    let read = || Ok((ask("New password: ")?, ask("Again: ")?));
    let (first, second) = read().map_err(|error| CliError::io("terminal", &error))?;
    if first == second { Ok(first) } else { Err(CliError::new(ErrorCode::Usage, "the two passwords differ")) }
}
