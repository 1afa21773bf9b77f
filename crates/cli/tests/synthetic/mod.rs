//! The page with a graph that was made up: its files as they are in the repository, and one event.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};

/// What the graph looks like.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// A master, edges, devices below the edges.
    Hierarchy { edges: usize, nodes: usize, databases: usize },
    /// Everybody is linked to everybody.
    Mesh { nodes: usize },
    /// Each is linked to the one before.
    Chain { nodes: usize },
    /// A hub, and the others.
    Hub { nodes: usize },
}

/// Serves the page for as long as the test runs; answers its address.
pub(crate) fn serve(shape: Shape) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let event = format!("event: snapshot\ndata: {}\n\n", snapshot(shape));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let event = event.clone();
            std::thread::spawn(move || answer(stream, &event));
        }
    });
    format!("http://{address}/")
}

fn answer(mut stream: TcpStream, event: &str) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
    let path = request.split(' ').nth(1)?;
    if path == "/v1/topology/events" {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{event}").ok()?;
        // Every figure is another one, every second, for two minutes.
        let graph: Json = serde_json::from_str(event.split("data: ").nth(1)?.trim()).ok()?;
        for second in 1..=120 {
            std::thread::sleep(Duration::from_secs(1));
            write!(stream, "event: change\ndata: {}\n\n", change(&graph, second)).ok()?;
        }
        return Some(());
    }
    let (name, kind) = match path.strip_prefix("/page/") {
        None if path == "/" => ("index.html", "text/html"),
        Some(name) if name.ends_with(".js") => (name, "text/javascript"),
        Some(name) if name.ends_with(".css") => (name, "text/css"),
        Some(name) => (name, "image/svg+xml"),
        None => ("", "application/json"),
    };
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/page");
    let body =
        if name.is_empty() { told(path).into_bytes() } else { std::fs::read(files.join(name)).ok()? };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    stream.write_all(&body).ok()
}

/// What is new after so many seconds: figures of all links and nodes, and the state of one link.
fn change(graph: &Json, second: usize) -> Json {
    let all = |list: &str| graph[list].as_array().unwrap().clone();
    let mut links = all("links");
    let mut figures = serde_json::Map::new();
    for link in &links {
        let mut now = link["figures"].clone();
        now["bytes_received_per_s"] = (second * 7).into();
        figures.insert(link["id"].as_str().unwrap().to_owned(), now);
    }
    for node in all("nodes") {
        let now = json!({ "ops_per_s": second, "lag_ms": 3 });
        figures.insert(node["id"].as_str().unwrap().to_owned(), now);
    }
    let mut link = links.swap_remove(second % links.len());
    link["state"] = "connecting".into();
    json!({ "at_ms": second, "nodes": [], "databases": [], "links": [link], "gone": [], "figures": figures })
}

/// What routes answer that not every version has.
fn told(path: &str) -> String {
    if path == "/v1/whoami" {
        return json!({ "kind": "admin", "users": false }).to_string();
    }
    if path.ends_with("/rejected") {
        let id = "01a20eca-fc00-7667-8c36-d086c0761480";
        let record = json!({ "id": id, "title": "<b>mine</b>" });
        let write = json!({ "id": id, "op": "update", "reason": "access rule update", "record": record, "at": 1, "unset": ["note"] });
        return format!("{write}\n");
    }
    if path.starts_with("/v1/apply") {
        let sends = json!({ "records": 12, "bytes": 4096, "at_most": true });
        let action = json!({ "action": "change-link", "text": "bugs: hub: mode", "sends": sends, "removes": { "records": 3 } });
        return json!({ "dry_run": path.contains("dry_run"), "actions": [action] }).to_string();
    }
    if path == "/v1/refusals" { r#"{"refusals":[]}"#.to_owned() } else { String::new() }
}

/// From whom to whom, and by which pattern.
fn pairs(shape: Shape) -> (usize, usize, &'static str, Vec<(usize, usize)>) {
    match shape {
        Shape::Hierarchy { edges, nodes, databases } => {
            let parent = |node: usize| if node <= edges { 0 } else { 1 + node % edges };
            (nodes, databases, "hierarchical", (1..nodes).map(|node| (node, parent(node))).collect())
        }
        Shape::Mesh { nodes } => {
            let all = (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b)));
            (nodes, 1, "mesh", all.collect())
        }
        Shape::Chain { nodes } => (nodes, 1, "chain", (1..nodes).map(|node| (node, node - 1)).collect()),
        Shape::Hub { nodes } => (nodes, 1, "hub-and-spoke", (1..nodes).map(|node| (node, 0)).collect()),
    }
}

fn snapshot(shape: Shape) -> Json {
    let (nodes, databases, pattern, pairs) = pairs(shape);
    let states = ["idle", "syncing", "idle", "offline", "syncing", "idle", "refused"];
    let database = |node: usize, number: usize| format!("node-{node}/db{number}");
    let node = |number: usize| {
        json!({
            "id": format!("node-{number}"), "name": format!("device-{number}"),
            "kind": if number == 0 { "this" } else { "client" }, "address": "192.0.2.1:7400", "fingerprint": null,
            "state": if number == 0 { "running" } else { "online" }, "since_ms": 0,
            "figures": { "ops_per_s": number % 50, "lag_ms": number % 9 },
        })
    };
    let all: Vec<Json> = (0..nodes)
        .flat_map(|node| {
            (0..databases).map(move |number| {
                json!({
                    "id": database(node, number), "node": format!("node-{node}"), "name": format!("db{number}"),
                    "pattern": pattern, "mode": "bidirectional", "serve": "none", "replica": null,
                    "figures": { "records": 7 * node, "head": 9, "ops_per_s": 1.5 },
                })
            })
        })
        .collect();
    let link = |(client, server): (usize, usize), number: usize| {
        let (from, to) = (database(client, number), database(server, number));
        json!({
            "id": format!("{from}>{to}"), "client": from, "server": to, "role": "server", "address": "192.0.2.1:7400",
            "pattern": pattern, "mode": "bidirectional", "granted": null, "state": states[(client + number) % 7],
            "authority": false, "notice": null, "error": null,
            "encryption": if client % 3 == 0 { "e2e-only" } else { "smart-proxy" }, "epoch": 3, "policy": null,
            "since_ms": 0, "sessions": 1,
            "figures": {
                "caught_up": true, "pending": 0, "lag_ms": 0, "bytes_sent": 1, "bytes_received": 1, "changes_sent": 1,
                "changes_received": 1, "bytes_sent_per_s": 900 * (client % 7), "bytes_received_per_s": 0,
                "changes_sent_per_s": 3, "changes_received_per_s": 0,
            },
        })
    };
    let links: Vec<Json> =
        pairs.into_iter().flat_map(|pair| (0..databases).map(move |number| link(pair, number))).collect();
    let nodes: Vec<Json> = (0..nodes).map(node).collect();
    json!({ "at_ms": 1, "this": "node-0", "nodes": nodes, "databases": all, "links": links })
}
