//! Questions to a database on another node, and the answers. Grammar and vectors: `docs/spec/remote.md`.
//!
//! Decoding is total, as that of [`super::Message`]; a question is at most as long as a peer may write that has not been
//! admitted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{read_array, read_bool, read_count, read_text, write_text};
use crate::blazebinary::varint::{Reader, write_varint};
use crate::blazebinary::{DecodeError, EncodeError, RecordBuilder, RecordView, validate_record};
use crate::id::RecordId;
use crate::limits::{
    MAX_ASK_NAMES, MAX_FIELD_NAME_BYTES, MAX_FIELD_NAMES, MAX_NOTICE_BYTES, MAX_RECORD_BYTES,
    MAX_REQUEST_FILTER_BYTES, MAX_ROWS, MAX_SEARCH_BYTES, MAX_SNIPPET_BYTES,
};
use crate::record::Record;
use crate::value::Value;
use crate::wire::Token;

/// The version of this protocol.
pub const ASK_VERSION: u16 = 1;

/// What the side that connected says.
#[derive(Clone, PartialEq, Debug)]
pub struct Ask {
    /// Who asks.
    pub token: Option<Token>,
    /// What.
    pub question: Question,
}

/// A question about the records of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Only records that match, in the filter language.
    pub filter: Option<String>,
    /// At most so many rows.
    pub limit: Option<u64>,
    /// Without the first so many.
    pub offset: u64,
    /// What is asked about them.
    pub wanted: Wanted,
}

impl Question {
    /// A question about all records.
    #[must_use]
    pub const fn new(wanted: Wanted) -> Self {
        Self { filter: None, limit: None, offset: 0, wanted }
    }
}

/// A field or column to sort by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SortKey {
    /// Its name.
    pub field: String,
    /// From high to low.
    pub descending: bool,
}

/// What is asked about records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The records.
    Records {
        /// With these fields only; all if there are none.
        select: Vec<String>,
        /// In this order.
        order_by: Vec<SortKey>,
    },
    /// How many there are.
    Count,
    /// Their groups.
    Groups {
        /// By the values of these fields.
        group_by: Vec<String>,
        /// What to work out: `count`, `sum:FIELD` and so on.
        measures: Vec<String>,
        /// Only groups whose row matches.
        having: Option<String>,
        /// In this order of columns.
        order_by: Vec<SortKey>,
    },
    /// Those that have certain words, the best first.
    Search {
        /// The words.
        text: String,
    },
}

/// A piece of an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Row {
    /// A record.
    Record(Record),
    /// How many records there are.
    Count(u64),
    /// A group.
    Group(BTreeMap<String, Value>),
    /// A record that was found.
    Hit {
        /// The record.
        record: Record,
        /// How well it fits.
        score: f64,
        /// The passage that fits best.
        snippet: String,
    },
}

/// Why a question is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AskCode {
    /// The question makes no sense here.
    Invalid,
    /// Who asks was not accepted.
    Unauthenticated,
    /// Who asks may not.
    Forbidden,
    /// The answer takes too long to find.
    TooSlow,
    /// Too many questions at once.
    Busy,
    /// The other side failed.
    Failed,
}

impl AskCode {
    const ALL: [(u8, Self); 6] = [
        (1, Self::Invalid),
        (2, Self::Unauthenticated),
        (3, Self::Forbidden),
        (4, Self::TooSlow),
        (5, Self::Busy),
        (6, Self::Failed),
    ];
}

/// What the side that was connected to says.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// Some of what was found, in order.
    Rows(Vec<Row>),
    /// That was all.
    End,
    /// There is no answer, or no more of it; the reason in words.
    Failed(AskCode, String),
}

mod tag {
    pub(super) const ASK: u8 = 1;
    pub(super) const ROWS: u8 = 2;
    pub(super) const END: u8 = 3;
    pub(super) const FAILED: u8 = 4;
}

