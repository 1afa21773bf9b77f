//! Carries out what sessions ask for: the synchronous twin of the driver of `blazedb`, and of its links.
//!
//! Every request is carried out some time after it was made, and its answer arrives some time after that.

use std::sync::Arc;

use blazedb_core::limits::HANDSHAKE_MS;
use blazedb_core::session::{Closed, Frame, Input, LocalReplica, Output, Session};
use blazedb_core::view::ViewRequest;
use blazedb_core::wire::{CloseCode, Direction, Message};

use crate::network::{End, Event, Place, Request, summary};
use crate::requests::introduce;
use crate::world::World;
use crate::{Failure, check};

/// How long a request or an answer is under way at most, in milliseconds.
pub(crate) const WORK_MS: u64 = 25;

impl World {
    /// Has a link try to connect within so many milliseconds.
    pub(crate) fn connect_in(&mut self, link: usize, within: u64) {
        let delay = within / 2 + self.rng.below(within / 2 + 1);
        if let Some(slot) = self.links.get_mut(link)
            && !slot.due
            && !slot.removed
        {
            slot.due = true;
            self.schedule(delay, Event::Connect(link));
        }
    }

    pub(crate) fn on_connect(&mut self, link: usize) -> Result<(), Failure> {
        let Some(slot) = self.links.get_mut(link) else { return Ok(()) };
        slot.due = false;
        let client = slot.plan.client;
        if slot.conn.is_some() || slot.removed || !self.is_up(client) {
            return Ok(());
        }
        let Some(server) = self.nearest(link) else {
            self.connect_in(link, 1_000);
            return Ok(());
        };
        let Some(store) = self.nodes.get(client).and_then(|node| node.store.clone()) else { return Ok(()) };
        let latency = self.rng.range(1, 120);
        let conn = self.add_conn(link, client, server, latency);
        let request = self.draw_request(link);
        let Some(slot) = self.links.get_mut(link) else { return Ok(()) };
        slot.conn = Some(conn);
        let (direction, name) = (slot.plan.direction, format!("{}/{server}", slot.name));
        let authority = slot.authority;
        // Without the keys only the keyring is fetched: nothing is shown, and nothing taken.
        let keyless = store.ready_for(&slot.encryption).is_err();
        let (direction, request) =
            if keyless { (Direction::default(), ViewRequest::default()) } else { (direction, request) };
        let compression = !self.config.sealed && self.rng.chance(70);
        let local =
            introduce(&store, &name, (direction, authority), compression, public_request(&store, request)?)?;
        self.open(conn, local, keyless);
        self.note(|| format!("connect link {link} from {client} to {server} {direction:?} as {conn}, latency {latency}, keyless {keyless}"));
        for end in [End::Client, End::Server] {
            self.schedule(HANDSHAKE_MS, Event::Opening(Place { conn, end }));
            self.on_keyring(Place { conn, end })?;
            self.carry_out(Place { conn, end })?;
        }
        if keyless {
            self.schedule(200, Event::KeysCheck(Place { conn, end: End::Client }));
        }
        Ok(())
    }

    /// The first node of a link's that can be reached.
    fn nearest(&self, link: usize) -> Option<usize> {
        let slot = self.links.get(link)?;
        let client = slot.plan.client;
        let targets = std::iter::once(&slot.plan.server).chain(&slot.fallbacks);
        targets.copied().find(|server| self.is_up(*server) && !self.is_blocked(client, *server))
    }

