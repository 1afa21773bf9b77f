//! Encoding, decoding and strict checking of single values.
//!
//! An encoded value is a tag, a varint length where the tag carries none, and a payload. What a tag means is in
//! `tag.rs`; how a payload that is not a composite is read is in `raw.rs`.

use std::collections::BTreeMap;

use super::raw::{RawValue, Scalar, uuid_of_text};
use super::varint::{Reader, varint_len, write_prefixed, zigzag};
use super::{DecodeError, EncodeError, tag};
use crate::limits::{MAX_DEPTH, MAX_SET_ELEMENTS};
use crate::{Timestamp, Value};

/// Appends the canonical encoding of `value`.
///
/// `-0.0` is written as `0.0`; NaN and a vector that holds one are written as null. The limits of depth and of set
/// size are not checked here: see [`check_value`].
///
/// ```
/// use blazedb_core::{Value, blazebinary::{decode_value, encode_value}};
/// let mut bytes = Vec::new();
/// encode_value(&Value::from("crash"), &mut bytes);
/// assert_eq!(bytes, b"\x05crash");
/// assert_eq!(decode_value(&bytes), Ok(Value::from("crash")));
/// ```
pub fn encode_value(value: &Value, out: &mut Vec<u8>) {
    let start = out.len();
    out.push(0);
    let tag = encode_payload(value, out);
    if let Some(slot) = out.get_mut(start) {
        *slot = tag;
    }
    if tag::payload_len(tag) == tag::EXPLICIT {
        insert_length(out, start + 1);
    }
}

/// Puts the length of what stands at `start..` in front of it.
fn insert_length(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    let mut len = (end - start) as u64;
    let width = varint_len(len);
    out.resize(end + width, 0);
    out.copy_within(start..end, start + width);
    let last = start + width - 1;
    for (at, slot) in out.iter_mut().enumerate().skip(start).take(width) {
        *slot = (len & 0x7f) as u8 | if at == last { 0 } else { 0x80 };
        len >>= 7;
    }
}

/// Checks the limits that [`encode_value`] does not.
///
/// # Errors
/// [`EncodeError::TooDeep`] beyond [`MAX_DEPTH`] nested arrays, maps and sets; [`EncodeError::SetTooLarge`] beyond
/// [`MAX_SET_ELEMENTS`].
#[inline]
pub fn check_value(value: &Value) -> Result<(), EncodeError> {
    match value {
        Value::Array(_) | Value::Set(_) | Value::Map(_) => check_at(value, 0),
        _ => Ok(()),
    }
}

fn check_at(value: &Value, depth: usize) -> Result<(), EncodeError> {
    if !matches!(value, Value::Array(_) | Value::Set(_) | Value::Map(_)) {
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(EncodeError::TooDeep);
    }
    match value {
        Value::Set(items) if items.len() > MAX_SET_ELEMENTS => Err(EncodeError::SetTooLarge),
        Value::Array(items) | Value::Set(items) => {
            items.iter().try_for_each(|item| check_at(item, depth + 1))
        }
        Value::Map(map) => map.values().try_for_each(|item| check_at(item, depth + 1)),
        _ => Ok(()),
    }
}

/// Appends the payload of `value` and returns its tag.
#[inline]
pub(super) fn encode_payload(value: &Value, out: &mut Vec<u8>) -> u8 {
    match value {
        Value::Null => tag::NULL,
        Value::Bool(false) => tag::FALSE,
        Value::Bool(true) => tag::TRUE,
        Value::Int(value) => encode_int(*value, out),
        Value::Float(value) => encode_float(*value, out),
        Value::String(text) => encode_text(text, out),
        Value::Bytes(bytes) => {
            out.extend_from_slice(bytes);
            tag::BYTES
        }
        Value::Uuid(uuid) => {
            out.extend_from_slice(uuid.as_bytes());
            tag::UUID
        }
        Value::Timestamp(time) => encode_timestamp(*time, out),
        Value::Array(items) => {
            items.iter().for_each(|item| encode_value(item, out));
            tag::ARRAY
        }
        Value::Map(map) => {
            for (key, item) in map {
                write_prefixed(key.as_bytes(), out);
                encode_value(item, out);
            }
            tag::MAP
        }
        Value::Vector(vector) => encode_vector(vector, out),
        Value::Counter(sum) => tag::COUNTER + encode_minimal(*sum, out),
        Value::Set(items) => encode_set(items, out),
    }
}

