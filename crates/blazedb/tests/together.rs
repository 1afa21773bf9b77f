//! Databases of one node together: relations, local connections, live joins.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

use std::time::Duration;

use blazedb::{
    Database, Direction, Fields, Identity, JoinChange, OnDelete, Password, RecordId, StoreError, Topology,
    TopologyError, Value, field, record,
};
use tempfile::TempDir;

fn open(dir: &TempDir, name: &str) -> Database {
    Database::open(dir.path().join(name), Password::Plaintext).unwrap()
}

fn topology() -> Topology {
    Topology::new(Identity::generate().unwrap())
}

struct Tracker {
    users: Database,
    bugs: Database,
    comments: Database,
    topology: Topology,
    _dir: TempDir,
}

/// users <- bugs.authorId (by `rule`), bugs <- comments.bugId (cascade).
fn tracker(rule: OnDelete) -> Tracker {
    let dir = tempfile::tempdir().unwrap();
    let [users, bugs, comments] = ["users", "bugs", "comments"].map(|name| open(&dir, name));
    let topology = topology();
    topology.relate(&bugs, "authorId", &users, rule).unwrap();
    topology.relate(&comments, "bugId", &bugs, OnDelete::Cascade).unwrap();
    Tracker { users, bugs, comments, topology, _dir: dir }
}

impl Tracker {
    /// A user, two bugs of it, and a comment on each; ids as uuid and as text.
    fn fill(&self) -> (RecordId, [RecordId; 2]) {
        let user = self.users.insert(record! { "name" => "eva" }).unwrap();
        let first = self.bugs.insert(record! { "authorId" => user }).unwrap();
        let second = self.bugs.insert(record! { "authorId" => user.to_string() }).unwrap();
        for bug in [first, second] {
            self.comments.insert(record! { "bugId" => bug }).unwrap();
        }
        (user, [first, second])
    }

