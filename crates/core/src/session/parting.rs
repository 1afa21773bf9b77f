//! The end of a session whose peer's changes can't be taken in for now: what is here is sent to its end first.
//!
//! A device whose clock is wrong has nothing it writes taken in until that is mended. What others write it still gets.

use super::pusher::Pusher;
use super::{Abort, Session, State};
use crate::limits::{PARTING_LONGEST_MS, PARTING_QUIET_MS};
use crate::wire::CloseCode;

/// Nothing is taken in any more, and the session ends when everything is sent.
#[derive(Debug)]
pub(super) struct Parting {
    text: String,
    began_ms: u64,
    /// When the peer last acknowledged something, and how much it had then.
    moved_ms: u64,
    acked: u64,
}

impl Parting {
    /// When it ends though not everything is sent.
    fn ends_ms(&self) -> u64 {
        let quiet = self.moved_ms.saturating_add(PARTING_QUIET_MS);
        quiet.min(self.began_ms.saturating_add(PARTING_LONGEST_MS))
    }
}

impl Session {
    /// The peer's changes can't be taken in. Unless time alone mends that, the session ends at once.
    pub(super) fn on_apply_failed(
        &mut self,
        now_ms: u64,
        code: CloseCode,
        text: String,
    ) -> Result<(), Abort> {
        if self.parting.is_some() {
            // Of what follows it.
            return Ok(());
        }
        let State::Running(running) = &self.state else { return Err(Abort(code, text)) };
        let Some(pusher) = running.pusher.as_ref().filter(|_| code == CloseCode::ClockDrift) else {
            return Err(Abort(code, text));
        };
        let acked = pusher.messages_acked();
        self.parting = Some(Parting { text, began_ms: now_ms, moved_ms: now_ms, acked });
        Ok(())
    }

    /// Ends a parting that is done.
    pub(super) fn part_if_done(&mut self, now_ms: u64) -> Result<(), Abort> {
        let Some(parting) = &mut self.parting else { return Ok(()) };
        let State::Running(running) = &self.state else { return Ok(()) };
        let acked = running.pusher.as_ref().map_or(0, Pusher::messages_acked);
        if acked > parting.acked {
            (parting.acked, parting.moved_ms) = (acked, now_ms);
        }
        let sent = running.reconciliation.is_none() && running.pusher.as_ref().is_none_or(Pusher::is_done);
        if sent || now_ms >= parting.ends_ms() {
            return Err(Abort(CloseCode::ClockDrift, std::mem::take(&mut parting.text)));
        }
        Ok(())
    }

    /// When to look at a parting again.
    pub(super) fn parts_ms(&self) -> u64 {
        self.parting.as_ref().map_or(u64::MAX, Parting::ends_ms)
    }
}
