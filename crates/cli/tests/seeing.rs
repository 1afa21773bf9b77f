//! `topology`, `explain` and `top` of real processes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod asking;
#[cfg(test)]
mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use asking::{http, until_told as until};
use common::{Place, Running};
use serde_json::Value as Json;

const HUB: &str = "listen = '127.0.0.1:0'\n[auth]\nanonymous = true\n[databases.bugs]\nplaintext = true\n\
                   serve = 'bidirectional'\naccess = { public = true }\n";

fn device(listen: &str) -> String {
    format!("[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{listen}'\n")
}

#[test]
fn a_node_that_does_not_run_shows_what_its_file_declares() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "phone", &device("127.0.0.1:9"));
    let graph: Json = serde_json::from_str(&place.ok(&["topology", "--format", "json"])).unwrap();
    assert_eq!(graph["links"][0]["state"], "stopped");
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 2);
    assert!(place.ok(&["topology"]).contains("ws://127.0.0.1:9/bugs"));
    assert!(place.ok(&["topology", "--format", "mermaid"]).contains("n0d0 <-.->"));
    let dot = place.ok(&["topology", "--format", "dot"]);
    assert!(dot.starts_with("digraph blazedb {") && dot.contains("dir=both, style=dashed"), "{dot}");
    assert_eq!(place.fails(&["top"], 3).0, "unreachable");
}

