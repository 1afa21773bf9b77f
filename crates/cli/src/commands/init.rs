//! `blazedb init`: a commented topology file, and the node's identity.
//!
//! Invariant: a file that is there is never overwritten, and a failed `init` leaves no file behind.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use blazedb::{Fingerprint, Identity};
use blazedb_core::topology::{Endpoint, ParseContext, PasswordRule, TopologySpec, parse, template};
use blazedb_hub::{Node, NodeError};
use clap::Args;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::output::{CliError, ErrorCode, Output};

/// Arguments of `init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// A node that others connect to
    #[arg(long, conflicts_with = "device")]
    pub hub: bool,
    /// A node that syncs with a hub
    #[arg(long, requires = "hub_url")]
    pub device: bool,
    /// Where the hub listens
    #[arg(long, value_name = "URL", requires = "device")]
    pub hub_url: Option<Endpoint>,
    /// The node's name
    #[arg(long)]
    pub name: Option<String>,
}

/// Writes the topology file and the node's keys.
///
/// # Errors
/// [`ErrorCode::Conflict`] if the file exists, [`ErrorCode::Usage`] for a name that no file can hold,
/// [`ErrorCode::Io`] if it or the keys can't be written.
pub fn run(args: &InitArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let text = template_text(args);
    let spec = read_back(&text)?;
    write_new(&global.file, &text)?;
    let data = Node::data_dir(&spec, &global.file);
    let fingerprint = create_identity(&data).inspect_err(|_| {
        // The first error is the one to report; the file that stays is named by the next `init`.
        let _ = std::fs::remove_file(&global.file);
    })?;
    let (file, node) = (global.file.display(), &spec.node.name);
    if output.json() {
        let fingerprint = fingerprint.to_string();
        return output.line(json!({ "file": file.to_string(), "node": node, "fingerprint": fingerprint }));
    }
    output.note(format_args!("node {node}, fingerprint {fingerprint}"));
    output.note(format_args!(
        "wrote {file}: set the password in the environment (export BLAZEDB_PASSWORD=...), then `blazedb up`"
    ));
    Ok(())
}

fn create_identity(data: &Path) -> Result<Fingerprint, CliError> {
    std::fs::create_dir_all(data).map_err(|error| CliError::io(data.display(), &error))?;
    let identity = Identity::load_or_create(&data.join("identity.key")).map_err(NodeError::from)?;
    Ok(identity.fingerprint())
}

fn template_text(args: &InitArgs) -> String {
    let name = |default| args.name.as_deref().unwrap_or(default);
    match &args.hub_url {
        _ if args.hub => template::hub(name("hub")),
        Some(url) => template::device(name("device"), url),
        None => template::local(name("node")),
    }
}

/// A template is valid for every name but an empty one or one with control characters.
fn read_back(text: &str) -> Result<TopologySpec, CliError> {
    let context =
        ParseContext { env: &|_| None, check_filter: &|_, _| Ok(()), passwords: PasswordRule::Required };
    parse(text, &context).map_err(|error| CliError::new(ErrorCode::Usage, format!("--name: {}", error.kind)))
}

fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let mut file = File::create_new(path).map_err(|error| {
        let failure = CliError::io(path.display(), &error);
        match failure.code {
            ErrorCode::Conflict => failure.with_hint("remove it, or name another file with -f"),
            _ => failure,
        }
    })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = std::fs::remove_file(path);
        CliError::io(path.display(), &error)
    })
}
