//! Which sessions a change of a database concerns: those whose views it can touch are woken, the others are not.
//!
//! Sessions that show their peer a restricted view stand here with it. One task per database looks at every change once,
//! asks an index of the views ([`ViewIndex`]) who may be concerned by what the record was and what it is, and wakes
//! those. A session that is woken passes over what does not concern it without reading it. So what a change costs depends
//! on how many it concerns, not on how many there are.
//!
//! Invariants: whoever may be shown something of a change, or lose something by it, is woken for it, and reads it; what a
//! session passes over unread holds nothing for it. Whoever is not concerned learns where it stands within
//! [`VIEW_SWEEP_MS`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use blazedb_core::feed::{PeerNo, Seq};
use blazedb_core::limits::{MAX_JUDGED, VIEW_SWEEP_MS};
use blazedb_core::view::index::{Reader, ViewIndex};
use blazedb_core::view::{View, ViewId};
use blazedb_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::database::Inner;
use crate::fanout::{SHORT_STRETCH, blocking};

/// The sessions of one database that show restricted views.
#[derive(Clone, Default)]
pub(crate) struct WakeList {
    inner: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    index: ViewIndex,
    standing: HashMap<Reader, Standing>,
    by_peer: HashMap<PeerNo, BTreeSet<Reader>>,
    /// Every change up to here was looked at.
    judged: Seq,
    next: Reader,
    /// There is a task that looks at changes.
    watched: bool,
}

/// A session and what it has to read.
struct Standing {
    peer: PeerNo,
    /// Where it stood when it came.
    from: Seq,
    /// The first and the last place that may concern it and that it has not read.
    touched: Option<(Seq, Seq)>,
    wake: watch::Sender<Seq>,
}

/// A session's place in the list; given up when it is dropped.
pub(crate) struct Place {
    list: WakeList,
    reader: Reader,
    view: ViewId,
    woken: watch::Receiver<Seq>,
}

impl WakeList {
    /// A place for a session that stands at `after` and shows its peer `view`. It is woken at once.
    pub(crate) fn enter(&self, database: &Arc<Inner>, view: &View, peer: PeerNo, after: Seq) -> Place {
        let head = database.store.head();
        let (wake, mut woken) = watch::channel(head);
        woken.mark_changed();
        let mut state = self.state();
        if !state.watched {
            state.watched = true;
            state.judged = head;
            tokio::spawn(look_after(Arc::downgrade(database), database.head.subscribe()));
        }
        state.next += 1;
        let reader = state.next;
        // What was judged before it came was not judged for it.
        let judged = state.judged;
        let touched = (after < judged).then_some((after + 1, judged));
        state.index.insert(reader, view);
        state.by_peer.entry(peer).or_default().insert(reader);
        state.standing.insert(reader, Standing { peer, from: after, touched, wake });
        Place { list: self.clone(), reader, view: view.id(), woken }
    }

    /// Looks at the changes up to the end of the feed and wakes whom they concern.
    fn judge(&self, store: &Store) -> Result<(), StoreError> {
        let mut state = self.state();
        let (mut by_state, mut by_peer) = (BTreeSet::new(), BTreeSet::new());
        let mut touched: Vec<(Reader, Seq)> = Vec::new();
        let before = state.judged;
        let looked = store.changed_behind(before, MAX_JUDGED, &mut |change| {
            if let Some(fields) = change.fields {
                state.index.find(fields, &mut by_state);
            }
            if change.origin != 0 {
                by_peer.extend(state.by_peer.get(&change.origin).into_iter().flatten());
            }
            touched.extend(by_state.iter().chain(&by_peer).map(|reader| (*reader, change.seq)));
            by_state.clear();
            by_peer.clear();
        })?;
        match looked {
            Some(upto) => {
                state.judged = upto.max(before);
                touched.into_iter().for_each(|(reader, seq)| state.touch(reader, seq, upto));
            }
            None => state.touch_all(store.head().max(before)),
        }
        Ok(())
    }

    /// Everything up to `upto` that was not looked at may concern everybody.
    fn wake_all(&self, upto: Seq) {
        self.state().touch_all(upto);
    }

    /// Wakes everybody: whoever was not concerned for a while learns where it stands.
    fn sweep(&self) {
        let state = self.state();
        let judged = state.judged;
        state.standing.values().for_each(|standing| standing.wake(judged));
    }

    fn is_behind(&self, head: Seq) -> bool {
        self.state().judged < head
    }

