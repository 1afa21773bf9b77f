//! Record bodies: a directory of fields in front, their payloads behind.
//!
//! A body is the varint length of the directory, the directory, and the payloads back to back. A directory entry
//! is the varint distance from the field number before it, the value's tag, and the payload's length where the
//! tag carries none. So one field is found by adding up lengths, and an absent one by meeting a higher number.
//!
//! Invariants: field numbers ascend (a directory can't say otherwise); the payloads are exactly as long as the
//! directory says.

use std::collections::BTreeMap;

use super::raw::RawValue;
use super::value::{check_value, encode_payload, read_head, validate_at};
use super::varint::{Reader, varint_len, write_varint};
use super::{DecodeError, EncodeError, FieldNo, tag};
use crate::Value;
use crate::limits::{MAX_FIELDS, MAX_RECORD_BYTES};

/// The longest varint, in bytes.
const MAX_VARINT_BYTES: usize = 10;

/// The value of one field of a body; `None` if the record doesn't have it or the bytes are damaged before it.
///
/// This is the fast path of queries: it walks the directory up to the field and touches no other payload.
#[inline]
#[must_use]
pub fn get_field(body: &[u8], field: FieldNo) -> Option<RawValue<'_>> {
    let (directory, payloads) = split(body).ok()?;
    find(directory, payloads, field)
}

/// Checks strictly and in one pass, without allocating, that the bytes are a record body in canonical form: for
/// what comes from a peer.
///
/// # Errors
/// Any [`DecodeError`].
pub fn validate_record(body: &[u8]) -> Result<(), DecodeError> {
    if body.len() > MAX_RECORD_BYTES {
        return Err(DecodeError::TooLong { limit: MAX_RECORD_BYTES });
    }
    let (directory, payloads) = split(body)?;
    let mut directory = Directory::new(directory);
    let mut payloads = Reader::new(payloads);
    let mut count = 0;
    while let Some(entry) = directory.next_entry()? {
        count += 1;
        if count > MAX_FIELDS {
            return Err(DecodeError::TooManyFields);
        }
        validate_at(RawValue { tag: entry.tag, payload: payloads.read_bytes(entry.len)? }, 0)?;
    }
    payloads.finish()
}

fn split(body: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let mut reader = Reader::new(body);
    let len = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    Ok((reader.read_bytes(len)?, reader.rest()))
}

#[inline]
fn find<'a>(directory: &[u8], payloads: &'a [u8], wanted: FieldNo) -> Option<RawValue<'a>> {
    let mut directory = Directory::new(directory);
    let mut offset = 0usize;
    while let Ok(Some(entry)) = directory.next_entry() {
        if entry.field >= wanted {
            if entry.field > wanted {
                return None;
            }
            let payload = payloads.get(offset..offset.saturating_add(entry.len))?;
            return Some(RawValue { tag: entry.tag, payload });
        }
        offset = offset.saturating_add(entry.len);
    }
    None
}

/// One entry of a directory.
struct Entry {
    field: FieldNo,
    tag: u8,
    len: usize,
}

/// Reads a directory entry by entry.
#[derive(Clone, Debug)]
struct Directory<'a> {
    reader: Reader<'a>,
    /// The lowest number that the next field can have.
    lowest: u64,
}

impl<'a> Directory<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes), lowest: 0 }
    }

    #[inline]
    fn next_entry(&mut self) -> Result<Option<Entry>, DecodeError> {
        // Nearly every entry is two bytes; this path is what the speed of a query hangs on.
        if let [delta, tag, rest @ ..] = self.reader.rest()
            && *delta < 0x80
            && let len = tag::payload_len(*tag)
            && len < tag::UNKNOWN
        {
            self.reader = Reader::new(rest);
            return self.entry(u64::from(*delta), *tag, usize::from(len)).map(Some);
        }
        self.next_long_entry()
    }

    fn next_long_entry(&mut self) -> Result<Option<Entry>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let delta = self.reader.read_varint()?;
        let (tag, len) = read_head(&mut self.reader)?;
        self.entry(delta, tag, len).map(Some)
    }

    #[inline]
    fn entry(&mut self, delta: u64, tag: u8, len: usize) -> Result<Entry, DecodeError> {
        let number = self.lowest.saturating_add(delta);
        let field = FieldNo::try_from(number).map_err(|_| DecodeError::OutOfRange)?;
        self.lowest = number + 1;
        Ok(Entry { field, tag, len })
    }
}

