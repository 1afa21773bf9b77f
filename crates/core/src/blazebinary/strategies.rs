//! What the property tests draw: any value, and any value's worth of fields.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::{FieldNo, sort_set};
use crate::{Timestamp, Value};

/// Integers of every magnitude; a plain `any` would hardly ever draw a short one.
fn integer() -> impl Strategy<Value = i64> {
    (any::<i64>(), 0u32..64).prop_map(|(value, shift)| value >> shift)
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<i16>().prop_map(f64::from),
        any::<f32>().prop_map(f64::from),
        any::<f64>(),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
    ]
    .prop_map(|value| if value.is_nan() { 0.0 } else { value + 0.0 })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,10}",
        "[a-z ]{60,70}",
        any::<u128>().prop_map(|bits| Uuid::from_u128(bits).to_string()),
        any::<u128>().prop_map(|bits| Uuid::from_u128(bits).to_string().to_uppercase()),
    ]
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (integer(), prop::sample::select(vec![1, 1_000, 1_000_000]))
        .prop_map(|(count, unit): (i64, i64)| Timestamp(count.wrapping_mul(unit)))
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        integer().prop_map(Value::Int),
        (-10i64..60).prop_map(Value::Int),
        float().prop_map(Value::Float),
        text().prop_map(Value::String),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Value::Bytes),
        any::<u128>().prop_map(|bits| Value::Uuid(Uuid::from_u128(bits))),
        timestamp().prop_map(Value::Timestamp),
        prop::collection::vec(any::<f32>().prop_map(|x| if x.is_nan() { 1.5 } else { x + 0.0 }), 0..9)
            .prop_map(Value::Vector),
        integer().prop_map(Value::Counter),
    ]
}

/// Any value in the form that decoding yields (sets sorted, no -0.0).
pub(crate) fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map("[a-z$]{0,4}", inner.clone(), 0..6).prop_map(Value::Map),
            prop::collection::vec(inner, 0..6).prop_map(|mut items| {
                sort_set(&mut items);
                Value::Set(items)
            }),
        ]
    })
}

/// The fields of a record: mostly small numbers, some up to the last.
pub(crate) fn fields() -> impl Strategy<Value = BTreeMap<FieldNo, Value>> {
    let number = prop_oneof![8 => 0u32..40, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    prop::collection::btree_map(number, value(), 0..24)
}
