//! `blazedb trust`: a remote node's new key, accepted on purpose.

use blazedb::{Endpoint, Fingerprint, KnownNodes};
use blazedb_hub::{Node, NodeError};
use clap::Args;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::load::load;
use crate::output::{CliError, Output};

/// Arguments of `trust`.
#[derive(Args, Debug)]
pub struct TrustArgs {
    /// The remote node's address, as in the topology file
    pub url: Endpoint,
    /// The fingerprint of its key, as its owner says it
    pub key: Fingerprint,
}

/// `trust`: from now on the node at an address has this key and no other.
///
/// # Errors
/// What is wrong with the topology file or the file of known nodes.
pub fn run(args: &TrustArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let data = Node::data_dir(&spec, &global.file);
    std::fs::create_dir_all(&data).map_err(|error| CliError::io(data.display(), &error))?;
    let known = KnownNodes::open(&data.join("known_nodes")).map_err(NodeError::from)?;
    let before = known.pin(&args.url, args.key).map_err(NodeError::from)?;
    let (url, key) = (args.url.to_string(), args.key.to_string());
    if output.json() {
        let before = before.map(|before| before.to_string());
        return output.line(json!({ "url": url, "key": key, "before": before }));
    }
    match before {
        Some(before) if before != args.key => output.note(format_args!("{url}: {key} in place of {before}")),
        _ => output.note(format_args!("{url}: {key}")),
    }
    Ok(())
}
