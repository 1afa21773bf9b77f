//! A link as it is seen from outside.

use std::sync::atomic::Ordering;

use crate::link::Link;
use crate::mesh_link::Rest;
use crate::moment::Moment;
use crate::status::{LinkState, LinkStatus};

impl Link {
    /// The status, in which only what the other side has said of this moment counts.
    pub(crate) fn status_since(&self, moment: Moment) -> LinkStatus {
        let heard = match self.resting() {
            Rest::No => self.report.is_since(moment),
            Rest::Covered(session) => session.is_since(moment),
            Rest::Doubled => true,
        };
        let mut status = self.status();
        if !heard && status.caught_up {
            (status.caught_up, status.state) = (false, LinkState::Syncing);
        }
        status
    }

    pub(crate) fn status(&self) -> LinkStatus {
        let (phase, policy) = (self.phase().clone(), self.terms().policy.clone());
        let agreed = self.report.agreed();
        let session = self.report.status();
        let rest = self.resting();
        let may_push = agreed.as_ref().is_some_and(|agreed| agreed.direction.push);
        // The session learns of the last commits a moment later.
        let pushed_all =
            session.pushed_all && (!may_push || session.head >= self.config.database.store().head());
        // The keys may be here already while the session that has brought them is still open: it carries nothing else.
        let ready = self.config.database.store().ready_for(&self.terms().policy.encryption).is_ok()
            && !self.for_keys_alone.load(Ordering::Relaxed);
        let caught_up = ready && agreed.is_some() && pushed_all && session.pulled_all;
        // A session that is only there for the keys is none to whoever waits for changes.
        let state = match (agreed.as_ref().filter(|_| ready), caught_up) {
            (Some(_), true) => LinkState::Idle,
            (Some(_), false) => LinkState::Syncing,
            (None, _) => phase.state,
        };
        let wants_push = policy.mode.direction().push;
        // What the other side does not take is pending too: it is here and not there.
        let cut_off = agreed.as_ref().is_some_and(|agreed| !agreed.direction.push);
        let done = !wants_push || (pushed_all && !cut_off);
        let pending = if done { 0 } else { self.pending(session.pushed) };
        let mut status = LinkStatus {
            database: self.config.database_name.clone(),
            remote: self.remote(),
            latencies: self.route.latencies(),
            remote_database: self.config.remote_database.clone(),
            mode: policy.mode,
            pattern: policy.pattern,
            authority: policy.authority,
            priority: policy.priority,
            state,
            since_ms: if agreed.is_some() { self.report.since_ms() } else { phase.since_ms },
            fingerprint: self.report.fingerprint().or_else(|| self.expected()),
            peer_no: self.report.peer_no(),
            replica: agreed.as_ref().map(|agreed| agreed.replica),
            granted: agreed.as_ref().map(|agreed| agreed.direction),
            notice: self.notice(agreed.as_ref().map(|agreed| agreed.notice.clone()).unwrap_or_default()),
            // What was wrong last stands until a session is open. One that is only there for the keys mends nothing yet.
            error: phase.error.filter(|_| agreed.is_none() || !ready),
            caught_up,
            pending,
            lag_ms: self.report.lag_ms(),
            sessions: phase.sessions,
            traffic: self.report.traffic(),
            changes: self.report.changes(),
            session,
            optional: policy.optional,
            found: self.found,
            accepted: self.is_accepted(),
        };
        self.while_it_rests(&mut status, rest);
        status
    }

    /// What another link does of this one's work.
    fn while_it_rests(&self, status: &mut LinkStatus, rest: Rest) {
        match rest {
            Rest::No if self.is_accepted() => {}
            Rest::No => {
                "not accepted here yet: it has not come to this node itself, with a token that counts"
                    .clone_into(&mut status.notice);
                status.caught_up = false;
            }
            Rest::Doubled => {
                status.state = LinkState::Idle;
                (status.error, status.caught_up, status.pending) = (None, true, 0);
                "another link leads to the same node".clone_into(&mut status.notice);
            }
            Rest::Covered(session) => {
                let (agreed, its) = (session.agreed(), session.status());
                let pushed_all = its.pushed_all && its.head >= self.config.database.store().head();
                status.caught_up = agreed.is_some() && pushed_all && its.pulled_all;
                status.state = match (&agreed, status.caught_up) {
                    (None, _) => LinkState::Connecting,
                    (_, true) => LinkState::Idle,
                    (_, false) => LinkState::Syncing,
                };
                (status.error, status.replica) = (None, agreed.map(|agreed| agreed.replica));
                status.pending = if pushed_all { 0 } else { self.pending(its.pushed) };
                status.lag_ms = session.lag_ms();
                "the other side has connected to this one: its link does the work"
                    .clone_into(&mut status.notice);
            }
        }
    }

    /// What the other side said, and what of it could not be opened.
    fn notice(&self, said: String) -> String {
        let unopened = self.config.database.store().unopened().unwrap_or_default();
        let Some(last) = unopened.first() else { return said };
        let missing = format!(
            "{} record(s) could not be opened and were left out, such as {}: {}",
            unopened.len(),
            last.id,
            last.reason
        );
        if said.is_empty() { missing } else { format!("{said}; {missing}") }
    }
}
