//! What is told of links: state, progress, the last error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use blazedb_core::ReplicaId;
use blazedb_core::feed::Seq;
use blazedb_core::session::{Opened, SessionStatus};
use blazedb_core::topology::SyncMode;
use blazedb_core::view::View;
use blazedb_core::wire::{CloseCode, Direction};
use blazedb_transport::{Fingerprint, LinkCounters, LinkTotals};
use tokio::sync::Notify;

use crate::moment::Moment;

/// What a link is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Trying to reach the other side.
    Connecting,
    /// Connected, with changes under way.
    Syncing,
    /// Connected, and nothing to do.
    Idle,
    /// The other side can't be reached; the next try follows.
    Offline,
    /// The other side refuses; retried seldom, because somebody has to change something.
    Refused,
    /// Closed for good.
    Stopped,
}

impl LinkState {
    /// The state in one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Syncing => "syncing",
            Self::Idle => "idle",
            Self::Offline => "offline",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

/// Why a link does not work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkError {
    /// Trying again later may help.
    pub temporary: bool,
    /// It is about keys, access or identity; or, if it is temporary, about a clock that is ahead.
    pub refused: bool,
    /// One of the two sides is not who it should be, for the other.
    pub stranger: bool,
    /// In words.
    pub message: String,
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// A link as it is now.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The local database.
    pub database: String,
    /// Where the other side is.
    pub remote: String,
    /// All addresses that the link chooses from, with their latencies in milliseconds, as far as they answer; empty if
    /// there is no choice.
    pub latencies: Vec<(String, Option<f64>)>,
    /// The database's name there.
    pub remote_database: String,
    /// What the link asks for.
    pub mode: SyncMode,
    /// The pattern that it belongs to.
    pub pattern: &'static str,
    /// The other side decides about what is written here.
    pub authority: bool,
    /// Links with a higher one go first.
    pub priority: i8,
    /// What it is doing.
    pub state: LinkState,
    /// When it went online, or when it stopped being so, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The other node's key, as far as it is known: met, pinned or remembered.
    pub fingerprint: Option<Fingerprint>,
    /// The other side's number in the local database; 0 if it was not met since this node started.
    pub peer_no: u32,
    /// The other replica.
    pub replica: Option<ReplicaId>,
    /// What was granted.
    pub granted: Option<Direction>,
    /// Why less was granted than asked for.
    pub notice: String,
    /// The last error; gone once a session is open.
    pub error: Option<LinkError>,
    /// Both directions are done, as far as they are granted.
    pub caught_up: bool,
    /// Local changes that the other side has not acknowledged.
    pub pending: u64,
    /// Time since the oldest of them, in milliseconds.
    pub lag_ms: u64,
    /// How often a session was opened.
    pub sessions: u64,
    /// Bytes carried since the link was declared.
    pub traffic: LinkTotals,
    /// Changes carried since the link was declared.
    pub changes: ChangeTotals,
    /// Details of the current session.
    pub session: SessionStatus,
    /// It is no error, and nothing to wait for, if the other side can't be reached.
    pub optional: bool,
    /// The other side was found on the local network, not named.
    pub found: bool,
    /// The other side may be linked to; false only while one that was found has not come here itself.
    pub accepted: bool,
}

impl LinkStatus {
    /// Whether there is something to wait for: it is not caught up, and it is to be.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let away = matches!(self.state, LinkState::Offline | LinkState::Refused);
        let nobody = (self.optional && away) || !self.accepted;
        self.mode != SyncMode::LocalOnly && !self.caught_up && !nobody
    }
}

/// Changes that a link or a session has carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChangeTotals {
    /// Handed to the connection.
    pub sent: u64,
    /// Received, and found to be well-formed.
    pub received: u64,
}

/// Places of the feed whose way to the peer is timed, at once.
const MAX_MARKS: usize = 32;

