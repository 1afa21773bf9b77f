//! `blazedb conflicts`: what lost a conflict.

use axum::body::Body;
use axum::http::Method;
use blazedb_core::topology::DatabaseName;
use clap::Args;

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::output::{CliError, Output};

/// Arguments of `conflicts`.
#[derive(Args, Debug)]
pub struct ConflictsArgs {
    /// Database
    pub db: DatabaseName,
}

/// `conflicts`: one JSON object a line, newest first.
///
/// # Errors
/// What keeps the database from being read.
pub async fn run(args: &ConflictsArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    let path = format!("/v1/databases/{}/conflicts", args.db);
    let reply = client.ask(Method::GET, &path, Body::empty()).await?;
    reply.lines(|line| output.bytes(line)).await
}
