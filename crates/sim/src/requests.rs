//! What a session asks of its node and its store, and what they answer: the synchronous twin of the requests of the
//! driver of `blazedb` and of the admission of `blazedb-hub`.

use std::sync::Arc;

use blazedb_core::feed::{FeedBatch, PeerNo, Seq};
use blazedb_core::session::{Admission, Input, LocalReplica, PeerQuery, PeerReplica, Refusal, Session};
use blazedb_core::topology::grant;
use blazedb_core::view::{Lens, View, ViewRequest};
use blazedb_core::wire::{CloseCode, Direction, Hello};
use blazedb_core::{NodeId, Timestamp};
use blazedb_store::{Claim, Gate, Removals, Shown, Source, Store, StoreError};

use crate::Failure;
use crate::driver::WORK_MS;
use crate::network::{Decision, End, Event, Place, Request};
use crate::world::World;

/// The name under which every served database keeps its clients' checkpoints.
const SERVED: &str = "served";

impl World {
    pub(crate) fn request(&mut self, place: Place, request: Request) {
        let delay = self.rng.below(WORK_MS);
        self.schedule(delay, Event::Request(place, request));
    }

    /// As the driver does: the store is told when a reader has everything.
    pub(crate) fn tell_progress(&mut self, place: Place) {
        let Some(conn) = self.conns.get_mut(&place.conn) else { return };
        let end = conn.end_mut(place.end);
        let Some(status) = end.session.as_ref().map(Session::status) else { return };
        if status.pushed_all && status.pushed > end.passed {
            end.passed = status.pushed;
            self.request(place, Request::Passed(status.pushed));
        }
    }

    fn note_passed(&self, place: Place, store: &Store, upto: Seq) -> Result<(), Failure> {
        let Some(source) = self.conns.get(&place.conn).and_then(|c| c.end(place.end).source.clone()) else {
            return Ok(());
        };
        source.has_passed(upto);
        store.reader_passed(&source.link, source.replica, upto)?;
        if place.end == End::Client {
            store.finish_leaving(&source, upto, Removals::default())?;
        }
        Ok(())
    }

    fn note_settled(&self, place: Place, store: &Store, view: &View) -> Result<(), Failure> {
        match self.conns.get(&place.conn).and_then(|c| c.end(place.end).source.clone()) {
            Some(source) => Ok(store.shown_only(&source.link, source.replica, view)?),
            None => Ok(()),
        }
    }

    pub(crate) fn look_up(&mut self, place: Place, query: PeerQuery) {
        let link = self.link_name(place);
        if let Some(conn) = self.conns.get_mut(&place.conn) {
            let end = conn.end_mut(place.end);
            // On an open session its number is known.
            let known = end.source.as_ref().map_or(0, |source| source.peer_no);
            let source =
                Source::new(link, query.replica, known).behind(end.gate.clone()).standing(query.standing);
            let source = source.reading(query.view.as_deref(), query.place, query.asked);
            let source = source.resuming(query.resumes);
            end.source = Some(match (place.end, &end.told) {
                (End::Client, Some(told)) => source.taking_away(Removals::default()).told(Arc::clone(told)),
                _ => source,
            });
        }
        self.request(place, Request::Peer(query));
    }

    fn link_name(&self, place: Place) -> Arc<str> {
        let conn = self.conns.get(&place.conn);
        let link = conn.and_then(|conn| self.links.get(conn.link).map(|link| (conn, link)));
        match (place.end, link) {
            (End::Client, Some((conn, link))) => Arc::from(format!("{}/{}", link.name, conn.server.node)),
            _ => Arc::from(SERVED),
        }
    }

