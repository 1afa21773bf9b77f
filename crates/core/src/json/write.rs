//! Values and records as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Number, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::edits::is_set_edit;
use crate::{Record, Timestamp, Value};

/// A value as JSON.
#[must_use]
pub fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Float(value) => float(*value),
        Value::String(text) => Json::String(text.clone()),
        Value::Bytes(bytes) => json!({ "$bytes": BASE64.encode(bytes) }),
        Value::Uuid(uuid) => json!({ "$uuid": uuid.hyphenated().to_string() }),
        Value::Timestamp(time) => json!({ "$time": timestamp(*time) }),
        Value::Array(items) => items.iter().map(value_to_json).collect(),
        Value::Map(map) => {
            let object: Map<String, Json> =
                map.iter().map(|(key, item)| (key.clone(), value_to_json(item))).collect();
            if looks_tagged(&object) || is_set_edit(&object) {
                json!({ "$map": object })
            } else {
                Json::Object(object)
            }
        }
        Value::Vector(vector) => json!({ "$vector": vector.iter().map(|x| element(*x)).collect::<Json>() }),
        Value::Counter(sum) => json!({ "$counter": sum }),
        Value::Set(items) => json!({ "$set": items.iter().map(value_to_json).collect::<Json>() }),
    }
}

/// A record as a JSON object: `id` and the fields.
#[must_use]
pub fn record_to_json(record: &Record) -> Json {
    let mut object = Map::new();
    object.insert("id".to_owned(), Json::String(record.id.to_string()));
    for (name, value) in &record.fields {
        object.entry(name.clone()).or_insert_with(|| value_to_json(value));
    }
    Json::Object(object)
}

/// Appends a record as one line of JSON without a line end: `id` first, then the fields ascending by name. Equal
/// records give equal lines.
///
/// ```
/// use blazedb_core::{Record, RecordId, Value, json::record_to_json_line};
/// let mut record = Record::new(RecordId::from_bytes([0; 16]));
/// record.fields.insert("hours".into(), Value::from(1.0));
/// let mut line = String::new();
/// record_to_json_line(&record, &mut line);
/// assert_eq!(line, r#"{"id":"00000000-0000-0000-0000-000000000000","hours":1.0}"#);
/// ```
pub fn record_to_json_line(record: &Record, out: &mut String) {
    out.push_str("{\"id\":\"");
    out.push_str(&record.id.to_string());
    out.push('"');
    for (name, value) in record.fields.iter().filter(|(name, _)| *name != "id") {
        out.push(',');
        out.push_str(&Json::from(name.as_str()).to_string());
        out.push(':');
        out.push_str(&value_to_json(value).to_string());
    }
    out.push('}');
}

/// Whether reading this object back would take it for a tagged value.
pub(super) fn looks_tagged(object: &Map<String, Json>) -> bool {
    object.len() == 1 && object.keys().all(|key| key.starts_with('$'))
}

fn float(value: f64) -> Json {
    match Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value == f64::INFINITY => json!({ "$float": "Infinity" }),
        None if value == f64::NEG_INFINITY => json!({ "$float": "-Infinity" }),
        None => Json::Null,
    }
}

/// An element of a vector, in as few digits as read back to it.
fn element(value: f32) -> Json {
    let short = value.to_string().parse().unwrap_or(f64::from(value));
    float(if short as f32 == value { short } else { f64::from(value) })
}

fn timestamp(Timestamp(micros): Timestamp) -> Json {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .map_or(Json::from(micros), Json::String)
}
