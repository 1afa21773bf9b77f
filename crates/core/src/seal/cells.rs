//! Sealing and opening the cells of one record.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::pack::{PLAIN_FORM, Packer};
use super::{
    FieldTag, Mergeable, SealError, SealKeys, Sealed, SealedField, SealedGroup, SealedMergeable,
    SealedVersion,
};
use crate::blazebinary::varint::{Reader, write_varint};
use crate::blazebinary::{DecodeError, FieldNo, OwnedValue, RawValue};
use crate::cell::{Cell, Content, Counter, Set};
use crate::id::{RecordId, ReplicaId};
use crate::limits::{MAX_CELL_WRITERS, MAX_SET_ELEMENTS};
use crate::merge::RecordState;
use crate::stamp::{Hlc, Stamp};

/// A value from this size on is sealed alone, so that it goes as soon as it is written anew. In bytes.
pub(super) const LARGE_VALUE_BYTES: usize = 1_024;

const GROUP_CONTEXT: &[u8] = b"blazedb group 1";
const MERGEABLE_CONTEXT: &[u8] = b"blazedb mergeable 1";

/// A field of a write, as it is bound to the sealed values.
pub(super) struct Bound<'a> {
    pub(super) tag: FieldTag,
    pub(super) absent: bool,
    pub(super) replaced: &'a [Stamp],
}

impl Bound<'_> {
    /// A field that was written where nothing was.
    pub(super) const fn written(tag: FieldTag) -> Self {
        Self { tag, absent: false, replaced: &[] }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tag);
        out.push(u8::from(self.absent) | (self.replaced.len() as u8) << 1);
        self.replaced.iter().for_each(|stamp| put_stamp(*stamp, out));
    }
}

/// Stands for the fields of a group: the hash of all that is bound of them, one after the other.
pub(super) type FieldsHash = [u8; 32];

pub(super) fn fields_hash(bound: &[u8]) -> FieldsHash {
    Sha256::digest(bound).into()
}

/// What the values of a write are bound to.
pub(super) fn group_context(
    keys: &SealKeys,
    id: RecordId,
    (stamp, epoch): (Stamp, u32),
    fields: &FieldsHash,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(GROUP_CONTEXT);
    out.extend_from_slice(keys.database());
    out.extend_from_slice(id.as_bytes());
    put_stamp(stamp, out);
    out.extend_from_slice(&epoch.to_be_bytes());
    out.extend_from_slice(fields);
}

fn put_stamp(stamp: Stamp, out: &mut Vec<u8>) {
    out.extend_from_slice(&stamp.time.0.to_be_bytes());
    out.extend_from_slice(stamp.writer.as_bytes());
}

/// The form byte that values begin with.
pub(super) fn begin_values(out: &mut Vec<u8>) {
    out.push(PLAIN_FORM);
}

/// What a mergeable content is bound to.
struct MergeableContext<'a> {
    id: RecordId,
    tag: FieldTag,
    kind: Mergeable,
    base: Option<Stamp>,
    seen: &'a BTreeMap<ReplicaId, Hlc>,
}

impl MergeableContext<'_> {
    fn bytes(&self, keys: &SealKeys, epoch: u32) -> Vec<u8> {
        let mut out = MERGEABLE_CONTEXT.to_vec();
        out.extend_from_slice(keys.database());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.tag);
        out.push(if self.kind == Mergeable::Counter { 2 } else { 3 });
        out.extend_from_slice(&epoch.to_be_bytes());
        out.push(u8::from(self.base.is_some()));
        self.base.iter().for_each(|base| put_stamp(*base, &mut out));
        self.seen.iter().for_each(|(writer, time)| put_stamp(Stamp::new(*time, *writer), &mut out));
        out
    }
}

/// A cell with its field's tag and number.
type TaggedCell = (FieldTag, FieldNo, Cell);

/// Seals the cells of a state whose fields `tag` gives a tag to; the others stay as they are.
pub(super) fn seal_state(
    packer: &mut Packer<'_>,
    id: RecordId,
    state: RecordState,
    tag: impl Fn(FieldNo) -> Option<FieldTag>,
) -> Result<RecordState, SealError> {
    let mut sealed = RecordState { life: state.life, cells: Vec::with_capacity(state.cells.len()) };
    // Small values of one write together; a large one alone.
    let mut groups: BTreeMap<(Stamp, Option<FieldTag>), Vec<TaggedCell>> = BTreeMap::new();
    for (field, cell) in state.cells {
        let Some(tag) = tag(field) else {
            sealed.cells.push((field, cell));
            continue;
        };
        match &cell.content {
            Content::Absent | Content::Register(_) => {
                let alone = is_large(&cell.content).then_some(tag);
                groups.entry((cell.stamp, alone)).or_default().push((tag, field, cell));
            }
            Content::Counter(_) | Content::Set(_) => {
                let content = seal_mergeable(packer.keys(), id, tag, &cell.content)?;
                sealed.cells.push((field, Cell { content, ..cell }));
            }
            Content::Sealed(_) => sealed.cells.push((field, cell)),
        }
    }
    for ((stamp, _), mut cells) in groups {
        cells.sort_unstable_by_key(|(tag, ..)| *tag);
        let group = Arc::new(seal_group(packer, id, stamp, &cells)?);
        for (_, field, cell) in cells {
            let absent = cell.content == Content::Absent;
            let content = Content::Sealed(Sealed::Write { group: Arc::clone(&group), absent });
            sealed.cells.push((field, Cell { content, ..cell }));
        }
    }
    sealed.cells.sort_unstable_by_key(|(field, _)| *field);
    Ok(sealed)
}

