//! Devices and a hub over real sockets: what is written on one is found on all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    AccessRules, Database, FieldEdit, Identity, LinkId, LinkState, Password, RecordId, RemoteNode, SyncMode,
    SyncPolicy, Topology, Value, record,
};
use blazedb_core::topology::ServeMode;
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
    link: LinkId,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn database(&self, name: &str) -> Database {
        Database::open(self.dir.path().join(name), Password::Plaintext).unwrap()
    }

    async fn hub(&self, serve: ServeMode) -> Hub {
        let bugs = self.database("hub.blazedb");
        let served = Served { database: bugs.clone(), serve, access: Arc::new(AccessRules::public()) };
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate().unwrap());
        let served = BTreeMap::from([("bugs".to_owned(), served)]);
        let listener = Listener::bind("127.0.0.1:0", identity, served, options).await.unwrap();
        Hub { listener, bugs }
    }

    async fn device(&self, name: &str, hub: &Hub, mode: SyncMode) -> Device {
        let bugs = self.database(name);
        let topology = Topology::new(Identity::generate().unwrap());
        let node = topology.register(&bugs, "bugs").unwrap();
        let remote = RemoteNode::new(format!("ws://{}", hub.listener.address()), "bugs");
        let link = topology.connect_remote(node, remote, SyncPolicy::new().mode(mode)).await.unwrap();
        Device { bugs, topology, link }
    }
}

