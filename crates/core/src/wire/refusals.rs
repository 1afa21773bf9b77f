//! The messages about refused writes: what the authority did not take, and what it has instead.

use super::{
    NamesMessage, decode_names, encode_names, read_array, read_bool, read_count, read_replica, read_text,
    write_text,
};
use crate::access::Operation;
use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_varint};
use crate::id::RecordId;
use crate::limits::{MAX_NOTICE_BYTES, MAX_RECORD_BYTES, MAX_REFUSALS};
use crate::stamp::{Hlc, Stamp};

/// Writes of the peer that were refused, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refusals {
    /// What the numbers in the states stand for, here only.
    pub names: NamesMessage,
    /// The refused writes, ascending by number. None if nothing is left of what was announced.
    pub writes: Vec<RefusedWrite>,
}

/// What the authority did not take of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedWrite {
    /// The refusal's number: rises with every one.
    pub no: u64,
    /// The record.
    pub id: RecordId,
    /// What was tried.
    pub operation: Operation,
    /// The newest stamp of what was refused.
    pub stamp: Stamp,
    /// Why, for people.
    pub reason: String,
    /// The record as the authority has it, as far as the peer may see it.
    pub state: Option<RefusedState>,
}

/// A record's state, encoded as in an entry of a feed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RefusedState {
    /// Its history.
    pub history: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Refusals {
    /// The number of the newest refusal; 0 if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.writes.last().map_or(0, |write| write.no)
    }

    /// About how many bytes the message takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let size = |write: &RefusedWrite| {
            64 + write.reason.len() + write.state.as_ref().map_or(0, |s| s.history.len() + s.body.len())
        };
        self.writes.iter().map(size).sum()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode_names(&self.names, out);
        write_varint(self.writes.len() as u64, out);
        for write in &self.writes {
            write_varint(write.no, out);
            out.extend_from_slice(write.id.as_bytes());
            out.push(write.operation.byte());
            write_varint(write.stamp.time.0, out);
            out.extend_from_slice(write.stamp.writer.as_bytes());
            write_text(out, &write.reason);
            out.push(u8::from(write.state.is_some()));
            if let Some(state) = &write.state {
                for part in [&state.history, &state.body] {
                    write_varint(part.len() as u64, out);
                    out.extend_from_slice(part);
                }
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let names = decode_names(reader)?;
        let mut writes: Vec<RefusedWrite> = Vec::new();
        for _ in 0..read_count(reader, MIN_BYTES, MAX_REFUSALS)? {
            let write = RefusedWrite::decode(reader)?;
            if writes.last().is_some_and(|last| last.no >= write.no) {
                return Err(DecodeError::Mismatch);
            }
            writes.push(write);
        }
        Ok(Self { names, writes })
    }
}

/// What a refused write takes at least, in bytes.
const MIN_BYTES: usize = 1 + 16 + 1 + 1 + 16 + 1 + 1;

impl RefusedWrite {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let no = reader.read_varint()?;
        let id = RecordId::from_bytes(read_array(reader)?);
        let byte = reader.read_u8()?;
        let operation = Operation::from_byte(byte).ok_or(DecodeError::UnknownTag(byte))?;
        let stamp = Stamp::new(Hlc(reader.read_varint()?), read_replica(reader)?);
        let reason = read_text(reader, MAX_NOTICE_BYTES)?;
        let state = if read_bool(reader)? {
            Some(RefusedState { history: read_part(reader)?, body: read_part(reader)? })
        } else {
            None
        };
        Ok(Self { no, id, operation, stamp, reason, state })
    }
}

fn read_part(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let len = read_count(reader, 1, MAX_RECORD_BYTES)?;
    Ok(reader.read_bytes(len)?.to_vec())
}
