//! What readers with restricted views need: which view each was shown, and what records were before they changed.
//!
//! Invariants:
//! - a view is noted before anything is sent under it, so that what a reader may hold is never forgotten;
//! - from the first restricted view on, a record's former state is kept (a *shadow*) until every reader has passed
//!   the state that replaced it, or has been away for the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_core::blazebinary::varint::{Reader, write_varint};
use blazedb_core::feed::{PeerNo, Seq};
use blazedb_core::limits::{MAX_HELD_VIEWS, TOMBSTONE_LEASE_MS};
use blazedb_core::view::{RemovalReason, View};
use blazedb_core::{RecordId, ReplicaId};
use blazedb_sqlite::rusqlite::{self, Connection, OptionalExtension, params};

use crate::error::StoreError;
use crate::query::clamp;
use crate::row::{ALIVE, StoredRow, removal_reason};
use crate::schema::{meta, set_meta};
use crate::store::{Store, Writer};

/// What happens here to a record that the other side takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Removal {
    /// It goes.
    #[default]
    Remove,
    /// It stays as it is, and is not kept up to date any more.
    Keep,
    /// It goes, and its bytes in the file are overwritten.
    Shred,
}

/// What happens here to records that the other side takes away, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removals {
    /// Those that do not match the policy's filter any more.
    pub left_filter: Removal,
    /// Those that access rules do not show any more.
    pub access_revoked: Removal,
}

impl Removals {
    pub(crate) const fn on(self, reason: RemovalReason) -> Removal {
        match reason {
            RemovalReason::LeftFilter => self.left_filter,
            RemovalReason::AccessRevoked => self.access_revoked,
        }
    }
}

/// What a reader was shown before.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Shown {
    /// The views that it may hold records of; empty if it is the one that it is shown now, or none.
    pub held: Vec<Arc<View>>,
    /// A comparison with it was never finished.
    pub unsettled: bool,
}

/// How far a reader is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passed {
    /// The link that it reads through.
    pub link: Arc<str>,
    /// Its replica.
    pub replica: ReplicaId,
    /// It has the feed up to here.
    pub upto: Seq,
}

/// How many records the other side of a link took away, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TakenAway {
    /// They did not match the policy's filter any more.
    pub left_filter: u64,
    /// Access rules did not show them any more.
    pub access_revoked: u64,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    left_filter: AtomicU64,
    access_revoked: AtomicU64,
}

impl Taken {
    pub(crate) fn count(&self, reason: RemovalReason) {
        let counter = match reason {
            RemovalReason::LeftFilter => &self.left_filter,
            RemovalReason::AccessRevoked => &self.access_revoked,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    /// How many records were taken away since the file was opened.
    #[must_use]
    pub fn taken_away(&self) -> TakenAway {
        let Taken { left_filter, access_revoked } = &self.inner.taken;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TakenAway { left_filter: count(left_filter), access_revoked: count(access_revoked) }
    }

    /// Notes that a reader is shown `view` from now on.
    ///
    /// If it goes on (`resumes`) from where an earlier session ended, it may hold records that other views showed it.
    /// If it starts anew and holds records already (`compares`), nobody knows what it holds until a comparison is
    /// finished ([`Store::shown_only`]).
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn show(
        &self,
        link: &str,
        replica: ReplicaId,
        view: &View,
        resumes: bool,
        compares: bool,
    ) -> Result<Shown, StoreError> {
        let known = self.read(|db| shown(db, link, replica).map_err(|error| self.sqlite(error)))?;
        let (shown, note) = showing(known, view, resumes, compares);
        note.map_or(Ok(()), |views| self.note_views(link, replica, &views))?;
        Ok(shown)
    }

    /// What [`Store::show`] would answer, without noting anything.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn would_show(
        &self,
        link: &str,
        replica: ReplicaId,
        view: &View,
        resumes: bool,
        compares: bool,
    ) -> Result<Shown, StoreError> {
        let known = self.read(|db| shown(db, link, replica).map_err(|error| self.sqlite(error)))?;
        Ok(showing(known, view, resumes, compares).0)
    }

    /// The reader holds what `view` shows and nothing else.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn shown_only(&self, link: &str, replica: ReplicaId, view: &View) -> Result<(), StoreError> {
        self.note_views(link, replica, std::slice::from_ref(view))
    }