impl Device {
    async fn sync(&self) {
        let behind = self.topology.sync(PATIENCE).await;
        assert!(behind.is_empty(), "not caught up: {behind:?}");
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

/// Waits until all databases hold the same.
async fn converge(databases: &[&Database]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let exports: Vec<_> = databases.iter().map(|database| export(database)).collect();
        if exports.windows(2).all(|pair| pair[0] == pair[1]) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no convergence: {exports:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_and_a_hub_hold_the_same() {
    let world = World::new();
    let hub = world.hub(ServeMode::Bidirectional).await;
    // One record is older than the link.
    let early = world.database("a");
    early.insert(record! { "title" => "before the link" }).unwrap();
    drop(early);
    let a = world.device("a", &hub, SyncMode::Bidirectional).await;
    let b = world.device("b", &hub, SyncMode::Bidirectional).await;
    let id = a.bugs.insert(record! { "title" => "crash", "priority" => 8 }).unwrap();
    b.bugs.insert_many((0..500).map(|n| record! { "title" => format!("b{n}"), "n" => n })).unwrap();
    a.sync().await;
    b.sync().await;
    converge(&[&a.bugs, &b.bugs, &hub.bugs]).await;
    assert_eq!(export(&hub.bugs).len(), 502);

    b.bugs.update(id, record! { "priority" => 9 }).unwrap();
    a.bugs.edit(id, &BTreeMap::from([("title".to_owned(), FieldEdit::Unset)])).unwrap();
    a.sync().await;
    b.sync().await;
    converge(&[&a.bugs, &b.bugs, &hub.bugs]).await;
    let record = hub.bugs.get(id).unwrap().unwrap();
    assert_eq!(record.fields, record! { "priority" => 9 });

    b.bugs.delete(id).unwrap();
    b.sync().await;
    converge(&[&a.bugs, &b.bugs, &hub.bugs]).await;
    assert_eq!(hub.bugs.get(id).unwrap(), None);
    a.topology.shutdown().await;
    hub.listener.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modes_are_kept() {
    let world = World::new();
    let hub = world.hub(ServeMode::Bidirectional).await;
    let reader = world.device("reader", &hub, SyncMode::ReadOnly).await;
    let writer = world.device("writer", &hub, SyncMode::WriteOnly).await;
    let local = world.device("local", &hub, SyncMode::LocalOnly).await;
    hub.bugs.insert(record! { "by" => "hub" }).unwrap();
    reader.bugs.insert(record! { "by" => "reader" }).unwrap();
    writer.bugs.insert(record! { "by" => "writer" }).unwrap();
    local.bugs.insert(record! { "by" => "local" }).unwrap();
    reader.sync().await;
    writer.sync().await;
    local.sync().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while export(&reader.bugs).len() < 3 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(export(&hub.bugs).len(), 2, "the hub has its own and the writer's");
    assert_eq!(export(&reader.bugs).len(), 3, "the reader has those and its own");
    assert_eq!(export(&writer.bugs).len(), 1, "the writer has its own");
    assert_eq!(export(&local.bugs).len(), 1);
    assert_eq!(local.topology.links()[0].1.sessions, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_broadcast_takes_no_writes_and_says_why() {
    let world = World::new();
    let hub = world.hub(ServeMode::Broadcast).await;
    hub.bugs.insert(record! { "by" => "hub" }).unwrap();
    let device = world.device("a", &hub, SyncMode::Bidirectional).await;
    device.bugs.insert(record! { "by" => "device" }).unwrap();
    device.sync().await;
    assert_eq!(export(&hub.bugs).len(), 1);
    assert_eq!(export(&device.bugs).len(), 2);
    let (_, status) = device.topology.links().remove(0);
    assert!(status.notice.contains("bugs"), "{}", status.notice);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_served_is_refused_by_name() {
    let world = World::new();
    let hub = world.hub(ServeMode::Bidirectional).await;
    let users = world.database("users");
    let topology = Topology::new(Identity::generate().unwrap());
    let node = topology.register(&users, "users").unwrap();
    let remote = RemoteNode::new(format!("ws://{}", hub.listener.address()), "users");
    topology.connect_remote(node, remote, SyncPolicy::new()).await.unwrap();
    let behind = topology.sync(PATIENCE).await;
    assert_eq!(behind[0].state, LinkState::Refused);
    assert!(behind[0].error.as_ref().unwrap().message.contains("users"), "{behind:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_resumes_and_two_that_never_met_move_only_the_difference() {
    let world = World::new();
    let hub = world.hub(ServeMode::Bidirectional).await;
    let rows: Vec<(RecordId, _)> = (0..2_000u32)
        .map(|n| {
            let mut random = [0; 10];
            random[..4].copy_from_slice(&n.to_be_bytes());
            (
                RecordId::v7(1_700_000_000_000 + u64::from(n), random),
                record! { "n" => n, "text" => "x".repeat(200) },
            )
        })
        .collect();
    let fill = |database: &Database| {
        database.transaction(|tx| rows.iter().try_for_each(|(id, fields)| tx.insert(*id, fields))).unwrap();
    };
    fill(&hub.bugs);
    {
        // The device has all of it before it meets the hub.
        let bugs = world.database("a");
        fill(&bugs);
        bugs.insert(record! { "only" => "here" }).unwrap();
    }
    let device = world.device("a", &hub, SyncMode::Bidirectional).await;
    device.sync().await;
    converge(&[&device.bugs, &hub.bugs]).await;
    let (_, status) = device.topology.links().remove(0);
    let moved = status.traffic.bytes_sent + status.traffic.bytes_received;
    println!("first contact of equal sets moved {moved} bytes");
    assert!(moved < 64 << 10, "moved {moved} bytes");
    // Each side tells the other that the rest is not news to it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    device.topology.remove_connection(device.link).await.unwrap();

    let node = device.topology.databases().remove(0).0;
    let remote = RemoteNode::new(format!("ws://{}", hub.listener.address()), "bugs");
    device.topology.connect_remote(node, remote, SyncPolicy::new()).await.unwrap();
    device.sync().await;
    let (_, status) = device.topology.links().remove(0);
    let moved = status.traffic.bytes_sent + status.traffic.bytes_received;
    println!("a reconnect without changes moved {moved} bytes");
    assert!(moved < 2 << 10, "moved {moved} bytes");
    assert_eq!(device.bugs.query().filter(blazedb::field("n").eq(Value::Int(7))).count().unwrap(), 1);
}
