//! `blazedb key ...`: who may read a database that the hub can't.
//!
//! Invariant: a passphrase or recovery phrase is no argument; other users of the machine can see those.

use std::io::Read as _;
use std::path::PathBuf;

use axum::body::Body;
use axum::http::Method;
use blazedb_core::topology::DatabaseName;
use blazedb_hub::OpenMode;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use crate::args::GlobalArgs;
use crate::client::{Client, open_when_free};
use crate::load::{entry, load};
use crate::output::{CliError, ErrorCode, Output};

/// The longest code, phrase or passphrase, in bytes.
const MAX_CODE_BYTES: u64 = 4_096;

/// Arguments of `key`.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
    /// How long a change waits until the other side has heard of it, and a device that joins for its invitation
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 20)]
    pub wait: u64,
}

/// What `key` does.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Make the database's keyring; it seals what `policy.encryption` says
    Create {
        /// Database
        db: DatabaseName,
        /// What this device is called; default: the node's name
        #[arg(long)]
        name: Option<String>,
        /// Let everybody join who knows the passphrase in this file
        #[arg(id = "path", long = "passphrase-file", value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Show the keyring: epoch, what is sealed, what could not be opened
    Show {
        /// Database
        db: DatabaseName,
    },
    /// List the members
    Members {
        /// Database
        db: DatabaseName,
    },
    /// Print a code with which one device can join
    Invite {
        /// Database
        db: DatabaseName,
        /// What the invitation is called in the list of members
        #[arg(long)]
        name: Option<String>,
        /// Let it read only what is written from now on
        #[arg(long)]
        no_history: bool,
    },
    /// Join with an invitation code, a recovery phrase or the passphrase
    Join {
        /// Database
        db: DatabaseName,
        /// Invitation code; without it and --code-file, it is read from the standard input
        code: Option<String>,
        /// File with the code, phrase or passphrase
        #[arg(id = "path", long = "code-file", value_name = "FILE", conflicts_with = "code")]
        code_file: Option<PathBuf>,
        /// What this device is called; default: the node's name
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove members: they read nothing that is written from now on
    Remove {
        /// Database
        db: DatabaseName,
        /// Id (or its start) or name of a member
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Begin a new epoch, with new keys
    Rotate {
        /// Database
        db: DatabaseName,
    },
    /// Print 24 words that restore membership when every device is lost
    Recovery {
        /// Database
        db: DatabaseName,
    },
    /// Seal what `policy.encryption` says now, and have the hub drop the former form
    Rule {
        /// Database
        db: DatabaseName,
    },
}

impl KeyCommand {
    const fn db(&self) -> &DatabaseName {
        match self {
            Self::Create { db, .. }
            | Self::Show { db }
            | Self::Members { db }
            | Self::Invite { db, .. }
            | Self::Join { db, .. }
            | Self::Remove { db, .. }
            | Self::Rotate { db }
            | Self::Recovery { db }
            | Self::Rule { db } => db,
        }
    }

    /// What the node is asked to do; `None`: to show.
    fn act(&self) -> Result<Option<Json>, CliError> {
        Ok(Some(match self {
            Self::Show { .. } | Self::Members { .. } => return Ok(None),
            Self::Create { name, passphrase_file, .. } => {
                let passphrase = passphrase_file.as_ref().map(|file| secret_of(Some(file))).transpose()?;
                json!({ "act": "create", "name": name, "passphrase": passphrase })
            }
            Self::Invite { name, no_history, .. } => {
                json!({ "act": "invite", "name": name, "history": !no_history })
            }
            Self::Join { code, code_file, name, .. } => {
                let code = code.clone().map_or_else(|| secret_of(code_file.as_ref()), Ok)?;
                json!({ "act": "join", "code": code, "name": name })
            }
            Self::Remove { members, .. } => json!({ "act": "remove", "members": members }),
            Self::Rotate { .. } => json!({ "act": "rotate" }),
            Self::Recovery { .. } => json!({ "act": "recovery" }),
            Self::Rule { .. } => json!({ "act": "rule" }),
        }))
    }
}

/// `key`.
///
/// # Errors
/// What keeps the database from being opened or the keyring from being changed.
pub async fn run(args: &KeyArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let command = &args.command;
    let db = command.db();
    let path = format!("/v1/databases/{db}/keys");
    let spec = load(global)?;
    entry(&spec, db)?;
    let Some(act) = command.act()? else {
        let shown = Client::open(global, db).await?.json(Method::GET, &path, Body::empty()).await?;
        return show(command, &shown, output);
    };
    let mut client = match Client::running(&spec, &global.file).await? {
        Some(client) => client,
        // A change is for the others as well: with the links.
        None => {
            let node = open_when_free(&spec, &global.file, OpenMode::Links, None).await?;
            Client::own(std::sync::Arc::new(node), OpenMode::Links)
        }
    };
    let path = format!("{path}?wait={}", args.wait);
    let answer = client.json(Method::POST, &path, Body::from(act.to_string())).await;
    if let Some(node) = client.own_node() {
        node.shutdown().await;
    }
    tell(command, &answer?, output)
}

fn tell(command: &KeyCommand, answer: &Json, output: &mut Output) -> Result<(), CliError> {
    if let (KeyCommand::Join { .. }, Some(false)) = (command, answer["joined"].as_bool()) {
        let why = answer["problem"].as_str().unwrap_or("no link has brought the keyring yet");
        let error = CliError::new(ErrorCode::Unreachable, format!("not joined yet: {why}"));
        return Err(match answer["waits"].as_bool() {
            Some(false) => error,
            _ => {
                error.with_hint("the code is kept: the device joins as soon as a link brings its invitation")
            }
        });
    }
    if output.json() {
        output.line(answer)?;
    } else if let Some(secret) = answer["code"].as_str().or_else(|| answer["phrase"].as_str()) {
        output.line(secret)?;
    }
    if answer["pending"] == true {
        let what = match command {
            KeyCommand::Invite { .. } => {
                "the invitation is made here; it will be known there when the link is up"
            }
            _ => "the change is made here; it will be known there when the link is up",
        };
        let why = answer["problem"].as_str().unwrap_or("nobody has heard of it yet");
        output.note(format!("{what} (`blazedb sync`): {why}"));
    }
    if answer["codes_left"].as_u64().is_some_and(|left| left > 0) {
        output.note(
            "who knows a recovery phrase or the passphrase of this keyring can still join with it: \
             `blazedb key members` lists them, and `key remove` removes them",
        );
    }
    if answer["settled"] == false {
        let db = command.db();
        output.note(format!(
            "what others hold in readable form goes there once `blazedb key rule {db}` has sent all of it sealed"
        ));
    }
    output.flush()
}

fn show(command: &KeyCommand, shown: &Json, output: &mut Output) -> Result<(), CliError> {
    if shown["keyring"].is_null() {
        let db = command.db();
        return Err(CliError::new(ErrorCode::NotFound, format!("database {db} has no keyring here"))
            .with_hint("`blazedb key create` makes one, `blazedb key join` joins one; a sync fetches it"));
    }
    let members = shown["members"].as_array().cloned().unwrap_or_default();
    match command {
        KeyCommand::Members { .. } if output.json() => {
            members.iter().try_for_each(|member| output.line(member))?;
        }
        _ if output.json() => output.line(shown)?,
        KeyCommand::Members { .. } => {
            for member in &members {
                let text = |key: &str| member[key].as_str().unwrap_or_default().to_owned();
                let mut line = format!("{}  {:10}  {}", text("id"), text("kind"), text("name"));
                if member["history"] == false {
                    line.push_str("  (without history)");
                }
                if member["this_device"] == true {
                    line.push_str("  (this device)");
                }
                output.line(line)?;
            }
        }
        _ => {
            for key in ["keyring", "fingerprint", "epoch", "encryption", "member", "statements", "ready"] {
                let value = &shown[key];
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                output.line(format!("{key:12} {text}"))?;
            }
            for record in shown["unopened"].as_array().into_iter().flatten() {
                let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
                output.line(format!("unopened     record {}: {}", text("id"), text("reason")))?;
            }
        }
    }
    output.flush()
}

/// What a file holds, or else the standard input, without the line's end.
fn secret_of(file: Option<&PathBuf>) -> Result<String, CliError> {
    let mut text = String::new();
    let shown = file.map_or_else(|| "the standard input".to_owned(), |file| file.display().to_string());
    let read = match file {
        Some(file) => {
            std::fs::File::open(file).and_then(|file| file.take(MAX_CODE_BYTES).read_to_string(&mut text))
        }
        None => std::io::stdin().lock().take(MAX_CODE_BYTES).read_to_string(&mut text),
    };
    read.map_err(|error| CliError::io(&shown, &error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
