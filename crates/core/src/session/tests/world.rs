//! Two sessions, an ordered channel and two replicas in memory, under virtual time.
//!
//! What happens next (a frame arrives, a store answers) is chosen by a seed, so that every order is tried.

use std::collections::VecDeque;
use std::sync::Arc;

use super::model::Model;
use crate::ReplicaId;
use crate::feed::FeedBatch;
use crate::limits::{MAX_MESSAGE_BYTES, SEND_WINDOW_BYTES};
use crate::session::*;
use crate::view::View;
use crate::wire::{Changes, CloseCode, Direction, Message};

pub(super) const BOTH: Direction = Direction { push: true, pull: true };
pub(super) const PUSH: Direction = Direction { push: true, pull: false };
pub(super) const PULL: Direction = Direction { push: false, pull: true };

/// One side.
pub(super) struct End {
    pub(super) session: Session,
    pub(super) store: Model,
    pub(super) inbox: VecDeque<Vec<u8>>,
    work: VecDeque<Output>,
    wake: u64,
    peer: Option<ReplicaId>,
    pub(super) closed: Option<Closed>,
    pub(super) opened: Option<Opened>,
    /// What this side said.
    pub(super) said: Vec<Message>,
    /// Entries that arrived here.
    pub(super) received: usize,
    /// Changes that this side sent and the other did not acknowledge yet.
    unacknowledged: VecDeque<usize>,
    acked: u64,
    /// Answer no store requests.
    pub(super) stuck: bool,
    /// Take no changes in: the clock of who wrote them is ahead.
    pub(super) refuses_clock: bool,
    /// So often it did not.
    pub(super) refused_batches: usize,
}

impl End {
    fn new(session: Session, store: Model) -> Self {
        Self {
            session,
            store,
            inbox: VecDeque::new(),
            work: VecDeque::new(),
            wake: u64::MAX,
            peer: None,
            closed: None,
            opened: None,
            said: Vec::new(),
            received: 0,
            unacknowledged: VecDeque::new(),
            acked: 0,
            stuck: false,
            refuses_clock: false,
            refused_batches: 0,
        }
    }

    pub(super) fn changes_said(&self) -> Vec<&Changes> {
        self.said.iter().filter_map(|m| if let Message::Changes(c) = m { Some(c) } else { None }).collect()
    }
}

/// Two ends and the time.
pub(super) struct World {
    pub(super) client: End,
    pub(super) server: End,
    pub(super) now: u64,
    grant: Direction,
    seed: u64,
}

impl World {
    pub(super) fn connect(
        client: Model,
        server: Model,
        asked: Direction,
        grant: Direction,
        seed: u64,
    ) -> Self {
        let local = client.introduce(asked, seed.is_multiple_of(2));
        Self {
            client: End::new(Session::client(local, 1_000), client),
            server: End::new(Session::server(1_000), server),
            now: 1_000,
            grant,
            seed: seed | 1,
        }
    }

    pub(super) fn stores(self) -> (Model, Model) {
        (self.client.store, self.server.store)
    }

    pub(super) fn end(&mut self, client: bool) -> &mut End {
        if client { &mut self.client } else { &mut self.server }
    }

    /// The client asks for another direction from here on.
    pub(super) fn reconfigure(&mut self, direction: Direction) {
        let local = self.client.store.introduce(direction, true);
        self.input(true, Input::Reconfigure(Box::new(local)));
    }

    pub(super) fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    /// Carries out what a side asks for, up to what takes time.
    pub(super) fn pump(&mut self, client: bool) {
        while let Some(output) = self.end(client).session.poll_output() {
            assert!(self.end(client).closed.is_none(), "{output:?} after the end");
            match output {
                Output::Send(frame) => self.transmit(client, &frame),
                Output::WakeAt(at) => {
                    assert!(at > self.now);
                    self.end(client).wake = at;
                }
                Output::Opened(opened) => self.end(client).opened = Some(opened),
                Output::Closed(why) => self.end(client).closed = Some(why),
                asked => {
                    let work = &mut self.end(client).work;
                    work.push_back(asked);
                    let feed = |asked: &Output| matches!(asked, Output::Read { .. } | Output::ReadWanted(..));
                    let refusals = |asked: &Output| {
                        matches!(asked, Output::ReadRefusals { .. } | Output::TakeRefusals(_))
                    };
                    assert!(
                        !(work.iter().any(feed) && work.iter().any(refusals)),
                        "the feed is read while refusals are: {work:?}"
                    );
                }
            }
        }
    }

