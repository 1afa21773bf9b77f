//! What a session asks of its node and its store, and what they answer.

use std::future::Future;
use std::mem::take;
use std::sync::Arc;

use blazedb_core::authority::Standing;
use blazedb_core::feed::{FeedBatch, Incoming, PeerNo, Seq};
use blazedb_core::limits::VIEW_CLIENT_LAG_MS;
use blazedb_core::session::{Input, LocalReplica, Opened, PeerQuery, PeerReplica};
use blazedb_core::view::{Held, Lens, Side, View, ViewRequest};
use blazedb_core::wire::{Hello, Token};
use blazedb_core::{Filter, Timestamp};
use blazedb_store::{Applied, Shown, Source, Store, StoreError};

use super::rebind::Timed;
use super::{Answer, Asked, ClientAsk, Driver, failed};
use crate::applier::ApplyError;
use crate::database::Database;
use crate::fanout::blocking;
use crate::guard::{Rebind, Verdict};
use crate::meeting::Arrival;
use crate::passed::PassedList;

impl Driver {
    /// Has the store take note of something; the session ends if it can't.
    pub(super) fn note(&self, work: impl FnOnce(&Store, &Source) -> Result<(), StoreError> + Send + 'static) {
        let Some(source) = self.source.clone() else { return };
        let (store, answers) = (self.context.database.store().clone(), self.answers.clone());
        tokio::spawn(async move {
            if let Err(error) = blocking(move || work(&store, &source)).await {
                let _ = answers.send(failed(&ApplyError::from(&error)));
            }
        });
    }

    pub(super) fn read(&mut self, after: Seq, max_bytes: usize, lens: &Arc<Lens>) {
        let database = self.context.database.clone();
        let peer = self.source.as_ref().map_or(0, |source| source.peer_no);
        let store = database.store();
        let after = match self.behind_unconcerning(store.behind_own(after, peer, lens), peer, lens) {
            // Nothing that is for the peer: its place moves on, and nothing is read.
            place if place > after && place >= store.head() => {
                return self.feed(Input::Feed(Arc::new(FeedBatch::empty(after, place))));
            }
            place => place,
        };
        if self.source.as_ref().is_some_and(Source::is_child) {
            return self.read_with_refusals(database, after, max_bytes, Arc::clone(lens));
        }
        match database.inner.feeds.at_hand(after, max_bytes, lens) {
            Some(Ok(batch)) => self.feed(Input::Feed(batch)),
            Some(Err(error)) => drop(self.answers.send(failed(&ApplyError::from(&error)))),
            None => {
                let lens = Arc::clone(lens);
                self.answer(
                    async move { database.inner.feeds.get(after, max_bytes, &lens).await },
                    Input::Feed,
                );
            }
        }
    }

    /// Reads the feed for a client that this node decides about. A decision in it must not overtake the refusal that it
    /// was committed with: if there is one, the session hears of that first, and reads again.
    fn read_with_refusals(&self, database: Database, after: Seq, max_bytes: usize, lens: Arc<Lens>) {
        let (peer, told) = (self.source.as_ref().map_or(0, |source| source.peer_no), self.refusals_told);
        let answers = self.answers.clone();
        let work = async move {
            let batch = database.inner.feeds.get(after, max_bytes, &lens).await?;
            let store = database.store().clone();
            if blocking(move || store.has_refusals_behind(peer, told)).await? {
                let _ = answers.send(Answer::Input(Box::new(Input::RefusalsDue)));
            }
            Ok(batch)
        };
        self.answer(work, Input::Feed);
    }

    /// Where the session, which stands at `after`, may go on reading: what lies before that does not concern its view. A
    /// session that shows a restricted view and is where its peer is has a place in the list of those who are woken
    /// for what concerns them.
    fn behind_unconcerning(&mut self, after: Seq, peer: PeerNo, lens: &Lens) -> Seq {
        if lens.side != Side::Serve || lens.held != Held::Same || lens.view.is_all() {
            self.place = None;
            return after;
        }
        let inner = &self.context.database.inner;
        if self.place.as_ref().is_none_or(|place| !place.shows(&lens.view)) {
            self.place = Some(inner.wakes.enter(inner, &lens.view, peer, after));
        }
        let clear = self.place.as_ref().map_or(after, |place| place.clear_upto(after));
        inner.store.pass_over(after, clear)
    }

