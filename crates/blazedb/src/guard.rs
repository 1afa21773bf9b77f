//! What a serving node decides about a client: when it says hello, and for as long as its session is open.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use blazedb_core::session::{Admission, Input, Refusal};
use blazedb_core::view::{View, ViewRequest};
use blazedb_core::wire::{Hello, Token};
use blazedb_core::{Filter, Timestamp};
use blazedb_store::Gate;
use tokio::sync::watch;

use crate::driver::ClientAsk;

/// A decision on its way.
pub type Decision<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A client that is let in.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// What it is told.
    pub admission: Admission,
    /// What its changes must pass; `None`: it may do everything.
    pub gate: Option<Arc<Gate>>,
    /// What it is shown at another time, if that changes with time.
    pub rebind: Option<Rebind>,
    /// It may begin the keyring, if there is none.
    pub begins_keyring: bool,
}

/// A view that changes with time.
#[derive(Clone)]
pub struct Rebind(Arc<dyn Fn(Timestamp) -> Option<View> + Send + Sync>);

impl Rebind {
    /// The view as `bind` says that it is at a time.
    pub fn new(bind: impl Fn(Timestamp) -> Option<View> + Send + Sync + 'static) -> Self {
        Self(Arc::new(bind))
    }

    /// What `request` amounts to, cut by what is granted, if that changes with time.
    #[must_use]
    pub fn of(request: &ViewRequest, granted: Option<&Filter>) -> Option<Self> {
        let timed = request.depends_on_time() || granted.is_some_and(Filter::depends_on_time);
        let (request, granted) = (request.clone(), granted.cloned());
        timed.then(|| Self::new(move |now| request.view(granted.as_ref(), now).ok()))
    }

    /// The view at a time.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Option<View> {
        (self.0)(now)
    }
}

impl std::fmt::Debug for Rebind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rebind")
    }
}

impl From<Admission> for Admitted {
    fn from(admission: Admission) -> Self {
        Self { admission, gate: None, rebind: None, begins_keyring: true }
    }
}

/// Decides what a client that says hello may do.
pub type Admit = Box<dyn Fn(Hello) -> Decision<Result<Admitted, Refusal>> + Send + Sync>;

/// Decides on a fresh token of a client whose session is open.
pub type Renew = Box<dyn Fn(Token) -> Decision<Verdict> + Send + Sync>;

/// What becomes of a client whose session is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It stays, with the same rights.
    Stays,
    /// It has other rights from now on: the session ends, and may be opened again at once.
    Changed,
    /// It must go.
    Refused(Refusal),
}

impl From<Verdict> for Input {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Stays => Self::TokenAccepted,
            Verdict::Changed => Self::UserChanged,
            Verdict::Refused(refusal) => Self::Refuse(refusal),
        }
    }
}

/// What a serving node has to say of a client while its session is open.
pub struct Guard {
    /// Asked about every fresh token.
    pub renew: Renew,
    /// Its word at any other time: an expiry, a revocation, other rules.
    pub verdict: watch::Receiver<Verdict>,
}

/// One thing that a driver is told from outside.
pub(crate) enum Order {
    /// Something for the session.
    Input(Input),
    /// Ask the other side for this from now on.
    Ask(ClientAsk),
}

/// What a driver is told from outside while its session runs.
pub(crate) enum Orders {
    /// A client's tokens and what it asks for, as they are replaced.
    Client(Option<watch::Receiver<Option<Token>>>, Option<watch::Receiver<ClientAsk>>),
    /// A server's verdicts about its client.
    Verdicts(watch::Receiver<Verdict>),
    /// Nothing.
    Never,
}

impl Orders {
    /// The next one. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Order {
        match self {
            Self::Client(tokens, asks) => loop {
                tokio::select! {
                    token = replaced(tokens) => {
                        if let Some(token) = token {
                            return Order::Input(Input::Token(token));
                        }
                    }
                    ask = replaced(asks) => return Order::Ask(ask),
                }
            },
            Self::Verdicts(verdicts) => {
                while verdicts.changed().await.is_ok() {
                    let verdict = verdicts.borrow_and_update().clone();
                    if verdict != Verdict::Stays {
                        return Order::Input(verdict.into());
                    }
                }
            }
            Self::Never => {}
        }
        pending().await
    }
}

/// The value that takes the place of the last one.
async fn replaced<T: Clone>(values: &mut Option<watch::Receiver<T>>) -> T {
    if let Some(values) = values
        && values.changed().await.is_ok()
    {
        return values.borrow_and_update().clone();
    }
    pending().await
}
