//! Sealing a batch on its way out, opening one on its way in: bytes to bytes.
//!
//! What stands in front (filters, shared batches) and behind (checks, access rules, merge) sees plain entries and
//! knows nothing of sealing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cells::{LARGE_VALUE_BYTES, begin_values, group_context, group_values, open_state, seal_state};
use super::pack::Packer;
use super::shape::{OpenShape, SealShape};
use super::{FieldTag, SealError, Sealed, Sealer, is_sealed_name};
use crate::blazebinary::varint::{Reader, write_varint};
use crate::blazebinary::{DecodeError, FieldNo, RawValue, RecordBuilder, RecordView};
use crate::cell::Content;
use crate::feed::{FeedBatch, FeedEntry, Incoming, Names, PeerNames};
use crate::history::{
    HistoryHead, HistoryReader, HistoryWriter, UniformGroup, encode_body, mark_sealed, read_removal,
};
use crate::id::{RecordId, ReplicaId};
use crate::merge::RecordState;
use crate::stamp::Stamp;

/// A record of a batch that could not be opened, and so was left out.
#[derive(Clone, PartialEq, Debug)]
pub struct Unopened {
    /// The record.
    pub id: RecordId,
    /// Why.
    pub reason: SealError,
}

/// One entry of a batch, taken apart. Grammar: `docs/spec/record.md`.
struct Entry<'a> {
    id: RecordId,
    starts: bool,
    history: &'a [u8],
    body: &'a [u8],
}

impl<'a> Entry<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let lead = reader.read_varint()?;
        let history_len = reader.read_varint()?;
        let id = RecordId::from_bytes(reader.read_array()?);
        let len = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let history = reader.read_bytes(len(history_len))?;
        Ok(Self { id, starts: lead & 1 != 0, history, body: reader.read_bytes(len(lead >> 1))? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_varint((self.body.len() as u64) << 1 | u64::from(self.starts), out);
        write_varint(self.history.len() as u64, out);
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(self.history);
        out.extend_from_slice(self.body);
    }
}

/// Buffers that are used from one entry to the next.
struct Scratch<'k> {
    history: Vec<u8>,
    body: Vec<u8>,
    context: Vec<u8>,
    values: Vec<u8>,
    builder: RecordBuilder,
    packer: Packer<'k>,
    sealing: SealShape,
}

impl<'k> Scratch<'k> {
    fn new(sealer: &'k Sealer) -> Self {
        Self {
            history: Vec::new(),
            body: Vec::new(),
            context: Vec::new(),
            values: Vec::new(),
            builder: RecordBuilder::default(),
            packer: Packer::new(&sealer.keys),
            sealing: SealShape::default(),
        }
    }
}

/// What the numbers of a batch to be sealed stand for.
struct Outgoing {
    /// The tags of fields that are to be sealed, by number; `None`: it stays readable.
    tags: BTreeMap<FieldNo, Option<FieldTag>>,
    writers: BTreeMap<u32, ReplicaId>,
    numbers: BTreeMap<ReplicaId, u32>,
}

impl Sealer {
    /// Seals what a batch holds of the fields that the rule names, and the names of these. `packs` says whether values
    /// are compressed before, where that makes them shorter.
    ///
    /// # Errors
    /// [`SealError`] if a key is missing, a name or record is too large, or the batch is damaged.
    pub fn seal_batch(&self, batch: &FeedBatch, packs: bool) -> Result<FeedBatch, SealError> {
        let mut tags = BTreeMap::new();
        let mut fields = Vec::with_capacity(batch.names.fields.len());
        for (number, name) in &batch.names.fields {
            let (tag, public) = if self.rule.seals(name) && !is_sealed_name(name) {
                let (tag, text) = self.keys.seal_name(name)?;
                (Some(tag), text.into())
            } else {
                (None, Arc::clone(name))
            };
            tags.insert(*number, tag);
            fields.push((*number, public));
        }
        let writers: BTreeMap<_, _> = batch.names.writers.iter().copied().collect();
        let numbers = writers.iter().map(|(number, writer)| (*writer, *number)).collect();
        let outgoing = Outgoing { tags, writers, numbers };
        let mut scratch = Scratch::new(self);
        scratch.packer.set_packs(packs);
        let (mut data, mut entries) = (Vec::new(), Vec::with_capacity(batch.entries.len()));
        data.reserve(batch.data.len() + 32 * batch.entries.len());
        let mut reader = Reader::new(&batch.data);
        for entry in &batch.entries {
            outgoing.entry(&Entry::read(&mut reader)?, &mut scratch, &mut data)?;
            let end = u32::try_from(data.len()).unwrap_or(u32::MAX);
            entries.push(FeedEntry { end, audience: entry.audience });
        }
        let names = Names { fields, writers: batch.names.writers.clone() };
        Ok(batch.with(data, entries, names))
    }

