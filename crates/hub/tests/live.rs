//! Links that change while they are open, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    Database, Filter, Identity, LinkStatus, Password, RecordId, RemoteNode, SyncMode, SyncPolicy, Topology,
    record,
};
use blazedb_core::topology::ServeMode;
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, Served};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    _dir: TempDir,
    _listener: Listener,
    hub: Database,
    device: Database,
    topology: Topology,
}

impl World {
    async fn new(policy: SyncPolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Database::open(dir.path().join(name), Password::Plaintext).unwrap();
        let (hub, device) = (open("hub"), open("device"));
        let served = Served {
            database: hub.clone(),
            serve: ServeMode::Bidirectional,
            access: std::sync::Arc::new(blazedb_core::access::AccessRules::public()),
        };
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate().unwrap());
        let served = BTreeMap::from([("bugs".to_owned(), served)]);
        let listener = Listener::bind("127.0.0.1:0", identity, served, options).await.unwrap();
        let topology = Topology::new(Identity::generate().unwrap());
        let node = topology.register(&device, "bugs").unwrap();
        let remote = RemoteNode::new(format!("ws://{}", listener.address()), "bugs");
        topology.connect_remote(node, remote, policy).await.unwrap();
        Self { _dir: dir, _listener: listener, hub, device, topology }
    }

    async fn synced(&self) {
        let behind = self.topology.sync(PATIENCE).await;
        assert!(behind.is_empty(), "{behind:?}");
    }

    fn link(&self) -> LinkStatus {
        self.topology.links().remove(0).1
    }

    /// Waits until the configuration that was asked for last holds, and everything is where it belongs.
    async fn at_epoch(&self, epoch: u64) {
        for _ in 0..2_000 {
            if self.link().session.epoch >= epoch {
                return self.synced().await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?}", self.link());
    }
}

fn levels(database: &Database) -> BTreeSet<(RecordId, i64)> {
    let mut levels = BTreeSet::new();
    let level = |record: &blazedb::Record| match record.fields.get("level") {
        Some(blazedb::Value::Int(level)) => *level,
        other => panic!("{other:?}"),
    };
    database
        .store()
        .export(|record| {
            levels.insert((record.id, level(&record)));
            true
        })
        .unwrap();
    levels
}