    /// The reader has passed the feed up to here, with every cell.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn reader_passed(&self, link: &str, replica: ReplicaId, upto: Seq) -> Result<(), StoreError> {
        self.readers_passed(&[Passed { link: link.into(), replica, upto }])
    }

    /// These readers have passed the feed so far, with every cell.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn readers_passed(&self, readers: &[Passed]) -> Result<(), StoreError> {
        if self.shadows_from() == Seq::MAX {
            return Ok(());
        }
        let now_ms = self.now_ms();
        self.commit(|writer| {
            let sqlite = |error| self.sqlite(error);
            let sql = "UPDATE views SET acked=max(acked,?), seen_ms=? WHERE link=? AND replica=?";
            for Passed { link, replica, upto } in readers {
                let replica = replica.as_bytes().as_slice();
                let values = params![clamp(*upto), clamp(now_ms), &**link, replica];
                writer.db.prepare_cached(sql).and_then(|mut note| note.execute(values)).map_err(sqlite)?;
            }
            // Who has been away for the lease compares everything on its return.
            let gone = clamp(now_ms.saturating_sub(TOMBSTONE_LEASE_MS));
            writer.db.execute("DELETE FROM views WHERE seen_ms<?", [gone]).map_err(sqlite)?;
            let from = writer.settle_shadows().map_err(sqlite)?;
            self.inner.shadows_from.store(from, Ordering::Release);
            Ok(())
        })
    }

    /// Why a record that was here is not any more, if the other side of a link took it away.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn why_removed(&self, id: RecordId) -> Result<Option<RemovalReason>, StoreError> {
        self.read_once(|db| {
            let row = StoredRow::find(db, id).map_err(|error| self.sqlite(error))?;
            Ok(row.and_then(|row| removal_reason(row.state)))
        })
    }

    /// Whether it matters how far readers are, or a record waits to be taken away.
    #[must_use]
    pub fn notes_readers(&self) -> bool {
        self.shadows_from() != Seq::MAX || self.inner.leaving.load(Ordering::Relaxed) > 0
    }

    /// From which sequence on former states are kept; [`Seq::MAX`] if they are not.
    pub(crate) fn shadows_from(&self) -> Seq {
        self.inner.shadows_from.load(Ordering::Acquire)
    }

    fn note_views(&self, link: &str, replica: ReplicaId, views: &[View]) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let from = self.commit(|writer| {
            let sqlite = |error| self.sqlite(error);
            let all = matches!(views, [only] if only.is_all());
            let bytes = replica.as_bytes().as_slice();
            if all {
                writer
                    .db
                    .execute("DELETE FROM views WHERE link=? AND replica=?", params![link, bytes])
                    .map_err(sqlite)?;
            } else {
                let views = encode_views(views);
                let sql = "INSERT INTO views(link, replica, views, acked, seen_ms) VALUES(?,?,?,0,?)
                           ON CONFLICT DO UPDATE SET views=excluded.views, seen_ms=excluded.seen_ms";
                writer.db.execute(sql, params![link, bytes, views, clamp(now_ms)]).map_err(sqlite)?;
            }
            writer.settle_shadows().map_err(sqlite)
        })?;
        self.inner.shadows_from.store(from, Ordering::Release);
        Ok(())
    }
}

/// What a reader was shown, by what is known of it, and what is to be noted now that it is shown `view`.
fn showing(
    known: Option<Vec<View>>,
    view: &View,
    resumes: bool,
    compares: bool,
) -> (Shown, Option<Vec<View>>) {
    let noted = known.is_some();
    let unsettled = resumes && known.as_ref().is_some_and(Vec::is_empty);
    let mut held = known.unwrap_or_else(|| vec![View::all()]);
    if unsettled || (!resumes && compares) {
        // Who sees everything has nothing to give back: the comparison alone will do.
        let everything = if view.is_all() { vec![View::all()] } else { Vec::new() };
        return (Shown { held: Vec::new(), unsettled }, (noted || !view.is_all()).then_some(everything));
    }
    if !resumes {
        held.clear();
    }
    let same = matches!(held.as_slice(), [only] if only.id() == view.id()) || held.is_empty();
    if view.is_all() && same && !noted {
        return (Shown::default(), None);
    }
    let mut noted: Vec<View> = held.clone();
    if noted.iter().all(|old| old.id() != view.id()) {
        noted.push(view.clone());
    }
    if noted.len() > MAX_HELD_VIEWS {
        // Replaced again and again without an end: then it may hold anything or nothing, and compares next time.
        noted.clear();
    }
    let held = if same { Vec::new() } else { held.into_iter().map(Arc::new).collect() };
    (Shown { held, unsettled: false }, Some(noted))
}

