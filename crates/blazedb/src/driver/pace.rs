//! How long changes are collected before they are sent.
//!
//! Invariant: a lone change is never held back.

use std::time::Duration;

use blazedb_core::limits;
use blazedb_core::session::SessionStatus;
use tokio::time::Instant as TokioInstant;

use super::Driver;

impl Driver {
    /// When to look at the feed again. What a burst of commits writes is sent together: while the peer has not
    /// acknowledged what came before, or a moment after it if more has come meanwhile (J. Nagle, RFC 896, with a
    /// limit). A lone commit is sent at once, and so is everything once much is under way. The more readers a database
    /// has, the longer a burst is collected: each message costs this node the same, whatever is in it.
    pub(super) fn pace(&self, status: &SessionStatus) -> Option<TokioInstant> {
        let looked_at = self.looked_at?;
        let pause = match status.in_flight_bytes {
            0 if self.context.database.store().head() <= status.head => return None,
            0 => self.burst_ms(),
            1..=limits::PACED_BYTES => limits::FEED_PACE_MS,
            _ => return None,
        };
        Some(looked_at + Duration::from_millis(pause))
    }

    /// Does what waited for a time that has come.
    pub(super) fn on_alarm(&mut self, now: TokioInstant) {
        self.look_at_time(now);
        if self.waiting.until().is_some_and(|until| until <= now) {
            self.take_turn();
        }
        if self.paced_until.is_some_and(|until| until <= now) {
            self.looked_at = None;
        }
    }

    fn burst_ms(&self) -> u64 {
        let readers = self.context.database.inner.head.receiver_count() / limits::FEED_BURST_READERS;
        let times = u64::try_from(readers).unwrap_or(u64::MAX).saturating_add(1);
        limits::FEED_BURST_MS.saturating_mul(times).min(limits::FEED_BURST_MAX_MS)
    }
}