fn is_large(content: &Content) -> bool {
    matches!(content, Content::Register(value) if value.as_raw().encoded_len() >= LARGE_VALUE_BYTES)
}

fn seal_group(
    packer: &mut Packer<'_>,
    id: RecordId,
    stamp: Stamp,
    cells: &[TaggedCell],
) -> Result<SealedGroup, SealError> {
    let (mut bound, mut context, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for (tag, _, cell) in cells {
        let absent = cell.content == Content::Absent;
        Bound { tag: *tag, absent, replaced: &cell.replaced }.write(&mut bound);
    }
    let keys = packer.keys();
    group_context(keys, id, (stamp, keys.current()), &fields_hash(&bound), &mut context);
    begin_values(&mut bytes);
    for (_, _, cell) in cells {
        if let Content::Register(value) = &cell.content {
            value.as_raw().encode_into(&mut bytes);
        }
    }
    let epoch = packer.seal(&context, &mut bytes)?;
    let fields = cells.iter().map(|(_, field, cell)| SealedField {
        field: *field,
        absent: cell.content == Content::Absent,
        replaced: cell.replaced.clone(),
    });
    Ok(SealedGroup { stamp, epoch, fields: fields.collect(), bytes: bytes.into() })
}

/// The values of a group by field, those of removed fields left out.
fn open_group(
    packer: &mut Packer<'_>,
    id: RecordId,
    group: &SealedGroup,
    tag: impl Fn(FieldNo) -> Result<FieldTag, SealError>,
) -> Result<BTreeMap<FieldNo, OwnedValue>, SealError> {
    let (mut bound, mut context) = (Vec::new(), Vec::new());
    for SealedField { field, absent, replaced } in &group.fields {
        Bound { tag: tag(*field)?, absent: *absent, replaced }.write(&mut bound);
    }
    group_context(packer.keys(), id, (group.stamp, group.epoch), &fields_hash(&bound), &mut context);
    let mut plain = group.bytes.to_vec();
    packer.open(group.epoch, &context, &mut plain)?;
    let live = group.fields.iter().filter(|field| !field.absent);
    let values = group_values(&plain, live.clone().count())?;
    Ok(live.zip(values).map(|(field, value)| (field.field, OwnedValue::from(value))).collect())
}

/// The values of an opened group that has `count`, in the order of its fields; removed ones have none.
pub(super) fn group_values(plain: &[u8], count: usize) -> Result<Vec<RawValue<'_>>, SealError> {
    let mut reader = Reader::new(plain);
    match reader.read_u8()? {
        PLAIN_FORM => {}
        other => return Err(DecodeError::UnknownTag(other).into()),
    }
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        let value = RawValue::read(&mut reader)?;
        value.validate()?;
        if value.is_mergeable() {
            return Err(DecodeError::Mismatch.into());
        }
        found.push(value);
    }
    reader.finish()?;
    Ok(found)
}

/// Opens every sealed cell of a state.
pub(super) fn open_state(
    packer: &mut Packer<'_>,
    id: RecordId,
    state: &mut RecordState,
    tag: impl Fn(FieldNo) -> Result<FieldTag, SealError>,
) -> Result<(), SealError> {
    let mut opened: Vec<(Arc<SealedGroup>, BTreeMap<FieldNo, OwnedValue>)> = Vec::new();
    for (field, cell) in &mut state.cells {
        let Content::Sealed(sealed) = &cell.content else { continue };
        let content = match sealed {
            Sealed::Write { group, .. } => {
                let at = match opened.iter().position(|(known, _)| Arc::ptr_eq(known, group)) {
                    Some(at) => at,
                    None => {
                        opened.push((Arc::clone(group), open_group(packer, id, group, &tag)?));
                        opened.len() - 1
                    }
                };
                let value = opened.get(at).and_then(|(_, values)| values.get(field));
                value.map_or(Content::Absent, |value| Content::Register(value.clone()))
            }
            Sealed::Mergeable(sealed) => open_mergeable(packer.keys(), id, tag(*field)?, cell, sealed)?,
        };
        cell.content = content;
    }
    Ok(())
}

