//! The encoding of a record's history: its life and its cells' stamps, without their values.
//!
//! The same form is used on disk (column `history`, values in the body beside it) and on the wire (one entry of
//! a batch). Grammar: `docs/spec/record.md`. Values stay in the BlazeBinary body; what has no visible value
//! (removed fields, tallies, additions) is here.
//!
//! Invariant: a history that says *uniform* describes exactly this: alive from one insert, never deleted,
//! every field of the body a register written by that insert.

mod sealed;

pub use sealed::{UniformGroup, write_group_fields};

use std::collections::BTreeMap;

use crate::blazebinary::varint::{Reader, write_varint, write_zigzag};
use crate::blazebinary::{
    DecodeError, EncodeError, FieldNo, OwnedValue, RawValue, RecordBuilder, RecordView,
};
use crate::cell::{Cell, Content, Counter, Set, newest_of_writers};
use crate::feed::Seq;
use crate::id::ReplicaId;
use crate::limits::{MAX_CELL_WRITERS, MAX_DELETION_SEEN, MAX_FIELDS, MAX_REPLACED};
use crate::merge::{Life, RecordState, Seen, Tombstone};
use crate::seal::{Mergeable, Sealed};
use crate::stamp::{Hlc, Stamp};
use crate::value::Value;
use crate::view::RemovalReason;

const UNIFORM: u8 = 1;
const BORN: u8 = 2;
const DEAD: u8 = 4;
const AFTER: u8 = 8;
const DEAD_SEEN: u8 = 16;
const SEALED: u8 = 64;
const ALL_FLAGS: u8 = 31 | SEALED;
/// Stands alone, in place of a history: the record is taken from the reader. A reason follows.
const REMOVAL: u8 = 32;

const HAS_REPLACED: u8 = 4;
const HAS_BASE: u8 = 8;
/// A counter that says when its writers last counted; those of the first files don't.
const TIMED: u8 = 16;
const SEALED_KIND: u8 = 32;
const ALL_KINDS: u8 = 63;
const TIMED_COUNTER: u8 = 2 | TIMED;
const SEALED_COUNTER: u8 = 2 | SEALED_KIND;
const SEALED_SET: u8 = 3 | SEALED_KIND;

/// What times are relative to: 2024-01-01T00:00:00Z.
const TIME_BASE: Hlc = Hlc::new(1_704_067_200_000, 0);

/// Writes histories with one numbering of writers.
pub struct HistoryWriter<'a> {
    /// The number of a writer.
    pub writer_no: &'a mut dyn FnMut(ReplicaId) -> u32,
    /// The record's feed sequence, if cells' sequences are to be written too (on disk).
    pub row_seq: Option<Seq>,
}

/// Reads histories; the counterpart of [`HistoryWriter`].
#[derive(Clone, Copy)]
pub struct HistoryReader<'a> {
    /// The writer of a number.
    pub writer: &'a dyn Fn(u32) -> Option<ReplicaId>,
    /// The record's feed sequence, if cells' sequences were written too.
    pub row_seq: Option<Seq>,
}

/// The start of a history: all there is to a uniform one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryHead {
    /// See the module's invariant.
    pub uniform: bool,
    /// Sealed values follow.
    pub sealed: bool,
    /// Born and dead.
    pub life: Life,
}

impl HistoryHead {
    /// The insert of a record that nothing has happened to since.
    #[must_use]
    pub const fn inserted(stamp: Stamp) -> Self {
        Self { uniform: true, sealed: false, life: Life { after: None, born: Some(stamp), dead: None } }
    }
}

/// Marks a written head as followed by sealed values, or not.
pub(crate) fn mark_sealed(head: &mut [u8], sealed: bool) {
    if let Some(flags) = head.first_mut() {
        *flags = if sealed { *flags | SEALED } else { *flags & !SEALED };
    }
}

