//! The JSON form of values, records and edits: what the CLI, the HTTP interface, import and export speak.
//!
//! Null, bool, int, float, string, array and map are themselves; an integer is a number without fraction or
//! exponent, a float one with. Every other type is an object with one `$` key: `{"$uuid": ".."}`,
//! `{"$time": RFC 3339}`, `{"$bytes": base64}`, `{"$counter": n}`, `{"$set": [..]}`, `{"$vector": [..]}`. In edits
//! there are also `{"$inc": n}`, `{"$add": [..]}` and `{"$remove": [..]}`.
//!
//! Invariant: nothing is lost. Reading what was written gives the same value, so what JSON has no words for is
//! tagged as well: infinities are `{"$float": "Infinity"}`, times outside the years 0 to 9999 are
//! `{"$time": microseconds}`, and a map that would read as a tag or an edit is `{"$map": {..}}`.

mod edits;
mod error;
mod read;
mod write;

pub use edits::{edits_from_json, record_from_json};
pub use error::{JsonError, JsonErrorKind};
pub use read::value_from_json;
pub use write::{record_to_json, record_to_json_line, value_to_json};

#[cfg(test)]
mod tests;
