//! The simulated world: a clock, a queue of what is going to happen, nodes, links and connections.
//!
//! Invariant: what happens depends on the seed and the configuration alone. Times rise; what happens at the same
//! time happens in the order in which it was scheduled.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_core::Value;
use blazedb_core::keyring::MemberId;
use blazedb_store::{Durability, StoreError};
use tempfile::TempDir;

use crate::Failure;
use crate::check::authority::Decisions;
use crate::check::leak::Entitled;
use crate::config::{SimConfig, reach};
use crate::ledger::Ledger;
use crate::network::{Conn, EndState, Event, Link, Place};
use crate::node::Node;
use crate::rng::Rng;
use crate::setup::Setup;

/// What virtual time begins with: some day of 2025, in milliseconds.
const EPOCH_MS: u64 = 1_750_000_000_000;

/// Counts of what happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Events of any kind.
    pub events: u64,
    /// Transactions made by applications.
    pub transactions: u64,
    /// Frames sent,
    pub frames: u64,
    /// and their bytes.
    pub bytes: u64,
    /// Messages that were not pings,
    pub messages: u64,
    /// and those of them that carried changes.
    pub changes: u64,
    /// Groups of batches applied.
    pub applies: u64,
    /// Sessions that opened.
    pub sessions: u64,
    /// Configurations that took the place of others on open sessions.
    pub switches: u64,
    /// Sessions that began with a reconciliation.
    pub reconciliations: u64,
    /// Writes that an authority refused and their writers took back.
    pub refusals: u64,
    /// Changes of who may do what, or of who has which keys.
    pub grants: u64,
    /// Tombstones that were dropped.
    pub dropped: u64,
    /// Nodes that crashed.
    pub crashes: u64,
    /// Crashes that lost commits.
    pub lossy_crashes: u64,
}

impl Counts {
    /// Adds what happened in another run.
    pub const fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.transactions += other.transactions;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.messages += other.messages;
        self.changes += other.changes;
        self.applies += other.applies;
        self.sessions += other.sessions;
        self.switches += other.switches;
        self.reconciliations += other.reconciliations;
        self.refusals += other.refusals;
        self.grants += other.grants;
        self.dropped += other.dropped;
        self.crashes += other.crashes;
        self.lossy_crashes += other.lossy_crashes;
    }
}

/// What was sent last, for the checks of silence.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noise {
    /// When something other than a ping was sent.
    pub(crate) last_ms: u64,
    /// Messages with changes since this was reset.
    pub(crate) changes: u64,
}

/// The world.
pub(crate) struct World {
    pub(crate) config: SimConfig,
    pub(crate) rng: Rng,
    clock: Arc<AtomicU64>,
    replicas: Arc<AtomicU64>,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    /// Pairs of nodes that can't reach each other, and until when.
    pub(crate) blocked: BTreeMap<(usize, usize), u64>,
    pub(crate) ledger: Ledger,
    /// Writes (by number) that each node has acknowledged to others.
    pub(crate) owed: Vec<BTreeSet<i64>>,
    /// Which node's writes get to which.
    pub(crate) reach: Vec<Vec<bool>>,
    pub(crate) counts: Counts,
    /// What records may hold beside what the ledger writes: what policies tell them apart by.
    pub(crate) attributes: Vec<(String, Vec<Value>)>,
    pub(crate) entitled: Entitled,
    pub(crate) decisions: Decisions,
    /// Who was removed from the keyring, and the number of the write that came next.
    pub(crate) removed_at: BTreeMap<usize, (i64, MemberId)>,
    pub(crate) noise: Noise,
    pub(crate) steps_left: u64,
    /// No more faults.
    pub(crate) healed: bool,
    hash: u64,
    pub(crate) trace: Vec<String>,
    dir: TempDir,
}

impl World {
    pub(crate) fn new(seed: u64, config: SimConfig) -> Result<Self, Failure> {
        let mut rng = Rng::new(seed);
        let setup = Setup::drawn(&config, &mut rng);
        Self::of(seed, config, setup, rng)
    }

    /// The world of a topology.
    pub(crate) fn of(seed: u64, config: SimConfig, setup: Setup, rng: Rng) -> Result<Self, Failure> {
        let Setup { nodes, links, attributes } = setup;
        let links: Vec<Link> = links.into_iter().map(Link::from).collect();
        let plans: Vec<_> = links.iter().map(|link| link.plan).collect();
        let config = SimConfig { nodes: nodes.len(), ..config };
        let mut world = Self {
            reach: reach(config.nodes, &plans),
            links,
            attributes,
            entitled: Entitled::default(),
            decisions: Decisions::of(seed),
            removed_at: BTreeMap::new(),
            rng,
            clock: Arc::new(AtomicU64::new(EPOCH_MS)),
            replicas: Arc::new(AtomicU64::new(seed.rotate_left(17))),
            queue: BTreeMap::new(),
            scheduled: 0,
            nodes: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            blocked: BTreeMap::new(),
            ledger: Ledger::default(),
            owed: vec![BTreeSet::new(); config.nodes],
            counts: Counts::default(),
            noise: Noise::default(),
            steps_left: config.steps,
            healed: false,
            hash: 0xcbf2_9ce4_8422_2325,
            trace: Vec::new(),
            dir: temp_dir().map_err(|error| StoreError::Io(std::env::temp_dir(), error))?,
            config,
        };
        world.open_nodes()?;
        for (node, setup) in world.nodes.iter_mut().zip(nodes) {
            (node.serve, node.access) = (setup.serve, setup.access);
            (node.user, node.member) = (setup.user, setup.member);
        }
        (0..world.nodes.len()).for_each(|node| world.appoint(node));
        world.begin_keyring()?;
        world.describe();
        world.start();
        Ok(world)
    }

