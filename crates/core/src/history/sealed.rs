//! Sealed values in a history: the groups behind the cells, and the states of sealed counters and sets.

use std::sync::Arc;

use super::{HistoryHead, HistoryReader, HistoryWriter, count};
use crate::blazebinary::varint::{Reader, write_prefixed, write_varint};
use crate::blazebinary::{DecodeError, FieldNo};
use crate::cell::{Cell, Content};
use crate::feed::Seq;
use crate::limits::{MAX_CELL_WRITERS, MAX_FIELDS, MAX_REPLACED};
use crate::seal::{Mergeable, Sealed, SealedField, SealedGroup, SealedMergeable, SealedVersion};
use crate::stamp::Stamp;

const LIVE: u8 = 1;
const ABSENT: u8 = 2;
const REPLACED: u8 = 4;

/// A group and the cells that live in it, with their feed sequences.
pub(super) type LiveGroup<'a> = (&'a Arc<SealedGroup>, Vec<(FieldNo, Seq)>);

/// The groups that these cells live in, in their one order.
pub(super) fn groups_of<'a>(cells: &[(FieldNo, &'a Cell)]) -> Vec<LiveGroup<'a>> {
    let mut groups: Vec<LiveGroup<'a>> = Vec::new();
    for (field, cell) in cells {
        let Content::Sealed(Sealed::Write { group, .. }) = &cell.content else { continue };
        let same = |(other, _): &&mut LiveGroup<'a>| {
            Arc::ptr_eq(other, group) || (other.stamp == group.stamp && other.as_ref() == group.as_ref())
        };
        match groups.iter_mut().find(same) {
            Some((_, live)) => live.push((*field, cell.seq)),
            None => groups.push((group, vec![(*field, cell.seq)])),
        }
    }
    groups.sort_by(|(a, _), (b, _)| (a.stamp, a.epoch, &a.bytes).cmp(&(b.stamp, b.epoch, &b.bytes)));
    groups
}

/// Whether a uniform history can hold them: one group at most, and all of it lives.
pub(super) fn fit_uniform(groups: &[LiveGroup<'_>]) -> bool {
    match groups {
        [] => true,
        [(group, live)] => group.fields.len() == live.len(),
        _ => false,
    }
}

/// The group of a uniform history, as it stands there: its stamp is the record's birth, and all of it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UniformGroup<'a> {
    /// The epoch of the key.
    pub epoch: u32,
    /// How many fields are in it, and their numbers, encoded: the same bytes in all records that were inserted with
    /// the same fields.
    pub fields: &'a [u8],
    /// Ciphertext and authentication tag.
    pub bytes: &'a [u8],
}

impl<'a> UniformGroup<'a> {
    /// Reads a group; `reader` stands behind the head of its history. `known` are the fields of one that was read
    /// before: those that are the same are not looked at again.
    ///
    /// # Errors
    /// [`DecodeError`] if it is damaged.
    pub fn read(reader: &mut Reader<'a>, known: &[u8]) -> Result<Self, DecodeError> {
        let epoch = reader.read_varint_u32()?;
        let len = match known.is_empty() || !reader.rest().starts_with(known) {
            true => fields_len(reader.rest())?,
            false => known.len(),
        };
        Ok(Self { epoch, fields: reader.read_bytes(len)?, bytes: prefixed(reader)? })
    }

    /// The numbers of its fields, in its order.
    pub fn numbers(&self) -> impl Iterator<Item = FieldNo> + use<'a> {
        let mut reader = Reader::new(self.fields);
        let count = reader.read_varint().unwrap_or_default();
        (0..count).map_while(move |_| reader.read_varint_u32().ok())
    }

    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_varint(u64::from(self.epoch), out);
        out.extend_from_slice(self.fields);
        write_prefixed(self.bytes, out);
    }

    fn to_group(self, born: Stamp) -> SealedGroup {
        let fields = self.numbers().map(SealedField::written).collect();
        SealedGroup { stamp: born, epoch: self.epoch, fields, bytes: self.bytes.into() }
    }
}

/// Appends the numbers of a group's fields as they stand in a uniform history.
pub fn write_group_fields(numbers: impl ExactSizeIterator<Item = FieldNo>, out: &mut Vec<u8>) {
    write_varint(numbers.len() as u64, out);
    numbers.for_each(|number| write_varint(u64::from(number), out));
}

/// How long the numbers of a group's fields are that `bytes` begin with.
fn fields_len(bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut numbers = Vec::new();
    for _ in 0..count(&mut reader, MAX_FIELDS)? {
        numbers.push(reader.read_varint_u32()?);
    }
    check_distinct(numbers)?;
    Ok(bytes.len() - reader.remaining())
}

/// A group has fields, and none of them twice.
fn check_distinct(mut numbers: Vec<FieldNo>) -> Result<(), DecodeError> {
    numbers.sort_unstable();
    let twice = numbers.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
    if numbers.is_empty() || twice { Err(DecodeError::Mismatch) } else { Ok(()) }
}

