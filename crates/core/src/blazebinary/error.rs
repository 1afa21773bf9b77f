//! Why bytes are not BlazeBinary, and why a value can't be made into BlazeBinary.

use super::FieldNo;
use crate::limits;

/// Bytes that are not the canonical encoding of anything. Always the fault of whoever wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends inside an item.
    #[error("the bytes end in the middle of an item")]
    Truncated,
    /// The input goes on after its last item.
    #[error("bytes follow the last item")]
    TrailingBytes,
    /// A number or a length is written with more bytes than it needs, or in a longer form than exists for it.
    #[error("a number or length is not in its shortest form")]
    NotMinimal,
    /// A number does not fit its type.
    #[error("a number is out of range")]
    OutOfRange,
    /// No type has this tag.
    #[error("unknown tag {0:#04x}")]
    UnknownTag(u8),
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// The text of a UUID is written out instead of as sixteen bytes.
    #[error("the text of a UUID is not in its sixteen-byte form")]
    PlainUuidText,
    /// A float is NaN, or a vector holds one.
    #[error("a float is NaN")]
    NotANumber,
    /// A float is -0.0, or a vector holds one.
    #[error("a float is negative zero")]
    NegativeZero,
    /// A vector's length is not a multiple of four bytes.
    #[error("a vector's length is not a multiple of four bytes")]
    VectorLength,
    /// Map keys are not strictly ascending.
    #[error("the keys of a map are not ascending and unique")]
    UnsortedKeys,
    /// Set elements are not strictly ascending.
    #[error("the elements of a set are not ascending and unique")]
    UnsortedSet,
    /// Two fields have the same number. (Descending numbers can't be written down.)
    #[error("field {0} occurs twice")]
    DuplicateField(FieldNo),
    /// A field number has no counterpart in the numbering that a body is rewritten to.
    #[error("field {0} has no number in the target's numbering")]
    UnmappedField(FieldNo),
    /// Values nest too deep.
    #[error("values nest deeper than {} levels", limits::MAX_DEPTH)]
    TooDeep,
    /// A record has too many fields.
    #[error("a record has more than {} fields", limits::MAX_FIELDS)]
    TooManyFields,
    /// A set has too many elements.
    #[error("a set has more than {} elements", limits::MAX_SET_ELEMENTS)]
    SetTooLarge,
    /// An item is longer than its limit.
    #[error("an item is longer than its limit of {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The parts of a record do not fit each other.
    #[error("a record's history does not fit its body")]
    Mismatch,
    /// A number stands for a name that was never given.
    #[error("number {0} stands for nothing known")]
    UnknownNumber(u32),
    /// The peer speaks another version of the protocol.
    #[error("protocol version {0}")]
    Version(u64),
}

/// A value or record that BlazeBinary refuses. Always the fault of the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A field was pushed that does not come after the one before it.
    #[error("field {field} was added after field {last}: fields must be added in ascending order")]
    FieldOrder {
        /// The field that was refused.
        field: FieldNo,
        /// The field before it.
        last: FieldNo,
    },
    /// Values nest too deep.
    #[error("values nest deeper than {} levels", limits::MAX_DEPTH)]
    TooDeep,
    /// A record has too many fields.
    #[error("a record has more than {} fields", limits::MAX_FIELDS)]
    TooManyFields,
    /// A set has too many elements.
    #[error("a set has more than {} elements", limits::MAX_SET_ELEMENTS)]
    SetTooLarge,
    /// The record is too large.
    #[error("the record is larger than {} bytes", limits::MAX_RECORD_BYTES)]
    RecordTooLarge,
}