impl Ask {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![tag::ASK];
        write_varint(u64::from(ASK_VERSION), &mut out);
        out.push(u8::from(self.token.is_some()));
        self.token.iter().for_each(|token| token.encode(&mut out));
        let Question { filter, limit, offset, wanted } = &self.question;
        write_optional(filter.as_deref(), &mut out);
        out.push(u8::from(limit.is_some()));
        limit.iter().for_each(|limit| write_varint(*limit, &mut out));
        write_varint(*offset, &mut out);
        match wanted {
            Wanted::Records { select, order_by } => {
                out.push(1);
                write_names(select, &mut out);
                write_keys(order_by, &mut out);
            }
            Wanted::Count => out.push(2),
            Wanted::Groups { group_by, measures, having, order_by } => {
                out.push(3);
                write_names(group_by, &mut out);
                write_names(measures, &mut out);
                write_optional(having.as_deref(), &mut out);
                write_keys(order_by, &mut out);
            }
            Wanted::Search { text } => {
                out.push(4);
                write_long(text, &mut out);
            }
        }
        out
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or something follows it. The version is part of what is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        expect(&mut reader, tag::ASK)?;
        if reader.read_varint()? != u64::from(ASK_VERSION) {
            return Err(DecodeError::OutOfRange);
        }
        let token = if read_bool(&mut reader)? { Some(Token::decode(&mut reader)?) } else { None };
        let filter = read_optional(&mut reader, MAX_REQUEST_FILTER_BYTES)?;
        let limit = if read_bool(&mut reader)? { Some(reader.read_varint()?) } else { None };
        let offset = reader.read_varint()?;
        let wanted = match reader.read_u8()? {
            1 => Wanted::Records { select: read_names(&mut reader)?, order_by: read_keys(&mut reader)? },
            2 => Wanted::Count,
            3 => Wanted::Groups {
                group_by: read_names(&mut reader)?,
                measures: read_names(&mut reader)?,
                having: read_optional(&mut reader, MAX_REQUEST_FILTER_BYTES)?,
                order_by: read_keys(&mut reader)?,
            },
            4 => Wanted::Search { text: read_text(&mut reader, MAX_SEARCH_BYTES)? },
            other => return Err(DecodeError::UnknownTag(other)),
        };
        reader.finish()?;
        Ok(Self { token, question: Question { filter, limit, offset, wanted } })
    }
}

impl Answer {
    /// The message as bytes.
    ///
    /// # Errors
    /// [`EncodeError`] if a row holds what no record may hold.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Rows(rows) => {
                let mut encoder = RowsEncoder::default();
                rows.iter().try_for_each(|row| encoder.push(row))?;
                Ok(encoder.finish())
            }
            Self::End => Ok(vec![tag::END]),
            Self::Failed(code, reason) => {
                let mut out = vec![tag::FAILED];
                out.extend(AskCode::ALL.iter().find(|(_, known)| known == code).map(|(byte, _)| *byte));
                write_text(&mut out, reason);
                Ok(out)
            }
        }
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none, or something follows it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let answer = match reader.read_u8()? {
            tag::ROWS => Self::Rows(decode_rows(&mut reader)?),
            tag::END => Self::End,
            tag::FAILED => {
                let byte = reader.read_u8()?;
                let code = AskCode::ALL.iter().find(|(known, _)| *known == byte).map(|(_, code)| *code);
                let code = code.ok_or(DecodeError::UnknownTag(byte))?;
                Self::Failed(code, read_text(&mut reader, MAX_NOTICE_BYTES)?)
            }
            other => return Err(DecodeError::UnknownTag(other)),
        };
        reader.finish()?;
        Ok(answer)
    }
}

/// Puts rows into one message, as they come.
#[derive(Debug, Default)]
pub struct RowsEncoder {
    names: BTreeMap<String, u32>,
    /// The names in the order of their numbers.
    listed: Vec<String>,
    builder: RecordBuilder,
    rows: Vec<u8>,
    count: usize,
}

impl RowsEncoder {
    /// Adds a row.
    ///
    /// # Errors
    /// [`EncodeError`] if it holds what no record may hold.
    pub fn push(&mut self, row: &Row) -> Result<(), EncodeError> {
        match row {
            Row::Record(record) => {
                self.rows.push(1);
                self.record(record)?;
            }
            Row::Count(count) => {
                self.rows.push(2);
                write_varint(*count, &mut self.rows);
            }
            Row::Group(group) => {
                self.rows.push(3);
                self.fields(group)?;
            }
            Row::Hit { record, score, snippet } => {
                self.rows.push(4);
                self.record(record)?;
                self.rows.extend_from_slice(&score.to_le_bytes());
                write_long(cut(snippet, MAX_SNIPPET_BYTES), &mut self.rows);
            }
        }
        self.count += 1;
        Ok(())
    }

    /// How many rows there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the message should be sent before more rows are added, if it is to have about `bytes`.
    #[must_use]
    pub const fn is_full(&self, bytes: usize) -> bool {
        self.rows.len() >= bytes || self.count >= MAX_ROWS
    }

