//! Members and a hub that must not read: what members write is found on all members, and nowhere on the hub.

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
    AccessRules, Database, Encryption, FieldEdit, Fields, Identity, Password, RecordId, RemoteNode, SyncMode,
    SyncPolicy, Topology, Value, record,
};
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::topology::{AccessSpec, FilterText, ServeMode};
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, Served};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    dir: TempDir,
}

struct Hub {
    listener: Listener,
    bugs: Database,
}

struct Device {
    bugs: Database,
    topology: Topology,
}

fn e2e() -> Encryption {
    Encryption::e2e_only(["teamId"])
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn database(&self, name: &str) -> Database {
        Database::open(self.dir.path().join(name), Password::Plaintext).unwrap()
    }

    async fn hub(&self) -> Hub {
        self.hub_with(AccessRules::public()).await
    }

    async fn hub_with(&self, access: AccessRules) -> Hub {
        let bugs = self.database("hub.blazedb");
        let served =
            Served { database: bugs.clone(), serve: ServeMode::Bidirectional, access: Arc::new(access) };
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate().unwrap());
        let served = BTreeMap::from([("bugs".to_owned(), served)]);
        let listener = Listener::bind("127.0.0.1:0", identity, served, options).await.unwrap();
        Hub { listener, bugs }
    }

    fn device(&self, name: &str) -> Device {
        Device { bugs: self.database(name), topology: Topology::new(Identity::generate().unwrap()) }
    }

    /// A device whose keyring is new, linked.
    async fn creator(&self, hub: &Hub) -> Device {
        let device = self.device("creator");
        device.bugs.store().create_keyring("creator", e2e(), None).unwrap();
        device.link(hub, e2e()).await;
        device
    }

    /// A device that joins by an invitation of `inviter`.
    async fn joined(&self, name: &str, hub: &Hub, inviter: &Device, history: bool) -> Device {
        let code = inviter.bugs.store().invite_member(name, history).unwrap();
        inviter.sync().await;
        let device = self.device(name);
        device.bugs.store().join_keyring(&code, name).unwrap();
        device.link(hub, e2e()).await;
        device.sync().await;
        device
    }

    /// All bytes of the hub's files, as they are on disk.
    fn hub_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for suffix in ["", "-wal"] {
            bytes.extend(
                std::fs::read(self.dir.path().join(format!("hub.blazedb{suffix}"))).unwrap_or_default(),
            );
        }
        bytes
    }
}

impl Device {
    async fn link(&self, hub: &Hub, encryption: Encryption) {
        self.link_as(hub, SyncPolicy::new().encryption(encryption)).await;
    }

    async fn link_as(&self, hub: &Hub, policy: SyncPolicy) {
        let node = match self.topology.databases().pop() {
            Some((node, _)) => node,
            None => self.topology.register(&self.bugs, "bugs").unwrap(),
        };
        let remote = RemoteNode::new(format!("ws://{}", hub.listener.address()), "bugs");
        self.topology.connect_remote(node, remote, policy).await.unwrap();
    }

    async fn sync(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let behind = self.topology.sync(Duration::from_secs(1)).await;
            if behind.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not caught up: {behind:#?}");
            self.topology.retry_now();
        }
    }

    fn field(&self, id: RecordId, name: &str) -> Option<Value> {
        self.bugs.get_field(id, name).unwrap()
    }
}

fn export(database: &Database) -> Vec<String> {
    let mut lines = Vec::new();
    database
        .store()
        .export(|record| {
            let mut line = String::new();
            blazedb_core::json::record_to_json_line(&record, &mut line);
            lines.push(line);
            true
        })
        .unwrap();
    lines
}

