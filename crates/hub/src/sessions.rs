//! Who is connected to this node, who was, and who was turned away.
//!
//! Invariants: a client is known by the key that it has proven, its database and the one here; those who are gone are
//! kept to a number, oldest dropped first; nothing here holds up a session.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use blazedb::{ChangeTotals, Fingerprint, NodeId, SessionReport};
use blazedb_core::histogram::{Histogram, HistogramCounts};
use blazedb_transport::LinkTotals;

/// Clients that are remembered after they are gone.
const MAX_GONE: usize = 1_000;
/// Refusals that are remembered.
const MAX_REFUSALS: usize = 50;

/// What names a client's link.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SessionKey {
    /// The client.
    pub node: NodeId,
    /// Its database.
    pub from: String,
    /// The database here.
    pub database: String,
}

/// Whose session it is: the user's id, once that is known; empty of nobody in particular.
pub(crate) type Whose = Arc<OnceLock<Arc<str>>>;

/// A client that is connected, or was.
#[derive(Clone, Debug)]
pub struct ClientSession {
    /// What names it.
    pub key: Arc<SessionKey>,
    /// What the client calls itself; empty if it has not said.
    pub name: String,
    /// The client's key.
    pub fingerprint: Fingerprint,
    /// Where it connects from.
    pub address: SocketAddr,
    /// The user of its session, or of its last one.
    pub(crate) user: Whose,
    /// What its session reports, or its last one has reported.
    pub report: Arc<SessionReport>,
    /// There is a session.
    pub live: bool,
    /// When it came or went, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How often it came.
    pub sessions: u64,
    /// Why it was sent away, if it was.
    pub refused: Option<String>,
    /// What sessions before that one have carried.
    before: (LinkTotals, ChangeTotals),
}

impl ClientSession {
    /// The user of its session, or of its last one, if it was told by a token.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.get().map(|user| &**user).filter(|user| !user.is_empty())
    }

    /// Bytes carried since this node started, seen from here.
    #[must_use]
    pub fn traffic(&self) -> LinkTotals {
        let (before, now) = (self.before.0, self.report.traffic());
        LinkTotals {
            bytes_sent: before.bytes_sent + now.bytes_sent,
            bytes_received: before.bytes_received + now.bytes_received,
            frames_sent: before.frames_sent + now.frames_sent,
            frames_received: before.frames_received + now.frames_received,
        }
    }

    /// Changes carried since this node started, seen from here.
    #[must_use]
    pub fn changes(&self) -> ChangeTotals {
        let (before, now) = (self.before.1, self.report.changes());
        ChangeTotals { sent: before.sent + now.sent, received: before.received + now.received }
    }
}

/// A connection that was turned away, or a session that was ended for cause.
#[derive(Clone, Debug)]
pub struct TurnedAway {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Where it came from.
    pub address: SocketAddr,
    /// Its node id, if it has proven a key.
    pub node: Option<String>,
    /// The database that it asked for, if it came that far.
    pub database: Option<String>,
    /// The kind of reason, one word.
    pub kind: &'static str,
    /// The reason, in words.
    pub reason: String,
}

#[derive(Default)]
struct Inner {
    clients: BTreeMap<Arc<SessionKey>, ClientSession>,
    /// Keys of clients that went, in that order; some may have come back.
    gone: VecDeque<Arc<SessionKey>>,
    refusals: VecDeque<TurnedAway>,
    refused_by: BTreeMap<&'static str, u64>,
}

/// The clients of a listener.
#[derive(Default)]
pub struct Sessions {
    inner: Mutex<Inner>,
    handshakes: Histogram,
}

/// A client that has just been let in.
pub(crate) struct Arrival {
    pub(crate) key: Arc<SessionKey>,
    pub(crate) name: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) address: SocketAddr,
    pub(crate) user: Whose,
}

impl Sessions {
    pub(crate) fn handshaken(&self, us: u64) {
        self.handshakes.add(us);
    }

    pub(crate) fn came(&self, arrival: Arrival, report: &Arc<SessionReport>) {
        let Arrival { key, name, fingerprint, address, user } = arrival;
        let mut inner = self.inner();
        let known = inner.clients.remove(&key);
        let (before, sessions) =
            known.map_or_else(Default::default, |known| ((known.traffic(), known.changes()), known.sessions));
        let client = ClientSession {
            key: Arc::clone(&key),
            name,
            fingerprint,
            address,
            user,
            report: Arc::clone(report),
            live: true,
            since_ms: now_ms(),
            sessions: sessions + 1,
            refused: None,
            before,
        };
        inner.clients.insert(key, client);
    }

