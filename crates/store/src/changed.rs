//! What changed behind a place of the feed, and what it was before: for whoever has to find out which readers a change
//! matters to without asking each of them.

use blazedb_core::blazebinary::RecordView;
use blazedb_core::feed::{PeerNo, Seq};
use blazedb_core::filter::Fields;
use blazedb_sqlite::rusqlite::{Connection, Result as SqlResult, params};

use crate::error::StoreError;
use crate::functions::StoredFields;
use crate::names::NameTable;
use crate::query::clamp;
use crate::row::{ALIVE, StoredRow};
use crate::store::Store;
use crate::views::load_shadows_from;

/// A state that a record has now or had since.
pub struct ChangedState<'a> {
    /// Where the transaction of the record's last change begins in the feed.
    pub seq: Seq,
    /// The peer that brought the state; 0 if it was written here.
    pub origin: PeerNo,
    /// The record's fields; `None` if it was gone.
    pub fields: Option<&'a dyn Fields>,
}

impl Store {
    /// Shows every state that records had behind `after`, the one that they had there included, and answers how far that
    /// is. Answers `None` if more than `limit` records changed, or if it is not known what they were: then it may
    /// matter to everybody.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn changed_behind(
        &self,
        after: Seq,
        limit: usize,
        visit: &mut dyn FnMut(ChangedState<'_>),
    ) -> Result<Option<Seq>, StoreError> {
        // Taken before the snapshot: whatever is not in it lies behind this.
        let head = self.head();
        self.read(|db| {
            let names = self.names();
            if after < self.fence() {
                return Ok(None);
            }
            let looked = look(db, &names, (after, limit), visit).map_err(|error| self.sqlite(error))?;
            Ok(looked.map(|last| last.max(head)))
        })
    }

    /// A reader that stands at `after` passes over what lies before `place` unread, because nothing of it is for it.
    /// Answers where it stands then: at `after`, if stopping there would make more work for others.
    #[must_use]
    pub fn pass_over(&self, after: Seq, place: Seq) -> Seq {
        if place <= after {
            return after;
        }
        let mut reached = crate::store::lock(&self.inner.reached);
        let at_end = place >= self.head();
        if !at_end && !reached.may_stop(place, reached.complete_at(after)) {
            return after;
        }
        reached.passed(after, place, at_end);
        place
    }
}

fn look(
    db: &Connection,
    names: &NameTable,
    (after, limit): (Seq, usize),
    visit: &mut dyn FnMut(ChangedState<'_>),
) -> SqlResult<Option<Seq>> {
    if load_shadows_from(db)? > after {
        return Ok(None);
    }
    let mut list = db.prepare_cached(
        "SELECT seq, id, state, origin, tx, history, body FROM records WHERE seq>? ORDER BY seq LIMIT ?",
    )?;
    let mut former = db.prepare_cached("SELECT origin, body FROM shadows WHERE id=? AND until>?")?;
    let (mut last, mut count) = (after, 0);
    let mut rows = list.query([clamp(after), clamp(limit as u64 + 1)])?;
    while let Some(row) = rows.next()? {
        count += 1;
        if count > limit {
            return Ok(None);
        }
        let row = StoredRow::borrow(row)?;
        last = row.seq;
        let seq = row.seq.saturating_sub(row.tx);
        let mut show = |origin, alive: bool, body: &[u8]| {
            let fields = StoredFields { id: row.id, body: RecordView::parse(body).ok(), names };
            visit(ChangedState { seq, origin, fields: alive.then_some(&fields as &dyn Fields) });
        };
        show(row.origin, row.state == ALIVE, row.body);
        let mut states = former.query(params![row.id.as_bytes().as_slice(), clamp(after)])?;
        while let Some(state) = states.next()? {
            let body = state.get_ref(1)?.as_blob().unwrap_or_default();
            show(state.get(0)?, !body.is_empty(), body);
        }
    }
    Ok(Some(last))
}
