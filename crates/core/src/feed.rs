//! Changes on their way: what a pusher reads out of a replica's feed and what a puller hands in.
//!
//! A batch is encoded once and shared by every session that reads the same part of the feed in the same view;
//! only what a subscriber itself brought is left out for that one.

use std::sync::{Arc, OnceLock};

use crate::blazebinary::FieldNo;
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

/// One encoded change in a [`FeedBatch`].
#[derive(Clone, Copy, Debug)]
pub struct FeedEntry {
    /// Where it ends in [`FeedBatch::data`].
    pub end: u32,
    /// The peer that is known to hold all of it.
    pub origin: PeerNo,
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
    /// The encoded entries, back to back.
    pub data: Vec<u8>,
    /// Where each entry ends and whose it is.
    pub entries: Vec<FeedEntry>,
    /// What the numbers in `data` stand for.
    pub names: Names,
    compressed: OnceLock<Option<Vec<u8>>>,
}

/// Smaller payloads are not worth compressing, in bytes.
const COMPRESS_FROM: usize = 512;
const ZSTD_LEVEL: i32 = 3;

impl FeedBatch {
    /// An empty stretch.
    #[must_use]
    pub fn empty(after: Seq, upto: Seq) -> Self {
        Self { after, upto, ..Self::default() }
    }

    /// Whether every entry may go to the peer `peer`.
    #[must_use]
    pub fn is_all_for(&self, peer: PeerNo) -> bool {
        peer == 0 || self.entries.iter().all(|entry| entry.origin != peer)
    }

    /// The entries that the peer `peer` does not have yet, copied together.
    #[must_use]
    pub fn data_for(&self, peer: PeerNo) -> Vec<u8> {
        let mut start = 0;
        let mut data = Vec::new();
        for entry in &self.entries {
            let end = entry.end as usize;
            if entry.origin != peer {
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
