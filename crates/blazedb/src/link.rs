//! A link's life: connect, run a session, wait, again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blazedb_core::session::Closed;
use blazedb_core::topology::SyncMode;
use blazedb_transport::ws::{self, ConnectError, ConnectOptions};
use blazedb_transport::{Connection, Endpoint, Identity, PinPolicy};
use tokio::sync::watch;

use crate::database::Database;
use crate::driver::{Role, SessionContext, run_session};
use crate::status::{LinkError, LinkState, LinkStatus, SessionReport, is_refusal};

/// The first pause after a failed try, in milliseconds; doubled with every further one.
const BACKOFF_FIRST_MS: u64 = 100;
/// The longest pause, in milliseconds.
const BACKOFF_MAX_MS: u64 = 30_000;
/// The pause after a refusal, in milliseconds: somebody has to change something first.
const REFUSED_MS: u64 = 10_000;
/// A session that lasted this long was a success, in milliseconds.
const LASTING_MS: u128 = 5_000;

/// What a link connects.
pub(crate) struct LinkConfig {
    pub(crate) database: Database,
    pub(crate) database_name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) remote_database: String,
    pub(crate) mode: SyncMode,
    pub(crate) pattern: &'static str,
    pub(crate) compression: bool,
    pub(crate) pins: PinPolicy,
    pub(crate) identity: Arc<Identity>,
    pub(crate) options: ConnectOptions,
}

/// What may change while a link lives.
#[derive(Clone, Debug)]
struct Phase {
    state: LinkState,
    error: Option<LinkError>,
    sessions: u64,
}

/// A running link.
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) report: Arc<SessionReport>,
    phase: Mutex<Phase>,
    stop: watch::Sender<bool>,
    /// Set to try again at once.
    nudge: tokio::sync::Notify,
}

impl Link {
    pub(crate) fn new(config: LinkConfig) -> Arc<Self> {
        let phase = Phase { state: LinkState::Connecting, error: None, sessions: 0 };
        Arc::new(Self {
            config,
            report: Arc::default(),
            phase: Mutex::new(phase),
            stop: watch::Sender::new(false),
            nudge: tokio::sync::Notify::new(),
        })
    }

