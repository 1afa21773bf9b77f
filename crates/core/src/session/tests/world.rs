//! Two sessions, an ordered channel and two replicas in memory, under virtual time.
//!
//! What happens next (a frame arrives, a store answers) is chosen by a seed, so that every order is tried.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::feed::{FeedBatch, FeedEntry, Incoming, PeerNo, Seq};
use crate::limits::{MAX_MESSAGE_BYTES, SEND_WINDOW_BYTES};
use crate::session::*;
use crate::wire::{Changes, Direction, Message};
use crate::{RecordId, ReplicaId};

pub(super) const BOTH: Direction = Direction { push: true, pull: true };
pub(super) const PUSH: Direction = Direction { push: true, pull: false };
pub(super) const PULL: Direction = Direction { push: false, pull: true };

/// A record of the model: the higher version wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) version: u64,
    pub(super) value: Vec<u8>,
    seq: Seq,
    origin: PeerNo,
}

/// A replica without fields, files and history.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) replica: ReplicaId,
    pub(super) rows: BTreeMap<RecordId, Row>,
    pub(super) head: Seq,
    peers: Vec<ReplicaId>,
    checkpoints: HashMap<ReplicaId, Seq>,
    last_peer: Option<ReplicaId>,
}

impl Model {
    pub(super) fn new(no: u8) -> Self {
        Self {
            replica: ReplicaId::from_bytes([no; 16]),
            rows: BTreeMap::new(),
            head: 0,
            peers: Vec::new(),
            checkpoints: HashMap::new(),
            last_peer: None,
        }
    }

    pub(super) fn write(&mut self, id: u64, version: u64, value: &[u8]) {
        self.head += 1;
        let row = Row { version, value: value.to_vec(), seq: self.head, origin: 0 };
        self.rows.insert(record_id(id), row);
    }

    pub(super) fn visible(&self) -> BTreeMap<RecordId, (u64, Vec<u8>)> {
        self.rows.iter().map(|(id, row)| (*id, (row.version, row.value.clone()))).collect()
    }

    pub(super) fn forget_checkpoints(&mut self) {
        self.checkpoints.clear();
        self.last_peer = None;
    }

    pub(super) fn checkpoint(&self, replica: ReplicaId) -> Option<Seq> {
        self.checkpoints.get(&replica).copied()
    }

    fn peer(&mut self, replica: ReplicaId) -> PeerReplica {
        if !self.peers.contains(&replica) {
            self.peers.push(replica);
        }
        let at = self.peers.iter().position(|r| *r == replica).unwrap();
        PeerReplica { peer_no: at as u32 + 1, checkpoint: self.checkpoint(replica) }
    }