#[test]
fn a_hub_shows_its_clients_and_says_where_a_record_is() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", HUB);
    let (_running, ready) = hub.up();
    let listen = ready.split("listen=").nth(1).unwrap().split(' ').next().unwrap();
    let phone = Place::new(dir.path(), "phone", &device(listen));
    let id = phone.ok(&["insert", "bugs", r#"{"title": "crash"}"#]);
    let told: Json = serde_json::from_str(&phone.ok(&["explain", "bugs", &id, "--json"])).unwrap();
    assert_eq!((&told["here"], told["links"].as_array().unwrap().len()), (&"present".into(), 0));
    phone.ok(&["sync"]);
    let shown = hub.ok(&["topology"]);
    let line = shown.lines().find(|line| line.contains("<->")).unwrap_or_else(|| panic!("{shown}"));
    assert!(
        line.starts_with("phone/bugs") && line.contains("hub/bugs") && line.contains("offline"),
        "{line}"
    );
    let told = hub.ok(&["explain", "bugs", &id, "--peer", "phone"]);
    assert!(told.contains("present on hub") && told.contains("came from phone"), "{told}");
    assert!(told.lines().any(|line| line.contains("phone") && line.contains(" has ")), "{told}");
    assert_eq!(hub.fails(&["explain", "bugs", &id, "--peer", "nobody"], 1).0, "not_found");
    let top = hub.ok(&["top"]);
    assert!(
        top.starts_with("hub  ") && top.contains("0 of 1 links up") && top.contains("phone/bugs"),
        "{top}"
    );
}

/// The value of `name=` in the line that says that a node is ready.
fn told(ready: &str, name: &str) -> String {
    ready.split(&format!("{name}=")).nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

fn json_of(answer: (u16, String)) -> Json {
    assert_eq!(answer.0, 200, "{}", answer.1);
    serde_json::from_str(&answer.1).unwrap()
}

/// Two teams on a hub with issuers; a device of each, and what they wrote.
struct Teams {
    _dir: tempfile::TempDir,
    hub: Place,
    _hub_runs: Running,
    devices: Vec<(Place, Running)>,
    admin: String,
    tokens: [String; 2],
    ids: [String; 2],
}

impl Teams {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rules = "listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\nadmin_token_file = 'admin.token'\n\
             [auth]\nissuers = [{ name = 'self', key_file = 'data/issuer.pub' }]\n\
             [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n[databases.bugs.access]\nconnect = 'true'\n\
             read = 'record.teamId in user.teams'\ninsert = 'true'\nupdate = 'true'\n\
             [databases.payroll]\nplaintext = true\nserve = 'bidirectional'\n[databases.payroll.access]\n\
             connect = '\"boss\" in user.roles'\nread = 'true'\n";
        let hub = Place::new(dir.path(), "hub", rules);
        std::fs::write(hub.0.join("admin.token"), "only the admin\n").unwrap();
        let (hub_runs, ready) = hub.up();
        let (listen, admin) = (told(&ready, "listen"), told(&ready, "admin"));
        let (mut devices, mut tokens, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for (user, team) in [("alice", "ios"), ("bob", "android")] {
            let token = hub.ok(&["token", "issue", "--user", user, "--team", team]);
            let place = Place::new(dir.path(), user, &format!("token_file = 'me.jwt'\n{}", device(&listen)));
            std::fs::write(place.0.join("me.jwt"), &token).unwrap();
            let record = format!(r#"{{"title": "{team}-MARK", "teamId": "{team}"}}"#);
            ids.push(place.ok(&["insert", "bugs", &record]));
            let (running, _) = place.up();
            devices.push((place, running));
            tokens.push(token);
        }
        let teams = Self {
            _dir: dir,
            hub,
            _hub_runs: hub_runs,
            devices,
            admin,
            tokens: tokens.try_into().unwrap(),
            ids: ids.try_into().unwrap(),
        };
        until("the hub has both", || {
            (teams.as_admin("GET", "/v1/databases/bugs/records?count=true", "")["count"] == 2).then_some(())
        });
        teams
    }

    fn ask(&self, bearer: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let headers =
            [format!("Authorization: Bearer {bearer}"), "Content-Type: application/json".to_owned()];
        http(&self.admin, &format!("{method} {path}"), &headers.each_ref().map(String::as_str), body)
    }

    fn as_admin(&self, method: &str, path: &str, body: &str) -> Json {
        json_of(self.ask("only the admin", method, path, body))
    }

    fn as_user(&self, user: usize, method: &str, path: &str, body: &str) -> (u16, String) {
        self.ask(&self.tokens[user], method, path, body)
    }
}

#[test]
fn a_user_sees_what_the_access_rules_show_and_nothing_else() {
    let teams = Teams::start();
    let [of_ios, of_android] = &teams.ids;
    let alice = |method: &str, path: &str, body: &str| teams.as_user(0, method, path, body);
    let who = json_of(alice("GET", "/v1/whoami", ""));
    assert_eq!((&who["kind"], &who["user"]["id"]), (&"user".into(), &"alice".into()));

    // Records and counts, however they are asked for.
    let bugs = "/v1/databases/bugs";
    for (method, path, body) in [
        ("GET", format!("{bugs}/records"), ""),
        ("GET", format!("{bugs}/records?filter=true"), ""),
        ("POST", format!("{bugs}/query"), "{}"),
        ("POST", format!("{bugs}/query"), r#"{"filter": "has(title) || true", "order_by": ["title:desc"]}"#),
    ] {
        let found = json_of(alice(method, &path, body));
        assert_eq!(found["records"].as_array().unwrap().len(), 1, "{path}");
        assert_eq!(found["records"][0]["id"], of_ios.as_str(), "{path}");
    }
    for path in ["/records?count=true", "/records?count=true&filter=teamId%20!%3D%20%22ios%22"] {
        let count = if path.contains("filter") { 0 } else { 1 };
        assert_eq!(json_of(alice("GET", &format!("{bugs}{path}"), ""))["count"], count, "{path}");
    }
    assert_eq!(alice("GET", &format!("{bugs}/records/{of_ios}"), "").0, 200);
    for path in [format!("{bugs}/records/{of_android}"), format!("{bugs}/records/{of_android}/explain")] {
        let (status, text) = alice("GET", &path, "");
        assert!(status == 404 && text.contains("no record"), "{path}: {status} {text}");
    }
    let explained = json_of(alice("GET", &format!("{bugs}/records/{of_ios}/explain"), ""));
    let peers: Vec<&str> =
        explained["links"].as_array().unwrap().iter().filter_map(|link| link["peer_name"].as_str()).collect();
    assert_eq!(peers, ["alice"], "a user's own nodes");
    assert_eq!(json_of(alice("GET", bugs, ""))["records"], 1);
    let asked = format!(r#"{{"ids": ["{of_ios}", "{of_android}"]}}"#);
    assert_eq!(json_of(alice("POST", &format!("{bugs}/sealed"), &asked))["sealed"], serde_json::json!({}));

    // The graph: this node, the user's own, and their links.
    let graph = json_of(alice("GET", "/v1/topology", ""));
    let names = |graph: &Json| -> Vec<String> {
        let nodes = graph["nodes"].as_array().unwrap().iter();
        let mut names: Vec<String> = nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&graph), ["alice", "hub"]);
    assert_eq!(names(&teams.as_admin("GET", "/v1/topology", "")), ["alice", "bob", "hub"]);
    assert_eq!(graph["links"].as_array().unwrap().len(), 1);
    let own = graph["databases"].as_array().unwrap().iter().find(|one| one["node"] == graph["this"]).unwrap();
    assert_eq!((&own["name"], &own["figures"]["records"]), (&"bugs".into(), &1.into()));

    // A database that one may not connect to is as one that is not there; and nothing else is for users.
    assert_eq!(json_of(alice("GET", "/v1/databases", ""))["databases"].as_array().unwrap().len(), 1);
    for (method, path, status) in [
        ("GET", "/v1/databases/payroll/records", 404),
        ("GET", "/v1/databases/nothing/records", 404),
        ("GET", "/v1/status", 403),
        ("GET", "/metrics", 403),
        ("GET", "/v1/refusals", 403),
        ("GET", "/v1/apply", 403),
        ("POST", "/v1/apply", 403),
        ("POST", "/v1/databases/bugs/records", 403),
        ("GET", "/v1/databases/bugs/export", 403),
        ("GET", "/v1/databases/bugs/watch", 403),
        ("GET", "/v1/databases/bugs/rejected", 403),
        ("GET", "/v1/databases/bugs/keys", 403),
        ("POST", "/v1/databases/bugs/search", 403),
        ("POST", "/v1/join", 403),
    ] {
        let (told, text) = alice(method, path, "");
        assert_eq!(told, status, "{method} {path}: {text}");
        assert!(serde_json::from_str::<Json>(&text).unwrap()["error"]["code"].is_string(), "{text}");
    }
    assert_eq!(alice("DELETE", &format!("{bugs}/records/{of_ios}"), "").0, 403);
}

#[test]
fn what_a_user_watches_is_cut_too_and_ends_with_the_token() {
    use std::io::BufRead as _;
    let teams = Teams::start();
    let mut stream = std::net::TcpStream::connect(&teams.admin).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let (token, admin) = (&teams.tokens[0], &teams.admin);
    let head = format!(
        "GET /v1/topology/events HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut lines = std::io::BufReader::new(stream).lines();
    let mut event = |what: &str, wanted: &dyn Fn(&Json) -> bool| loop {
        let line = lines.next().unwrap_or_else(|| panic!("{what}: it ended")).unwrap();
        let Some(data) = line.strip_prefix("data: ") else { continue };
        assert!(!data.contains("bob") && !data.contains("payroll") && !data.contains("android"), "{data}");
        let told: Json = serde_json::from_str(data).unwrap();
        if wanted(&told) {
            return told;
        }
    };
    event("the graph", &|told| told["links"].as_array().is_some_and(|links| links.len() == 1));
    // What another team writes is no news; what one's own writes is, in the count of what one may read.
    teams.devices[1].0.ok(&["insert", "bugs", r#"{"title": "more", "teamId": "android"}"#]);
    teams.devices[0].0.ok(&["insert", "bugs", r#"{"title": "more", "teamId": "ios"}"#]);
    event("two records", &|told| {
        let counts = |figures: &Json| figures["records"] == 2;
        told["figures"].as_object().is_some_and(|all| all.values().any(counts))
            || told["databases"].as_array().is_some_and(|all| all.iter().any(|one| counts(&one["figures"])))
    });
    teams.hub.ok(&["token", "revoke", "--user", "alice"]);
    assert!(lines.all(|line| line.is_ok()), "the stream ends, and is not waited for in vain");
    assert_eq!(teams.as_user(0, "GET", "/v1/whoami", "").0, 401, "and who is revoked is nobody");
    assert_eq!(teams.as_user(1, "GET", "/v1/whoami", "").0, 200);
}

#[test]
fn a_user_logs_in_for_a_cookie_and_a_bad_or_bound_token_is_worth_nothing() {
    let teams = Teams::start();
    let json = "Content-Type: application/json";
    let log_in = |token: &str| {
        let body = serde_json::json!({ "token": token }).to_string();
        http(&teams.admin, "POST /login", &[json], &body).0
    };
    assert_eq!(log_in(&teams.tokens[0]), 204);
    let key = teams.devices[0].0.ok(&["status", "--json"]);
    let key: Json = serde_json::from_str(&key).unwrap();
    let key = key["node"]["fingerprint"].as_str().unwrap();
    let bound = teams.hub.ok(&["token", "issue", "--user", "alice", "--team", "ios", "--node", key]);
    let (head, rest) = teams.tokens[0].split_at(teams.tokens[0].len() - 6);
    let forged = format!("{head}{}", if rest == "AAAAAA" { "BBBBBB" } else { "AAAAAA" });
    for bad in [bound.as_str(), &forged, "a.b.c", "nonsense", "", "only the admin."] {
        assert_eq!(log_in(bad), 401, "{bad}");
        assert_eq!(teams.ask(bad, "GET", "/v1/databases", "").0, 401, "{bad}");
    }
    assert_eq!(http(&teams.admin, "GET /v1/databases", &["Cookie: blazedb_user=AAAA"], "").0, 401);
    assert_eq!(log_in("only the admin"), 204);
}

/// A listening address that passes everything on and counts the payload of WebSocket frames, as long as the test runs.
/// Handshakes are not counted: two frames of the client, one of the server.
fn counting_proxy(to: &str) -> (String, [Arc<AtomicU64>; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let counted: [Arc<AtomicU64>; 2] = Default::default();
    let (to, counts) = (to.to_owned(), counted.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&to).unwrap();
            let ways = [(&client, &server, 2), (&server, &client, 1)];
            for ((from, into, handshake), count) in ways.into_iter().zip(&counts) {
                let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                let count = Arc::clone(count);
                std::thread::spawn(move || pass_on(from, into, handshake, &count));
            }
        }
    });
    (address, counted)
}

fn pass_on(mut from: TcpStream, mut into: TcpStream, mut handshake: u32, count: &AtomicU64) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    into.write_all(&head).ok()?;
    loop {
        let mut frame = vec![0; 2];
        from.read_exact(&mut frame).ok()?;
        let (binary, masked) = (frame[0] & 0x0f == 2 || frame[0] & 0x0f == 0, frame[1] & 0x80 != 0);
        let further = match frame[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let at = frame.len();
        frame.resize(at + further, 0);
        from.read_exact(&mut frame[at..]).ok()?;
        let length = match further {
            0 => u64::from(frame[1] & 0x7f),
            _ => frame[2..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let at = frame.len();
        frame.resize(at + usize::from(masked) * 4 + usize::try_from(length).unwrap(), 0);
        from.read_exact(&mut frame[at..]).ok()?;
        match binary {
            true if handshake > 0 => handshake -= 1,
            true => drop(count.fetch_add(length, Ordering::Relaxed)),
            false => {}
        }
        into.write_all(&frame).ok()?;
    }
}

/// A sample in the text of Prometheus.
fn sample(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with(series));
    line.unwrap_or_else(|| panic!("{series}: {metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn page_status_metrics_and_the_wire_tell_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", &format!("admin = '127.0.0.1:0'\n{HUB}"));
    let (_hub, ready) = hub.up();
    let (proxy, wire) = counting_proxy(&told(&ready, "listen"));
    let hub_admin = told(&ready, "admin");
    let phone = Place::new(dir.path(), "phone", &format!("admin = '127.0.0.1:0'\n{}", device(&proxy)));
    let (_phone, ready) = phone.up();
    let admin = told(&ready, "admin");
    for number in 0..40 {
        let target = if number % 2 == 0 { &phone } else { &hub };
        target.ok(&[
            "insert",
            "bugs",
            &format!(r#"{{"n": {number}, "text": "{}"}}"#, "x".repeat(number * 20)),
        ]);
    }
    let get = |address: &str, path: &str| http(address, &format!("GET {path}"), &[], "").1;
    let parsed = |text: String| serde_json::from_str::<Json>(&text).unwrap();
    // Numbers that are read one after the other agree once nothing happens any more.
    until("all numbers agree", || {
        let wire = [0, 1].map(|way| wire[way].load(Ordering::Relaxed));
        let status = parsed(phone.ok(&["status", "--json"]));
        let (here, there) = (get(&admin, "/metrics"), get(&hub_admin, "/metrics"));
        let (graph, other) = (parsed(get(&admin, "/v1/topology")), parsed(get(&hub_admin, "/v1/topology")));
        let link = &status["links"][0];
        let both = |sent: &Json, received: &Json| [sent.as_u64().unwrap(), received.as_u64().unwrap()];
        let bytes = "bytes_total{database=\"bugs\",role=";
        let changes = "changes_total{database=\"bugs\",role=";
        let series = |text: &str, kind: &str, role: &str| {
            ["sent", "received"].map(|way| sample(text, &format!("blazedb_{way}_{kind}\"{role}\"")))
        };
        let figures = |graph: &Json| graph["links"][0]["figures"].clone();
        let (own, others) = (figures(&graph), figures(&other));
        let turned = |[a, b]: [u64; 2]| [b, a];
        let all_bytes = [
            wire,
            both(&link["bytes_sent"], &link["bytes_received"]),
            both(&own["bytes_sent"], &own["bytes_received"]),
            turned(both(&others["bytes_sent"], &others["bytes_received"])),
            series(&here, bytes, "client"),
            turned(series(&there, bytes, "server")),
        ];
        let all_changes = [
            [20, 20],
            both(&link["changes_sent"], &link["changes_received"]),
            both(&own["changes_sent"], &own["changes_received"]),
            turned(both(&others["changes_sent"], &others["changes_received"])),
            series(&here, changes, "client"),
            turned(series(&there, changes, "server")),
        ];
        let records = |graph: &Json| {
            let all = graph["databases"].as_array().unwrap().iter();
            all.clone().find(|one| one["node"] == graph["this"]).unwrap()["figures"].clone()
        };
        let head = sample(&here, "blazedb_feed_head{database=\"bugs\"}");
        let same = all_bytes.iter().all(|one| *one == all_bytes[0])
            && all_changes.iter().all(|one| *one == all_changes[0])
            && [&status["databases"][0]["records"], &records(&graph)["records"], &records(&other)["records"]]
                .iter()
                .all(|count| **count == 40)
            && status["databases"][0]["head"] == head
            && records(&graph)["head"] == head
            && link["pending"] == 0
            && sample(&here, "blazedb_pending_changes{database=\"bugs\",role=\"client\"}") == 0;
        if !same {
            eprintln!("bytes {all_bytes:?} changes {all_changes:?}");
        }
        same.then_some(())
    });
    assert!(wire[0].load(Ordering::Relaxed) > 1_000);
}

#[test]
fn the_dashboard_asks_for_names_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", &format!("admin = '127.0.0.1:0'\n{HUB}"));
    let (_hub, ready) = hub.up();
    let phone = Place::new(dir.path(), "phone", &device(&told(&ready, "listen")));
    phone.ok(&["insert", "bugs", r#"{"title": "crash"}"#]);
    phone.ok(&["sync"]);
    // Somebody is turned away: reasons are there from then on.
    let mut stranger = TcpStream::connect(told(&ready, "listen")).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let metrics = || http(&told(&ready, "admin"), "GET /metrics", &[], "").1;
    let metrics =
        until("a refusal", || Some(metrics()).filter(|text| text.contains("blazedb_refusals_total{")));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dashboard = std::fs::read_to_string(root.join("docs/grafana-dashboard.json")).unwrap();
    let manual = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = |word: &&str| word.starts_with("blazedb_") || word.starts_with("process_resident");
        words.filter(ours).map(str::to_owned).collect()
    };
    let there = names(&metrics);
    assert!(there.len() > 20, "{metrics}");
    for name in names(&dashboard) {
        assert!(there.contains(&name), "docs/grafana-dashboard.json asks for {name}");
    }
    // What the manual lists is there, and the other way round.
    let listed = names(&manual);
    let families: std::collections::BTreeSet<String> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    for name in &families {
        assert!(listed.contains(name), "docs/operations.md does not say what {name} is");
    }
    for name in listed.iter().map(|name| name.trim_end_matches("_bucket")) {
        assert!(families.contains(name), "docs/operations.md lists {name}");
    }
}

#[test]
fn logs_hold_neither_contents_nor_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let hub = "listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\nadmin_token_file = 'admin.token'\n\
         [auth]\nissuers = [{ name = 'self', key_file = 'data/issuer.pub' }]\n\
         [databases.bugs]\npassword_env = 'TEST_PASSWORD'\nserve = 'bidirectional'\n[databases.bugs.access]\n\
         connect = 'true'\nread = 'true'\ninsert = 'record.ok == true'\nupdate = 'true'\n";
    let hub = Place::new(dir.path(), "hub", hub);
    std::fs::write(hub.0.join("admin.token"), "MARK-admin-token\n").unwrap();
    let (hub_runs, hub_ready) = hub.up_saying_everything();
    let (listen, admin) = (told(&hub_ready, "listen"), told(&hub_ready, "admin"));
    let token = hub.ok(&["token", "issue", "--user", "alice", "--team", "MARKteam"]);
    let phone = format!("token_file = 'me.jwt'\n{}", device(&listen));
    let phone = Place::new(dir.path(), "phone", &phone);
    std::fs::write(phone.0.join("me.jwt"), &token).unwrap();
    let (phone_runs, _) = phone.up_saying_everything();
    let id = phone.ok(&["insert", "bugs", r#"{"title": "MARK-content", "ok": true}"#]);
    phone.ok(&["insert", "bugs", r#"{"title": "MARK-refused", "ok": false}"#]);
    phone.ok(&["update", "bugs", &id, r#"{"title": "MARK-changed"}"#]);
    phone.run(&["query", "bugs", r#"title == "MARK-asked""#]);
    phone.run(&["insert", "bugs", r#"{"title": {"$nonsense": "MARK-invalid"}}"#]);
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    for token in ["MARK-admin-token", token.as_str(), "MARK-wrong", "MARK.wrong.token"] {
        http(&admin, "GET /v1/databases/bugs/records?filter=title+==+%22MARK-url%22", &[&bearer(token)], "");
        let body = serde_json::json!({ "token": token }).to_string();
        http(&admin, "POST /login", &["Content-Type: application/json"], &body);
    }
    until("the refused write is back", || (!phone.ok(&["rejected", "bugs"]).is_empty()).then_some(()));
    let logs = [hub_runs.log(), phone_runs.log()];
    assert!(logs[0].contains("session peer"), "there is a log: {}", logs[0]);
    for log in &logs {
        let parts: Vec<&str> = token.split('.').collect();
        for secret in ["MARK", parts[1], parts[2]] {
            let found = log.lines().find(|line| line.contains(secret));
            assert!(found.is_none(), "{secret} in the log: {found:?}");
        }
    }
}

/// What `explain` says of a record: here, and of the link to `peer`.
fn explained(place: &Place, id: &str, peer: &str) -> Json {
    let mut told: Json =
        serde_json::from_str(&place.ok(&["explain", "bugs", id, "--peer", peer, "--json"])).unwrap();
    told["link"] = told["links"][0].clone();
    told
}

/// Waits until `explain` says this of the link; answers why.
fn verdict(place: &Place, id: &str, peer: &str, wanted: &str) -> String {
    let mut last = Json::Null;
    let why = (0..600).find_map(|_| {
        last = explained(place, id, peer);
        if last["link"]["verdict"] == wanted {
            return last["link"]["why"].as_str().map(str::to_owned);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        None
    });
    why.unwrap_or_else(|| panic!("never {wanted}: {last}"))
}

#[test]
fn explain_tells_filter_mode_removal_and_a_link_that_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", HUB);
    let (hub_runs, ready) = hub.up();
    let listen = told(&ready, "listen");
    let phone = format!("{}[databases.bugs.policy]\nwhere = 'status == \"open\"'\n", device(&listen));
    let phone = Place::new(dir.path(), "phone", &phone);
    let kiosk = Place::new(dir.path(), "kiosk", &format!("{}mode = 'write-only'\n", device(&listen)));
    let (_phone_runs, _) = phone.up();
    let (_kiosk_runs, _) = kiosk.up();
    let open = phone.ok(&["insert", "bugs", r#"{"title": "crash", "status": "open"}"#]);
    let closed = hub.ok(&["insert", "bugs", r#"{"title": "typo", "status": "closed"}"#]);
    until("the hub knows both devices", || {
        let told = hub.ok(&["topology"]);
        (told.contains("phone/bugs") && told.contains("kiosk/bugs")).then_some(())
    });

    let why = verdict(&hub, &closed, "phone", "filtered");
    assert!(why.contains("status == \"open\"") && why.contains("since it was inserted"), "{why}");
    let why = verdict(&hub, &open, "kiosk", "not_sent");
    assert!(why.contains("not sent by this link"), "{why}");
    assert_eq!(verdict(&hub, &open, "phone", "has"), "the other side brought its last change");
    verdict(&phone, &open, &listen, "has");

    // It leaves the filter: the hub says since when, the phone why it is gone.
    hub.ok(&["update", "bugs", &open, r#"{"status": "closed"}"#]);
    let why = verdict(&hub, &open, "phone", "filtered");
    assert!(why.contains("; since 20") && why.contains("when status was written"), "{why}");
    until("it is gone from the phone", || (phone.run(&["get", "bugs", &open]).code == 1).then_some(()));
    let here = explained(&phone, &open, &listen);
    assert_eq!((&here["here"], &here["removed"]), (&"removed".into(), &"left_filter".into()));
    assert!(here["why"].as_str().unwrap().contains("does not match the policy"), "{here}");
    assert!(phone.ok(&["explain", "bugs", &open]).contains("removed on phone"));
    let never = explained(&phone, &closed, &listen);
    assert_eq!((&never["here"], &never["link"]["verdict"]), (&"unknown".into(), &"not_shown".into()));

    // The hub goes away: what is written meanwhile waits, and it is said since when the link is down.
    assert_eq!(hub_runs.stop(), Some(0));
    let waits = phone.ok(&["insert", "bugs", r#"{"title": "later", "status": "open"}"#]);
    let why = verdict(&phone, &waits, &listen, "pending");
    assert!(why.contains("waits here") && why.contains("since 20"), "{why}");
}

#[test]
fn explain_tells_access_rules_refused_writes_and_missing_keys() {
    let teams = Teams::start();
    let [of_ios, of_android] = &teams.ids;
    let hub = &teams.hub;
    let why = verdict(hub, of_android, "alice", "no_access");
    assert!(why.contains("access rules don't show it: teamId in [\"ios\"]"), "{why}");
    verdict(hub, of_ios, "alice", "has");
    let alice = &teams.devices[0].0;
    // There is no rule about deleting: the record comes back, and what was refused is said.
    alice.ok(&["delete", "bugs", of_ios]);
    let listen = explained_address(alice);
    let why = verdict(alice, of_ios, &listen, "refused");
    assert!(why.contains("refused the last delete of it"), "{why}");
    let printed = alice.ok(&["explain", "bugs", of_ios]);
    assert!(printed.contains("refused delete") && printed.contains("blazedb rejected bugs"), "{printed}");

    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", HUB);
    let (_hub, ready) = hub.up();
    let sealed =
        format!("{}[databases.bugs.policy]\nencryption = 'e2e-only'\n", device(&told(&ready, "listen")));
    let one = Place::new(dir.path(), "one", &sealed);
    one.ok(&["key", "create", "bugs"]);
    let id = one.ok(&["insert", "bugs", r#"{"title": "from before"}"#]);
    one.ok(&["sync"]);
    let code = one.ok(&["key", "invite", "bugs", "--no-history"]);
    one.ok(&["sync"]);
    let two = Place::new(dir.path(), "two", &sealed);
    two.ok(&["key", "join", "bugs", code.lines().last().unwrap()]);
    two.ok(&["sync"]);
    let here: Json = serde_json::from_str(&two.ok(&["explain", "bugs", &id, "--json"])).unwrap();
    let reason = here["unopened"]["reason"].as_str().unwrap_or_else(|| panic!("{here}"));
    assert!(reason.contains("key of epoch 1, which this device does not have"), "{reason}");
    assert!(here["why"].as_str().unwrap().contains("can't be opened here"), "{here}");
}

/// The address of the only link of a node.
fn explained_address(place: &Place) -> String {
    let status: Json = serde_json::from_str(&place.ok(&["status", "--json"])).unwrap();
    status["links"][0]["remote"].as_str().unwrap().to_owned()
}
