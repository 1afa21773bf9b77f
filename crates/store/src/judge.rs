//! What a row of the feed means to one reader: nothing, a change, an arrival or a departure.
//!
//! The reader stands at a sequence. What it holds of a record is what its view showed of the state that the record had
//! there; former states are kept as *shadows* (see [`crate::views`]) as long as some reader with a restricted view
//! may stand before the state that replaced them. So nobody has to remember who holds what.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blazedb_core::blazebinary::{FieldNo, RecordView};
use blazedb_core::feed::{Audience, PeerNo, Seq};
use blazedb_core::view::{Held, Lens, RemovalReason, Side, View};
use blazedb_core::{RecordId, Stamp};
use blazedb_sqlite::rusqlite::{Connection, params};

use crate::error::StoreError;
use crate::functions::StoredFields;
use crate::names::NameTable;
use crate::query::clamp;
use crate::row::{ALIVE, StoredRow, removal_reason};
use crate::store::Store;

/// What a row means to a reader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Nothing.
    Nothing,
    /// The cells that the reader does not have.
    Delta(Audience),
    /// The record as it is, as far as the view shows its fields.
    Whole(Audience),
    /// The record is to be taken from the reader.
    Removal(RemovalReason, Audience),
    /// The record is to be taken from these peers, which brought it.
    RemovalFrom(RemovalReason, Vec<PeerNo>),
    /// The record is gone, and these peers brought it.
    GoneFor(Vec<PeerNo>),
}

/// Judges rows for the readers with one lens at one place.
pub(crate) struct Judge<'a> {
    store: &'a Store,
    db: &'a Connection,
    names: &'a NameTable,
    lens: &'a Lens,
    /// The readers have passed the feed up to here,
    after: Seq,
    /// and have every cell up to here.
    known: Seq,
    /// Shadows are complete from here on.
    shadows_from: Seq,
    /// Everybody sees everything, and always did.
    open: bool,
    hidden: HashSet<FieldNo>,
}

/// A state that a record had from `seq` until `until`.
struct Shadow<'a> {
    seq: Seq,
    until: Seq,
    /// Who brought it.
    origin: PeerNo,
    body: &'a [u8],
}

