//! One encoded value, looked at without decoding what it holds.

use std::fmt;
use std::ops::Deref;

use uuid::Uuid;

use super::value::{read_head, validate_at};
use super::varint::{Reader, unzigzag, varint_len, write_varint};
use super::{DecodeError, tag};
use crate::limits::MAX_RECORD_BYTES;
use crate::{Timestamp, Value};

/// An encoded value: its tag and its payload.
///
/// The encoding is canonical, so two raw values are equal exactly when the values are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RawValue<'a> {
    pub(super) tag: u8,
    pub(super) payload: &'a [u8],
}

/// A value that can be read without allocating; [`Scalar::Composite`] for those that can't.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Scalar<'a> {
    /// Null.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float, neither NaN nor -0.0.
    Float(f64),
    /// Text.
    Str(Text<'a>),
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// A UUID.
    Uuid([u8; 16]),
    /// A point in time, in microseconds since the Unix epoch.
    Timestamp(i64),
    /// The sum of a counter.
    Counter(i64),
    /// An array, map, vector or set: see [`RawValue::elements`], [`RawValue::entries`] and [`RawValue::decode`].
    Composite,
}

/// Text inside a raw value. The text of a UUID is stored as sixteen bytes and written out here, on the stack.
#[derive(Clone, Copy)]
pub struct Text<'a>(TextForm<'a>);

#[derive(Clone, Copy)]
enum TextForm<'a> {
    Plain(&'a str),
    Uuid([u8; 36]),
}

