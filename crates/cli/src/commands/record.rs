//! `blazedb insert`, `get`, `update` and `delete`: one record.

use axum::body::Body;
use axum::http::Method;
use blazedb_core::RecordId;
use blazedb_core::topology::DatabaseName;
use clap::Args;

use crate::args::GlobalArgs;
use crate::client::{Client, percent_encoded};
use crate::output::{CliError, ErrorCode, Output};

/// Arguments of `insert`.
#[derive(Args, Debug)]
pub struct InsertArgs {
    /// Database
    pub db: DatabaseName,
    /// The record: {"field": value, ..}, with "id" if you choose it; - for stdin
    #[arg(id = "record", value_name = "JSON")]
    pub json: String,
    /// Write the given fields if there is a record with this id
    #[arg(long)]
    pub upsert: bool,
}

/// Arguments of `get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// Database
    pub db: DatabaseName,
    /// Record
    pub id: RecordId,
}

/// Arguments of `update`.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// Database
    pub db: DatabaseName,
    /// Record
    pub id: RecordId,
    /// The fields to write: {"field": value, ..}; null is a value
    #[arg(id = "edits", value_name = "JSON", required_unless_present = "unset")]
    pub json: Option<String>,
    /// Remove a field (may be repeated)
    #[arg(long, value_name = "FIELD")]
    pub unset: Vec<String>,
}

/// Arguments of `delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Database
    pub db: DatabaseName,
    /// Record
    pub id: RecordId,
}

/// `insert`.
///
/// # Errors
/// The record's fault, or the database's.
pub async fn insert(args: &InsertArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let body = text_or_stdin(&args.json)?;
    let mut client = Client::open(global, &args.db).await?;
    let mut address = (Method::POST, format!("/v1/databases/{}/records", args.db));
    if args.upsert {
        let id = serde_json::from_str::<serde_json::Value>(&body).ok();
        let id = id.as_ref().and_then(|record| record["id"].as_str()?.parse().ok());
        let id = id.ok_or_else(|| {
            CliError::new(ErrorCode::Usage, "--upsert needs a record with an id")
                .with_hint("give it as {\"id\": \"UUID\", ..}")
        })?;
        address = (Method::PUT, path(&args.db, id));
    }
    let inserted = client.json(address.0, &address.1, body.into()).await?;
    if output.json() {
        output.line(inserted)
    } else {
        output.line(inserted["id"].as_str().unwrap_or_default())
    }
}

/// `get`.
///
/// # Errors
/// [`ErrorCode::NotFound`] if there is no such record.
pub async fn get(args: &GetArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    let reply = client.ask(Method::GET, &path(&args.db, args.id), Body::empty()).await?;
    output.line(reply.text().await?)
}

/// `update`.
///
/// # Errors
/// [`ErrorCode::NotFound`] if there is no such record, and what is wrong with the edits.
pub async fn update(args: &UpdateArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let body = args.json.as_deref().map(text_or_stdin).transpose()?.unwrap_or_default();
    let mut client = Client::open(global, &args.db).await?;
    let unset: Vec<String> =
        args.unset.iter().map(|field| format!("unset={}", percent_encoded(field))).collect();
    let path = format!("{}?{}", path(&args.db, args.id), unset.join("&"));
    let reply = client.ask(Method::PATCH, &path, body.into()).await?;
    if output.json() { output.line(reply.text().await?) } else { Ok(()) }
}

/// `delete`.
///
/// # Errors
/// [`ErrorCode::NotFound`] if there is no such record.
pub async fn delete(args: &DeleteArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    client.ask(Method::DELETE, &path(&args.db, args.id), Body::empty()).await?;
    if output.json() { output.line(serde_json::json!({ "id": args.id.to_string() })) } else { Ok(()) }
}

fn path(db: &DatabaseName, id: RecordId) -> String {
    format!("/v1/databases/{db}/records/{id}")
}

pub(crate) fn text_or_stdin(text: &str) -> Result<String, CliError> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    std::io::read_to_string(std::io::stdin()).map_err(|error| CliError::io("stdin", &error))
}
