//! Access rules over `now`: what they show and allow changes as the hub's clock goes on, for whoever is connected and for
//! whoever comes back later.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blazedb::{
    AccessRules, Database, Identity, LinkState, Password, RemoteNode, StoreOptions, SyncPolicy, Timestamp,
    Topology, Value, field, record,
};
use blazedb_core::topology::{AccessSpec, FilterText, ServeMode};
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, Served};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE_MS: u64 = 60_000;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// So many minutes after `start`.
fn at(start: u64, minutes: u64) -> Value {
    Value::Timestamp(Timestamp::from_millis(start + minutes * MINUTE_MS))
}

/// The same in the filter language.
fn literal(start: u64, minutes: u64) -> String {
    let filter = field("x").lt(at(start, minutes)).to_string();
    filter.strip_prefix("x < ").unwrap().to_owned()
}

/// A hub whose clock is put forward by hand. What it shows is valid from some time to another, and edited only until then;
/// nobody may be connected after three minutes.
struct Hub {
    dir: TempDir,
    bugs: Database,
    listener: Listener,
    start: u64,
    ahead_ms: Arc<AtomicU64>,
}

impl Hub {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (start, ahead_ms) = (now_ms(), Arc::new(AtomicU64::new(0)));
        let ahead = Arc::clone(&ahead_ms);
        let clock = Arc::new(move || now_ms() + ahead.load(Ordering::Relaxed));
        let options = StoreOptions { clock, ..StoreOptions::default() };
        let bugs = Database::open_with(dir.path().join("hub"), &Password::Plaintext, options).unwrap();
        let rule = |text: &str| Some(FilterText::new(text));
        let rules = AccessSpec {
            public: false,
            connect: rule(&format!("now < {}", literal(start, 3))),
            read: rule("record.from <= now && now < record.until"),
            insert: rule("true"),
            update: rule("now < old.until"),
            delete: None,
            relay: None,
            keys: None,
        };
        let access = Arc::new(AccessRules::compile(&rules).unwrap());
        let served = Served { database: bugs.clone(), serve: ServeMode::Bidirectional, access };
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate().unwrap());
        let served = BTreeMap::from([("bugs".to_owned(), served)]);
        let listener = Listener::bind("127.0.0.1:0", identity, served, options).await.unwrap();
        Self { dir, bugs, listener, start, ahead_ms }
    }

    fn insert(&self, title: &str, from: u64, until: u64) -> blazedb::RecordId {
        let fields =
            record! { "title" => title, "from" => at(self.start, from), "until" => at(self.start, until) };
        self.bugs.insert(fields).unwrap()
    }

    /// From now on its clock is so many minutes ahead.
    fn put_forward(&self, minutes: u64) {
        self.ahead_ms.store(minutes * MINUTE_MS, Ordering::Relaxed);
    }

    async fn device(&self, name: &str) -> Device {
        let bugs = Database::open(self.dir.path().join(name), Password::Plaintext).unwrap();
        let topology = Topology::new(Identity::generate().unwrap());
        topology.register(&bugs, "bugs").unwrap();
        let device = Device { bugs, topology };
        device.connect(self).await;
        device.synced().await;
        device
    }
}

struct Device {
    bugs: Database,
    topology: Topology,
}

impl Device {
    async fn connect(&self, hub: &Hub) {
        let remote = RemoteNode::new(format!("ws://{}", hub.listener.address()), "bugs");
        self.topology.connect_remote(&self.bugs, remote, SyncPolicy::new()).await.unwrap();
    }

    async fn synced(&self) {
        assert!(self.topology.sync(PATIENCE).await.is_empty(), "{:?}", self.topology.links());
    }

    fn titles(&self) -> Vec<String> {
        let mut titles = Vec::new();
        self.bugs
            .store()
            .export(|record| {
                titles.push(record.fields["title"].to_string());
                true
            })
            .unwrap();
        titles.sort();
        titles
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "{what}: {:?}", self.titles());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn quoted(titles: &[&str]) -> Vec<String> {
    titles.iter().map(|title| Value::from(*title).to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_over_now_shows_comes_and_goes_for_who_is_connected_and_for_who_was_away() {
    let hub = Hub::start().await;
    hub.insert("always", 0, 60);
    let ends = hub.insert("ends", 0, 1);
    hub.insert("begins", 1, 60);
    hub.insert("never shown", 30, 60);
    let (online, away) = (hub.device("online").await, hub.device("away").await);
    for device in [&online, &away] {
        assert_eq!(device.titles(), quoted(&["always", "ends"]));
    }
    away.topology.shutdown().await;
    away.bugs.update(ends, record! { "title" => "edited too late" }).unwrap();

    hub.put_forward(2);
    online.until("time passes", |device| device.titles() == quoted(&["always", "begins"])).await;
    assert_eq!(online.bugs.store().taken_away().access_revoked, 1);
    assert_eq!(online.topology.links()[0].1.sessions, 1, "on the session that was open");
    // Nor does a refusal tell what was visible when the session began.
    online.bugs.insert_with_id(ends, record! { "title" => "a guess" }).unwrap();
    online.until("it is refused", |device| device.bugs.rejected_count().unwrap() == 1).await;
    assert_eq!(online.titles(), quoted(&["always", "begins"]));

    away.connect(&hub).await;
    away.synced().await;
    away.until("it is gone", |device| device.titles() == quoted(&["always", "begins"])).await;
    let rejected = away.bugs.rejected().unwrap();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].record.fields["title"], "edited too late".into());
    assert_eq!(hub.bugs.get_field(ends, "title").unwrap(), Some("ends".into()), "nothing changed");

    // A question is answered as of now, too.
    let asked = away.topology.remote_at(
        &away.topology.databases()[0].0,
        RemoteNode::new(format!("ws://{}", hub.listener.address()), "bugs"),
        &SyncPolicy::new(),
    );
    assert_eq!(asked.unwrap().query().count().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_be_connected_any_more_has_to_go() {
    let hub = Hub::start().await;
    hub.insert("always", 0, 60);
    let device = hub.device("device").await;
    hub.put_forward(4);
    device.until("its session ends", |device| device.topology.links()[0].1.state == LinkState::Refused).await;
    let error = device.topology.links()[0].1.error.clone().unwrap();
    assert!(error.message.contains("`connect`"), "{error}");
    hub.insert("later", 0, 60);
    let behind = device.topology.sync(Duration::from_secs(2)).await;
    assert_eq!(behind.len(), 1);
    assert_eq!(device.titles(), quoted(&["always"]), "it keeps what it has");
}