/// Appends the zigzag form of `value`, big-endian without leading zeros, and returns its length: 0 to 8.
#[inline]
fn encode_minimal(value: i64, out: &mut Vec<u8>) -> u8 {
    let bits = zigzag(value);
    let zeros = bits.leading_zeros() / 8;
    push_leading(bits.checked_shl(zeros * 8).unwrap_or(0), 8 - zeros, out)
}

/// Appends the first `len` bytes of `bits`, big-endian, and returns `len`: at most 8.
#[inline]
fn push_leading(bits: u64, len: u32, out: &mut Vec<u8>) -> u8 {
    // A whole word is written and cut: its length is known to the compiler, that of the bytes wanted isn't.
    let end = out.len() + len as usize;
    out.extend_from_slice(&bits.to_be_bytes());
    out.truncate(end);
    len as u8
}

#[inline]
fn encode_int(value: i64, out: &mut Vec<u8>) -> u8 {
    if (tag::SMALL_INT_MIN..=tag::SMALL_INT_MAX).contains(&value) {
        return tag::SMALL_INT + (value - tag::SMALL_INT_MIN) as u8;
    }
    tag::INT + encode_minimal(value, out)
}

fn encode_float(value: f64, out: &mut Vec<u8>) -> u8 {
    if value.is_nan() {
        return tag::NULL;
    }
    // Adding positive zero turns -0.0 into 0.0 and changes nothing else.
    let bits = (value + 0.0).to_bits();
    let len = 8 - bits.trailing_zeros().min(64) / 8;
    tag::FLOAT + push_leading(bits, len, out)
}

#[inline]
fn encode_text(text: &str, out: &mut Vec<u8>) -> u8 {
    if let Some(uuid) = uuid_of_text(text.as_bytes()) {
        out.extend_from_slice(&uuid);
        return tag::UUID_TEXT;
    }
    out.extend_from_slice(text.as_bytes());
    if text.len() <= tag::SHORT_STRING_MAX { text.len() as u8 } else { tag::STRING }
}

fn encode_timestamp(Timestamp(micros): Timestamp, out: &mut Vec<u8>) -> u8 {
    if micros % 1_000 != 0 {
        return tag::MICROS + encode_minimal(micros, out);
    }
    if micros % 1_000_000 != 0 {
        return tag::MILLIS + encode_minimal(micros / 1_000, out);
    }
    tag::SECONDS + encode_minimal(micros / 1_000_000, out)
}

fn encode_vector(vector: &[f32], out: &mut Vec<u8>) -> u8 {
    if vector.iter().any(|element| element.is_nan()) {
        return tag::NULL;
    }
    out.reserve(vector.len() * 4);
    for element in vector {
        out.extend_from_slice(&(element + 0.0).to_le_bytes());
    }
    tag::VECTOR
}

/// Sets usually arrive sorted; only one that does not is encoded a second time, apart.
fn encode_set(items: &[Value], out: &mut Vec<u8>) -> u8 {
    let start = out.len();
    let mut last = start..start;
    for item in items {
        let from = out.len();
        encode_value(item, out);
        if from != start && out.get(last) >= out.get(from..) {
            out.truncate(start);
            sorted_encodings(items).iter().for_each(|item| out.extend_from_slice(item));
            return tag::SET;
        }
        last = from..out.len();
    }
    tag::SET
}

fn sorted_encodings(items: &[Value]) -> Vec<Vec<u8>> {
    let mut encodings: Vec<Vec<u8>> = items.iter().map(encoded).collect();
    encodings.sort_unstable();
    encodings.dedup();
    encodings
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_value(value, &mut bytes);
    bytes
}

/// Puts elements into the order of a [`Value::Set`]: ascending by encoding, without repetition.
pub fn sort_set(items: &mut Vec<Value>) {
    items.sort_by_cached_key(encoded);
    items.dedup_by(|a, b| encoded(a) == encoded(b));
}

/// Decodes what [`encode_value`] wrote; accepts nothing else.
///
/// # Errors
/// Any [`DecodeError`]: the bytes must be one value in canonical form.
pub fn decode_value(bytes: &[u8]) -> Result<Value, DecodeError> {
    RawValue::parse(bytes)?.decode()
}

/// Decodes one value off a reader.
///
/// # Errors
/// As [`decode_value`], except that bytes may follow.
pub fn read_value(reader: &mut Reader<'_>) -> Result<Value, DecodeError> {
    RawValue::read(reader)?.decode()
}

