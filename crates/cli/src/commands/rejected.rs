//! `blazedb rejected`: what an authority refused.

use axum::body::Body;
use axum::http::Method;
use blazedb_core::RecordId;
use blazedb_core::topology::DatabaseName;
use clap::Args;

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::output::{CliError, Output};

/// Arguments of `rejected`.
#[derive(Args, Debug)]
pub struct RejectedArgs {
    /// Database
    pub db: DatabaseName,
    /// Make the refused writes of this record again
    #[arg(long, value_name = "ID", conflicts_with = "forget")]
    pub retry: Option<RecordId>,
    /// Forget the refused writes of this record
    #[arg(long = "drop", value_name = "ID")]
    pub forget: Option<RecordId>,
}

/// `rejected`: one JSON object a line, oldest first; or retries or forgets what was refused of a record.
///
/// # Errors
/// What keeps the database from being read, or the writes from being made again.
pub async fn run(args: &RejectedArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    let list = format!("/v1/databases/{}/rejected", args.db);
    match (args.retry, args.forget) {
        (Some(id), _) => {
            client.json(Method::POST, &format!("{list}/{id}/retry"), Body::empty()).await?;
            output.note(format_args!("{id}: written again"));
            Ok(())
        }
        (None, Some(id)) => {
            client.json(Method::DELETE, &format!("{list}/{id}"), Body::empty()).await?;
            output.note(format_args!("{id}: forgotten"));
            Ok(())
        }
        (None, None) => {
            let reply = client.ask(Method::GET, &list, Body::empty()).await?;
            reply.lines(|line| output.bytes(line)).await
        }
    }
}