async fn converge(devices: &[&Device]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        for device in devices {
            device.sync().await;
        }
        let exports: Vec<_> = devices.iter().map(|device| export(&device.bugs)).collect();
        if exports.windows(2).all(|pair| pair[0] == pair[1]) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no convergence: {exports:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn edit(name: &str, edit: FieldEdit) -> BTreeMap<String, FieldEdit> {
    BTreeMap::from([(name.to_owned(), edit)])
}

fn bug() -> Fields {
    let mut fields =
        record! { "MARKERname" => "MARKER-title", "MARKERbody" => "MARKER-body", "teamId" => "ios" };
    fields.insert("votes".to_owned(), Value::Counter(1));
    fields.insert("tags".to_owned(), Value::Set(vec![Value::from("MARKER-tag")]));
    fields
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_merge_through_a_hub_that_reads_nothing() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    let id = a.bugs.insert(bug()).unwrap();
    let many: Vec<_> =
        (0..300).map(|n| record! { "n" => n, "text" => "MARKER-many", "teamId" => "web" }).collect();
    a.bugs.insert_many(many).unwrap();
    a.sync().await;
    let b = world.joined("b", &hub, &a, true).await;
    converge(&[&a, &b]).await;
    assert_eq!(b.field(id, "MARKERname"), Some("MARKER-title".into()));

    // Concurrent edits of different fields, of a counter and of a set.
    a.bugs.update(id, record! { "MARKERname" => "MARKER-by-a" }).unwrap();
    b.bugs.update(id, record! { "MARKERbody" => "MARKER-by-b" }).unwrap();
    for device in [&a, &b] {
        device.bugs.edit(id, &edit("votes", FieldEdit::Increment(5))).unwrap();
    }
    let add = |text: &str| FieldEdit::SetEdit { add: vec![text.into()], remove: vec![] };
    a.bugs.edit(id, &edit("tags", add("MARKER-a"))).unwrap();
    b.bugs.edit(id, &edit("tags", add("MARKER-b"))).unwrap();
    converge(&[&a, &b]).await;
    for device in [&a, &b] {
        assert_eq!(device.field(id, "MARKERname"), Some("MARKER-by-a".into()));
        assert_eq!(device.field(id, "MARKERbody"), Some("MARKER-by-b".into()));
        assert_eq!(device.field(id, "votes"), Some(Value::Counter(11)));
        let Some(Value::Set(tags)) = device.field(id, "tags") else { panic!() };
        assert_eq!(tags.len(), 3);
    }
    // The hub routes by the team, and that is all it can do.
    let on_hub = hub.bugs.get(id).unwrap().unwrap();
    assert_eq!(on_hub.fields, record! { "teamId" => "ios" });
    assert_eq!(
        hub.bugs.query().filter(blazedb::field("teamId").eq(Value::from("web"))).count().unwrap(),
        300
    );
    assert!(contains(&world.hub_bytes(), "ios"), "the search finds what is readable");
    assert!(!contains(&world.hub_bytes(), "MARKER"));

    // A third one that starts from nothing, and deletions.
    b.bugs.delete(id).unwrap();
    let c = world.joined("c", &hub, &b, true).await;
    converge(&[&a, &b, &c]).await;
    assert_eq!(export(&c.bugs).len(), 300);
    assert!(!contains(&world.hub_bytes(), "MARKER"));
    assert!(hub.bugs.verify().unwrap().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_checkpoint_moves_only_the_difference() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    a.bugs.insert_many((0..500).map(|n| record! { "n" => n, "text" => "x".repeat(100) })).unwrap();
    a.sync().await;
    let b = world.joined("b", &hub, &a, true).await;
    b.topology.shutdown().await;
    let copy = world.dir.path().join("restored");
    b.bugs.backup(world.dir.path().join("backup")).unwrap();
    blazedb::restore(&world.dir.path().join("backup"), &copy, &Password::Plaintext).unwrap();
    a.bugs.insert(record! { "n" => -1 }).unwrap();
    a.sync().await;
    let restored = world.device("restored");
    restored.bugs.insert(record! { "n" => -2 }).unwrap();
    restored.link(&hub, e2e()).await;
    converge(&[&a, &restored]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (_, status) = restored.topology.links().remove(0);
    let moved = status.traffic.bytes_sent + status.traffic.bytes_received;
    assert!(moved < 32 << 10, "moved {moved} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_value_is_named_and_the_rest_arrives() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    let bad = a.bugs.insert(record! { "text" => "MARKER-tampered" }).unwrap();
    let good = a.bugs.insert(record! { "text" => "fine" }).unwrap();
    a.sync().await;
    hub.listener.stop().await;
    a.topology.shutdown().await;
    drop(hub);
    {
        // Somebody with the hub's file and password flips a bit at the end of the sealed value.
        let file = world.dir.path().join("hub.blazedb");
        let mut bytes = std::fs::read(&file).unwrap();
        let id = bad.as_bytes();
        let rows = (0..bytes.len() - 100).filter(|at| bytes[*at..].starts_with(id));
        // In the row, not in the index: a sealed history (flags 0x43) comes soon after the id.
        let row = rows.into_iter().find(|at| bytes[at + 16..at + 20].contains(&0x43)).unwrap();
        bytes[row + 16 + 35] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    let hub = world.hub().await;
    let b = world.device("b");
    let code = a.bugs.store().invite_member("b", true).unwrap();
    a.link(&hub, e2e()).await;
    a.sync().await;
    b.bugs.store().join_keyring(&code, "b").unwrap();
    b.link(&hub, e2e()).await;
    b.sync().await;
    assert_eq!(b.field(good, "text"), Some("fine".into()));
    assert_eq!(b.field(bad, "text"), None);
    let unopened = b.bugs.store().unopened().unwrap();
    assert_eq!((unopened.len(), unopened[0].id), (1, bad));
    let (_, status) = b.topology.links().remove(0);
    assert!(
        status.notice.contains(&bad.to_string()) && status.notice.contains("tampered"),
        "{}",
        status.notice
    );
    assert_eq!(a.field(bad, "text"), Some("MARKER-tampered".into()), "nothing is lost where it was written");
    // A newer write heals it.
    a.bugs.update(bad, record! { "text" => "again" }).unwrap();
    converge(&[&a, &b]).await;
    assert!(b.bugs.store().unopened().unwrap().is_empty());
}

/// Where the stamp and the sealed bytes of a record that was inserted and not touched since lie in a file.
fn sealed_row(file: &[u8], id: RecordId) -> (usize, std::ops::Range<usize>) {
    let starts = (0..file.len() - 100).filter(|at| file[*at..].starts_with(id.as_bytes()));
    for start in starts {
        // In the row, not in the index: a sealed history (flags 0x43) comes soon after the id.
        let Some(history) = (16..20).map(|skip| start + skip).find(|at| file[*at] == 0x43) else { continue };
        let mut reader = Reader::new(&file[history + 1..]);
        let mut number = || reader.read_varint().unwrap();
        let [_time, _writer, _epoch, fields] = [number(), number(), number(), number()];
        (0..fields).for_each(|_| assert!(number() < 1_000));
        let len = number() as usize;
        let from = file.len() - reader.remaining();
        return (history + 1, from..from + len);
    }
    panic!("no row");
}

/// A hub that swaps the values of two records, and gives an old value a stamp of another time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_were_swapped_or_stamped_anew_are_named() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    let [one, other, restamped, good] = ["one!", "two!", "old!", "fine"]
        .map(|text| a.bugs.insert(record! { "text" => text, "teamId" => "ios" }).unwrap());
    a.sync().await;
    hub.listener.stop().await;
    a.topology.shutdown().await;
    hub.bugs.release_memory();
    drop(hub);
    {
        let file = world.dir.path().join("hub.blazedb");
        let mut bytes = std::fs::read(&file).unwrap();
        let [(_, first), (_, second)] = [one, other].map(|id| sealed_row(&bytes, id));
        let (mine, theirs) = (bytes[first.clone()].to_vec(), bytes[second.clone()].to_vec());
        assert!(mine.len() == theirs.len() && mine != theirs);
        bytes[first].copy_from_slice(&theirs);
        bytes[second].copy_from_slice(&mine);
        let (stamp, _) = sealed_row(&bytes, restamped);
        // A little later, so that it wins over the true one; in a middle byte of the time: the length stays.
        let (at, bit) = (stamp + 3..stamp + 6)
            .flat_map(|at| (0..7).map(move |bit| (at, 1_u8 << bit)))
            .find(|(at, bit)| bytes[*at] & bit == 0)
            .unwrap();
        bytes[at] |= bit;
        std::fs::write(&file, bytes).unwrap();
    }
    let hub = world.hub().await;
    let code = a.bugs.store().invite_member("b", true).unwrap();
    a.link(&hub, e2e()).await;
    a.sync().await;
    let b = world.device("b");
    b.bugs.store().join_keyring(&code, "b").unwrap();
    b.link(&hub, e2e()).await;
    b.sync().await;
    assert_eq!(b.field(good, "text"), Some("fine".into()));
    let unopened = b.bugs.store().unopened().unwrap();
    for id in [one, other, restamped] {
        assert_eq!(b.field(id, "text"), None);
        let named = unopened.iter().find(|record| record.id == id);
        assert!(named.is_some_and(|record| record.reason.contains("tampered")), "{id}: {unopened:?}");
    }
    let notice = b.topology.links().remove(0).1.notice;
    assert!(notice.contains("3 record(s)") && notice.contains("tampered"), "{notice}");
    for (id, text) in [(one, "one!"), (other, "two!"), (restamped, "old!")] {
        assert_eq!(a.field(id, "text"), Some(text.into()), "nothing is lost where it was written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_reads_nothing_new_and_the_others_read_all() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    let old = a.bugs.insert(record! { "text" => "before" }).unwrap();
    let b = world.joined("b", &hub, &a, true).await;
    let c = world.joined("c", &hub, &a, true).await;
    converge(&[&a, &b, &c]).await;
    // `c` is away during the removal and writes meanwhile.
    c.topology.shutdown().await;
    let meanwhile = c.bugs.insert(record! { "text" => "by c, with the old key" }).unwrap();
    a.bugs.store().remove_members(&[b.bugs.store().member_id().unwrap()]).unwrap();
    let new = a.bugs.insert(record! { "text" => "after the removal" }).unwrap();
    a.sync().await;
    c.link(&hub, e2e()).await;
    converge(&[&a, &c]).await;
    assert_eq!(c.field(new, "text"), Some("after the removal".into()));
    assert_eq!(a.field(meanwhile, "text"), Some("by c, with the old key".into()));
    // The removed device has its file and all its keys, and whatever the hub can give it.
    assert_eq!(b.field(old, "text"), Some("before".into()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    while tokio::time::Instant::now() < deadline {
        assert_eq!(b.field(new, "text"), None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = b.topology.links().remove(0).1;
    assert!(!status.caught_up, "{status:?}");
    let sealer = b.bugs.store().sealer().unwrap();
    assert!(!sealer.is_active());
    assert_eq!(sealer.keys().epochs().max(), Some(1));

    // A member without history reads what is written from now on.
    let d = world.joined("d", &hub, &a, false).await;
    let later = a.bugs.insert(record! { "text" => "for d as well" }).unwrap();
    a.sync().await;
    d.sync().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while d.field(later, "text").is_none() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((d.field(old, "text"), d.field(new, "text")), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_nothing_is_shown_and_the_link_says_what_is_missing() {
    let world = World::new();
    let hub = world.hub().await;
    let device = world.device("keyless");
    device.bugs.insert(record! { "text" => "MARKER" }).unwrap();
    device.link(&hub, e2e()).await;
    let behind = device.topology.sync(Duration::from_secs(5)).await;
    let error = behind[0].error.as_ref().unwrap();
    assert!(error.refused && error.message.contains("key create"), "{error}");
    assert!(export(&hub.bugs).is_empty());
    // A device that would send readable values to a sealed database is refused by the hub.
    let a = world.creator(&hub).await;
    a.sync().await;
    let careless = world.device("careless");
    careless.bugs.insert(record! { "text" => "MARKER" }).unwrap();
    careless.link(&hub, Encryption::SmartProxy).await;
    let behind = careless.topology.sync(Duration::from_secs(2)).await;
    assert!(!behind.is_empty());
    assert!(!contains(&world.hub_bytes(), "MARKER"));
}

/// The first session brings the new keyring to the hub and nothing else; for a moment it is open, and the keys are good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_for_the_keys_alone_is_not_taken_for_one_that_has_caught_up() {
    let world = World::new();
    let hub = world.hub().await;
    let device = world.device("a");
    device.bugs.insert(bug()).unwrap();
    device.bugs.store().create_keyring("a", e2e(), None).unwrap();
    device.link(&hub, e2e()).await;
    wait("it is caught up", || device.topology.links().remove(0).1.caught_up).await;
    assert_eq!(hub.bugs.query().count().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_database_is_sealed_in_place_and_opened_again() {
    let world = World::new();
    let hub = world.hub().await;
    let (a, b) = (world.device("a"), world.device("b"));
    for device in [&a, &b] {
        device.link(&hub, Encryption::SmartProxy).await;
    }
    let id = a.bugs.insert(bug()).unwrap();
    a.bugs
        .insert_many((0..200).map(|n| record! { "n" => n, "MARKERname" => "MARKER", "teamId" => "ios" }))
        .unwrap();
    converge(&[&a, &b]).await;
    // A conflict, and a record that is gone: both leave traces on the hub.
    a.bugs.edit(id, &edit("votes", FieldEdit::Increment(1))).unwrap();
    let adds = FieldEdit::SetEdit { add: vec!["MARKER-label".into()], remove: vec!["MARKER-tag".into()] };
    b.sync().await;
    a.bugs.edit(id, &edit("tags", adds)).unwrap();
    a.bugs.edit(id, &edit("MARKERnote", FieldEdit::Set("MARKER-note".into()))).unwrap();
    a.bugs.edit(id, &edit("MARKERnote", FieldEdit::Unset)).unwrap();
    let gone = b.bugs.insert(record! { "MARKERname" => "MARKER-gone" }).unwrap();
    converge(&[&a, &b]).await;
    b.bugs.delete(gone).unwrap();
    converge(&[&a, &b]).await;
    assert!(contains(&world.hub_bytes(), "MARKER"), "the search finds it");

    // The keyring comes first, sealing nothing yet; both are members.
    a.bugs.store().create_keyring("a", Encryption::SmartProxy, None).unwrap();
    let code = a.bugs.store().invite_member("b", true).unwrap();
    a.sync().await;
    b.sync().await;
    wait("the keyring reaches b", || b.bugs.store().keyring().is_some_and(|ring| ring.head().count == 2))
        .await;
    b.bugs.store().join_keyring(&code, "b").unwrap();
    converge(&[&a, &b]).await;
    let joined = |device: &Device| device.bugs.store().keyring().unwrap().head().count == 3;
    wait("a knows b", || joined(&a)).await;

    // `b` is away while `a` switches, and has changes of its own.
    b.topology.shutdown().await;
    let late = b.bugs.insert(record! { "MARKERname" => "MARKER-late" }).unwrap();
    change_rule(&hub, &a, e2e()).await;
    wait("the hub has dropped it", || hub.bugs.store().needs_scrub()).await;
    b.link(&hub, e2e()).await;
    converge(&[&a, &b]).await;
    assert_eq!(a.field(late, "MARKERname"), Some("MARKER-late".into()));
    assert_eq!(b.field(id, "MARKERbody"), Some("MARKER-body".into()));
    hub.bugs.store().scrub().unwrap();
    assert!(!hub.bugs.store().needs_scrub());
    let bytes = world.hub_bytes();
    let left: Vec<String> = (0..bytes.len().saturating_sub(30))
        .filter(|at| bytes[*at..].starts_with(b"MARKER"))
        .map(|at| String::from_utf8_lossy(&bytes[at..at + 30]).into_owned())
        .take(5)
        .collect();
    assert!(left.is_empty(), "left in file, log and free pages: {left:?}");
    assert!(hub.bugs.verify().unwrap().problems.is_empty());
    assert_eq!(hub.bugs.get(id).unwrap().unwrap().fields, record! { "teamId" => "ios" });

    // And back.
    open_again(&hub, &a, &b).await;
    a.bugs.update(id, record! { "MARKERname" => "open again" }).unwrap();
    converge(&[&a, &b]).await;
}

/// A member says what is sealed from now on, while its link is open, sends all of it anew, and says that it is done.
async fn change_rule(hub: &Hub, member: &Device, rule: Encryption) {
    member.bugs.store().set_seal_rule(rule.clone()).unwrap();
    member.topology.shutdown().await;
    member.link(hub, rule).await;
    member.sync().await;
    member.bugs.store().settle_seal_rule().unwrap();
    member.sync().await;
}

/// What two members have sealed is sent readable again.
async fn open_again(hub: &Hub, a: &Device, b: &Device) {
    b.topology.shutdown().await;
    change_rule(hub, a, Encryption::SmartProxy).await;
    b.link(hub, Encryption::SmartProxy).await;
    converge(&[a, b]).await;
    wait("the hub reads again", || export(&hub.bugs) == export(&a.bugs)).await;
}

async fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two devices join and a third one rotates, all without the hub: whoever comes later says it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_the_keyring_that_cross_are_all_made() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    let b = world.joined("b", &hub, &a, true).await;
    converge(&[&a, &b]).await;
    for device in [&a, &b] {
        device.topology.shutdown().await;
    }
    a.bugs.store().rotate_keys().unwrap();
    b.bugs.store().rotate_keys().unwrap();
    let code = b.bugs.store().invite_member("c", false).unwrap();
    let (by_a, by_b) = (record! { "text" => "a" }, record! { "text" => "b" });
    a.bugs.insert(by_a).unwrap();
    b.bugs.insert(by_b).unwrap();
    a.link(&hub, e2e()).await;
    a.sync().await;
    b.link(&hub, e2e()).await;
    converge(&[&a, &b]).await;
    assert_eq!(export(&a.bugs).len(), 2);
    assert_eq!(
        a.bugs.store().keyring().unwrap().epoch(),
        4,
        "two rotations and an invitation without history"
    );
    let c = world.device("c");
    c.bugs.store().join_keyring(&code, "c").unwrap();
    c.link(&hub, e2e()).await;
    c.sync().await;
    let id = a.bugs.insert(record! { "text" => "for all" }).unwrap();
    a.sync().await;
    wait("c reads it", || c.field(id, "text").is_some()).await;
}

/// The hub decides by what it can read, and sends back what it can't: the device opens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_to_a_sealed_record_is_taken_back() {
    let world = World::new();
    let rule = |text: &str| Some(FilterText::new(text));
    let rules = AccessSpec {
        public: false,
        connect: rule("true"),
        read: rule("true"),
        insert: rule(r#"record.teamId == "ios""#),
        update: rule("old.teamId == record.teamId"),
        delete: None,
        relay: None,
        keys: None,
    };
    let hub = world.hub_with(AccessRules::compile(&rules).unwrap()).await;
    let a = world.creator(&hub).await;
    let id = a.bugs.insert(bug()).unwrap();
    a.sync().await;
    a.bugs.update(id, record! { "MARKERname" => "MARKER-lost", "teamId" => "web" }).unwrap();
    let other = a.bugs.insert(record! { "MARKERname" => "MARKER-never", "teamId" => "web" }).unwrap();
    a.sync().await;
    wait("both are taken back", || a.bugs.rejected_count().unwrap() == 2).await;
    assert_eq!(a.field(id, "MARKERname"), Some("MARKER-title".into()));
    assert_eq!(a.field(id, "votes"), Some(Value::Counter(1)));
    assert_eq!((a.field(id, "teamId"), a.bugs.get(other).unwrap()), (Some("ios".into()), None));
    let rejected = a.bugs.rejected().unwrap();
    assert_eq!(rejected[0].record.fields["MARKERname"], "MARKER-lost".into());
    assert!(a.bugs.store().unopened().unwrap().is_empty());
    // The next one goes through, sealed.
    a.bugs.update(id, record! { "MARKERname" => "MARKER-kept" }).unwrap();
    a.sync().await;
    let b = world.joined("b", &hub, &a, true).await;
    converge(&[&a, &b]).await;
    assert_eq!(b.field(id, "MARKERname"), Some("MARKER-kept".into()));
    assert!(!contains(&world.hub_bytes(), "MARKER"));
}

fn ticket(n: i64) -> Fields {
    let state = ["waiting for the customer", "waiting for a vendor", "resolved"][(n % 3) as usize];
    record! {
        "n" => n, "state" => state, "office" => format!("office number {} on floor {}", n % 41, n % 7),
        "subject" => format!("printer {} does not print after the update", n * 7 % 400), "teamId" => "ios",
    }
}

fn readable_bytes(fields: &Fields) -> usize {
    fields.values().map(|value| format!("{value:?}").len()).sum()
}

/// Many records: a member makes a dictionary for its keyring, and what travels is a fraction of what it is sealed from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_travel_and_lie_compressed_under_their_seal() {
    const COUNT: i64 = 3_000;
    let world = World::new();
    let hub = world.hub().await;
    let device = world.device("creator");
    device.bugs.store().create_keyring("creator", e2e(), None).unwrap();
    device.bugs.insert_many((0..COUNT).map(ticket)).unwrap();
    device.link(&hub, e2e()).await;
    device.sync().await;
    let b = world.joined("b", &hub, &device, true).await;
    converge(&[&device, &b]).await;
    assert_eq!(export(&b.bugs).len(), COUNT as usize);
    let holders = [&device.bugs, &hub.bugs, &b.bugs].map(|database| database.store().keyring().unwrap());
    assert!(holders.iter().all(|keyring| keyring.has_dictionary()), "it is in everybody's keyring");
    let plain: usize = (0..COUNT).map(|n| readable_bytes(&ticket(n))).sum();
    let (_, status) = device.topology.links().remove(0);
    let sent = status.traffic.bytes_sent as usize;
    assert!(sent < plain / 2, "{sent} bytes for {plain}");
    // It is of the one who made it, once: who comes later finds it there.
    assert!(!b.bugs.store().share_dictionary().unwrap());
    // Later writes use it as well, and single fields of them; the other way too.
    let id = b.bugs.insert(ticket(7_000)).unwrap();
    device.sync().await;
    converge(&[&device, &b]).await;
    device.bugs.update(id, record! { "subject" => "printer 8 does not print after the restart" }).unwrap();
    converge(&[&device, &b]).await;
    assert_eq!(b.field(id, "subject"), Some("printer 8 does not print after the restart".into()));
    assert!(
        !contains(&world.hub_bytes(), "does not print after"),
        "not in the dictionary that it keeps either"
    );
}

/// What a link sends that does not compress is not compressed under its seal either, as soon as it stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_does_not_compress_leaves_sealed_values_as_long_as_they_are() {
    const COUNT: i64 = 1_500;
    let world = World::new();
    let hub = world.hub().await;
    let device = world.device("creator");
    device.bugs.store().create_keyring("creator", e2e(), None).unwrap();
    device.bugs.insert_many((0..COUNT).map(ticket)).unwrap();
    device.link_as(&hub, SyncPolicy::new().encryption(e2e()).compression(false)).await;
    device.sync().await;
    assert!(!device.bugs.store().keyring().unwrap().has_dictionary(), "nobody needs one");
    assert!(device.bugs.store().share_dictionary().unwrap());
    let sent = || device.topology.links().remove(0).1.traffic.bytes_sent as usize;
    let long = sent();
    let plain: usize = (0..COUNT).map(|n| readable_bytes(&ticket(n))).sum();
    assert!(long > plain, "{long} bytes for {plain}");
    device.topology.update_policy(&device.bugs, |policy| policy.compression(true)).await.unwrap();
    device.bugs.insert_many((0..COUNT).map(ticket)).unwrap();
    device.sync().await;
    let short = sent() - long;
    assert!(short < long / 2, "{short} bytes after {long}");
    device.topology.update_policy(&device.bugs, |policy| policy.compression(false)).await.unwrap();
    device.bugs.insert_many((0..COUNT).map(ticket)).unwrap();
    device.sync().await;
    let again = sent() - long - short;
    assert!(again > plain, "{again} bytes for {plain}");
    let b = world.joined("b", &hub, &device, true).await;
    converge(&[&device, &b]).await;
    assert_eq!(export(&b.bugs).len(), 3 * COUNT as usize);
}

/// An epoch that has no dictionary yet, and two members that each say one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_dictionaries_at_once_one_stays_and_all_opens() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    a.bugs.insert_many((0..1_500).map(ticket)).unwrap();
    a.sync().await;
    let b = world.joined("b", &hub, &a, true).await;
    converge(&[&a, &b]).await;
    a.bugs.store().rotate_keys().unwrap();
    converge(&[&a, &b]).await;
    // Cut off from each other, both begin an epoch, in which there is none yet.
    for device in [&a, &b] {
        device.topology.shutdown().await;
        device.bugs.store().rotate_keys().unwrap();
        assert!(device.bugs.store().share_dictionary().unwrap());
    }
    let said = [&a, &b].map(|device| device.bugs.store().keyring().unwrap());
    assert!(said.iter().all(|keyring| keyring.has_dictionary()) && said[0].head() != said[1].head());
    let relinked = async |device: Device| {
        let device = Device { bugs: device.bugs, topology: Topology::new(Identity::generate().unwrap()) };
        device.link(&hub, e2e()).await;
        device.sync().await;
        device
    };
    let (a, b) = (relinked(a).await, relinked(b).await);
    let from_a = a.bugs.insert(ticket(2_000)).unwrap();
    let from_b = b.bugs.insert(ticket(2_001)).unwrap();
    converge(&[&a, &b]).await;
    assert_eq!(b.field(from_a, "n"), Some(2_000.into()));
    assert_eq!(a.field(from_b, "n"), Some(2_001.into()));
    let heads = [&a.bugs, &b.bugs, &hub.bugs].map(|database| database.store().keyring().unwrap().head());
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
    assert!(a.bugs.store().unopened().unwrap().is_empty() && b.bugs.store().unopened().unwrap().is_empty());
}

/// A star whose parent has no key: it decides by who came first, and can't write what it can't read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_an_authority_what_is_sealed_stands_and_the_later_write_is_kept_as_rejected() {
    let world = World::new();
    let hub = world.hub().await;
    let star = || SyncPolicy::new().encryption(e2e()).pattern("star").authority(true);
    let (a, b) = (world.device("a"), world.device("b"));
    a.bugs.store().create_keyring("a", e2e(), None).unwrap();
    let code = a.bugs.store().invite_member("b", true).unwrap();
    let id = a.bugs.insert(bug()).unwrap();
    a.link_as(&hub, star()).await;
    a.sync().await;
    b.bugs.store().join_keyring(&code, "b").unwrap();
    b.link_as(&hub, star()).await;
    converge(&[&a, &b]).await;

    // Apart, both write one field, and each one that the other leaves alone.
    for device in [&a, &b] {
        device.topology.shutdown().await;
    }
    a.bugs.update(id, record! { "MARKERname" => "MARKER-by-a" }).unwrap();
    // Later by the clock: of two writes of one millisecond the replica's id decides which one is the later.
    tokio::time::sleep(Duration::from_millis(5)).await;
    b.bugs.update(id, record! { "MARKERname" => "MARKER-by-b" }).unwrap();
    let other = b.bugs.insert(record! { "MARKERname" => "MARKER-new", "teamId" => "ios" }).unwrap();
    a.link_as(&hub, star()).await;
    a.sync().await;
    b.link_as(&hub, star()).await;
    wait("b is told", || b.bugs.rejected_count().unwrap() == 1).await;
    converge(&[&a, &b]).await;
    for device in [&a, &b] {
        assert_eq!(device.field(id, "MARKERname"), Some("MARKER-by-a".into()), "who came first");
        assert_eq!(device.field(other, "MARKERname"), Some("MARKER-new".into()));
        assert!(device.bugs.store().unopened().unwrap().is_empty());
    }
    let rejected = b.bugs.rejected().unwrap();
    assert_eq!(rejected[0].record.fields["MARKERname"], "MARKER-by-b".into());
    assert!(rejected[0].reason.contains("sealed"), "{}", rejected[0].reason);

    // Having seen what stands, it may write again.
    b.bugs.update(id, record! { "MARKERname" => "MARKER-b-again" }).unwrap();
    converge(&[&a, &b]).await;
    assert_eq!(a.field(id, "MARKERname"), Some("MARKER-b-again".into()));
    assert!(!contains(&world.hub_bytes(), "MARKER"));
}

/// Mode and filter of a sealed database change at once, on the session that is open; then so does what is sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_database_changes_mode_filter_and_encryption_while_it_runs() {
    let world = World::new();
    let hub = world.hub().await;
    let a = world.creator(&hub).await;
    let b = world.joined("b", &hub, &a, true).await;
    let insert = |team: &str, n: i64| {
        let fields = record! { "title" => "MARKER", "n" => n, "teamId" => team };
        a.bugs.insert(fields).unwrap()
    };
    let ids: Vec<RecordId> = ["ios", "web"]
        .into_iter()
        .flat_map(|team| (0..20).map(move |n| (team, n)))
        .map(|(team, n)| insert(team, n))
        .collect();
    converge(&[&a, &b]).await;
    let sessions = || b.topology.links().remove(0).1.sessions;
    let before = sessions();

    // Read only, one team, both from one moment on.
    let ios = || SyncPolicy::new().encryption(e2e()).filter(blazedb::field("teamId").eq(Value::from("ios")));
    b.topology.reconfigure(&b.bugs, |_| ios().mode(SyncMode::ReadOnly)).await.unwrap();
    wait("the other team leaves", || b.bugs.query().count().unwrap() == 20).await;
    let own = b.bugs.insert(record! { "title" => "MARKER-own", "teamId" => "ios" }).unwrap();
    a.bugs.update(ids[0], record! { "title" => "MARKER-2" }).unwrap();
    wait("what it may see goes on", || b.field(ids[0], "title") == Some("MARKER-2".into())).await;
    assert_eq!(hub.bugs.get(own).unwrap(), None, "it sends nothing");
    b.topology.reconfigure(&b.bugs, |_| SyncPolicy::new().encryption(e2e())).await.unwrap();
    converge(&[&a, &b]).await;
    assert_eq!((b.bugs.query().count().unwrap(), sessions()), (41, before), "on the session that was open");

    // The keyring's rule and the policies change while both write; mode and filter of one of them as well.
    let sealed = || Encryption::seal(["title"]);
    a.bugs.store().set_seal_rule(sealed()).unwrap();
    a.topology.update_policy(&a.bugs, |policy| policy.encryption(sealed())).await.unwrap();
    let late = b.bugs.insert(record! { "title" => "MARKER-late", "n" => 7, "teamId" => "ios" }).unwrap();
    let policy = || ios().encryption(sealed());
    b.topology.reconfigure(&b.bugs, |_| policy().mode(SyncMode::WriteOnly)).await.unwrap();
    wait("it arrives", || a.field(late, "title") == Some("MARKER-late".into())).await;
    b.topology.reconfigure(&b.bugs, |_| SyncPolicy::new().encryption(sealed())).await.unwrap();
    converge(&[&a, &b]).await;
    assert_eq!(b.bugs.query().count().unwrap(), 42);
    a.bugs.store().settle_seal_rule().unwrap();
    converge(&[&a, &b]).await;
    wait("the hub reads what is open now", || {
        hub.bugs.query().filter(blazedb::field("n").eq(Value::Int(7))).count().unwrap() == 3
    })
    .await;
    assert!(!contains(&world.hub_bytes(), "MARKER"));
}

/// Records that several have written are sealed in place also where nobody may bring the writes of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_have_written_is_sealed_in_place_under_rules() {
    let world = World::new();
    let rule = |text: &str| Some(FilterText::new(text));
    let rules = AccessSpec {
        connect: rule("true"),
        read: rule("true"),
        insert: rule("true"),
        update: rule(r#"old.teamId == record.teamId && old.teamId != "closed""#),
        delete: rule("true"),
        ..AccessSpec::default()
    };
    let hub = world.hub_with(AccessRules::compile(&rules).unwrap()).await;
    let (a, b) = (world.device("a"), world.device("b"));
    for device in [&a, &b] {
        device.link(&hub, Encryption::SmartProxy).await;
    }
    // Nobody may change this one any more, not even its form: nothing of it is lost, and nobody is told of a refusal.
    let closed = a.bugs.insert(record! { "teamId" => "closed", "note" => "as it was" }).unwrap();
    let (of_a, of_b) = (a.bugs.insert(bug()).unwrap(), b.bugs.insert(bug()).unwrap());
    converge(&[&a, &b]).await;
    a.bugs.update(of_b, record! { "MARKERbody" => "MARKER of a" }).unwrap();
    b.bugs.update(of_a, record! { "MARKERname" => "MARKER of b" }).unwrap();
    b.bugs.edit(of_a, &edit("votes", FieldEdit::Increment(1))).unwrap();
    converge(&[&a, &b]).await;
    a.bugs.store().create_keyring("a", Encryption::SmartProxy, None).unwrap();
    let code = a.bugs.store().invite_member("b", true).unwrap();
    a.sync().await;
    b.bugs.store().join_keyring(&code, "b").unwrap();
    converge(&[&a, &b]).await;
    wait("b is a member", || b.bugs.store().sealer().is_some_and(|sealer| sealer.is_active())).await;
    let joined = |device: &Device| device.bugs.store().keyring().unwrap().head().count == 3;
    wait("a knows b", || joined(&a)).await;
    b.topology.shutdown().await;
    change_rule(&hub, &a, e2e()).await;
    b.link(&hub, e2e()).await;
    converge(&[&a, &b]).await;
    for device in [&a, &b] {
        assert_eq!(device.bugs.rejected_count().unwrap(), 0, "{:?}", device.bugs.rejected().unwrap());
        assert_eq!(device.field(of_a, "MARKERname"), Some("MARKER of b".into()));
        assert_eq!(device.field(of_a, "votes"), Some(Value::Counter(2)));
    }
    hub.bugs.store().scrub().unwrap();
    assert!(!contains(&world.hub_bytes(), "MARKER"));
    assert_eq!(hub.bugs.get_field(closed, "note").unwrap(), Some("as it was".into()));
    // And back.
    open_again(&hub, &a, &b).await;
    assert_eq!((a.bugs.rejected_count().unwrap(), b.bugs.rejected_count().unwrap()), (0, 0));
}
