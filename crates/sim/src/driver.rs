//! Carries out what sessions ask for: the synchronous twin of the driver of `blazedb`.
//!
//! Every request is carried out some time after it was made, and its answer arrives some time after that; batches
//! of several peers are applied in groups, in the order in which they came.

use std::sync::Arc;

use blazedb_core::ReplicaId;
use blazedb_core::feed::Incoming;
use blazedb_core::limits::HANDSHAKE_MS;
use blazedb_core::session::{Admission, Closed, Frame, Input, LocalReplica, Output, PeerReplica, Session};
use blazedb_core::wire::{CloseCode, Direction, Message};
use blazedb_store::{CheckedBatch, Source, Store, StoreError};

use crate::network::{End, Event, Place, Request};
use crate::node::Waiting;
use crate::world::World;
use crate::{Failure, check};

/// The name under which every served database keeps its clients' checkpoints.
const SERVED: &str = "served";
/// How long a request or an answer is under way at most, in milliseconds.
const WORK_MS: u64 = 25;

impl World {
    /// Has a link try to connect within so many milliseconds.
    pub(crate) fn connect_in(&mut self, link: usize, within: u64) {
        let delay = within / 2 + self.rng.below(within / 2 + 1);
        if let Some(slot) = self.links.get_mut(link)
            && !slot.due
        {
            slot.due = true;
            self.schedule(delay, Event::Connect(link));
        }
    }

