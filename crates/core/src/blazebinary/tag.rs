//! The tag table: what each tag byte says about type and payload length. See `docs/spec/blazebinary.md`.

/// Longest string whose length is in the tag.
pub(super) const SHORT_STRING_MAX: usize = 0x3f;
/// The first of the 64 tags that are a small integer.
pub(super) const SMALL_INT: u8 = 0x40;
/// The integers that are a tag without payload.
pub(super) const SMALL_INT_MIN: i64 = -8;
/// The largest integer that is a tag without payload.
pub(super) const SMALL_INT_MAX: i64 = 55;
/// Base of a float; plus 0..=8 bytes of payload.
pub(super) const FLOAT: u8 = 0x80;
/// Base of an integer; plus 1..=8.
pub(super) const INT: u8 = 0x90;
/// Base of a timestamp in whole seconds; plus 0..=8.
pub(super) const SECONDS: u8 = 0xa0;
/// Base of a timestamp in whole milliseconds; plus 1..=8.
pub(super) const MILLIS: u8 = 0xb0;
/// Base of a timestamp in microseconds; plus 1..=8.
pub(super) const MICROS: u8 = 0xc0;
/// Base of a counter; plus 0..=8.
pub(super) const COUNTER: u8 = 0xd0;
/// A string over [`SHORT_STRING_MAX`].
pub(super) const STRING: u8 = 0xe0;
/// Raw bytes.
pub(super) const BYTES: u8 = 0xe1;
/// An array.
pub(super) const ARRAY: u8 = 0xe2;
/// A map.
pub(super) const MAP: u8 = 0xe3;
/// A vector.
pub(super) const VECTOR: u8 = 0xe4;
/// A set.
pub(super) const SET: u8 = 0xe5;
/// Null.
pub(super) const NULL: u8 = 0xf0;
/// False.
pub(super) const FALSE: u8 = 0xf1;
/// True.
pub(super) const TRUE: u8 = 0xf2;
/// A UUID.
pub(super) const UUID: u8 = 0xf3;
/// A string that is the canonical text of a UUID.
pub(super) const UUID_TEXT: u8 = 0xf4;

/// In [`payload_len`]: the length follows the tag as a varint.
pub(super) const EXPLICIT: u8 = 0xff;
/// In [`payload_len`]: no such tag.
pub(super) const UNKNOWN: u8 = 0xfe;

/// The payload length that a tag carries, or [`EXPLICIT`], or [`UNKNOWN`].
#[inline]
pub(super) fn payload_len(tag: u8) -> u8 {
    // The index can't miss; the compiler removes the check.
    PAYLOAD_LEN.get(usize::from(tag)).copied().unwrap_or(UNKNOWN)
}

static PAYLOAD_LEN: [u8; 256] = payload_len_table();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, where a slip is a build error")]
const fn payload_len_table() -> [u8; 256] {
    let mut table = [UNKNOWN; 256];
    let mut tag = 0u8;
    loop {
        table[tag as usize] = match tag {
            0..0x40 => tag,
            0x40..0x80 => 0,
            0x80..=0x88 | 0x91..=0x98 | 0xa0..=0xa8 | 0xb1..=0xb8 | 0xc1..=0xc8 | 0xd0..=0xd8 => tag & 0x0f,
            STRING..=SET => EXPLICIT,
            NULL..=TRUE => 0,
            UUID | UUID_TEXT => 16,
            _ => UNKNOWN,
        };
        if tag == u8::MAX {
            return table;
        }
        tag += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_bases() {
        assert_eq!(payload_len(SHORT_STRING_MAX as u8), 63);
        assert_eq!(i64::from(0x7f - SMALL_INT) + SMALL_INT_MIN, SMALL_INT_MAX);
        for (base, zero) in
            [(FLOAT, 0), (INT, UNKNOWN), (SECONDS, 0), (MILLIS, UNKNOWN), (MICROS, UNKNOWN), (COUNTER, 0)]
        {
            assert_eq!(payload_len(base), zero);
            assert_eq!(payload_len(base + 8), 8);
            assert_eq!(payload_len(base + 9), UNKNOWN);
        }
    }
}
