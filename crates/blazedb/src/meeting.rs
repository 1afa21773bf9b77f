//! Where the parts of a transaction over several databases meet that come in over several sessions.
//!
//! A message of changes that is bonded to the feed of another database, which comes from the same node over a session of its
//! own, waits until that has come as far. Then all that belongs together is applied at one moment: no join shows a
//! part of it.
//!
//! Invariants: what comes over one session is applied in its order; nothing waits longer than [`PARTS_WAIT_MS`] for a session
//! that nothing comes over, nor longer than [`PARTS_WAIT_LONGEST_MS`] at all, nor behind more than [`PARTS_WAIT_BYTES`],
//! nor for a session that is not there; what waits is not acknowledged, so that nothing is lost with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blazedb_core::ReplicaId;
use blazedb_core::bond::Bond;
use blazedb_core::feed::Seq;
use blazedb_core::limits::{PARTS_WAIT_BYTES, PARTS_WAIT_LONGEST_MS, PARTS_WAIT_MS};
use blazedb_store::{CheckedBatch, Store, apply_over};
use blazedb_transport::Fingerprint;
use tokio::time::Instant;

use crate::applier::{Applier, Report};

const WAIT: Duration = Duration::from_millis(PARTS_WAIT_MS);
const LONGEST: Duration = Duration::from_millis(PARTS_WAIT_LONGEST_MS);
/// How often it is looked whether something has waited long enough.
const LOOK: Duration = Duration::from_millis(250);

/// Where the sessions of one node's databases meet.
#[derive(Clone, Default)]
pub(crate) struct Meeting {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<u64, Lane>,
    next: u64,
    /// Batches that wait, on all lanes: mostly none, and then nobody looks at the lanes.
    waiting: usize,
}

/// What comes in over one session.
struct Lane {
    peer: Option<Fingerprint>,
    replica: ReplicaId,
    applier: Applier,
    /// The peer's feed is applied here up to this.
    applied: Seq,
    waiting: VecDeque<Item>,
    bytes: usize,
    /// Batches that are being applied, by the queue of the database or together with others.
    under_way: usize,
    /// They are applied together with others.
    together: bool,
    /// When something was applied last, and when something came in or was applied.
    applied_at: Instant,
    moved_at: Instant,
    /// Somebody looks whether something has waited long enough.
    watched: bool,
}

struct Item {
    batch: CheckedBatch,
    report: Report,
    upto: Option<Seq>,
    bytes: usize,
    /// Lanes that have to have come so far.
    needs: Vec<(u64, Seq)>,
    since: Instant,
}

/// A batch on its way in.
pub(crate) struct Arrival {
    /// What is to be applied.
    pub(crate) batch: CheckedBatch,
    /// Called with what became of it.
    pub(crate) report: Report,
    /// The peer's feed is complete up to here with it.
    pub(crate) upto: Option<Seq>,
    /// What it belongs together with.
    pub(crate) bonds: Vec<Bond>,
    /// Its size.
    pub(crate) bytes: usize,
}

impl Arrival {
    /// A batch that is bonded to nothing, and moves no checkpoint.
    pub(crate) const fn alone(batch: CheckedBatch, report: Report) -> Self {
        Self { batch, report, upto: None, bonds: Vec::new(), bytes: 0 }
    }
}

/// A session's place in a [`Meeting`], given up when it is dropped: what still waits is forgotten, and comes again.
pub(crate) struct Seat {
    meeting: Meeting,
    number: u64,
}

impl Meeting {
    /// A place for a session with `replica` of the node with the key `peer`, whose feed is applied here up to `applied`.
    pub(crate) fn enter(
        &self,
        peer: Option<Fingerprint>,
        replica: ReplicaId,
        applier: Applier,
        applied: Seq,
    ) -> Seat {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let (waiting, bytes, under_way, together) = (VecDeque::new(), 0, 0, false);
        let (applied_at, moved_at, watched) = (Instant::now(), Instant::now(), false);
        let lane = Lane {
            peer,
            replica,
            applier,
            applied,
            waiting,
            bytes,
            under_way,
            together,
            applied_at,
            moved_at,
            watched,
        };
        state.lanes.insert(number, lane);
        Seat { meeting: self.clone(), number }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch of a lane was applied, or could not be.
    fn done(&self, number: u64, upto: Option<Seq>) {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&number) {
            lane.under_way = lane.under_way.saturating_sub(1);
            lane.together &= lane.under_way > 0;
            lane.applied_at = Instant::now();
            lane.moved_at = lane.applied_at;
            lane.applied = lane.applied.max(upto.unwrap_or(0));
        }
        self.go_on(state);
    }

