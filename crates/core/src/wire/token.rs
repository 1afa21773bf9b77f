//! A token as it travels: text that says who the user of a node is. What it means is up to whoever verifies it.
//!
//! Invariants: not empty, at most [`MAX_TOKEN_BYTES`], visible ASCII only; never shown by `Debug`, since whoever
//! has an unbound token may use it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_varint};
use crate::limits::MAX_TOKEN_BYTES;

/// A token, not verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// A text that can't be a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenTextError {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is longer than any token may be.
    #[error("it has {0} bytes, over the limit of {MAX_TOKEN_BYTES}")]
    TooLong(usize),
    /// It holds something that tokens are not made of.
    #[error("it holds a space, a line break or another character that no token has")]
    Character,
}

impl Token {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        write_varint(self.0.len() as u64, out);
        out.extend_from_slice(self.0.as_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = super::read_count(reader, 1, MAX_TOKEN_BYTES)?;
        let bytes = reader.read_bytes(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
        text.parse().map_err(|_| DecodeError::OutOfRange)
    }
}

impl FromStr for Token {
    type Err = TokenTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.len() {
            0 => Err(TokenTextError::Empty),
            len if len > MAX_TOKEN_BYTES => Err(TokenTextError::TooLong(len)),
            _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => Err(TokenTextError::Character),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}