    pub(crate) fn on_request(&mut self, place: Place, request: Request) -> Result<(), Failure> {
        let Some(store) = self.store_of(place) else { return Ok(()) };
        let input = match request {
            Request::Admit(hello) => {
                let decision = self.admit(place, &store, &hello)?;
                let delay = self.rng.below(WORK_MS);
                self.schedule(delay, Event::Decided(place, Box::new(decision)));
                return Ok(());
            }
            Request::Peer(query) => self.find_peer(place, &store, query)?,
            Request::Read { after, max_bytes, lens } => {
                // As the driver does: a decision must not overtake the refusal that it was committed with.
                let (peer, told) = self.told_of_refusals(place);
                if peer.is_some_and(|peer| store.has_refusals_behind(peer, told).unwrap_or(true)) {
                    self.schedule(0, Event::Answer(place, Input::RefusalsDue));
                }
                Input::Feed(self.read(place, &store, after, max_bytes, &lens)?)
            }
            Request::Wanted(ids, lens) => Input::Feed(Arc::new(store.wanted_in_full(&ids, &lens)?)),
            Request::Births(ids) => Input::Held(store.births(&ids)?),
            Request::Unshown(ids, lens) => Input::Unshown(Arc::new(store.unshown(&ids, &lens)?)),
            Request::List(lens) => Input::ReconcileSet(Box::new(store.reconcile_set(&lens)?)),
            Request::Refusals(after) => {
                let end = self.conns.get(&place.conn).map(|conn| conn.end(place.end));
                let Some((source, shown)) = end.and_then(|e| Some((e.source.as_ref()?, e.shown.clone()?)))
                else {
                    return Ok(());
                };
                let (refusals, more) = store.refusals(source, after, &shown)?;
                Input::Refusals(refusals, more)
            }
            Request::Settled(view) => return self.note_settled(place, &store, &view),
            Request::Passed(upto) => return self.note_passed(place, &store, upto),
        };
        let delay = self.rng.below(WORK_MS);
        self.schedule(delay, Event::Answer(place, input));
        Ok(())
    }

    fn find_peer(&mut self, place: Place, store: &Store, query: PeerQuery) -> Result<Input, Failure> {
        let link = self.link_name(place);
        let source = self.conns.get(&place.conn).and_then(|conn| conn.end(place.end).source.clone());
        let stands = source.map_or(Ok(true), |source| store.meet_reader(&source))?;
        if !stands && query.says.is_none() {
            let text = "tombstones were dropped meanwhile".to_owned();
            return Ok(Input::ApplyFailed(CloseCode::GoingAway, text));
        }
        let met = match query.says {
            Some(seq) => stands && store.may_stand_at(&link, query.replica, seq)?,
            None => true,
        };
        let (peer_no, checkpoint) = store.peer(&link, query.replica)?;
        let refusals = store.has_refusals(peer_no)?;
        let (resumes, compares) = (query.resumes && met, query.compares);
        let show = |view: Arc<View>| store.show(&link, query.replica, &view, resumes, compares);
        let Shown { held, unsettled } = query.view.map_or(Ok(Shown::default()), show)?;
        let unsettled = unsettled || !met;
        self.note(|| {
            format!(
                "{place:?} peer {peer_no} checkpoint {checkpoint:?} held {} unsettled {unsettled}",
                held.len()
            )
        });
        Ok(Input::Peer(PeerReplica { peer_no, checkpoint, held, unsettled, refusals }))
    }

    /// The number of a client that is decided about, and the last refusal that it was told of.
    fn told_of_refusals(&self, place: Place) -> (Option<PeerNo>, u64) {
        let Some(end) = self.conns.get(&place.conn).map(|conn| conn.end(place.end)) else { return (None, 0) };
        let child = end.source.as_ref().filter(|source| source.is_child());
        (child.map(|source| source.peer_no), end.refusals_told)
    }

