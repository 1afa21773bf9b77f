//! The messages of a session. Grammar and vectors: `docs/spec/wire.md`.
//!
//! A message is a tag byte and its fields. Decoding is total: it never panics, takes no memory that the bytes
//! don't pay for, and refuses what is left over.

use std::sync::Arc;

use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_varint};
use crate::bond::Bond;
use crate::feed::{Names, Seq};
use crate::id::{RecordId, ReplicaId};
use crate::limits::{
    MAX_BONDS, MAX_FIELD_NAME_BYTES, MAX_FIELD_NAMES, MAX_NOTICE_BYTES, MAX_WANTED, SKETCH_LEN,
};
use crate::stamp::{Hlc, Stamp};

pub mod ask;
mod coded;
mod opening;
mod refusals;
mod token;

pub use coded::{Coded, CodedSymbol};
pub use opening::{Direction, Hello, Welcome};
use opening::{decode_hello, decode_welcome, encode_hello, encode_welcome};
pub use token::{Token, TokenTextError};

mod keyring;

pub use keyring::KeyringMessage;
pub use refusals::{Refusals, RefusedState, RefusedWrite};

/// The version of this protocol. A peer with another one is refused by name.
pub const PROTOCOL_VERSION: u16 = 1;

/// Why a session ended, for the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseCode {
    /// The sender is going away; come back later.
    GoingAway,
    /// The peer broke the protocol.
    Protocol,
    /// The peer speaks another version.
    Version,
    /// What the peer asked for is refused: by access rules or by what is served.
    Refused,
    /// A change is stamped too far in the future.
    ClockDrift,
    /// The sender failed on its own side.
    Internal,
    /// Who the peer is was not accepted: its token is missing, refused, expired or revoked.
    Unauthenticated,
}