/// Checks strictly, without allocating, that the bytes are one value in canonical form.
///
/// # Errors
/// Any [`DecodeError`]; the same as [`decode_value`].
pub fn validate_value(bytes: &[u8]) -> Result<(), DecodeError> {
    RawValue::parse(bytes)?.validate()
}

/// A tag and the length of its payload.
#[inline]
pub(super) fn read_head(reader: &mut Reader<'_>) -> Result<(u8, usize), DecodeError> {
    let tag = reader.read_u8()?;
    match tag::payload_len(tag) {
        tag::EXPLICIT => Ok((tag, usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX))),
        tag::UNKNOWN => Err(DecodeError::UnknownTag(tag)),
        len => Ok((tag, usize::from(len))),
    }
}

pub(super) fn decode_at(raw: RawValue<'_>, depth: usize) -> Result<Value, DecodeError> {
    if let Some(value) = raw.scalar()?.to_value() {
        return Ok(value);
    }
    if raw.tag == tag::VECTOR {
        return vector_elements(raw.payload)?.collect::<Result<_, _>>().map(Value::Vector);
    }
    let mut items = Vec::new();
    let mut map = BTreeMap::new();
    walk_composite(raw, depth, |key, item| {
        let value = decode_at(item, depth + 1)?;
        match key {
            Some(key) => drop(map.insert(key.to_owned(), value)),
            None => items.push(value),
        }
        Ok(())
    })?;
    Ok(match raw.tag {
        tag::MAP => Value::Map(map),
        tag::SET => Value::Set(items),
        _ => Value::Array(items),
    })
}

#[inline]
pub(super) fn validate_at(raw: RawValue<'_>, depth: usize) -> Result<(), DecodeError> {
    match raw.scalar()? {
        Scalar::Composite if raw.tag == tag::VECTOR => {
            vector_elements(raw.payload)?.try_for_each(|element| element.map(drop))
        }
        Scalar::Composite => walk_composite(raw, depth, |_, item| validate_at(item, depth + 1)),
        _ => Ok(()),
    }
}

/// Calls `visit` for each element of an array, map (with its key) or set, and checks depth and order.
fn walk_composite<'a>(
    raw: RawValue<'a>,
    depth: usize,
    mut visit: impl FnMut(Option<&'a str>, RawValue<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if depth == MAX_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    if let Some(entries) = raw.entries() {
        let mut last = None;
        for entry in entries {
            let (key, item) = entry?;
            if last.is_some_and(|last| last >= key) {
                return Err(DecodeError::UnsortedKeys);
            }
            last = Some(key);
            visit(Some(key), item)?;
        }
        return Ok(());
    }
    if raw.tag == tag::SET {
        check_set_order(raw.payload)?;
    }
    raw.elements().into_iter().flatten().try_for_each(|item| visit(None, item?))
}

fn check_set_order(payload: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(payload);
    let mut last: &[u8] = &[];
    let mut count = 0;
    while !reader.is_empty() {
        let rest = reader.rest();
        RawValue::read(&mut reader)?;
        let (item, _) =
            rest.split_at_checked(rest.len() - reader.remaining()).ok_or(DecodeError::Truncated)?;
        if last >= item {
            return Err(DecodeError::UnsortedSet);
        }
        last = item;
        count += 1;
    }
    if count > MAX_SET_ELEMENTS { Err(DecodeError::SetTooLarge) } else { Ok(()) }
}

fn vector_elements(payload: &[u8]) -> Result<impl Iterator<Item = Result<f32, DecodeError>>, DecodeError> {
    let (elements, rest) = payload.as_chunks();
    if !rest.is_empty() {
        return Err(DecodeError::VectorLength);
    }
    Ok(elements.iter().map(|bytes| {
        let element = f32::from_le_bytes(*bytes);
        if element.is_nan() {
            return Err(DecodeError::NotANumber);
        }
        if element == 0.0 && element.is_sign_negative() {
            return Err(DecodeError::NegativeZero);
        }
        Ok(element)
    }))
}