    fn open(&mut self, conn: u64, local: LocalReplica, keyless: bool) {
        let now = self.now();
        let ends = self.conns.get(&conn).map(|conn| [conn.client.node, conn.server.node]);
        let generation = |world: &Self, node: usize| {
            world
                .nodes
                .get(node)
                .and_then(|n| n.store.as_ref())
                .map_or(0, blazedb_store::Store::seal_generation)
        };
        let generations = ends.map(|ends| ends.map(|node| generation(self, node))).unwrap_or_default();
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.keyless = keyless;
            conn.client.told = Some(Arc::clone(&local.view));
            conn.client.asked = Some(Arc::clone(&local.view));
            conn.client.session = Some(Session::client(local, now));
            conn.server.session = Some(Session::server(now));
            [conn.client.generation, conn.server.generation] = generations;
        }
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
        if let Input::Refusals(refusals, _) = &input {
            end.refusals_told = end.refusals_told.max(refusals.last());
        }
        session.handle(now, input);
        self.carry_out(place)?;
        self.tell_progress(place);
        check::window::check(self, place)?;
        check::durability::on_acknowledged(self, place)
    }

    fn carry_out(&mut self, place: Place) -> Result<(), Failure> {
        loop {
            let Some(conn) = self.conns.get_mut(&place.conn) else { return Ok(()) };
            let Some(session) = &mut conn.end_mut(place.end).session else { return Ok(()) };
            let Some(output) = session.poll_output() else { return Ok(()) };
            match output {
                Output::Send(frame) => self.send(place, &frame)?,
                Output::Admit(hello) => self.request(place, Request::Admit(hello)),
                // Tokens are not simulated: who a node's user is, everybody knows.
                Output::Token(_) => self.schedule(0, Event::Answer(place, Input::TokenAccepted)),
                Output::Peer(query) => self.look_up(place, query),
                Output::Read { after, max_bytes, lens } => {
                    self.request(place, Request::Read { after, max_bytes, lens });
                }
                Output::ReadWanted(ids, lens) => self.request(place, Request::Wanted(ids, lens)),
                Output::ReadBirths(ids) => self.request(place, Request::Births(ids)),
                Output::ReadUnshown(held, lens) => self.request(place, Request::Unshown(held, lens)),
                Output::ViewSettled(view) => self.request(place, Request::Settled(view)),
                Output::BuildReconcileSet(lens) => self.request(place, Request::List(lens)),
                Output::Apply(incoming) => self.apply(place, incoming)?,
                Output::ExtendKeyring(statements) => self.extend_keyring(place, &statements)?,
                Output::KeyringAgreed(head) => self.keyring_agreed(place, &head)?,
                Output::FeedEnd => self.tell_feed_end(place)?,
                Output::ReadRefusals { after } => self.request(place, Request::Refusals(after)),
                Output::ForgetRefusals(upto) => self.forget_refusals(place, upto),
                Output::TakeRefusals(refusals) => self.take_refusals(place, refusals)?,
                // Its databases are written one by one.
                Output::Together(_) => {}
                Output::Opened(opened) => {
                    self.counts.sessions += u64::from(opened.epoch == 0);
                    self.counts.switches += u64::from(opened.epoch > 0);
                    self.counts.reconciliations += u64::from(opened.reconcile);
                    self.note(|| {
                        let direction = opened.direction;
                        let (epoch, reconcile) = (opened.epoch, opened.reconcile);
                        format!("{place:?} open at epoch {epoch}, {direction:?}, reconcile {reconcile}")
                    });
                    if let Some(conn) = self.conns.get_mut(&place.conn) {
                        let end = conn.end_mut(place.end);
                        (end.opened, end.reconciled) = (Some(opened.direction), opened.reconcile);
                    }
                    check::leak::on_terms(self, place)?;
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

    fn send(&mut self, place: Place, frame: &Frame) -> Result<(), Failure> {
        let bytes = frame.parts().concat();
        self.counts.frames += 1;
        self.counts.bytes += bytes.len() as u64;
        self.mark(&[1, place.conn, place.end as u64, bytes.len() as u64]);
        let message = Message::decode(&bytes);
        check::echo::on_sent(self, &message);
        match &message {
            Ok(Message::Reconfigure(_, hello)) => self.note_asked(place, &hello.request)?,
            Ok(Message::Refusals(refusals)) => check::leak::on_refusals(self, place, refusals)?,
            _ => {}
        }
        check::sealed::on_sent(self, place, &bytes)?;
        self.note(|| format!("{place:?} sends {}", summary(&bytes)));
        let (now, jitter) = (self.now(), self.rng.below(10));
        let Some(conn) = self.conns.get_mut(&place.conn) else { return Ok(()) };
        let at = now + conn.latency + jitter;
        let target = conn.end_mut(place.other().end);
        let at = at.max(target.last_arrival);
        target.last_arrival = at;
        self.schedule_at(at, Event::Frame(place.other(), bytes));
        Ok(())
    }

    /// From its answer on the client sends what it asks for here.
    fn note_asked(&mut self, place: Place, request: &ViewRequest) -> Result<(), Failure> {
        let view = request.view(None, blazedb_core::Timestamp::from_millis(self.now()));
        let view = view.map_err(|error| Failure::new("protocol", error.to_string()))?;
        if let Some(conn) = self.conns.get_mut(&place.conn) {
            conn.end_mut(place.end).asked = Some(Arc::new(view));
        }
        Ok(())
    }

    pub(crate) fn on_frame(&mut self, place: Place, bytes: Vec<u8>) -> Result<(), Failure> {
        match self.conns.get(&place.conn) {
            Some(conn) if !conn.cut => self.feed(place, Input::Frame(bytes)),
            _ => Ok(()),
        }
    }

    /// Tells sessions of the new end of the feed, and keeps an image now and then.
    pub(crate) fn after_commit(&mut self, node: usize) -> Result<(), Failure> {
        for place in self.places_of(node) {
            let delay = self.rng.below(5);
            self.schedule(delay, Event::Head(place));
        }
        check::leak::on_commit(self, node)?;
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
        let at = |conn: &u64| {
            let ends =
                self.conns.get(conn).map(|conn| [(End::Client, &conn.client), (End::Server, &conn.server)]);
            let mine = ends.into_iter().flatten().filter(|(_, end)| end.node == node);
            mine.map(|(end, _)| Place { conn: *conn, end }).collect::<Vec<_>>()
        };
        self.nodes.get(node).into_iter().flat_map(|node| node.conns.iter()).flat_map(at).collect()
    }

    pub(crate) fn on_head(&mut self, place: Place) -> Result<(), Failure> {
        match self.store_of(place) {
            Some(store) => self.feed(place, Input::FeedAdvanced(store.head())),
            None => Ok(()),
        }
    }

    fn tell_feed_end(&mut self, place: Place) -> Result<(), Failure> {
        match self.store_of(place) {
            Some(store) => self.feed(place, Input::FeedEnd(store.head())),
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
            Some(conn) if conn.end(place.end).opened.is_none() => self.on_closed(place, &Closed::Silent),
            _ => Ok(()),
        }
    }

    fn on_closed(&mut self, place: Place, closed: &Closed) -> Result<(), Failure> {
        self.note(|| format!("{place:?} closed: {closed:?}"));
        let refused = match closed {
            Closed::Here(CloseCode::ClockDrift, _) | Closed::ByPeer(CloseCode::ClockDrift, _) => true,
            // Somebody else's statement may have been the next one, or the rules do not let a user in: it is tried again.
            Closed::Here(CloseCode::Refused, _) | Closed::ByPeer(CloseCode::Refused, _)
                if self.config.sealed || self.config.rules =>
            {
                true
            }
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
        let end = conn.end_mut(place.end);
        end.source = None;
        if end.session.take().is_none() {
            return;
        }
        let (link, latency, cut) = (conn.link, conn.latency, conn.cut);
        let other = conn.end(place.other().end);
        let (at, both) = (other.last_arrival, other.session.is_none());
        self.mark(&[3, place.conn, place.end as u64]);
        check::leak::on_end(self, place);
        if both {
            self.remove_conn(place.conn);
        } else if !cut {
            let at = at.max(self.now() + latency);
            self.schedule_at(at, Event::Broken(place.other()));
        }
        if place.end == End::Client
            && let Some(slot) = self.links.get_mut(link)
            && slot.conn == Some(place.conn)
        {
            slot.conn = None;
            self.connect_in(link, if refused { 10_000 } else { 2_000 });
        }
    }
}

/// What is asked of the other side, in words that it may hear: names of sealed fields go sealed.
pub(crate) fn public_request(
    store: &blazedb_store::Store,
    mut request: ViewRequest,
) -> Result<ViewRequest, Failure> {
    let Some(sealer) = store.sealer().filter(|sealer| sealer.seals()) else { return Ok(request) };
    for name in &mut request.excluded {
        *name = sealer.public_name(name).map_err(|error| Failure::new("sealed", error.to_string()))?;
    }
    Ok(request)
}