impl CloseCode {
    const ALL: [(u8, Self); 7] = [
        (1, Self::GoingAway),
        (2, Self::Protocol),
        (3, Self::Version),
        (4, Self::Refused),
        (5, Self::ClockDrift),
        (6, Self::Internal),
        (7, Self::Unauthenticated),
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
    /// What the next [`Message::Changes`] belongs together with.
    Bonds(Vec<Bond>),
    /// Changes.
    Changes(Changes),
    /// So many [`Message::Changes`] of this session are durable here.
    Ack(u64),
    /// Is anybody there?
    Ping,
    /// Yes.
    Pong,
    /// Where does your feed end now?
    Probe,
    /// Answer to [`Message::Probe`]: it ended here when the question was read, as far as it is sent; 0 if it is not.
    FeedEnd(u64),
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
    /// A step of finding the difference with coded symbols.
    Coded(Coded),
    /// A step of the `negentropy` protocol.
    Reconcile(Vec<u8>),
    /// The client lacks these; `last` ends the list.
    Want {
        /// Hashes of the records asked for.
        hashes: Vec<[u8; 32]>,
        /// No more to come.
        last: bool,
    },
    /// After a comparison in a restricted view: the client holds these records, and the server may not be showing them
    /// any more. The stamps of their births prove that it does.
    Held(Vec<(RecordId, Stamp)>),
    /// Server: these writes of the client were refused. The next one waits until these are taken.
    Refusals(Refusals),
    /// Client: the refusals up to this number are durable here.
    RefusalsTaken(u64),
    /// The session ends.
    Close(CloseCode, String),
    /// How far the sender's keyring goes, and statements of it that the receiver lacks.
    Keyring(KeyringMessage),
    /// A fresh token of the client, in place of the one that it came with.
    Token(Token),
    /// The client asks for another configuration on the open session, at this epoch.
    Reconfigure(u64, Hello),
    /// The server's answer; what follows it is in this epoch.
    Reconfigured(u64, Welcome),
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
    pub(super) const PROBE: u8 = 26;
    pub(super) const FEED_END: u8 = 27;
    pub(super) const SKETCH: u8 = 8;
    pub(super) const COMPARE_BY: u8 = 9;
    pub(super) const RECONCILE: u8 = 10;
    pub(super) const WANT: u8 = 11;
    pub(super) const CLOSE: u8 = 12;
    pub(super) const KEYRING: u8 = 24;
    pub(super) const BONDS: u8 = 25;
    pub(super) const HELD: u8 = 20;
    pub(super) const TOKEN: u8 = 13;
    pub(super) const REFUSALS: u8 = 14;
    pub(super) const REFUSALS_TAKEN: u8 = 15;
    pub(super) const RECONFIGURE: u8 = 21;
    pub(super) const RECONFIGURED: u8 = 22;
    pub(super) const CODED: u8 = 40;
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
            Self::Hello(hello) => {
                out.push(tag::HELLO);
                encode_hello(hello, &mut out);
            }
            Self::Welcome(welcome) => {
                out.push(tag::WELCOME);
                encode_welcome(welcome, &mut out);
            }
            Self::Names(names) => {
                out.push(tag::NAMES);
                encode_names(names, &mut out);
            }
            Self::Bonds(bonds) => encode_bonds(bonds, &mut out),
            Self::Changes(changes) => {
                out = changes.encode_head();
                out.extend_from_slice(&changes.data);
            }
            Self::Ack(count) => encode_number(tag::ACK, *count, &mut out),
            Self::Ping => out.push(tag::PING),
            Self::Pong => out.push(tag::PONG),
            Self::Probe => out.push(tag::PROBE),
            Self::FeedEnd(seq) => encode_number(tag::FEED_END, *seq, &mut out),
            Self::Sketch { content, history } => encode_sketch([content, history], &mut out),
            Self::CompareBy { content } => out.extend([tag::COMPARE_BY, u8::from(*content)]),
            Self::Coded(coded) => coded.encode(&mut out),
            Self::Reconcile(bytes) => {
                out.push(tag::RECONCILE);
                out.extend_from_slice(bytes);
            }
            Self::Want { hashes, last } => encode_want(hashes, *last, &mut out),
            Self::Held(held) => encode_held(held, &mut out),
            Self::Refusals(refusals) => {
                out.push(tag::REFUSALS);
                refusals.encode(&mut out);
            }
            Self::RefusalsTaken(no) => encode_number(tag::REFUSALS_TAKEN, *no, &mut out),
            Self::Close(code, text) => {
                out.push(tag::CLOSE);
                out.extend(CloseCode::ALL.iter().find(|(_, c)| c == code).map(|(byte, _)| *byte));
                write_text(&mut out, text);
            }
            Self::Keyring(keyring) => {
                out.push(tag::KEYRING);
                keyring.encode(&mut out);
            }
            Self::Token(token) => {
                out.push(tag::TOKEN);
                token.encode(&mut out);
            }
            Self::Reconfigure(epoch, hello) => {
                out.push(tag::RECONFIGURE);
                write_varint(*epoch, &mut out);
                encode_hello(hello, &mut out);
            }
            Self::Reconfigured(epoch, welcome) => {
                out.push(tag::RECONFIGURED);
                write_varint(*epoch, &mut out);
                encode_welcome(welcome, &mut out);
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
            tag::BONDS => {
                let count = read_count(&mut reader, 16, MAX_BONDS)?;
                Self::Bonds((0..count).map(|_| read_array(&mut reader).map(Bond)).collect::<Result<_, _>>()?)
            }
            tag::CHANGES => Self::Changes(Changes::decode(&mut reader)?),
            tag::ACK => Self::Ack(reader.read_varint()?),
            tag::PING => Self::Ping,
            tag::PONG => Self::Pong,
            tag::PROBE => Self::Probe,
            tag::FEED_END => Self::FeedEnd(reader.read_varint()?),
            tag::SKETCH => {
                Self::Sketch { content: read_sketch(&mut reader)?, history: read_sketch(&mut reader)? }
            }
            tag::COMPARE_BY => Self::CompareBy { content: read_bool(&mut reader)? },
            tag::CODED => Self::Coded(Coded::decode(&mut reader)?),
            tag::RECONCILE => Self::Reconcile(reader.read_bytes(reader.remaining())?.to_vec()),
            tag::WANT => decode_want(&mut reader)?,
            tag::HELD => {
                let count = read_count(&mut reader, 40, MAX_WANTED)?;
                Self::Held((0..count).map(|_| read_held(&mut reader)).collect::<Result<_, _>>()?)
            }
            tag::REFUSALS => Self::Refusals(Refusals::decode(&mut reader)?),
            tag::REFUSALS_TAKEN => Self::RefusalsTaken(reader.read_varint()?),
            tag::CLOSE => {
                let byte = reader.read_u8()?;
                let code = CloseCode::ALL.iter().find(|(b, _)| *b == byte).map(|(_, code)| *code);
                Self::Close(
                    code.ok_or(DecodeError::UnknownTag(byte))?,
                    read_text(&mut reader, MAX_NOTICE_BYTES)?,
                )
            }
            tag::KEYRING => Self::Keyring(KeyringMessage::decode(&mut reader)?),
            tag::TOKEN => Self::Token(Token::decode(&mut reader)?),
            tag::RECONFIGURE => Self::Reconfigure(reader.read_varint()?, decode_hello(&mut reader)?),
            tag::RECONFIGURED => Self::Reconfigured(reader.read_varint()?, decode_welcome(&mut reader)?),
            other => return Err(DecodeError::UnknownTag(other)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn encode_sketch(sides: [&Vec<u64>; 2], out: &mut Vec<u8>) {
    out.push(tag::SKETCH);
    for side in sides {
        write_varint(side.len() as u64, out);
        side.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
    }
}

fn encode_want(hashes: &[[u8; 32]], last: bool, out: &mut Vec<u8>) {
    out.extend([tag::WANT, u8::from(last)]);
    write_varint(hashes.len() as u64, out);
    hashes.iter().for_each(|hash| out.extend_from_slice(hash));
}

fn encode_number(tag: u8, number: u64, out: &mut Vec<u8>) {
    out.push(tag);
    write_varint(number, out);
}

fn encode_bonds(bonds: &[Bond], out: &mut Vec<u8>) {
    out.push(tag::BONDS);
    write_varint(bonds.len() as u64, out);
    bonds.iter().for_each(|bond| out.extend_from_slice(&bond.0));
}

fn encode_held(held: &[(RecordId, Stamp)], out: &mut Vec<u8>) {
    out.push(tag::HELD);
    write_varint(held.len() as u64, out);
    for (id, born) in held {
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(&born.time.0.to_le_bytes());
        out.extend_from_slice(born.writer.as_bytes());
    }
}

fn encode_names(names: &NamesMessage, out: &mut Vec<u8>) {
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

fn read_held(reader: &mut Reader<'_>) -> Result<(RecordId, Stamp), DecodeError> {
    let id = RecordId::from_bytes(read_array(reader)?);
    let time = Hlc(u64::from_le_bytes(read_array(reader)?));
    Ok((id, Stamp::new(time, read_replica(reader)?)))
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
