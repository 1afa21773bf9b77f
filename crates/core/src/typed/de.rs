//! From field values to Rust values.

use std::collections::btree_map;

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, Unexpected, VariantAccess,
    Visitor,
};

use super::TypedError;
use crate::{RecordId, Timestamp, Value};

/// Reads a [`Value`].
pub struct ValueDeserializer(pub(super) Value);

impl IntoDeserializer<'_, TypedError> for Value {
    type Deserializer = ValueDeserializer;

    fn into_deserializer(self) -> ValueDeserializer {
        ValueDeserializer(self)
    }
}

impl<'de> Deserializer<'de> for ValueDeserializer {
    type Error = TypedError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypedError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(int) | Value::Counter(int) | Value::Timestamp(Timestamp(int)) => {
                visitor.visit_i64(int)
            }
            Value::Float(float) => visitor.visit_f64(float),
            Value::String(text) => visitor.visit_string(text),
            Value::Bytes(bytes) => visitor.visit_byte_buf(bytes),
            Value::Uuid(uuid) => visitor.visit_string(RecordId(uuid).to_string()),
            Value::Array(elements) | Value::Set(elements) => {
                visitor.visit_seq(SeqDeserializer::new(elements.into_iter()))
            }
            Value::Vector(elements) => visitor.visit_seq(SeqDeserializer::new(elements.into_iter())),
            Value::Map(entries) => visitor.visit_map(MapDeserializer::new(entries.into_iter())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypedError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypedError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypedError> {
        let (name, content) = match self.0 {
            Value::String(name) => (name, None),
            Value::Map(entries) => single(entries.into_iter())
                .map(|(name, value)| (name, Some(value)))
                .ok_or_else(|| TypedError::custom("a variant is a text or a map of one entry"))?,
            other => {
                let found = Unexpected::Other(other.type_name());
                return Err(TypedError::invalid_type(found, &"a variant: a text or a map of one entry"));
            }
        };
        visitor.visit_enum(Variant { name, content })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

fn single(mut entries: btree_map::IntoIter<String, Value>) -> Option<(String, Value)> {
    let first = entries.next()?;
    entries.next().is_none().then_some(first)
}

/// A variant of an enum: its name, and what it holds.
struct Variant {
    name: String,
    content: Option<Value>,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = TypedError;
    type Variant = Content;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content), TypedError> {
        let name: StringDeserializer<TypedError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Content(self.content)))
    }
}

struct Content(Option<Value>);

impl Content {
    fn value(self) -> Result<ValueDeserializer, TypedError> {
        self.0.map(ValueDeserializer).ok_or_else(|| TypedError::custom("the variant holds nothing"))
    }
}

impl<'de> VariantAccess<'de> for Content {
    type Error = TypedError;

    fn unit_variant(self) -> Result<(), TypedError> {
        match self.0 {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(TypedError::custom("the variant holds something")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, TypedError> {
        seed.deserialize(self.value()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, TypedError> {
        self.value()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypedError> {
        self.value()?.deserialize_map(visitor)
    }
}