    pub(crate) fn on_connect(&mut self, link: usize) -> Result<(), Failure> {
        let Some(slot) = self.links.get_mut(link) else { return Ok(()) };
        slot.due = false;
        let (plan, name) = (slot.plan, slot.name.clone());
        if slot.conn.is_some() || !self.is_up(plan.client) {
            return Ok(());
        }
        if !self.is_up(plan.server) || self.is_blocked(plan.client, plan.server) {
            self.connect_in(link, 1_000);
            return Ok(());
        }
        let Some(store) = self.nodes.get(plan.client).and_then(|node| node.store.clone()) else {
            return Ok(());
        };
        let latency = self.rng.range(1, 120);
        let conn = self.add_conn(link, plan.client, plan.server, latency);
        if let Some(slot) = self.links.get_mut(link) {
            slot.conn = Some(conn);
        }
        let local = introduce(&store, &name, plan.direction, self.rng.chance(70))?;
        let now = self.now();
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.client.session = Some(Session::client(local, now));
            conn.server.session = Some(Session::server(now));
        }
        self.note(|| format!("connect {plan:?} as {conn}, latency {latency}"));
        for end in [End::Client, End::Server] {
            self.schedule(HANDSHAKE_MS, Event::Opening(Place { conn, end }));
            self.carry_out(Place { conn, end })?;
        }
        Ok(())
    }

    /// Hands an input to a session and does what it asks for.
    pub(crate) fn feed(&mut self, place: Place, input: Input) -> Result<(), Failure> {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(&place.conn) else { return Ok(()) };
        let end = conn.end_mut(place.end);
        let Some(session) = &mut end.session else { return Ok(()) };
        if let (Input::Peer(peer), Some(source)) = (&input, &mut end.source) {
            source.peer_no = peer.peer_no;
        }
        session.handle(now, input);
        self.carry_out(place)?;
        check::window::check(self, place)?;
        check::durability::on_acknowledged(self, place)
    }

    fn carry_out(&mut self, place: Place) -> Result<(), Failure> {
        loop {
            let Some(conn) = self.conns.get_mut(&place.conn) else { return Ok(()) };
            let Some(session) = &mut conn.end_mut(place.end).session else { return Ok(()) };
            let Some(output) = session.poll_output() else { return Ok(()) };
            match output {
                Output::Send(frame) => self.send(place, &frame),
                Output::Admit(hello) => self.request(place, Request::Admit(hello.direction)),
                Output::Peer(replica) => self.look_up(place, replica),
                Output::Read { after, max_bytes } => self.request(place, Request::Read { after, max_bytes }),
                Output::ReadWanted(ids) => self.request(place, Request::Wanted(ids)),
                Output::BuildReconcileSet => self.request(place, Request::List),
                Output::Apply(incoming) => self.apply(place, incoming)?,
                Output::Opened(opened) => {
                    self.counts.sessions += 1;
                    self.counts.reconciliations += u64::from(opened.reconcile);
                    self.note(|| format!("{place:?} open, reconcile {}", opened.reconcile));
                    if let Some(conn) = self.conns.get_mut(&place.conn) {
                        conn.end_mut(place.end).opened = true;
                    }
                }
                Output::WakeAt(at) => {
                    if let Some(conn) = self.conns.get_mut(&place.conn) {
                        conn.end_mut(place.end).wake = Some(at);
                    }
                    self.schedule_at(at, Event::Wake(place, at));
                }
                Output::Closed(closed) => return self.on_closed(place, &closed),
            }
        }
    }

    fn send(&mut self, place: Place, frame: &Frame) {
        let bytes = frame.parts().concat();
        self.counts.frames += 1;
        self.mark(&[1, place.conn, place.end as u64, bytes.len() as u64]);
        check::echo::on_sent(self, &bytes);
        self.note(|| format!("{place:?} sends {}", summary(&bytes)));
        let (now, jitter) = (self.now(), self.rng.below(10));
        let Some(conn) = self.conns.get_mut(&place.conn) else { return };
        let at = now + conn.latency + jitter;
        let target = conn.end_mut(place.other().end);
        let at = at.max(target.last_arrival);
        target.last_arrival = at;
        self.schedule_at(at, Event::Frame(place.other(), bytes));
    }

    pub(crate) fn on_frame(&mut self, place: Place, bytes: Vec<u8>) -> Result<(), Failure> {
        match self.conns.get(&place.conn) {
            Some(conn) if !conn.cut => self.feed(place, Input::Frame(bytes)),
            _ => Ok(()),
        }
    }

    fn request(&mut self, place: Place, request: Request) {
        let delay = self.rng.below(WORK_MS);
        self.schedule(delay, Event::Request(place, request));
    }

    fn look_up(&mut self, place: Place, replica: ReplicaId) {
        let link = self.link_name(place);
        if let Some(conn) = self.conns.get_mut(&place.conn) {
            conn.end_mut(place.end).source = Some(Source::new(link, replica, 0));
        }
        self.request(place, Request::Peer(replica));
    }

    fn link_name(&self, place: Place) -> Arc<str> {
        let link = self.conns.get(&place.conn).and_then(|conn| self.links.get(conn.link));
        match (place.end, link) {
            (End::Client, Some(link)) => Arc::from(link.name.as_str()),
            _ => Arc::from(SERVED),
        }
    }

    pub(crate) fn on_request(&mut self, place: Place, request: Request) -> Result<(), Failure> {
        let Some(store) = self.store_of(place) else { return Ok(()) };
        let input = match request {
            Request::Admit(direction) => Input::Admitted(Ok(admit(&store, direction)?)),
            Request::Peer(replica) => {
                let (peer_no, checkpoint) = store.peer(&self.link_name(place), replica)?;
                self.note(|| format!("{place:?} peer {peer_no} checkpoint {checkpoint:?}"));
                Input::Peer(PeerReplica { peer_no, checkpoint })
            }
            Request::Read { after, max_bytes } => Input::Feed(Arc::new(store.feed(after, max_bytes)?)),
            Request::Wanted(ids) => Input::Feed(Arc::new(store.records_in_full(&ids)?)),
            Request::List => Input::ReconcileSet(Box::new(store.reconcile_set()?)),
        };
        let delay = self.rng.below(WORK_MS);
        self.schedule(delay, Event::Answer(place, input));
        Ok(())
    }

    /// The store of a session's node, as long as the session lives.
    fn store_of(&self, place: Place) -> Option<Store> {
        let end = self.conns.get(&place.conn)?.end(place.end);
        end.session.as_ref()?;
        self.nodes.get(end.node)?.store.clone()
    }

    fn apply(&mut self, place: Place, incoming: Incoming) -> Result<(), Failure> {
        let source = self.conns.get(&place.conn).and_then(|conn| conn.end(place.end).source.clone());
        let (Some(store), Some(source)) = (self.store_of(place), source) else { return Ok(()) };
        match store.check(source, incoming) {
            Ok(batch) => self.submit(place, batch),
            Err(error) => self.report_failure(place, &error)?,
        }
        Ok(())
    }

    fn submit(&mut self, place: Place, batch: CheckedBatch) {
        let Some(node) = self.node_of(place) else { return };
        let delay = self.rng.below(2 * WORK_MS);
        let Some(waits) = self.nodes.get_mut(node) else { return };
        waits.queue.push_back(Waiting { place, batch });
        if waits.queue.len() == 1 {
            self.schedule(delay, Event::Flush(node));
        }
    }

    /// Applies some of what waits at a node, in one commit.
    pub(crate) fn on_flush(&mut self, index: usize) -> Result<(), Failure> {
        let all = self.rng.chance(60);
        let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
        let Some(store) = node.store.clone() else { return Ok(()) };
        if node.queue.is_empty() {
            return Ok(());
        }
        let count = if all { node.queue.len() } else { 1 + self.rng.index(node.queue.len()) };
        let group: Vec<Waiting> = node.queue.drain(..count).collect();
        if !node.queue.is_empty() {
            let delay = self.rng.below(WORK_MS);
            self.schedule(delay, Event::Flush(index));
        }
        let (places, batches): (Vec<Place>, Vec<CheckedBatch>) =
            group.into_iter().map(|waiting| (waiting.place, waiting.batch)).unzip();
        let before = store.head();
        match store.apply(&batches) {
            Ok(applied) => {
                self.mark(&[2, index as u64, applied.changed, applied.conflicts, store.head()]);
                let (count, head) = (places.len(), store.head());
                self.note(|| format!("node {index} applies {count} batches: {applied:?}, head {head}"));
                places.into_iter().for_each(|place| self.report(place, Input::Applied(1)));
            }
            // One bad batch must not take the others down with it.
            Err(_) => places.into_iter().zip(&batches).try_for_each(|(place, batch)| {
                match store.apply(std::slice::from_ref(batch)) {
                    Ok(_) => self.report(place, Input::Applied(1)),
                    Err(error) => self.report_failure(place, &error)?,
                }
                Ok::<(), Failure>(())
            })?,
        }
        self.counts.applies += 1;
        if store.head() != before {
            self.after_commit(index)?;
        }
        check::atomicity::check(self, index)
    }

    /// Sends an answer of the applier; they don't overtake each other.
    fn report(&mut self, place: Place, input: Input) {
        let (now, delay) = (self.now(), self.rng.below(WORK_MS));
        let Some(index) = self.node_of(place) else { return };
        let Some(node) = self.nodes.get_mut(index) else { return };
        let at = node.last_report.max(now + delay);
        node.last_report = at;
        self.schedule_at(at, Event::Answer(place, input));
    }

    fn report_failure(&mut self, place: Place, error: &StoreError) -> Result<(), Failure> {
        let code = match error {
            StoreError::Drift(_) => CloseCode::ClockDrift,
            StoreError::Interrupted => CloseCode::Internal,
            _ => return Err(Failure::new("wire", format!("{place:?}: {error}"))),
        };
        self.report(place, Input::ApplyFailed(code, error.to_string()));
        Ok(())
    }

    /// Tells sessions of the new end of the feed, and keeps an image now and then.
    pub(crate) fn after_commit(&mut self, node: usize) -> Result<(), Failure> {
        for place in self.places_of(node) {
            let delay = self.rng.below(5);
            self.schedule(delay, Event::Head(place));
        }
        let take = self.rng.chance(30);
        let ops = self.ledger.ops.len();
        match self.nodes.get_mut(node) {
            Some(node) if take && node.durability == blazedb_store::Durability::Normal => {
                Ok(node.take_image(ops)?)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn places_of(&self, node: usize) -> Vec<Place> {
        let ends = [End::Client, End::Server];
        let places = self.conns.keys().flat_map(|conn| ends.map(|end| Place { conn: *conn, end }));
        places.filter(|place| self.node_of(*place) == Some(node)).collect()
    }

    pub(crate) fn on_head(&mut self, place: Place) -> Result<(), Failure> {
        match self.store_of(place) {
            Some(store) => self.feed(place, Input::FeedAdvanced(store.head())),
            None => Ok(()),
        }
    }

    pub(crate) fn on_wake(&mut self, place: Place, at: u64) -> Result<(), Failure> {
        let Some(conn) = self.conns.get_mut(&place.conn) else { return Ok(()) };
        let end = conn.end_mut(place.end);
        if end.wake != Some(at) {
            return Ok(());
        }
        end.wake = None;
        self.feed(place, Input::Tick)
    }

    pub(crate) fn on_opening(&mut self, place: Place) -> Result<(), Failure> {
        match self.conns.get(&place.conn) {
            Some(conn) if !conn.end(place.end).opened => self.on_closed(place, &Closed::Silent),
            _ => Ok(()),
        }
    }

    fn on_closed(&mut self, place: Place, closed: &Closed) -> Result<(), Failure> {
        self.note(|| format!("{place:?} closed: {closed:?}"));
        let refused = match closed {
            Closed::Here(CloseCode::ClockDrift, _) | Closed::ByPeer(CloseCode::ClockDrift, _) => true,
            Closed::Here(CloseCode::GoingAway, _)
            | Closed::ByPeer(CloseCode::GoingAway, _)
            | Closed::Silent => false,
            other => return Err(Failure::new("protocol", format!("{place:?}: {other:?}"))),
        };
        self.end_session(place, refused);
        Ok(())
    }

    /// An end gives its session up; the other end learns of it later.
    pub(crate) fn end_session(&mut self, place: Place, refused: bool) {
        let Some(conn) = self.conns.get_mut(&place.conn) else { return };
        if conn.end_mut(place.end).session.take().is_none() {
            return;
        }
        let (link, latency, cut) = (conn.link, conn.latency, conn.cut);
        let other = conn.end(place.other().end);
        let (at, both) = (other.last_arrival, other.session.is_none());
        self.mark(&[3, place.conn, place.end as u64]);
        if both {
            self.conns.remove(&place.conn);
        } else if !cut {
            let at = at.max(self.now() + latency);
            self.schedule_at(at, Event::Broken(place.other()));
        }
        if place.end == End::Client
            && let Some(slot) = self.links.get_mut(link)
        {
            slot.conn = None;
            self.connect_in(link, if refused { 10_000 } else { 2_000 });
        }
    }
}

fn introduce(
    store: &Store,
    link: &str,
    direction: Direction,
    compression: bool,
) -> Result<LocalReplica, StoreError> {
    Ok(LocalReplica {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty()?,
        direction,
        compression,
        checkpoint: store.link_checkpoint(link)?,
        now_ms: store.now_ms(),
    })
}

fn admit(store: &Store, direction: Direction) -> Result<Admission, StoreError> {
    Ok(Admission {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty()?,
        direction,
        notice: String::new(),
        compression: true,
        now_ms: store.now_ms(),
    })
}

/// A frame in one line.
fn summary(bytes: &[u8]) -> String {
    match Message::decode(bytes) {
        Ok(Message::Changes(changes)) => {
            let (upto, head, has) = (changes.upto, changes.head, changes.has);
            format!("Changes {{ upto {upto:?}, head {head}, has {has}, {} bytes }}", changes.data.len())
        }
        Ok(Message::Reconcile(bytes)) => format!("Reconcile {} bytes", bytes.len()),
        Ok(Message::Sketch { .. }) => "Sketch".to_owned(),
        Ok(Message::Names(_)) => "Names".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{error:?}"),
    }
}