    /// Opens what is sealed in changes of a peer: they are then as if it had not been. Entries that can't be
    /// opened are left out and answered.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are malformed.
    pub fn open_batch(&self, incoming: &mut Incoming) -> Result<Vec<Unopened>, DecodeError> {
        let names = Arc::clone(&incoming.names);
        let mut arriving = Arriving::new(self, &names);
        let mut data = Vec::with_capacity(incoming.data.len());
        let (mut unopened, mut scratch) = (Vec::new(), Scratch::new(self));
        let mut reader = Reader::new(&incoming.data);
        // A transaction whose first record is left out starts with the next one.
        let mut starts = false;
        while !reader.is_empty() {
            let entry = Entry::read(&mut reader)?;
            starts |= entry.starts;
            let before = data.len();
            match arriving.entry(&entry, starts, &mut scratch, &mut data) {
                Ok(()) => starts = false,
                Err(Failure::Bytes(error)) => return Err(error),
                Err(Failure::Seal(reason)) => {
                    data.truncate(before);
                    unopened.push(Unopened { id: entry.id, reason });
                }
            }
        }
        incoming.names = Arc::new(arriving.opened_names());
        incoming.data = data;
        Ok(unopened)
    }
}

impl Outgoing {
    fn tag(&self, field: FieldNo) -> Option<FieldTag> {
        self.tags.get(&field).copied().flatten()
    }

    fn entry(
        &self,
        entry: &Entry<'_>,
        scratch: &mut Scratch<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        if read_removal(entry.history)?.is_some() {
            entry.write(out);
            return Ok(());
        }
        let writer = |no| self.writers.get(&no).copied();
        let reader = HistoryReader { writer: &writer, row_seq: None };
        let mut history = Reader::new(entry.history);
        let head = reader.head(&mut history)?;
        scratch.history.clear();
        scratch.body.clear();
        let uniform = head.uniform && !head.sealed;
        match if uniform { self.uniform(entry, &head, scratch)? } else { None } {
            Some(Uniform::Plain) => {
                entry.write(out);
                return Ok(());
            }
            Some(Uniform::Sealed) => {}
            None => {
                let state = reader.state(&mut Reader::new(entry.history), entry.body)?;
                let state = seal_state(&mut scratch.packer, entry.id, state, |field| self.tag(field))?;
                let mut writer_no = |writer| self.numbers.get(&writer).copied().unwrap_or(u32::MAX);
                let mut writer = HistoryWriter { writer_no: &mut writer_no, row_seq: None };
                writer.state(&state, |_| true, &mut scratch.history);
                encode_body(&state, |_| true, &mut scratch.builder, &mut scratch.body)?;
            }
        }
        Entry { history: &scratch.history, body: &scratch.body, ..*entry }.write(out);
        Ok(())
    }

    /// The common case: a record that was inserted and not changed since, without large values. `None` if it is
    /// another case; else history and body are in `scratch`, unless they stay as they are.
    fn uniform(
        &self,
        entry: &Entry<'_>,
        head: &HistoryHead,
        scratch: &mut Scratch<'_>,
    ) -> Result<Option<Uniform>, SealError> {
        let (Some(born), false) = (head.life.born, entry.body.is_empty()) else { return Ok(None) };
        let Scratch { history, body, context, values, builder, packer, sealing } = scratch;
        let fields: Vec<(FieldNo, RawValue<'_>)> = RecordView::parse(entry.body)?.iter().collect();
        sealing.fit(&fields, |field| self.tag(field));
        let mut sealed = sealing.sealed(&fields).peekable();
        if sealed.peek().is_none() {
            return Ok(Some(Uniform::Plain));
        }
        values.clear();
        begin_values(values);
        for (_, value) in sealed {
            if entry.body.len() >= LARGE_VALUE_BYTES && value.encoded_len() >= LARGE_VALUE_BYTES {
                return Ok(None);
            }
            value.encode_into(values);
        }
        let keys = packer.keys();
        group_context(keys, entry.id, (born, keys.current()), &sealing.hash, context);
        let epoch = packer.seal(context, values)?;
        // All there was to the history is its head.
        history.extend_from_slice(entry.history);
        mark_sealed(history, true);
        UniformGroup { epoch, fields: &sealing.fields, bytes: values }.write(history);
        builder.clear();
        sealing.open(&fields).try_for_each(|(field, value)| builder.push_raw(*field, *value))?;
        builder.finish_into(body);
        Ok(Some(Uniform::Sealed))
    }
}

enum Uniform {
    /// Nothing of it is to be sealed.
    Plain,
    Sealed,
}

enum Failure {
    /// The peer sent no entry.
    Bytes(DecodeError),
    /// It sent one that can't be taken.
    Seal(SealError),
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::Bytes(error)
    }
}

