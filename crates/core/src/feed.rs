//! Changes on their way: what a pusher reads out of a replica's feed and what a puller hands in.
//!
//! A batch is encoded once and shared by every session that reads the same part of the feed in the same view;
//! only what a subscriber itself brought is left out for that one.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::blazebinary::FieldNo;
use crate::bond::Bond;
use crate::id::ReplicaId;

/// A position in a replica's feed. The first change has 1.
pub type Seq = u64;

/// Number by which a replica knows a peer replica (0: nobody).
pub type PeerNo = u32;

/// Names that a batch uses, by the numbers of the replica that encoded it.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Field names by number.
    pub fields: Vec<(FieldNo, Arc<str>)>,
    /// Writers by number.
    pub writers: Vec<(u32, ReplicaId)>,
}

/// Which readers of a batch an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Everybody.
    Everybody,
    /// Everybody but this peer, which is known to hold all of it (0: nobody is).
    AllBut(PeerNo),
    /// This peer alone.
    Only(PeerNo),
}

/// One encoded change in a [`FeedBatch`].
#[derive(Clone, Copy, Debug)]
pub struct FeedEntry {
    /// Where it ends in [`FeedBatch::data`].
    pub end: u32,
    /// Whom it is for.
    pub audience: Audience,
}

impl FeedEntry {
    /// Whether the entry is for this peer (0: one that was never met).
    #[must_use]
    pub fn is_for(&self, peer: PeerNo) -> bool {
        match self.audience {
            Audience::Everybody => true,
            Audience::AllBut(origin) => peer == 0 || origin != peer,
            Audience::Only(origin) => peer != 0 && origin == peer,
        }
    }
}

/// A stretch of a feed, encoded.
#[derive(Debug, Default)]
pub struct FeedBatch {
    /// The stretch begins behind this sequence,
    pub after: Seq,
    /// and ends with this one.
    pub upto: Seq,
    /// It is for readers who have every cell up to here; 0 if records are in it whole.
    pub known: Seq,
    /// Where the feed ended when this was read.
    pub snapshot: Seq,
    /// How many rows it was made of, shown or not.
    pub rows: u64,
    /// The encoded entries, back to back.
    pub data: Vec<u8>,
    /// Where each entry ends and whose it is.
    pub entries: Vec<FeedEntry>,
    /// What the numbers in `data` stand for.
    pub names: Names,
    /// What the stretch belongs together with.
    pub bonds: Vec<Bond>,
    compressed: OnceLock<Option<Vec<u8>>>,
}

/// Smaller payloads are not worth compressing, in bytes.
const COMPRESS_FROM: usize = 512;
/// The fastest of the usual levels: a first sync is bound by processors, and a higher level gains a few bytes in a hundred.
const ZSTD_LEVEL: i32 = 1;

impl FeedBatch {
    /// An empty stretch.
    #[must_use]
    pub fn empty(after: Seq, upto: Seq) -> Self {
        Self { after, upto, ..Self::default() }
    }

    /// The same stretch with its entries in another form.
    #[must_use]
    pub fn with(&self, data: Vec<u8>, entries: Vec<FeedEntry>, names: Names) -> Self {
        let Self { after, upto, known, snapshot, rows, .. } = *self;
        let bonds = self.bonds.clone();
        Self { after, upto, known, snapshot, rows, data, entries, names, bonds, compressed: OnceLock::new() }
    }

    /// Whether nothing was behind it when it was read.
    #[must_use]
    pub const fn is_to_the_end(&self) -> bool {
        self.upto >= self.snapshot
    }

    /// Whether every entry may go to the peer `peer`.
    #[must_use]
    pub fn is_all_for(&self, peer: PeerNo) -> bool {
        self.entries.iter().all(|entry| entry.is_for(peer))
    }

