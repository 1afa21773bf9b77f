//! A link's life: connect, run a session, wait, again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blazedb_core::Filter;
use blazedb_core::topology::LinkTarget;
use blazedb_core::view::ViewRequest;
use blazedb_core::wire::{Direction, Token};
use blazedb_transport::ws::{self, ConnectOptions};
use blazedb_transport::{Fingerprint, Identity, PinPolicy};
use tokio::sync::watch;

use crate::database::Database;
use crate::driver::{Channel, ClientAsk, Role, SessionContext, run_session};
use crate::fanout::blocking;
use crate::link_keys::sealed_request;
use crate::local::serve_inside;
use crate::mesh_link::Rest;
use crate::outcome::{connect_failed, refused, session_ended, stranger, temporary};
use crate::policy::SyncPolicy;
use crate::route::Route;
use crate::status::{LinkError, LinkState, SessionReport, now_ms};
use crate::token_source::TokenSource;
use crate::topology::DatabaseNode;
use crate::turn::{Order, Rank, Turn};

/// The first pause after a failed try, in milliseconds; doubled with every further one.
const BACKOFF_FIRST_MS: u64 = 100;
/// The longest pause, in milliseconds.
const BACKOFF_MAX_MS: u64 = 30_000;
/// The first pause after a refusal, in milliseconds: somebody has to change something first.
const REFUSED_FIRST_MS: u64 = 1_000;
/// Why a node that was found may not know who this one is.
const WITHHELD: &str = "this node's token is not shown to it: it is not bound to this node's key, so that whoever sees it could use \
    it (`blazedb token issue --node KEY` makes one that is), and the other node does not prove that it knows the issuer's key";
/// A session that lasted this long was a success, in milliseconds.
const LASTING_MS: u128 = 5_000;

/// What a link connects.
#[derive(Clone)]
pub(crate) struct LinkConfig {
    pub(crate) database: Database,
    pub(crate) node: DatabaseNode,
    pub(crate) database_name: String,
    pub(crate) place: Place,
    pub(crate) remote_database: String,
    pub(crate) identity: Arc<Identity>,
    pub(crate) options: ConnectOptions,
    pub(crate) tokens: Arc<TokenSource>,
    pub(crate) order: Order,
}

/// Where the other side of a link is.
#[derive(Clone)]
pub(crate) enum Place {
    /// On another node.
    Remote(LinkTarget),
    /// In this process: the name that it has here.
    Local(DatabaseNode, Database),
}

/// How a link is to sync, and with whom. May be replaced while the link lives.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) policy: SyncPolicy,
    pub(crate) pins: PinPolicy,
}

impl Terms {
    /// Whether there is nothing to change from one to the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let pins = match (&self.pins, &other.pins) {
            (PinPolicy::Exactly(one), PinPolicy::Exactly(other)) => one == other,
            (PinPolicy::FirstUse(_), PinPolicy::FirstUse(_)) => true,
            _ => false,
        };
        pins && self.policy == other.policy
    }

    /// Whether a node with this key is not the one that is meant.
    fn is_other(&self, key: Fingerprint) -> bool {
        matches!(&self.pins, PinPolicy::Exactly(meant) if *meant != key)
    }

    /// What a session with these terms asks for, if the other side is accepted.
    pub(crate) fn ask(&self, accepted: bool) -> ClientAsk {
        ClientAsk {
            direction: if accepted { self.policy.mode.direction() } else { Direction::default() },
            compression: self.policy.compression,
            request: self.policy.request(),
            removals: self.policy.removals,
            release: self.policy.release,
            authority: self.policy.authority,
            stranger: !accepted,
            ..ClientAsk::default()
        }
    }
}

/// What happens to a link while it lives.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) state: LinkState,
    pub(crate) error: Option<LinkError>,
    pub(crate) sessions: u64,
    pub(crate) since_ms: u64,
}

