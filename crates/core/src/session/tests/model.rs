//! A replica in memory, without fields, files and history, for the sessions of the tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::access::Operation;
use crate::feed::{Audience, FeedBatch, FeedEntry, Incoming, PeerNo, Seq};
use crate::session::*;
use crate::view::{View, ViewRequest};
use crate::wire::{Direction, Refusals, RefusedWrite};
use crate::{Hlc, RecordId, ReplicaId, Stamp};

/// A record of the model: the higher version wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) version: u64,
    pub(super) value: Vec<u8>,
    seq: Seq,
    origin: PeerNo,
}

/// A replica without fields, files and history.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) replica: ReplicaId,
    pub(super) rows: BTreeMap<RecordId, Row>,
    pub(super) head: Seq,
    peers: Vec<ReplicaId>,
    checkpoints: HashMap<ReplicaId, Seq>,
    last_peer: Option<ReplicaId>,
    /// It takes no value that starts with this.
    pub(super) refuses: Option<&'static [u8]>,
    /// What it did not take, until the peer knows.
    pub(super) refused: Vec<RefusedWrite>,
    refused_so_far: u64,
    /// The numbers of the peer's refusals that it took.
    pub(super) taken: Vec<u64>,
}

impl Model {
    pub(super) fn new(no: u8) -> Self {
        Self {
            replica: ReplicaId::from_bytes([no; 16]),
            rows: BTreeMap::new(),
            head: 0,
            peers: Vec::new(),
            checkpoints: HashMap::new(),
            last_peer: None,
            refuses: None,
            refused: Vec::new(),
            refused_so_far: 0,
            taken: Vec::new(),
        }
    }

    pub(super) fn refuse(&mut self, id: RecordId, version: u64) {
        // A number is never given twice, also after all before it were forgotten.
        self.refused_so_far += 1;
        let no = self.refused_so_far;
        self.refused.push(RefusedWrite {
            no,
            id,
            operation: Operation::Insert,
            stamp: Stamp::new(Hlc(version), self.replica),
            reason: "no".to_owned(),
            state: None,
        });
    }

    /// At most two of what was refused behind a number, and whether there is more.
    pub(super) fn refusals(&self, after: u64) -> (Refusals, bool) {
        let mut writes: Vec<_> = self.refused.iter().filter(|write| write.no > after).cloned().collect();
        let more = writes.len() > 2;
        writes.truncate(2);
        (Refusals { writes, ..Refusals::default() }, more)
    }

    pub(super) fn take_back(&mut self, refusals: &Refusals) {
        for write in &refusals.writes {
            self.taken.push(write.no);
            if self.rows.get(&write.id).is_some_and(|row| row.version <= write.stamp.time.0) {
                self.rows.remove(&write.id);
            }
        }
    }

    pub(super) fn write(&mut self, id: u64, version: u64, value: &[u8]) {
        self.head += 1;
        let row = Row { version, value: value.to_vec(), seq: self.head, origin: 0 };
        self.rows.insert(record_id(id), row);
    }

    /// What an application sees. Versions are no part of it: two rows of equal content may keep different ones
    /// where a comparison by content took them for equal, which they are.
    pub(super) fn visible(&self) -> BTreeMap<RecordId, &[u8]> {
        self.rows.iter().map(|(id, row)| (*id, row.value.as_slice())).collect()
    }

    pub(super) fn forget_checkpoints(&mut self) {
        self.checkpoints.clear();
        self.last_peer = None;
    }

    pub(super) fn checkpoint(&self, replica: ReplicaId) -> Option<Seq> {
        self.checkpoints.get(&replica).copied()
    }

    pub(super) fn introduce(&self, direction: Direction, compression: bool) -> LocalReplica {
        LocalReplica {
            replica: self.replica,
            head: self.head,
            empty: self.rows.is_empty(),
            direction,
            compression,
            checkpoint: self.last_peer.and_then(|r| Some((r, self.checkpoint(r)?))),
            fence: 0,
            request: ViewRequest::default(),
            view: Arc::new(View::all()),
            authority: false,
            token: None,
            now_ms: 0,
        }
    }

