//! Transactions over two databases on their way to subscribers of both, over real sockets: a join never shows a half.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blazedb::{
    AccessRules, Database, Identity, LinkId, Password, RecordId, RemoteNode, SyncPolicy, Topology, field,
    record,
};
use blazedb_core::topology::ServeMode;
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, Served};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A node with two databases.
struct Node {
    topology: Topology,
    bugs: Database,
    comments: Database,
    links: Vec<LinkId>,
}

impl Node {
    fn open(dir: &TempDir, name: &str) -> Self {
        let open = |what: &str| {
            Database::open(dir.path().join(format!("{name}-{what}")), Password::Plaintext).unwrap()
        };
        let topology = Topology::new(Identity::generate().unwrap());
        let (bugs, comments) = (open("bugs"), open("comments"));
        topology.register(&bugs, "bugs").unwrap();
        topology.register(&comments, "comments").unwrap();
        Self { topology, bugs, comments, links: Vec::new() }
    }

    async fn listen(&self) -> Listener {
        let serve = |database: &Database| Served {
            database: database.clone(),
            serve: ServeMode::Bidirectional,
            access: Arc::new(AccessRules::public()),
        };
        let served = [("bugs", serve(&self.bugs)), ("comments", serve(&self.comments))];
        let served = served.map(|(name, served)| (name.to_owned(), served));
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::clone(self.topology.identity());
        Listener::bind("127.0.0.1:0", identity, BTreeMap::from(served), options).await.unwrap()
    }

    async fn connect(&mut self, hub: &Listener, comments: SyncPolicy) {
        for (name, policy) in [("comments", comments), ("bugs", SyncPolicy::new())] {
            let node = self.topology.databases().into_iter().find(|(node, _)| node.name() == name).unwrap().0;
            let remote = RemoteNode::new(format!("ws://{}", hub.address()), name);
            self.links.push(self.topology.connect_remote(node, remote, policy).await.unwrap());
        }
        assert!(self.topology.sync(PATIENCE).await.is_empty());
    }

    fn write(&self, n: i64) -> RecordId {
        let write = self.topology.transaction([&self.bugs, &self.comments], |tx| {
            let bug = tx.insert(&self.bugs, record! { "n" => n })?;
            tx.insert(&self.comments, record! { "bugId" => bug, "n" => n })?;
            Ok(bug)
        });
        write.unwrap()
    }

    /// Bugs without comments, and comments without bugs, that a join shows.
    fn halves(&self) -> (usize, usize) {
        let whole = |pairs: &[blazedb::JoinedRow]| pairs.iter().filter(|pair| pair.right.is_none()).count();
        let bugs = self.bugs.join(&self.comments).on("id", "bugId").left().all().unwrap();
        let comments = self.comments.join(&self.bugs).on("bugId", "id").left().all().unwrap();
        (whole(&bugs), whole(&comments))
    }
}

/// Joins again and again in the meantime; answers how often, and what halves were seen.
fn watch(node: &Arc<Node>, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(usize, Vec<(usize, usize)>)> {
    let (node, stop) = (Arc::clone(node), Arc::clone(stop));
    std::thread::spawn(move || {
        let (mut joins, mut halves) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            joins += 1;
            halves.extend(Some(node.halves()).filter(|halves| *halves != (0, 0)));
        }
        (joins, halves)
    })
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_of_a_subscriber_never_shows_half_of_a_transaction() {
    const EACH: i64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let hub = Arc::new(Node::open(&dir, "hub"));
    let listener = hub.listen().await;
    let [mut writer, mut reader] = ["writer", "reader"].map(|name| Node::open(&dir, name));
    writer.connect(&listener, SyncPolicy::new()).await;
    reader.connect(&listener, SyncPolicy::new()).await;
    let (writer, reader) = (Arc::new(writer), Arc::new(reader));
    let stop = Arc::new(AtomicBool::new(false));
    let watches = [watch(&reader, &stop), watch(&hub, &stop)];
    // At the hub, and on a device from which the hub gets both parts over two sessions.
    // One after the other without a pause, so that many are under way at once.
    let work = [&hub, &writer].map(|node| {
        let node = Arc::clone(node);
        tokio::task::spawn_blocking(move || (0..EACH).for_each(|n| _ = node.write(n)))
    });
    for work in work {
        work.await.unwrap();
    }
    until("everything is there", || reader.bugs.query().count().unwrap() == 2 * EACH as u64).await;
    until("everything is there", || reader.comments.query().count().unwrap() == 2 * EACH as u64).await;
    stop.store(true, Ordering::Relaxed);
    for watch in watches {
        let (joins, halves) = watch.join().unwrap();
        assert!(joins > 10, "only {joins} joins in the meantime");
        assert_eq!(halves, [], "in {joins} joins");
    }
    assert_eq!(reader.halves(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_does_not_come_holds_the_other_up_for_a_moment_only() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Node::open(&dir, "hub");
    let listener = hub.listen().await;
    let mut reader = Node::open(&dir, "reader");
    // Comments are out of the view, so that only bugs come.
    reader.connect(&listener, SyncPolicy::new().filter(field("n").lt(0))).await;
    let bug = hub.write(1);
    until("the bug comes", || reader.bugs.get(bug).unwrap().is_some()).await;
    assert_eq!(reader.comments.query().count().unwrap(), 0);
    // Nobody brings comments any more.
    let comments = reader.links[0];
    reader.topology.remove_connection(comments).await.unwrap();
    let bug = hub.write(2);
    until("the bug comes", || reader.bugs.get(bug).unwrap().is_some()).await;
    // And once the link is back, what is between is caught up with.
    let mut later = Node::open(&dir, "later");
    later.connect(&listener, SyncPolicy::new()).await;
    assert_eq!((later.halves(), later.bugs.query().count().unwrap()), ((0, 0), 2));
}
