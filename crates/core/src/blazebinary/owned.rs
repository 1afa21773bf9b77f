//! An encoded value that owns its bytes: what cells hold between disk and wire.

use super::raw::RawValue;
use super::value::encode_value;
use crate::value::Value;

/// An encoded value. Ordered by encoding, as the elements of a set are; equal bytes are equal values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OwnedValue(Box<[u8]>);

impl OwnedValue {
    /// The value, borrowed.
    #[must_use]
    pub fn as_raw(&self) -> RawValue<'_> {
        RawValue::parse(&self.0).unwrap_or(RawValue::NULL)
    }

    /// The value, decoded.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.as_raw().decode().unwrap_or(Value::Null)
    }
}

impl From<RawValue<'_>> for OwnedValue {
    fn from(raw: RawValue<'_>) -> Self {
        let mut bytes = Vec::with_capacity(raw.encoded_len());
        raw.encode_into(&mut bytes);
        Self(bytes.into())
    }
}

impl From<&Value> for OwnedValue {
    fn from(value: &Value) -> Self {
        let mut bytes = Vec::new();
        encode_value(value, &mut bytes);
        Self(bytes.into())
    }
}