    pub(super) fn peer(&mut self, replica: ReplicaId) -> PeerReplica {
        if !self.peers.contains(&replica) {
            self.peers.push(replica);
        }
        let at = self.peers.iter().position(|r| *r == replica).unwrap();
        PeerReplica {
            peer_no: at as u32 + 1,
            checkpoint: self.checkpoint(replica),
            held: Vec::new(),
            unsettled: false,
            refusals: !self.refused.is_empty(),
        }
    }

    fn batch<'r>(&self, rows: impl Iterator<Item = (&'r RecordId, &'r Row)>, max_bytes: usize) -> FeedBatch {
        let mut batch = FeedBatch::default();
        for (id, row) in rows {
            if batch.data.len() >= max_bytes {
                return batch;
            }
            batch.data.extend_from_slice(id.as_bytes());
            batch.data.extend_from_slice(&row.version.to_le_bytes());
            batch.data.extend_from_slice(&(row.value.len() as u32).to_le_bytes());
            batch.data.extend_from_slice(&row.value);
            batch
                .entries
                .push(FeedEntry { end: batch.data.len() as u32, audience: Audience::AllBut(row.origin) });
            batch.names.fields = vec![(1, "title".into())];
            batch.upto = row.seq;
        }
        batch.upto = self.head;
        batch
    }

    pub(super) fn feed(&self, after: Seq, max_bytes: usize) -> FeedBatch {
        let mut rows: Vec<_> = self.rows.iter().filter(|(_, row)| row.seq > after).collect();
        rows.sort_by_key(|(_, row)| row.seq);
        let mut batch = self.batch(rows.into_iter(), max_bytes);
        batch.after = after;
        batch
    }

    pub(super) fn full(&self, ids: &[RecordId]) -> FeedBatch {
        let rows = ids.iter().filter_map(|id| self.rows.get_key_value(id));
        let mut batch = self.batch(rows, usize::MAX);
        batch.upto = 0;
        batch
    }

    pub(super) fn reconcile_set(&self) -> ReconcileSet {
        let mut set = ReconcileSet { snapshot: self.head, ..ReconcileSet::default() };
        for (id, row) in &self.rows {
            let mut content = id.as_bytes().to_vec();
            content.extend(&row.value);
            let mut history = content.clone();
            history.extend(row.version.to_le_bytes());
            set.history.push(ReconcileItem { order: row.version, hash: sha(&history), id: *id });
            set.content.push(ReconcileItem { order: 0, hash: sha(&content), id: *id });
        }
        set
    }

    /// Answers how many entries there were.
    pub(super) fn apply(&mut self, source: ReplicaId, incoming: &Incoming) -> usize {
        let peer_no = self.peer(source).peer_no;
        let mut entries = 0;
        let mut rest = incoming.data.as_slice();
        while let Some((id, after)) = rest.split_first_chunk::<16>() {
            let (version, after) = after.split_first_chunk::<8>().unwrap();
            let (len, after) = after.split_first_chunk::<4>().unwrap();
            let (value, after) = after.split_at(u32::from_le_bytes(*len) as usize);
            (rest, entries) = (after, entries + 1);
            assert_eq!(&**incoming.names.field(1).unwrap(), "title", "names come ahead of changes");
            let (id, version) = (RecordId::from_bytes(*id), u64::from_le_bytes(*version));
            if self.refuses.is_some_and(|refused| value.starts_with(refused)) {
                self.refuse(id, version);
            } else if self.rows.get(&id).is_none_or(|row| row.version < version) {
                self.head += 1;
                let row = Row { version, value: value.to_vec(), seq: self.head, origin: peer_no };
                self.rows.insert(id, row);
            }
        }
        if let Some(seq) = incoming.checkpoint {
            assert!(self.checkpoint(source).is_none_or(|old| old <= seq), "a checkpoint went back");
            self.checkpoints.insert(source, seq);
            self.last_peer = Some(source);
        }
        entries
    }
}

fn sha(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

pub(super) fn record_id(no: u64) -> RecordId {
    RecordId::v7(no, [0; 10])
}