impl Writer {
    /// Shadows are kept while somebody reads in a restricted view, as far as some reader may not have passed them.
    /// Answers from where on they are complete.
    fn settle_shadows(&mut self) -> rusqlite::Result<Seq> {
        let passed: Option<Seq> = self.db.query_row("SELECT min(acked) FROM views", [], |row| row.get(0))?;
        let from = match (passed, self.shadows_from) {
            (Some(_), Seq::MAX) => self.next_seq - 1,
            (Some(passed), from) => from.max(passed),
            (None, _) => Seq::MAX,
        };
        if from != self.shadows_from {
            self.db.execute("DELETE FROM shadows WHERE until<=?", [clamp(from)])?;
            set_meta(&self.db, "shadows_from", clamp(from))?;
            self.shadows_from = from;
        }
        Ok(from)
    }
}

/// Keeps the state that a row of the feed has, before it is replaced by the one at `until`. Of a record that is gone
/// only its place is kept, with an empty body: that it was there before may not be forgotten.
pub(crate) fn keep_shadow(
    db: &Connection,
    shadows_from: Seq,
    row: &StoredRow,
    until: Seq,
) -> rusqlite::Result<()> {
    if shadows_from == Seq::MAX || removal_reason(row.state).is_some() {
        return Ok(());
    }
    let body = if row.state == ALIVE { row.body.as_slice() } else { &[] };
    let sql = "INSERT OR REPLACE INTO shadows(id, seq, until, origin, body) VALUES(?,?,?,?,?)";
    let id = row.id.as_bytes().as_slice();
    let (seq, until) = (clamp(row.seq), clamp(until));
    db.prepare_cached(sql)?.execute(params![id, seq, until, row.origin, body]).map(drop)
}

/// Notes that a peer has shown that it holds a record, as of a place in the feed that no row has: what that record is
/// now is then told to it once, whether or not it is shown, or that it is gone.
pub(crate) fn keep_held(
    db: &Connection,
    row: &StoredRow,
    (seq, until): (Seq, Seq),
    peer: PeerNo,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO shadows(id, seq, until, origin, body) VALUES(?,?,?,?,?)";
    let id = row.id.as_bytes().as_slice();
    // Of what was gone here nothing is known but that the peer has it.
    let body = if row.body.is_empty() { &[0] } else { row.body.as_slice() };
    let mut keep = db.prepare_cached(sql)?;
    keep.execute(params![id, clamp(seq), clamp(until), peer, body]).map(drop)
}

/// From where on shadows are complete, as the file says.
pub(crate) fn load_shadows_from(db: &Connection) -> rusqlite::Result<Seq> {
    let from: Option<i64> = meta(db, "shadows_from")?;
    Ok(from.filter(|from| *from != i64::MAX).and_then(|from| Seq::try_from(from).ok()).unwrap_or(Seq::MAX))
}

pub(crate) fn shown(db: &Connection, link: &str, replica: ReplicaId) -> rusqlite::Result<Option<Vec<View>>> {
    let sql = "SELECT views FROM views WHERE link=? AND replica=?";
    let bytes: Option<Vec<u8>> = db
        .prepare_cached(sql)?
        .query_row(params![link, replica.as_bytes().as_slice()], |row| row.get(0))
        .optional()?;
    // What can't be read is taken for everything: then all of it is taken away that is not shown any more.
    Ok(bytes.map(|bytes| decode_views(&bytes).unwrap_or_else(|| vec![View::all()])))
}

fn encode_views(views: &[View]) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(views.len() as u64, &mut out);
    views.iter().for_each(|view| view.encode(&mut out));
    out
}

fn decode_views(bytes: &[u8]) -> Option<Vec<View>> {
    let mut reader = Reader::new(bytes);
    let count = reader.read_varint().ok()?;
    if count as usize > MAX_HELD_VIEWS {
        return None;
    }
    (0..count).map(|_| View::decode(&mut reader).ok()).collect()
}