#[cfg(test)]
mod tests {
    use super::super::strategies;
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Int(1), |inner, _| Value::Array(vec![inner]))
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(value in strategies::value()) {
            let bytes = encoded(&value);
            prop_assert_eq!(validate_value(&bytes), Ok(()));
            prop_assert_eq!(decode_value(&bytes), Ok(value));
            prop_assert_eq!(RawValue::parse(&bytes).unwrap().encoded_len(), bytes.len());
        }

        #[test]
        fn equal_bytes_are_equal_values_and_the_reverse(a in strategies::value(), b in strategies::value()) {
            prop_assert_eq!(a == b, encoded(&a) == encoded(&b));
        }

        #[test]
        fn whatever_is_accepted_encodes_back_to_the_same_bytes(
            value in strategies::value(),
            at: prop::sample::Index,
            replacement: u8,
            noise in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut mutated = encoded(&value);
            let at = at.index(mutated.len());
            mutated[at] = replacement;
            for bytes in [mutated, noise] {
                let decoded = decode_value(&bytes);
                prop_assert_eq!(decoded.clone().map(drop), validate_value(&bytes));
                if let Ok(value) = decoded {
                    prop_assert_eq!(encoded(&value), bytes);
                }
            }
        }

        #[test]
        fn a_proper_prefix_of_an_encoding_is_no_encoding(value in strategies::value(), cut: prop::sample::Index) {
            let bytes = encoded(&value);
            prop_assert!(validate_value(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn the_order_in_which_a_set_is_given_does_not_matter(
            mut items in prop::collection::vec(strategies::value(), 0..6),
        ) {
            let given = encoded(&Value::Set(items.clone()));
            items.reverse();
            items.extend(items.clone());
            prop_assert_eq!(&encoded(&Value::Set(items.clone())), &given);
            sort_set(&mut items);
            prop_assert_eq!(decode_value(&given), Ok(Value::Set(items)));
        }

        #[test]
        fn text_of_uuids_takes_sixteen_bytes_and_stays_text(bits: u128) {
            let text = Uuid::from_u128(bits).to_string();
            let bytes = encoded(&Value::from(text.as_str()));
            prop_assert_eq!(bytes.len(), 17);
            match RawValue::parse(&bytes).unwrap().scalar() {
                Ok(Scalar::Str(read)) => prop_assert_eq!(read.as_str(), text),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn values_without_an_encoding_of_their_own_are_normalised() {
        assert_eq!(encoded(&Value::Float(-0.0)), encoded(&Value::Float(0.0)));
        assert_eq!(encoded(&Value::Float(f64::NAN)), encoded(&Value::Null));
        assert_eq!(encoded(&Value::Vector(vec![1.0, f32::NAN])), encoded(&Value::Null));
        assert_eq!(encoded(&Value::Vector(vec![-0.0])), encoded(&Value::Vector(vec![0.0])));
    }

    #[test]
    fn only_the_canonical_text_of_a_uuid_is_shortened() {
        let canonical = "8fec61dc-3997-5fec-a310-de36eb18ec70";
        assert_eq!(encoded(&Value::from(canonical)).len(), 17);
        for other in [
            "8FEC61DC-3997-5FEC-A310-DE36EB18EC70",
            "8fec61dc-3997-5fec-a310-de36eb18ec7g",
            "8fec61dc_3997-5fec-a310-de36eb18ec70",
            "8fec61dc-39975-fec-a310-de36eb18ec70",
            "-fec61dc-3997-5fec-a310-de36eb18ec70",
        ] {
            assert_eq!(encoded(&Value::from(other)).len(), 37, "{other}");
            assert_eq!(decode_value(&encoded(&Value::from(other))), Ok(Value::from(other)));
        }
    }

    #[test]
    fn depth_is_bounded_on_both_sides() {
        let deepest = nested(MAX_DEPTH);
        assert_eq!(check_value(&deepest), Ok(()));
        assert_eq!(decode_value(&encoded(&deepest)), Ok(deepest));
        let deeper = nested(MAX_DEPTH + 1);
        assert_eq!(check_value(&deeper), Err(EncodeError::TooDeep));
        assert_eq!(decode_value(&encoded(&deeper)), Err(DecodeError::TooDeep));
        assert_eq!(validate_value(&encoded(&deeper)), Err(DecodeError::TooDeep));
    }

    #[test]
    fn the_size_of_sets_is_bounded_on_both_sides() {
        let set = |n: usize| Value::Set((0..n as i64).map(Value::Int).collect());
        assert_eq!(check_value(&set(MAX_SET_ELEMENTS)), Ok(()));
        assert_eq!(validate_value(&encoded(&set(MAX_SET_ELEMENTS))), Ok(()));
        assert_eq!(check_value(&set(MAX_SET_ELEMENTS + 1)), Err(EncodeError::SetTooLarge));
        assert_eq!(validate_value(&encoded(&set(MAX_SET_ELEMENTS + 1))), Err(DecodeError::SetTooLarge));
    }
}
