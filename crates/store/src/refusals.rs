//! What this replica, as the authority, did not take: kept until the sender has it durably.
//!
//! Invariants: a refusal commits with the checkpoint that passes the refused change, so that it can't get lost; a
//! record has at most one refusal for each peer, and until that is taken nothing else of the peer changes the record.

use std::collections::BTreeMap;
use std::sync::Arc;

use blazedb_core::access::Operation;
use blazedb_core::blazebinary::FieldNo;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::feed::{FeedBatch, PeerNo};
use blazedb_core::history::HistoryReader;
use blazedb_core::limits::{BATCH_BYTES, MAX_OWNED_REPLICAS, MAX_REFUSALS, MAX_REFUSED};
use blazedb_core::view::{Lens, Side, View};
use blazedb_core::wire::{Refusals, RefusedState, RefusedWrite};
use blazedb_core::{NodeId, RecordId, ReplicaId, Stamp};
use blazedb_sqlite::rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, params};

use crate::conflicts::{stamp_bytes, stamp_of};
use crate::error::StoreError;
use crate::gate::{Refused, owner};
use crate::incoming::Source;
use crate::store::Store;

/// What became of a node's claim that a replica is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is.
    Granted,
    /// It belongs to another node, which introduced it first.
    OfAnother,
    /// The node has introduced as many as it may.
    TooMany,
}

impl Store {
    /// Binds a replica to the node that introduces it, unless another one has before.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn claim_replica(&self, replica: ReplicaId, node: NodeId) -> Result<Claim, StoreError> {
        let mut slot = self.writer_slot();
        let writer = self.awake(&mut slot)?;
        claim(&writer.db, replica, node).map_err(|error| self.sqlite(error))
    }

    /// Whether a peer has to be told of refused writes.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn has_refusals(&self, peer: PeerNo) -> Result<bool, StoreError> {
        self.has_refusals_behind(peer, 0)
    }

    /// Whether a peer has to be told of refused writes behind a number.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn has_refusals_behind(&self, peer: PeerNo, after: u64) -> Result<bool, StoreError> {
        self.read_once(|db| {
            db.prepare_cached("SELECT 1 FROM refusals WHERE peer_no=? AND no>? LIMIT 1")
                .and_then(|mut find| find.exists(params![peer, after]))
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Refused writes of a peer behind a number, each with the record as it is now and as far as `view` shows it, and
    /// whether there are more.
    ///
    /// A record or a field that the view does not show, the peer drops. Unless this session tells it what it is shown from
    /// now on, that is noted, as if it had been shown the view: it does not hold for certain any more what it was shown before.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn refusals(
        &self,
        source: &Source,
        after: u64,
        view: &Arc<View>,
    ) -> Result<(Refusals, bool), StoreError> {
        let peer = source.peer_no;
        let sql = "SELECT no, id, operation, stamp, reason FROM refusals WHERE peer_no=? AND no>?
                   ORDER BY no LIMIT ?";
        let limit = MAX_REFUSALS as u64 + 1;
        let listed: Vec<RefusedWrite> = self.read_once(|db| {
            db.prepare_cached(sql)
                .and_then(|mut find| find.query_map(params![peer, after, limit], read_refusal)?.collect())
                .map_err(|error| self.sqlite(error))
        })?;
        let count = listed.len();
        let mut page = Page::default();
        let lens = Lens { view: Arc::clone(view), ..Lens::all(Side::Serve) };
        for mut write in listed.into_iter().take(MAX_REFUSALS) {
            write.state = page.state(&self.records_in_full(&[write.id], &lens)?)?;
            page.refusals.writes.push(write);
            if page.refusals.size() >= BATCH_BYTES {
                break;
            }
        }
        let more = page.refusals.writes.len() < count;
        let all = view.shows_fields_of(&View::all());
        let drops = page.refusals.writes.iter().any(|write| write.state.is_none() || !all);
        if drops && source.only_remembers() {
            self.show(&source.link, source.replica, view, true, false)?;
        }
        Ok((page.finish(), more))
    }
}

fn claim(db: &Connection, replica: ReplicaId, node: NodeId) -> SqlResult<Claim> {
    match owner(db, replica)? {
        Some(known) if known == node => return Ok(Claim::Granted),
        Some(_) => return Ok(Claim::OfAnother),
        None => {}
    }
    let node = node.as_bytes().as_slice();
    let count: u64 = db
        .prepare_cached("SELECT count(*) FROM replica_owners WHERE node=?")?
        .query_row([node], |row| row.get(0))?;
    if count >= MAX_OWNED_REPLICAS {
        return Ok(Claim::TooMany);
    }
    db.prepare_cached("INSERT INTO replica_owners(replica, node) VALUES(?,?)")?
        .execute(params![replica.as_bytes().as_slice(), node])?;
    Ok(Claim::Granted)
}

