//! `blazedb up`, `sync` and `status`: the node of the topology file.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Method;
use blazedb_core::topology::{DatabaseName, TopologySpec, expand};
use blazedb_hub::api::{AdminServer, LocalServer, Reach, admin_routes, declared_status, router};
use blazedb_hub::{Node, OpenMode};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value as Json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::GlobalArgs;
use crate::client::{Client, open_when_free, socket_path};
use crate::load::load;
use crate::output::{CliError, ErrorCode, Output};
use crate::render;

/// Arguments of `up`.
#[derive(Args, Debug)]
pub struct UpArgs {}

/// Arguments of `sync`.
#[derive(Args, Debug)]
pub struct SyncArgs {
    /// Give up after this many seconds, with exit code 3
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn interrupted() -> Result<(), CliError> {
    let on = |kind| signal(kind).map_err(|error| CliError::io("signals", &error));
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// `up`: runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the node from starting.
pub async fn up(global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    allow_many_files();
    // Installed first: a signal during the start is a clean stop too.
    let stop = interrupted();
    tokio::pin!(stop);
    tokio::select! {
        biased;
        stopped = &mut stop => return stopped,
        running = start(&spec, &global.file) => {
            let running = running?;
            let told = running.tell_ready(&spec.node.name);
            output.detail(told);
            stop.await?;
            running.stop().await;
        }
    }
    Ok(())
}

/// Lets the node have as many connections and files as the system allows; what a shell grants is often 1,024.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // Without it, opening what does not fit fails on its own, with a reason.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

struct Running {
    node: Arc<Node>,
    local: LocalServer,
    admin: Option<AdminServer>,
}

async fn start(spec: &TopologySpec, file: &Path) -> Result<Running, CliError> {
    if Client::running(spec, file).await?.is_some() {
        let at = socket_path(spec, file);
        return Err(CliError::new(
            ErrorCode::Locked,
            format!("{}: a node runs on this data directory", at.display()),
        )
        .with_hint("stop it first"));
    }
    let node = Arc::new(open_when_free(spec, file, OpenMode::Serve, None).await?);
    let mode = OpenMode::Serve;
    let served = async {
        let local = router(Arc::clone(&node), mode, Reach::Local);
        let local = LocalServer::start(Node::socket_path(node.data()), local).await?;
        let admin = match &spec.node.admin {
            Some(address) => {
                let base = file.parent().unwrap_or(Path::new("."));
                let token = spec.node.admin_token_file.as_ref().map(|token| base.join(token));
                let routes = admin_routes(Arc::clone(&node), mode);
                Some(AdminServer::start(&address.to_string(), token.as_deref(), routes).await?)
            }
            None => None,
        };
        Ok::<_, blazedb_hub::api::ServeError>((local, admin))
    };
    match served.await {
        Ok((local, admin)) => Ok(Running { node, local, admin }),
        Err(error) => {
            node.shutdown().await;
            Err(blazedb_hub::api::ApiError::from(error).into())
        }
    }
}

impl Running {
    fn tell_ready(&self, name: &str) -> String {
        let shown = |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |a| a.to_string());
        let listen = shown(self.node.listener().map(blazedb_hub::Listener::address));
        let admin = shown(self.admin.as_ref().map(AdminServer::address));
        let _ = writeln!(std::io::stderr(), "ready node={name} listen={listen} admin={admin}");
        format!("data in {}", self.node.data().display())
    }

    async fn stop(self) {
        drop(self.local);
        drop(self.admin);
        self.node.shutdown().await;
    }
}

/// `sync`.
///
/// # Errors
/// [`ErrorCode::Timeout`], [`ErrorCode::Unreachable`] or [`ErrorCode::Forbidden`], with what is missing.
pub async fn sync(args: &SyncArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let path = format!("/v1/sync?timeout={}", args.timeout);
    let result = if let Some(mut client) = Client::running(&spec, &global.file).await? {
        client.json(Method::POST, &path, Body::empty()).await?
    } else {
        let linked: Vec<String> = linked_databases(&spec).iter().map(ToString::to_string).collect();
        let node = open_when_free(&spec, &global.file, OpenMode::Links, Some(&linked)).await?;
        let node = Arc::new(node);
        let result =
            Client::own(Arc::clone(&node), OpenMode::Links).json(Method::POST, &path, Body::empty()).await;
        drop_tombstones(&node, output).await;
        node.shutdown().await;
        result?
    };
    if output.json() {
        output.line(&result)?;
        output.flush()?;
    }
    let links: Vec<&Json> = result["links"].as_array().into_iter().flatten().collect();
    for (database, count) in result["rejected"].as_object().into_iter().flatten() {
        output.note(format_args!(
            "warning: {database}: {count} refused writes: `blazedb rejected {database}` lists them"
        ));
    }
    tell_removals(&result, output);
    if result["caught_up"] == true {
        output.note(format_args!("{} links caught up", links.len()));
        return Ok(());
    }
    Err(not_caught_up(&links, args.timeout))
}

/// Where no node runs, there is nobody else who drops what the lease is over for.
async fn drop_tombstones(node: &Node, output: &Output) {
    for (name, database) in node.databases() {
        let dropped = tokio::task::spawn_blocking(move || database.store().drop_tombstones()).await;
        if let Ok(Err(error)) = dropped {
            output.note(format_args!(
                "warning: {name}: tombstones could not be dropped: {error}; they go the next time"
            ));
        }
    }
}

/// Says which records went, and which are going to.
fn tell_removals(result: &Json, output: &mut Output) {
    for (database, counts) in result["removed"].as_object().into_iter().flatten() {
        for (reason, words) in [
            ("left_filter", "they left the filter of the policy"),
            ("access_revoked", "access to them was revoked"),
        ] {
            if let Some(count) = counts[reason].as_u64().filter(|count| *count > 0) {
                output.note(format_args!("{database}: {count} records were taken away: {words}"));
            }
        }
    }
    for (database, count) in result["leaving"].as_object().into_iter().flatten() {
        output.note(format_args!(
            "{database}: {count} records stay until the other side has the edits that were made to them here"
        ));
    }
}

fn linked_databases(spec: &TopologySpec) -> Vec<DatabaseName> {
    let linked = spec.databases.iter().filter(|(_, spec)| expand(spec).is_ok_and(|links| !links.is_empty()));
    linked.map(|(name, _)| name.clone()).collect()
}

fn not_caught_up(links: &[&Json], timeout: u64) -> CliError {
    let missing: Vec<String> = links
        .iter()
        .filter(|link| link["caught_up"] != true || link["refused"] == true)
        .map(|link| {
            let text = |key: &str| link[key].as_str().unwrap_or_default();
            let why = match (link["error"]["message"].as_str(), link["notice"].as_str()) {
                (Some(error), _) => error,
                (None, Some(notice)) => notice,
                (None, None) => text("state"),
            };
            format!("{} -> {}: {} pending, {why}", text("database"), text("remote"), link["pending"])
        })
        .collect();
    let any = |test: &dyn Fn(&Json) -> bool| links.iter().any(|link| test(link));
    let (code, hint) = if any(&|link| link["error"]["stranger"] == true) {
        (
            ErrorCode::Unauthenticated,
            "the two sides have to know each other's keys, and this node needs a valid token",
        )
    } else if any(&|link| link["error"]["refused"] == true && link["error"]["temporary"] == true) {
        (
            ErrorCode::Timeout,
            "what is too far in the future now is accepted later, or once the clock is right",
        )
    } else if any(&|link| link["refused"] == true) {
        (ErrorCode::Forbidden, "the other side has to let this node in, or the mode has to fit")
    } else if any(&|link| link["state"] == "offline" || link["state"] == "connecting") {
        (ErrorCode::Unreachable, "check that the other side runs, and its address in the topology file")
    } else {
        (ErrorCode::Timeout, "try again, or with a longer --timeout")
    };
    CliError::new(code, format!("not caught up within {timeout} s: {}", missing.join("; "))).with_hint(hint)
}

/// `status`.
///
/// # Errors
/// What is wrong with the topology file.
pub async fn status(global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let status = match Client::running(&spec, &global.file).await? {
        Some(mut client) => client.json(Method::GET, "/v1/status", Body::empty()).await?,
        None => declared_status(&spec),
    };
    if output.json() {
        return output.line(status);
    }
    let text = |json: &Json| match json {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    output.line(format_args!(
        "node {}: {}",
        text(&status["node"]["name"]),
        text(&status["node"]["state"])
    ))?;
    for (list, columns) in [
        ("databases", &["name", "state", "records", "rejected", "pattern", "mode", "serve", "file"][..]),
        ("links", &["database", "remote", "mode", "pattern", "state", "pending", "lag_ms", "error"]),
    ] {
        let items = status[list].as_array().into_iter().flatten();
        let cell = |item: &Json, column: &str| match column {
            "error" if item["error"].is_null() => text(&item["notice"]),
            "error" => text(&item["error"]["message"]),
            "mode" if item["fallen_back_to_local"] == true => {
                format!("{} (local: no peer)", text(&item["mode"]))
            }
            column => text(&item[column]),
        };
        let rows: Vec<Vec<String>> =
            items.map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
        if !rows.is_empty() {
            output.line("")?;
            render::columns(columns, &rows).iter().try_for_each(|line| output.line(line))?;
        }
    }
    Ok(())
}