    fn batch<'r>(&self, rows: impl Iterator<Item = (&'r RecordId, &'r Row)>, max_bytes: usize) -> FeedBatch {
        let mut batch = FeedBatch::default();
        for (id, row) in rows {
            if batch.data.len() >= max_bytes {
                return batch;
            }
            batch.data.extend_from_slice(id.as_bytes());
            batch.data.extend_from_slice(&row.version.to_le_bytes());
            batch.data.extend_from_slice(&(row.value.len() as u32).to_le_bytes());
            batch.data.extend_from_slice(&row.value);
            batch.entries.push(FeedEntry { end: batch.data.len() as u32, origin: row.origin });
            batch.names.fields = vec![(1, "title".into())];
            batch.upto = row.seq;
        }
        batch.upto = self.head;
        batch
    }

    fn feed(&self, after: Seq, max_bytes: usize) -> FeedBatch {
        let mut rows: Vec<_> = self.rows.iter().filter(|(_, row)| row.seq > after).collect();
        rows.sort_by_key(|(_, row)| row.seq);
        let mut batch = self.batch(rows.into_iter(), max_bytes);
        batch.after = after;
        batch
    }

    fn full(&self, ids: &[RecordId]) -> FeedBatch {
        let rows = ids.iter().filter_map(|id| self.rows.get_key_value(id));
        let mut batch = self.batch(rows, usize::MAX);
        batch.upto = 0;
        batch
    }

    fn reconcile_set(&self) -> ReconcileSet {
        let mut set = ReconcileSet { snapshot: self.head, ..ReconcileSet::default() };
        for (id, row) in &self.rows {
            let mut content = id.as_bytes().to_vec();
            content.extend(&row.value);
            let mut history = content.clone();
            history.extend(row.version.to_le_bytes());
            set.history.push(ReconcileItem { order: row.version, hash: sha(&history), id: *id });
            set.content.push(ReconcileItem { order: 0, hash: sha(&content), id: *id });
        }
        set
    }

    /// Answers how many entries there were.
    fn apply(&mut self, source: ReplicaId, incoming: &Incoming) -> usize {
        let peer_no = self.peer(source).peer_no;
        let mut entries = 0;
        let mut rest = incoming.data.as_slice();
        while let Some((id, after)) = rest.split_first_chunk::<16>() {
            let (version, after) = after.split_first_chunk::<8>().unwrap();
            let (len, after) = after.split_first_chunk::<4>().unwrap();
            let (value, after) = after.split_at(u32::from_le_bytes(*len) as usize);
            (rest, entries) = (after, entries + 1);
            assert_eq!(&**incoming.names.field(1).unwrap(), "title", "names come ahead of changes");
            let (id, version) = (RecordId::from_bytes(*id), u64::from_le_bytes(*version));
            if self.rows.get(&id).is_none_or(|row| row.version < version) {
                self.head += 1;
                let row = Row { version, value: value.to_vec(), seq: self.head, origin: peer_no };
                self.rows.insert(id, row);
            }
        }
        if let Some(seq) = incoming.checkpoint {
            assert!(self.checkpoint(source).is_none_or(|old| old <= seq), "a checkpoint went back");
            self.checkpoints.insert(source, seq);
            self.last_peer = Some(source);
        }
        entries
    }
}

fn sha(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

pub(super) fn record_id(no: u64) -> RecordId {
    RecordId::v7(no, [0; 10])
}

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
        let local = LocalReplica {
            replica: client.replica,
            head: client.head,
            empty: client.rows.is_empty(),
            direction: asked,
            compression: seed.is_multiple_of(2),
            checkpoint: client.last_peer.and_then(|r| Some((r, client.checkpoint(r)?))),
            now_ms: 0,
        };
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

    fn random(&mut self) -> u64 {
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
                asked => self.end(client).work.push_back(asked),
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
            Output::Admit(_) => Input::Admitted(Ok(Admission {
                replica: store.replica,
                head,
                empty: store.rows.is_empty(),
                direction: grant,
                notice: String::new(),
                compression: true,
                now_ms: 0,
            })),
            Output::Peer(replica) => {
                let peer = store.peer(replica);
                end.peer = Some(replica);
                Input::Peer(peer)
            }
            Output::Read { after, max_bytes } => Input::Feed(Arc::new(store.feed(after, max_bytes))),
            Output::ReadWanted(ids) => Input::Feed(Arc::new(store.full(&ids))),
            Output::BuildReconcileSet => Input::ReconcileSet(Box::new(store.reconcile_set())),
            Output::Apply(incoming) => {
                let peer = end.peer.unwrap();
                end.received += store.apply(peer, &incoming);
                advanced = store.head > head;
                Input::Applied(1)
            }
            other => panic!("{other:?} takes no time"),
        };
        let head = store.head;
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

    pub(super) fn assert_open(&self) {
        assert_eq!((&self.client.closed, &self.server.closed), (&None, &None));
    }

    pub(super) fn assert_same(&self) {
        self.assert_open();
        assert_eq!(self.client.store.visible(), self.server.store.visible());
    }
}
