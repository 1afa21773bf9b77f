//! Who reads the feed here, and how far: what decides when a tombstone may go.
//!
//! Invariants: a session is on the list before anything is read for it and as long as it lives; what the file says of a
//! reader is never more than it has. What is noted late, or not at all if the process ends, costs a comparison at most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use blazedb_core::ReplicaId;
use blazedb_core::feed::Seq;
use blazedb_core::view::View;
use blazedb_sqlite::rusqlite::{self, params};

use crate::error::StoreError;
use crate::incoming::Source;
use crate::query::clamp;
use crate::store::{Store, Writer};

/// `peers.seen_ms` of a reader that is never asked what it holds: what it was not told of is kept for it without a lease.
const FOR_EVER: i64 = i64::MAX;

/// A session's reading of the local feed.
#[derive(Debug)]
pub(crate) struct Reading {
    replica: ReplicaId,
    /// Something is sent to it,
    reads: bool,
    /// and nothing is held back from it.
    all: bool,
    /// It is asked what it holds if it may have missed a deletion.
    asked: bool,
    /// Where it stood when it came,
    place: Seq,
    /// and stands.
    acked: AtomicU64,
    /// Somebody had the local feed up to here when it came.
    elsewhere: AtomicU64,
}

impl Reading {
    pub(crate) fn new(replica: ReplicaId, view: Option<&View>, place: Seq, asked: bool) -> Arc<Self> {
        let (reads, all) = (view.is_some(), view.is_some_and(View::is_all));
        let (acked, elsewhere) = (place.into(), AtomicU64::new(0));
        Arc::new(Self { replica, reads, all, asked, place, acked, elsewhere })
    }

    pub(crate) fn passed(&self, upto: Seq) {
        self.acked.fetch_max(upto, Ordering::AcqRel);
    }

    /// Whether anything is sent to it.
    pub(crate) const fn reads(&self) -> bool {
        self.reads
    }

    /// What was written here up to this was known elsewhere when the session began.
    pub(crate) fn elsewhere(&self) -> Seq {
        self.elsewhere.load(Ordering::Acquire)
    }

    /// Whether its session lives: it holds the other reference.
    pub(crate) fn is_here(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    fn acked(&self) -> Seq {
        self.acked.load(Ordering::Acquire)
    }
}

/// Somebody in this process who follows the feed and must not miss a deletion.
#[derive(Clone, Debug)]
pub struct FeedReader(Arc<Reading>);

impl FeedReader {
    /// Whether it has followed the feed up to here.
    #[must_use]
    pub fn has_passed(&self, upto: Seq) -> bool {
        self.0.acked() >= upto
    }

    /// It has followed the feed up to here.
    pub fn passed(&self, upto: Seq) {
        self.0.passed(upto);
    }
}

/// How far the readers are whom a tombstone is kept for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slowest {
    /// All of them have the feed up to here.
    At(Seq),
    /// There are none.
    Nobody,
}

impl Store {
    /// A session begins whose source this is. Answers whether its reader may go on from its place: nothing behind that
    /// was dropped that it has not seen.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn meet_reader(&self, source: &Source) -> Result<bool, StoreError> {
        let Some(reader) = source.reader() else { return Ok(true) };
        let elsewhere: Seq = self.read_once(|db| {
            let sql = "SELECT coalesce(max(acked),0) FROM peers
                       WHERE seen_ms IS NOT NULL AND replica NOT IN (SELECT replica FROM views)";
            db.prepare_cached(sql)
                .and_then(|mut ask| ask.query_row([], |row| row.get(0)))
                .map_err(|error| self.sqlite(error))
        })?;
        // Held while tombstones are dropped: this one is either on the list before, or sees what was done.
        let mut readers = self.inner.readers_here.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.reads && !readers.iter().any(|known| Arc::ptr_eq(known, reader)) {
            // Who comes again and again is on the list once.
            let passed =
                |known: &Arc<Reading>| known.replica == reader.replica && known.acked() <= reader.place;
            readers.retain(|known| known.is_here() || !passed(known));
            readers.push(Arc::clone(reader));
        }
        let here = readers.iter().filter(|reader| reader.all).map(|reader| reader.acked()).max();
        reader.elsewhere.store(elsewhere.max(here.unwrap_or(0)), Ordering::Release);
        Ok(reader.place == 0 || reader.place >= self.fence())
    }

    /// Keeps the tombstones behind `place` for somebody who follows the feed from there, until it has passed them or the
    /// answer is dropped.
    #[must_use]
    pub fn follow(&self, place: Seq) -> FeedReader {
        let mut readers = self.inner.readers_here.lock().unwrap_or_else(PoisonError::into_inner);
        let (acked, elsewhere) = (place.into(), AtomicU64::new(0));
        let (replica, reads, all, asked) = (self.replica(), true, false, true);
        let reading = Arc::new(Reading { replica, reads, all, asked, place, acked, elsewhere });
        readers.push(Arc::clone(&reading));
        FeedReader(reading)
    }

    /// Up to where tombstones may be missing in the feed: who stands before that, and not at its start, compares.
    #[must_use]
    pub fn fence(&self) -> Seq {
        self.inner.fence.load(Ordering::Acquire)
    }
}

impl Writer {
    /// Notes how far the readers of the list are, takes those off it that have left, and answers how far the slowest is.
    pub(crate) fn settle_readers(
        &self,
        readers: &mut Vec<Arc<Reading>>,
        now_ms: u64,
        lease_ms: u64,
    ) -> rusqlite::Result<Slowest> {
        let mut note =
            self.db.prepare_cached("UPDATE peers SET acked=max(acked,?), seen_ms=? WHERE replica=?")?;
        for reader in readers.iter() {
            let seen = if reader.asked { clamp(now_ms) } else { FOR_EVER };
            note.execute(params![clamp(reader.acked()), seen, reader.replica.as_bytes().as_slice()])?;
        }
        readers.retain(Reading::is_here);
        let live = readers.iter().map(|reader| reader.acked()).min();
        let since = clamp(now_ms.saturating_sub(lease_ms));
        let away: Option<Seq> = self
            .db
            .prepare_cached("SELECT min(acked) FROM peers WHERE seen_ms>=?")?
            .query_row([since], |row| row.get(0))?;
        Ok(live.into_iter().chain(away).min().map_or(Slowest::Nobody, Slowest::At))
    }
}
