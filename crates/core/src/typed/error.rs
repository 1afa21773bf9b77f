//! Why a Rust value and a record do not fit.

use std::fmt::Display;

use crate::RecordId;
use crate::limits::MAX_DEPTH;

/// A value can't become a record, or a record no value of a type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// A record has fields: its type is a struct, or a map with string keys.
    #[error("a record's type is a struct or a map with string keys")]
    NotFields,
    /// The field `id` is no record id.
    #[error("the field id is {0:?}, and a record's id is a uuid: give it the type RecordId")]
    Id(String),
    /// The key of a map is no string.
    #[error("a map's keys are strings")]
    Key,
    /// An integer that no i64 holds.
    #[error("{0} is more than a field can hold (a 64-bit signed integer)")]
    Integer(String),
    /// NaN.
    #[error("NaN is no value of a field; use an Option")]
    NotANumber,
    /// Too deep.
    #[error("values nest deeper than {MAX_DEPTH} levels")]
    Depth,
    /// A record that does not fit its type.
    #[error("record {id}: {problem}")]
    Record {
        /// The record.
        id: RecordId,
        /// What the type says.
        problem: String,
    },
    /// What the type's own code says.
    #[error("{0}")]
    Custom(String),
}

impl serde::ser::Error for TypedError {
    fn custom<T: Display>(text: T) -> Self {
        Self::Custom(text.to_string())
    }
}

impl serde::de::Error for TypedError {
    fn custom<T: Display>(text: T) -> Self {
        Self::Custom(text.to_string())
    }
}
