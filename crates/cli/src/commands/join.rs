//! `blazedb join`: records of two databases that belong together.

use std::convert::Infallible;
use std::str::FromStr;

use axum::http::Method;
use blazedb_core::topology::DatabaseName;
use clap::Args;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::commands::node::interrupted;
use crate::commands::query::OrderKey;
use crate::load::{entry, load};
use crate::output::{CliError, Output};

/// Arguments of `join`.
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// Database (left)
    pub db: DatabaseName,
    /// The other database (right)
    pub other: DatabaseName,
    /// The field of the left record that holds what FIELD of the right one holds (its id without =OTHERFIELD)
    #[arg(long, value_name = "FIELD[=OTHERFIELD]")]
    pub on: Fields,
    /// Only pairs that match, such as 'priority > 5 && users.name == "Eva"'; a bare name is a field of the left one
    pub filter: Option<String>,
    /// Also left records that have no right one
    #[arg(long)]
    pub left: bool,
    /// Call the other database by this name, as a join of a database with itself must
    #[arg(long = "as", value_name = "NAME")]
    pub alias: Option<String>,
    /// Only these fields, such as title,users.name
    #[arg(long, value_name = "FIELD,..", value_delimiter = ',')]
    pub select: Vec<String>,
    /// In this order, such as users.name,priority:desc
    #[arg(long, value_name = "FIELD[:desc],..", value_delimiter = ',')]
    pub order_by: Vec<OrderKey>,
    /// At most this many pairs
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Without the first so many
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
    /// Print how the join would be carried out
    #[arg(long)]
    pub explain: bool,
    /// Print the pairs, then what changes among them as it happens
    #[arg(long, conflicts_with_all = ["explain", "limit", "offset", "order_by"])]
    pub watch: bool,
}

/// The two fields that hold the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fields(String, String);

impl FromStr for Fields {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (left, right) = text.split_once('=').unwrap_or((text, "id"));
        Ok(Self(left.to_owned(), right.to_owned()))
    }
}

/// `join`: `{"LEFT":{..},"RIGHT":{..}}` a line, with null where there is no right record.
///
/// # Errors
/// What is wrong with the filter, or keeps the databases from being read.
pub async fn run(args: &JoinArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let mut databases = vec![args.db.clone(), args.other.clone()];
    databases.dedup();
    databases.iter().try_for_each(|db| entry(&spec, db).map(drop))?;
    let mut client = Client::open_all(&spec, &global.file, &databases).await?;
    let order_by: Vec<String> = args.order_by.iter().map(OrderKey::to_string).collect();
    let wanted = json!({
        "left": args.db.to_string(), "right": args.other.to_string(), "as": args.alias,
        "on": [args.on.0, args.on.1], "outer": args.left, "filter": args.filter, "select": args.select,
        "order_by": order_by, "limit": args.limit, "offset": args.offset,
    });
    if args.explain {
        let plan = client.json(Method::POST, "/v1/join/explain", wanted.to_string().into()).await?;
        return output.line(&plan);
    }
    let path = if args.watch { "/v1/join/watch" } else { "/v1/join" };
    let reply = client.ask(Method::POST, path, wanted.to_string().into()).await?;
    if !args.watch {
        return reply.lines(|line| output.bytes(line)).await;
    }
    output.stay_live();
    tokio::select! {
        done = reply.lines(|line| output.bytes(line)) => done,
        stopped = interrupted() => stopped,
    }
}