/// A record body whose directory has been checked against its length: every field can be reached.
///
/// The payloads are not looked into. That is for bytes that this node has written or has validated;
/// [`validate_record`] is for all others.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    directory: &'a [u8],
    payloads: &'a [u8],
    len: usize,
}

impl<'a> RecordView<'a> {
    /// Looks at a body.
    ///
    /// # Errors
    /// Any [`DecodeError`] that the directory shows.
    pub fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (directory, payloads) = split(body)?;
        let mut entries = Directory::new(directory);
        let mut len = 0;
        let mut payload_len = 0usize;
        while let Some(entry) = entries.next_entry()? {
            len += 1;
            payload_len = payload_len.saturating_add(entry.len);
        }
        match payload_len.cmp(&payloads.len()) {
            std::cmp::Ordering::Equal => Ok(Self { directory, payloads, len }),
            std::cmp::Ordering::Greater => Err(DecodeError::Truncated),
            std::cmp::Ordering::Less => Err(DecodeError::TrailingBytes),
        }
    }

    /// How many fields the record has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the record has no fields.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a field; `None` if the record doesn't have it.
    #[inline]
    #[must_use]
    pub fn get(&self, field: FieldNo) -> Option<RawValue<'a>> {
        find(self.directory, self.payloads, field)
    }

    /// The fields, decoded in full, under the names that `name` has for their numbers. Those that it has none for
    /// are left out.
    ///
    /// # Errors
    /// Any [`DecodeError`] of a value that is not left out.
    pub fn decode<'n>(
        &self,
        mut name: impl FnMut(FieldNo) -> Option<&'n str>,
    ) -> Result<BTreeMap<String, Value>, DecodeError> {
        let mut fields = Vec::with_capacity(self.len);
        for (field, raw) in self {
            if let Some(name) = name(field) {
                fields.push((name.to_owned(), raw.decode()?));
            }
        }
        // Built whole: cheaper than one by one, and it sorts only what is out of order.
        Ok(fields.into_iter().collect())
    }

    /// The fields, ascending by number.
    #[must_use]
    pub const fn iter(&self) -> Fields<'a> {
        Fields { directory: Directory::new(self.directory), payloads: Reader::new(self.payloads) }
    }
}

impl<'a> IntoIterator for RecordView<'a> {
    type Item = (FieldNo, RawValue<'a>);
    type IntoIter = Fields<'a>;

    fn into_iter(self) -> Fields<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &RecordView<'a> {
    type Item = (FieldNo, RawValue<'a>);
    type IntoIter = Fields<'a>;

    fn into_iter(self) -> Fields<'a> {
        self.iter()
    }
}

/// The fields of a [`RecordView`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    directory: Directory<'a>,
    payloads: Reader<'a>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (FieldNo, RawValue<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Neither read can fail: the view was made by walking the same directory.
        let entry = self.directory.next_entry().ok()??;
        let payload = self.payloads.read_bytes(entry.len).ok()?;
        Some((entry.field, RawValue { tag: entry.tag, payload }))
    }
}

/// Builds record bodies, one after another, in the same buffers.
///
/// ```
/// use blazedb_core::{Value, blazebinary::{RecordBuilder, get_field}};
/// let mut builder = RecordBuilder::new();
/// builder.push(0, &Value::from("crash"))?;
/// builder.push(7, &Value::from(8))?;
/// let mut body = Vec::new();
/// builder.finish_into(&mut body);
/// assert_eq!(get_field(&body, 7).unwrap().decode(), Ok(Value::Int(8)));
/// assert_eq!(get_field(&body, 6), None);
/// # Ok::<(), blazedb_core::blazebinary::EncodeError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RecordBuilder {
    directory: Vec<u8>,
    payloads: Vec<u8>,
    last: Option<FieldNo>,
    count: usize,
}