    /// Ends the task if nobody stands here any more.
    fn rest(&self) -> bool {
        let mut state = self.state();
        state.watched = !state.standing.is_empty();
        !state.watched
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A change at `seq` may concern a session, which is woken to read up to `upto`.
    fn touch(&mut self, reader: Reader, seq: Seq, upto: Seq) {
        if let Some(standing) = self.standing.get_mut(&reader) {
            let first = standing.touched.map_or(seq, |(first, _)| first.min(seq));
            standing.touched = Some((first, upto));
            standing.wake(upto);
        }
    }
}

impl State {
    fn touch_all(&mut self, upto: Seq) {
        let before = std::mem::replace(&mut self.judged, upto);
        let all: Vec<Reader> = self.standing.keys().copied().collect();
        all.into_iter().for_each(|reader| self.touch(reader, before + 1, upto));
    }
}

impl Standing {
    fn wake(&self, upto: Seq) {
        self.wake.send_replace(upto);
    }
}

impl Place {
    /// Whether the session stands here with this view.
    pub(crate) fn shows(&self, view: &View) -> bool {
        self.view == view.id()
    }

    /// The end of the feed, when something in it may concern the session. May be dropped while it waits.
    pub(crate) async fn woken(&mut self) -> Seq {
        match self.woken.changed().await {
            Ok(()) => *self.woken.borrow_and_update(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Up to where nothing concerns the session, which stands at `after`.
    pub(crate) fn clear_upto(&self, after: Seq) -> Seq {
        let mut state = self.list.state();
        let judged = state.judged;
        let Some(standing) = state.standing.get_mut(&self.reader).filter(|one| one.from <= after) else {
            return after;
        };
        standing.touched = standing.touched.filter(|(_, last)| *last > after);
        let clear = match &mut standing.touched {
            Some((first, _)) => {
                *first = (*first).max(after + 1);
                *first - 1
            }
            None => judged,
        };
        clear.max(after)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.list.state();
        state.index.remove(self.reader);
        if let Some(Standing { peer, .. }) = state.standing.remove(&self.reader)
            && let Some(readers) = state.by_peer.get_mut(&peer)
        {
            readers.remove(&self.reader);
            if readers.is_empty() {
                state.by_peer.remove(&peer);
            }
        }
    }
}

/// Tells when a change may concern a view. See [`Database::watch_view`](crate::Database::watch_view).
pub struct ViewWatch(Place);

impl ViewWatch {
    pub(crate) const fn new(place: Place) -> Self {
        Self(place)
    }

    /// The end of the feed, when something in it may concern the view; at first, the end as it was. May be dropped while
    /// it waits.
    pub async fn changed(&mut self) -> Seq {
        self.0.woken().await
    }
}

/// The end of the feed, once it is further away: for a session with a place, when that concerns it. May be dropped while
/// it waits.
pub(crate) async fn advanced(head: &mut watch::Receiver<Seq>, place: &mut Option<Place>) -> Seq {
    if let Some(place) = place {
        return place.woken().await;
    }
    match head.changed().await {
        Ok(()) => *head.borrow_and_update(),
        Err(_) => std::future::pending().await,
    }
}

/// Looks at changes as they come, until nobody wants to know any more.
async fn look_after(database: Weak<Inner>, mut head: watch::Receiver<Seq>) {
    let mut sweep_at = None;
    loop {
        let due = sweep_at.unwrap_or_else(Instant::now);
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return },
            () = sleep_until(due), if sweep_at.is_some() => {}
        }
        let Some(inner) = database.upgrade() else { return };
        let (wakes, end) = (inner.wakes.clone(), *head.borrow_and_update());
        if wakes.rest() {
            return;
        }
        if wakes.is_behind(end) {
            if let Err(error) = judge(&inner, end).await {
                tracing::warn!(%error, "which sessions a change concerns is not known: all are woken");
                wakes.wake_all(end);
            }
            sweep_at.get_or_insert_with(|| Instant::now() + Duration::from_millis(VIEW_SWEEP_MS));
        }
        if sweep_at.is_some_and(|at| at <= Instant::now()) {
            sweep_at = None;
            wakes.sweep();
        }
    }
}

/// A few changes are looked at here; handing them to another thread would take longer.
async fn judge(inner: &Arc<Inner>, end: Seq) -> Result<(), StoreError> {
    let (wakes, store) = (inner.wakes.clone(), inner.store.clone());
    if end.saturating_sub(wakes.state().judged) <= SHORT_STRETCH {
        return wakes.judge(&store);
    }
    blocking(move || wakes.judge(&store)).await
}

#[cfg(test)]
mod tests;