    /// What follows in the feed, but for what the peer brought.
    fn read(
        &self,
        place: Place,
        store: &Store,
        after: Seq,
        max_bytes: usize,
        lens: &Arc<Lens>,
    ) -> Result<Arc<FeedBatch>, Failure> {
        let source = self.conns.get(&place.conn).and_then(|conn| conn.end(place.end).source.as_ref());
        let stands = store.behind_own(after, source.map_or(0, |source| source.peer_no), lens);
        if stands > after && stands >= store.head() {
            return Ok(Arc::new(FeedBatch::empty(after, stands)));
        }
        let node = self.node_of(place).and_then(|node| self.nodes.get(node));
        let Some((feeds, most)) = node.and_then(|node| Some((node.feeds.as_ref()?, node.batch_bytes))) else {
            return Ok(Arc::new(store.feed(stands, max_bytes, lens)?));
        };
        let found = feeds.find(stands, lens)?;
        found.map_or_else(|| Ok(feeds.read(stands, max_bytes.min(most), lens)?), Ok)
    }

    /// The store of a session's node, as long as the session lives.
    pub(crate) fn store_of(&self, place: Place) -> Option<Store> {
        let end = self.conns.get(&place.conn)?.end(place.end);
        end.session.as_ref()?;
        self.nodes.get(end.node)?.store.clone()
    }

    /// As a hub decides: the rules, for the client's user as it is now, cut what it asks for.
    fn admit(&self, place: Place, store: &Store, hello: &Hello) -> Result<Decision, Failure> {
        let client = self.conns.get(&place.conn).map_or(0, |conn| conn.client.node);
        let here = self.node_of(place).and_then(|node| self.nodes.get(node));
        let (Some(here), Some(there)) = (here, self.nodes.get(client)) else {
            return Ok(Err(Refusal::failure("nobody is here".to_owned())));
        };
        let rights = here.access.for_user(there.user.as_ref());
        let now = Timestamp::from_millis(store.now_ms());
        if !rights.may_connect(now) {
            return Ok(Err(Refusal::access("the access rule `connect` does not let you in".to_owned())));
        }
        let node = node_id(client);
        if !rights.is_public() && store.claim_replica(hello.replica, node)? != Claim::Granted {
            return Err(Failure::new(
                "access",
                format!("{place:?}: the replica of node {client} is not its own"),
            ));
        }
        let granted = grant(here.serve, hello.direction);
        let view = hello.request.view((!rights.is_public()).then(|| rights.read()), now);
        let view = view.map_err(|error| Failure::new("protocol", format!("{place:?}: {error}")))?;
        let admission = Admission {
            replica: store.replica(),
            head: store.head(),
            empty: store.is_empty()?,
            direction: granted.direction,
            notice: String::new(),
            view: Arc::new(view),
            decides: hello.authority,
            compression: true,
            now_ms: store.now_ms(),
        };
        let gate = (!rights.is_public()).then(|| Arc::new(Gate { rights, node }));
        Ok(Ok((admission, gate)))
    }

    /// The node has decided about a client.
    pub(crate) fn on_decided(&mut self, place: Place, decision: Decision) -> Result<(), Failure> {
        let decision = decision.map(|(admission, gate)| {
            if let Some(conn) = self.conns.get_mut(&place.conn) {
                let end = conn.end_mut(place.end);
                end.gate = gate;
                end.shown = Some(Arc::clone(&admission.view));
            }
            admission
        });
        self.feed(place, Input::Admitted(decision))
    }
}

/// The node of this number.
fn node_id(node: usize) -> NodeId {
    let mut bytes = [7; 16];
    for (to, from) in bytes.iter_mut().zip((node as u64).to_be_bytes()) {
        *to = from;
    }
    NodeId::from_bytes(bytes)
}

pub(crate) fn introduce(
    store: &Store,
    link: &str,
    (direction, authority): (Direction, bool),
    compression: bool,
    request: ViewRequest,
) -> Result<LocalReplica, StoreError> {
    let view = request.view(None, Timestamp::from_millis(store.now_ms()));
    let view = view.map_err(|error| StoreError::Filter(error.to_string()))?;
    Ok(LocalReplica {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty()?,
        direction,
        compression,
        checkpoint: store.link_checkpoint(link)?,
        fence: store.fence(),
        request,
        view: Arc::new(view),
        authority,
        token: None,
        now_ms: store.now_ms(),
    })
}
