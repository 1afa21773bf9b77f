//! A malicious client that speaks the protocol over a real socket: what it has no right to is refused with a reason,
//! and nothing changes at the hub.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    AccessRules, Claim, CloseCode, Database, Direction, Endpoint, Fields, Hello, Identity, KnownNodes,
    Operation, Password, PinPolicy, Record, RecordId, RemoteNode, ReplicaId, Stamp, SyncMode, SyncPolicy,
    Topology, TracedEdit, TracedOp, Value, record,
};
use blazedb_core::blazebinary::RecordBuilder;
use blazedb_core::blazebinary::varint::write_varint;
use blazedb_core::cell::{Cell, Content};
use blazedb_core::history::{HistoryWriter, encode_body};
use blazedb_core::keyring::{Author, Keyring, MemberSecret};
use blazedb_core::merge::{Life, RecordState, Tombstone};
use blazedb_core::seal::Secret;
use blazedb_core::topology::{AccessSpec, EncryptionSpec, FilterText, ServeMode};
use blazedb_core::view::{Lens, Side, ViewRequest};
use blazedb_core::wire::{Changes, KeyringMessage, Message, NamesMessage, RefusedWrite};
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, Served};
use blazedb_transport::Connection;
use blazedb_transport::ws::{self, ConnectOptions};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// Everybody is in team `ios`; nobody sees what is `secret`, and only what is `done` may be deleted.
fn rules(read: &str) -> AccessSpec {
    let rule = |text: &str| Some(FilterText::new(text));
    AccessSpec {
        public: false,
        connect: rule("true"),
        read: rule(read),
        insert: rule(r#"record.teamId == "ios""#),
        update: rule(r#"record.teamId == "ios" && old.teamId == record.teamId"#),
        delete: rule(r#"record.status == "done""#),
        relay: None,
        keys: None,
    }
}

struct Hub {
    dir: TempDir,
    bugs: Database,
    listener: Listener,
}

impl Hub {
    async fn start(read: &str) -> Self {
        Self::with(&rules(read)).await
    }

    async fn with(rules: &AccessSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bugs = Database::open(dir.path().join("hub"), Password::Plaintext).unwrap();
        let access = Arc::new(AccessRules::compile(rules).unwrap());
        let served = Served { database: bugs.clone(), serve: ServeMode::Bidirectional, access };
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate().unwrap());
        let served = BTreeMap::from([("bugs".to_owned(), served)]);
        let listener = Listener::bind("127.0.0.1:0", identity, served, options).await.unwrap();
        Self { dir, bugs, listener }
    }

    fn url(&self) -> String {
        format!("ws://{}", self.listener.address())
    }

    fn database(&self, name: &str) -> Database {
        Database::open(self.dir.path().join(name), Password::Plaintext).unwrap()
    }

    /// All that it holds, and the end of its feed.
    fn held(&self) -> (Vec<Record>, u64) {
        (export(&self.bugs), self.bugs.store().head())
    }

    async fn device(&self, name: &str) -> (Database, Topology) {
        let bugs = self.database(name);
        let topology = Topology::new(Identity::generate().unwrap());
        let node = topology.register(&bugs, "bugs").unwrap();
        let remote = RemoteNode::new(self.url(), "bugs");
        let policy = SyncPolicy::new().mode(SyncMode::Bidirectional);
        topology.connect_remote(node, remote, policy).await.unwrap();
        (bugs, topology)
    }
}

fn export(database: &Database) -> Vec<Record> {
    let mut all = Vec::new();
    database
        .store()
        .export(|record| {
            all.push(record);
            true
        })
        .unwrap();
    all
}

fn id(no: u8) -> RecordId {
    RecordId::v7(1_700_000_000_000 + u64::from(no), [no; 10])
}

fn bug(team: &str) -> Fields {
    record! { "teamId" => team, "title" => "crash", "status" => "open" }
}

/// Says whatever it wants.
struct Mallory {
    connection: Connection,
    names: NamesMessage,
    data: Vec<u8>,
    sent: u64,
    /// Messages of changes that it has heard.
    changes: u64,
}

impl Mallory {
    async fn connect(hub: &Hub, replica: ReplicaId) -> Result<Self, (CloseCode, String)> {
        Self::connect_as(hub, replica, &Identity::generate().unwrap()).await
    }

    async fn connect_as(
        hub: &Hub,
        replica: ReplicaId,
        identity: &Identity,
    ) -> Result<Self, (CloseCode, String)> {
        Self::connect_saying(hub, identity, hello(replica)).await
    }

    /// Says this hello.
    async fn connect_saying(
        hub: &Hub,
        identity: &Identity,
        hello: Hello,
    ) -> Result<Self, (CloseCode, String)> {
        let endpoint: Endpoint = hub.url().parse().unwrap();
        let pins = PinPolicy::FirstUse(Arc::new(KnownNodes::in_memory()));
        let connection =
            ws::connect(&endpoint, "bugs", "bugs", identity, &pins, &ConnectOptions::default()).await;
        let (names, data) = (NamesMessage::default(), Vec::new());
        let mut mallory = Self { connection: connection.unwrap(), names, data, sent: 0, changes: 0 };
        mallory.say(&Message::Hello(hello)).await;
        match mallory.hear().await {
            Message::Welcome(_) => Ok(mallory),
            Message::Close(code, reason) => Err((code, reason)),
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, message: &Message) {
        self.connection.sender.send(&[&message.encode()]).await.unwrap();
        self.connection.sender.flush().await.unwrap();
    }

    async fn hear(&mut self) -> Message {
        Message::decode(&self.hear_bytes().await).unwrap()
    }

    async fn hear_bytes(&mut self) -> Vec<u8> {
        let heard = tokio::time::timeout(PATIENCE, self.connection.receiver.recv()).await.unwrap();
        let heard = heard.unwrap().unwrap();
        self.changes += u64::from(matches!(Message::decode(&heard), Ok(Message::Changes(_))));
        heard
    }

    /// All that it hears until something that ends there is said, or the session is over; and why it is, if so.
    async fn overhear(&mut self, until: RecordId) -> (Vec<u8>, Option<(CloseCode, String)>) {
        let mut all = Vec::new();
        loop {
            let heard = self.hear_bytes().await;
            all.extend_from_slice(&heard);
            if let Message::Close(code, reason) = Message::decode(&heard).unwrap() {
                return (all, Some((code, reason)));
            }
            if mentions(&heard, until) {
                return (all, None);
            }
        }
    }

    /// Why the hub ends the session.
    async fn closed(&mut self) -> (CloseCode, String) {
        loop {
            if let Message::Close(code, reason) = self.hear().await {
                return (code, reason);
            }
        }
    }

    fn field(&mut self, name: &str) -> u32 {
        if let Some((no, _)) = self.names.fields.iter().find(|(_, known)| &**known == name) {
            return *no;
        }
        let no = self.names.fields.len() as u32;
        self.names.fields.push((no, name.into()));
        no
    }

    /// Adds an entry: this life, and these values, all by `stamp`.
    fn entry<const N: usize>(&mut self, id: RecordId, life: Life, stamp: Stamp, values: [(&str, &str); N]) {
        let mut state = RecordState { life, cells: Vec::new() };
        for (name, value) in values {
            let content = Content::Register((&Value::from(value)).into());
            state.put(self.field(name), Cell::write(stamp, None, content, 0));
        }
        let (mut history, mut body) = (Vec::new(), Vec::new());
        let writers = &mut self.names.writers;
        let mut writer_no = |writer| {
            if let Some((no, _)) = writers.iter().find(|(_, known)| *known == writer) {
                return *no;
            }
            let no = writers.len() as u32;
            writers.push((no, writer));
            no
        };
        HistoryWriter { writer_no: &mut writer_no, row_seq: None }.state(&state, |_| true, &mut history);
        if !state.cells.is_empty() {
            encode_body(&state, |_| true, &mut RecordBuilder::new(), &mut body).unwrap();
        }
        write_varint((body.len() as u64) << 1 | 1, &mut self.data);
        write_varint(history.len() as u64, &mut self.data);
        self.data.extend_from_slice(id.as_bytes());
        self.data.extend_from_slice(&history);
        self.data.extend_from_slice(&body);
    }

    /// Sends the entries, and answers what was refused of them once they are acknowledged.
    async fn push(&mut self, upto: u64, has: u64) -> Result<Vec<RefusedWrite>, (CloseCode, String)> {
        let (names, data) = (std::mem::take(&mut self.names), std::mem::take(&mut self.data));
        self.say(&Message::Names(names.clone())).await;
        self.names = names;
        self.say(&Message::Changes(Changes { upto: Some(upto), head: upto, has, compressed: false, data }))
            .await;
        self.sent += 1;
        let mut refused = Vec::new();
        loop {
            match self.hear().await {
                Message::Ack(count) if count == self.sent => return Ok(refused),
                Message::Refusals(refusals) => {
                    let last = refusals.last();
                    refused.extend(refusals.writes);
                    self.say(&Message::RefusalsTaken(last)).await;
                }
                Message::Close(code, reason) => return Err((code, reason)),
                _ => {}
            }
        }
    }
}

fn mentions(bytes: &[u8], id: RecordId) -> bool {
    bytes.windows(16).any(|window| window == id.as_bytes())
}

/// An ordinary hello.
fn hello(replica: ReplicaId) -> Hello {
    Hello {
        replica,
        head: 1_000_000,
        empty: true,
        direction: Direction { push: true, pull: true },
        compression: false,
        checkpoint: None,
        fence: 0,
        request: ViewRequest::default(),
        authority: false,
        token: None,
        now_ms: 0,
    }
}

fn at(ms: u64, writer: ReplicaId) -> Stamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Stamp::new(blazedb::Hlc::new(now.as_millis() as u64 + ms, 0), writer)
}

fn born(stamp: Stamp) -> Life {
    Life { born: Some(stamp), ..Life::default() }
}

fn mallory() -> ReplicaId {
    ReplicaId::from_bytes([0x4d; 16])
}

/// A hub with a bug of another team, one of the own, and one that is done; all written by another device.
async fn filled(read: &str) -> (Hub, Database, Topology) {
    let hub = Hub::start(read).await;
    let (victim, topology) = hub.device("victim").await;
    hub.bugs.insert_with_id(id(1), bug("web")).unwrap();
    victim.insert_with_id(id(2), bug("ios")).unwrap();
    victim.insert_with_id(id(3), record! { "teamId" => "ios", "status" => "done" }).unwrap();
    assert!(topology.sync(PATIENCE).await.is_empty());
    assert_eq!(hub.held().0.len(), 3);
    (hub, victim, topology)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_outside_its_rights_are_refused_with_a_reason() {
    let (hub, _victim, _topology) = filled("true").await;
    let before = hub.held();
    let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
    let stamp = at(1, mallory());
    client.entry(id(10), born(stamp), stamp, [("teamId", "web")]);
    client.entry(id(11), born(stamp), stamp, [("title", "no team at all")]);
    // Into its team, out of it, and an update that says it is an insert.
    client.entry(id(1), Life::default(), stamp, [("teamId", "ios")]);
    client.entry(id(2), Life::default(), stamp, [("teamId", "web")]);
    let dead = |stamp| Life { dead: Some(Tombstone { stamp, seen: Default::default() }), ..Life::default() };
    let refused = client.push(1, 0).await.unwrap();
    let operations: Vec<_> = refused.iter().map(|write| (write.id, write.operation)).collect();
    let (insert, update) = (Operation::Insert, Operation::Update);
    assert_eq!(operations, [(id(10), insert), (id(11), insert), (id(1), update), (id(2), update)]);
    assert!(refused.iter().all(|write| write.reason.contains("access rule")), "{refused:?}");
    assert!(refused[0].state.is_none() && refused[3].state.is_some());
    assert_eq!(hub.held(), before);
    client.entry(id(1), born(at(2, mallory())), at(2, mallory()), [("teamId", "ios")]);
    client.entry(id(2), dead(at(3, mallory())), at(3, mallory()), []);
    // Deleted and inserted again in one piece.
    let again = Life { after: Some(at(4, mallory())), ..born(at(5, mallory())) };
    client.entry(id(2), again, at(5, mallory()), [("teamId", "ios")]);
    let refused = client.push(2, 0).await.unwrap();
    let operations: Vec<_> = refused.iter().map(|write| (write.id, write.operation)).collect();
    assert_eq!(operations, [(id(1), update), (id(2), Operation::Delete)]);
    assert_eq!(hub.held(), before);
    // What it has a right to.
    client.entry(id(3), dead(at(6, mallory())), at(6, mallory()), []);
    client.entry(id(12), born(at(6, mallory())), at(6, mallory()), [("teamId", "ios")]);
    assert!(client.push(3, 0).await.unwrap().is_empty());
    let ids: Vec<_> = hub.held().0.iter().map(|record| record.id).collect();
    assert_eq!(ids, [id(1), id(2), id(12)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_stamps_are_refused_and_the_writer_goes_on() {
    let (hub, victim, topology) = filled("true").await;
    let before = hub.held();
    let forged = at(60_000, victim.store().replica());
    let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
    client.entry(id(2), Life::default(), forged, [("title", "never written by the victim")]);
    client.entry(id(20), born(forged), forged, [("teamId", "ios")]);
    let dead = Some(Tombstone { stamp: forged, seen: Default::default() });
    client.entry(id(3), Life { dead, ..Life::default() }, forged, []);
    // Its own record, with one cell in another's name; and in the name of a replica that nobody knows.
    client.entry(id(21), born(at(1, mallory())), forged, [("teamId", "ios")]);
    let nobody = at(1, ReplicaId::from_bytes([0x77; 16]));
    client.entry(id(22), born(nobody), nobody, [("teamId", "ios")]);
    let refused = client.push(1, 0).await.unwrap();
    assert_eq!(refused.len(), 5);
    for write in &refused {
        assert!(write.operation == Operation::Relay && write.reason.contains("replica"), "{write:?}");
    }
    assert_eq!(hub.held(), before);
    victim.update(id(2), record! { "title" => "by the victim" }).unwrap();
    assert!(topology.sync(PATIENCE).await.is_empty());
    assert_eq!(hub.bugs.get_field(id(2), "title").unwrap(), Some("by the victim".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_a_replica_of_another_node() {
    let (hub, victim, _topology) = filled("true").await;
    let Err((code, reason)) = Mallory::connect(&hub, victim.store().replica()).await else { panic!() };
    assert!(code == CloseCode::Refused && reason.contains("belongs to another node"), "{reason}");
}

/// A session that is turned away makes nobody the owner of a replica: not of the hub's own, in whose name it could then write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_turned_away_has_claimed_nothing() {
    let (hub, _victim, _topology) = filled("true").await;
    let own = hub.bugs.store().replica();
    assert!(Mallory::connect(&hub, own).await.is_err());
    let others = ReplicaId::from_bytes([0x4f; 16]);
    let filter = Some("teamId == ".to_owned());
    let asks = Hello { request: ViewRequest { filter, ..ViewRequest::default() }, ..hello(others) };
    assert!(Mallory::connect_saying(&hub, &Identity::generate().unwrap(), asks).await.is_err());
    for replica in [own, others] {
        let node = Identity::generate().unwrap().node_id();
        assert_eq!(hub.bugs.store().claim_replica(replica, node).unwrap(), Claim::Granted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_claims_to_have_harms_nobody_else() {
    let (hub, victim, topology) = filled("true").await;
    let before = hub.held();
    let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
    let stamp = at(1, mallory());
    client.entry(id(10), born(stamp), stamp, [("teamId", "web")]);
    client.entry(id(2), Life::default(), stamp, [("teamId", "web")]);
    assert_eq!(client.push(1 << 40, 1 << 40).await.unwrap().len(), 2);
    assert_eq!(hub.held(), before);
    // A claim that goes beyond what can be counted ends the session and changes nothing.
    client.entry(id(11), born(stamp), stamp, [("teamId", "ios")]);
    assert!(client.push(u64::MAX, 0).await.is_err());
    assert_eq!(hub.held(), before);
    // Taking what was never told is no way to get rid of a refusal.
    let mut client = Mallory::connect(&hub, ReplicaId::from_bytes([0x4e; 16])).await.unwrap();
    client.say(&Message::RefusalsTaken(9)).await;
    let closed = loop {
        if let Message::Close(code, _) = client.hear().await {
            break code;
        }
    };
    assert_eq!(closed, CloseCode::Protocol);
    assert!(topology.sync(PATIENCE).await.is_empty());
    assert_eq!(export(&victim), before.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_tells_nothing_of_what_must_not_be_read() {
    let (hub, _victim, _topology) = filled("has(record.visible)").await;
    let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
    let stamp = at(1, mallory());
    // It guesses an id that is there, and one that is not: the answers are the same.
    client.entry(id(1), born(stamp), stamp, [("teamId", "x")]);
    client.entry(id(99), born(stamp), stamp, [("teamId", "x")]);
    let refused = client.push(1, 0).await.unwrap();
    let [there, not_there] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!((there.operation, &there.reason), (not_there.operation, &not_there.reason));
    assert!(there.state.is_none() && not_there.state.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_device_takes_refusals_back_also_those_of_a_former_session() {
    let (hub, _victim, _other) = filled("true").await;
    let key = hub.dir.path().join("identity.key");
    let [identity, same] = [(), ()].map(|()| Identity::load_or_create(&key).unwrap());
    let device = hub.database("honest");
    device.insert_with_id(id(30), bug("web")).unwrap();
    device.insert_with_id(id(31), bug("ios")).unwrap();
    // Its first session ends before it hears what was refused.
    {
        let mut session = Mallory::connect_as(&hub, device.store().replica(), &same).await.unwrap();
        let batch = device.store().feed(0, usize::MAX, &Lens::all(Side::Deliver)).unwrap();
        session.say(&Message::Names(batch.names.clone().into())).await;
        let changes =
            Changes { upto: Some(batch.upto), head: batch.upto, has: 0, compressed: false, data: batch.data };
        session.say(&Message::Changes(changes)).await;
        while !matches!(session.hear().await, Message::Refusals(_)) {}
    }
    assert!(hub.bugs.get(id(30)).unwrap().is_none() && hub.bugs.get(id(31)).unwrap().is_some());
    let mut live = device.query().watch().unwrap();
    let topology = Topology::new(identity);
    let node = topology.register(&device, "bugs").unwrap();
    topology.connect_remote(node, RemoteNode::new(hub.url(), "bugs"), SyncPolicy::new()).await.unwrap();
    assert!(topology.sync(PATIENCE).await.is_empty());
    assert_eq!(export(&device), hub.held().0);
    let rejected = device.rejected().unwrap();
    assert_eq!((rejected.len(), rejected[0].record.id), (1, id(30)));
    assert_eq!(rejected[0].record.fields, bug("web"));
    let mut seen = Vec::new();
    while let Some(event) = live.try_next().unwrap() {
        seen.push(event);
    }
    assert!(seen.contains(&blazedb::LiveEvent::Removed(id(30))), "{seen:?}");
    // A forged edit of its own clock is no way around it either.
    let edit =
        TracedEdit { id: id(2), stamp: at(9, mallory()), op: TracedOp::Update(record! { "title" => "x" }) };
    device.transaction(|tx| tx.apply_traced(&edit)).unwrap();
    assert!(topology.sync(PATIENCE).await.is_empty());
    assert_eq!(device.rejected_count().unwrap(), 2);
    assert_ne!(hub.bugs.get_field(id(2), "title").unwrap(), Some("x".into()));
}

/// The hub shows what is of team `ios`; whatever is asked for, of the other record nothing is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_more_than_is_granted_gets_what_is_granted() {
    let (hub, victim, topology) = filled(r#"record.teamId == "ios""#).await;
    let of_hub = hub.bugs.store().replica();
    let filter = |text: &str| ViewRequest { filter: Some(text.to_owned()), excluded: Vec::new() };
    let everything = filter("true");
    // Policies that ask for it, clocks and places that lie.
    let hellos = [
        Hello { request: everything.clone(), now_ms: u64::MAX, ..hello(mallory()) },
        Hello { request: filter(r#"teamId == "web" || teamId == "ios""#), ..hello(mallory()) },
        Hello { request: filter("has(teamId) || !has(teamId)"), ..hello(mallory()) },
        Hello { checkpoint: Some((of_hub, 0)), ..hello(mallory()) },
        Hello { checkpoint: Some((mallory(), 7)), head: 0, ..hello(mallory()) },
    ];
    for (n, hello) in (0_u8..).zip(hellos) {
        let replica = ReplicaId::from_bytes([0x50 + n; 16]);
        let identity = Identity::generate().unwrap();
        let mut client = Mallory::connect_saying(&hub, &identity, Hello { replica, ..hello }).await.unwrap();
        let last = id(60 + n);
        hub.bugs.insert_with_id(last, bug("ios")).unwrap();
        let (heard, closed) = client.overhear(last).await;
        assert!(closed.is_none() && mentions(&heard, id(2)), "{n}: {closed:?}");
        // It leaves the view of everybody, comes back, and is deleted: none of it is any of its business.
        assert!(!mentions(&heard, id(1)), "{n}");
        // Records are asked for by name, and another configuration by a client that is somebody else.
        client.say(&Message::Held(vec![(id(1), at(0, of_hub))])).await;
        hub.bugs.insert_with_id(id(70 + n), bug("ios")).unwrap();
        let (heard, _) = client.overhear(id(70 + n)).await;
        assert!(!mentions(&heard, id(1)), "{n}");
        client.say(&Message::Want { hashes: vec![[1; 32]], last: true }).await;
        assert_eq!(client.closed().await.0, CloseCode::Protocol);
    }
    let identity = Identity::generate().unwrap();
    let mut client = Mallory::connect_saying(&hub, &identity, hello(mallory())).await.unwrap();
    let other = Hello { request: everything, ..hello(victim.store().replica()) };
    client.say(&Message::Reconfigure(1, other)).await;
    assert_eq!(client.closed().await.0, CloseCode::Protocol);
    assert!(topology.sync(PATIENCE).await.is_empty());
    assert_eq!(export(&victim).len(), 2 + 10);
}

/// It was here, was shown what it may see, and says later that it stands where it began, and wants something else: what was
/// not shown to it is not taken from it either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_here_learns_nothing_by_going_back() {
    let (hub, _victim, _topology) = filled(r#"record.teamId == "ios""#).await;
    let of_hub = hub.bugs.store().replica();
    let identity = Identity::generate().unwrap();
    let mut client = Mallory::connect_saying(&hub, &identity, hello(mallory())).await.unwrap();
    hub.bugs.update(id(1), record! { "title" => "still of another team" }).unwrap();
    let last = id(60);
    hub.bugs.insert_with_id(last, bug("ios")).unwrap();
    let (_, closed) = client.overhear(last).await;
    assert!(closed.is_none());
    // It has everything, and says so; the hub takes note.
    let head = hub.bugs.store().head();
    let count = client.changes;
    client.say(&Message::Ack(count)).await;
    let noted = async {
        while hub.bugs.store().may_stand_at("served", mallory(), head - 1).unwrap() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noted).await.unwrap();
    drop(client);
    for (n, place) in [(0_u8, 0), (1, 1), (2, head - 1)] {
        let request = ViewRequest { filter: Some(format!("title != \"x{n}\"")), excluded: Vec::new() };
        let hello = Hello { checkpoint: Some((of_hub, place)), request, ..hello(mallory()) };
        let mut client = Mallory::connect_saying(&hub, &identity, hello).await.unwrap();
        let last = id(70 + n);
        hub.bugs.insert_with_id(last, bug("ios")).unwrap();
        let (heard, closed) = client.overhear(last).await;
        assert!(closed.is_none() && !mentions(&heard, id(1)), "{place}: {closed:?}");
    }
}

/// A filter of a policy that is none, or nothing that a hub wants to work on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_is_none_is_refused_with_its_reason() {
    let (hub, _victim, _topology) = filled("true").await;
    let deep = "(".repeat(200) + "true" + &")".repeat(200);
    for (n, filter) in (0_u8..).zip(["teamId ==", "user.teams == 1", &deep]) {
        let replica = ReplicaId::from_bytes([0x30 + n; 16]);
        let request = ViewRequest { filter: Some(filter.to_owned()), excluded: Vec::new() };
        let identity = Identity::generate().unwrap();
        let asked = Mallory::connect_saying(&hub, &identity, Hello { request, ..hello(replica) }).await;
        let Err((code, reason)) = asked else { panic!("{filter}") };
        assert!(code == CloseCode::Refused && reason.contains("filter"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_and_clocks_that_lie_end_the_session_and_change_nothing() {
    let (hub, victim, topology) = filled("true").await;
    let before = hub.held();
    let changes = |data: Vec<u8>, compressed| {
        Message::Changes(Changes { upto: Some(1), head: 1, has: 0, compressed, data })
    };
    // Only the side that was connected to takes records away.
    let removal = [&[0x01, 0x02][..], id(2).as_bytes(), &[0x20, 0x02]].concat();
    let bomb = blazedb_core::feed::compress(&vec![0; 64 << 20]).unwrap();
    let cut = [&[0x09, 0x02][..], id(2).as_bytes(), &[0x02]].concat();
    let lies = [
        (changes(removal, false), CloseCode::Protocol),
        (changes(bomb, true), CloseCode::Protocol),
        (changes(cut, false), CloseCode::Protocol),
        (changes(vec![0xff; 64], false), CloseCode::Protocol),
        (Message::Ack(1 << 40), CloseCode::Protocol),
    ];
    for (n, (lie, code)) in (0_u8..).zip(lies) {
        let mut client = Mallory::connect(&hub, ReplicaId::from_bytes([0x60 + n; 16])).await.unwrap();
        client.say(&lie).await;
        let (closed, reason) = client.closed().await;
        assert_eq!(closed, code, "{n}: {reason}");
        assert!(!reason.is_empty());
        assert_eq!(hub.held(), before, "{n}");
    }
    // A stamp from the day after tomorrow would win over everything until then.
    let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
    let far = at(48 * 3_600 * 1_000, mallory());
    client.entry(id(40), born(far), far, [("teamId", "ios")]);
    let (code, reason) = client.push(1, 0).await.unwrap_err();
    assert!(code == CloseCode::ClockDrift && reason.contains("ahead"), "{reason}");
    assert_eq!(hub.held(), before);
    assert!(topology.sync(PATIENCE).await.is_empty());
    assert_eq!(export(&victim), before.0);
}

/// A keyring of somebody's own making, that seals everything from now on and says that these fields have been sent anew.
fn keyring_that_retires(names: &[&str]) -> Message {
    let (secret, random) = (MemberSecret::new(Secret::new([1; 32])), Secret::new([2; 32]));
    let author = || Author { secret: &secret, random: &random, now_ms: 1 };
    let first = Keyring::create(author(), "mallory", None, EncryptionSpec::SmartProxy).unwrap();
    let mut ring = Keyring::begin(&first).unwrap();
    ring.extend(&ring.set_rule(author(), EncryptionSpec::E2eOnly { routing_fields: Vec::new() }).unwrap())
        .unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    ring.extend(&ring.settle(author(), &names).unwrap()).unwrap();
    Message::Keyring(KeyringMessage { head: ring.head(), statements: ring.statements(0).to_vec() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_does_not_begin_a_keyring() {
    let only_reads = AccessSpec { insert: None, update: None, delete: None, ..rules("true") };
    let only_inserts = AccessSpec { update: None, ..rules("true") };
    let says_who = AccessSpec { keys: Some(FilterText::new(r#""admin" in user.roles"#)), ..rules("true") };
    for rules in [only_reads, only_inserts, says_who] {
        let hub = Hub::with(&rules).await;
        hub.bugs.insert_with_id(id(1), bug("ios")).unwrap();
        let before = hub.held();
        let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
        client.say(&keyring_that_retires(&["title", "status", "teamId"])).await;
        let (code, reason) = client.closed().await;
        assert_eq!(code, CloseCode::Refused);
        assert!(reason.contains("keyring"), "{reason}");
        assert!(hub.bugs.store().keyring().is_none());
        assert_eq!(hub.held(), before);
    }
}

/// A member's word makes nobody lose what has not been sent anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_that_all_was_sent_anew_makes_nobody_lose_what_was_not() {
    let (hub, _victim, _topology) = filled("true").await;
    let before = hub.held();
    let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
    client.say(&keyring_that_retires(&["title", "status", "teamId"])).await;
    while hub.bugs.store().keyring().is_none_or(|ring| ring.head().count < 3) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(hub.held(), before);
    hub.bugs.store().scrub().unwrap();
    assert_eq!(hub.held(), before);
}

/// Whoever asks and asks and takes no answer fills nobody's memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_not_listened_to_for_ever() {
    let hub = Hub::start("true").await;
    let mut client = Mallory::connect(&hub, mallory()).await.unwrap();
    let (ping, mut said) = (Message::Ping.encode(), 0_u64);
    let stalled = async {
        loop {
            let say = async {
                client.connection.sender.send(&[&ping]).await.unwrap();
                client.connection.sender.flush().await.unwrap();
            };
            if tokio::time::timeout(Duration::from_secs(3), say).await.is_err() {
                break;
            }
            said += 1;
        }
    };
    tokio::time::timeout(3 * PATIENCE, stalled).await.expect("the hub takes in no more");
    let sessions = |hub: &Hub| hub.listener.stats().open();
    assert_eq!(sessions(&hub), 1);
    // It has a little while to read, and is listened to again.
    let pongs = async {
        let mut heard = 0;
        // The last one may be on its way in pieces.
        while heard + 1 < said {
            heard += u64::from(client.hear().await == Message::Pong);
        }
    };
    tokio::time::timeout(PATIENCE, pongs).await.unwrap();
    assert_eq!(sessions(&hub), 1);
}
