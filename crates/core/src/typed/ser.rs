//! From Rust values to field values.

use std::collections::BTreeMap;

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::TypedError;
use super::types::{COUNTER, SET, TIMESTAMP, UUID, uuid};
use crate::blazebinary::OwnedValue;
use crate::limits::MAX_DEPTH;
use crate::{Timestamp, Value};

/// Makes a [`Value`] at a depth of nesting.
#[derive(Clone, Copy)]
pub(super) struct ValueSerializer {
    pub(super) depth: usize,
}

/// A value, and the f32 that it was if it was one.
pub(super) struct Piece {
    pub(super) value: Value,
    float: Option<f32>,
}

impl From<Value> for Piece {
    fn from(value: Value) -> Self {
        Self { value, float: None }
    }
}

type Made = Result<Piece, TypedError>;

impl ValueSerializer {
    /// One level further in.
    fn inner(self) -> Result<Self, TypedError> {
        // The record itself is the first level, which no value counts.
        if self.depth > MAX_DEPTH { Err(TypedError::Depth) } else { Ok(Self { depth: self.depth + 1 }) }
    }

    fn list(self, variant: Option<&'static str>) -> Result<ListSerializer, TypedError> {
        Ok(ListSerializer { inner: self.inner()?, variant, elements: Vec::new(), floats: Some(Vec::new()) })
    }

    fn entries(self, variant: Option<&'static str>) -> Result<MapSerializer, TypedError> {
        Ok(MapSerializer { inner: self.inner()?, variant, entries: BTreeMap::new(), key: None })
    }
}

impl Serializer for ValueSerializer {
    type Ok = Piece;
    type Error = TypedError;
    type SerializeSeq = ListSerializer;
    type SerializeTuple = ListSerializer;
    type SerializeTupleStruct = ListSerializer;
    type SerializeTupleVariant = ListSerializer;
    type SerializeMap = MapSerializer;
    type SerializeStruct = MapSerializer;
    type SerializeStructVariant = MapSerializer;

    fn serialize_bool(self, value: bool) -> Made {
        Ok(Value::Bool(value).into())
    }

    fn serialize_i8(self, value: i8) -> Made {
        Ok(Value::Int(value.into()).into())
    }

    fn serialize_i16(self, value: i16) -> Made {
        Ok(Value::Int(value.into()).into())
    }

    fn serialize_i32(self, value: i32) -> Made {
        Ok(Value::Int(value.into()).into())
    }

    fn serialize_i64(self, value: i64) -> Made {
        Ok(Value::Int(value).into())
    }

    fn serialize_u8(self, value: u8) -> Made {
        Ok(Value::Int(value.into()).into())
    }

    fn serialize_u16(self, value: u16) -> Made {
        Ok(Value::Int(value.into()).into())
    }

    fn serialize_u32(self, value: u32) -> Made {
        Ok(Value::Int(value.into()).into())
    }

    fn serialize_u64(self, value: u64) -> Made {
        i64::try_from(value)
            .map(|int| Value::Int(int).into())
            .map_err(|_| TypedError::Integer(value.to_string()))
    }

    fn serialize_f32(self, value: f32) -> Made {
        Ok(Piece { float: Some(value), ..self.serialize_f64(value.into())? })
    }

    fn serialize_f64(self, value: f64) -> Made {
        Value::float(value).map(Piece::from).ok_or(TypedError::NotANumber)
    }

    fn serialize_char(self, value: char) -> Made {
        Ok(Value::String(value.to_string()).into())
    }

