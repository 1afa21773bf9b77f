//! `blazedb query` and `watch`: the records that match a filter.

use std::convert::Infallible;
use std::str::FromStr;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Method;
use blazedb_core::topology::DatabaseName;
use blazedb_hub::OpenMode;
use blazedb_hub::api::{LocalServer, Reach, router};
use clap::Args;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::client::{Client, percent_encoded, socket_path};
use crate::commands::node::interrupted;
use crate::load::{entry, load};
use crate::output::{CliError, Output};

/// Arguments of `query`.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// Database
    pub db: DatabaseName,
    /// Only records that match, such as 'status == "open" && priority > 5'
    pub filter: Option<String>,
    /// Only these fields
    #[arg(long, value_name = "FIELD,..", value_delimiter = ',')]
    pub select: Vec<String>,
    /// In this order, such as priority:desc,title
    #[arg(long, value_name = "FIELD[:desc],..", value_delimiter = ',')]
    pub order_by: Vec<OrderKey>,
    /// At most this many records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Without the first so many
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
    /// Print only how many match
    #[arg(long, conflicts_with_all = ["select", "order_by"])]
    pub count: bool,
    /// Print one page (its size is the limit, 100 by default) and, as the last line, {"next": CURSOR}
    #[arg(long, conflicts_with_all = ["count", "offset"])]
    pub page: bool,
    /// The page behind this cursor
    #[arg(long, value_name = "CURSOR", requires = "page")]
    pub after: Option<String>,
    /// Print how the query would be carried out: the indexes that it uses, or that it scans
    #[arg(long, conflicts_with_all = ["count", "page"])]
    pub explain: bool,
    /// Ask the database on the hub, for what it shows this user
    #[arg(long, conflicts_with_all = ["page", "explain"])]
    pub remote: bool,
}

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Database
    pub db: DatabaseName,
    /// Only records that match
    pub filter: Option<String>,
}

/// A field to sort by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OrderKey {
    /// The field.
    pub field: String,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl std::fmt::Display for OrderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.field, if self.descending { "desc" } else { "asc" })
    }
}

impl FromStr for OrderKey {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (field, descending) = match text.rsplit_once(':') {
            Some((field, "desc")) => (field, true),
            Some((field, "asc")) => (field, false),
            _ => (text, false),
        };
        Ok(Self { field: field.to_owned(), descending })
    }
}

/// `query`.
///
/// # Errors
/// What is wrong with the filter, or keeps the database from being read.
pub async fn query(args: &QueryArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    let key = OrderKey::to_string;
    let mut wanted = json!({
        "filter": args.filter, "select": args.select, "order_by": args.order_by.iter().map(key).collect::<Vec<_>>(),
        "limit": args.limit, "offset": args.offset, "count": args.count, "remote": args.remote,
    });
    if let (Some(after), Some(wanted)) = (&args.after, wanted.as_object_mut()) {
        wanted.insert("after".to_owned(), after.as_str().into());
    }
    let what = if args.page { "page" } else { "query" };
    let path = format!("/v1/databases/{}/{what}", args.db);
    if args.explain {
        let path = format!("/v1/databases/{}/explain", args.db);
        let plan = client.json(Method::POST, &path, wanted.to_string().into()).await?;
        return output.line(&plan);
    }
    if args.count {
        let counted = client.json(Method::POST, &path, wanted.to_string().into()).await?;
        return output.line(&counted["count"]);
    }
    let reply = client.ask(Method::POST, &path, wanted.to_string().into()).await?;
    reply.lines(|line| output.bytes(line)).await
}

/// `watch`. A process that watches files that no node has open lets other commands reach them through it.
///
/// # Errors
/// What is wrong with the filter, or keeps the database from being read.
pub async fn watch(args: &WatchArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    entry(&spec, &args.db)?;
    let mut client = Client::open_all(&spec, &global.file, std::slice::from_ref(&args.db)).await?;
    let _server = match client.own_node() {
        Some(node) => {
            let local = router(Arc::clone(node), OpenMode::FilesOnly, Reach::Local);
            // Somebody else may serve other databases of this node: these are then reached by nobody else.
            LocalServer::start(socket_path(&spec, &global.file), local).await.ok()
        }
        None => None,
    };
    output.stay_live();
    let filter = args.filter.as_deref().map(|filter| format!("?filter={}", percent_encoded(filter)));
    let path = format!("/v1/databases/{}/watch{}", args.db, filter.unwrap_or_default());
    let reply = client.ask(Method::GET, &path, Body::empty()).await?;
    tokio::select! {
        done = reply.lines(|line| output.bytes(line)) => done,
        stopped = interrupted() => stopped,
    }
}

#[cfg(test)]
mod tests {
    use crate::args::{Cli, Command, ManyCommand};
    use clap::Parser as _;

    #[test]
    fn lists_are_separated_by_commas() {
        let line = ["blazedb", "query", "bugs", "--select", "a,b", "--order-by", "p:desc,a:b,t:asc"];
        let command = Cli::try_parse_from(line).unwrap().command;
        let Command::Many(ManyCommand::Query(args)) = command else { panic!("not a query") };
        assert_eq!(args.select, ["a", "b"]);
        let keys: Vec<_> = args.order_by.iter().map(|key| (key.field.as_str(), key.descending)).collect();
        assert_eq!(keys, [("p", true), ("a:b", false), ("t", false)]);
    }
}
