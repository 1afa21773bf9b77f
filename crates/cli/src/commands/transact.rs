//! `blazedb transact`: edits of several databases that happen together or not at all.

use std::collections::BTreeSet;
use std::path::PathBuf;

use axum::http::Method;
use blazedb_core::topology::DatabaseName;
use clap::Args;
use serde_json::Value as Json;

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::load::{entry, load};
use crate::output::{CliError, ErrorCode, Output};

/// Arguments of `transact`.
#[derive(Args, Debug)]
pub struct TransactArgs {
    /// Edits, one a line: {"db": "bugs", "op": "insert"|"upsert"|"update"|"delete", "id": "UUID", "set": {..}}; - for stdin
    #[arg(id = "path", value_name = "FILE")]
    pub file: PathBuf,
}

/// `transact`: prints the id of each edited record, a line each.
///
/// # Errors
/// What is wrong with an edit, with its line; nothing of the file has happened then.
pub async fn run(args: &TransactArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let place =
        if args.file.as_os_str() == "-" { "stdin".to_owned() } else { args.file.display().to_string() };
    let text = if args.file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(&args.file)
    };
    let text = text.map_err(|error| CliError::io(&place, &error))?;
    let spec = load(global)?;
    let mut databases = BTreeSet::new();
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let edit: Json = serde_json::from_str(line).unwrap_or_default();
        let name = edit["db"].as_str().and_then(|name| name.parse::<DatabaseName>().ok());
        let name = name.ok_or_else(|| {
            CliError::new(ErrorCode::Usage, format!("{place}, line {}: names no database as `db`", at + 1))
        })?;
        entry(&spec, &name)?;
        databases.insert(name);
        lines.push(at + 1);
    }
    let databases: Vec<DatabaseName> = databases.into_iter().collect();
    let mut client = Client::open_all(&spec, &global.file, &databases).await?;
    let answer = client.ask_indexed(Method::POST, "/v1/transaction", text.into()).await;
    let answer = answer.map_err(|failure| {
        let line = failure.index.and_then(|index| lines.get(index));
        let mut error = failure.error;
        if let Some(line) = line {
            error.message = format!("{place}, line {line}: {}", error.message);
        }
        error
    })?;
    let answer: Json = serde_json::from_str(&answer.text().await?).unwrap_or_default();
    if output.json() {
        return output.line(&answer);
    }
    let ids = answer["ids"].as_array().into_iter().flatten().filter_map(Json::as_str);
    ids.map(str::to_owned).try_for_each(|id| output.line(id))
}
