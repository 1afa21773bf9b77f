//! The golden vectors of `vectors/blazebinary.json`, and the size of a real record.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::*;
use crate::Value;
use crate::json::{value_from_json, value_to_json};

fn vectors(section: &str) -> Vec<Json> {
    let text = include_str!("../../../../vectors/blazebinary.json");
    let file: Json = serde_json::from_str(text).unwrap();
    assert_eq!(file["version"], VERSION);
    let cases = file[section].as_array().unwrap().clone();
    assert!(!cases.is_empty(), "{section}");
    cases
}

fn from_hex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode_fields<'a>(fields: impl IntoIterator<Item = (FieldNo, &'a Value)>) -> Vec<u8> {
    let mut builder = RecordBuilder::new();
    fields.into_iter().for_each(|(field, value)| builder.push(field, value).unwrap());
    let mut body = Vec::new();
    builder.finish_into(&mut body);
    body
}

#[test]
fn golden_values() {
    for case in vectors("values") {
        let value = value_from_json(case["json"].clone()).unwrap();
        let mut bytes = Vec::new();
        encode_value(&value, &mut bytes);
        assert_eq!(to_hex(&bytes), case["hex"].as_str().unwrap(), "{}", case["json"]);
        assert_eq!(value_to_json(&decode_value(&bytes).unwrap()), case["json"]);
    }
}

#[test]
fn golden_records() {
    for case in vectors("records") {
        let fields: BTreeMap<FieldNo, Value> = case["fields"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(field, json)| (field.parse().unwrap(), value_from_json(json.clone()).unwrap()))
            .collect();
        let body = encode_fields(fields.iter().map(|(field, value)| (*field, value)));
        assert_eq!(to_hex(&body), case["hex"].as_str().unwrap(), "{}", case["fields"]);
        validate_record(&body).unwrap();
    }
}

#[test]
fn golden_refusals() {
    for case in vectors("invalid_values") {
        let bytes = from_hex(case["hex"].as_str().unwrap());
        let refused = format!("{:?}", decode_value(&bytes).expect_err(case["hex"].as_str().unwrap()));
        assert_eq!(refused, case["error"].as_str().unwrap(), "{case}");
        assert_eq!(format!("{:?}", validate_value(&bytes).unwrap_err()), refused, "{case}");
    }
    for case in vectors("invalid_records") {
        let refused = validate_record(&from_hex(case["hex"].as_str().unwrap())).unwrap_err();
        assert_eq!(format!("{refused:?}"), case["error"].as_str().unwrap(), "{case}");
    }
}

/// A bug report as it is when it is opened, with the field order of its schema.
const BUG: &str = r#"[
    ["number", "INC0000047"], ["status", "New"], ["active", true], ["product", "Category 40"],
    ["component", "Subcategory 215"], ["symptom", "Symptom 471"], ["impact", "2 - Medium"],
    ["urgency", "2 - Medium"], ["priority", "3 - Moderate"], ["priority_confirmed", false],
    ["team", "Group 70"], ["assigned_to", "b3e4a830-da11-51ef-9384-a304cb093812"],
    ["reporter", "899e4ffc-ee1d-5fb8-a80b-026204c17aac"], ["opened_by", "15d09e05-3a41-5502-987a-038747bee095"],
    ["opened_at", 1456720800000], ["contact_type", "Phone"], ["location", "Location 165"], ["knowledge", true],
    ["notify", "Do Not Notify"], ["made_sla", true], ["reassignment_count", 0], ["reopen_count", 0], ["mod_count", 0]
]"#;

/// Protobuf with a schema and explicit presence: key, length where there is one, content.
fn protobuf_len(field_no: usize, value: &Value) -> usize {
    let key = if field_no < 16 { 1 } else { 2 };
    match value {
        Value::String(text) => key + 1 + text.len(),
        Value::Int(int) => key + varint::varint_len(*int as u64),
        _ => key + 1,
    }
}

/// MessagePack and CBOR with names; they agree on records of this kind but for heads of one byte.
fn self_describing_len(name: &str, value: &Value) -> usize {
    let head = |len: usize| if len < 24 { 1 } else { 2 };
    let content = match value {
        Value::String(text) => head(text.len()) + text.len(),
        Value::Int(int) if *int > i64::from(u32::MAX) => 9,
        _ => 1,
    };
    head(name.len()) + name.len() + content
}

#[test]
fn a_real_record_is_smaller_than_in_other_formats() {
    let fields: Vec<(String, Json)> = serde_json::from_str(BUG).unwrap();
    let fields: Vec<(String, Value)> =
        fields.into_iter().map(|(name, json)| (name, value_from_json(json).unwrap())).collect();
    let body = encode_fields((0..).zip(fields.iter().map(|(_, value)| value)));
    let protobuf: usize = (1..).zip(&fields).map(|(no, (_, value))| protobuf_len(no, value)).sum();
    let named: usize = 1 + fields.iter().map(|(name, value)| self_describing_len(name, value)).sum::<usize>();
    assert_eq!((body.len(), protobuf, named), (221, 287, 489));
    assert!(body.len() <= protobuf);
    assert!(body.len() * 5 <= named * 4, "at least 20 % smaller");
}
