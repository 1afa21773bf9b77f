//! The message that carries a keyring.

use std::sync::Arc;

use super::{read_array, read_count};
use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_prefixed, write_varint};
use crate::keyring::KeyringHead;
use crate::limits::{MAX_STATEMENT_BYTES, MAX_STATEMENTS};

/// How far the sender's keyring goes, and a run of its statements.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyringMessage {
    /// How far it goes; nothing if the sender has none.
    pub head: KeyringHead,
    /// Statements that follow what the receiver has.
    pub statements: Vec<Arc<[u8]>>,
}

impl KeyringMessage {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        write_varint(self.head.count, out);
        out.extend_from_slice(&self.head.hash);
        write_varint(self.statements.len() as u64, out);
        self.statements.iter().for_each(|statement| write_prefixed(statement, out));
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head = KeyringHead { count: reader.read_varint()?, hash: read_array(reader)? };
        let mut statements = Vec::new();
        for _ in 0..read_count(reader, 1, MAX_STATEMENTS)? {
            let len = read_count(reader, 1, MAX_STATEMENT_BYTES)?;
            statements.push(reader.read_bytes(len)?.into());
        }
        Ok(Self { head, statements })
    }
}
