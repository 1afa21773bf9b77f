//! JSON as values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Number, Value as Json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::error::{JsonError, JsonErrorKind};
use super::write::looks_tagged;
use crate::blazebinary::sort_set;
use crate::limits::{MAX_DEPTH, MAX_SET_ELEMENTS};
use crate::{Timestamp, Value};

/// The value that JSON stands for.
///
/// ```
/// use blazedb_core::{Value, json::value_from_json};
/// assert_eq!(value_from_json(serde_json::json!({ "$counter": 5 })), Ok(Value::Counter(5)));
/// let error = value_from_json(serde_json::json!({ "a": [1, { "$conter": 5 }] })).unwrap_err();
/// assert_eq!(error.to_string(), "a[1]: unknown type tag \"$conter\"");
/// ```
///
/// # Errors
/// [`JsonError`] with the path to what is wrong: an unknown or ill-filled tag, an edit inside a value, an integer
/// beyond `i64`, values nested too deep.
pub fn value_from_json(json: Json) -> Result<Value, JsonError> {
    value_at(json, 0)
}

fn value_at(json: Json, depth: usize) -> Result<Value, JsonError> {
    match json {
        Json::Null => Ok(Value::Null),
        Json::Bool(value) => Ok(Value::Bool(value)),
        Json::Number(number) => value_of_number(&number),
        Json::String(text) => Ok(Value::String(text)),
        Json::Array(items) => items_at(items, depth).map(Value::Array),
        Json::Object(object) if looks_tagged(&object) => match object.into_iter().next() {
            Some((tag, content)) => tagged(&tag, content, depth).map_err(|error| wrap_tagged(error, &tag)),
            None => Err(JsonErrorKind::NotAnObject.into()),
        },
        Json::Object(object) => map_at(object, depth),
    }
}

/// The tag is part of the path only where the fault lies deeper than the tag itself.
fn wrap_tagged(error: JsonError, tag: &str) -> JsonError {
    if error.path.is_empty() { error } else { error.at_key(tag) }
}

fn value_of_number(number: &Number) -> Result<Value, JsonError> {
    if let Some(int) = number.as_i64() {
        return Ok(Value::Int(int));
    }
    match number.as_f64() {
        Some(float) if number.is_f64() && float.is_finite() => Ok(Value::Float(float + 0.0)),
        _ => Err(JsonErrorKind::NumberTooLarge(number.to_string()).into()),
    }
}

fn map_at(object: Map<String, Json>, depth: usize) -> Result<Value, JsonError> {
    check_depth(depth)?;
    object
        .into_iter()
        .map(|(key, item)| match value_at(item, depth + 1) {
            Ok(value) => Ok((key, value)),
            Err(error) => Err(error.at_key(&key)),
        })
        .collect::<Result<_, _>>()
        .map(Value::Map)
}

pub(super) fn items_at(items: Vec<Json>, depth: usize) -> Result<Vec<Value>, JsonError> {
    check_depth(depth)?;
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| value_at(item, depth + 1).map_err(|error| error.at_index(index)))
        .collect()
}

fn check_depth(depth: usize) -> Result<(), JsonError> {
    if depth >= MAX_DEPTH { Err(JsonErrorKind::TooDeep.into()) } else { Ok(()) }
}

fn tagged(tag: &str, content: Json, depth: usize) -> Result<Value, JsonError> {
    let bad = |tag, expected| Err(JsonErrorKind::BadContent { tag, expected }.into());
    match (tag, content) {
        ("$uuid", content) => match content.as_str().map(Uuid::parse_str) {
            Some(Ok(uuid)) => Ok(Value::Uuid(uuid)),
            _ => bad("$uuid", "the text of a UUID"),
        },
        ("$time", content) => match timestamp(&content) {
            Some(time) => Ok(Value::Timestamp(time)),
            None => bad("$time", "an RFC 3339 time with at most microseconds, or microseconds since 1970"),
        },
        ("$bytes", content) => match content.as_str().map(|text| BASE64.decode(text)) {
            Some(Ok(bytes)) => Ok(Value::Bytes(bytes)),
            _ => bad("$bytes", "base64 with padding"),
        },
        ("$counter", content) => match content.as_i64() {
            Some(sum) => Ok(Value::Counter(sum)),
            None => bad("$counter", "a 64-bit integer"),
        },
        ("$set", Json::Array(items)) => set_at(items, depth).map(Value::Set),
        ("$set", _) => bad("$set", "an array"),
        ("$vector", Json::Array(items)) => match items.iter().map(element).collect() {
            Some(vector) => Ok(Value::Vector(vector)),
            None => bad("$vector", "an array of numbers"),
        },
        ("$vector", _) => bad("$vector", "an array of numbers"),
        ("$float", content) => match infinity(&content) {
            Some(float) => Ok(Value::Float(float)),
            None => bad("$float", "\"Infinity\" or \"-Infinity\""),
        },
        ("$map", Json::Object(object)) => map_at(object, depth),
        ("$map", _) => bad("$map", "an object"),
        ("$inc", _) => Err(JsonErrorKind::EditInValue("$inc").into()),
        ("$add", _) => Err(JsonErrorKind::EditInValue("$add").into()),
        ("$remove", _) => Err(JsonErrorKind::EditInValue("$remove").into()),
        (unknown, _) => Err(JsonErrorKind::UnknownTag(unknown.to_owned()).into()),
    }
}

/// The elements of a set, put into order.
pub(super) fn set_at(items: Vec<Json>, depth: usize) -> Result<Vec<Value>, JsonError> {
    if items.len() > MAX_SET_ELEMENTS {
        return Err(JsonErrorKind::SetTooLarge.into());
    }
    let mut items = items_at(items, depth)?;
    sort_set(&mut items);
    Ok(items)
}

fn timestamp(content: &Json) -> Option<Timestamp> {
    if let Some(micros) = content.as_i64() {
        return Some(Timestamp(micros));
    }
    let nanos = OffsetDateTime::parse(content.as_str()?, &Rfc3339).ok()?.unix_timestamp_nanos();
    if nanos % 1_000 != 0 {
        return None;
    }
    i64::try_from(nanos / 1_000).ok().map(Timestamp)
}

/// A finite number that overflows `f32` is refused rather than turned into infinity.
fn element(json: &Json) -> Option<f32> {
    if let Some(number) = json.as_f64() {
        let element = number as f32 + 0.0;
        return element.is_finite().then_some(element);
    }
    let object = json.as_object().filter(|object| object.len() == 1)?;
    infinity(object.get("$float")?).map(|float| float as f32)
}

fn infinity(content: &Json) -> Option<f64> {
    match content.as_str()? {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}