/// A field's name, and its tag if it came sealed.
type Named = (Option<FieldTag>, Arc<str>);

/// What the numbers of a batch to be opened stand for, as far as they were needed.
struct Arriving<'a> {
    sealer: &'a Sealer,
    names: &'a PeerNames,
    known: BTreeMap<FieldNo, Result<Named, SealError>>,
    numbers: Option<BTreeMap<ReplicaId, u32>>,
    /// The first number of each field.
    numbered: BTreeMap<Arc<str>, FieldNo>,
    /// A field has two numbers: it comes sealed and readable, because what is sealed was changed.
    twofold: bool,
    /// Of the last group.
    shape: OpenShape,
}

impl<'a> Arriving<'a> {
    const fn new(sealer: &'a Sealer, names: &'a PeerNames) -> Self {
        Self {
            sealer,
            names,
            known: BTreeMap::new(),
            numbers: None,
            numbered: BTreeMap::new(),
            twofold: false,
            shape: OpenShape::new(),
        }
    }

    fn learn(&mut self, field: FieldNo) -> Result<(), Failure> {
        if !self.known.contains_key(&field) {
            let public = self.names.field(field).ok_or(DecodeError::UnknownNumber(field))?;
            let name = if is_sealed_name(public) {
                self.sealer.keys.open_name(public).and_then(|(tag, name)| {
                    let usable = !name.is_empty() && name != "id" && !name.starts_with('$');
                    if usable { Ok((Some(tag), name.into())) } else { Err(DecodeError::Mismatch.into()) }
                })
            } else if self.sealer.rule.seals(public) && !self.sealer.lenient {
                Err(SealError::NotSealed(public.to_string()))
            } else {
                Ok((None, Arc::clone(public)))
            };
            if let Ok((_, name)) = &name {
                let first = *self.numbered.entry(Arc::clone(name)).or_insert(field);
                self.twofold |= first != field;
            }
            self.known.insert(field, name);
        }
        match self.known.get(&field) {
            Some(Err(reason)) => Err(Failure::Seal(reason.clone())),
            _ => Ok(()),
        }
    }

    fn tag(&self, field: FieldNo) -> Result<FieldTag, SealError> {
        match self.known.get(&field) {
            Some(Ok((Some(tag), _))) => Ok(*tag),
            _ => Err(SealError::Tampered),
        }
    }

    fn entry(
        &mut self,
        entry: &Entry<'_>,
        starts: bool,
        scratch: &mut Scratch<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if read_removal(entry.history)?.is_some() {
            Entry { starts, ..*entry }.write(out);
            return Ok(());
        }
        let names = self.names;
        let writer = |no| names.writer(no);
        let reader = HistoryReader { writer: &writer, row_seq: None };
        let mut history = Reader::new(entry.history);
        let head = reader.head(&mut history)?;
        if !entry.body.is_empty() {
            for (field, _) in RecordView::parse(entry.body)?.iter() {
                self.learn(field)?;
                if self.tag(field).is_ok() {
                    // A body holds what is readable: nobody has sealed this under its name.
                    return Err(Failure::Seal(SealError::Tampered));
                }
            }
        }
        if head.uniform && !head.sealed && !self.twofold {
            history.finish()?;
            Entry { starts, ..*entry }.write(out);
            return Ok(());
        }
        scratch.history.clear();
        scratch.body.clear();
        if let (true, Some(born)) = (head.uniform && !self.twofold, head.life.born) {
            let head_len = entry.history.len() - history.remaining();
            let group = UniformGroup::read(&mut history, &self.shape.fields)?;
            history.finish()?;
            self.learn_shape(&group)?;
            if self.twofold {
                return self.entry(entry, starts, scratch, out);
            }
            scratch.history.extend_from_slice(entry.history.get(..head_len).unwrap_or_default());
            mark_sealed(&mut scratch.history, false);
            self.uniform(entry, &group, born, scratch)?;
        } else {
            let mut whole = Reader::new(entry.history);
            let mut state = reader.state(&mut whole, entry.body)?;
            whole.finish()?;
            self.learn_all(&state)?;
            open_state(&mut scratch.packer, entry.id, &mut state, |field| self.tag(field))
                .map_err(Failure::Seal)?;
            if self.twofold {
                self.merge_forms(&mut state);
            }
            let numbers = self.numbers.get_or_insert_with(|| names.writer_numbers());
            let mut writer_no = |writer| numbers.get(&writer).copied().unwrap_or(u32::MAX);
            let mut writer = HistoryWriter { writer_no: &mut writer_no, row_seq: None };
            writer.state(&state, |_| true, &mut scratch.history);
            encode_body(&state, |_| true, &mut scratch.builder, &mut scratch.body)
                .map_err(|error| Failure::Seal(error.into()))?;
        }
        Entry { id: entry.id, starts, history: &scratch.history, body: &scratch.body }.write(out);
        Ok(())
    }

