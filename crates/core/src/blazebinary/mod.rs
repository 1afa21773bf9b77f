//! BlazeBinary: the one encoding of values and record bodies, on disk, on the wire and in the inspector.
//!
//! Specified in `docs/spec/blazebinary.md`, with golden vectors in `vectors/blazebinary.json`.
//!
//! Invariants:
//! - **Canonical**: one value has one encoding and one record body has one encoding, so equal bytes mean equal
//!   values. Whatever [`validate_record`] or [`decode_value`] accepts encodes back to the same bytes.
//! - **Total**: no input makes a decoder panic, recurse past [`MAX_DEPTH`](crate::limits::MAX_DEPTH) or allocate
//!   more than a small multiple of the input's length.
//! - **Lazy**: [`get_field`] and [`RecordView::get`] walk the directory only; no other field's payload is read.
//!
//! Two values have no encoding of their own and are normalised: `-0.0` becomes `0.0`, and a NaN (or a vector
//! that holds one) becomes null.

mod error;
mod owned;
mod raw;
mod record;
mod tag;
mod value;
pub mod varint;

pub use error::{DecodeError, EncodeError};
pub use owned::OwnedValue;
pub use raw::{Elements, Entries, RawValue, Scalar, Text};
pub use record::{Fields, RecordBuilder, RecordView, get_field, remap, validate_record};
pub use value::{check_value, decode_value, encode_value, read_value, sort_set, validate_value};

/// The number of an interned field name. Which name it stands for is known to the database or connection.
pub type FieldNo = u32;

/// The version of the format. A file's header and a connection's hello carry it; records don't.
pub const VERSION: u8 = 1;

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod strategies;