fn seal_mergeable(
    keys: &SealKeys,
    id: RecordId,
    tag: FieldTag,
    content: &Content,
) -> Result<Content, SealError> {
    let mut bytes = Vec::new();
    let (kind, base, seen) = match content {
        Content::Counter(counter) => {
            put_counter(counter, &mut bytes);
            (Mergeable::Counter, counter.base, &counter.seen)
        }
        Content::Set(set) => {
            put_set(set, &mut bytes);
            (Mergeable::Set, set.base, &set.seen)
        }
        other => return Ok(other.clone()),
    };
    let context = MergeableContext { id, tag, kind, base, seen };
    let epoch = keys.seal(&context.bytes(keys, keys.current()), &mut bytes)?;
    let version = SealedVersion { epoch, seen: seen.clone(), bytes: bytes.into() };
    Ok(Content::Sealed(Sealed::Mergeable(SealedMergeable { kind, base, versions: vec![version] })))
}

/// What the concurrent states of a counter or set come to.
fn open_mergeable(
    keys: &SealKeys,
    id: RecordId,
    tag: FieldTag,
    cell: &Cell,
    sealed: &SealedMergeable,
) -> Result<Content, SealError> {
    let SealedMergeable { kind, base, versions } = sealed;
    let mut joined: Option<Cell> = None;
    for version in versions {
        let context = MergeableContext { id, tag, kind: *kind, base: *base, seen: &version.seen };
        let mut plain = version.bytes.to_vec();
        keys.open(version.epoch, &context.bytes(keys, version.epoch), &mut plain)?;
        let mut reader = Reader::new(&plain);
        let seen = version.seen.clone();
        let content = match kind {
            Mergeable::Counter => {
                Content::Counter(Counter { base: *base, tallies: counter(&mut reader)?, seen })
            }
            Mergeable::Set => Content::Set(Set { base: *base, elements: set(&mut reader)?, seen }),
        };
        reader.finish()?;
        check_opened(&content)?;
        let opened = Cell { content, ..cell.clone() };
        match &mut joined {
            None => joined = Some(opened),
            Some(joined) => drop(joined.join(&opened)),
        }
    }
    joined.map(|cell| cell.content).ok_or(SealError::Malformed(DecodeError::Mismatch))
}

/// What a plain history would not be allowed to say either.
fn check_opened(content: &Content) -> Result<(), DecodeError> {
    let sound = match content {
        Content::Counter(counter) => counter.tallies.keys().eq(counter.seen.keys()),
        Content::Set(set) => set.elements.iter().all(|(element, additions)| {
            let seen = |(writer, time): (&ReplicaId, &Hlc)| set.seen.get(writer) >= Some(time);
            !additions.is_empty() && additions.iter().all(seen) && element.as_raw().validate().is_ok()
        }),
        _ => true,
    };
    if sound { Ok(()) } else { Err(DecodeError::Mismatch) }
}

fn put_counter(counter: &Counter, out: &mut Vec<u8>) {
    write_varint(counter.tallies.len() as u64, out);
    for (writer, (up, down)) in &counter.tallies {
        out.extend_from_slice(writer.as_bytes());
        write_varint(*up, out);
        write_varint(*down, out);
    }
}

fn counter(reader: &mut Reader<'_>) -> Result<BTreeMap<ReplicaId, (u64, u64)>, DecodeError> {
    let mut tallies = BTreeMap::new();
    for _ in 0..count(reader, MAX_CELL_WRITERS)? {
        let writer = ReplicaId::from_bytes(reader.read_array()?);
        tallies.insert(writer, (reader.read_varint()?, reader.read_varint()?));
    }
    Ok(tallies)
}

fn put_set(set: &Set, out: &mut Vec<u8>) {
    write_varint(set.elements.len() as u64, out);
    for (element, additions) in &set.elements {
        element.as_raw().encode_into(out);
        write_varint(additions.len() as u64, out);
        for (writer, time) in additions {
            put_stamp(Stamp::new(*time, *writer), out);
        }
    }
}

type Additions = BTreeMap<ReplicaId, Hlc>;

fn set(reader: &mut Reader<'_>) -> Result<BTreeMap<OwnedValue, Additions>, DecodeError> {
    let mut elements = BTreeMap::new();
    for _ in 0..count(reader, MAX_SET_ELEMENTS)? {
        let element = OwnedValue::from(RawValue::read(reader)?);
        let mut additions = BTreeMap::new();
        for _ in 0..count(reader, MAX_CELL_WRITERS)? {
            let time = Hlc(u64::from_be_bytes(reader.read_array()?));
            additions.insert(ReplicaId::from_bytes(reader.read_array()?), time);
        }
        elements.insert(element, additions);
    }
    Ok(elements)
}

fn count(reader: &mut Reader<'_>, limit: usize) -> Result<usize, DecodeError> {
    let count = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    if count > limit || count > reader.remaining() { Err(DecodeError::OutOfRange) } else { Ok(count) }
}