impl RecordBuilder {
    /// A builder without fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops the fields and keeps the buffers.
    pub fn clear(&mut self) {
        self.directory.clear();
        self.payloads.clear();
        self.last = None;
        self.count = 0;
    }

    /// How many fields have been added.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether no field has been added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a field that comes after all fields so far.
    ///
    /// # Errors
    /// Any [`EncodeError`]; the builder is then as it was.
    #[inline]
    pub fn push(&mut self, field: FieldNo, value: &Value) -> Result<(), EncodeError> {
        check_value(value)?;
        self.push_with(field, |payloads| encode_payload(value, payloads))
    }

    /// Adds a field whose value is encoded already, and canonical: it is copied as it is.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_raw(&mut self, field: FieldNo, value: RawValue<'_>) -> Result<(), EncodeError> {
        self.push_with(field, |payloads| {
            payloads.extend_from_slice(value.payload);
            value.tag
        })
    }

    #[inline]
    fn push_with(
        &mut self,
        field: FieldNo,
        write: impl FnOnce(&mut Vec<u8>) -> u8,
    ) -> Result<(), EncodeError> {
        let delta = delta(self.last, field)?;
        if self.count == MAX_FIELDS {
            return Err(EncodeError::TooManyFields);
        }
        let (directory_len, start) = (self.directory.len(), self.payloads.len());
        let tag = write(&mut self.payloads);
        // Nearly every entry is two bytes, written with one look at the buffer's capacity.
        if delta < 0x80 {
            self.directory.extend_from_slice(&[delta as u8, tag]);
        } else {
            write_varint(delta, &mut self.directory);
            self.directory.push(tag);
        }
        if tag::payload_len(tag) == tag::EXPLICIT {
            write_varint((self.payloads.len() - start) as u64, &mut self.directory);
        }
        // Nearly every record is far from the limit: its exact length is asked for only near it.
        let about = self.directory.len() + self.payloads.len();
        if about > MAX_RECORD_BYTES - MAX_VARINT_BYTES && self.encoded_len() > MAX_RECORD_BYTES {
            self.directory.truncate(directory_len);
            self.payloads.truncate(start);
            return Err(EncodeError::RecordTooLarge);
        }
        self.last = Some(field);
        self.count += 1;
        Ok(())
    }

    /// The length of the body as it stands, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        varint_len(self.directory.len() as u64) + self.directory.len() + self.payloads.len()
    }

    /// Appends the body to `out` and clears the builder for the next record.
    pub fn finish_into(&mut self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        write_varint(self.directory.len() as u64, out);
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.payloads);
        self.clear();
    }
}

/// What a directory writes for `field` after `last`.
fn delta(last: Option<FieldNo>, field: FieldNo) -> Result<u64, EncodeError> {
    let Some(last) = last else { return Ok(u64::from(field)) };
    match field.checked_sub(last) {
        None | Some(0) => Err(EncodeError::FieldOrder { field, last }),
        Some(distance) => Ok(u64::from(distance) - 1),
    }
}