fn filter(text: &str) -> SyncPolicy {
    SyncPolicy::new().filter(Filter::parse(text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_waits_for_what_the_other_side_had_when_it_was_called() {
    let world = World::new(SyncPolicy::new()).await;
    world.synced().await;
    for level in 0..200 {
        world.hub.insert(record! { "level" => level }).unwrap();
        world.synced().await;
        assert_eq!(world.device.query().count().unwrap(), level as u64 + 1);
    }
    // Nothing of what is written there concerns this view.
    world.topology.update_policy(&world.device, |_| filter("level < 0")).await.unwrap();
    world.at_epoch(1).await;
    for level in 0..10 {
        world.hub.insert(record! { "level" => level }).unwrap();
        world.synced().await;
        assert!(world.device.query().count().unwrap() == 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mode_and_filter_change_on_the_open_session() {
    let world = World::new(SyncPolicy::new()).await;
    for level in 0..10 {
        world.hub.insert(record! { "level" => level }).unwrap();
    }
    world.synced().await;
    assert_eq!(levels(&world.device).len(), 10);

    world.topology.reconfigure(&world.device, |policy| policy.mode(SyncMode::ReadOnly)).await.unwrap();
    world.at_epoch(1).await;
    world.device.insert(record! { "level" => 100 }).unwrap();
    world.hub.insert(record! { "level" => 50 }).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((world.hub.query().count().unwrap(), world.device.query().count().unwrap()), (11, 12));

    world.topology.update_policy(&world.device, |_| filter("level > 4")).await.unwrap();
    world.at_epoch(2).await;
    let shown: Vec<i64> =
        levels(&world.device).into_iter().map(|(_, level)| level).filter(|l| *l < 100).collect();
    assert_eq!(shown.len(), 6, "{shown:?}");
    assert!(shown.iter().all(|level| *level > 4), "{shown:?}");

    world.topology.reconfigure(&world.device, |_| SyncPolicy::new()).await.unwrap();
    world.at_epoch(3).await;
    assert_eq!(levels(&world.device), levels(&world.hub));
    assert_eq!(levels(&world.hub).len(), 12);
    let link = world.link();
    assert_eq!((link.sessions, link.session.epoch), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_switches_under_load_lose_nothing() {
    let world = World::new(SyncPolicy::new()).await;
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let filters = ["level > 4", "level <= 4", "level in [1, 5, 9]"];
    let mut written = BTreeSet::new();
    for _ in 0..200 {
        let mode = [SyncMode::Bidirectional, SyncMode::ReadOnly, SyncMode::WriteOnly][random(3) as usize];
        let policy = match random(4) {
            0 => SyncPolicy::new(),
            pick => filter(filters[pick as usize - 1]),
        };
        world.topology.reconfigure(&world.device, |_| policy.clone().mode(mode)).await.unwrap();
        for _ in 0..random(4) {
            let level = random(10) as i64;
            let database = if random(2) == 0 { &world.hub } else { &world.device };
            written.insert(database.insert(record! { "level" => level }).unwrap());
        }
        if random(3) == 0 {
            let ids: Vec<_> = levels(&world.device).into_iter().map(|(id, _)| id).collect();
            if let Some(id) = ids.get(random(ids.len().max(1) as u64) as usize) {
                // It may have left meanwhile.
                let _ = world.device.update(*id, record! { "level" => random(10) as i64 });
            }
        }
        tokio::time::sleep(Duration::from_millis(random(25))).await;
    }
    world.topology.reconfigure(&world.device, |_| SyncPolicy::new()).await.unwrap();
    // Until the last switch has come through, both may be done with what the one before asks for.
    until("everything is on both", || levels(&world.hub) == levels(&world.device)).await;
    world.synced().await;
    let (hub, device) = (levels(&world.hub), levels(&world.device));
    assert_eq!(hub, device);
    assert_eq!(hub.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), written);
    let link = world.link();
    assert!(link.session.epoch > 20, "{link:?}");
    assert_eq!(link.sessions, 1, "{link:?}");
}

fn in_seconds(seconds: i64) -> blazedb::Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
    blazedb::Value::Timestamp(blazedb::Timestamp(now + seconds * 1_000_000))
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Time passes, nobody writes anything: records leave, and others come, in both directions and on the open session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_over_time_is_followed_without_a_new_session() {
    let world = World::new(filter("at <= now && until > now")).await;
    let at = |from: i64, until: i64| record! { "at" => in_seconds(from), "until" => in_seconds(until) };
    let leaves = world.hub.insert(at(-60, 3)).unwrap();
    let stays = world.hub.insert(at(-60, 3_600)).unwrap();
    let comes = world.hub.insert(at(4, 3_600)).unwrap();
    let goes_there = world.device.insert(at(5, 3_600)).unwrap();
    world.synced().await;
    let has = |database: &Database, id| database.get(id).unwrap().is_some();
    assert!(has(&world.device, stays));
    until("what is over leaves", || !has(&world.device, leaves)).await;
    until("what begins comes", || has(&world.device, comes)).await;
    until("and goes to the hub", || has(&world.hub, goes_there)).await;
    // The hub may see it as it was a moment ago, take it from the device and give it back.
    until("and stays on the device", || has(&world.device, goes_there)).await;
    assert!(has(&world.device, stays) && has(&world.hub, leaves));
    let why = world.device.store().why_removed(leaves).unwrap();
    assert_eq!(why, Some(blazedb::RemovalReason::LeftFilter));
    assert_eq!((world.link().sessions, world.link().session.epoch), (1, 0));
    // It goes on as before.
    world.hub.update(stays, record! { "note" => "still here" }).unwrap();
    world.hub.update(leaves, record! { "note" => "not seen" }).unwrap();
    until("changes arrive", || world.device.get_field(stays, "note").unwrap().is_some()).await;
    assert!(!has(&world.device, leaves));
    world.synced().await;
}