/// A running link.
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) report: Arc<SessionReport>,
    phase: Mutex<Phase>,
    terms: Mutex<Terms>,
    /// What is asked of the other side, as sessions see it.
    pub(crate) asks: watch::Sender<ClientAsk>,
    /// Ends the session that is open.
    hang_up: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    /// Set to try again at once.
    nudge: tokio::sync::Notify,
    /// Whether others go first.
    pub(crate) rank: Arc<Rank>,
    /// Which of the target's addresses.
    pub(crate) route: Route,
    /// The session that ends is ended by this side, to go on in another way or elsewhere.
    pub(crate) by_choice: AtomicBool,
    /// Nothing goes either way as long as it is not known whether the other side may be linked to.
    pub(crate) accepted: AtomicBool,
    /// The session that is open, if one is, is there for the keyring alone.
    pub(crate) for_keys_alone: AtomicBool,
    /// What the other side may be shown; `None`: everything.
    pub(crate) shown: Mutex<Option<Filter>>,
    /// Its other side was found, not named.
    pub(crate) found: bool,
    /// Why nothing is to be done here for the time being.
    pub(crate) rest: watch::Sender<Rest>,
}

impl Link {
    /// A link. If its other side was found rather than named, it connects and has nothing go either way until that is
    /// accepted.
    pub(crate) fn new(config: LinkConfig, terms: Terms, found: bool) -> Arc<Self> {
        let accepted = !found;
        let phase = Phase { state: LinkState::Connecting, error: None, sessions: 0, since_ms: now_ms() };
        Arc::new(Self {
            route: Route::new(&config.place),
            rank: config.order.enter(terms.policy.priority),
            by_choice: AtomicBool::new(false),
            found,
            accepted: AtomicBool::new(accepted),
            for_keys_alone: AtomicBool::new(false),
            shown: Mutex::default(),
            rest: watch::Sender::default(),
            config,
            report: Arc::default(),
            phase: Mutex::new(phase),
            asks: watch::Sender::new(terms.ask(accepted)),
            terms: Mutex::new(terms),
            hang_up: watch::Sender::new(false),
            stop: watch::Sender::new(false),
            nudge: tokio::sync::Notify::new(),
        })
    }

    /// The database that it is a link of.
    pub(crate) const fn node(&self) -> DatabaseNode {
        self.config.node
    }

    /// Whether it is a link of this database.
    pub(crate) fn is_of(&self, node: &DatabaseNode) -> bool {
        self.config.node == *node
    }

    /// Whether this database is at one of its ends.
    pub(crate) fn concerns(&self, node: &DatabaseNode) -> bool {
        self.is_of(node) || matches!(&self.config.place, Place::Local(other, _) if other == node)
    }

