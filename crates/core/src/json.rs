//! The JSON form of values and records.

use crate::Value;

/// A value as JSON.
#[must_use]
pub fn value_to_json(_value: &Value) -> serde_json::Value {
    serde_json::Value::Null
}
