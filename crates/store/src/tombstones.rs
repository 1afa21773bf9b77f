//! Dropping tombstones: what stays of each is a grave ([`crate::graves`]).
//!
//! A tombstone goes when every reader has passed it that was here within the lease. Where there is no such reader, it goes
//! when it is as old as the lease. Who comes back later and stands before the *fence* compares what it holds.
//!
//! Invariant: grave, fence and the end of the row commit together.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use blazedb_core::feed::Seq;
use blazedb_sqlite::rusqlite::{self, Connection};

use crate::error::StoreError;
use crate::graves::{self, Grave};
use crate::query::clamp;
use crate::readers::{Reading, Slowest};
use crate::row::{GONE, StoredRow};
use crate::schema::{meta, set_meta};
use crate::store::{Store, Writer};

/// Tombstones dropped in one commit, at most: others want to write too.
const CHUNK: usize = 10_000;

/// Of deleted records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tombstones {
    /// Tombstones that are kept for readers.
    pub kept: u64,
    /// Tombstones that were dropped, of which a grave is left.
    pub dropped: u64,
}

impl Store {
    /// Drops the tombstones that nobody waits for. Answers how many.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn drop_tombstones(&self) -> Result<u64, StoreError> {
        let (mut dropped, mut after) = (0, Some(0));
        while let Some(from) = after {
            let mut readers = self.inner.readers_here.lock().unwrap_or_else(PoisonError::into_inner);
            let nobody_left = readers.iter().all(Reading::is_here);
            if nobody_left && self.tombstones()?.kept == 0 {
                break;
            }
            let (now_ms, lease_ms) = (self.now_ms(), self.inner.options.tombstone_lease_ms);
            let (count, last) = self.commit(|writer| {
                let sqlite = |error| self.sqlite(error);
                let slowest = writer.settle_readers(&mut readers, now_ms, lease_ms).map_err(sqlite)?;
                let (upto, older_than) = match slowest {
                    Slowest::At(upto) => (upto, u64::MAX),
                    Slowest::Nobody => (Seq::MAX, now_ms.saturating_sub(lease_ms)),
                };
                self.drop_stretch(writer, (from, upto), older_than)
            })?;
            dropped += count;
            after = last;
        }
        Ok(dropped)
    }

    /// Answers how many went, and where to go on.
    fn drop_stretch(
        &self,
        writer: &Writer,
        (after, upto): (Seq, Seq),
        older_than: u64,
    ) -> Result<(u64, Option<Seq>), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let rows = stretch(&writer.db, after, upto).map_err(sqlite)?;
        let (mut dropped, mut fence) = (0, self.fence());
        let mut drop = writer.db.prepare_cached("DELETE FROM records WHERE seq=?").map_err(sqlite)?;
        for row in &rows {
            let state = row.decode(&writer.names)?;
            // What was written to the record after its deletion may show again with an insert that has not come yet.
            let Some(dead) = state.life.dead.filter(|_| state.cells.is_empty()) else { continue };
            if dead.stamp.time.millis() < older_than {
                let grave = Grave { dead: dead.stamp, after: state.life.after };
                graves::keep(&writer.db, &writer.names, row.id, grave).map_err(sqlite)?;
                drop.execute([clamp(row.seq)]).map_err(sqlite)?;
                (dropped, fence) = (dropped + 1, fence.max(row.seq));
            }
        }
        if dropped > 0 {
            set_meta(&writer.db, "fence", clamp(fence)).map_err(sqlite)?;
            // The feed must not begin again where it was: what is written next has to be sent.
            set_meta(&writer.db, "seq_floor", clamp(writer.next_seq - 1)).map_err(sqlite)?;
            // Ahead of the commit: a fence that is too high costs a comparison.
            self.inner.fence.fetch_max(fence, Ordering::AcqRel);
            self.inner.has_graves.store(true, Ordering::Release);
        }
        Ok((dropped, rows.last().filter(|_| rows.len() == CHUNK).map(|row| row.seq)))
    }

    /// How long what a reader needs is kept for it while it is away, in milliseconds.
    #[must_use]
    pub fn tombstone_lease_ms(&self) -> u64 {
        self.inner.options.tombstone_lease_ms
    }

    /// How many deletions are kept, and how.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn tombstones(&self) -> Result<Tombstones, StoreError> {
        let sql = "SELECT (SELECT count(*) FROM records WHERE state=1), (SELECT count(*) FROM graves)";
        self.read_once(|db| {
            db.prepare_cached(sql)
                .and_then(|mut ask| {
                    ask.query_row([], |row| Ok(Tombstones { kept: row.get(0)?, dropped: row.get(1)? }))
                })
                .map_err(|error| self.sqlite(error))
        })
    }
}

fn stretch(db: &Connection, after: Seq, upto: Seq) -> rusqlite::Result<Vec<StoredRow>> {
    let sql = "SELECT seq, id, state, origin, tx, history, body FROM records
               WHERE state=1 AND seq>? AND seq<=? ORDER BY seq LIMIT ?";
    let mut list = db.prepare_cached(sql)?;
    let rows = list.query_map([clamp(after), clamp(upto), clamp(CHUNK as u64)], StoredRow::read)?;
    rows.collect()
}

/// What the file says of dropped tombstones: the fence, and whether there are graves.
pub(crate) fn load(db: &Connection) -> rusqlite::Result<(Seq, bool)> {
    let fence: Option<Seq> = meta(db, "fence")?;
    Ok((fence.unwrap_or(0), db.prepare("SELECT 1 FROM graves LIMIT 1")?.exists([])?))
}

const _: () = assert!(GONE == 1);