impl Text<'_> {
    /// The text.
    #[inline]
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            TextForm::Plain(text) => text,
            // Hexadecimal digits and hyphens are always UTF-8.
            TextForm::Uuid(text) => std::str::from_utf8(text).unwrap_or_default(),
        }
    }

    fn of_uuid(bytes: [u8; 16]) -> Self {
        let mut text = [0; 36];
        Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text);
        Self(TextForm::Uuid(text))
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(TextForm::Plain(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text<'_> {}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl<'a> RawValue<'a> {
    /// The null value.
    pub const NULL: Self = Self { tag: tag::NULL, payload: &[] };

    /// Looks at bytes written by [`encode_value`](super::encode_value).
    ///
    /// # Errors
    /// Any [`DecodeError`] that the tag and its length show; the payload is not read.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }

    /// Reads one encoded value off a reader; the payload is not looked into.
    ///
    /// # Errors
    /// Any [`DecodeError`] that the tag and its length show.
    #[inline]
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (tag, len) = read_head(reader)?;
        Ok(Self { tag, payload: reader.read_bytes(len)? })
    }

    /// Whether it is a counter or a set: the visible side of a mergeable field.
    #[inline]
    #[must_use]
    pub const fn is_mergeable(&self) -> bool {
        self.tag == tag::SET || self.tag & 0xf0 == tag::COUNTER
    }

    /// The tag byte: see the table in `docs/spec/blazebinary.md`.
    #[inline]
    #[must_use]
    pub const fn tag(&self) -> u8 {
        self.tag
    }

    /// The payload.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Appends the value as [`encode_value`](super::encode_value) would.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        self.write_head(out);
        out.extend_from_slice(self.payload);
    }

    /// How many bytes [`encode_into`](Self::encode_into) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.head_len() + self.payload.len()
    }

    pub(super) fn write_head(&self, out: &mut Vec<u8>) {
        out.push(self.tag);
        if tag::payload_len(self.tag) == tag::EXPLICIT {
            write_varint(self.payload.len() as u64, out);
        }
    }

    pub(super) fn head_len(&self) -> usize {
        match tag::payload_len(self.tag) {
            tag::EXPLICIT => 1 + varint_len(self.payload.len() as u64),
            _ => 1,
        }
    }

    /// The value, decoded in full.
    ///
    /// # Errors
    /// Any [`DecodeError`] if the bytes are not canonical.
    pub fn decode(&self) -> Result<Value, DecodeError> {
        match self.tag {
            // Text is most of what records hold: it goes from the bytes to the heap without a stop.
            0x00..tag::SMALL_INT => short_text(self.payload).map(|text| Value::String(text.to_owned())),
            tag::UUID_TEXT => {
                let uuid = Uuid::from_bytes(sixteen(self.payload)?);
                Ok(Value::String(uuid.hyphenated().encode_lower(&mut [0; 36]).to_owned()))
            }
            _ => super::value::decode_at(*self, 0),
        }
    }

    /// Checks strictly that this is the canonical encoding of a value, without allocating.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    pub fn validate(&self) -> Result<(), DecodeError> {
        validate_at(*self, 0)
    }

    /// The elements of a vector as they are stored: f32, little endian. `None` for any other value.
    #[must_use]
    pub fn vector_bytes(&self) -> Option<&'a [u8]> {
        (self.tag == tag::VECTOR).then_some(self.payload)
    }

    /// The value, read without allocating.
    ///
    /// # Errors
    /// Any [`DecodeError`] if the bytes are not canonical. What is inside a composite is not looked at.
    #[inline]
    pub fn scalar(&self) -> Result<Scalar<'a>, DecodeError> {
        match self.tag {
            0x00..tag::SMALL_INT => short_text(self.payload).map(|text| Scalar::Str(text.into())),
            tag::SMALL_INT..tag::FLOAT => {
                Ok(Scalar::Int(i64::from(self.tag - tag::SMALL_INT) + tag::SMALL_INT_MIN))
            }
            _ => self.large_scalar(),
        }
    }

    fn large_scalar(&self) -> Result<Scalar<'a>, DecodeError> {
        match self.tag & 0xf0 {
            tag::FLOAT => return float(self.payload).map(Scalar::Float),
            tag::INT => return wide_int(self.payload).map(Scalar::Int),
            tag::SECONDS => return timestamp(self.payload, 1_000_000).map(Scalar::Timestamp),
            tag::MILLIS => return timestamp(self.payload, 1_000).map(Scalar::Timestamp),
            tag::MICROS => return timestamp(self.payload, 1).map(Scalar::Timestamp),
            tag::COUNTER => return minimal(self.payload).map(Scalar::Counter),
            _ => {}
        }
        match self.tag {
            tag::STRING if self.payload.len() > tag::SHORT_STRING_MAX => {
                plain_text(self.payload).map(|text| Scalar::Str(text.into()))
            }
            tag::STRING => Err(DecodeError::NotMinimal),
            tag::BYTES => Ok(Scalar::Bytes(self.payload)),
            tag::ARRAY | tag::MAP | tag::VECTOR | tag::SET => Ok(Scalar::Composite),
            tag::NULL => Ok(Scalar::Null),
            tag::FALSE => Ok(Scalar::Bool(false)),
            tag::TRUE => Ok(Scalar::Bool(true)),
            tag::UUID => Ok(Scalar::Uuid(sixteen(self.payload)?)),
            tag::UUID_TEXT => Ok(Scalar::Str(Text::of_uuid(sixteen(self.payload)?))),
            unknown => Err(DecodeError::UnknownTag(unknown)),
        }
    }

    /// The elements of an array or a set; `None` for any other value.
    #[must_use]
    pub fn elements(&self) -> Option<Elements<'a>> {
        matches!(self.tag, tag::ARRAY | tag::SET).then_some(Elements { reader: Reader::new(self.payload) })
    }

    /// The keys and values of a map, ascending by key; `None` for any other value.
    #[must_use]
    pub fn entries(&self) -> Option<Entries<'a>> {
        (self.tag == tag::MAP).then_some(Entries { reader: Reader::new(self.payload) })
    }
}

impl TryFrom<RawValue<'_>> for Value {
    type Error = DecodeError;

    fn try_from(raw: RawValue<'_>) -> Result<Self, DecodeError> {
        raw.decode()
    }
}

/// The elements of an array or a set, encoded. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<RawValue<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let item = RawValue::read(&mut self.reader);
        if item.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(item)
    }
}

/// The entries of a map: keys, and values encoded. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Result<(&'a str, RawValue<'a>), DecodeError> {
        let key = self.reader.read_str(MAX_RECORD_BYTES)?;
        Ok((key, RawValue::read(&mut self.reader)?))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a str, RawValue<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let item = self.read();
        if item.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(item)
    }
}

