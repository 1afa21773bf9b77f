//! The JSON form of records and edits: what goes in comes out, and what is refused names its field.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::blazebinary::strategies;
use crate::limits::{MAX_DEPTH, MAX_FIELD_NAME_BYTES};
use crate::{FieldEdit, Record, RecordId, Timestamp, Value};

fn through_text(json: &Json) -> Json {
    serde_json::from_str(&json.to_string()).unwrap()
}

fn error_of(json: Json) -> String {
    edits_from_json(json).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn a_value_survives_its_json_text(value in strategies::value()) {
        prop_assert_eq!(value_from_json(through_text(&value_to_json(&value))), Ok(value));
    }

    #[test]
    fn a_record_survives_export_and_import(
        id: u128,
        fields in prop::collection::btree_map("[a-h\"\\\\é]{3,9}", strategies::value(), 0..6),
    ) {
        let record = Record { id: RecordId::from_bytes(id.to_be_bytes()), fields };
        let mut line = String::new();
        record_to_json_line(&record, &mut line);
        prop_assert!(!line.contains('\n'));
        let json: Json = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(&json, &record_to_json(&record));
        let (read_id, edits) = record_from_json(json).unwrap();
        prop_assert_eq!(read_id, Some(record.id));
        let set: BTreeMap<_, _> =
            record.fields.into_iter().map(|(name, value)| (name, FieldEdit::Set(value))).collect();
        prop_assert_eq!(edits, set);
    }
}

#[test]
fn each_type_has_its_form() {
    let time = Timestamp(1_456_708_560_123_400);
    let map = |key: &str| Value::Map(BTreeMap::from([(key.to_owned(), Value::Int(1))]));
    for (value, json) in [
        (Value::Float(1.0), json!(1.0)),
        (Value::Int(i64::MIN), json!(i64::MIN)),
        (Value::Float(f64::NEG_INFINITY), json!({ "$float": "-Infinity" })),
        (Value::Bytes(vec![0xff, 0]), json!({ "$bytes": "/wA=" })),
        (Value::Timestamp(time), json!({ "$time": "2016-02-29T01:16:00.1234Z" })),
        (Value::Timestamp(Timestamp(i64::MAX)), json!({ "$time": i64::MAX })),
        (Value::Counter(-5), json!({ "$counter": -5 })),
        (Value::Set(vec!["a".into(), "b".into()]), json!({ "$set": ["a", "b"] })),
        (Value::Vector(vec![0.1, 2.0]), json!({ "$vector": [0.1, 2.0] })),
        (map("a"), json!({ "a": 1 })),
        (map("$uuid"), json!({ "$map": { "$uuid": 1 } })),
        (map("$add"), json!({ "$map": { "$add": 1 } })),
    ] {
        assert_eq!(value_to_json(&value), json);
        assert_eq!(value_from_json(json), Ok(value));
    }
    assert_eq!(value_to_json(&Value::Float(1.0)).to_string(), "1.0");
}

#[test]
fn input_is_brought_into_one_form() {
    let read = |json| value_from_json(json).unwrap();
    assert_eq!(read(json!({ "$set": ["b", "a", "b"] })), Value::Set(vec!["a".into(), "b".into()]));
    assert_eq!(read(json!({ "$time": "1970-01-01T01:00:00+01:00" })), Value::Timestamp(Timestamp(0)));
    assert_eq!(read(json!(-0.0)).to_string(), "0.0");
}

#[test]
fn an_edit_is_told_from_a_value() {
    let edits = edits_from_json(json!({
        "a": { "$inc": -2 },
        "b": { "$add": ["y", "x"], "$remove": [1] },
        "c": { "$remove": ["z"] },
        "d": { "$counter": 5 },
        "e": null,
    }))
    .unwrap();
    assert_eq!(edits["a"], FieldEdit::Increment(-2));
    let (add, remove) = (vec!["x".into(), "y".into()], vec![Value::Int(1)]);
    assert_eq!(edits["b"], FieldEdit::SetEdit { add, remove });
    assert_eq!(edits["c"], FieldEdit::SetEdit { add: vec![], remove: vec!["z".into()] });
    assert_eq!(edits["d"], FieldEdit::Set(Value::Counter(5)));
    assert_eq!(edits["e"], FieldEdit::Set(Value::Null));
}

#[test]
fn errors_name_the_field() {
    assert_eq!(error_of(json!({ "a": { "b": [{ "$uid": "" }] } })), "a.b[0]: unknown type tag \"$uid\"");
    assert_eq!(error_of(json!({ "a": { "$uuid": "x" } })), "a: $uuid takes the text of a UUID");
    assert_eq!(
        error_of(json!({ "a": { "$set": [1, { "$counter": 1.5 }] } })),
        "a.$set[1]: $counter takes a 64-bit integer"
    );
    assert_eq!(
        error_of(json!({ "a": [{ "$inc": 1 }] })),
        "a[0]: $inc changes a field and can't stand inside a value"
    );
    assert_eq!(error_of(json!({ "a": { "$inc": "1" } })), "a: $inc takes a 64-bit integer");
    assert_eq!(
        error_of(json!({ "a": u64::MAX })),
        "a: the number 18446744073709551615 does not fit a signed 64-bit integer"
    );
    assert_eq!(error_of(json!([])), "a record must be a JSON object of fields");
    for time in ["2016-02-29", "2016-02-29T01:16:00", "2016-02-29T01:16:00.1234567Z"] {
        assert!(error_of(json!({ "a": { "$time": time } })).starts_with("a: $time takes"), "{time}");
    }
    assert!(error_of(json!({ "a": { "$bytes": "/wA" } })).starts_with("a: $bytes takes"));
    assert!(error_of(json!({ "a": { "$vector": [1e39] } })).starts_with("a: $vector takes"));
}

#[test]
fn names_and_ids_are_checked() {
    assert!(matches!(edits_from_json(json!({ "id": 1 })).unwrap_err().kind, JsonErrorKind::ReservedId));
    assert!(matches!(record_from_json(json!({ "id": "x" })).unwrap_err().kind, JsonErrorKind::BadId));
    assert!(matches!(record_from_json(json!({ "id": 7 })).unwrap_err().kind, JsonErrorKind::BadId));
    assert_eq!(record_from_json(json!({ "a": 1 })).unwrap().0, None);
    assert!(matches!(edits_from_json(json!({ "": 1 })).unwrap_err().kind, JsonErrorKind::FieldNameLength));
    assert!(matches!(edits_from_json(json!({ "$a": 1 })).unwrap_err().kind, JsonErrorKind::FieldNameDollar));
    let name = |len: usize| Json::Object([("n".repeat(len), Json::Null)].into_iter().collect());
    assert!(edits_from_json(name(MAX_FIELD_NAME_BYTES)).is_ok());
    assert!(edits_from_json(name(MAX_FIELD_NAME_BYTES + 1)).is_err());
}

#[test]
fn depth_is_bounded_as_in_the_encoding() {
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert!(value_from_json(nested(MAX_DEPTH)).is_ok());
    assert_eq!(value_from_json(nested(MAX_DEPTH + 1)).unwrap_err().kind, JsonErrorKind::TooDeep);
}
