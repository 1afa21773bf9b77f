//! The records that are written: bugs of a tracker, made up or real.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use blazedb::{Fields, Value};
use blazedb_core::json::value_from_json;
use serde_json::{Map, Value as Json};

use crate::error::BenchError;

/// Where the real traces lie in a checkout of the project, from the working directory or the crate.
const REAL: [&str; 2] = ["shared/data/bugs.ndjson.gz", "shared/data/bugs.sample.ndjson"];

/// SplitMix64 (Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let at = usize::try_from(self.below(words.len() as u64)).unwrap_or(0);
        words.get(at).copied().unwrap_or_default()
    }

    /// A person of the tracker: few of them do most.
    fn person(&mut self) -> String {
        let rank = self.below(60) * self.below(60);
        let mut of = Self::new(rank);
        let (high, low) = (of.next(), of.next());
        format!(
            "{:08x}-{:04x}-5{:03x}-8{:03x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xFFFF,
            high & 0xFFF,
            low >> 52,
            low & 0xFFFF_FFFF_FFFF
        )
    }
}

/// The record number `n` of an endless sequence: 24 fields, some 300 bytes in BlazeBinary.
pub(crate) fn record(n: u64) -> Fields {
    let mut random = Random::new(n ^ 0x00B1_A2ED_B000);
    let opened = 1_456_708_560_000 + n * 61_000 + random.below(60) * 1_000;
    let closed = opened + random.below(9_000_000) * 100;
    let grade = |random: &mut Random| random.pick(&["1 - High", "2 - Medium", "2 - Medium", "3 - Low"]);
    let category = |name: &str, n: u64| format!("{name} {n}");
    Fields::from([
        ("active".into(), Value::from(random.below(4) == 0)),
        ("assigned_to".into(), random.person().into()),
        ("closed_at".into(), int(closed)),
        ("closed_code".into(), category("code", random.below(16)).into()),
        ("component".into(), category("Subcategory", random.below(250)).into()),
        ("contact_type".into(), random.pick(&["Phone", "Phone", "Phone", "Email", "Self service"]).into()),
        ("impact".into(), grade(&mut random).into()),
        ("knowledge".into(), Value::from(random.below(2) == 0)),
        ("location".into(), category("Location", random.below(220)).into()),
        ("made_sla".into(), Value::from(random.below(9) != 0)),
        ("mod_count".into(), int(random.below(20))),
        ("notify".into(), "Do Not Notify".into()),
        ("number".into(), format!("INC{n:07}").into()),
        ("opened_at".into(), int(opened)),
        ("opened_by".into(), random.person().into()),
        ("priority".into(), random.pick(&["2 - High", "3 - Moderate", "3 - Moderate", "4 - Low"]).into()),
        ("priority_confirmed".into(), Value::from(random.below(3) == 0)),
        ("product".into(), category("Category", random.below(58)).into()),
        ("reassignment_count".into(), int(random.below(4))),
        ("reporter".into(), random.person().into()),
        ("status".into(), random.pick(&["New", "Active", "Awaiting User Info", "Resolved", "Closed"]).into()),
        ("symptom".into(), category("Symptom", random.below(520)).into()),
        ("team".into(), team(random.below(TEAMS)).into()),
        ("urgency".into(), grade(&mut random).into()),
    ])
}

/// Distinct values of the field `team`.
pub(crate) const TEAMS: u64 = 76;

/// The value of the field `team` with this number.
pub(crate) fn team(n: u64) -> String {
    format!("Group {n}")
}

fn int(n: u64) -> Value {
    Value::from(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Records numbered `from..from + count`.
pub(crate) fn records(from: u64, count: u64) -> impl Iterator<Item = Fields> {
    (from..from + count).map(record)
}

/// A record as a JSON object, without its id.
pub(crate) fn to_json(fields: &Fields) -> Map<String, Json> {
    fields.iter().map(|(name, value)| (name.clone(), blazedb_core::json::value_to_json(value))).collect()
}

/// Up to `limit` inserts of the real trace, if it is here; else made-up records. The text names which.
pub(crate) fn real(limit: usize) -> Result<(Vec<Fields>, &'static str), BenchError> {
    let Some(path) = find_real() else {
        return Ok((records(0, limit as u64).collect(), "made-up records"));
    };
    let file = File::open(&path)?;
    let lines: Box<dyn BufRead> = if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(BufReader::new(flate2::read::GzDecoder::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    let mut found = Vec::new();
    for line in lines.lines() {
        let edit: Json = serde_json::from_str(&line?)?;
        if edit.get("op").and_then(Json::as_str) != Some("insert") {
            continue;
        }
        let Some(Json::Object(set)) = edit.get("set") else { continue };
        let fields: Result<Fields, _> = set
            .iter()
            .map(|(name, value)| value_from_json(value.clone()).map(|value| (name.clone(), value)))
            .collect();
        let fields =
            fields.map_err(|error| BenchError::Encoding { encoding: "trace", problem: error.to_string() })?;
        found.push(fields);
        if found.len() == limit {
            break;
        }
    }
    Ok((found, "real records"))
}

fn find_real() -> Option<PathBuf> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = [Path::new("."), Path::new(".."), crate_dir, &crate_dir.join("../../..")].map(Path::to_owned);
    REAL.iter().flat_map(|file| roots.iter().map(move |root| root.join(file))).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_alike_but_not_the_same_and_always_the_same() {
        let (a, b) = (record(7), record(8));
        assert_eq!(a.len(), 24);
        assert_eq!(a, record(7));
        assert_ne!(a, b);
        assert!(a.keys().eq(b.keys()));
    }
}