    fn serialize_str(self, text: &str) -> Made {
        Ok(Value::String(text.to_owned()).into())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Made {
        Ok(Value::Bytes(bytes.to_vec()).into())
    }

    fn serialize_none(self) -> Made {
        Ok(Value::Null.into())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Made {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Made {
        Ok(Value::Null.into())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Made {
        Ok(Value::Null.into())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Made {
        Ok(Value::String(variant.to_owned()).into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Made {
        let made = value.serialize(self)?.value;
        let value = match (name, made) {
            (UUID, Value::String(text)) => Value::Uuid(uuid(&text).ok_or(TypedError::Id(text))?),
            (TIMESTAMP, Value::Int(at)) => Value::Timestamp(Timestamp(at)),
            (COUNTER, Value::Int(sum)) => Value::Counter(sum),
            (SET, Value::Array(elements)) => set(elements),
            (SET, Value::Vector(elements)) => {
                set(elements.into_iter().map(|element| Value::Float(element.into())).collect())
            }
            (_, made) => made,
        };
        Ok(value.into())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Made {
        let value = value.serialize(self.inner()?)?.value;
        Ok(Value::Map(BTreeMap::from([(variant.to_owned(), value)])).into())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<ListSerializer, TypedError> {
        self.list(None)
    }

    fn serialize_tuple(self, _: usize) -> Result<ListSerializer, TypedError> {
        self.list(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<ListSerializer, TypedError> {
        self.list(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<ListSerializer, TypedError> {
        self.inner()?.list(Some(variant))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<MapSerializer, TypedError> {
        self.entries(None)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<MapSerializer, TypedError> {
        self.entries(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<MapSerializer, TypedError> {
        self.inner()?.entries(Some(variant))
    }
}

/// Ascending by encoding and without repetition, as a set's elements are.
fn set(elements: Vec<Value>) -> Value {
    let mut sorted: Vec<(OwnedValue, Value)> =
        elements.into_iter().map(|element| (OwnedValue::from(&element), element)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted.dedup_by(|a, b| a.0 == b.0);
    Value::Set(sorted.into_iter().map(|(_, element)| element).collect())
}

/// Wraps the content of an enum's variant.
fn in_variant(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        None => value,
        Some(variant) => Value::Map(BTreeMap::from([(variant.to_owned(), value)])),
    }
}

/// A sequence on its way. As long as all its elements are f32, it is a vector.
pub(super) struct ListSerializer {
    inner: ValueSerializer,
    variant: Option<&'static str>,
    elements: Vec<Value>,
    floats: Option<Vec<f32>>,
}

impl ListSerializer {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TypedError> {
        let Piece { value, float } = value.serialize(self.inner)?;
        self.floats = self.floats.take().zip(float).map(|(mut floats, float)| {
            floats.push(float);
            floats
        });
        self.elements.push(value);
        Ok(())
    }

    fn finish(self) -> Value {
        let list = match self.floats {
            Some(floats) if !floats.is_empty() => Value::Vector(floats),
            _ => Value::Array(self.elements),
        };
        in_variant(self.variant, list)
    }
}

macro_rules! list {
    ($($of:ident $push:ident),*) => {
        $(impl $of for ListSerializer {
            type Ok = Piece;
            type Error = TypedError;

            fn $push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TypedError> {
                self.push(value)
            }

            fn end(self) -> Made {
                Ok(self.finish().into())
            }
        })*
    };
}

list!(
    SerializeSeq serialize_element, SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field
);

/// A map on its way.
pub(super) struct MapSerializer {
    inner: ValueSerializer,
    variant: Option<&'static str>,
    entries: BTreeMap<String, Value>,
    key: Option<String>,
}

impl MapSerializer {
    fn put<T: Serialize + ?Sized>(&mut self, key: String, value: &T) -> Result<(), TypedError> {
        self.entries.insert(key, value.serialize(self.inner)?.value);
        Ok(())
    }
}

impl SerializeMap for MapSerializer {
    type Ok = Piece;
    type Error = TypedError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), TypedError> {
        self.key = Some(match key.serialize(self.inner)?.value {
            Value::String(text) => text,
            Value::Uuid(uuid) => uuid.to_string(),
            Value::Int(int) => int.to_string(),
            _ => return Err(TypedError::Key),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TypedError> {
        let key = self.key.take().ok_or(TypedError::Key)?;
        self.put(key, value)
    }

    fn end(self) -> Made {
        Ok(in_variant(self.variant, Value::Map(self.entries)).into())
    }
}

macro_rules! fields {
    ($($of:ident),*) => {
        $(impl $of for MapSerializer {
            type Ok = Piece;
            type Error = TypedError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), TypedError> {
                self.put(key.to_owned(), value)
            }

            fn end(self) -> Made {
                SerializeMap::end(self)
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);
