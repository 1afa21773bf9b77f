//! The messages of a session. Grammar and vectors: `docs/spec/wire.md`.
//!
//! A message is a tag byte and its fields. Decoding is total: it never panics, takes no memory that the bytes
//! don't pay for, and refuses what is left over.

use std::sync::Arc;

use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_varint};
use crate::feed::{Names, Seq};
use crate::id::ReplicaId;
use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELD_NAMES, MAX_NOTICE_BYTES, MAX_WANTED, SKETCH_LEN};

/// The version of this protocol. A peer with another one is refused by name.
pub const PROTOCOL_VERSION: u16 = 1;

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
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// Why a session ended, for the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseCode {
    /// The sender is going away; come back later.
    GoingAway,
    /// The peer broke the protocol.
    Protocol,
    /// The peer speaks another version.
    Version,
    /// Access is refused.
    Refused,
    /// A change is stamped too far in the future.
    ClockDrift,
    /// The sender failed on its own side.
    Internal,
}

impl CloseCode {
    const ALL: [(u8, Self); 6] = [
        (1, Self::GoingAway),
        (2, Self::Protocol),
        (3, Self::Version),
        (4, Self::Refused),
        (5, Self::ClockDrift),
        (6, Self::Internal),
    ];
}

/// A run of encoded changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The sender's feed is complete up to here with this; `None` in the answer to a reconciliation.
    pub upto: Option<Seq>,
    /// The end of the sender's feed as it knows it.
    pub head: Seq,
    /// How far the sender has the receiver's feed.
    pub has: Seq,
    /// `data` is under zstd.
    pub compressed: bool,
    /// The entries.
    pub data: Vec<u8>,
}

/// Everything that is said in a session.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// First message of a client.
    Hello(Hello),
    /// First message of a server.
    Welcome(Welcome),
    /// What numbers stand for; always ahead of the changes that use them.
    Names(NamesMessage),
    /// Changes.
    Changes(Changes),
    /// So many [`Message::Changes`] of this session are durable here.
    Ack(u64),
    /// Is anybody there?
    Ping,
    /// Yes.
    Pong,
    /// First word of a reconciliation: the lowest hashes of what the client holds, by content and by stamp.
    Sketch {
        /// Of the records' contents.
        content: Vec<u64>,
        /// Of the records' histories.
        history: Vec<u64>,
    },
    /// The server's choice of what to compare.
    CompareBy {
        /// Contents if true, histories if not.
        content: bool,
    },
    /// A step of the `negentropy` protocol.
    Reconcile(Vec<u8>),
    /// The client lacks these; `last` ends the list.
    Want {
        /// Hashes of the records asked for.
        hashes: Vec<[u8; 32]>,
        /// No more to come.
        last: bool,
    },
    /// The session ends.
    Close(CloseCode, String),
}

/// Names on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamesMessage {
    /// Field names by the sender's number.
    pub fields: Vec<(u32, Arc<str>)>,
    /// Writers by the sender's number.
    pub writers: Vec<(u32, ReplicaId)>,
}

impl From<Names> for NamesMessage {
    fn from(names: Names) -> Self {
        Self { fields: names.fields, writers: names.writers }
    }
}

impl From<NamesMessage> for Names {
    fn from(names: NamesMessage) -> Self {
        Self { fields: names.fields, writers: names.writers }
    }
}

mod tag {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const NAMES: u8 = 3;
    pub(super) const CHANGES: u8 = 4;
    pub(super) const ACK: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const PONG: u8 = 7;
    pub(super) const SKETCH: u8 = 8;
    pub(super) const COMPARE_BY: u8 = 9;
    pub(super) const RECONCILE: u8 = 10;
    pub(super) const WANT: u8 = 11;
    pub(super) const CLOSE: u8 = 12;
}

impl Changes {
    /// The message without its data, which follows it: so that data can be shared.
    #[must_use]
    pub fn encode_head(&self) -> Vec<u8> {
        let mut out = vec![tag::CHANGES];
        out.push(u8::from(self.upto.is_some()) | u8::from(self.compressed) << 1);
        if let Some(upto) = self.upto {
            write_varint(upto, &mut out);
        }
        write_varint(self.head, &mut out);
        write_varint(self.has, &mut out);
        out
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = reader.read_u8()?;
        if flags > 3 {
            return Err(DecodeError::UnknownTag(flags));
        }
        let upto = if flags & 1 != 0 { Some(reader.read_varint()?) } else { None };
        let (head, has) = (reader.read_varint()?, reader.read_varint()?);
        let data = reader.read_bytes(reader.remaining())?.to_vec();
        Ok(Self { upto, head, has, compressed: flags & 2 != 0, data })
    }
}