    /// The session of a client is over; `refused` if it was sent away.
    pub(crate) fn went(&self, key: &Arc<SessionKey>, report: &Arc<SessionReport>, refused: Option<String>) {
        let mut inner = self.inner();
        let Some(client) = inner.clients.get_mut(key) else { return };
        // It may have come back before its old session was found to be dead.
        if !Arc::ptr_eq(&client.report, report) {
            return;
        }
        client.live = false;
        client.since_ms = now_ms();
        client.refused = refused;
        inner.gone.push_back(Arc::clone(key));
        while inner.gone.len() > MAX_GONE {
            let Some(oldest) = inner.gone.pop_front() else { break };
            let away = inner.clients.get(&oldest).is_some_and(|client| !client.live);
            if away && !inner.gone.contains(&oldest) {
                inner.clients.remove(&oldest);
            }
        }
    }

    pub(crate) fn refused(&self, refusal: TurnedAway) {
        let mut inner = self.inner();
        *inner.refused_by.entry(refusal.kind).or_default() += 1;
        if inner.refusals.len() >= MAX_REFUSALS {
            inner.refusals.pop_front();
        }
        inner.refusals.push_back(refusal);
    }

    /// What the open session of a client reports.
    pub(crate) fn live(&self, key: &SessionKey) -> Option<Arc<SessionReport>> {
        let inner = self.inner();
        let client = inner.clients.get(key).filter(|client| client.live);
        client.map(|client| Arc::clone(&client.report))
    }

    /// Every client that is connected, and the last that were.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientSession> {
        self.inner().clients.values().cloned().collect()
    }

    /// The last refusals, oldest first.
    #[must_use]
    pub fn refusals(&self) -> Vec<TurnedAway> {
        self.inner().refusals.iter().cloned().collect()
    }

    /// How many were refused since this node started, by kind of reason.
    #[must_use]
    pub fn refused_by(&self) -> BTreeMap<&'static str, u64> {
        self.inner().refused_by.clone()
    }

    /// How long handshakes took that ended well.
    #[must_use]
    pub fn handshake_times(&self) -> HistogramCounts {
        self.handshakes.counts()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId(uuid::Uuid::from_u128(number as u128))
    }

    fn arrival(number: usize) -> Arrival {
        let key =
            Arc::new(SessionKey { node: node(number), from: "bugs".to_owned(), database: "bugs".to_owned() });
        let fingerprint = Fingerprint::from_bytes([1; 32]);
        let (name, address) = ("phone".to_owned(), ([127, 0, 0, 1], 1).into());
        Arrival { key, name, fingerprint, address, user: Arc::default() }
    }

    #[test]
    fn a_client_that_comes_back_before_its_old_session_ends_stays() {
        let sessions = Sessions::default();
        let (old, new) = (Arc::default(), Arc::default());
        sessions.came(arrival(1), &old);
        sessions.came(arrival(1), &new);
        sessions.went(&arrival(1).key, &old, None);
        let clients = sessions.clients();
        assert_eq!((clients.len(), clients[0].sessions, clients[0].live), (1, 2, true));
        sessions.went(&arrival(1).key, &new, Some("enough".to_owned()));
        assert!(!sessions.clients()[0].live);
        assert_eq!(sessions.clients()[0].refused.as_deref(), Some("enough"));
    }

    #[test]
    fn those_who_are_gone_are_few() {
        let sessions = Sessions::default();
        let report = Arc::default();
        sessions.came(arrival(0), &report);
        for number in 1..=2 * MAX_GONE {
            sessions.came(arrival(number), &report);
            sessions.went(&arrival(number).key, &report, None);
        }
        let clients = sessions.clients();
        assert_eq!(clients.len(), MAX_GONE + 1);
        assert!(clients.iter().any(|client| client.key.node == node(0)));
        assert!(!clients.iter().any(|client| client.key.node == node(1)));
    }

    #[test]
    fn refusals_are_counted_by_kind_and_the_last_are_kept() {
        let sessions = Sessions::default();
        for number in 0..2 * MAX_REFUSALS {
            sessions.refused(TurnedAway {
                at_ms: number as u64,
                address: ([127, 0, 0, 1], 1).into(),
                node: None,
                database: None,
                kind: "tls",
                reason: String::new(),
            });
        }
        assert_eq!(sessions.refused_by(), BTreeMap::from([("tls", 2 * MAX_REFUSALS as u64)]));
        let kept = sessions.refusals();
        assert_eq!((kept.len(), kept[0].at_ms), (MAX_REFUSALS, MAX_REFUSALS as u64));
    }
}
