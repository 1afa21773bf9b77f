//! Values are compressed before they are sealed, with a dictionary that the members of an epoch share.
//!
//! What is sealed no longer compresses, and the values of one write are too few to compress by themselves: the
//! dictionary holds what the records of this database have in common. It is in the keyring, sealed as well.
//!
//! Invariants: values are compressed only where that makes them shorter; what is opened is at most
//! [`MAX_UNPACKED`] times as long as what was sealed, and no memory is taken beyond that; a dictionary that zstd
//! does not take is none, and nothing is compressed with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use zstd::zstd_safe::{CCtx, CDict, CParameter, DCtx, DDict};

use super::cells::LARGE_VALUE_BYTES;
use super::{FieldTag, SealError, SealKeys, Sealer};
use crate::blazebinary::{DecodeError, FieldNo, RecordView};
use crate::limits::{MAX_DICTIONARY_BYTES, MAX_UNPACKED};

/// How values stand in what is sealed: one after the other.
pub(super) const PLAIN_FORM: u8 = 0;
/// A zstd frame, without its magic number, that the epoch's dictionary opens.
const PACKED_FORM: u8 = 1;
/// The only block of such a frame, behind one or two bytes of the frame's content size; the rest of the frame's heads follows.
const BLOCK_FORMS: [(u8, u8, usize); 2] = [(2, 0x20, 1), (3, 0x60, 2)];
/// Length of a block's head, in bytes; it says: the last one, compressed, and how long.
const BLOCK_HEAD_BYTES: usize = 3;
/// What every zstd frame begins with.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Level of zstd. Higher ones find little more in a few hundred bytes, and take a quarter to four times longer; lower ones are no faster.
const LEVEL: i32 = 3;
/// The same for a dictionary, which every member is sent once.
const DICTIONARY_LEVEL: i32 = 12;
/// Shorter values are left as they are, in bytes.
const PACK_FROM: usize = 24;
/// The smallest dictionary that is worth a statement, in bytes.
const MIN_DICTIONARY_BYTES: usize = 2 << 10;
/// What a dictionary is made from is at least this many times as long,
const SAMPLES_A_DICTIONARY: usize = 10;
/// and what it serves for, so that the dictionary costs little beside what it saves.
const RECORDS_A_DICTIONARY: usize = 64;

/// What the records of a database have in common. Made ready when it is first used.
pub struct Dictionary {
    bytes: Box<[u8]>,
    packs: OnceLock<Option<CDict<'static>>>,
    unpacks: OnceLock<Option<DDict<'static>>>,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dictionary").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Dictionary {
    /// A dictionary of these bytes, or of those that are a zstd frame here; `None` if they are too many, or damaged.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes: Box<[u8]> = match bytes.starts_with(&MAGIC) {
            true => zstd::bulk::decompress(bytes, MAX_DICTIONARY_BYTES).ok()?.into(),
            false => bytes.into(),
        };
        let fits = !bytes.is_empty() && bytes.len() <= MAX_DICTIONARY_BYTES;
        fits.then(|| Self { bytes, packs: OnceLock::new(), unpacks: OnceLock::new() })
    }

    fn packs(&self) -> Option<&CDict<'static>> {
        self.packs.get_or_init(|| CDict::try_create(&self.bytes, LEVEL)).as_ref()
    }

    fn unpacks(&self) -> Option<&DDict<'static>> {
        self.unpacks.get_or_init(|| DDict::try_create(&self.bytes)).as_ref()
    }
}

/// Records of a database, as they would be sealed, that a dictionary is made from.
#[derive(Debug)]
pub struct Samples<'s> {
    sealer: &'s Sealer,
    /// The tags of fields, by number; `None`: not sealed.
    tags: BTreeMap<FieldNo, Option<FieldTag>>,
    found: Vec<Vec<u8>>,
}

