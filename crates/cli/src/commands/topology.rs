//! `blazedb topology` and `blazedb explain`: the graph, and why a record is where it is.

use axum::body::Body;
use axum::http::Method;
use blazedb::snapshot::Snapshot;
use blazedb_core::RecordId;
use blazedb_core::topology::DatabaseName;
use blazedb_hub::declared_snapshot;
use clap::{Args, ValueEnum};
use serde_json::Value as Json;

use crate::args::GlobalArgs;
use crate::client::{Client, percent_encoded};
use crate::load::load;
use crate::output::{CliError, ErrorCode, Output};
use crate::render::{columns, dot, mermaid, text};

/// How the graph is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Tables
    Text,
    /// The snapshot
    Json,
    /// For Mermaid
    Mermaid,
    /// For Graphviz
    Dot,
}

/// Arguments of `topology`.
#[derive(Args, Debug)]
pub struct TopologyArgs {
    /// How it is printed [default: text, with --json: json]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
}

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Database
    pub db: DatabaseName,
    /// Record
    pub id: RecordId,
    /// Only links to this node: its id, name or address
    #[arg(long, value_name = "NODE")]
    pub peer: Option<String>,
}

/// `topology`: of the running node; of a node that does not run, what its topology file declares.
///
/// # Errors
/// What is wrong with the topology file.
pub async fn topology(args: &TopologyArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let snapshot = match Client::running(&spec, &global.file).await? {
        Some(mut client) => snapshot(client.json(Method::GET, "/v1/topology", Body::empty()).await?)?,
        None => declared_snapshot(&spec),
    };
    let format = args.format.unwrap_or(if output.json() { Format::Json } else { Format::Text });
    match format {
        Format::Json => {
            let json = serde_json::to_value(&snapshot);
            output.line(json.map_err(|error| CliError::new(ErrorCode::Failed, error.to_string()))?)
        }
        Format::Mermaid => output.line(mermaid(&snapshot).trim_end()),
        Format::Dot => output.line(dot(&snapshot).trim_end()),
        Format::Text => text(&snapshot).iter().try_for_each(|line| output.line(line)),
    }
}

/// A snapshot as a node sends it.
pub(crate) fn snapshot(json: Json) -> Result<Snapshot, CliError> {
    serde_json::from_value(json).map_err(|error| {
        CliError::new(ErrorCode::Failed, format!("the running node's snapshot can't be read: {error}"))
            .with_hint("is it of another version? restart it")
    })
}

/// `explain`.
///
/// # Errors
/// [`ErrorCode::NotFound`] if there is no link to the named node, and what keeps the database from being read.
pub async fn explain(args: &ExplainArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    let peer = args.peer.as_deref().map(|peer| format!("?peer={}", percent_encoded(peer)));
    let path = format!("/v1/databases/{}/records/{}/explain{}", args.db, args.id, peer.unwrap_or_default());
    let told = client.json(Method::GET, &path, Body::empty()).await?;
    if output.json() {
        return output.line(told);
    }
    let of = |json: &Json, key: &str| json[key].as_str().unwrap_or("-").to_owned();
    output.line(format_args!("{} {}: {} on {}", args.db, args.id, of(&told, "here"), of(&told, "node")))?;
    output.line(format_args!("  {}", of(&told, "why")))?;
    let conflicts = told["conflicts"].as_array().map_or(0, Vec::len);
    if conflicts > 0 {
        output.line(format_args!(
            "  {conflicts} writes to it lost a conflict: see `blazedb conflicts {}`",
            args.db
        ))?;
    }
    for refused in told["rejected"].as_array().into_iter().flatten() {
        let (op, reason) = (of(refused, "op"), of(refused, "reason"));
        output.line(format_args!("  refused {op}: {reason}; see `blazedb rejected {}`", args.db))?;
    }
    let row = |link: &Json| {
        let peer = [of(link, "peer_name"), of(link, "address")].into_iter().find(|name| !name.is_empty());
        vec![
            peer.unwrap_or_default(),
            of(link, "mode"),
            of(link, "state"),
            of(link, "verdict"),
            of(link, "why"),
        ]
    };
    let rows: Vec<Vec<String>> = told["links"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return output.line("  no link: it is on this node alone");
    }
    output.line("")?;
    columns(&["peer", "mode", "state", "there", "why"], &rows).iter().try_for_each(|line| output.line(line))
}