    pub(super) fn decide(&mut self, hello: Hello) {
        let Some(admit) = &self.admit else { return };
        let (decision, answers) = (admit(hello), self.answers.clone());
        let report = Arc::clone(&self.context.report);
        tokio::spawn(async move {
            let decided = decision.await.inspect(|admitted| report.shows(&admitted.admission.view));
            let _ = answers.send(Answer::Admitted(Box::new(decided)));
        });
    }

    pub(super) fn renew(&mut self, token: Token) {
        let Some(renew) = &self.renew else { return self.feed(Verdict::Stays.into()) };
        let (decision, answers) = (renew(token), self.answers.clone());
        tokio::spawn(async move {
            let _ = answers.send(Answer::Input(Box::new(decision.await.into())));
        });
    }

    /// Asks for something else on the open session.
    pub(super) fn ask_anew(&mut self, ask: ClientAsk) {
        self.asks += 1;
        self.removals = Some(ask.removals);
        // Until the other side knows of it, nothing goes.
        self.release = None;
        let (release, stranger) = (ask.release, ask.stranger);
        let (database, link) = (self.context.database.clone(), Arc::clone(&self.context.link));
        let (number, answers) = (self.asks, self.answers.clone());
        tokio::spawn(async move {
            let answer = match blocking(move || introduce(&database, &link, ask)).await {
                Ok((local, timed)) => {
                    Answer::Ask(Box::new(Asked { number, local, timed, release, stranger }))
                }
                Err(error) => failed(&ApplyError::from(&error)),
            };
            let _ = answers.send(answer);
        });
    }

    pub(super) fn look_up(&mut self, query: PeerQuery) {
        let (store, link) = (self.context.database.store().clone(), Arc::clone(&self.context.link));
        let known = self.source.as_ref().filter(|source| source.replica == query.replica);
        let known = known.map_or(0, |source| source.peer_no);
        let source = Source::new(Arc::clone(&link), query.replica, known).behind(self.gate.clone());
        let source = source.standing(query.standing);
        let source = source.reading(query.view.as_deref(), query.place, query.asked).resuming(query.resumes);
        let decides = query.standing == Standing::Authority;
        self.decider = decides.then(|| store.decided_by(query.replica));
        self.source = Some(match (&self.told, self.removals) {
            (Some(told), Some(removals)) => source.taking_away(removals).told(Arc::clone(told)),
            _ => source,
        });
        let (answers, source) = (self.answers.clone(), self.source.clone());
        tokio::spawn(async move {
            let found = blocking(move || {
                let stands = source.map_or(Ok(true), |source| store.meet_reader(&source))?;
                if !stands && query.says.is_none() {
                    // Between its hello and this, tombstones were dropped: it says another hello.
                    return Err(StoreError::Fenced);
                }
                // Who was never here, or was further than it says, has nothing to go on from: it would learn from
                // removals what there is.
                let met = match query.says {
                    Some(place) => stands && store.may_stand_at(&link, query.replica, place)?,
                    None => true,
                };
                let (peer_no, checkpoint) = store.peer(&link, query.replica)?;
                let refusals = store.has_refusals(peer_no)?;
                let (resumes, compares) = (query.resumes && met, query.compares);
                let show = |view: Arc<View>| store.show(&link, query.replica, &view, resumes, compares);
                let Shown { held, unsettled } = query.view.map_or(Ok(Shown::default()), show)?;
                let unsettled = unsettled || !met;
                Ok::<_, StoreError>(PeerReplica { peer_no, checkpoint, held, unsettled, refusals })
            });
            let answer = match found.await {
                Ok(peer) => Answer::Peer(Box::new(peer)),
                Err(error) => failed(&ApplyError::from(&error)),
            };
            let _ = answers.send(answer);
        });
    }

    /// What comes in from now on may belong together with what other sessions bring.
    pub(super) fn take_seat(&mut self, opened: &Opened) {
        let serves = self.admit.is_some();
        let pulls = if serves { opened.direction.push } else { opened.direction.pull };
        if !pulls {
            // Nobody should wait for it; what is under way still needs its order.
            self.seat = self.seat.take().filter(|seat| !seat.is_idle());
        } else if self.seat.is_none()
            && let Some(meeting) = self.context.database.inner.meeting.get()
        {
            let applier = self.context.database.inner.applier.clone();
            let (peer, applied) = (self.context.report.fingerprint(), self.session.status().pulled);
            self.seat = Some(meeting.enter(peer, opened.replica, applier, applied));
        }
    }