    /// The entries that the peer `peer` does not have yet, copied together.
    #[must_use]
    pub fn data_for(&self, peer: PeerNo) -> Vec<u8> {
        let mut start = 0;
        let mut data = Vec::new();
        for entry in &self.entries {
            let end = entry.end as usize;
            if entry.is_for(peer) {
                data.extend_from_slice(self.data.get(start..end).unwrap_or_default());
            }
            start = end;
        }
        data
    }

    /// The data under zstd, made once; `None` if that does not make it smaller.
    #[must_use]
    pub fn compressed(&self) -> Option<&[u8]> {
        self.compressed.get_or_init(|| compress(&self.data)).as_deref()
    }
}

/// `data` under zstd, unless that is not worth it.
#[must_use]
pub fn compress(data: &[u8]) -> Option<Vec<u8>> {
    if data.len() < COMPRESS_FROM {
        return None;
    }
    zstd::bulk::compress(data, ZSTD_LEVEL).ok().filter(|packed| packed.len() < data.len())
}

/// Reverses [`compress`]; `None` if the data is damaged or would be longer than `limit` bytes.
#[must_use]
pub fn decompress(data: &[u8], limit: usize) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut out = Vec::new();
    let reader = zstd::stream::read::Decoder::with_buffer(data).ok()?;
    reader.take(limit as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= limit).then_some(out)
}

/// What a peer's numbers stand for, as far as it has said so.
#[derive(Clone, Debug, Default)]
pub struct PeerNames {
    fields: Vec<Option<Arc<str>>>,
    writers: Vec<Option<ReplicaId>>,
}

impl PeerNames {
    /// The field name of a peer's number.
    #[must_use]
    pub fn field(&self, number: FieldNo) -> Option<&Arc<str>> {
        self.fields.get(number as usize)?.as_ref()
    }

    /// The writer of a peer's number.
    #[must_use]
    pub fn writer(&self, number: u32) -> Option<ReplicaId> {
        *self.writers.get(number as usize)?
    }

    /// Other names for the fields; the writers stay.
    #[must_use]
    pub fn with_fields(&self, fields: impl Iterator<Item = (FieldNo, Arc<str>)>) -> Self {
        let mut names = Self { fields: Vec::new(), writers: self.writers.clone() };
        for (number, name) in fields {
            let at = number as usize;
            if names.fields.len() <= at {
                names.fields.resize_with(at + 1, || None);
            }
            if let Some(slot) = names.fields.get_mut(at) {
                *slot = Some(name);
            }
        }
        names
    }

    /// The number of every writer.
    #[must_use]
    pub fn writer_numbers(&self) -> BTreeMap<ReplicaId, u32> {
        let numbered = (0..).zip(&self.writers);
        numbered.filter_map(|(number, writer)| writer.map(|writer| (writer, number))).collect()
    }

    /// Takes note of names. Answers false if a number is out of bounds or stood for something else before.
    #[must_use]
    pub fn learn(&mut self, names: Names) -> bool {
        names.fields.into_iter().all(|(no, name)| learn(&mut self.fields, no, name))
            && names.writers.into_iter().all(|(no, writer)| learn(&mut self.writers, no, writer))
    }
}

fn learn<T: PartialEq>(table: &mut Vec<Option<T>>, number: u32, name: T) -> bool {
    let number = number as usize;
    if number >= crate::limits::MAX_FIELD_NAMES {
        return false;
    }
    if table.len() <= number {
        table.resize_with(number + 1, || None);
    }
    match table.get_mut(number) {
        Some(slot @ None) => {
            *slot = Some(name);
            true
        }
        Some(Some(known)) => *known == name,
        None => false,
    }
}

/// Changes of a peer, to be merged and made durable.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Encoded entries, in the peer's numbers.
    pub data: Vec<u8>,
    /// What the numbers stand for.
    pub names: Arc<PeerNames>,
    /// The peer's feed is complete up to here once this is applied.
    pub checkpoint: Option<Seq>,
    /// The peer had acknowledged this replica's feed up to here when it sent.
    pub peer_has: Seq,
}
