//! The first message of each side: who it speaks for, what it asks for, what it grants.

use super::token::Token;
use super::{PROTOCOL_VERSION, read_count, read_replica, read_text, write_text};
use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_varint};
use crate::feed::Seq;
use crate::id::ReplicaId;
use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELDS, MAX_NOTICE_BYTES, MAX_REQUEST_FILTER_BYTES};
use crate::view::ViewRequest;

/// Which way changes may go, seen from the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Direction {
    /// The client's changes go to the server.
    pub push: bool,
    /// The server's changes come to the client.
    pub pull: bool,
}

impl Direction {
    /// What both allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { push: self.push && other.push, pull: self.pull && other.pull }
    }
}

/// What a client says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The replica it speaks for.
    pub replica: ReplicaId,
    /// The end of its feed.
    pub head: Seq,
    /// It holds no record at all, not even a deleted one.
    pub empty: bool,
    /// What it asks for.
    pub direction: Direction,
    /// It understands zstd.
    pub compression: bool,
    /// How far it has which replica's feed on this link.
    pub checkpoint: Option<(ReplicaId, Seq)>,
    /// Deletions up to here may be missing from its feed: who stands before that compares.
    pub fence: Seq,
    /// What it asks to see.
    pub request: ViewRequest,
    /// The server is to decide about what it writes.
    pub authority: bool,
    /// Who its user is, unless it says nothing about that.
    pub token: Option<Token>,
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The replica it speaks for.
    pub replica: ReplicaId,
    /// The end of its feed.
    pub head: Seq,
    /// What it grants.
    pub direction: Direction,
    /// Why it grants less than was asked for; empty if it does not.
    pub notice: String,
    /// Changes may be compressed.
    pub compression: bool,
    /// The client sends its feed from behind here.
    pub push_after: Seq,
    /// Both compare what they hold before anything is sent.
    pub reconcile: bool,
    /// The client does not see everything.
    pub restricted: bool,
    /// Refused writes of the client will be told.
    pub refusals: bool,
    /// The server decides about what the client writes.
    pub decides: bool,
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

pub(super) fn encode_hello(hello: &Hello, out: &mut Vec<u8>) {
    write_varint(u64::from(PROTOCOL_VERSION), out);
    out.extend_from_slice(hello.replica.as_bytes());
    write_varint(hello.head, out);
    out.push(
        direction_bits(hello.direction)
            | u8::from(hello.empty) << 2
            | u8::from(hello.compression) << 3
            | u8::from(hello.checkpoint.is_some()) << 4
            | u8::from(hello.token.is_some()) << 5
            | u8::from(hello.authority) << 6
            | u8::from(hello.fence > 0) << 7,
    );
    if let Some((replica, seq)) = hello.checkpoint {
        out.extend_from_slice(replica.as_bytes());
        write_varint(seq, out);
    }
    if let Some(token) = &hello.token {
        token.encode(out);
    }
    encode_request(&hello.request, out);
    write_varint(hello.now_ms, out);
    if hello.fence > 0 {
        write_varint(hello.fence, out);
    }
}

pub(super) fn decode_hello(reader: &mut Reader<'_>) -> Result<Hello, DecodeError> {
    check_version(reader)?;
    let replica = read_replica(reader)?;
    let head = reader.read_varint()?;
    let flags = reader.read_u8()?;
    let checkpoint =
        if flags & 16 != 0 { Some((read_replica(reader)?, reader.read_varint()?)) } else { None };
    let token = if flags & 32 != 0 { Some(Token::decode(reader)?) } else { None };
    Ok(Hello {
        replica,
        head,
        empty: flags & 4 != 0,
        direction: direction_of(flags),
        compression: flags & 8 != 0,
        checkpoint,
        authority: flags & 64 != 0,
        token,
        request: decode_request(reader)?,
        now_ms: reader.read_varint()?,
        fence: if flags & 128 != 0 { read_fence(reader)? } else { 0 },
    })
}

/// Zero is said by the flag alone.
fn read_fence(reader: &mut Reader<'_>) -> Result<Seq, DecodeError> {
    match reader.read_varint()? {
        0 => Err(DecodeError::Mismatch),
        fence => Ok(fence),
    }
}

fn encode_request(request: &ViewRequest, out: &mut Vec<u8>) {
    let filter = request.filter.as_deref().unwrap_or_default();
    write_varint(filter.len() as u64, out);
    out.extend_from_slice(filter.as_bytes());
    write_varint(request.excluded.len() as u64, out);
    request.excluded.iter().for_each(|name| write_text(out, name));
}

fn decode_request(reader: &mut Reader<'_>) -> Result<ViewRequest, DecodeError> {
    let filter = read_text(reader, MAX_REQUEST_FILTER_BYTES)?;
    let filter = (!filter.is_empty()).then_some(filter);
    let count = read_count(reader, 1, MAX_FIELDS)?;
    let excluded = (0..count).map(|_| read_text(reader, MAX_FIELD_NAME_BYTES));
    Ok(ViewRequest { filter, excluded: excluded.collect::<Result<_, _>>()? })
}

pub(super) fn encode_welcome(welcome: &Welcome, out: &mut Vec<u8>) {
    write_varint(u64::from(PROTOCOL_VERSION), out);
    out.extend_from_slice(welcome.replica.as_bytes());
    write_varint(welcome.head, out);
    out.push(
        direction_bits(welcome.direction)
            | u8::from(welcome.reconcile) << 2
            | u8::from(welcome.compression) << 3
            | u8::from(welcome.restricted) << 4
            | u8::from(welcome.refusals) << 5
            | u8::from(welcome.decides) << 6,
    );
    write_text(out, &welcome.notice);
    write_varint(welcome.push_after, out);
    write_varint(welcome.now_ms, out);
}

pub(super) fn decode_welcome(reader: &mut Reader<'_>) -> Result<Welcome, DecodeError> {
    check_version(reader)?;
    let replica = read_replica(reader)?;
    let head = reader.read_varint()?;
    let flags = reader.read_u8()?;
    if flags >= 1 << 7 {
        return Err(DecodeError::UnknownTag(flags));
    }
    Ok(Welcome {
        replica,
        head,
        direction: direction_of(flags),
        reconcile: flags & 4 != 0,
        compression: flags & 8 != 0,
        restricted: flags & 16 != 0,
        refusals: flags & 32 != 0,
        decides: flags & 64 != 0,
        notice: read_text(reader, MAX_NOTICE_BYTES)?,
        push_after: reader.read_varint()?,
        now_ms: reader.read_varint()?,
    })
}

const fn direction_bits(direction: Direction) -> u8 {
    direction.push as u8 | (direction.pull as u8) << 1
}

const fn direction_of(flags: u8) -> Direction {
    Direction { push: flags & 1 != 0, pull: flags & 2 != 0 }
}

fn check_version(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match reader.read_varint()? {
        version if version == u64::from(PROTOCOL_VERSION) => Ok(()),
        version => Err(DecodeError::Version(version)),
    }
}
