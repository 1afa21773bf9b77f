//! The admin address of a running node: what it shows, to whom, and what it refuses.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb::record;
use blazedb_core::topology::{ParseContext, PasswordRule, TopologySpec, parse};
use blazedb_hub::api::{AdminServer, Reach, ServeError, router};
use blazedb_hub::{Node, OpenMode};
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const HUB: &str = "listen = '127.0.0.1:0'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
                   serve = 'bidirectional'\naccess = { public = true }\n";

fn spec(name: &str, text: &str) -> TopologySpec {
    let text = format!("[node]\nname = '{name}'\ndata = '{name}'\n{text}");
    let context =
        ParseContext { env: &|_| None, check_filter: &|_, _| Ok(()), passwords: PasswordRule::Required };
    parse(&text, &context).unwrap()
}

async fn node(dir: &Path, name: &str, text: &str, mode: OpenMode) -> Arc<Node> {
    Arc::new(Node::open(spec(name, text), &dir.join("t.toml"), mode, None).await.unwrap())
}

struct Hub {
    node: Arc<Node>,
    admin: AdminServer,
    dir: TempDir,
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Hub {
    async fn start(token: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path(), "hub", HUB, OpenMode::Serve).await;
        let file = dir.path().join("token");
        let file = token.map(|token| {
            std::fs::write(&file, token).unwrap();
            file.as_path()
        });
        let api = router(Arc::clone(&node), OpenMode::Serve, Reach::Admin);
        let admin = AdminServer::start("127.0.0.1:0", file, api).await.unwrap();
        Self { node, admin, dir }
    }

    async fn device(&self, name: &str, mode: &str) -> Arc<Node> {
        let hub = self.node.listener().unwrap().address();
        let text = format!(
            "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{hub}'\nmode = '{mode}'\n"
        );
        node(self.dir.path(), name, &text, OpenMode::Links).await
    }

    async fn ask(&self, request: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.admin.address()).await.unwrap();
        let host = format!("{}", self.admin.address());
        let mut text = format!("{request} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text += &format!("Host: {host}\r\n");
        }
        for (name, value) in headers {
            text += &format!("{name}: {}\r\n", value.replace("HERE", &host));
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Answer { status, headers, body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], "").await
    }

    async fn topology(&self) -> Json {
        self.get("/v1/topology").await.json()
    }
}

