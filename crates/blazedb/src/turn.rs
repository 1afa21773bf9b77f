//! The turns of a node's links: [`Turns`] with a clock, shared by the drivers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blazedb_core::limits::TURN_PATIENCE_MS;
use blazedb_core::session::SessionStatus;
use blazedb_core::turns::{Lane, Progress, Turns};
use tokio::sync::watch;

/// The links of one topology, and who of them goes first.
#[derive(Clone)]
pub(crate) struct Order {
    shared: Arc<Shared>,
}

struct Shared {
    turns: Mutex<Turns>,
    started: Instant,
    /// There are different priorities. While there are not, nobody asks.
    uneven: AtomicBool,
    /// Raised when somebody who waits may have a turn.
    freed: watch::Sender<u64>,
}

impl Default for Order {
    fn default() -> Self {
        Self::with_patience(TURN_PATIENCE_MS)
    }
}

impl Order {
    /// With another patience than the limit's.
    pub(crate) fn with_patience(patience_ms: u64) -> Self {
        let shared = Shared {
            turns: Mutex::new(Turns::new(patience_ms)),
            started: Instant::now(),
            uneven: AtomicBool::new(false),
            freed: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A place for a link.
    pub(crate) fn enter(&self, priority: i8) -> Arc<Rank> {
        let now = self.shared.now_ms();
        let mut turns = self.shared.turns();
        let lane = turns.enter(priority, now);
        self.shared.changed(&turns);
        Arc::new(Rank { order: self.clone(), lane })
    }
}

impl Shared {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Priorities may have changed.
    fn changed(&self, turns: &Turns) {
        self.uneven.store(turns.is_uneven(), Ordering::Relaxed);
        self.free();
    }

    fn free(&self) {
        self.freed.send_modify(|times| *times = times.wrapping_add(1));
    }
}

/// A link's place among the others, given up when it is dropped.
pub(crate) struct Rank {
    order: Order,
    lane: Lane,
}

impl Rank {
    pub(crate) fn set_priority(&self, priority: i8) {
        let mut turns = self.order.shared.turns();
        turns.set_priority(self.lane, priority);
        self.order.shared.changed(&turns);
    }

    /// The link is being opened: for a moment it counts as if it had something to do.
    pub(crate) fn begin(&self) {
        let now = self.order.shared.now_ms();
        self.order.shared.turns().begin(self.lane, now);
    }

    /// The link has nothing to do for the time being.
    pub(crate) fn rest(&self) {
        self.note(Progress::default());
    }

    fn note(&self, progress: Progress) {
        let now = self.order.shared.now_ms();
        if self.order.shared.turns().note(self.lane, progress, now) {
            self.order.shared.free();
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let mut turns = self.order.shared.turns();
        turns.leave(self.lane);
        self.order.shared.changed(&turns);
    }
}

/// A session's turns: those of its link. The side that is connected to has none, and waits for nobody.
#[derive(Clone, Default)]
pub struct Turn {
    rank: Option<Arc<Rank>>,
}

impl Turn {
    pub(crate) const fn of(rank: Arc<Rank>) -> Self {
        Self { rank: Some(rank) }
    }

    /// Told when the session may have a turn; `None` if it always has.
    pub(crate) fn freed(&self) -> Option<watch::Receiver<u64>> {
        self.rank.as_ref().map(|rank| rank.order.shared.freed.subscribe())
    }

    /// The session has come this far.
    pub(crate) fn note(&self, status: &SessionStatus) {
        let Some(rank) = &self.rank else { return };
        if rank.order.shared.uneven.load(Ordering::Relaxed) {
            let busy = !status.pushed_all || !status.pulled_all;
            rank.note(Progress { busy, place: (status.pushed, status.pulled, status.changes_sent) });
        }
    }

    /// Asks for a turn. Answers how long to wait otherwise, if nothing is heard before.
    pub(crate) fn ask(&self) -> Result<(), Duration> {
        let Some(rank) = &self.rank else { return Ok(()) };
        let shared = &rank.order.shared;
        if !shared.uneven.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = shared.now_ms();
        shared.turns().ask(rank.lane, now).map_err(|until| Duration::from_millis(until - now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Database, Identity, Password, SyncMode, SyncPolicy, Topology, record};

    use super::*;

    /// Longer than any test.
    const FOR_EVER_MS: u64 = 3_600_000;
    const PATIENCE: Duration = Duration::from_secs(120);

    /// Two children of two parents of this process, not connected yet; all four hold records of their own. Those that are to
    /// go first have more to do.
    struct World {
        topology: Topology,
        first: [Database; 2],
        second: [Database; 2],
        _dir: tempfile::TempDir,
    }

    async fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut topology = Topology::new(Identity::generate().unwrap());
        topology.core.order = Order::with_patience(FOR_EVER_MS);
        let pair = async |name: &str, records: usize| {
            let pair = ["parent", "child"].map(|end| {
                let database =
                    Database::open(dir.path().join(format!("{name}-{end}")), Password::Plaintext).unwrap();
                let rows = (0..records).map(|n| record! { "n" => n as i64, "text" => "x".repeat(500) });
                database.insert_many(rows).unwrap();
                database
            });
            topology.register(&pair[0], name).unwrap();
            let idle = SyncPolicy::new().compression(false).mode(SyncMode::LocalOnly);
            topology.create_child(&pair[0], &pair[1], &format!("{name}-child"), idle).await.unwrap();
            pair
        };
        let (first, second) = (pair("first", 4_000).await, pair("second", 1_000).await);
        World { topology, first, second, _dir: dir }
    }

    impl World {
        async fn connect(&self, database: &Database) {
            self.topology.reconfigure(database, |spec| spec.mode(SyncMode::Bidirectional)).await.unwrap();
        }

        /// What has arrived at the ends of the first pair when the first record arrives at an end of the second one.
        async fn arrived_before_the_second(&self) -> [u64; 2] {
            let count = |database: &Database| database.query().count().unwrap();
            let before = self.second.each_ref().map(count);
            tokio::time::timeout(PATIENCE, async {
                while self.second.each_ref().map(count) == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await
            .unwrap();
            self.first.each_ref().map(count)
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_has_the_higher_priority_is_caught_up_first_both_ways_and_then_the_rest() {
        let world = world().await;
        let [first, second] = [&world.first[1], &world.second[1]];
        world.topology.update_policy(first, |policy| policy.priority(7)).await.unwrap();
        world.connect(first).await;
        world.connect(second).await;
        assert_eq!(world.arrived_before_the_second().await, [8_000, 8_000]);
        assert!(world.topology.sync(PATIENCE).await.is_empty());
        assert_eq!(world.second.each_ref().map(|end| end.query().count().unwrap()), [2_000, 2_000]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_priority_that_changes_is_shown_and_the_session_stays() {
        let world = world().await;
        let [first, second] = [&world.first[1], &world.second[1]];
        world.topology.update_policy(first, |policy| policy.priority(-3)).await.unwrap();
        world.topology.update_policy(second, |policy| policy.priority(-9)).await.unwrap();
        world.connect(first).await;
        world.connect(second).await;
        assert_eq!(world.arrived_before_the_second().await, [8_000, 8_000]);
        assert!(world.topology.sync(PATIENCE).await.is_empty());
        world.topology.update_policy(second, |policy| policy.priority(2)).await.unwrap();
        second.insert(record! { "n" => -1 }).unwrap();
        assert!(world.topology.sync(PATIENCE).await.is_empty());
        let links = world.topology.links();
        let mut shown: Vec<_> = links.iter().map(|(_, link)| (link.priority, link.sessions)).collect();
        shown.sort_unstable();
        assert_eq!(shown, [(-3, 1), (2, 1)]);
    }
}