/// What a session reports, shared with whoever asks.
#[derive(Debug, Default)]
pub struct SessionReport {
    inner: Mutex<Report>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Report {
    status: SessionStatus,
    opened: Option<Opened>,
    /// What the last session agreed on, while there is none.
    before: Option<Opened>,
    /// Ends of the feed that the peer has not acknowledged, each with when it was first seen, oldest first.
    marks: VecDeque<(Seq, Instant)>,
    fingerprint: Option<Fingerprint>,
    counters: Option<Arc<LinkCounters>>,
    done: LinkTotals,
    changes: ChangeTotals,
    peer_no: u32,
    since_ms: u64,
    view: Option<Arc<View>>,
    /// The last moment that somebody asked about.
    asked: Moment,
    /// That of a question under way.
    asking: Option<Moment>,
    /// The last moment of which the peer's feed is known to have ended where the status says, or later.
    heard: Moment,
}

impl Report {
    /// Takes note of how far the feed goes and how far the peer has it. Calls `timed` with the time that the peer took
    /// to have each place that was noted, in microseconds.
    fn time(&mut self, status: &SessionStatus, timed: impl Fn(u64)) {
        while let Some((seq, since)) = self.marks.front().copied()
            && (status.pushed >= seq || status.pushed_all)
        {
            self.marks.pop_front();
            // Else there was nothing for this peer up to there.
            if status.pushed >= seq {
                timed(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
        }
        let noted = self.marks.back().map_or(status.pushed, |(seq, _)| *seq);
        if status.pushed_all {
            // An idle session keeps nothing.
            self.marks = VecDeque::new();
        } else if status.head > noted && self.marks.len() < MAX_MARKS {
            self.marks.push_back((status.head, Instant::now()));
        }
    }
}

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl SessionReport {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection: what it carries counts from now on.
    pub(crate) fn connected(&self, counters: Arc<LinkCounters>, fingerprint: Option<Fingerprint>) {
        let mut report = self.lock();
        report.counters = Some(counters);
        report.fingerprint = fingerprint;
    }

    pub(crate) fn opened(&self, opened: Opened) {
        let mut report = self.lock();
        report.opened = Some(opened);
        report.since_ms = now_ms();
        if report.asked > report.heard {
            self.asked.notify_one();
        }
    }

    /// Whether what the status says of the peer's feed was so at this moment, or after it. Else the peer is asked, if
    /// there is a session.
    pub(crate) fn is_since(&self, moment: Moment) -> bool {
        let mut report = self.lock();
        if report.asked < moment {
            report.asked = moment;
            if report.opened.is_some() {
                self.asked.notify_one();
            }
        }
        report.heard >= moment
    }

    /// Waits until the peer is to be asked where its feed ends.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The peer is being asked.
    pub(crate) fn asks(&self) {
        let mut report = self.lock();
        report.asking = Some(report.asked);
    }

    /// The peer, a client, is shown this.
    pub(crate) fn shows(&self, view: &Arc<View>) {
        self.lock().view = Some(Arc::clone(view));
    }

    /// What a client is shown, also by its last session; `None` if this side is the client.
    #[must_use]
    pub fn view(&self) -> Option<Arc<View>> {
        self.lock().view.clone()
    }

    /// Changes arrived that can be applied.
    pub(crate) fn received(&self, changes: usize) {
        self.lock().changes.received += changes as u64;
    }

    pub(crate) fn knows_peer(&self, peer_no: u32) {
        self.lock().peer_no = peer_no;
    }

    /// The session has come this far; `timed` is called with how long the peer took for changes that it has now.
    pub(crate) fn progress(&self, status: SessionStatus, timed: impl Fn(u64)) {
        let mut report = self.lock();
        report.time(&status, timed);
        report.changes.sent += status.changes_sent.saturating_sub(report.status.changes_sent);
        report.status = status;
        if status.unanswered == 0
            && let Some(moment) = report.asking.take()
        {
            report.heard = moment;
        }
    }

    pub(crate) fn disconnected(&self) {
        let mut report = self.lock();
        if let Some(opened) = report.opened.take() {
            report.before = Some(opened);
            report.since_ms = now_ms();
        }
        report.asking = None;
        report.status.changes_sent = 0;
        report.status.pulled_all = false;
        report.status.pushed_all = false;
        if let Some(counters) = report.counters.take() {
            report.done = add(report.done, counters.totals());
        }
    }

    /// The session's figures.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        self.lock().status
    }

    /// What was agreed on; `None` while there is no session.
    #[must_use]
    pub fn agreed(&self) -> Option<Opened> {
        self.lock().opened.clone()
    }

    /// What was agreed on, also by the last session if there is none.
    #[must_use]
    pub fn last_agreed(&self) -> Option<Opened> {
        let report = self.lock();
        report.opened.clone().or_else(|| report.before.clone())
    }

    /// Whether there is a session.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().opened.is_some()
    }