impl HistoryWriter<'_> {
    pub(super) fn groups(&mut self, groups: &[LiveGroup<'_>], out: &mut Vec<u8>) {
        write_varint(groups.len() as u64, out);
        for (group, live) in groups {
            self.stamp(group.stamp, out);
            write_varint(u64::from(group.epoch), out);
            write_varint(group.fields.len() as u64, out);
            for SealedField { field, absent, replaced } in &group.fields {
                let seq = live.iter().find(|(no, _)| no == field).map(|(_, seq)| *seq);
                let flag = |on: bool, bit: u8| if on { bit } else { 0 };
                write_varint(u64::from(*field), out);
                out.push(
                    flag(seq.is_some(), LIVE) | flag(*absent, ABSENT) | flag(!replaced.is_empty(), REPLACED),
                );
                if let (Some(seq), Some(row)) = (seq, self.row_seq) {
                    write_varint(row.saturating_sub(seq), out);
                }
                if !replaced.is_empty() {
                    self.stamps(replaced, out);
                }
            }
            write_prefixed(&group.bytes, out);
        }
    }

    pub(super) fn versions(&mut self, versions: &[SealedVersion], out: &mut Vec<u8>) {
        write_varint(versions.len() as u64, out);
        for SealedVersion { epoch, seen, bytes } in versions {
            write_varint(u64::from(*epoch), out);
            self.times(seen, out);
            write_prefixed(bytes, out);
        }
    }
}

impl HistoryReader<'_> {
    pub(super) fn sealed_cells(
        &self,
        head: &HistoryHead,
        reader: &mut Reader<'_>,
        cells: &mut Vec<(FieldNo, Cell)>,
    ) -> Result<(), DecodeError> {
        if let (true, Some(born)) = (head.uniform, head.life.born) {
            let group = Arc::new(UniformGroup::read(reader, &[])?.to_group(born));
            let seq = self.row_seq.unwrap_or_default();
            cells.extend(group.fields.iter().map(|field| live_cell(&group, field, seq)));
            return Ok(());
        }
        let groups = count(reader, MAX_FIELDS)?;
        for _ in 0..groups {
            self.live_group(reader, cells)?;
        }
        if groups == 0 { Err(DecodeError::Mismatch) } else { Ok(()) }
    }

    fn live_group(
        &self,
        reader: &mut Reader<'_>,
        cells: &mut Vec<(FieldNo, Cell)>,
    ) -> Result<(), DecodeError> {
        let stamp = self.stamp(reader)?;
        let epoch = reader.read_varint_u32()?;
        let (mut fields, mut live) = (Vec::new(), Vec::new());
        for at in 0..count(reader, MAX_FIELDS)? {
            let field = reader.read_varint_u32()?;
            let flags = reader.read_u8()?;
            if flags > (LIVE | ABSENT | REPLACED) {
                return Err(DecodeError::UnknownTag(flags));
            }
            if flags & LIVE != 0 {
                let seq = match self.row_seq {
                    Some(row) => row.checked_sub(reader.read_varint()?).ok_or(DecodeError::OutOfRange)?,
                    None => 0,
                };
                live.push((at, seq));
            }
            let replaced =
                if flags & REPLACED != 0 { self.newest(MAX_REPLACED, reader)? } else { Vec::new() };
            if replaced.iter().any(|seen| seen.writer == stamp.writer) {
                return Err(DecodeError::Mismatch);
            }
            fields.push(SealedField { field, absent: flags & ABSENT != 0, replaced });
        }
        if live.is_empty() {
            return Err(DecodeError::Mismatch);
        }
        let group = Arc::new(group(stamp, epoch, fields, reader)?);
        let lives = live.iter().filter_map(|(at, seq)| Some((group.fields.get(*at)?, *seq)));
        cells.extend(lives.map(|(field, seq)| live_cell(&group, field, seq)));
        Ok(())
    }

    pub(super) fn sealed_mergeable(
        &self,
        kind: Mergeable,
        base: Option<Stamp>,
        reader: &mut Reader<'_>,
    ) -> Result<Content, DecodeError> {
        let mut versions: Vec<SealedVersion> = Vec::new();
        for _ in 0..count(reader, MAX_CELL_WRITERS)? {
            let epoch = reader.read_varint_u32()?;
            let seen = self.times(reader)?;
            let bytes = prefixed(reader)?.into();
            if versions.last().is_some_and(|last| last.seen >= seen) {
                return Err(DecodeError::Mismatch);
            }
            versions.push(SealedVersion { epoch, seen, bytes });
        }
        if versions.is_empty() {
            return Err(DecodeError::Mismatch);
        }
        Ok(Content::Sealed(Sealed::Mergeable(SealedMergeable { kind, base, versions })))
    }
}

fn group(
    stamp: Stamp,
    epoch: u32,
    fields: Vec<SealedField>,
    reader: &mut Reader<'_>,
) -> Result<SealedGroup, DecodeError> {
    check_distinct(fields.iter().map(|field| field.field).collect())?;
    Ok(SealedGroup { stamp, epoch, fields, bytes: prefixed(reader)?.into() })
}

fn live_cell(group: &Arc<SealedGroup>, field: &SealedField, seq: Seq) -> (FieldNo, Cell) {
    let content = Content::Sealed(Sealed::Write { group: Arc::clone(group), absent: field.absent });
    (field.field, Cell { stamp: group.stamp, replaced: field.replaced.clone(), seq, content })
}

fn prefixed<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    reader.read_bytes(len)
}