fn read_refusal(row: &Row<'_>) -> SqlResult<RefusedWrite> {
    Ok(RefusedWrite {
        no: row.get(0)?,
        id: RecordId::from_bytes(row.get(1)?),
        operation: Operation::from_byte(row.get(2)?).unwrap_or(Operation::Update),
        stamp: stamp_of(row.get(3)?),
        reason: row.get(4)?,
        state: None,
    })
}

/// How many refusals a peer has not taken.
pub(crate) fn count(db: &Connection, peer: PeerNo) -> SqlResult<u64> {
    db.prepare_cached("SELECT count(*) FROM refusals WHERE peer_no=?")?.query_row([peer], |row| row.get(0))
}

/// Whether a peer has not taken a refusal of this record.
pub(crate) fn waits(db: &Connection, peer: PeerNo, id: RecordId) -> SqlResult<bool> {
    db.prepare_cached("SELECT 1 FROM refusals WHERE peer_no=? AND id=?")?
        .query_row(params![peer, id.as_bytes().as_slice()], |_| Ok(()))
        .optional()
        .map(|found| found.is_some())
}

/// Keeps a refusal.
pub(crate) fn keep(db: &Connection, peer: PeerNo, id: RecordId, refused: &Refused) -> SqlResult<()> {
    db.prepare_cached("INSERT INTO refusals(peer_no, id, operation, stamp, reason) VALUES(?,?,?,?,?)")?
        .execute(params![
            peer,
            id.as_bytes().as_slice(),
            refused.operation.byte(),
            stamp_bytes(refused.stamp),
            refused.reason,
        ])
        .map(drop)
}

/// Tells on what an authority refused of what others had written and this replica brought: `lost` is the newest such
/// write of each replica. Who wrote is told if it is known here, else who brought the record (`origin`).
///
/// It is told with what this replica tells by itself, in one list: where that has one for the record already, both become
/// one, under a new number, so that who is taking the first is told again.
pub(crate) fn pass_on(
    db: &Connection,
    origin: PeerNo,
    write: &RefusedWrite,
    lost: &BTreeMap<ReplicaId, (Operation, Stamp)>,
) -> SqlResult<()> {
    let mut of_peers: BTreeMap<PeerNo, (Operation, Stamp)> = BTreeMap::new();
    for (writer, (operation, stamp)) in lost {
        let known = db
            .prepare_cached("SELECT no FROM peers WHERE replica=?")?
            .query_row([writer.as_bytes().as_slice()], |row| row.get(0))
            .optional()?;
        let newest = of_peers.entry(known.unwrap_or(origin)).or_insert((*operation, *stamp));
        if *stamp > newest.1 {
            *newest = (*operation, *stamp);
        }
    }
    let sql = "INSERT OR REPLACE INTO refusals(peer_no, id, operation, stamp, reason) VALUES(?1,?2,?3,
               max(?4, coalesce((SELECT stamp FROM refusals WHERE peer_no=?1 AND id=?2), ?4)), ?5)";
    for (peer, (operation, stamp)) in of_peers.into_iter().filter(|(peer, _)| *peer != 0) {
        if count(db, peer)? < MAX_REFUSED {
            let id = write.id.as_bytes().as_slice();
            db.prepare_cached(sql)?.execute(params![
                peer,
                id,
                operation.byte(),
                stamp_bytes(stamp),
                write.reason
            ])?;
        }
    }
    Ok(())
}

/// Forgets what a peer has taken.
pub(crate) fn forget(db: &Connection, peer: PeerNo, upto: u64) -> SqlResult<()> {
    db.prepare_cached("DELETE FROM refusals WHERE peer_no=? AND no<=?")?
        .execute(params![peer, upto])
        .map(drop)
}

/// Refusals as they are put together.
#[derive(Default)]
struct Page {
    refusals: Refusals,
    fields: BTreeMap<FieldNo, Arc<str>>,
    writers: BTreeMap<u32, ReplicaId>,
}

impl Page {
    /// The record in a batch that holds it alone, if it is there and shown.
    fn state(&mut self, batch: &FeedBatch) -> Result<Option<RefusedState>, StoreError> {
        if batch.entries.is_empty() {
            return Ok(None);
        }
        let mut reader = Reader::new(&batch.data);
        let body = usize::try_from(reader.read_varint()? >> 1).unwrap_or(usize::MAX);
        let history = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
        let _: [u8; 16] = reader.read_array()?;
        let (history, body) = (reader.read_bytes(history)?, reader.read_bytes(body)?);
        let names: BTreeMap<u32, ReplicaId> = batch.names.writers.iter().copied().collect();
        let writer = |no| names.get(&no).copied();
        let head = HistoryReader { writer: &writer, row_seq: None }.head(&mut Reader::new(history))?;
        if !head.life.is_alive() {
            return Ok(None);
        }
        self.fields.extend(batch.names.fields.iter().cloned());
        self.writers.extend(names);
        Ok(Some(RefusedState { history: history.to_vec(), body: body.to_vec() }))
    }

    fn finish(mut self) -> Refusals {
        self.refusals.names.fields = self.fields.into_iter().collect();
        self.refusals.names.writers = self.writers.into_iter().collect();
        self.refusals
    }
}