    /// Stops the link; a session that is open says goodbye.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
        self.hang_up.send_replace(true);
    }

    /// Goes on in another way from now on. A session that is open goes on as well, unless the other side turns out not
    /// to be the one that is meant.
    pub(crate) fn change(&self, terms: Terms) {
        let other = self.report.fingerprint().is_some_and(|key| terms.is_other(key));
        let store = self.config.database.store();
        // The keys may be missing, or the filter may ask for what is sealed: that is settled at the opening.
        let stays_sealed = terms.policy.encryption == self.terms().policy.encryption
            && store.ready_for(&terms.policy.encryption).is_ok()
            && sealed_request(store, &terms.policy).is_ok();
        self.rank.set_priority(terms.policy.priority);
        *self.terms() = terms;
        self.asks.send_replace(self.ask_now());
        if other || !stays_sealed {
            self.end_session();
        }
        self.nudge();
    }

    /// What is asked of the other side from now on, in words that it may hear.
    pub(crate) fn ask_now(&self) -> ClientAsk {
        let terms = self.terms().clone();
        let ask = ClientAsk { granted: self.granted(), ..terms.ask(self.is_accepted()) };
        match sealed_request(self.config.database.store(), &terms.policy) {
            Ok(request) => ClientAsk { request, ..ask },
            Err(_) => ask,
        }
    }

    /// Ends the session that is open, to open another one at once.
    pub(crate) fn end_session(&self) {
        self.by_choice.store(true, Ordering::Relaxed);
        self.hang_up.send_replace(true);
    }

    /// How it is to sync, and with whom.
    pub(crate) fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries again at once if it is waiting to.
    pub(crate) fn nudge(&self) {
        let mut phase = self.phase();
        if matches!(phase.state, LinkState::Offline | LinkState::Refused) {
            // What it was refused for may be mended: nobody should give it up for that.
            phase.state = LinkState::Connecting;
        }
        drop(phase);
        self.nudge.notify_one();
    }

    /// Where the other side is, as it is shown.
    pub(crate) fn remote(&self) -> String {
        match &self.config.place {
            Place::Remote(_) => self.route.current_text(),
            Place::Local(node, _) => format!("local:{}", node.name()),
        }
    }

    pub(crate) fn pending(&self, pushed: u64) -> u64 {
        self.config.database.store().pending(pushed, self.report.peer_no()).unwrap_or(0)
    }

    pub(crate) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: LinkState, error: Option<LinkError>) {
        let mut phase = self.phase();
        if phase.state != state || self.report.since_ms() > phase.since_ms {
            phase.since_ms = now_ms();
        }
        phase.state = state;
        phase.error = error;
    }

    /// The key that the other side has to show, if there is one.
    pub(crate) fn expected(&self) -> Option<Fingerprint> {
        match &self.terms().pins {
            PinPolicy::Exactly(key) => Some(*key),
            PinPolicy::FirstUse(known) => self.route.current().and_then(|endpoint| known.get(&endpoint)),
        }
    }

    /// Runs until [`Link::stop`].
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.keep_up() => {}
            () = self.keep_near() => {}
        }
        self.set(LinkState::Stopped, None);
    }

    /// Measures the addresses that there are to choose from, and moves a session that would be better elsewhere.
    async fn keep_near(&self) {
        loop {
            self.route.next_round().await;
            match self.report.is_open() {
                true if self.route.should_move() => {
                    tracing::info!(database = self.config.database_name, from = self.remote(),
                        to = ?self.route.latencies(), "link moves to another address");
                    self.end_session();
                }
                false if self.route.has_untried() => self.nudge(),
                _ => {}
            }
        }
    }

    async fn keep_up(&self) {
        let mut stop = self.stop.subscribe();
        let mut failures = 0;
        let mut tokens = self.config.tokens.subscribe();
        let mut rest = self.rest.subscribe();
        while !*stop.borrow_and_update() {
            if rest.borrow_and_update().is_rest() {
                tokio::select! {
                    _ = rest.wait_for(|rest| !rest.is_rest()) => {}
                    _ = stop.wait_for(|stopped| *stopped) => break,
                }
                failures = 0;
            }
            self.rank.begin();
            let outcome = tokio::select! {
                outcome = self.once(&mut failures, &mut tokens) => outcome,
                _ = stop.wait_for(|stopped| *stopped), if false => return,
            };
            self.rank.rest();
            if *stop.borrow() {
                break;
            }
            if self.by_choice.swap(false, Ordering::Relaxed) {
                continue;
            }
            let pause =
                if self.route.failed() { Duration::ZERO } else { self.pause_after(&outcome, failures) };
            failures += 1;
            tracing::info!(database = self.config.database_name, remote = self.remote(),
                error = %outcome, retry_ms = pause.as_millis(), "link down");
            let outcome_refused = outcome.refused;
            let state = if outcome_refused { LinkState::Refused } else { LinkState::Offline };
            self.set(state, Some(outcome));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.nudge.notified() => {}
                Ok(()) = tokens.changed(), if outcome_refused => failures = 0,
                Ok(_) = rest.wait_for(Rest::is_rest) => {}
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
        }
    }

    /// One connection. Answers why it ended; a lasting one resets the count of failures.
    async fn once(&self, failures: &mut u32, tokens: &mut watch::Receiver<Option<Token>>) -> LinkError {
        let mut stop = self.stop.subscribe();
        self.hang_up.send_replace(*stop.borrow());
        let mut hang_up = self.hang_up.subscribe();
        hang_up.mark_changed();
        let source = Arc::clone(&self.config.tokens);
        if let Err(problem) = blocking(move || source.refresh()).await {
            return stranger(format!("token_file {problem}"));
        }
        // Only a later one is worth another try at once.
        tokens.mark_unchanged();
        let (channel, name) = tokio::select! {
            channel = self.open() => match channel {
                Ok(channel) => channel,
                Err(error) => return error,
            },
            _ = stop.wait_for(|stopped| *stopped) => return temporary("stopped".to_owned()),
        };
        let started = Instant::now();
        self.phase().sessions += 1;
        let context = SessionContext {
            database: self.config.database.clone(),
            link: format!("{name}/{}", self.config.remote_database).into(),
            report: Arc::clone(&self.report),
            stop: hang_up,
            turn: Turn::of(Arc::clone(&self.rank)),
        };
        let store = self.config.database.store();
        let policy = self.terms().policy.clone();
        self.share_dictionary().await;
        let keyless = store.ready_for(&policy.encryption).err();
        self.for_keys_alone.store(keyless.is_some(), Ordering::Relaxed);
        let request = match &keyless {
            None => match sealed_request(store, &policy) {
                Ok(request) => request,
                Err(problem) => return refused(format!("database {}: {problem}", self.config.database_name)),
            },
            Some(_) => ViewRequest::default(),
        };
        let mut asks = self.asks.subscribe();
        let ask = asks.borrow_and_update().clone();
        let unaccepted = ask.stranger.then(|| asks.clone());
        let role = Role::Client(ClientAsk {
            // Without the keys only the keyring is fetched: nothing is shown, and nothing taken.
            direction: if keyless.is_some() { Direction::default() } else { ask.direction },
            request,
            token: Some(self.config.tokens.subscribe()),
            later: keyless.is_none().then_some(asks),
            ..ask
        });
        let session = run_session(context, role, channel);
        let closed = if keyless.is_none() { session.await } else { self.for_keys(session, unaccepted).await };
        if keyless.is_some() {
            return self.keys_missing(&name, closed);
        }
        if started.elapsed().as_millis() >= LASTING_MS {
            *failures = 0;
        }
        let ended = session_ended(&name, closed);
        match ended.stranger && self.config.tokens.withholds() {
            true => stranger(format!("{}; {WITHHELD}", ended.message)),
            false => ended,
        }
    }

    /// A channel to the other side, and what it is called: checkpoints are kept under that, so whoever comes back to an
    /// edge goes on where it was.
    async fn open(&self) -> Result<(Channel, String), LinkError> {
        if let Place::Local(node, database) = &self.config.place {
            return Ok((serve_inside(database), format!("local:{}", node.name())));
        }
        let endpoint = self.route.choose().await;
        let endpoint = endpoint.ok_or_else(|| temporary("there is no address".to_owned()))?;
        let LinkConfig { database_name, remote_database, identity, options, .. } = &self.config;
        let pins = self.terms().pins.clone();
        let connection =
            ws::connect(&endpoint, database_name, remote_database, identity, &pins, options).await;
        let connection = connection.map_err(|error| connect_failed(&error))?;
        if self.terms().is_other(connection.fingerprint()) {
            return Err(temporary("another node is meant by now".to_owned()));
        }
        Ok((connection.into(), endpoint.to_string()))
    }

    /// Exponential with full jitter (M. Brooker, *Exponential Backoff And Jitter*, 2015), bounded from below.
    fn pause_after(&self, outcome: &LinkError, failures: u32) -> Duration {
        let first = if outcome.refused { REFUSED_FIRST_MS } else { BACKOFF_FIRST_MS };
        let longest = BACKOFF_MAX_MS.min(first.saturating_mul(1 << failures.min(16)));
        let mut random = [0; 2];
        let _ = aws_lc_rs::rand::fill(&mut random);
        let share = 512 + u64::from(u16::from_le_bytes(random)) % 512;
        Duration::from_millis(longest * share / 1_024)
    }
}