    /// The message; the encoder is empty afterwards.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = vec![tag::ROWS];
        write_names(&self.listed, &mut out);
        write_varint(self.count as u64, &mut out);
        out.append(&mut self.rows);
        *self = Self::default();
        out
    }

    fn record(&mut self, record: &Record) -> Result<(), EncodeError> {
        self.rows.extend_from_slice(record.id.as_bytes());
        self.fields(&record.fields)
    }

    fn fields(&mut self, fields: &BTreeMap<String, Value>) -> Result<(), EncodeError> {
        let mut numbered = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            let next = u32::try_from(self.listed.len()).unwrap_or(u32::MAX);
            let number = match self.names.get(name) {
                Some(number) => *number,
                None => {
                    self.names.insert(name.clone(), next);
                    self.listed.push(name.clone());
                    next
                }
            };
            numbered.push((number, value));
        }
        numbered.sort_unstable_by_key(|(number, _)| *number);
        self.builder.clear();
        numbered.into_iter().try_for_each(|(number, value)| self.builder.push(number, value))?;
        let mut body = Vec::with_capacity(self.builder.encoded_len());
        self.builder.finish_into(&mut body);
        write_varint(body.len() as u64, &mut self.rows);
        self.rows.append(&mut body);
        Ok(())
    }
}

fn decode_rows(reader: &mut Reader<'_>) -> Result<Vec<Row>, DecodeError> {
    let names: Vec<Arc<str>> =
        read_names_up_to(reader, MAX_FIELD_NAMES)?.into_iter().map(Arc::from).collect();
    let count = read_count(reader, 2, MAX_ROWS)?;
    // Not more room than rows that were paid for: each grows the list by what it holds.
    let mut rows = Vec::new();
    for _ in 0..count {
        rows.push(match reader.read_u8()? {
            1 => Row::Record(read_record(reader, &names)?),
            2 => Row::Count(reader.read_varint()?),
            3 => Row::Group(read_fields(reader, &names)?),
            4 => Row::Hit {
                record: read_record(reader, &names)?,
                score: f64::from_le_bytes(read_array(reader)?),
                snippet: read_text(reader, MAX_SNIPPET_BYTES)?,
            },
            other => return Err(DecodeError::UnknownTag(other)),
        });
    }
    Ok(rows)
}

fn read_record(reader: &mut Reader<'_>, names: &[Arc<str>]) -> Result<Record, DecodeError> {
    let id = RecordId::from_bytes(read_array(reader)?);
    Ok(Record { id, fields: read_fields(reader, names)? })
}

fn read_fields(reader: &mut Reader<'_>, names: &[Arc<str>]) -> Result<BTreeMap<String, Value>, DecodeError> {
    let len = read_count(reader, 1, MAX_RECORD_BYTES)?;
    let body = reader.read_bytes(len)?;
    validate_record(body)?;
    let view = RecordView::parse(body)?;
    let name = |number: u32| names.get(usize::try_from(number).unwrap_or(usize::MAX)).map(AsRef::as_ref);
    if view.iter().any(|(number, _)| name(number).is_none()) {
        return Err(DecodeError::Mismatch);
    }
    view.decode(name)
}

fn expect(reader: &mut Reader<'_>, tag: u8) -> Result<(), DecodeError> {
    match reader.read_u8()? {
        found if found == tag => Ok(()),
        other => Err(DecodeError::UnknownTag(other)),
    }
}

/// A text that is cut at no limit of notices.
fn write_long(text: &str, out: &mut Vec<u8>) {
    write_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn write_optional(text: Option<&str>, out: &mut Vec<u8>) {
    out.push(u8::from(text.is_some()));
    text.iter().for_each(|text| write_long(text, out));
}

fn read_optional(reader: &mut Reader<'_>, limit: usize) -> Result<Option<String>, DecodeError> {
    if read_bool(reader)? { read_text(reader, limit).map(Some) } else { Ok(None) }
}

fn write_names(names: &[String], out: &mut Vec<u8>) {
    write_varint(names.len() as u64, out);
    names.iter().for_each(|name| write_long(name, out));
}

fn read_names(reader: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    read_names_up_to(reader, MAX_ASK_NAMES)
}

fn read_names_up_to(reader: &mut Reader<'_>, limit: usize) -> Result<Vec<String>, DecodeError> {
    let count = read_count(reader, 1, limit)?;
    (0..count).map(|_| read_text(reader, MAX_COLUMN_BYTES)).collect()
}

/// A column's name: a field's, and what is measured of it.
const MAX_COLUMN_BYTES: usize = MAX_FIELD_NAME_BYTES + 16;

fn write_keys(keys: &[SortKey], out: &mut Vec<u8>) {
    write_varint(keys.len() as u64, out);
    for key in keys {
        write_long(&key.field, out);
        out.push(u8::from(key.descending));
    }
}

fn read_keys(reader: &mut Reader<'_>) -> Result<Vec<SortKey>, DecodeError> {
    let count = read_count(reader, 2, MAX_ASK_NAMES)?;
    let key = |_| Ok(SortKey { field: read_text(reader, MAX_COLUMN_BYTES)?, descending: read_bool(reader)? });
    (0..count).map(key).collect()
}

#[cfg(test)]
mod tests;
