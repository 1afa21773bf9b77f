//! Several nodes as processes, a trace split among them by actor, and what all of them must end with.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::common::{Place, Running};

/// How long anything may take that has to happen at last: far more than it needs, for busy machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What every node that serves says.
pub(crate) const SERVED: &str = "serve = 'bidirectional'\naccess = { public = true }\n";

/// A port that was free a moment ago, for a node that has to come back to where it was.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One node of a fleet; it has one database, `bugs`.
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) port: u16,
    /// The network namespace that it runs in, if it is not this one, and its address there.
    pub(crate) host: Option<(String, String)>,
    running: Option<Running>,
}

impl Node {
    /// A node that listens on `port` if it is served; `database` are the lines of its database's entry.
    pub(crate) fn new(dir: &Path, name: &str, port: u16, database: &str) -> Self {
        let node = Self { place: Place::new(dir, name, ""), port, host: None, running: None };
        node.declare(name, database);
        node
    }

    /// Writes the topology file.
    pub(crate) fn declare(&self, name: &str, database: &str) {
        let mut text = format!("[node]\nname = '{name}'\ndata = 'data'\n");
        if database.contains("serve") {
            let (address, open) =
                if self.host.is_some() { ("0.0.0.0", "insecure = true") } else { ("127.0.0.1", "") };
            writeln!(text, "listen = '{address}:{}'\n[auth]\nanonymous = true\n{open}", self.port).unwrap();
        }
        write!(text, "[databases.bugs]\nplaintext = true\n{database}").unwrap();
        // At once: other commands may read it just now.
        let (next, file) = (self.place.0.join("next.toml"), self.place.0.join("blazedb.toml"));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, file).unwrap();
    }

    pub(crate) fn up(&mut self) {
        let (running, _) = match &self.host {
            Some((namespace, _)) => self.place.up_in(namespace),
            None => self.place.up(),
        };
        self.running = Some(running);
    }

    /// Ends it without a goodbye.
    pub(crate) fn crash(&mut self) {
        drop(self.running.take());
    }

    /// Ends it in good order.
    pub(crate) fn stop(&mut self) {
        let code = self.running.take().map(Running::stop);
        assert_eq!(code, Some(Some(0)));
    }

    pub(crate) fn url(&self) -> String {
        let address = self.host.as_ref().map_or("127.0.0.1", |(_, address)| address);
        format!("ws://{address}:{}", self.port)
    }

    pub(crate) fn replay(&self, trace: &str) {
        let done = self.place.run_with(&["replay", "-"], trace);
        assert_eq!(done.code, 0, "{}", done.err);
    }

    pub(crate) fn export(&self) -> String {
        self.place.ok(&["export", "bugs"])
    }

    pub(crate) fn insert(&self, record: &Json) -> String {
        self.place.ok(&["insert", "bugs", &record.to_string()])
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.place.run(&["get", "bugs", id]).code == 0
    }

    pub(crate) fn links(&self) -> Vec<Json> {
        let status: Json = serde_json::from_str(&self.place.ok(&["status", "--json"])).unwrap();
        status["links"].as_array().unwrap().clone()
    }

    pub(crate) fn link(&self) -> Json {
        self.links().first().cloned().unwrap_or(Json::Null)
    }

    /// Applies the file that was changed.
    pub(crate) fn apply(&self, args: &[&str]) -> Vec<Json> {
        let answer = self.place.ok(&[&["apply", "--json"], args].concat());
        let answer: Json = serde_json::from_str(&answer).unwrap();
        answer["actions"].as_array().unwrap().clone()
    }
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let gives_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < gives_up, "{what}: it did not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until all of them hold exactly this.
pub(crate) fn until_equal(expected: &str, nodes: &[&Node]) {
    for node in nodes {
        let name = node.place.0.display().to_string();
        let mut held = String::new();
        let gives_up = Instant::now() + PATIENCE;
        while held != expected {
            let lines = |text: &str| text.lines().count();
            assert!(
                Instant::now() < gives_up,
                "{name} has {} records instead of {}: {:?}",
                lines(&held),
                lines(expected),
                node.links()
            );
            std::thread::sleep(Duration::from_millis(100));
            held = node.export();
        }
    }
}

/// The begin of the recorded trace if it is there, otherwise one that is made up.
pub(crate) fn trace(edits: usize) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/bugs.ndjson.gz");
    let unpacked = Command::new("gzip").arg("-dc").arg(&file).output();
    let text = unpacked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    match text.and_then(|text| String::from_utf8(text).ok()) {
        Some(text) => text.lines().take(edits).map(|line| format!("{line}\n")).collect(),
        None => {
            eprintln!("the recorded trace is not here: a made-up one is replayed");
            made_up(edits)
        }
    }
}

/// Edits of a few actors: inserts, updates of the same fields at once, deletes, records that come again.
fn made_up(edits: usize) -> Vec<String> {
    let mut seed: u64 = 7;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let mut born: Vec<bool> = vec![false; edits / 4 + 1];
    (0..edits)
        .map(|number| {
            let (record, actor) = (next(born.len() as u64), next(20));
            let there = std::mem::replace(&mut born[record as usize], true);
            let set = match there {
                false => json!({ "title": format!("bug {record}"), "priority": next(9), "teamId": "ios" }),
                true => json!({ "priority": next(9), "status": format!("status {}", next(4)) }),
            };
            let op = if there { "update" } else { "insert" };
            let id = format!("00000000-0000-4000-8000-{record:012}");
            let at = 1_450_000_000_000 + number * 1_000;
            let edit =
                json!({ "at": at, "actor": actor.to_string(), "db": "bugs", "op": op, "id": id, "set": set });
            format!("{edit}\n")
        })
        .collect()
}

/// The trace split by actor into as many parts; each part in order of time.
pub(crate) fn split(trace: &[String], parts: usize) -> Vec<String> {
    let mut split = vec![String::new(); parts];
    for line in trace {
        let edit: Json = serde_json::from_str(line).unwrap();
        let actor = edit["actor"].as_str().unwrap();
        let sum: usize = actor.bytes().fold(7, |sum, byte| sum * 31 % 9_973 + usize::from(byte));
        split[sum % parts] += line;
    }
    split
}

/// What a database holds after all of the trace.
pub(crate) fn outcome(dir: &Path, trace: &[String]) -> String {
    let whole = Node::new(dir, "whole", 0, "");
    whole.replay(&trace.concat());
    whole.export()
}