    /// Applies what needs to wait no longer. Must be called inside a tokio runtime.
    fn go_on(&self, mut state: MutexGuard<'_, State>) {
        if state.waiting == 0 {
            return;
        }
        let ready = state.ready(Instant::now());
        let together = ready.len() > 1;
        let mut released = Vec::new();
        for (number, count) in ready {
            let Some(lane) = state.lanes.get_mut(&number) else { continue };
            let items: Vec<Item> = lane.waiting.drain(..count.min(lane.waiting.len())).collect();
            lane.bytes -= items.iter().map(|item| item.bytes).sum::<usize>();
            lane.under_way += items.len();
            lane.together = together;
            let count = items.len();
            let applier = lane.applier.clone();
            released.push((number, applier, items));
            state.waiting = state.waiting.saturating_sub(count);
        }
        if together {
            let meeting = self.clone();
            tokio::task::spawn_blocking(move || meeting.apply_together(released));
            return;
        }
        // Before anybody else may hand over: the order is that of the session.
        for (number, applier, items) in released {
            items.into_iter().for_each(|item| self.hand_over(number, &applier, item));
        }
    }

    /// Looks after what waits on a lane, as long as anything does.
    async fn watch(self, number: u64) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut state = self.state();
            match state.lanes.get_mut(&number) {
                Some(lane) if lane.waiting.is_empty() => {
                    lane.watched = false;
                    return;
                }
                Some(_) => self.go_on(state),
                None => return,
            }
        }
    }

    fn hand_over(&self, number: u64, applier: &Applier, item: Item) {
        let Item { batch, report, upto, .. } = item;
        applier.submit(batch, self.noting(number, upto, report));
    }

    /// The same report, which is noted here as well.
    fn noting(&self, number: u64, upto: Option<Seq>, report: Report) -> Report {
        let meeting = self.clone();
        Box::new(move |result| {
            let upto = upto.filter(|_| result.is_ok());
            report(result);
            meeting.done(number, upto);
        })
    }

    /// Applies what belongs together at one moment.
    fn apply_together(&self, released: Vec<(u64, Applier, Vec<Item>)>) {
        // Several sessions may bring changes of one database.
        let mut databases: Vec<(Applier, Vec<CheckedBatch>, Vec<Report>)> = Vec::new();
        for (number, applier, items) in released {
            let known = databases.iter().position(|(other, ..)| other.is(&applier));
            let at = known.unwrap_or_else(|| {
                databases.push((applier, Vec::new(), Vec::new()));
                databases.len() - 1
            });
            let Some((_, batches, reports)) = databases.get_mut(at) else { continue };
            for Item { batch, report, upto, .. } in items {
                batches.push(batch);
                reports.push(self.noting(number, upto, report));
            }
        }
        let parts: Vec<(&Store, &[CheckedBatch])> =
            databases.iter().map(|(applier, batches, _)| (applier.store(), batches.as_slice())).collect();
        let applied = apply_over(&parts);
        drop(parts);
        match applied {
            Ok(applied) => {
                for ((.., reports), applied) in databases.into_iter().zip(applied) {
                    reports.into_iter().for_each(|report| report(Ok(applied)));
                }
            }
            // One that fails must not take the others down with it.
            Err(error) => {
                tracing::debug!(%error, "parts of a transaction are applied one by one");
                databases
                    .into_iter()
                    .for_each(|(applier, batches, reports)| applier.apply(&batches, reports));
            }
        }
    }
}

