//! What meshes ask of their links: to wait until the other side is accepted, and to rest while another link does the work.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use blazedb_core::topology::{PatternKind, SyncMode};
use blazedb_core::{Filter, NodeId};

use crate::link::Link;
use crate::status::{LinkState, SessionReport};

/// Whether another link does the work of this one.
#[derive(Clone, Default)]
pub(crate) enum Rest {
    /// None does.
    #[default]
    No,
    /// The one that the peer has opened, which is this client's session here.
    Covered(Arc<SessionReport>),
    /// Another one of this node.
    Doubled,
}

impl Rest {
    pub(crate) const fn is_rest(&self) -> bool {
        !matches!(self, Self::No)
    }
}

impl Link {
    pub(crate) fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The other side is accepted from now on, or no longer, and its user may read what matches `shown`, or everything.
    pub(crate) fn set_accepted(&self, accepted: bool, shown: Option<Filter>) {
        let before = std::mem::replace(&mut *self.shown(), shown.clone());
        let changed = before != shown && self.terms().policy.respect_rls;
        if self.accepted.swap(accepted, Ordering::Relaxed) != accepted || changed {
            self.asks.send_replace(self.ask_now());
        }
    }

    /// What this side's own rules let the other side's user read, as far as they are asked.
    pub(crate) fn granted(&self) -> Option<Filter> {
        self.shown().clone().filter(|_| self.terms().policy.respect_rls)
    }

    fn shown(&self) -> MutexGuard<'_, Option<Filter>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the link rest while another one does its work, or work again.
    pub(crate) fn rest(&self, covered: Option<Arc<SessionReport>>, doubled: bool) {
        let rest = match covered {
            Some(session) => Rest::Covered(session),
            None if doubled => Rest::Doubled,
            None => Rest::No,
        };
        let begins = rest.is_rest() && !self.rest.borrow().is_rest();
        self.rest.send_replace(rest);
        if begins {
            self.end_session();
        }
    }

    pub(crate) fn resting(&self) -> Rest {
        self.rest.borrow().clone()
    }

    /// Whether nothing but carrying changes both ways is asked of it.
    pub(crate) fn may_rest(&self) -> bool {
        let terms = self.terms();
        !terms.policy.release && terms.policy.mode != SyncMode::LocalOnly
    }

    /// Whether a mesh asks for it.
    pub(crate) fn is_mesh(&self) -> bool {
        self.terms().policy.pattern == PatternKind::Mesh.as_str()
    }

    /// The node at the other end, once it was met.
    pub(crate) fn met(&self) -> Option<NodeId> {
        self.report.fingerprint().map(|key| key.node_id())
    }

    /// Whether there is a session.
    pub(crate) fn works(&self) -> bool {
        self.report.is_open()
    }

    /// Whether the other side did not want it the last time.
    pub(crate) fn is_refused(&self) -> bool {
        self.phase().state == LinkState::Refused
    }
}