impl HistoryWriter<'_> {
    /// Writes a head; the cells must follow unless it is uniform.
    pub fn head(&mut self, head: &HistoryHead, out: &mut Vec<u8>) {
        let Life { after, born, dead } = head.life;
        let seen: Vec<Stamp> = dead.iter().flat_map(|dead| dead.seen.iter()).collect();
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(
            flag(head.uniform, UNIFORM)
                | flag(born.is_some(), BORN)
                | flag(dead.is_some(), DEAD)
                | flag(after.is_some(), AFTER)
                | flag(!seen.is_empty(), DEAD_SEEN)
                | flag(head.sealed, SEALED),
        );
        [born, dead.map(|dead| dead.stamp), after]
            .into_iter()
            .flatten()
            .for_each(|stamp| self.stamp(stamp, out));
        if !seen.is_empty() {
            self.stamps(&seen, out);
        }
    }

    /// Writes the history of `state` as far as `include` takes its cells.
    pub fn state(&mut self, state: &RecordState, include: impl Fn(&Cell) -> bool, out: &mut Vec<u8>) {
        let included: Vec<(FieldNo, &Cell)> =
            state.cells.iter().filter(|(_, cell)| include(cell)).map(|(no, cell)| (*no, cell)).collect();
        let sealed = sealed::groups_of(&included);
        let uniform = included.len() == state.cells.len()
            && is_uniform(state)
            && sealed::fit_uniform(&sealed)
            && self.row_seq.is_none_or(|row| included.iter().all(|(_, cell)| cell.seq == row));
        let is_sealed = !sealed.is_empty();
        self.head(&HistoryHead { uniform, sealed: is_sealed, life: state.life }, out);
        if uniform {
            for (group, _) in &sealed {
                let mut fields = Vec::new();
                write_group_fields(group.fields.iter().map(|field| field.field), &mut fields);
                UniformGroup { epoch: group.epoch, fields: &fields, bytes: &group.bytes }.write(out);
            }
            return;
        }
        let mut groups: BTreeMap<(Stamp, Seq), Vec<(FieldNo, &Cell)>> = BTreeMap::new();
        for (field, cell) in included {
            if matches!(cell.content, Content::Sealed(Sealed::Write { .. })) {
                continue;
            }
            let seq = if self.row_seq.is_some() { cell.seq } else { 0 };
            groups.entry((cell.stamp, seq)).or_default().push((field, cell));
        }
        write_varint(groups.len() as u64, out);
        for ((stamp, seq), cells) in groups {
            self.stamp(stamp, out);
            if let Some(row) = self.row_seq {
                write_varint(row.saturating_sub(seq), out);
            }
            write_varint(cells.len() as u64, out);
            for (field, cell) in cells {
                write_varint(u64::from(field), out);
                self.cell(cell, out);
            }
        }
        if is_sealed {
            self.groups(&sealed, out);
        }
    }

    fn stamps(&mut self, stamps: &[Stamp], out: &mut Vec<u8>) {
        write_varint(stamps.len() as u64, out);
        stamps.iter().for_each(|stamp| self.stamp(*stamp, out));
    }

    fn stamp(&mut self, stamp: Stamp, out: &mut Vec<u8>) {
        write_time(stamp.time, out);
        write_varint(u64::from((self.writer_no)(stamp.writer)), out);
    }

    fn cell(&mut self, cell: &Cell, out: &mut Vec<u8>) {
        let (kind, base) = match &cell.content {
            Content::Register(_) => (0, None),
            Content::Absent => (1, None),
            Content::Counter(counter) => (2 | TIMED, counter.base),
            Content::Set(set) => (3, set.base),
            // A sealed write is written with its group.
            Content::Sealed(Sealed::Write { .. }) => (1, None),
            Content::Sealed(Sealed::Mergeable(sealed)) => {
                let kind = if sealed.kind == Mergeable::Counter { 2 } else { 3 };
                (kind | SEALED_KIND, sealed.base)
            }
        };
        let replaced = if cell.replaced.is_empty() { 0 } else { HAS_REPLACED };
        out.push(kind | replaced | if base.is_some() { HAS_BASE } else { 0 });
        if replaced != 0 {
            self.stamps(&cell.replaced, out);
        }
        if let Some(base) = base {
            self.stamp(base, out);
        }
        match &cell.content {
            Content::Register(_) | Content::Absent | Content::Sealed(Sealed::Write { .. }) => {}
            Content::Sealed(Sealed::Mergeable(sealed)) => self.versions(&sealed.versions, out),
            Content::Counter(counter) => {
                write_varint(counter.tallies.len() as u64, out);
                for (writer, (up, down)) in &counter.tallies {
                    write_varint(u64::from((self.writer_no)(*writer)), out);
                    write_varint(*up, out);
                    write_varint(*down, out);
                }
                self.times(&counter.seen, out);
            }
            Content::Set(set) => {
                set.elements.values().for_each(|dots| self.times(dots, out));
                self.times(&set.seen, out);
            }
        }
    }

    fn times(&mut self, times: &BTreeMap<ReplicaId, Hlc>, out: &mut Vec<u8>) {
        write_varint(times.len() as u64, out);
        for (writer, time) in times {
            self.stamp(Stamp::new(*time, *writer), out);
        }
    }
}

