//! Views that change as time passes: a filter over `now` means the moment at which it was last bound.
//!
//! While nothing else is to be done, the driver looks whether a record has come into such a view or left it since then. If one
//! has, or the view is [`VIEW_MAX_AGE_MS`] old, the session goes on with the view as it is now; what that changes is
//! worked out as for any other view that is replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb_core::limits::{VIEW_MAX_AGE_MS, VIEW_PAUSE_MS, VIEW_PAUSE_TIMES};
use blazedb_core::session::{Closed, Input};
use blazedb_core::view::View;
use blazedb_core::wire::CloseCode;
use blazedb_core::{ReplicaId, Timestamp};
use blazedb_store::{Store, StoreError};
use tokio::time::Instant as TokioInstant;

use super::{Answer, Driver, failed};
use crate::applier::ApplyError;
use crate::fanout::blocking;
use crate::guard::Rebind;

/// When it is looked again whether a reader has what it was sent, the first time, in milliseconds.
const DRAIN_LOOK_MS: u64 = 50;

/// A view over time, and when it is looked at again.
pub(super) struct Timed {
    bind: Rebind,
    /// As it was bound last, and when.
    view: Arc<View>,
    bound: Instant,
    /// `None` while it is being looked at.
    due: Option<TokioInstant>,
    /// Since when nothing more is sent under it.
    draining: Option<Instant>,
}

impl Timed {
    pub(super) fn new(bind: Rebind, view: &Arc<View>) -> Self {
        let due = Some(TokioInstant::now() + Duration::from_millis(VIEW_PAUSE_MS));
        Self { bind, view: Arc::clone(view), bound: Instant::now(), due, draining: None }
    }

    pub(super) const fn due(&self) -> Option<TokioInstant> {
        self.due
    }
}

/// What came of a look at a view.
pub(super) struct Looked {
    /// As it was before.
    before: Arc<View>,
    /// As it is now, and the views that the reader may hold records of, if it is to go on with that.
    now: Option<(Arc<View>, Vec<Arc<View>>)>,
    took: Duration,
}

impl Driver {
    /// Looks whether time has changed what the view shows, if it is time to.
    pub(super) fn look_at_time(&mut self, now: TokioInstant) {
        let may = self.session.may_rebind();
        let (Some(timed), Some(source)) = (&mut self.timed, &self.source) else { return };
        if timed.due.is_none_or(|due| due > now) {
            return;
        }
        if !may {
            timed.due = Some(now + Duration::from_millis(VIEW_PAUSE_MS));
            return self.let_go_of_time();
        }
        timed.due = None;
        let old = timed.bound.elapsed() >= Duration::from_millis(VIEW_MAX_AGE_MS);
        let (bind, before) = (timed.bind.clone(), Arc::clone(&timed.view));
        let (store, link, replica) =
            (self.context.database.store().clone(), Arc::clone(&source.link), source.replica);
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let looked = blocking(move || look(&store, (&link, replica), &bind, before, old)).await;
            let answer = match looked {
                Ok(looked) => Answer::Looked(Box::new(looked)),
                Err(error) => failed(&ApplyError::from(&error)),
            };
            let _ = answers.send(answer);
        });
    }

    /// A client has more than enough time to take what it was sent. One that holds back an acknowledgement would go on to
    /// be shown what was visible long ago.
    fn let_go_of_time(&mut self) {
        let max_age = Duration::from_millis(VIEW_MAX_AGE_MS);
        let serves = self.removals.is_none();
        let Some(timed) = self.timed.as_mut().filter(|timed| serves && timed.bound.elapsed() >= max_age)
        else {
            return;
        };
        if !self.session.drain(true) {
            timed.draining = None;
            return;
        }
        // As a rule that takes no longer than an answer takes to come.
        if timed.draining.is_none() {
            timed.due = Some(TokioInstant::now() + Duration::from_millis(DRAIN_LOOK_MS));
        }
        if timed.draining.get_or_insert_with(Instant::now).elapsed() >= max_age {
            let reason = "what is shown depends on the time, and the other side has not taken for too long what it was sent";
            self.closed = Some(Closed::Here(CloseCode::GoingAway, reason.to_owned()));
        }
    }

    pub(super) fn on_looked(&mut self, looked: Looked) {
        let Some(timed) = self.timed.as_mut().filter(|timed| timed.view.id() == looked.before.id()) else {
            return;
        };
        let pause = (looked.took * VIEW_PAUSE_TIMES).max(Duration::from_millis(VIEW_PAUSE_MS));
        timed.due = Some(TokioInstant::now() + pause.min(Duration::from_millis(VIEW_MAX_AGE_MS)));
        timed.draining = None;
        let Some((view, held)) = looked.now.filter(|_| self.session.may_rebind()) else {
            self.session.drain(false);
            return;
        };
        timed.bound = Instant::now();
        timed.view = Arc::clone(&view);
        if self.removals.is_some() {
            self.release = self.release.take().map(|_| Arc::clone(&view));
        } else {
            self.context.report.shows(&view);
            // Refusals show no more either.
            self.shown = Some(Arc::clone(&view));
        }
        self.feed(Input::Rebind(view, held));
    }
}

fn look(
    store: &Store,
    (link, replica): (&str, ReplicaId),
    bind: &Rebind,
    before: Arc<View>,
    old: bool,
) -> Result<Looked, StoreError> {
    let started = Instant::now();
    let view = bind.at(Timestamp::from_millis(store.now_ms())).filter(|view| view.id() != before.id());
    let now = match view {
        Some(view) if old || store.view_differs(&before, &view)? => {
            let held = store.show(link, replica, &view, true, false)?.held;
            Some((Arc::new(view), held))
        }
        _ => None,
    };
    Ok(Looked { before, now, took: started.elapsed() })
}