    /// Stops the link; a session that is open says goodbye.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Tries again at once if it is waiting to.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    pub(crate) fn status(&self) -> LinkStatus {
        let phase = self.phase().clone();
        let agreed = self.report.agreed();
        let session = self.report.status();
        let may_push = agreed.as_ref().is_some_and(|agreed| agreed.direction.push);
        // The session learns of the last commits a moment later.
        let pushed_all =
            session.pushed_all && (!may_push || session.head >= self.config.database.store().head());
        let caught_up = agreed.is_some() && pushed_all && session.pulled_all;
        let state = match (&agreed, caught_up) {
            (Some(_), true) => LinkState::Idle,
            (Some(_), false) => LinkState::Syncing,
            (None, _) => phase.state,
        };
        let wants_push = self.config.mode.direction().push;
        // What the other side does not take is pending too: it is here and not there.
        let cut_off = agreed.as_ref().is_some_and(|agreed| !agreed.direction.push);
        let done = !wants_push || (pushed_all && !cut_off);
        let pending = if done { 0 } else { self.pending(session.pushed) };
        LinkStatus {
            database: self.config.database_name.clone(),
            remote: self.config.endpoint.to_string(),
            remote_database: self.config.remote_database.clone(),
            mode: self.config.mode,
            pattern: self.config.pattern,
            state,
            replica: agreed.as_ref().map(|agreed| agreed.replica),
            granted: agreed.as_ref().map(|agreed| agreed.direction),
            notice: agreed.map(|agreed| agreed.notice).unwrap_or_default(),
            error: phase.error,
            caught_up,
            pending,
            lag_ms: self.report.lag_ms(),
            sessions: phase.sessions,
            traffic: self.report.traffic(),
            session,
        }
    }

    fn pending(&self, pushed: u64) -> u64 {
        self.config.database.store().pending(pushed, self.report.peer_no()).unwrap_or(0)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: LinkState, error: Option<LinkError>) {
        let mut phase = self.phase();
        phase.state = state;
        phase.error = error;
    }

    /// Runs until [`Link::stop`].
    pub(crate) async fn run(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let mut failures = 0;
        while !*stop.borrow_and_update() {
            let outcome = tokio::select! {
                outcome = self.once(&mut failures) => outcome,
                _ = stop.wait_for(|stopped| *stopped), if false => return,
            };
            if *stop.borrow() {
                break;
            }
            let pause = self.pause_after(&outcome, failures);
            failures += 1;
            tracing::info!(database = self.config.database_name, remote = %self.config.endpoint,
                error = %outcome, retry_ms = pause.as_millis(), "link down");
            let state = if outcome.refused { LinkState::Refused } else { LinkState::Offline };
            self.set(state, Some(outcome));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.nudge.notified() => {}
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
        }
        self.set(LinkState::Stopped, None);
    }

    /// One connection. Answers why it ended; a lasting one resets the count of failures.
    async fn once(&self, failures: &mut u32) -> LinkError {
        let mut stop = self.stop.subscribe();
        let connection = tokio::select! {
            connection = self.connect() => connection,
            _ = stop.wait_for(|stopped| *stopped) => return temporary("stopped".to_owned()),
        };
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => return connect_failed(&error),
        };
        let started = Instant::now();
        {
            let mut phase = self.phase();
            phase.sessions += 1;
            phase.error = None;
        }
        let context = SessionContext {
            database: self.config.database.clone(),
            link: self.link_name(),
            report: Arc::clone(&self.report),
            stop: self.stop.subscribe(),
        };
        let role =
            Role::Client { direction: self.config.mode.direction(), compression: self.config.compression };
        let closed = run_session(context, role, connection.into()).await;
        if started.elapsed().as_millis() >= LASTING_MS {
            *failures = 0;
        }
        session_ended(&self.config.endpoint, closed)
    }

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let LinkConfig { endpoint, database_name, remote_database, identity, pins, options, .. } =
            &self.config;
        ws::connect(endpoint, database_name, remote_database, identity, pins, options).await
    }

    /// The name under which the database keeps this link's checkpoints.
    fn link_name(&self) -> Arc<str> {
        format!("{}/{}", self.config.endpoint, self.config.remote_database).into()
    }

    /// Exponential with full jitter (M. Brooker, *Exponential Backoff And Jitter*, 2015), bounded from below.
    fn pause_after(&self, outcome: &LinkError, failures: u32) -> Duration {
        let longest = if outcome.refused {
            REFUSED_MS
        } else {
            BACKOFF_MAX_MS.min(BACKOFF_FIRST_MS.saturating_mul(1 << failures.min(16)))
        };
        let mut random = [0; 2];
        let _ = aws_lc_rs::rand::fill(&mut random);
        let share = 512 + u64::from(u16::from_le_bytes(random)) % 512;
        Duration::from_millis(longest * share / 1_024)
    }
}

fn temporary(message: String) -> LinkError {
    LinkError { temporary: true, refused: false, message }
}

fn connect_failed(error: &ConnectError) -> LinkError {
    let refused = matches!(
        error,
        ConnectError::KeyChanged { .. }
            | ConnectError::Name(_)
            | ConnectError::Pins(_)
            | ConnectError::Refused { status: 400..=499, .. }
    );
    LinkError { temporary: !refused, refused, message: error.to_string() }
}

fn session_ended(endpoint: &Endpoint, closed: Closed) -> LinkError {
    match closed {
        Closed::ByPeer(code, text) => {
            let refused = is_refusal(code);
            LinkError { temporary: !refused, refused, message: format!("{endpoint}: {text}") }
        }
        Closed::Here(code, text) => {
            let refused = is_refusal(code);
            LinkError { temporary: !refused, refused, message: format!("{endpoint}: {text}") }
        }
        Closed::Silent => temporary(format!("{endpoint}: the other side has gone silent")),
    }
}