/// What stands in place of a history where a record is taken from its reader.
#[must_use]
pub const fn removal(reason: RemovalReason) -> [u8; 2] {
    [REMOVAL, reason.byte()]
}

/// The reason if `history` is a removal.
///
/// # Errors
/// [`DecodeError`] if it starts as one and is none.
pub fn read_removal(history: &[u8]) -> Result<Option<RemovalReason>, DecodeError> {
    match history {
        [REMOVAL, reason] => {
            RemovalReason::from_byte(*reason).map(Some).ok_or(DecodeError::UnknownTag(*reason))
        }
        [REMOVAL, ..] => Err(DecodeError::Mismatch),
        _ => Ok(None),
    }
}

pub(crate) fn is_uniform(state: &RecordState) -> bool {
    let Life { after: None, born: Some(born), dead: None } = state.life else { return false };
    state.cells.iter().all(|(_, cell)| {
        let written = matches!(
            cell.content,
            Content::Register(_) | Content::Sealed(Sealed::Write { absent: false, .. })
        );
        cell.stamp == born && cell.replaced.is_empty() && written
    })
}

fn write_time(time: Hlc, out: &mut Vec<u8>) {
    write_zigzag(time.0.wrapping_sub(TIME_BASE.0).cast_signed(), out);
}

impl HistoryReader<'_> {
    /// Reads a head.
    ///
    /// # Errors
    /// [`DecodeError`] if there is none.
    pub fn head(&self, reader: &mut Reader<'_>) -> Result<HistoryHead, DecodeError> {
        let flags = reader.read_u8()?;
        let uniform = flags & UNIFORM != 0;
        let consistent = !uniform || flags & (DEAD | AFTER | BORN) == BORN;
        if flags & !ALL_FLAGS != 0 || !consistent || flags & (DEAD | DEAD_SEEN) == DEAD_SEEN {
            return Err(DecodeError::UnknownTag(flags));
        }
        let born = self.stamp_if(flags & BORN != 0, reader)?;
        let dead = self.stamp_if(flags & DEAD != 0, reader)?;
        let after = self.stamp_if(flags & AFTER != 0, reader)?;
        let seen = if flags & DEAD_SEEN != 0 { self.newest(MAX_DELETION_SEEN, reader)? } else { Vec::new() };
        let seen = Seen::new(seen.into_iter());
        let dead = dead.map(|stamp| Tombstone { stamp, seen });
        Ok(HistoryHead { uniform, sealed: flags & SEALED != 0, life: Life { after, born, dead } })
    }

    /// Reads a whole history; values come from `body`. Leaves `reader` behind the history.
    ///
    /// # Errors
    /// [`DecodeError`] if it is damaged or does not fit the body.
    pub fn state(&self, reader: &mut Reader<'_>, body: &[u8]) -> Result<RecordState, DecodeError> {
        let head = self.head(reader)?;
        let body = if body.is_empty() { None } else { Some(RecordView::parse(body)?) };
        let mut cells = match (head.uniform, head.life.born) {
            (true, Some(born)) => self.uniform_cells(born, body.as_ref())?,
            _ => self.cells(reader, body.as_ref())?,
        };
        if head.sealed {
            self.sealed_cells(&head, reader, &mut cells)?;
        }
        cells.sort_unstable_by_key(|(field, _)| *field);
        if cells.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0)) {
            return Err(DecodeError::Mismatch);
        }
        Ok(RecordState { life: head.life, cells })
    }

    fn uniform_cells(
        &self,
        born: Stamp,
        body: Option<&RecordView<'_>>,
    ) -> Result<Vec<(FieldNo, Cell)>, DecodeError> {
        let seq = self.row_seq.unwrap_or_default();
        let cell = |(field, value)| {
            Ok((field, Cell { stamp: born, replaced: Vec::new(), seq, content: register(value)? }))
        };
        body.map_or_else(|| Ok(Vec::new()), |body| body.iter().map(cell).collect())
    }

    fn cells(
        &self,
        reader: &mut Reader<'_>,
        body: Option<&RecordView<'_>>,
    ) -> Result<Vec<(FieldNo, Cell)>, DecodeError> {
        let mut cells = Vec::new();
        let mut with_value = 0;
        for _ in 0..count(reader, MAX_FIELDS)? {
            let stamp = self.stamp(reader)?;
            let seq = match self.row_seq {
                Some(row) => row.checked_sub(reader.read_varint()?).ok_or(DecodeError::OutOfRange)?,
                None => 0,
            };
            for _ in 0..count(reader, MAX_FIELDS)? {
                let field = FieldNo::try_from(reader.read_varint()?).map_err(|_| DecodeError::OutOfRange)?;
                let value = body.and_then(|body| body.get(field));
                with_value += usize::from(value.is_some());
                cells.push((field, self.cell(reader, stamp, seq, value)?));
            }
        }
        if with_value != body.map_or(0, RecordView::len) { Err(DecodeError::Mismatch) } else { Ok(cells) }
    }

    fn cell(
        &self,
        reader: &mut Reader<'_>,
        stamp: Stamp,
        seq: Seq,
        value: Option<RawValue<'_>>,
    ) -> Result<Cell, DecodeError> {
        let flags = reader.read_u8()?;
        if flags > ALL_KINDS {
            return Err(DecodeError::UnknownTag(flags));
        }
        let replaced =
            if flags & HAS_REPLACED != 0 { self.newest(MAX_REPLACED, reader)? } else { Vec::new() };
        if replaced.iter().any(|seen| seen.writer == stamp.writer) {
            return Err(DecodeError::Mismatch);
        }
        let base = self.stamp_if(flags & HAS_BASE != 0, reader)?;
        let content = match (flags & !(HAS_REPLACED | HAS_BASE), value) {
            (0, Some(value)) if base.is_none() => register(value)?,
            (1, None) if base.is_none() => Content::Absent,
            (2, Some(value)) => Content::Counter(self.counter(reader, base, value, false)?),
            (TIMED_COUNTER, Some(value)) => Content::Counter(self.counter(reader, base, value, true)?),
            (3, Some(value)) => Content::Set(self.set(reader, base, value)?),
            (SEALED_COUNTER, None) => self.sealed_mergeable(Mergeable::Counter, base, reader)?,
            (SEALED_SET, None) => self.sealed_mergeable(Mergeable::Set, base, reader)?,
            _ => return Err(DecodeError::UnknownTag(flags)),
        };
        Ok(Cell { stamp, replaced, seq, content })
    }

    fn counter(
        &self,
        reader: &mut Reader<'_>,
        base: Option<Stamp>,
        value: RawValue<'_>,
        timed: bool,
    ) -> Result<Counter, DecodeError> {
        let mut tallies = BTreeMap::new();
        for _ in 0..count(reader, MAX_CELL_WRITERS)? {
            let writer = self.writer(reader)?;
            let tally = (reader.read_varint()?, reader.read_varint()?);
            if tallies.insert(writer, tally).is_some() {
                return Err(DecodeError::Mismatch);
            }
        }
        // What a writer has counted in all tells its states apart as well as a time, and is before any.
        let untimed = |(up, down): &(u64, u64)| Hlc(up.saturating_add(*down));
        let seen = if timed {
            self.times(reader)?
        } else {
            tallies.iter().map(|(writer, tally)| (*writer, untimed(tally))).collect()
        };
        if !tallies.keys().eq(seen.keys()) {
            return Err(DecodeError::Mismatch);
        }
        let counter = Counter { base, tallies, seen };
        let shown = matches!(value.decode()?, Value::Counter(sum) if sum == counter.value());
        if shown { Ok(counter) } else { Err(DecodeError::Mismatch) }
    }

    fn set(
        &self,
        reader: &mut Reader<'_>,
        base: Option<Stamp>,
        value: RawValue<'_>,
    ) -> Result<Set, DecodeError> {
        let Value::Set(visible) = value.decode()? else { return Err(DecodeError::Mismatch) };
        let mut elements = BTreeMap::new();
        for element in visible {
            elements.insert(OwnedValue::from(&element), self.times(reader)?);
        }
        let seen = self.times(reader)?;
        // An element is there because of an addition, and every addition has been seen.
        let sound = |dots: &BTreeMap<ReplicaId, Hlc>| {
            !dots.is_empty() && dots.iter().all(|(writer, time)| seen.get(writer) >= Some(time))
        };
        if elements.values().all(sound) {
            Ok(Set { base, elements, seen })
        } else {
            Err(DecodeError::Mismatch)
        }
    }

    fn times(&self, reader: &mut Reader<'_>) -> Result<BTreeMap<ReplicaId, Hlc>, DecodeError> {
        let mut times = BTreeMap::new();
        for _ in 0..count(reader, MAX_CELL_WRITERS)? {
            let stamp = self.stamp(reader)?;
            if times.insert(stamp.writer, stamp.time).is_some() {
                return Err(DecodeError::Mismatch);
            }
        }
        Ok(times)
    }

    /// Stamps of as many writers, newest first.
    fn newest(&self, limit: usize, reader: &mut Reader<'_>) -> Result<Vec<Stamp>, DecodeError> {
        let count = count(reader, limit)?;
        let stamps = (0..count).map(|_| self.stamp(reader)).collect::<Result<Vec<_>, _>>()?;
        let canonical = count > 0 && newest_of_writers(stamps.iter().copied(), limit) == stamps;
        if canonical { Ok(stamps) } else { Err(DecodeError::Mismatch) }
    }

    fn stamp_if(&self, there: bool, reader: &mut Reader<'_>) -> Result<Option<Stamp>, DecodeError> {
        if there { self.stamp(reader).map(Some) } else { Ok(None) }
    }

    fn stamp(&self, reader: &mut Reader<'_>) -> Result<Stamp, DecodeError> {
        let distance = reader.read_zigzag()?;
        let time = Hlc(TIME_BASE.0.wrapping_add(distance.cast_unsigned()));
        Ok(Stamp::new(time, self.writer(reader)?))
    }

    fn writer(&self, reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
        let number = u32::try_from(reader.read_varint()?).map_err(|_| DecodeError::OutOfRange)?;
        (self.writer)(number).ok_or(DecodeError::UnknownNumber(number))
    }
}

