//! Variable-length integers (LEB128, at most ten bytes) and a total reader, shared by everything that is encoded.
//!
//! Invariant: a number has one encoding. [`Reader::read_varint`] refuses any other.

use super::DecodeError;

/// Appends `value` as a varint: seven bits a byte, lowest first, the top bit set on all bytes but the last.
///
/// ```
/// use blazedb_core::blazebinary::varint::{Reader, write_varint};
/// let mut bytes = Vec::new();
/// write_varint(300, &mut bytes);
/// assert_eq!(bytes, [0xac, 0x02]);
/// assert_eq!(Reader::new(&bytes).read_varint(), Ok(300));
/// ```
#[inline]
pub fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` as the varint of its [`zigzag`] form.
#[inline]
pub fn write_zigzag(value: i64, out: &mut Vec<u8>) {
    write_varint(zigzag(value), out);
}

/// Appends the length of `bytes` as a varint, then `bytes`.
#[inline]
pub fn write_prefixed(bytes: &[u8], out: &mut Vec<u8>) {
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// How many bytes [`write_varint`] appends for `value`: 1 to 10.
#[inline]
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Maps numbers of small magnitude to small numbers: 0, -1, 1, -2 become 0, 1, 2, 3.
#[inline]
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Reads items off the front of a slice. A failed read leaves the position unspecified but never panics.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    #[inline]
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything has been read.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left, without reading it.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    #[inline]
    pub const fn read_u8(&mut self) -> Result<u8, DecodeError> {
        match self.rest {
            [byte, rest @ ..] => {
                self.rest = rest;
                Ok(*byte)
            }
            [] => Err(DecodeError::Truncated),
        }
    }

    /// A varint.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::NotMinimal`], or [`DecodeError::OutOfRange`] above 64 bits.
    #[inline]
    pub fn read_varint(&mut self) -> Result<u64, DecodeError> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.read_long_varint(),
        }
    }

    fn read_long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.read_u8()?;
            if shift == 63 && byte > 1 {
                return Err(DecodeError::OutOfRange);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(DecodeError::NotMinimal) } else { Ok(value) };
            }
        }
        Err(DecodeError::OutOfRange)
    }

    /// A varint that must fit 32 bits.
    ///
    /// # Errors
    /// As [`read_varint`](Self::read_varint), with 32 bits.
    #[inline]
    pub fn read_varint_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.read_varint()?).map_err(|_| DecodeError::OutOfRange)
    }

    /// A varint in [`zigzag`] form.
    ///
    /// # Errors
    /// As [`read_varint`](Self::read_varint).
    #[inline]
    pub fn read_zigzag(&mut self) -> Result<i64, DecodeError> {
        self.read_varint().map(unzigzag)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    #[inline]
    pub const fn read_bytes(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(n) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(DecodeError::Truncated),
        }
    }

    /// The next `N` bytes, as an array.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    #[inline]
    pub const fn read_array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(*bytes)
            }
            None => Err(DecodeError::Truncated),
        }
    }

    /// A varint length of at most `limit`, then that many bytes.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] above `limit`, and those of [`read_varint`](Self::read_varint).
    #[inline]
    pub fn read_prefixed(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.read_varint()?).unwrap_or(usize::MAX);
        if len > limit {
            return Err(DecodeError::TooLong { limit });
        }
        self.read_bytes(len)
    }

    /// As [`read_prefixed`](Self::read_prefixed), and UTF-8.
    ///
    /// # Errors
    /// [`DecodeError::NotUtf8`], and those of [`read_prefixed`](Self::read_prefixed).
    pub fn read_str(&mut self, limit: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.read_prefixed(limit)?).map_err(|_| DecodeError::NotUtf8)
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] if anything is left.
    #[inline]
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip_at_their_announced_length(bits in 0u32..65, noise: u64) {
            let value = if bits == 0 { 0 } else { noise >> (64 - bits) };
            let mut bytes = Vec::new();
            write_varint(value, &mut bytes);
            prop_assert_eq!(bytes.len(), varint_len(value));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.read_varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn an_accepted_varint_is_the_only_one(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.read_varint() {
                let mut again = Vec::new();
                write_varint(value, &mut again);
                prop_assert_eq!(&bytes[..bytes.len() - reader.remaining()], &again[..]);
            }
        }

        #[test]
        fn zigzag_is_a_bijection(value: i64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn zigzag_keeps_small_magnitudes_small() {
        assert_eq!([0, -1, 1, -2].map(zigzag), [0, 1, 2, 3]);
        assert_eq!(zigzag(i64::MIN), u64::MAX);
    }

    #[test]
    fn each_malformed_varint_has_its_error() {
        let read = |bytes: &[u8]| Reader::new(bytes).read_varint();
        assert_eq!(read(&[]), Err(DecodeError::Truncated));
        assert_eq!(read(&[0x80]), Err(DecodeError::Truncated));
        assert_eq!(read(&[0x80, 0x00]), Err(DecodeError::NotMinimal));
        assert_eq!(read(&[0xff; 10]), Err(DecodeError::OutOfRange));
        let mut max = [0xff; 10];
        max[9] = 1;
        assert_eq!(read(&max), Ok(u64::MAX));
        max[9] = 2;
        assert_eq!(read(&max), Err(DecodeError::OutOfRange));
    }

    #[test]
    fn a_prefix_over_its_limit_is_refused_before_the_bytes_are_read() {
        assert_eq!(Reader::new(&[0xff, 0x7f]).read_prefixed(10), Err(DecodeError::TooLong { limit: 10 }));
        assert_eq!(Reader::new(&[3, 1, 2]).read_prefixed(10), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&[2, 0xc3, 0x28]).read_str(10), Err(DecodeError::NotUtf8));
    }
}