    fn open_nodes(&mut self) -> Result<(), Failure> {
        for index in 0..self.config.nodes {
            let lossy = self.config.lossy && self.rng.chance(50);
            let durability = if lossy { Durability::Normal } else { Durability::Full };
            let lease_ms = self.config.lease_ms;
            let mut node =
                Node::open(self.dir.path(), index, (durability, lease_ms), &self.clock, &self.replicas)?;
            if self.config.small_batches {
                node.batch_bytes = [100, 1_000, usize::MAX].into_iter().nth(index % 3).unwrap_or(usize::MAX);
            }
            let skew = self.random_skew();
            node.skew_ms.store(skew, Ordering::Relaxed);
            self.nodes.push(node);
        }
        Ok(())
    }

    fn start(&mut self) {
        for link in 0..self.links.len() {
            self.connect_in(link, 200);
        }
        let sweeping = if self.config.lease_ms > 0 { self.nodes.len() } else { 0 };
        for node in 0..sweeping {
            self.schedule(node as u64, Event::Sweep(node));
        }
        self.schedule(1, Event::Work);
        self.schedule(500, Event::Fault);
    }

    fn describe(&mut self) {
        let config = format!("{:?}", self.config);
        self.note(|| config);
        let links: Vec<String> = self.links.iter().map(|link| format!("{link:?}")).collect();
        let nodes: Vec<String> =
            self.nodes.iter().map(|n| format!("{:?} {:?}", n.durability, n.skew_ms)).collect();
        links.into_iter().chain(nodes).for_each(|line| self.note(|| line));
    }

    /// A clock error within the configured bounds, in milliseconds.
    pub(crate) fn random_skew(&mut self) -> i64 {
        let span = self.rng.below(2 * self.config.skew_ms + 1).cast_signed();
        span - self.config.skew_ms.cast_signed()
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Milliseconds since the beginning.
    pub(crate) fn elapsed(&self) -> u64 {
        self.now() - EPOCH_MS
    }

    /// Has `event` happen in `delay` milliseconds.
    pub(crate) fn schedule(&mut self, delay: u64, event: Event) {
        self.schedule_at(self.now() + delay, event);
    }

    pub(crate) fn schedule_at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at.max(self.now()), self.scheduled), event);
    }

    /// Lets the next thing happen, if it does before `until`. Answers whether there was one.
    pub(crate) fn step(&mut self, until: u64) -> Result<bool, Failure> {
        match self.queue.first_key_value() {
            Some(((at, _), _)) if *at <= until => {}
            _ => {
                self.clock.store(until.max(self.now()), Ordering::Relaxed);
                return Ok(false);
            }
        }
        let Some(((at, _), event)) = self.queue.pop_first() else { return Ok(false) };
        self.clock.store(at, Ordering::Relaxed);
        self.counts.events += 1;
        self.dispatch(event)?;
        Ok(true)
    }

    fn dispatch(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Frame(place, bytes) => self.on_frame(place, bytes),
            Event::Request(place, request) => self.on_request(place, request),
            Event::Answer(place, input) => self.feed(place, input),
            Event::Decided(place, decision) => self.on_decided(place, *decision),
            Event::Head(place) => self.on_head(place),
            Event::Wake(place, at) => self.on_wake(place, at),
            Event::Opening(place) => self.on_opening(place),
            Event::Broken(place) => {
                self.end_session(place, false);
                Ok(())
            }
            Event::Connect(link) => self.on_connect(link),
            Event::Flush(node) => self.on_flush(node),
            Event::Work => self.on_work(),
            Event::Fault => self.on_fault(),
            Event::Keyring(place) => self.on_keyring(place),
            Event::KeysCheck(place) => self.on_keys_check(place),
            Event::Restart(node) => self.on_restart(node),
            Event::Sweep(node) => self.on_sweep(node),
        }
    }

    /// Mixes what happened into the run's fingerprint.
    pub(crate) fn mark(&mut self, parts: &[u64]) {
        let now = self.elapsed();
        for part in parts.iter().chain([&now]) {
            self.hash = (self.hash ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
    }

    pub(crate) const fn fingerprint(&self) -> u64 {
        self.hash
    }

    /// Keeps a line, if lines are kept.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.config.trace {
            let now = self.elapsed();
            self.trace.push(format!("{now:>8} {}", line()));
        }
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.store.is_some())
    }

    pub(crate) fn is_blocked(&self, a: usize, b: usize) -> bool {
        let now = self.now();
        self.blocked.get(&(a.min(b), a.max(b))).is_some_and(|until| *until > now)
    }

    pub(crate) fn add_conn(&mut self, link: usize, client: usize, server: usize, latency: u64) -> u64 {
        self.next_conn += 1;
        for node in [client, server] {
            self.nodes.get_mut(node).into_iter().for_each(|node| node.conns.extend([self.next_conn]));
        }
        let (client, server) = (EndState::new(client), EndState::new(server));
        let conn = Conn { link, client, server, latency, cut: false, keyless: false };
        self.conns.insert(self.next_conn, conn);
        self.next_conn
    }

    pub(crate) fn remove_conn(&mut self, conn: u64) {
        let Some(gone) = self.conns.remove(&conn) else { return };
        for node in [gone.client.node, gone.server.node] {
            self.nodes.get_mut(node).into_iter().for_each(|node| node.conns.retain(|known| *known != conn));
        }
    }

    pub(crate) fn node_of(&self, place: Place) -> Option<usize> {
        self.conns.get(&place.conn).map(|conn| conn.end(place.end).node)
    }
}

/// A directory in memory where there is one: nothing here depends on a disk.
fn temp_dir() -> std::io::Result<TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(dir) = tempfile::tempdir_in(memory)
    {
        return Ok(dir);
    }
    tempfile::tempdir()
}
