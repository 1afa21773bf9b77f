//! What ten open pages cost a hub under full load: its processor time for a change, with and without them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::process::{Ask, Node};
use crate::raw::as_f64;
use crate::report::{Measure, Target, middle};

/// Open pages: streams of events.
const WATCHERS: usize = 10;
/// Databases whose links are quiet, and links of each: what a look at the hub has to look at.
const QUIET: u64 = 20;
const LINKS_EACH: usize = 10;
/// How long a turn writes, and the changes of one transaction.
const TURN: Duration = Duration::from_secs(3);
const BATCH: u64 = 500;
/// Pairs of turns, of which the middle one counts.
const ROUNDS: u64 = 5;
/// A turn that takes longer has failed, in seconds.
const PATIENCE: u64 = 120;
/// The database that is written to.
const BUSY: &str = "busy";

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let mut names: Vec<String> = (0..QUIET).map(|n| format!("quiet{n}")).collect();
    names.push(BUSY.to_owned());
    let mut hub = Node::start()?;
    let served = hub.ask(&Ask::Serve { dir: dir.path().join("hub"), names: names.clone() })?;
    let url = format!("ws://{}", served.address);
    let devices_dir = dir.path().join("devices");
    std::fs::create_dir(&devices_dir)?;
    let mut devices = Node::start()?;
    devices.ask(&Ask::Open { dir: devices_dir, names: names.clone(), keyed: false, durable: false })?;
    for name in &names {
        let times = if name == BUSY { 1 } else { LINKS_EACH };
        let (name, remote, url) = (name.clone(), name.clone(), url.clone());
        devices.ask(&Ask::Link { name, remote, url, compression: true, times })?;
    }
    devices.ask(&Ask::Sync { seconds: PATIENCE })?;
    let mut turns = Turns { hub, devices, admin: served.admin, written: 0 };
    // What is done once is done before: caches, threads, a first growth of the file.
    turns.turn()?;
    let rounds = (0..ROUNDS).map(|n| turns.round(n)).collect::<Result<Vec<_>, _>>()?;
    let idle = turns.quiet()?;
    let Round { alone, watched } =
        middle(rounds, |round| round.watched / round.alone).ok_or(BenchError::NodeGone)?;
    Ok(vec![
        Measure::beside("watch: hub CPU for a change, 10 watch, beside nobody", watched, "us", alone)
            .reach(Target::AtMost(1.05)),
        Measure::alone("watch: hub CPU in a second, 10 watch, nothing happens", idle, "ms"),
    ])
}

/// Processor time of the hub for a change, in microseconds.
struct Round {
    alone: f64,
    watched: f64,
}

struct Turns {
    hub: Node,
    devices: Node,
    /// The hub's admin address.
    admin: String,
    written: u64,
}

impl Turns {
    /// A turn each way; who is first changes from round to round.
    fn round(&mut self, n: u64) -> Result<Round, BenchError> {
        let watched_first = !n.is_multiple_of(2);
        let (first, second) = (self.turn_with(watched_first)?, self.turn_with(!watched_first)?);
        let (alone, watched) = if watched_first { (second, first) } else { (first, second) };
        Ok(Round { alone, watched })
    }

    fn turn_with(&mut self, watch: bool) -> Result<f64, BenchError> {
        let watchers = if watch { self.watchers()? } else { Vec::new() };
        let cost = self.turn()?;
        drop(watchers);
        // Those who are gone are noticed when something is told next.
        std::thread::sleep(Duration::from_secs(2));
        Ok(cost)
    }

    fn turn(&mut self) -> Result<f64, BenchError> {
        let (before, from, begin) = (self.hub.usage(BUSY)?, self.written, Instant::now());
        while begin.elapsed() < TURN {
            let name = BUSY.to_owned();
            self.devices.ask(&Ask::Insert { name, from: self.written, count: BATCH, batch: BATCH })?;
            self.written += BATCH;
        }
        self.hub.ask(&Ask::ReachOne { name: BUSY.to_owned(), head: self.written, seconds: PATIENCE })?;
        let after = self.hub.usage(BUSY)?;
        Ok((after.cpu_seconds - before.cpu_seconds) / as_f64(self.written - from) * 1e6)
    }

    /// Processor time that watching takes in a second in which nothing happens, in milliseconds.
    fn quiet(&mut self) -> Result<f64, BenchError> {
        const SECONDS: u64 = 5;
        let watchers = self.watchers()?;
        let before = self.hub.usage(BUSY)?;
        std::thread::sleep(Duration::from_secs(SECONDS));
        let after = self.hub.usage(BUSY)?;
        drop(watchers);
        Ok((after.cpu_seconds - before.cpu_seconds) / as_f64(SECONDS) * 1e3)
    }

    fn watchers(&self) -> Result<Vec<Watcher>, BenchError> {
        (0..WATCHERS).map(|_| Watcher::open(&self.admin)).collect()
    }
}

/// An open stream of events, read as fast as it is told.
struct Watcher(TcpStream);

impl Watcher {
    fn open(admin: &str) -> Result<Self, BenchError> {
        let mut stream = TcpStream::connect(admin)?;
        let request = format!("GET /v1/topology/events HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut reader = stream.try_clone()?;
        let mut buffer = vec![0; 64 << 10];
        // It watches once the graph has begun to come.
        if reader.read(&mut buffer)? == 0 {
            return Err(BenchError::Node(format!("{admin} tells no events")));
        }
        std::thread::spawn(move || while reader.read(&mut buffer).is_ok_and(|read| read > 0) {});
        Ok(Self(stream))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}
