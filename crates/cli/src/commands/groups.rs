//! `blazedb aggregate`, `search`, `nearest`, `update-all` and `delete-all`: all records that match, as a whole.

use axum::body::Body;
use axum::http::Method;
use blazedb_core::topology::DatabaseName;
use clap::Args;
use serde_json::{Value as Json, json};

use crate::args::GlobalArgs;
use crate::client::{Client, percent_encoded};
use crate::commands::query::OrderKey;
use crate::commands::record::text_or_stdin;
use crate::output::{CliError, ErrorCode, Output};

/// Arguments of `aggregate`.
#[derive(Args, Debug)]
pub struct AggregateArgs {
    /// Database
    pub db: DatabaseName,
    /// Only records that match
    pub filter: Option<String>,
    /// One group for each of their values; without measures, the values that there are
    #[arg(long, value_name = "FIELD,..", value_delimiter = ',')]
    pub group_by: Vec<String>,
    /// What to work out: count, count:FIELD, distinct:FIELD, sum:FIELD, avg:FIELD, min:FIELD, max:FIELD
    #[arg(short, long, value_name = "MEASURE,..", value_delimiter = ',')]
    pub measure: Vec<String>,
    /// Only groups whose row matches, such as 'count > 5 && avg_priority < 3'
    #[arg(long, value_name = "FILTER")]
    pub having: Option<String>,
    /// In this order, such as count:desc,status
    #[arg(long, value_name = "COLUMN[:desc],..", value_delimiter = ',')]
    pub order_by: Vec<OrderKey>,
    /// At most this many groups
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Without the first so many
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
    /// Ask the database on the hub, for what it shows this user
    #[arg(long)]
    pub remote: bool,
}

/// Arguments of `nearest`.
#[derive(Args, Debug)]
pub struct NearestArgs {
    /// Database
    pub db: DatabaseName,
    /// Field that holds vectors
    pub field: String,
    /// What to be near to: [0.1, -0.2, ..]
    pub vector: String,
    /// Only records that match
    pub filter: Option<String>,
    /// How near: cosine, dot (the highest is the nearest) or l2 (the lowest)
    #[arg(long, default_value = "cosine")]
    pub metric: String,
    /// At most this many records
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub limit: u64,
}

/// Arguments of `search`.
#[derive(Args, Debug)]
pub struct SearchArgs {
    /// Database
    pub db: DatabaseName,
    /// Words, "phrases", beginnings (start*), -without, OR
    #[arg(allow_hyphen_values = true)]
    pub text: String,
    /// Only records that match
    pub filter: Option<String>,
    /// At most this many records
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: u64,
    /// Without the first so many
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
    /// Ask the database on the hub, for what it shows this user
    #[arg(long)]
    pub remote: bool,
}

/// Arguments of `update-all`.
#[derive(Args, Debug)]
pub struct UpdateAllArgs {
    /// Database
    pub db: DatabaseName,
    /// The records to change; 'true' for all
    pub filter: String,
    /// The fields to write: {"field": value, ..}
    #[arg(id = "edits", value_name = "JSON", required_unless_present = "unset")]
    pub json: Option<String>,
    /// Remove a field (may be repeated)
    #[arg(long, value_name = "FIELD")]
    pub unset: Vec<String>,
}

/// Arguments of `delete-all`.
#[derive(Args, Debug)]
pub struct DeleteAllArgs {
    /// Database
    pub db: DatabaseName,
    /// The records to delete; 'true' for all
    pub filter: String,
}

/// `aggregate`: one JSON object a line, a group each.
///
/// # Errors
/// What is wrong with the filters and measures, or keeps the database from being read.
pub async fn aggregate(
    args: &AggregateArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let order_by: Vec<String> = args.order_by.iter().map(OrderKey::to_string).collect();
    let wanted = json!({
        "filter": args.filter, "group_by": args.group_by, "measures": args.measure, "having": args.having,
        "order_by": order_by, "limit": args.limit, "offset": args.offset, "remote": args.remote,
    });
    lines(&args.db, "aggregate", &wanted, global, output).await
}

/// `nearest`: `{"record":{..},"score":S}` a line, the nearest first.
///
/// # Errors
/// What is wrong with the vector and the filter, or keeps the database from being read.
pub async fn nearest(args: &NearestArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let vector = serde_json::from_str::<Vec<f32>>(&args.vector).map_err(|error| {
        CliError::new(ErrorCode::Usage, format!("the vector is no list of numbers: {error}"))
            .with_hint("a vector looks like [0.1, -0.2]")
    })?;
    let wanted = json!({
        "field": args.field, "vector": vector, "metric": args.metric, "filter": args.filter, "limit": args.limit,
    });
    lines(&args.db, "nearest", &wanted, global, output).await
}

/// `search`: `{"record":{..},"score":S,"snippet":".."}` a line, the best first.
///
/// # Errors
/// What is wrong with the text and the filter, or keeps the database from being read.
pub async fn search(args: &SearchArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let wanted = json!({
        "text": args.text, "filter": args.filter, "limit": args.limit, "offset": args.offset,
        "remote": args.remote,
    });
    lines(&args.db, "search", &wanted, global, output).await
}

async fn lines(
    db: &DatabaseName,
    what: &str,
    wanted: &Json,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut client = Client::open(global, db).await?;
    let path = format!("/v1/databases/{db}/{what}");
    let reply = client.ask(Method::POST, &path, wanted.to_string().into()).await?;
    reply.lines(|line| output.bytes(line)).await
}

/// `update-all`: prints how many records were changed.
///
/// # Errors
/// What is wrong with the filter and the edits, or keeps the database from being written.
pub async fn update_all(
    args: &UpdateAllArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let body = args.json.as_deref().map(text_or_stdin).transpose()?.unwrap_or_default();
    let unset: String = args.unset.iter().map(|field| format!("&unset={}", percent_encoded(field))).collect();
    let query = format!("filter={}{unset}", percent_encoded(&args.filter));
    change(&args.db, Method::PATCH, &query, body.into(), "changed", global, output).await
}

/// `delete-all`: prints how many records were deleted.
///
/// # Errors
/// What is wrong with the filter, or keeps the database from being written.
pub async fn delete_all(
    args: &DeleteAllArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let query = format!("filter={}", percent_encoded(&args.filter));
    change(&args.db, Method::DELETE, &query, Body::empty(), "deleted", global, output).await
}

async fn change(
    db: &DatabaseName,
    method: Method,
    query: &str,
    body: Body,
    done: &str,
    global: &GlobalArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut client = Client::open(global, db).await?;
    let answer = client.json(method, &format!("/v1/databases/{db}/records?{query}"), body).await?;
    if output.json() { output.line(&answer) } else { output.line(&answer[done]) }
}