    /// Takes note of every field of a state that is not in its body, and finds what came readable and should not.
    fn learn_all(&mut self, state: &RecordState) -> Result<(), Failure> {
        for (field, cell) in &state.cells {
            self.learn(*field)?;
            match &cell.content {
                Content::Sealed(Sealed::Write { group, .. }) => {
                    group.fields.iter().try_for_each(|other| self.learn(other.field))?;
                }
                Content::Sealed(_) => {}
                // A sealed name on a value that is none.
                _ if self.tag(*field).is_ok() => return Err(Failure::Seal(SealError::Tampered)),
                _ => {}
            }
        }
        Ok(())
    }

    /// One cell of each field, whichever forms it came in.
    fn merge_forms(&self, state: &mut RecordState) {
        let mut merged = RecordState { life: state.life, cells: Vec::with_capacity(state.cells.len()) };
        for (field, cell) in state.cells.drain(..) {
            let name = self.known.get(&field).and_then(|known| known.as_ref().ok());
            let first = name.and_then(|(_, name)| self.numbered.get(name)).copied().unwrap_or(field);
            let joined = match merged.cell(first) {
                None => cell,
                Some(other) => {
                    let mut joined = other.clone();
                    joined.join(&cell);
                    joined
                }
            };
            merged.put(first, joined);
        }
        *state = merged;
    }

    /// Makes the shape that of a group, if it is not.
    fn learn_shape(&mut self, group: &UniformGroup<'_>) -> Result<(), Failure> {
        if group.fields != self.shape.fields {
            let numbers: Vec<FieldNo> = group.numbers().collect();
            numbers.iter().try_for_each(|field| self.learn(*field))?;
            let shape = OpenShape::of(group.fields, &numbers, |field| self.tag(field));
            self.shape = shape.map_err(Failure::Seal)?;
        }
        Ok(())
    }

    /// Opens the group of a uniform record, whose shape is known, and puts all values in order.
    fn uniform(
        &self,
        entry: &Entry<'_>,
        group: &UniformGroup<'_>,
        born: Stamp,
        scratch: &mut Scratch<'_>,
    ) -> Result<(), Failure> {
        let Scratch { body, context, values, builder, packer, .. } = scratch;
        group_context(packer.keys(), entry.id, (born, group.epoch), &self.shape.hash, context);
        values.clear();
        values.extend_from_slice(group.bytes);
        let opened = packer.open(group.epoch, context, values);
        let opened = opened.and_then(|()| group_values(values, self.shape.len())).map_err(Failure::Seal)?;
        builder.clear();
        let mut push = |(field, value)| builder.push_raw(field, value);
        let pushed = if entry.body.is_empty() {
            self.shape.by_field(&opened).try_for_each(push)
        } else {
            let mut fields: Vec<_> = self.shape.by_field(&opened).collect();
            fields.extend(RecordView::parse(entry.body)?.iter());
            fields.sort_unstable_by_key(|(field, _)| *field);
            fields.into_iter().try_for_each(&mut push)
        };
        pushed.map_err(|error| Failure::Seal(error.into()))?;
        builder.finish_into(body);
        Ok(())
    }

    fn opened_names(&self) -> PeerNames {
        let opened =
            self.known.iter().filter_map(|(no, name)| Some((*no, Arc::clone(&name.as_ref().ok()?.1))));
        self.names.with_fields(opened)
    }
}