/// A register's content: any value that is not mergeable.
fn register(value: RawValue<'_>) -> Result<Content, DecodeError> {
    if value.is_mergeable() {
        return Err(DecodeError::Mismatch);
    }
    Ok(Content::Register(OwnedValue::from(value)))
}

/// A count of items of at least one byte each.
fn count(reader: &mut Reader<'_>, limit: usize) -> Result<usize, DecodeError> {
    let count = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    if count > limit || count > reader.remaining() { Err(DecodeError::OutOfRange) } else { Ok(count) }
}

/// Encodes the visible values of `state`, as far as `include` takes its cells, into `out`.
///
/// # Errors
/// [`EncodeError`] if it is larger than a record may be.
pub fn encode_body(
    state: &RecordState,
    include: impl Fn(&Cell) -> bool,
    builder: &mut RecordBuilder,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    builder.clear();
    for (field, cell) in state.cells.iter().filter(|(_, cell)| include(cell)) {
        match &cell.content {
            Content::Absent | Content::Sealed(_) => {}
            Content::Register(value) => builder.push_raw(*field, value.as_raw())?,
            Content::Counter(counter) => builder.push(*field, &Value::Counter(counter.value()))?,
            Content::Set(set) => {
                let elements = set.elements.keys().map(OwnedValue::to_value).collect();
                builder.push(*field, &Value::Set(elements))?;
            }
        }
    }
    builder.finish_into(out);
    Ok(())
}
