//! Records as Rust types, through serde: `#[derive(Serialize, Deserialize)]` is all that a type needs.
//!
//! | Rust | field |
//! |---|---|
//! | `bool`, integers, `f32`/`f64`, `String`, `char` | bool, int, float, string |
//! | `Option::None`, `()` | null; a field that is missing is read as `None` too |
//! | `RecordId`, `Timestamp` | uuid, timestamp |
//! | [`Bytes`], [`Counter`], [`Set`] | bytes, counter, set |
//! | `Vec<f32>` | vector; every other sequence is an array |
//! | structs, maps with string keys | map |
//! | enums | as in JSON: a variant without content is its name, any other a map of one entry |
//!
//! A field `id: RecordId` of the type is the record's id. Invariant: what a value of a type was written as reads
//! back as an equal value.

mod de;
mod error;
mod ser;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Record, RecordId, Value};

pub use error::TypedError;
pub use types::{Bytes, Counter, Set};

/// The fields of a value of a struct or map type, and its field `id` if it has one.
///
/// # Errors
/// [`TypedError`] names the field that has no place in a record.
pub fn to_fields<T: Serialize + ?Sized>(
    value: &T,
) -> Result<(Option<RecordId>, BTreeMap<String, Value>), TypedError> {
    let Value::Map(mut fields) = value.serialize(ser::ValueSerializer { depth: 0 })?.value else {
        return Err(TypedError::NotFields);
    };
    let id = match fields.remove("id") {
        None | Some(Value::Null) => None,
        Some(Value::Uuid(uuid)) => Some(RecordId(uuid)),
        Some(Value::String(text)) => Some(text.parse().map_err(|_| TypedError::Id(text))?),
        Some(other) => return Err(TypedError::Id(other.type_name().to_owned())),
    };
    Ok((id, fields))
}

/// A record as a value of a type.
///
/// # Errors
/// [`TypedError`] names the record and the field that does not fit.
pub fn from_record<T: DeserializeOwned>(record: Record) -> Result<T, TypedError> {
    let Record { id, mut fields } = record;
    fields.insert("id".to_owned(), Value::Uuid(id.0));
    T::deserialize(de::ValueDeserializer(Value::Map(fields)))
        .map_err(|error| TypedError::Record { id, problem: error.to_string() })
}