impl<'s> Samples<'s> {
    /// No samples yet, of what `sealer` seals.
    #[must_use]
    pub const fn new(sealer: &'s Sealer) -> Self {
        Self { sealer, tags: BTreeMap::new(), found: Vec::new() }
    }

    /// Adds the record with this body; `name` says which field a number stands for.
    ///
    /// # Errors
    /// [`SealError`] if the body is damaged or a name too long.
    pub fn add(&mut self, body: &[u8], name: impl Fn(FieldNo) -> Option<Arc<str>>) -> Result<(), SealError> {
        let mut values = Vec::new();
        for (field, value) in RecordView::parse(body)?.iter() {
            let tag = match self.tags.get(&field) {
                Some(tag) => *tag,
                None => {
                    let sealed = name(field).filter(|name| self.sealer.rule().seals(name));
                    let tag = sealed.map(|name| self.sealer.keys().seal_name(&name)).transpose()?;
                    *self.tags.entry(field).or_insert(tag.map(|(tag, _)| tag))
                }
            };
            if let Some(tag) =
                tag.filter(|_| value.encoded_len() < LARGE_VALUE_BYTES && !value.is_mergeable())
            {
                values.push((tag, value));
            }
        }
        values.sort_unstable_by_key(|(tag, _)| *tag);
        let mut sample = Vec::new();
        values.iter().for_each(|(_, value)| value.encode_into(&mut sample));
        if !sample.is_empty() {
            self.found.push(sample);
        }
        Ok(())
    }

    /// The bytes of a dictionary for a database of `records` records like these, compressed; `None` if they have too
    /// little in common, or are too few.
    #[must_use]
    pub fn dictionary(&self, records: u64) -> Option<Vec<u8>> {
        let here: usize = self.found.iter().map(Vec::len).sum();
        let mean = here.checked_div(self.found.len())?;
        let all = usize::try_from(records).unwrap_or(usize::MAX).saturating_mul(mean);
        let most = MAX_DICTIONARY_BYTES.min(here / SAMPLES_A_DICTIONARY).min(all / RECORDS_A_DICTIONARY);
        if most < MIN_DICTIONARY_BYTES {
            return None;
        }
        let bytes = zstd::dict::from_samples(&self.found, most).ok()?;
        let packed =
            zstd::bulk::compress(&bytes, DICTIONARY_LEVEL).ok().filter(|packed| packed.len() < bytes.len());
        let bytes = packed.unwrap_or(bytes);
        Dictionary::new(&bytes)?.packs().map(|_| bytes)
    }
}

/// Seals and opens values one group after the other, with buffers and contexts that serve for all of them.
pub(super) struct Packer<'k> {
    keys: &'k SealKeys,
    may_pack: bool,
    packs: Option<CCtx<'k>>,
    unpacks: BTreeMap<u32, DCtx<'k>>,
    buffer: Vec<u8>,
    frame: Vec<u8>,
}