    pub(super) fn apply(&mut self, incoming: Incoming) {
        let Some(source) = self.source.clone() else { return };
        let (bonds, upto, bytes) = (take(&mut self.bonds), incoming.checkpoint, incoming.data.len());
        match self.context.database.store().check(source, incoming) {
            Ok(batch) => {
                self.context.report.received(batch.len());
                for unopened in batch.unopened() {
                    let (link, record, reason) = (&*self.context.link, unopened.id, &unopened.reason);
                    tracing::warn!(link, %record, %reason, "a record can't be opened and was left out");
                }
                let answers = self.answers.clone();
                let report = move |result: Result<Applied, ApplyError>| {
                    let answer = match result {
                        Ok(applied) => {
                            if applied.refused > 0 {
                                let _ = answers.send(Answer::Input(Box::new(Input::RefusalsDue)));
                            }
                            Answer::Applied
                        }
                        Err(error) => failed(&error),
                    };
                    let _ = answers.send(answer);
                };
                self.submit(Arrival { batch, report: Box::new(report), upto, bonds, bytes });
            }
            Err(error) => drop(self.answers.send(failed(&ApplyError::from(&error)))),
        }
    }

    /// The peer has everything up to here.
    pub(super) fn on_pushed_all(&mut self, upto: Seq) {
        self.noted = upto;
        let removals = self.removals;
        if let Some(view) = self.release.clone() {
            self.note(move |store, _| store.release(upto, &view).map(drop));
        }
        let database = &self.context.database;
        self.source.iter().for_each(|source| source.has_passed(upto));
        if !database.store().notes_readers() {
            return;
        }
        if let Some(source) = &self.source {
            PassedList::note(&database.inner, Arc::clone(&source.link), source.replica, upto);
        }
        if let Some(removals) = removals {
            self.note(move |store, source| store.finish_leaving(source, upto, removals));
        }
    }

    /// Has the store look something up for the session.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
        input: impl FnOnce(T) -> Input + Send + 'static,
    ) {
        let store = self.context.database.store().clone();
        self.answer(blocking(move || work(&store)), input);
    }

    /// Sends what a piece of work answers back to the session.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
        input: impl FnOnce(T) -> Input + Send + 'static,
    ) {
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let answer = match work.await {
                Ok(value) => Answer::Input(Box::new(input(value))),
                Err(error) => failed(&ApplyError::from(&error)),
            };
            let _ = answers.send(answer);
        });
    }
}

/// The local replica as it would introduce itself now.
pub(crate) fn introduced(
    database: &Database,
    link: &str,
    ask: ClientAsk,
) -> Result<LocalReplica, StoreError> {
    introduce(database, link, ask).map(|(local, _)| local)
}

/// The local replica as it introduces itself to a server; and what it shows that, if it changes with time.
pub(super) fn introduce(
    database: &Database,
    link: &str,
    ask: ClientAsk,
) -> Result<(LocalReplica, Option<Timed>), StoreError> {
    let ClientAsk { direction, compression, request, granted, authority, .. } = ask;
    let store = database.store();
    let view = request
        .view(granted.as_ref(), client_time(store.now_ms()))
        .map_err(|error| StoreError::Filter(error.to_string()))?;
    let view = Arc::new(view);
    let timed = timed_view(&request, granted, &view);
    let local = LocalReplica {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty()?,
        direction,
        compression,
        checkpoint: store.link_checkpoint(link)?,
        fence: store.fence(),
        request,
        view,
        authority,
        token: None,
        now_ms: store.now_ms(),
    };
    Ok((local, timed))
}

fn timed_view(request: &ViewRequest, granted: Option<Filter>, view: &Arc<View>) -> Option<Timed> {
    let timed = request.depends_on_time() || granted.as_ref().is_some_and(Filter::depends_on_time);
    let request = request.clone();
    let bind = move |now: Timestamp| {
        let now_ms = u64::try_from(now.0 / 1_000).unwrap_or_default();
        request.view(granted.as_ref(), client_time(now_ms)).ok()
    };
    timed.then(|| Timed::new(Rebind::new(bind), view))
}

/// The time of a client's view.
fn client_time(now_ms: u64) -> Timestamp {
    Timestamp::from_millis(now_ms.saturating_sub(VIEW_CLIENT_LAG_MS))
}