    fn counts(&self) -> [u64; 3] {
        [&self.users, &self.bugs, &self.comments].map(|database| database.query().count().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_record_stays_as_long_as_somebody_refers_to_it() {
    let tracker = tracker(OnDelete::Restrict);
    let (user, bugs) = tracker.fill();
    for refused in [
        tracker.users.delete(user),
        tracker.users.query().filter(field("name").eq("eva")).delete().map(drop),
        tracker.topology.transaction([&tracker.users], |tx| tx.on(&tracker.users)?.delete(user)),
    ] {
        assert!(matches!(refused, Err(StoreError::Restricted { count: 2, .. })), "{refused:?}");
    }
    assert_eq!(tracker.counts(), [1, 2, 2]);
    // All at once is no contradiction.
    tracker
        .topology
        .transaction([&tracker.users, &tracker.bugs], |tx| {
            tx.on(&tracker.users)?.delete(user)?;
            bugs.iter().try_for_each(|bug| tx.on(&tracker.bugs)?.delete(*bug))
        })
        .unwrap();
    assert_eq!(tracker.counts(), [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_goes_through_all_databases_in_one_transaction() {
    let tracker = tracker(OnDelete::Cascade);
    let (user, _) = tracker.fill();
    tracker.fill();
    tracker.users.delete(user).unwrap();
    assert_eq!(tracker.counts(), [1, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn set_null_leaves_the_record() {
    let tracker = tracker(OnDelete::SetNull);
    let (user, bugs) = tracker.fill();
    tracker.users.delete(user).unwrap();
    assert_eq!(tracker.counts(), [0, 2, 2]);
    for bug in bugs {
        assert_eq!(tracker.bugs.get_field(bug, "authorId").unwrap(), Some(Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_yet_is_no_error_and_what_was_deleted_is() {
    let tracker = tracker(OnDelete::Restrict);
    let late = RecordId::from_bytes([7; 16]);
    let bug = tracker.bugs.insert(record! { "authorId" => late }).unwrap();
    tracker.users.insert_with_id(late, Fields::new()).unwrap();
    assert!(tracker.users.delete(late).is_err());
    tracker.bugs.delete(bug).unwrap();
    tracker.users.delete(late).unwrap();
    let dangling = tracker.bugs.insert(record! { "authorId" => late });
    assert!(matches!(dangling, Err(StoreError::Dangling { .. })), "{dangling:?}");
    let other = tracker.bugs.insert(record! { "title" => "x" }).unwrap();
    assert!(tracker.bugs.update(other, record! { "authorId" => late.to_string() }).is_err());
    tracker.bugs.update(other, record! { "title" => "y" }).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_relates_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = open(&dir, "tasks");
    let topology = topology();
    topology.relate(&tasks, "parent", &tasks, OnDelete::Cascade).unwrap();
    let mut last = tasks.insert(record! {}).unwrap();
    let root = last;
    for _ in 0..5 {
        last = tasks.insert(record! { "parent" => last }).unwrap();
    }
    tasks.insert(record! {}).unwrap();
    tasks.delete(root).unwrap();
    assert_eq!(tasks.query().count().unwrap(), 1);
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: waited in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_comes_over_a_link_cascades_here_and_travels_on() {
    let tracker = tracker(OnDelete::Cascade);
    let dir = tempfile::tempdir().unwrap();
    // Another node, which knows of no relation, has users and bugs.
    let (users, bugs) = (open(&dir, "users"), open(&dir, "bugs"));
    let direction = Direction { push: true, pull: true };
    let _links = [
        blazedb::link_in_process(&users, &tracker.users, direction),
        blazedb::link_in_process(&bugs, &tracker.bugs, direction),
    ];
    let (user, [_, second]) = tracker.fill();
    until("the other node has all", || {
        bugs.query().count().unwrap() == 2 && users.get(user).unwrap().is_some()
    })
    .await;
    // Deleted there; and a bug that refers to it, written there without knowing.
    users.delete(user).unwrap();
    bugs.insert(record! { "authorId" => user }).unwrap();
    until("the cascade is done here", || tracker.counts() == [0, 0, 0]).await;
    until("and there", || bugs.query().count().unwrap() == 0).await;
    assert!(bugs.get(second).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn connected_databases_hear_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (bugs, users) = (open(&dir, "bugs"), open(&dir, "users"));
    let (topology, other) = (topology(), self::topology());
    let bugs_node = topology.register(&bugs, "bugs").unwrap();
    let users_node = topology.register(&users, "users").unwrap();
    let same = topology.register(&bugs, "same").unwrap();
    let stranger = other.register(&open(&dir, "stranger"), "stranger").unwrap();
    let itself = topology.connect_local(bugs_node, bugs_node);
    assert!(matches!(itself, Err(TopologyError::Itself(_))));
    assert!(matches!(topology.connect_local(bugs_node, same), Err(TopologyError::Itself(_))));
    assert!(matches!(topology.connect_local(bugs_node, stranger), Err(TopologyError::Unknown(_))));
    topology.connect_local(bugs_node, users_node).unwrap();
    topology.connect_local(users_node, bugs_node).unwrap();
    assert_eq!(topology.dependencies(&users_node), std::slice::from_ref(&bugs_node));
    let mut news = topology.watch_local(&users_node).unwrap();
    bugs.insert(record! {}).unwrap();
    assert_eq!(news.next().await, Some((bugs_node, 1)));
    assert!(topology.disconnect_local(&bugs_node, &users_node));
    assert!(topology.dependencies(&users_node).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_join_tells_of_both_sides_and_loses_nothing_when_nobody_waits() {
    let tracker = tracker(OnDelete::Cascade);
    let mut live = tracker.bugs.join(&tracker.users).on("authorId", "id").watch().unwrap();
    assert_eq!(live.try_next().unwrap(), None);
    let (user, _) = tracker.fill();
    for _ in 0..50 {
        // A wait that is given up must not take a difference with it.
        let _ = tokio::time::timeout(Duration::from_micros(200), std::future::pending::<()>()).await;
    }
    let mut added = 0;
    while added < 2 {
        match tokio::time::timeout(Duration::from_micros(300), live.next()).await {
            Ok(change) => {
                assert!(matches!(change.unwrap(), Some(JoinChange::Added(row)) if row.right.is_some()));
                added += 1;
            }
            Err(_) => continue,
        }
    }
    tracker.users.update(user, record! { "name" => "ned" }).unwrap();
    for _ in 0..2 {
        assert!(matches!(live.next().await.unwrap(), Some(JoinChange::Changed(_))));
    }
    tracker.users.delete(user).unwrap();
    for _ in 0..2 {
        assert!(matches!(live.next().await.unwrap(), Some(JoinChange::Removed(_, Some(id))) if id == user));
    }
}