impl<'k> Packer<'k> {
    pub(super) const fn new(keys: &'k SealKeys) -> Self {
        Self {
            keys,
            may_pack: true,
            packs: None,
            unpacks: BTreeMap::new(),
            buffer: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Whether values that are sealed from now on are compressed.
    pub(super) const fn set_packs(&mut self, packs: bool) {
        self.may_pack = packs;
    }

    pub(super) const fn keys(&self) -> &'k SealKeys {
        self.keys
    }

    /// Seals `values`, which stand behind a form byte, bound to `context`. Answers the epoch.
    pub(super) fn seal(&mut self, context: &[u8], values: &mut Vec<u8>) -> Result<u32, SealError> {
        self.pack(values);
        self.keys.seal(context, values)
    }

    /// Reverses [`Packer::seal`]: `sealed` becomes the values behind their form byte, which says [`PLAIN_FORM`].
    pub(super) fn open(&mut self, epoch: u32, context: &[u8], sealed: &mut Vec<u8>) -> Result<(), SealError> {
        self.keys.open(epoch, context, sealed)?;
        if sealed.first() != Some(&PLAIN_FORM) {
            self.unpack(epoch, sealed).ok_or(DecodeError::OutOfRange)?;
        }
        Ok(())
    }

    /// Compresses values if that makes them shorter.
    fn pack(&mut self, values: &mut Vec<u8>) {
        if !self.may_pack || values.len() < PACK_FROM {
            return;
        }
        if self.packs.is_none() {
            let dictionary = self.keys.dictionary(self.keys.current());
            self.packs = dictionary.and_then(Dictionary::packs).and_then(|dictionary| {
                let mut context = CCtx::try_create()?;
                context.set_parameter(CParameter::DictIdFlag(false)).ok()?;
                context.ref_cdict(dictionary).ok()?;
                Some(context)
            });
        }
        let (Some(context), Some(plain)) = (&mut self.packs, values.get(1..)) else { return };
        self.buffer.clear();
        // Whatever does not fit is not shorter.
        self.buffer.reserve(values.len() + MAGIC.len());
        if context.compress2(&mut self.buffer, plain).is_err() {
            return;
        }
        let worth = |packed: &&[u8]| {
            packed.len() < plain.len() && plain.len() <= packed.len().saturating_mul(MAX_UNPACKED)
        };
        if let Some(packed) = self.buffer.strip_prefix(&MAGIC).filter(worth) {
            values.clear();
            if write_block(packed, values).is_none() {
                values.push(PACKED_FORM);
                values.extend_from_slice(packed);
            }
        }
    }

    fn unpack(&mut self, epoch: u32, packed: &mut Vec<u8>) -> Option<()> {
        let context = match self.unpacks.entry(epoch) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let mut context = DCtx::try_create()?;
                context.ref_ddict(self.keys.dictionary(epoch)?.unpacks()?).ok()?;
                new.insert(context)
            }
        };
        self.frame.clear();
        self.frame.extend_from_slice(&MAGIC);
        let (form, frame) = packed.split_first()?;
        if *form == PACKED_FORM {
            self.frame.extend_from_slice(frame);
        } else {
            read_block(*form, frame, &mut self.frame)?;
        }
        self.buffer.clear();
        self.buffer.reserve(frame.len().saturating_mul(MAX_UNPACKED));
        context.decompress(&mut self.buffer, &self.frame).ok()?;
        packed.clear();
        packed.push(PLAIN_FORM);
        packed.extend_from_slice(&self.buffer);
        Some(())
    }
}

/// Writes a frame that is one compressed block without what can be told from its length; `None`, and nothing, for others.
fn write_block(frame: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let descriptor = frame.first()?;
    let (form, _, size) = BLOCK_FORMS.iter().find(|(_, known, _)| known == descriptor)?;
    let (head, block) = frame.get(1 + size..)?.split_first_chunk::<BLOCK_HEAD_BYTES>()?;
    if *head != block_head(block.len())? {
        return None;
    }
    out.push(*form);
    out.extend_from_slice(frame.get(1..1 + size)?);
    out.extend_from_slice(block);
    Some(())
}

/// Reverses [`write_block`]. `None` if there is no such form.
fn read_block(form: u8, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (_, descriptor, size) = BLOCK_FORMS.iter().find(|(known, ..)| *known == form)?;
    let (size, block) = bytes.split_at_checked(*size)?;
    out.push(*descriptor);
    out.extend_from_slice(size);
    out.extend_from_slice(&block_head(block.len())?);
    out.extend_from_slice(block);
    Some(())
}

/// The head of the last block of a frame, compressed to so many bytes.
fn block_head(len: usize) -> Option<[u8; BLOCK_HEAD_BYTES]> {
    const LAST_COMPRESSED: u32 = 1 | 2 << 1;
    let [low, middle, high, over] =
        (u32::try_from(len).ok()?.checked_mul(8)? | LAST_COMPRESSED).to_le_bytes();
    (over == 0).then_some([low, middle, high])
}

#[cfg(test)]
mod tests;