impl Message {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hello(hello) => encode_hello(hello, &mut out),
            Self::Welcome(welcome) => encode_welcome(welcome, &mut out),
            Self::Names(names) => encode_names(names, &mut out),
            Self::Changes(changes) => {
                out = changes.encode_head();
                out.extend_from_slice(&changes.data);
            }
            Self::Ack(count) => {
                out.push(tag::ACK);
                write_varint(*count, &mut out);
            }
            Self::Ping => out.push(tag::PING),
            Self::Pong => out.push(tag::PONG),
            Self::Sketch { content, history } => {
                out.push(tag::SKETCH);
                for side in [content, history] {
                    write_varint(side.len() as u64, &mut out);
                    side.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
                }
            }
            Self::CompareBy { content } => out.extend([tag::COMPARE_BY, u8::from(*content)]),
            Self::Reconcile(bytes) => {
                out.push(tag::RECONCILE);
                out.extend_from_slice(bytes);
            }
            Self::Want { hashes, last } => {
                out.extend([tag::WANT, u8::from(*last)]);
                write_varint(hashes.len() as u64, &mut out);
                hashes.iter().for_each(|hash| out.extend_from_slice(hash));
            }
            Self::Close(code, text) => {
                out.push(tag::CLOSE);
                out.extend(CloseCode::ALL.iter().find(|(_, c)| c == code).map(|(byte, _)| *byte));
                write_text(&mut out, text);
            }
        }
        out
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or something follows it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.read_u8()? {
            tag::HELLO => Self::Hello(decode_hello(&mut reader)?),
            tag::WELCOME => Self::Welcome(decode_welcome(&mut reader)?),
            tag::NAMES => Self::Names(decode_names(&mut reader)?),
            tag::CHANGES => Self::Changes(Changes::decode(&mut reader)?),
            tag::ACK => Self::Ack(reader.read_varint()?),
            tag::PING => Self::Ping,
            tag::PONG => Self::Pong,
            tag::SKETCH => {
                Self::Sketch { content: read_sketch(&mut reader)?, history: read_sketch(&mut reader)? }
            }
            tag::COMPARE_BY => Self::CompareBy { content: read_bool(&mut reader)? },
            tag::RECONCILE => Self::Reconcile(reader.read_bytes(reader.remaining())?.to_vec()),
            tag::WANT => decode_want(&mut reader)?,
            tag::CLOSE => {
                let byte = reader.read_u8()?;
                let code = CloseCode::ALL.iter().find(|(b, _)| *b == byte).map(|(_, code)| *code);
                Self::Close(
                    code.ok_or(DecodeError::UnknownTag(byte))?,
                    read_text(&mut reader, MAX_NOTICE_BYTES)?,
                )
            }
            other => return Err(DecodeError::UnknownTag(other)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn encode_hello(hello: &Hello, out: &mut Vec<u8>) {
    out.push(tag::HELLO);
    write_varint(u64::from(PROTOCOL_VERSION), out);
    out.extend_from_slice(hello.replica.as_bytes());
    write_varint(hello.head, out);
    out.push(
        direction_bits(hello.direction)
            | u8::from(hello.empty) << 2
            | u8::from(hello.compression) << 3
            | u8::from(hello.checkpoint.is_some()) << 4,
    );
    if let Some((replica, seq)) = hello.checkpoint {
        out.extend_from_slice(replica.as_bytes());
        write_varint(seq, out);
    }
    write_varint(hello.now_ms, out);
}

fn decode_hello(reader: &mut Reader<'_>) -> Result<Hello, DecodeError> {
    check_version(reader)?;
    let replica = read_replica(reader)?;
    let head = reader.read_varint()?;
    let flags = reader.read_u8()?;
    if flags >= 1 << 5 {
        return Err(DecodeError::UnknownTag(flags));
    }
    let checkpoint =
        if flags & 16 != 0 { Some((read_replica(reader)?, reader.read_varint()?)) } else { None };
    Ok(Hello {
        replica,
        head,
        empty: flags & 4 != 0,
        direction: direction_of(flags),
        compression: flags & 8 != 0,
        checkpoint,
        now_ms: reader.read_varint()?,
    })
}

fn encode_welcome(welcome: &Welcome, out: &mut Vec<u8>) {
    out.push(tag::WELCOME);
    write_varint(u64::from(PROTOCOL_VERSION), out);
    out.extend_from_slice(welcome.replica.as_bytes());
    write_varint(welcome.head, out);
    out.push(
        direction_bits(welcome.direction)
            | u8::from(welcome.reconcile) << 2
            | u8::from(welcome.compression) << 3,
    );
    write_text(out, &welcome.notice);
    write_varint(welcome.push_after, out);
    write_varint(welcome.now_ms, out);
}

fn decode_welcome(reader: &mut Reader<'_>) -> Result<Welcome, DecodeError> {
    check_version(reader)?;
    let replica = read_replica(reader)?;
    let head = reader.read_varint()?;
    let flags = reader.read_u8()?;
    if flags >= 1 << 4 {
        return Err(DecodeError::UnknownTag(flags));
    }
    Ok(Welcome {
        replica,
        head,
        direction: direction_of(flags),
        reconcile: flags & 4 != 0,
        compression: flags & 8 != 0,
        notice: read_text(reader, MAX_NOTICE_BYTES)?,
        push_after: reader.read_varint()?,
        now_ms: reader.read_varint()?,
    })
}

fn encode_names(names: &NamesMessage, out: &mut Vec<u8>) {
    out.push(tag::NAMES);
    write_varint(names.fields.len() as u64, out);
    for (number, name) in &names.fields {
        write_varint(u64::from(*number), out);
        write_text(out, name);
    }
    write_varint(names.writers.len() as u64, out);
    for (number, writer) in &names.writers {
        write_varint(u64::from(*number), out);
        out.extend_from_slice(writer.as_bytes());
    }
}

fn decode_names(reader: &mut Reader<'_>) -> Result<NamesMessage, DecodeError> {
    let mut names = NamesMessage::default();
    for _ in 0..read_count(reader, 2, MAX_FIELD_NAMES)? {
        let number = read_number(reader)?;
        names.fields.push((number, read_text(reader, MAX_FIELD_NAME_BYTES)?.into()));
    }
    for _ in 0..read_count(reader, 17, MAX_FIELD_NAMES)? {
        names.writers.push((read_number(reader)?, read_replica(reader)?));
    }
    Ok(names)
}

fn decode_want(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let last = read_bool(reader)?;
    let count = read_count(reader, 32, MAX_WANTED)?;
    let hashes = (0..count).map(|_| read_array(reader)).collect::<Result<_, _>>()?;
    Ok(Message::Want { hashes, last })
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

fn read_sketch(reader: &mut Reader<'_>) -> Result<Vec<u64>, DecodeError> {
    let count = read_count(reader, 8, SKETCH_LEN)?;
    (0..count).map(|_| read_array(reader).map(u64::from_le_bytes)).collect()
}

/// A count of items that take at least `item_bytes` each: never more than the bytes that are there could hold.
fn read_count(reader: &mut Reader<'_>, item_bytes: usize, limit: usize) -> Result<usize, DecodeError> {
    let count = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    if count > limit || count > reader.remaining() / item_bytes {
        return Err(DecodeError::OutOfRange);
    }
    Ok(count)
}

fn read_array<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], DecodeError> {
    reader.read_bytes(N)?.try_into().map_err(|_| DecodeError::Truncated)
}

fn read_replica(reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
    read_array(reader).map(ReplicaId::from_bytes)
}

fn read_number(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    u32::try_from(reader.read_varint()?).map_err(|_| DecodeError::OutOfRange)
}

fn read_bool(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.read_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::UnknownTag(other)),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_NOTICE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    write_varint(end as u64, out);
    out.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
}

fn read_text(reader: &mut Reader<'_>, limit: usize) -> Result<String, DecodeError> {
    let len = read_count(reader, 1, limit)?;
    let bytes = reader.read_bytes(len)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::NotUtf8)
}

#[cfg(test)]
pub(crate) mod strategies;
#[cfg(test)]
mod tests;