impl State {
    /// How many of the batches that wait on each lane may go, of those where any may.
    fn ready(&self, now: Instant) -> BTreeMap<u64, usize> {
        // All that has come, less and less of it: the most that is complete in itself.
        let mut ready: BTreeMap<u64, usize> = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.waiting.is_empty() && lane.under_way == 0)
            .map(|(number, lane)| (*number, lane.waiting.len()))
            .collect();
        loop {
            let cut = ready.iter().find_map(|(number, count)| {
                let lane = self.lanes.get(number)?;
                let goes = |item: &Item| self.is_met(item, &ready) || self.is_late(lane, item, now);
                let at = lane.waiting.iter().take(*count).position(|item| !goes(item))?;
                Some((*number, at))
            });
            match cut {
                Some((number, 0)) => drop(ready.remove(&number)),
                Some((number, at)) => drop(ready.insert(number, at)),
                None => return ready,
            }
        }
    }

    /// Whether what an item needs is applied, or goes with it.
    fn is_met(&self, item: &Item, ready: &BTreeMap<u64, usize>) -> bool {
        item.needs.iter().all(|(number, seq)| {
            let Some(lane) = self.lanes.get(number) else { return true };
            let going = lane.waiting.iter().take(ready.get(number).copied().unwrap_or(0));
            let upto = going.filter_map(|item| item.upto).max().unwrap_or(0);
            lane.applied.max(upto) >= *seq
        })
    }

    /// Whether an item has waited long enough: nothing moves on the lanes that it needs, though its own is idle. A disk that is
    /// slow is no reason to go on without them.
    fn is_late(&self, lane: &Lane, item: &Item, now: Instant) -> bool {
        let needed = || item.needs.iter().filter_map(|(number, _)| self.lanes.get(number));
        let moved = needed().map(|needed| needed.moved_at).chain([item.since, lane.applied_at]).max();
        let still = moved.is_none_or(|moved| now.duration_since(moved) >= WAIT);
        lane.bytes > PARTS_WAIT_BYTES
            || (still && needed().all(|needed| needed.under_way == 0))
            || now.duration_since(item.since) >= LONGEST
    }

    /// What bonds of a lane ask of other lanes of the same node.
    fn needs(&self, of: &Lane, bonds: &[Bond], upto: Option<Seq>) -> Vec<(u64, Seq)> {
        let Some(upto) = upto else { return Vec::new() };
        let mut needs = Vec::new();
        for bond in bonds {
            let others = self.lanes.iter().filter(|(_, lane)| lane.peer == of.peer);
            needs
                .extend(others.filter_map(|(number, lane)| {
                    Some((*number, bond.with(of.replica, upto, lane.replica)?))
                }));
        }
        needs
    }
}

impl Seat {
    /// Whether everything that came over the session is applied.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.meeting.state();
        state.lanes.get(&self.number).is_none_or(|lane| lane.waiting.is_empty() && lane.under_way == 0)
    }

    /// Has a batch applied, after those before it. Must be called inside a tokio runtime.
    pub(crate) fn submit(&self, arrival: Arrival) {
        let Arrival { batch, report, upto, bonds, bytes } = arrival;
        let mut state = self.meeting.state();
        let Some(lane) = state.lanes.get(&self.number) else { return };
        let needs = state.needs(lane, &bonds, upto);
        let goes_at_once = lane.waiting.is_empty() && !lane.together && needs.is_empty();
        let item = Item { batch, report, upto, bytes, needs, since: Instant::now() };
        let Some(lane) = state.lanes.get_mut(&self.number) else { return };
        lane.moved_at = item.since;
        if goes_at_once {
            lane.under_way += 1;
            let applier = lane.applier.clone();
            self.meeting.hand_over(self.number, &applier, item);
            return;
        }
        lane.bytes += bytes;
        lane.waiting.push_back(item);
        let watched = std::mem::replace(&mut lane.watched, true);
        state.waiting += 1;
        self.meeting.go_on(state);
        if !watched {
            tokio::spawn(self.meeting.clone().watch(self.number));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.meeting.state();
        let gone = state.lanes.remove(&self.number);
        let forgotten = gone.as_ref().map_or(0, |lane| lane.waiting.len());
        state.waiting = state.waiting.saturating_sub(forgotten);
        if tokio::runtime::Handle::try_current().is_ok() {
            self.meeting.go_on(state);
        } else {
            drop(state);
        }
        drop(gone);
    }
}
