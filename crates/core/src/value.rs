//! What a field can hold.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time so many milliseconds after the Unix epoch.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1_000))
    }
}

/// The value of one field, as an application sees it.
///
/// [`Value::Counter`] and [`Value::Set`] are the visible side of mergeable fields; what makes them mergeable is
/// kept in their [cell](crate::cell::Cell).
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Nothing, on purpose. Not the same as a field that is not there.
    Null,
    /// True or false.
    Bool(bool),
    /// A 64-bit signed integer.
    Int(i64),
    /// A 64-bit float. NaN is not a value: see [`Value::float`].
    Float(f64),
    /// UTF-8 text.
    String(String),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// A UUID.
    Uuid(Uuid),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list of values.
    Array(Vec<Value>),
    /// Named values.
    Map(BTreeMap<String, Value>),
    /// An embedding.
    Vector(Vec<f32>),
    /// The sum of a mergeable counter.
    Counter(i64),
    /// The elements of a mergeable set, ascending by their encoding and without repetition.
    Set(Vec<Value>),
}

impl Value {
    /// A float value, or `None` for NaN, which equals nothing and so cannot be merged or indexed.
    #[must_use]
    pub fn float(value: f64) -> Option<Self> {
        (!value.is_nan()).then_some(Self::Float(value))
    }

    /// The name of the type, as error messages use it.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Uuid(_) => "uuid",
            Self::Timestamp(_) => "timestamp",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Vector(_) => "vector",
            Self::Counter(_) => "counter",
            Self::Set(_) => "set",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::json::value_to_json(self).fmt(f)
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

value_from! {
    bool => Bool, i64 => Int, i32 => Int, u32 => Int, u8 => Int, String => String, &str => String,
    Vec<u8> => Bytes, Uuid => Uuid, Timestamp => Timestamp, Vec<Value> => Array, BTreeMap<String, Value> => Map,
    Vec<f32> => Vector,
}

impl From<f64> for Value {
    /// NaN becomes [`Value::Null`]; use [`Value::float`] to be told.
    fn from(value: f64) -> Self {
        Self::float(value).unwrap_or(Self::Null)
    }
}

impl From<crate::RecordId> for Value {
    fn from(id: crate::RecordId) -> Self {
        Self::Uuid(id.0)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
