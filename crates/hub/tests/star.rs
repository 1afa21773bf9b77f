//! A star as an application builds one: its own resolver at the parent, children under `Topology::star`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blazedb::{AccessRules, Database, Identity, Password, RecordId, Resolution, Topology, Value, record};
use blazedb_core::topology::ServeMode;
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, Served};

const PATIENCE: Duration = Duration::from_secs(60);

fn open(dir: &Path, name: &str) -> Database {
    Database::open(dir.join(name), Password::Plaintext).unwrap()
}

async fn listen(bugs: &Database) -> Listener {
    let access = Arc::new(AccessRules::public());
    let served = Served { database: bugs.clone(), serve: ServeMode::Bidirectional, access };
    let options =
        ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
    let identity = Arc::new(Identity::generate().unwrap());
    let served = BTreeMap::from([("bugs".to_owned(), served)]);
    Listener::bind("127.0.0.1:0", identity, served, options).await.unwrap()
}

struct Child {
    bugs: Database,
    topology: Topology,
}

impl Child {
    async fn new(dir: &Path, name: &str, listener: &Listener) -> Self {
        let bugs = open(dir, name);
        let url = format!("ws://{}", listener.address());
        let identity = Identity::generate().unwrap();
        let topology = Topology::star(identity, &url, [("bugs", &bugs)]).await.unwrap();
        Self { bugs, topology }
    }

    async fn sync(&self) {
        let behind = self.topology.sync(PATIENCE).await;
        assert!(behind.is_empty(), "not caught up: {behind:?}");
    }

    fn field(&self, id: RecordId, field: &str) -> Option<Value> {
        self.bugs.get_field(id, field).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applications_resolver_takes_merges_and_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let parent = open(dir.path(), "parent");
    parent.resolver(|dispute| match (dispute.field, &dispute.parent, &dispute.child) {
        (Some("owner"), ..) => Resolution::TakeChild,
        (Some("hours"), Some(Value::Int(one)), Some(Value::Int(other))) => {
            Resolution::Merge((one + other).into())
        }
        (Some("total"), ..) => Resolution::Refuse("totals are counted at the office".to_owned()),
        _ => Resolution::KeepParent,
    });
    let listener = listen(&parent).await;
    let one = Child::new(dir.path(), "one", &listener).await;
    let two = Child::new(dir.path(), "two", &listener).await;
    let id = one.bugs.insert(record! { "owner" => "?", "hours" => 0, "total" => 0, "title" => "?" }).unwrap();
    for child in [&one, &two] {
        child.sync().await;
        assert_eq!(child.topology.provisional(&child.bugs).unwrap(), []);
    }

    // Apart, both write all of it; the parent is not there to hear of it.
    listener.stop().await;
    for (name, n, child) in [("one", 1, &one), ("two", 2, &two)] {
        let fields = record! { "owner" => name, "hours" => n, "title" => name };
        child.bugs.update(id, fields).unwrap();
        assert_eq!(child.topology.provisional(&child.bugs).unwrap(), [id]);
    }
    for child in [&one, &two] {
        child.topology.shutdown().await;
    }
    // At another address: the checkpoints are lost, and both sides compare what they hold.
    let again = listen(&parent).await;
    let [one, two] = [one, two].map(|child| child.bugs);
    let reach = |bugs: Database| {
        let url = format!("ws://{}", again.address());
        async move {
            let identity = Identity::generate().unwrap();
            let topology = Topology::star(identity, &url, [("bugs", &bugs)]).await.unwrap();
            Child { bugs, topology }
        }
    };
    let one = reach(one).await;
    one.sync().await;
    let two = reach(two).await;
    for child in [&two, &one, &two] {
        child.sync().await;
    }
    for child in [&one, &two] {
        assert_eq!(child.field(id, "owner"), Some("two".into()));
        assert_eq!(child.field(id, "hours"), Some(3.into()));
        assert_eq!(child.field(id, "title"), Some("one".into()));
    }
    let lost = |child: &Child| -> Vec<_> {
        child.bugs.conflicts().unwrap().into_iter().map(|lost| (lost.field, lost.value)).collect()
    };
    assert_eq!(lost(&one), [("owner".to_owned(), Some("one".into()))]);
    assert_eq!(lost(&two), [("title".to_owned(), Some("two".into()))]);
    again.stop().await;
}
