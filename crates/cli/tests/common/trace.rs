//! Edit traces: the recorded ones where they are at hand, else one that is made up.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

/// A trace, and the databases that it edits.
pub(crate) struct Trace {
    pub(crate) lines: Vec<String>,
    pub(crate) databases: &'static [&'static str],
}

/// Where the recorded traces are.
pub(crate) fn recorded() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    std::env::var_os("BLAZEDB_TRACES").map_or_else(beside, PathBuf::from)
}

impl Trace {
    /// The first `edits` of a recorded trace. If it is not here: says so, and answers a made-up one.
    pub(crate) fn load(file: &str, databases: &'static [&'static str], edits: usize) -> Self {
        let Ok(bytes) = std::fs::read(recorded().join(file)) else {
            eprintln!("{file} is not here: a made-up trace takes its place");
            return Self { lines: made_up(databases, edits.min(3_000)), databases };
        };
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        let lines = text.lines().take(edits).map(str::to_owned).collect();
        Self { lines, databases }
    }

    /// The edits of each of `parts` devices: an actor's are all on one.
    pub(crate) fn split(&self, parts: usize) -> Vec<Vec<&str>> {
        let mut split = vec![Vec::new(); parts];
        let mut places = BTreeMap::new();
        for line in &self.lines {
            let edit: Json = serde_json::from_str(line).unwrap();
            let next = places.len() % parts;
            let place = *places.entry(edit["actor"].as_str().unwrap().to_owned()).or_insert(next);
            split[place].push(&line[..]);
        }
        split
    }
}

/// The next of a row of numbers that looks random (SplitMix64).
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Forty actors insert, change, clear, delete and insert again; some at the same moment.
fn made_up(databases: &[&str], edits: usize) -> Vec<String> {
    let mut state = 7;
    let mut below = |end: u64| random(&mut state) % end;
    let mut there: BTreeMap<(usize, u64), bool> = BTreeMap::new();
    let mut at = 1_500_000_000_000_u64;
    let mut lines = Vec::new();
    for number in 0..edits as u64 {
        at += below(3) * below(60_000);
        let (db, record) = (below(databases.len() as u64) as usize, below(2 + number / 5));
        let alive = there.entry((db, record)).or_default();
        let op = match (*alive, below(12)) {
            (false, _) => "insert",
            (true, 0) => "delete",
            (true, _) => "update",
        };
        *alive = op != "delete";
        let set = match op {
            "delete" => json!({}),
            "insert" => json!({ "number": record, "title": format!("record {record}"), "status": "new" }),
            _ if below(9) == 0 => json!({ "note": null }),
            _ => json!({ "status": format!("s{}", below(6)), "note": format!("by {number}") }),
        };
        // A deletion wins over what another actor writes at the same time: so it has a moment of its own.
        if op != "update" {
            at += 1;
        }
        let id = format!("{record:08x}-0000-5000-8000-{db:012x}");
        let actor = below(40).to_string();
        lines.push(
            json!({ "at": at, "actor": actor, "db": databases[db], "op": op, "id": id, "set": set })
                .to_string(),
        );
        if op != "update" {
            at += 1;
        }
    }
    lines
}