async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn link_state(snapshot: &Json) -> Option<&str> {
    snapshot["links"][0]["state"].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_knows_its_clients_by_name_and_key_and_both_ends_name_a_link_alike() {
    let hub = Hub::start(None).await;
    let device = hub.device("phone", "read-only").await;
    until("linked", async || (link_state(&hub.topology().await) == Some("idle")).then_some(())).await;
    let (here, there) = (hub.topology().await, serde_json::to_value(device.snapshot()).unwrap());
    let id = device.topology().identity().node_id().to_string();
    let named = here["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id.as_str()).unwrap();
    assert_eq!((&named["name"], &named["kind"]), (&"phone".into(), &"client".into()));
    assert_eq!(named["fingerprint"], device.topology().identity().fingerprint().to_string());
    for key in ["id", "client", "server", "mode", "granted"] {
        assert_eq!(here["links"][0][key], there["links"][0][key], "{key}");
    }
    assert_eq!(here["links"][0]["mode"], "read-only");
    let hub_id = hub.node.topology().identity().node_id().to_string();
    assert!(there["nodes"].as_array().unwrap().iter().any(|node| node["id"] == hub_id.as_str()));

    device.shutdown().await;
    let gone =
        until("gone", async || Some(hub.topology().await).filter(|s| link_state(s) == Some("offline"))).await;
    assert_eq!(gone["links"][0]["mode"], "read-only", "what it was is still known");
    let refused = hub.node.listener().unwrap().sessions().refusals();
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_begin_with_the_graph_and_then_say_what_changes_and_nothing_else() {
    let hub = Hub::start(None).await;
    let mut stream = TcpStream::connect(hub.admin.address()).await.unwrap();
    stream.write_all(b"GET /v1/topology/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut data = async |wait: u64| {
        let next = async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap();
                if let Some(data) = line.strip_prefix("data: ") {
                    return serde_json::from_str::<Json>(data).unwrap();
                }
            }
        };
        tokio::time::timeout(Duration::from_millis(wait), next).await.ok()
    };
    let first = data(5_000).await.unwrap();
    assert_eq!(first["this"], hub.node.topology().identity().node_id().to_string());
    assert_eq!((first["nodes"].as_array().unwrap().len(), first["links"].as_array().unwrap().len()), (1, 0));
    assert_eq!(data(2_500).await, None, "nothing has changed");
    let _device = hub.device("phone", "bidirectional").await;
    let change = data(5_000).await.unwrap();
    assert_eq!(change["links"].as_array().unwrap().len(), 1, "{change}");
    assert!(change["nodes"].as_array().unwrap().iter().any(|node| node["name"] == "phone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_of_graph_status_metrics_and_connection_agree() {
    let hub = Hub::start(None).await;
    let device = hub.device("phone", "bidirectional").await;
    let bugs = device.database("bugs").unwrap();
    for n in 0..50 {
        bugs.insert(record! { "n" => n }).unwrap();
    }
    assert!(device.sync(Duration::from_secs(20)).await.is_empty());
    // The last acknowledgement may still be on its way to being counted.
    let (ours, theirs) = until("both ends count the same", async || {
        let (here, there) =
            (hub.topology().await["links"][0]["figures"].clone(), device.snapshot().links[0].figures);
        (here["bytes_received"] == there.bytes_sent && here["bytes_sent"] == there.bytes_received)
            .then_some((here, there))
    })
    .await;
    assert_eq!((ours["changes_received"].as_u64(), theirs.changes_sent), (Some(50), 50));
    let traffic = device.links()[0].1.traffic;
    assert_eq!((traffic.bytes_sent, traffic.bytes_received), (theirs.bytes_sent, theirs.bytes_received));
    let metrics = hub.get("/metrics").await;
    assert!(metrics.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    for line in [
        format!(
            "blazedb_received_bytes_total{{database=\"bugs\",role=\"server\"}} {}",
            ours["bytes_received"]
        ),
        "blazedb_received_changes_total{database=\"bugs\",role=\"server\"} 50".to_owned(),
        "blazedb_sessions 1".to_owned(),
        "blazedb_feed_head{database=\"bugs\"} 50".to_owned(),
        "blazedb_handshake_seconds_count 1".to_owned(),
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line}\n{}", metrics.body);
    }
    assert_eq!(hub.get("/v1/status").await.json()["databases"][0]["records"], 50);
    assert_eq!(hub.get("/v1/databases/bugs").await.json()["records"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_explained() {
    let hub = Hub::start(None).await;
    let device = hub.device("phone", "bidirectional").await;
    let reader = hub.device("kiosk", "read-only").await;
    let bugs = device.database("bugs").unwrap();
    let id = bugs.insert(record! { "title" => "crash" }).unwrap();
    let path = format!("/v1/databases/bugs/records/{id}/explain");
    let verdict = |told: &Json, name: &str| {
        let links = told["links"].as_array().unwrap();
        links
            .iter()
            .find(|link| link["peer_name"] == name)
            .map(|link| link["verdict"].as_str().unwrap().to_owned())
    };
    let told = until("everywhere", async || {
        let told = hub.get(&path).await.json();
        (verdict(&told, "kiosk").as_deref() == Some("has") && told["here"] == "present").then_some(told)
    })
    .await;
    assert_eq!(verdict(&told, "phone").as_deref(), Some("has"));
    assert!(told["why"].as_str().unwrap().contains("came from phone"), "{told}");
    assert_eq!(told["fields"][0]["name"], "title");

    reader.shutdown().await;
    until("away", async || {
        hub.get(&path).await.json()["links"].as_array()?.iter().find(|l| l["state"] == "offline").map(drop)
    })
    .await;
    hub.node.database("bugs").unwrap().update(id, record! { "title" => "fixed" }).unwrap();
    let told = hub.get(&format!("{path}?peer=kiosk")).await.json();
    assert_eq!(verdict(&told, "kiosk").as_deref(), Some("pending"), "{told}");
    assert!(told["why"].as_str().unwrap().contains("written here"));
    assert_eq!(hub.get(&format!("{path}?peer=nobody")).await.status, 404);

    hub.node.database("bugs").unwrap().delete(id).unwrap();
    assert_eq!(hub.get(&path).await.json()["here"], "deleted");
    let never = "/v1/databases/bugs/records/00000000-0000-4000-8000-000000000000/explain";
    assert_eq!(hub.get(never).await.json()["here"], "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_outside_a_policy_is_explained_on_both_ends() {
    let hub = Hub::start(None).await;
    let address = hub.node.listener().unwrap().address();
    let text = format!(
        "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\n\
         [databases.bugs.policy]\nwhere = 'priority > 5'\n"
    );
    let device = node(hub.dir.path(), "phone", &text, OpenMode::Links).await;
    let bugs = hub.node.database("bugs").unwrap();
    let (low, high) = (
        bugs.insert(record! { "priority" => 1 }).unwrap(),
        bugs.insert(record! { "priority" => 8 }).unwrap(),
    );
    until("the other one", async || device.database("bugs").unwrap().get(high).unwrap()).await;
    let told = async |id| {
        hub.get(&format!("/v1/databases/bugs/records/{id}/explain")).await.json()["links"][0].clone()
    };
    let filtered = told(low).await;
    assert_eq!(filtered["verdict"], "filtered", "{filtered}");
    assert!(filtered["why"].as_str().unwrap().contains("priority > 5"));
    until("acknowledged", async || (told(high).await["verdict"] == "has").then_some(())).await;
    let snapshot = hub.topology().await;
    assert_eq!(snapshot["links"][0]["policy"]["filter"], "(priority > 5)");
    assert_eq!(device.snapshot().links[0].policy.as_ref().unwrap().filter.as_deref(), Some("priority > 5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hosts_sites_and_forms_are_refused_and_the_page_runs_nothing_but_its_own() {
    let hub = Hub::start(None).await;
    let page = hub.get("/").await;
    assert_eq!(page.status, 200);
    let policy = &page.headers["content-security-policy"];
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(hub.get("/page/app.js").await.headers["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(hub.get("/page/../api/mod.rs").await.status, 404);

    let insert = "POST /v1/databases/bugs/records";
    let json = ("Content-Type", "application/json");
    let body = r#"{"title":"x"}"#;
    for (headers, status) in [
        (&[("Host", "evil.example"), json][..], 403),
        (&[("Origin", "http://evil.example"), json], 403),
        (&[("Sec-Fetch-Site", "cross-site"), json], 403),
        (&[("Content-Type", "text/plain")], 400),
        (&[("Content-Type", "application/x-www-form-urlencoded")], 400),
        (&[("Cookie", "a=b")], 400),
    ] {
        let answer = hub.ask(insert, headers, body).await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.body);
        assert!(answer.headers.contains_key("content-security-policy"));
    }
    assert_eq!(hub.node.database("bugs").unwrap().query().count().unwrap(), 0);
    assert_eq!(hub.ask(insert, &[("Origin", "http://HERE"), json], body).await.status, 201);
    assert_eq!(hub.ask(insert, &[], body).await.status, 201, "a script, which says nothing of what it sends");
    let listed = hub.ask("GET /v1/databases/bugs/records", &[("Host", "evil.example")], "").await;
    assert_eq!(listed.status, 403, "a rebound name reads nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_nothing_of_the_node_is_told_without_it() {
    let hub = Hub::start(Some("t0ken\n")).await;
    for path in [
        "/v1/status",
        "/v1/topology",
        "/v1/topology/events",
        "/metrics",
        "/healthz",
        "/v1/databases/bugs/records",
    ] {
        assert_eq!(hub.get(path).await.status, 401, "{path}");
    }
    for path in ["/", "/page/app.js"] {
        assert_eq!(hub.get(path).await.status, 200, "{path}: holds nothing of the node");
    }
    assert_eq!(hub.ask("GET /v1/status", &[("Authorization", "Bearer t0ken")], "").await.status, 200);
    let json = ("Content-Type", "application/json");
    assert_eq!(hub.ask("POST /login", &[json], r#"{"token":"t0keN"}"#).await.status, 401);
    let form =
        hub.ask("POST /login", &[json, ("Origin", "http://evil.example")], r#"{"token":"t0ken"}"#).await;
    assert_eq!(form.status, 403);
    let answer = hub.ask("POST /login", &[json], r#"{"token":"t0ken"}"#).await;
    assert_eq!(answer.status, 204);
    let cookie = answer.headers["set-cookie"].split(';').next().unwrap();
    assert_eq!(hub.ask("GET /v1/status", &[("Cookie", cookie)], "").await.status, 200);
    assert_eq!(hub.ask("GET /v1/status", &[("Cookie", &format!("{cookie}0"))], "").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_token_opens_no_query_route() {
    let hub = Hub::start(Some("t0ken\n")).await;
    // What a device shows to the listener: the interface is for whoever runs the node, and knows no users.
    let user = ("Authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm5hIn0.c2ln");
    let json = ("Content-Type", "application/json");
    for (path, body) in [
        ("query", "{}"),
        ("query", r#"{"count":true}"#),
        ("aggregate", r#"{"measures":["count"]}"#),
        ("search", r#"{"text":"crash"}"#),
        ("nearest", r#"{"field":"v","vector":[1]}"#),
        ("page", "{}"),
        ("explain", "{}"),
    ] {
        let path = format!("POST /v1/databases/bugs/{path}");
        let answer = hub.ask(&path, &[user, json], body).await;
        assert_eq!(answer.status, 401, "{path}");
    }
    let join = r#"{"left":"bugs","right":"bugs","on":["a","id"]}"#;
    assert_eq!(hub.ask("POST /v1/join", &[user, json], join).await.status, 401);
    for path in ["records", "records?filter=true", "export", "watch", "conflicts", "rejected"] {
        let path = format!("GET /v1/databases/bugs/{path}");
        assert_eq!(hub.ask(&path, &[user], "").await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_do_not_reach_an_admin_address_without_a_token() {
    let hub = Hub::start(None).await;
    let api = router(Arc::clone(&hub.node), OpenMode::Serve, Reach::Admin);
    let exposed = AdminServer::start("0.0.0.0:0", None, api).await;
    assert!(matches!(exposed, Err(ServeError::Exposed(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_turned_away_is_listed_with_the_reason() {
    let hub = Hub::start(None).await;
    let address = hub.node.listener().unwrap().address();
    let text = format!(
        "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\nremote = 'secret'\n"
    );
    let device = node(hub.dir.path(), "phone", &text, OpenMode::Links).await;
    let refused = until("refused", async || {
        let told = hub.get("/v1/refusals").await.json();
        told["refusals"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(refused["kind"], "not_served");
    assert!(hub.get("/metrics").await.body.contains("blazedb_refusals_total{reason=\"not_served\"}"));
    let told = until("the device knows", async || {
        let snapshot = device.snapshot();
        (snapshot.links[0].state == "refused").then_some(snapshot)
    })
    .await;
    assert!(told.links[0].error.as_ref().unwrap().message.contains("not served here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_json_with_a_fitting_status() {
    let hub = Hub::start(None).await;
    let json = ("Content-Type", "application/json");
    let id = "00000000-0000-4000-8000-000000000001";
    let records = "/v1/databases/bugs/records";
    let large = "x".repeat(33 << 20);
    for (request, body, status) in [
        ("GET /nothing".to_owned(), "", 404),
        ("GET /v1/databases/nothing".to_owned(), "", 404),
        ("GET /v1/databases/nothing/records".to_owned(), "", 404),
        (format!("GET {records}/{id}"), "", 404),
        (format!("PATCH {records}/{id}"), "{}", 404),
        (format!("DELETE {records}/{id}"), "", 404),
        (format!("GET {records}/1"), "", 400),
        (format!("GET {records}/%ff"), "", 400),
        ("GET /v1/databases/%ff/records".to_owned(), "", 400),
        (format!("GET {records}?limit=x"), "", 400),
        (format!("GET {records}?nonsense=1"), "", 400),
        (format!("GET {records}?filter=n%20%3E"), "", 400),
        (format!("POST {records}"), "{", 400),
        (format!("POST {records}"), "[]", 400),
        (format!("POST {records}"), &large, 413),
        ("POST /v1/databases/bugs/query".to_owned(), r#"{"nonsense":1}"#, 400),
        ("PUT /v1/topology".to_owned(), "", 405),
        ("POST /healthz".to_owned(), "", 405),
        ("OPTIONS /v1/databases".to_owned(), "", 405),
        ("POST /v1/apply?dry_run=true".to_owned(), r#"{"topology":"[node]\nname = 1"}"#, 422),
    ] {
        let answer = hub.ask(&request, &[json], body).await;
        assert_eq!(answer.status, status, "{request}: {}", answer.body);
        let error = &answer.json()["error"];
        assert!(error["code"].is_string() && error["message"].is_string(), "{request}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/json", "{request}");
    }
    let topology = "[node]\nname = 'hub'\ndata = 'hub'\n".to_owned() + HUB;
    let toml = ("Content-Type", "application/toml");
    let planned = hub.ask("POST /v1/apply?dry_run=true", &[toml], &topology).await;
    assert_eq!(
        (planned.status, &planned.json()["actions"]),
        (200, &serde_json::json!([])),
        "{}",
        planned.body
    );
}
