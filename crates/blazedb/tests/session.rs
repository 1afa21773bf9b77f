//! Sessions over the in-process channel: how they end, and what they share.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    ClientAsk, CloseCode, Closed, Database, Direction, Password, Role, SessionContext, Turn, link_in_process,
    record, run_session,
};
use blazedb_transport::memory;
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const BOTH: Direction = Direction { push: true, pull: true };

fn open(dir: &tempfile::TempDir, name: &str) -> Database {
    Database::open(dir.path().join(name), Password::Plaintext).unwrap()
}

#[tokio::test]
async fn a_session_that_cannot_send_ends_though_its_peer_could_still_be_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (_keep, stop) = watch::channel(false);
    let (ours, theirs) = memory::pair(4, 1 << 20);
    drop(theirs.receiver);
    let context = SessionContext {
        database: open(&dir, "a"),
        link: Arc::from("x"),
        report: Arc::default(),
        stop,
        turn: Turn::default(),
    };
    let role = Role::Client(ClientAsk { direction: BOTH, ..ClientAsk::default() });
    let closed = timeout(PATIENCE, run_session(context, role, ours.into())).await.unwrap();
    let Closed::Here(CloseCode::GoingAway, reason) = closed else { panic!("{closed:?}") };
    assert!(reason.starts_with("sending failed"), "{reason}");
    drop(theirs.sender);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_subscribers_a_change_is_encoded_once() {
    const SUBSCRIBERS: usize = 8;
    const CHANGES: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let hub = open(&dir, "hub");
    let subscribers: Vec<Database> = (0..SUBSCRIBERS).map(|n| open(&dir, &format!("s{n}"))).collect();
    let links: Vec<_> = subscribers.iter().map(|database| link_in_process(database, &hub, BOTH)).collect();
    let reach = async |head: u64| {
        for database in &subscribers {
            let mut seen = database.watch_head();
            timeout(PATIENCE, seen.wait_for(|now| *now >= head)).await.unwrap().unwrap();
        }
    };
    // The first one finds everybody at the same place.
    hub.insert(record! { "n" => 0 }).unwrap();
    reach(1).await;
    let before = hub.batches_encoded();
    for n in 1..=CHANGES {
        hub.insert(record! { "n" => n as i64 }).unwrap();
        reach(n + 1).await;
    }
    let encoded = hub.batches_encoded() - before;
    assert!((1..=CHANGES).contains(&encoded), "{encoded} batches for {CHANGES} changes");
    links.iter().for_each(tokio::task::JoinHandle::abort);
}
