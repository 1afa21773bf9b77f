//! `blazedb apply`: the running node becomes what its changed topology file declares.

use axum::body::Body;
use axum::http::Method;
use clap::Args;
use serde_json::Value as Json;

use crate::args::GlobalArgs;
use crate::client::{Client, socket_path};
use crate::load::{load, topology_text};
use crate::output::{CliError, ErrorCode, Output};

/// Arguments of `apply`.
#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `apply`.
///
/// # Errors
/// What is wrong with the topology file or can't change while the node runs, and what the node can't do.
pub async fn run(args: &ApplyArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let Some(mut client) = Client::running(&spec, &global.file).await? else {
        let at = socket_path(&spec, &global.file);
        let text = format!("{}: no node runs on this data directory", at.display());
        let hint = "`blazedb up` starts one; a changed `node.data` needs a new start as well";
        return Err(CliError::new(ErrorCode::Unreachable, text).with_hint(hint));
    };
    let path = if args.dry_run { "/v1/apply?dry_run=true" } else { "/v1/apply" };
    let text = topology_text(&global.file)?;
    let answer = client.json(Method::POST, path, Body::from(text)).await;
    // The node does not know what the file is called here.
    let shown = global.file.display().to_string();
    let answer = answer.map_err(|error| match error.message.strip_prefix("topology:") {
        Some(rest) => CliError { message: format!("{shown}:{rest}"), ..error },
        None => error,
    })?;
    if output.json() {
        return output.line(&answer);
    }
    let actions: Vec<&Json> = answer["actions"].as_array().into_iter().flatten().collect();
    for action in &actions {
        output.line(line(action))?;
    }
    let (count, done) = (actions.len(), if args.dry_run { "to do" } else { "done" });
    output.note(match count {
        0 => "nothing to do: the node runs what the file declares".to_owned(),
        1 => format!("1 action {done}"),
        _ => format!("{count} actions {done}"),
    });
    Ok(())
}

/// An action in one line, with what it does to records.
fn line(action: &Json) -> String {
    let mut line = action["text"].as_str().unwrap_or_default().to_owned();
    let number = |of: &str, key: &str| action[of][key].as_u64().unwrap_or_default();
    if action["sends"].is_object() {
        let most = if action["sends"]["at_most"] == true { "at most " } else { "" };
        let (records, bytes) = (number("sends", "records"), number("sends", "bytes"));
        line.push_str(&format!("; sends {most}{records} records ({bytes} bytes)"));
        if action["receives"].is_object() {
            line.push_str(&format!(", receives {}", number("receives", "records")));
        }
        line.push_str(&format!(", removes {} here", number("removes", "records")));
        if let Some(reason) = action["unasked"].as_str() {
            line.push_str(&format!(" (the other side was not asked: {reason})"));
        }
    }
    line
}