/// Appends `body` with every field renumbered by `map`: from a connection's numbering to a database's or back.
///
/// The entries are put into the order of their new numbers; the values are copied as they are. A body that `map`
/// leaves as it is, is copied whole.
///
/// # Errors
/// [`DecodeError::UnmappedField`] where `map` has no number, [`DecodeError::DuplicateField`] if it has the same one
/// for two fields, and whatever [`RecordView::parse`] refuses. Nothing is then appended.
pub fn remap(
    body: &[u8],
    map: impl Fn(FieldNo) -> Option<FieldNo>,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let view = RecordView::parse(body)?;
    if view.iter().all(|(field, _)| map(field) == Some(field)) {
        out.extend_from_slice(body);
        return Ok(());
    }
    let mut fields = Vec::with_capacity(view.len());
    for (field, value) in view {
        fields.push((map(field).ok_or(DecodeError::UnmappedField(field))?, value));
    }
    if !fields.is_sorted_by_key(|(field, _)| *field) {
        fields.sort_unstable_by_key(|(field, _)| *field);
    }
    let mut deltas = Vec::with_capacity(fields.len());
    let mut directory_len = 0;
    let mut last = None;
    for (field, value) in &fields {
        let delta = delta(last, *field).map_err(|_| DecodeError::DuplicateField(*field))?;
        directory_len += varint_len(delta) + value.head_len();
        deltas.push(delta);
        last = Some(*field);
    }
    write_varint(directory_len as u64, out);
    for (delta, (_, value)) in deltas.iter().zip(&fields) {
        write_varint(*delta, out);
        value.write_head(out);
    }
    fields.iter().for_each(|(_, value)| out.extend_from_slice(value.payload));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::strategies;
    use super::*;
    use proptest::prelude::*;

    fn body(fields: &BTreeMap<FieldNo, Value>) -> Vec<u8> {
        let mut builder = RecordBuilder::new();
        for (field, value) in fields {
            builder.push(*field, value).unwrap();
        }
        let mut out = Vec::new();
        builder.finish_into(&mut out);
        out
    }

    fn decoded(body: &[u8]) -> BTreeMap<FieldNo, Value> {
        RecordView::parse(body).unwrap().iter().map(|(no, raw)| (no, raw.decode().unwrap())).collect()
    }

    proptest! {
        #[test]
        fn a_body_holds_what_was_pushed_and_each_field_is_found(
            fields in strategies::fields(),
            other: FieldNo,
        ) {
            let body = body(&fields);
            prop_assert_eq!(validate_record(&body), Ok(()));
            let view = RecordView::parse(&body).unwrap();
            prop_assert_eq!(view.len(), fields.len());
            prop_assert_eq!(&decoded(&body), &fields);
            for field in fields.keys().copied().chain(0..41).chain([other, u32::MAX]) {
                let expected = fields.get(&field);
                prop_assert_eq!(view.get(field).map(|raw| raw.decode().unwrap()), expected.cloned());
                prop_assert_eq!(get_field(&body, field), view.get(field));
            }
        }

        #[test]
        fn an_accepted_body_is_the_only_one(
            fields in strategies::fields(),
            at: prop::sample::Index,
            replacement: u8,
            noise in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut mutated = body(&fields);
            let at = at.index(mutated.len());
            mutated[at] = replacement;
            for bytes in [mutated, noise] {
                if validate_record(&bytes).is_ok() {
                    prop_assert_eq!(body(&decoded(&bytes)), bytes);
                } else if let Ok(view) = RecordView::parse(&bytes) {
                    prop_assert_eq!(view.iter().count(), view.len());
                    view.iter().for_each(|(field, raw)| assert_eq!(get_field(&bytes, field), Some(raw)));
                }
            }
        }

        #[test]
        fn remapping_renames_and_changes_nothing_else(fields in strategies::fields(), mask: u32, turn in 0u32..32) {
            let there = |field: FieldNo| Some((field ^ mask).rotate_left(turn));
            let back = |field: FieldNo| Some(field.rotate_right(turn) ^ mask);
            let original = body(&fields);
            let mut mapped = Vec::new();
            remap(&original, there, &mut mapped).unwrap();
            let renamed = fields.into_iter().map(|(field, value)| (there(field).unwrap(), value)).collect();
            prop_assert_eq!(&mapped, &body(&renamed));
            let mut again = Vec::new();
            remap(&mapped, back, &mut again).unwrap();
            prop_assert_eq!(again, original);
        }

        #[test]
        fn a_decoded_body_has_the_fields_that_are_named(fields in strategies::fields(), turn in 0u32..32, left_out: u8) {
            let names: BTreeMap<FieldNo, String> = fields
                .keys()
                .filter(|field| left_out == 0 || *field % u32::from(left_out) != 0)
                .map(|field| (*field, field.rotate_left(turn).to_string()))
                .collect();
            let body = body(&fields);
            let decoded =
                RecordView::parse(&body).unwrap().decode(|no| names.get(&no).map(String::as_str)).unwrap();
            let named = fields.into_iter().filter_map(|(no, value)| Some((names.get(&no)?.clone(), value)));
            prop_assert_eq!(decoded, named.collect());
        }

        #[test]
        fn raw_values_are_copied_as_they_are(fields in strategies::fields()) {
            let original = body(&fields);
            let mut builder = RecordBuilder::new();
            for (field, raw) in RecordView::parse(&original).unwrap() {
                builder.push_raw(field, raw).unwrap();
            }
            prop_assert_eq!(builder.encoded_len(), original.len());
            let mut copy = Vec::new();
            builder.finish_into(&mut copy);
            prop_assert_eq!(copy, original);
        }
    }

    #[test]
    fn a_refused_field_leaves_the_builder_as_it_was() {
        let mut builder = RecordBuilder::new();
        builder.push(3, &Value::from(1)).unwrap();
        let order = |field| Err(EncodeError::FieldOrder { field, last: 3 });
        assert_eq!(builder.push(3, &Value::Null), order(3));
        assert_eq!(builder.push(2, &Value::Null), order(2));
        let large = Value::Bytes(vec![0; MAX_RECORD_BYTES]);
        assert_eq!(builder.push(4, &large), Err(EncodeError::RecordTooLarge));
        builder.push(5, &Value::from(true)).unwrap();
        let mut out = Vec::new();
        builder.finish_into(&mut out);
        assert_eq!(out, body(&BTreeMap::from([(3, Value::from(1)), (5, Value::from(true))])));
        assert!(builder.is_empty());
    }

    #[test]
    fn the_number_and_size_of_fields_are_bounded_on_both_sides() {
        let fields = |n: usize| (0..n as u32).map(|field| (field, Value::Null)).collect::<BTreeMap<_, _>>();
        let most = fields(MAX_FIELDS);
        let mut bytes = body(&most);
        assert_eq!(validate_record(&bytes), Ok(()));
        let mut builder = RecordBuilder::new();
        most.iter().for_each(|(field, value)| builder.push(*field, value).unwrap());
        assert_eq!(builder.push(u32::MAX, &Value::Null), Err(EncodeError::TooManyFields));

        let mut more = Vec::new();
        write_varint(2 * (MAX_FIELDS as u64 + 1), &mut more);
        more.extend([0, tag::NULL].repeat(MAX_FIELDS + 1));
        assert_eq!(validate_record(&more), Err(DecodeError::TooManyFields));

        bytes.resize(MAX_RECORD_BYTES + 1, 0);
        assert_eq!(validate_record(&bytes), Err(DecodeError::TooLong { limit: MAX_RECORD_BYTES }));
    }

    #[test]
    fn remapping_refuses_gaps_and_collisions() {
        let original = body(&BTreeMap::from([(1, Value::from(1)), (2, Value::from(2))]));
        let mut out = vec![7];
        let gap = |field| (field != 2).then_some(field + 1);
        assert_eq!(remap(&original, gap, &mut out), Err(DecodeError::UnmappedField(2)));
        assert_eq!(remap(&original, |_| Some(9), &mut out), Err(DecodeError::DuplicateField(9)));
        assert_eq!(out, [7]);
    }

    #[test]
    fn damage_in_front_of_a_field_hides_it_and_damage_behind_it_does_not() {
        let mut bytes = body(&BTreeMap::from([(1, Value::from("abc")), (4, Value::from("de"))]));
        assert_eq!(bytes, b"\x04\x01\x03\x02\x02abcde");
        bytes[4] = 0xff;
        assert!(get_field(&bytes, 1).is_some());
        assert_eq!(get_field(&bytes, 4), None);
        assert_eq!(RecordView::parse(&bytes).unwrap_err(), DecodeError::UnknownTag(0xff));
    }
}
