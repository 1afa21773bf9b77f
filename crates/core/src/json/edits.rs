//! JSON as edits: what insert, update, import and replay are given.

use serde_json::{Map, Value as Json};

use super::error::{JsonError, JsonErrorKind};
use super::read::{set_at, value_from_json};
use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELDS};
use crate::{FieldEdit, FieldEdits, RecordId};

/// A record for insert or import: its id, if it brings one, and its fields as edits.
///
/// # Errors
/// [`JsonError`] with the path to what is wrong: not an object, an id that is no UUID, a field name that is empty,
/// too long or starts with `$`, too many fields, and whatever [`value_from_json`] refuses.
pub fn record_from_json(json: Json) -> Result<(Option<RecordId>, FieldEdits), JsonError> {
    let mut object = object(json)?;
    let id = object.remove("id").map(|id| record_id(&id)).transpose()?;
    Ok((id, edits(object)?))
}

/// The edits of an update.
///
/// ```
/// use blazedb_core::{FieldEdit, Value, json::edits_from_json};
/// let edits = edits_from_json(serde_json::json!({ "status": "closed", "votes": { "$inc": 1 } })).unwrap();
/// assert_eq!(edits["status"], FieldEdit::Set(Value::from("closed")));
/// assert_eq!(edits["votes"], FieldEdit::Increment(1));
/// ```
///
/// # Errors
/// As [`record_from_json`], and [`JsonErrorKind::ReservedId`] if the edits name the id.
pub fn edits_from_json(json: Json) -> Result<FieldEdits, JsonError> {
    edits(object(json)?)
}

fn object(json: Json) -> Result<Map<String, Json>, JsonError> {
    match json {
        Json::Object(object) => Ok(object),
        _ => Err(JsonErrorKind::NotAnObject.into()),
    }
}

fn record_id(json: &Json) -> Result<RecordId, JsonError> {
    json.as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| JsonError::new(JsonErrorKind::BadId).at_key("id"))
}

fn edits(object: Map<String, Json>) -> Result<FieldEdits, JsonError> {
    if object.len() > MAX_FIELDS {
        return Err(JsonErrorKind::TooManyFields.into());
    }
    let named = |(name, json): (String, Json)| match check_name(&name).and_then(|()| edit(json)) {
        Ok(edit) => Ok((name, edit)),
        Err(error) => Err(error.at_key(&name)),
    };
    object.into_iter().map(named).collect()
}

fn check_name(name: &str) -> Result<(), JsonError> {
    if name == "id" {
        return Err(JsonErrorKind::ReservedId.into());
    }
    if name.is_empty() || name.len() > MAX_FIELD_NAME_BYTES {
        return Err(JsonErrorKind::FieldNameLength.into());
    }
    if name.starts_with('$') {
        return Err(JsonErrorKind::FieldNameDollar.into());
    }
    Ok(())
}

fn edit(json: Json) -> Result<FieldEdit, JsonError> {
    match json {
        Json::Object(object) if is_set_edit(&object) => set_edit(object),
        Json::Object(object) if object.len() == 1 && object.contains_key("$inc") => {
            match object.get("$inc").and_then(Json::as_i64) {
                Some(amount) => Ok(FieldEdit::Increment(amount)),
                None => Err(JsonErrorKind::BadContent { tag: "$inc", expected: "a 64-bit integer" }.into()),
            }
        }
        json => value_from_json(json).map(FieldEdit::Set),
    }
}

/// Whether a field with this content is a change of a set. It may have both keys.
pub(super) fn is_set_edit(object: &Map<String, Json>) -> bool {
    !object.is_empty() && object.keys().all(|key| key == "$add" || key == "$remove")
}

fn set_edit(mut object: Map<String, Json>) -> Result<FieldEdit, JsonError> {
    let add = elements("$add", object.remove("$add"))?;
    let remove = elements("$remove", object.remove("$remove"))?;
    Ok(FieldEdit::SetEdit { add, remove })
}

fn elements(tag: &'static str, json: Option<Json>) -> Result<Vec<crate::Value>, JsonError> {
    match json {
        None => Ok(Vec::new()),
        Some(Json::Array(items)) => set_at(items, 0).map_err(|error| error.at_key(tag)),
        Some(_) => Err(JsonErrorKind::BadContent { tag, expected: "an array" }.into()),
    }
}