/// What readers hold of a record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Earlier {
    /// They may hold it.
    maybe: bool,
    /// They hold it, with every cell up to where they have all cells.
    surely: bool,
    /// These brought it after they read up to where they stand, and hold it too.
    brought_by: Vec<PeerNo>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        store: &'a Store,
        db: &'a Connection,
        names: &'a NameTable,
        lens: &'a Lens,
        (after, known): (Seq, Seq),
    ) -> Self {
        let hidden = lens.view.excluded().filter_map(|name| names.field_no(name)).collect();
        let open = lens.view.is_all() && lens.held == Held::Same;
        let shadows_from = store.shadows_from();
        Self { store, db, names, lens, after, known, shadows_from, open, hidden }
    }

    /// The fields that the view leaves out.
    pub(crate) const fn hidden(&self) -> &HashSet<FieldNo> {
        &self.hidden
    }

    pub(crate) fn judge(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<Verdict, StoreError> {
        if let Some(reason) = removal_reason(row.state) {
            return self.removed(row, reason);
        }
        if self.open {
            return Ok(Verdict::Delta(Audience::AllBut(row.origin)));
        }
        match (&self.lens.held, row.state == ALIVE) {
            (Held::Same, true) => self.alive(row),
            (Held::Same, false) => self.gone(row),
            (Held::Under { views, upto }, true) => self.alive_for_new_view(row, views, *upto),
            // Who delivers tells of every deletion since: it may hold the record from a time when it was shown.
            (Held::Under { upto, .. }, false) if row.seq > *upto && self.lens.side == Side::Deliver => {
                Ok(whole(row))
            }
            (Held::Under { views, upto }, false) if row.seq > *upto => {
                let maybe = self.held_since(row, *upto, views)?;
                Ok(if maybe { whole(row) } else { Verdict::Nothing })
            }
            (Held::Under { views, .. }, false) => Ok(self.gone_before(row, views)),
        }
    }

    /// A record as it is now, for a reader that asks for it. What waits to leave is told whether or not it is shown.
    pub(crate) fn on_request(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<Verdict, StoreError> {
        let shown = match removal_reason(row.state) {
            Some(_) => false,
            None if row.state == ALIVE => {
                self.why_not(&self.lens.view, row.id, row.body.as_ref()).is_none()
                    || (self.lens.side == Side::Deliver && self.is_leaving(row.id)?)
            }
            None => true,
        };
        Ok(if shown { Verdict::Whole(Audience::Everybody) } else { Verdict::Nothing })
    }

    /// What a reader must be told that holds a record, born then, which it may not be shown any more.
    pub(crate) fn on_held(
        &self,
        row: &StoredRow<impl AsRef<[u8]>>,
        born: Stamp,
    ) -> Result<Verdict, StoreError> {
        let life = row.head(self.names)?.life;
        let proven = life.born == Some(born) || life.dead.is_some_and(|dead| dead.stamp >= born);
        Ok(match (proven, row.state) {
            (true, ALIVE) => {
                self.why_not(&self.lens.view, row.id, row.body.as_ref()).map_or(Verdict::Nothing, removal)
            }
            (true, _) if life.dead.is_some() => Verdict::Whole(Audience::Everybody),
            _ => Verdict::Nothing,
        })
    }

    /// The record was taken from this replica. Whoever reads here loses it too; whoever is delivered to is not told.
    fn removed(
        &self,
        row: &StoredRow<impl AsRef<[u8]>>,
        reason: RemovalReason,
    ) -> Result<Verdict, StoreError> {
        let told = match (&self.lens.held, self.lens.side) {
            (_, Side::Deliver) => false,
            (Held::Same, _) if self.open => true,
            (Held::Same, _) => self.earlier(row)?.maybe,
            (Held::Under { views, upto }, _) => row.seq > *upto && self.held_since(row, *upto, views)?,
        };
        Ok(if told { Verdict::Removal(reason, Audience::AllBut(row.origin)) } else { Verdict::Nothing })
    }

    fn alive(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<Verdict, StoreError> {
        let why_not = self.why_not(&self.lens.view, row.id, row.body.as_ref());
        let earlier = self.earlier(row)?;
        let all_but = Audience::AllBut(row.origin);
        Ok(match (why_not, self.lens.side) {
            (None, _) if earlier.surely && self.moved_by_hidden(row)? => Verdict::Nothing,
            (None, _) if earlier.surely => Verdict::Delta(all_but),
            // Who brought the last change need not hold the rest, unless it brought all there is.
            (None, _) if row.head(self.names)?.uniform => Verdict::Whole(all_but),
            (None, _) => Verdict::Whole(Audience::Everybody),
            (Some(_), Side::Deliver) if earlier.surely => Verdict::Delta(all_but),
            (Some(_), Side::Deliver) if earlier.maybe || !earlier.brought_by.is_empty() => {
                Verdict::Whole(all_but)
            }
            (Some(_), Side::Deliver) if self.is_leaving(row.id)? => Verdict::Whole(all_but),
            (Some(reason), Side::Serve) if earlier.maybe => Verdict::Removal(reason, Audience::Everybody),
            // Who brought it holds it, and is not shown it.
            (Some(reason), Side::Serve) => {
                let peers = earlier.brought_by.into_iter().chain((row.origin != 0).then_some(row.origin));
                Verdict::RemovalFrom(reason, peers.collect())
            }
            (Some(_), _) => Verdict::Nothing,
        })
    }

    /// Deleted, or updates of what has not arrived.
    fn gone(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<Verdict, StoreError> {
        let earlier = self.earlier(row)?;
        let deliver = self.lens.side == Side::Deliver && !earlier.brought_by.is_empty();
        let leaves = self.lens.side == Side::Deliver && self.is_leaving(row.id)?;
        let gave = self.may_have_given(row)?;
        Ok(if earlier.maybe || deliver || leaves || gave || self.is_unborn_push(row)? {
            whole(row)
        } else {
            Verdict::GoneFor(earlier.brought_by)
        })
    }

    /// Whether a record was deleted here before former states were kept, and can have come from nobody but the one that
    /// is delivered to.
    fn may_have_given(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<bool, StoreError> {
        let unknown = self.shadows_from != Seq::MAX && row.seq <= self.shadows_from;
        if self.lens.side == Side::Serve || !unknown {
            return Ok(false);
        }
        let born = row.head(self.names)?.life.born;
        Ok(born.is_some_and(|born| !self.store.wrote(born.writer)) && self.is_only_reader()?)
    }

    fn is_unborn_push(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<bool, StoreError> {
        Ok(self.lens.side == Side::Deliver && row.head(self.names)?.life.dead.is_none())
    }

    /// It was deleted while the reader had another view. Nothing tells whether that showed it: who delivers repeats
    /// it, and so does who shows everything from now on, unless everything was shown before.
    fn gone_before(&self, row: &StoredRow<impl AsRef<[u8]>>, views: &[Arc<View>]) -> Verdict {
        let told = views.iter().all(|view| view.is_all());
        let tells = self.lens.side == Side::Deliver || self.lens.view.is_all();
        if tells && !told { whole(row) } else { Verdict::Nothing }
    }

    /// The reader's view was replaced.
    fn alive_for_new_view(
        &self,
        row: &StoredRow<impl AsRef<[u8]>>,
        views: &[Arc<View>],
        upto: Seq,
    ) -> Result<Verdict, StoreError> {
        let why_not = self.why_not(&self.lens.view, row.id, row.body.as_ref());
        let shown = |view: &Arc<View>| self.why_not(view, row.id, row.body.as_ref()).is_none();
        let (maybe, surely) = if row.seq <= upto {
            (views.iter().any(shown), views.iter().all(shown))
        } else {
            // What it is now may have been sent under one of these views, and not been acknowledged.
            let sent = self.lens.side == Side::Serve && views.iter().any(shown);
            (sent || self.held_since(row, upto, views)?, false)
        };
        let fields = views.iter().all(|old| old.shows_fields_of(&self.lens.view));
        Ok(match (why_not, self.lens.side) {
            (None, _) if surely && fields => Verdict::Nothing,
            // It came while the view was being replaced: who brought all of it has it, and nothing is taken from there.
            (None, Side::Deliver) if row.seq > upto && row.head(self.names)?.uniform => whole(row),
            (None, _) => Verdict::Whole(Audience::Everybody),
            (Some(_), Side::Deliver) if maybe && row.seq > upto => whole(row),
            (Some(_), Side::Deliver) if self.is_leaving(row.id)? => whole(row),
            (Some(reason), Side::Serve) if maybe => Verdict::Removal(reason, Audience::Everybody),
            (Some(reason), Side::Serve) if row.origin != 0 => {
                Verdict::Removal(reason, Audience::Only(row.origin))
            }
            (Some(_), _) => Verdict::Nothing,
        })
    }

    /// Whether the other side has taken the record away, and it waits here until that side has its last edits.
    fn is_leaving(&self, id: RecordId) -> Result<bool, StoreError> {
        if self.store.inner.leaving.load(Ordering::Relaxed) == 0 {
            return Ok(false);
        }
        let find = self.db.prepare_cached("SELECT 1 FROM leaving WHERE id=? LIMIT 1");
        let found = find.and_then(|mut find| find.exists([id.as_bytes().as_slice()]));
        found.map_err(|error| self.store.sqlite(error))
    }

    /// What the readers hold of a record that changed behind where they stand.
    fn earlier(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<Earlier, StoreError> {
        let (mut earlier, mut left) = (Earlier::default(), false);
        self.each_shadow(row.id, self.known, |Shadow { seq, until, origin, body }| {
            if seq > self.after {
                earlier.brought_by.extend((origin != 0 && !body.is_empty()).then_some(origin));
            } else if !body.is_empty() && self.why_not(&self.lens.view, row.id, body).is_none() {
                earlier.maybe = true;
                earlier.surely |= seq <= self.known && self.known < until;
            } else {
                // It was gone, or not shown: whoever came by then has lost it.
                left = true;
            }
        })?;
        earlier.surely &= !left;
        Ok(earlier)
    }

    /// Whether any of these views, or the reader's own, showed the record at some time since the reader stood at
    /// `upto`. Of what was sent since then nobody knows whether it has arrived: for a removal that it may have is enough,
    /// for telling of what is not shown it must have been there before, whichever of the views that was earned under.
    fn held_since(
        &self,
        row: &StoredRow<impl AsRef<[u8]>>,
        upto: Seq,
        views: &[Arc<View>],
    ) -> Result<bool, StoreError> {
        let (mut held, mut earliest) = (false, row.seq);
        let brought = self.lens.side == Side::Serve || self.is_only_reader()?;
        self.each_shadow(
            row.id,
            self.store.known_at(upto).min(upto),
            |Shadow { seq, origin, body, .. }| {
                earliest = earliest.min(seq);
                let alive = !body.is_empty();
                held |= alive && origin != 0 && brought;
                let shown = |view: &Arc<View>| self.why_not(view, row.id, body).is_none();
                held |= alive
                    && match self.lens.side {
                        Side::Serve => views.iter().chain([&self.lens.view]).any(shown),
                        Side::Deliver => seq <= upto && views.iter().all(shown),
                    };
            },
        )?;
        // It changed before former states were kept: what it was before that, nobody knows.
        let unknown = upto < earliest && earliest <= self.shadows_from && self.shadows_from != Seq::MAX;
        Ok(held || (unknown && self.may_be_held(row, upto, views)?))
    }

    /// Whether a reader that stood at `upto` may hold a record of which nothing but its present state is known. To be
    /// taken away, a doubt is enough. To be told of what it is not shown it must have had it: an older cell proves
    /// that if everything was shown then, or that somebody else wrote it and nobody but the reader can have brought it.
    fn may_be_held(
        &self,
        row: &StoredRow<impl AsRef<[u8]>>,
        upto: Seq,
        views: &[Arc<View>],
    ) -> Result<bool, StoreError> {
        if self.lens.side == Side::Serve || row.state != ALIVE {
            return Ok(true);
        }
        let state = row.decode(self.names)?;
        let older =
            views.iter().any(|view| view.is_all()) && state.cells.iter().any(|(_, cell)| cell.seq <= upto);
        let foreign = state.life.born.is_some_and(|born| !self.store.wrote(born.writer));
        Ok(older || (foreign && self.is_only_reader()?))
    }

    /// Whether this replica has met no other than the reader, so that whatever was brought here came from it.
    fn is_only_reader(&self) -> Result<bool, StoreError> {
        let count = self.db.prepare_cached("SELECT count(*) FROM peers");
        let peers: u64 = count
            .and_then(|mut count| count.query_row([], |row| row.get(0)))
            .map_err(|error| self.store.sqlite(error))?;
        Ok(peers <= 1)
    }

    /// Calls `visit` with the former states that a record had since a sequence.
    fn each_shadow(
        &self,
        id: RecordId,
        since: Seq,
        mut visit: impl FnMut(Shadow<'_>),
    ) -> Result<(), StoreError> {
        if self.shadows_from == Seq::MAX {
            return Ok(());
        }
        let sqlite = |error| self.store.sqlite(error);
        let sql = "SELECT seq, until, origin, body FROM shadows WHERE id=? AND until>?";
        let mut statement = self.db.prepare_cached(sql).map_err(sqlite)?;
        let id = id.as_bytes().as_slice();
        let mut rows = statement.query(params![id, clamp(since)]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let (seq, until) = (row.get(0).map_err(sqlite)?, row.get(1).map_err(sqlite)?);
            let origin = row.get(2).map_err(sqlite)?;
            let body = row.get_ref(3).map_err(sqlite)?.as_blob().unwrap_or_default();
            visit(Shadow { seq, until, origin, body });
        }
        Ok(())
    }

    /// The stretches of the feed in which a record had a former state that the view shows.
    pub(crate) fn shown_before(&self, id: RecordId) -> Result<Vec<(Seq, Seq)>, StoreError> {
        let mut shown = Vec::new();
        self.each_shadow(id, 0, |Shadow { seq, until, body, .. }| {
            if !body.is_empty() && self.why_not(&self.lens.view, id, body).is_none() {
                shown.push((seq, until));
            }
        })?;
        Ok(shown)
    }

    /// Whether only fields that the view leaves out have changed.
    fn moved_by_hidden(&self, row: &StoredRow<impl AsRef<[u8]>>) -> Result<bool, StoreError> {
        if self.hidden.is_empty() {
            return Ok(false);
        }
        let state = row.decode(self.names)?;
        let mut new = state.cells.iter().filter(|(_, cell)| cell.seq > self.known).peekable();
        Ok(new.peek().is_some() && new.all(|(field, _)| self.hidden.contains(field)))
    }

    fn why_not(&self, view: &View, id: RecordId, body: &[u8]) -> Option<RemovalReason> {
        view.why_not(&StoredFields { id, body: RecordView::parse(body).ok(), names: self.names })
    }
}

impl Store {
    /// Whether there is a record that one of two views has and the other has not.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn view_differs(&self, one: &View, other: &View) -> Result<bool, StoreError> {
        self.read(|db| {
            let sqlite = |error| self.sqlite(error);
            let names = self.names();
            let sql = "SELECT id, body FROM records WHERE state=?";
            let mut statement = db.prepare_cached(sql).map_err(sqlite)?;
            let mut rows = statement.query([ALIVE]).map_err(sqlite)?;
            while let Some(row) = rows.next().map_err(sqlite)? {
                let id = RecordId::from_bytes(row.get(0).map_err(sqlite)?);
                let body = row.get_ref(1).map_err(sqlite)?.as_blob().unwrap_or_default();
                let fields = StoredFields { id, body: RecordView::parse(body).ok(), names: &names };
                if one.matches(&fields) != other.matches(&fields) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

fn whole(row: &StoredRow<impl AsRef<[u8]>>) -> Verdict {
    Verdict::Whole(Audience::AllBut(row.origin))
}

const fn removal(reason: RemovalReason) -> Verdict {
    Verdict::Removal(reason, Audience::Everybody)
}