/// The sixteen bytes behind the canonical text of a UUID (lower-case, hyphenated); `None` for any other text.
#[inline]
pub(super) fn uuid_of_text(text: &[u8]) -> Option<[u8; 16]> {
    text.try_into().ok().and_then(uuid_of_array)
}

/// Eight digits at a time, in the bytes of a word: the numbers that they stand for are spread over it, turned back into
/// digits to be compared, and pushed together.
fn uuid_of_array(text: &[u8; 36]) -> Option<[u8; 16]> {
    let part = |at: usize| -> Option<u64> {
        let digits: [u8; 4] = text.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_be_bytes(digits)))
    };
    if [8, 13, 18, 23].into_iter().any(|at| text.get(at) != Some(&b'-')) {
        return None;
    }
    let starts = [[0, 4], [9, 14], [19, 24], [28, 32]];
    let mut bytes = [0; 16];
    let mut wrong = 0;
    for (bytes, [high, low]) in bytes.chunks_exact_mut(4).zip(starts) {
        let digits = part(high)? << 32 | part(low)?;
        let (number, differs) = eight_digits(digits);
        wrong |= differs;
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    (wrong == 0).then_some(bytes)
}

/// The number of eight lower-case hexadecimal digits, and 0 if that is what they are.
#[inline]
const fn eight_digits(digits: u64) -> (u32, u64) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // A letter's sixth bit is set, and its low half is nine less than what it stands for.
    let values = (digits & (ONES * 0x0f)) + ((digits >> 6) & ONES) * 9;
    let letters = ((values + ONES * 6) >> 4) & ONES;
    let again = values + ONES * 0x30 + letters * 0x27;
    let differs = (again ^ digits) | (values & (ONES * 0xf0));
    let pairs = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    ((fours | fours >> 16) as u32, differs)
}

#[inline]
fn short_text(payload: &[u8]) -> Result<&str, DecodeError> {
    if uuid_of_text(payload).is_some() {
        return Err(DecodeError::PlainUuidText);
    }
    plain_text(payload)
}

fn plain_text(payload: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(payload).map_err(|_| DecodeError::NotUtf8)
}

fn sixteen(payload: &[u8]) -> Result<[u8; 16], DecodeError> {
    payload.try_into().map_err(|_| DecodeError::Truncated)
}

/// A big-endian number of at most eight bytes without leading zeros, back from its zigzag form.
fn minimal(payload: &[u8]) -> Result<i64, DecodeError> {
    if payload.first() == Some(&0) {
        return Err(DecodeError::NotMinimal);
    }
    Ok(unzigzag(payload.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))))
}

fn wide_int(payload: &[u8]) -> Result<i64, DecodeError> {
    let value = minimal(payload)?;
    if (tag::SMALL_INT_MIN..=tag::SMALL_INT_MAX).contains(&value) {
        return Err(DecodeError::NotMinimal);
    }
    Ok(value)
}

fn timestamp(payload: &[u8], micros_per_unit: i64) -> Result<i64, DecodeError> {
    let count = minimal(payload)?;
    if micros_per_unit < 1_000_000 && count % 1_000 == 0 {
        return Err(DecodeError::NotMinimal);
    }
    count.checked_mul(micros_per_unit).ok_or(DecodeError::OutOfRange)
}

/// The leading bytes of a big-endian IEEE 754 double; the rest are zero.
fn float(payload: &[u8]) -> Result<f64, DecodeError> {
    if payload.last() == Some(&0) {
        return Err(DecodeError::NotMinimal);
    }
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(payload) {
        *to = *from;
    }
    let value = f64::from_be_bytes(bytes);
    if value.is_nan() {
        return Err(DecodeError::NotANumber);
    }
    if value == 0.0 && value.is_sign_negative() {
        return Err(DecodeError::NegativeZero);
    }
    Ok(value)
}

impl Scalar<'_> {
    pub(super) fn to_value(self) -> Option<Value> {
        Some(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Float(value) => Value::Float(value),
            Self::Str(text) => Value::String(text.as_str().to_owned()),
            Self::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Self::Uuid(bytes) => Value::Uuid(Uuid::from_bytes(bytes)),
            Self::Timestamp(micros) => Value::Timestamp(Timestamp(micros)),
            Self::Counter(sum) => Value::Counter(sum),
            Self::Composite => return None,
        })
    }
}
