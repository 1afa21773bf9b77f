//! What is told of links: state, progress, the last error.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use blazedb_core::ReplicaId;
use blazedb_core::session::{Opened, SessionStatus};
use blazedb_core::topology::SyncMode;
use blazedb_core::wire::{CloseCode, Direction};
use blazedb_transport::{Fingerprint, LinkCounters, LinkTotals};

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
    /// It is about keys, access or identity.
    pub refused: bool,
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
    /// The database's name there.
    pub remote_database: String,
    /// What the link asks for.
    pub mode: SyncMode,
    /// The pattern that it belongs to.
    pub pattern: &'static str,
    /// What it is doing.
    pub state: LinkState,
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
    /// Details of the current session.
    pub session: SessionStatus,
}

/// What a session reports, shared with whoever asks.
#[derive(Debug, Default)]
pub struct SessionReport {
    inner: Mutex<Report>,
}

#[derive(Debug, Default)]
struct Report {
    status: SessionStatus,
    opened: Option<Opened>,
    behind_since: Option<Instant>,
    fingerprint: Option<Fingerprint>,
    counters: Option<Arc<LinkCounters>>,
    done: LinkTotals,
    peer_no: u32,
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
        self.lock().opened = Some(opened);
    }

    pub(crate) fn knows_peer(&self, peer_no: u32) {
        self.lock().peer_no = peer_no;
    }

    pub(crate) fn progress(&self, status: SessionStatus) {
        let mut report = self.lock();
        report.behind_since = match (status.pushed_all, report.behind_since) {
            (true, _) => None,
            (false, since) => since.or_else(|| Some(Instant::now())),
        };
        report.status = status;
    }

    pub(crate) fn disconnected(&self) {
        let mut report = self.lock();
        report.opened = None;
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
        let since = self.lock().behind_since;
        since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
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
    matches!(code, CloseCode::Refused | CloseCode::Version | CloseCode::Protocol | CloseCode::ClockDrift)
}