    fn transmit(&mut self, client: bool, frame: &Frame) {
        let bytes = frame.parts().concat();
        assert_eq!(bytes.len(), frame.len());
        assert!(bytes.len() <= MAX_MESSAGE_BYTES);
        let message = Message::decode(&bytes).unwrap();
        let (from, to) =
            if client { (&mut self.client, &mut self.server) } else { (&mut self.server, &mut self.client) };
        match &message {
            Message::Changes(changes) => {
                let before: usize = from.unacknowledged.iter().sum();
                assert!(changes.data.is_empty() || before < SEND_WINDOW_BYTES, "the window is passed");
                from.unacknowledged.push_back(changes.data.len());
            }
            Message::Ack(count) => {
                for _ in to.acked..*count {
                    to.unacknowledged.pop_front().expect("acknowledged and not sent");
                }
                to.acked = *count;
            }
            _ => {}
        }
        from.said.push(message);
        to.inbox.push_back(bytes);
    }

    pub(super) fn input(&mut self, client: bool, input: Input) {
        let now = self.now;
        self.end(client).session.handle(now, input);
        self.pump(client);
    }

    pub(super) fn write(&mut self, client: bool, id: u64, version: u64, value: &[u8]) {
        self.end(client).store.write(id, version, value);
        let head = self.end(client).store.head;
        self.input(client, Input::FeedAdvanced(head));
    }

    fn answer(&mut self, client: bool, asked: Output) {
        let grant = self.grant;
        let end = self.end(client);
        let store = &mut end.store;
        let (head, mut advanced) = (store.head, false);
        let input = match asked {
            Output::Token(_) => Input::TokenAccepted,
            Output::Admit(_) => Input::Admitted(Ok(Admission {
                replica: store.replica,
                head,
                empty: store.rows.is_empty(),
                direction: grant,
                notice: String::new(),
                view: Arc::new(View::all()),
                decides: false,
                compression: true,
                now_ms: 0,
            })),
            Output::Peer(query) => {
                let peer = store.peer(query.replica);
                end.peer = Some(query.replica);
                Input::Peer(peer)
            }
            Output::ExtendKeyring(_) | Output::KeyringAgreed(_) | Output::Together(_) => return,
            Output::FeedEnd => Input::FeedEnd(head),
            Output::Read { after, max_bytes, .. } => Input::Feed(Arc::new(store.feed(after, max_bytes))),
            Output::ReadWanted(ids, _) => Input::Feed(Arc::new(store.full(&ids))),
            Output::ReadBirths(_) => Input::Held(Vec::new()),
            Output::ReadUnshown(..) => Input::Unshown(Arc::new(FeedBatch::default())),
            Output::ViewSettled(_) => return,
            Output::BuildReconcileSet(_) => Input::ReconcileSet(Box::new(store.reconcile_set())),
            Output::Apply(_) if end.refuses_clock => {
                end.refused_batches += 1;
                Input::ApplyFailed(CloseCode::ClockDrift, "an hour ahead".to_owned())
            }
            Output::Apply(incoming) => {
                let peer = end.peer.unwrap();
                let refused = store.refused.len();
                end.received += store.apply(peer, &incoming);
                advanced = store.head > head;
                if store.refused.len() > refused {
                    self.input(client, Input::RefusalsDue);
                }
                Input::Applied(1)
            }
            Output::ReadRefusals { after } => {
                let (refusals, more) = store.refusals(after);
                Input::Refusals(refusals, more)
            }
            Output::ForgetRefusals(no) => return store.refused.retain(|write| write.no > no),
            Output::TakeRefusals(refusals) => {
                store.take_back(&refusals);
                Input::RefusalsTaken
            }
            other => panic!("{other:?} takes no time"),
        };
        let head = self.end(client).store.head;
        self.input(client, input);
        if advanced {
            self.input(client, Input::FeedAdvanced(head));
        }
    }

    /// One thing that can happen now. Answers false if there is none.
    pub(super) fn step(&mut self) -> bool {
        self.pump(true);
        self.pump(false);
        let mut choices = Vec::new();
        for client in [true, false] {
            let end = self.end(client);
            if end.closed.is_none() && !end.inbox.is_empty() {
                choices.push((client, true));
            }
            if end.closed.is_none() && !end.work.is_empty() && !end.stuck {
                choices.push((client, false));
            }
        }
        if choices.is_empty() {
            return false;
        }
        let pick = self.random() as usize % choices.len();
        let (client, frame) = choices[pick];
        if frame {
            let bytes = self.end(client).inbox.pop_front().unwrap();
            self.input(client, Input::Frame(bytes));
        } else {
            let asked = self.end(client).work.pop_front().unwrap();
            self.answer(client, asked);
        }
        true
    }

    /// Until nothing can happen without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..200_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Lets time pass, timers firing when they are due.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        loop {
            self.settle();
            let next = self.client.wake.min(self.server.wake);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            for client in [true, false] {
                if self.end(client).wake <= self.now && self.end(client).closed.is_none() {
                    self.end(client).wake = u64::MAX;
                    self.input(client, Input::Tick);
                } else if self.end(client).closed.is_some() {
                    self.end(client).wake = u64::MAX;
                }
            }
        }
        self.now = end;
    }
}