    /// The other side's number in the local database, once it was met.
    #[must_use]
    pub fn peer_no(&self) -> u32 {
        self.lock().peer_no
    }

    /// The other side's key, once it was met.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.lock().fingerprint
    }

    /// Time since the oldest unacknowledged change, in milliseconds.
    #[must_use]
    pub fn lag_ms(&self) -> u64 {
        let since = self.lock().marks.front().copied();
        since.map_or(0, |(_, since)| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// When the session was opened or, if there is none, when the last one ended, in milliseconds since the Unix
    /// epoch; 0 if there never was one.
    #[must_use]
    pub fn since_ms(&self) -> u64 {
        self.lock().since_ms
    }

    /// Changes carried so far.
    #[must_use]
    pub fn changes(&self) -> ChangeTotals {
        self.lock().changes
    }

    /// Everything carried so far.
    #[must_use]
    pub fn traffic(&self) -> LinkTotals {
        let report = self.lock();
        let now = report.counters.as_ref().map_or_else(LinkTotals::default, |counters| counters.totals());
        add(report.done, now)
    }
}

fn add(a: LinkTotals, b: LinkTotals) -> LinkTotals {
    LinkTotals {
        bytes_sent: a.bytes_sent + b.bytes_sent,
        bytes_received: a.bytes_received + b.bytes_received,
        frames_sent: a.frames_sent + b.frames_sent,
        frames_received: a.frames_received + b.frames_received,
    }
}

/// Whether what ended a session is worth trying again soon.
pub(crate) const fn is_refusal(code: CloseCode) -> bool {
    matches!(
        code,
        CloseCode::Refused
            | CloseCode::Unauthenticated
            | CloseCode::Version
            | CloseCode::Protocol
            | CloseCode::ClockDrift
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pushed: Seq, head: Seq, pushed_all: bool) -> SessionStatus {
        SessionStatus { pushed, head, pushed_all, ..SessionStatus::default() }
    }

    #[test]
    fn what_is_acknowledged_is_timed_and_the_oldest_that_is_not_is_the_lag() {
        let report = SessionReport::default();
        let timed = std::cell::Cell::new(0);
        let step = |status| report.progress(status, |_| timed.set(timed.get() + 1));
        step(at(0, 5, false));
        std::thread::sleep(std::time::Duration::from_millis(20));
        step(at(0, 7, false));
        assert!(report.lag_ms() >= 20);
        step(at(5, 7, false));
        assert_eq!(timed.get(), 1);
        assert!(report.lag_ms() < 20, "the lag is that of the changes that are left");
        step(at(7, 7, true));
        assert_eq!((timed.get(), report.lag_ms()), (2, 0));
    }

    #[test]
    fn what_the_peer_had_already_is_not_timed_and_marks_are_bounded() {
        let report = SessionReport::default();
        for head in 1..1_000 {
            report.progress(at(0, head, false), |_| panic!("nothing was acknowledged"));
        }
        assert_eq!(report.lock().marks.len(), MAX_MARKS);
        report.progress(at(0, 1_000, true), |_| panic!("nothing was acknowledged"));
        assert_eq!(report.lag_ms(), 0);
    }

    #[test]
    fn changes_count_over_all_sessions() {
        let report = SessionReport::default();
        for _ in 0..2 {
            report.progress(SessionStatus { changes_sent: 3, ..SessionStatus::default() }, |_| ());
            report.received(2);
            report.disconnected();
        }
        assert_eq!(report.changes(), ChangeTotals { sent: 6, received: 4 });
    }
}
