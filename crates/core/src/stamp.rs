//! Hybrid logical time.
//!
//! Source: Kulkarni, Demirbas, Madappa, Avva, Leone, *Logical Physical Clocks* (2014). A [`Hlc`] is 48 bits of
//! milliseconds and 16 bits of counter; a [`Stamp`] adds the replica that wrote, which makes it unique and the
//! order total.
//!
//! Invariants: a [`Clock`] never returns a time twice and never one below any time it has observed; it never
//! accepts a time further ahead of the physical clock than its drift limit.

use std::fmt;

use crate::id::ReplicaId;

/// A hybrid logical time: milliseconds since the Unix epoch in the upper 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The time of `millis` since the Unix epoch (cut to 48 bits: the year 10889) and `counter`.
    #[must_use]
    pub const fn new(millis: u64, counter: u16) -> Self {
        Self((millis << 16) | counter as u64)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// The counter that orders what happened in one millisecond.
    #[must_use]
    pub const fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.counter())
    }
}

/// When a write happened and which replica made it. Unique, and totally ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// When.
    pub time: Hlc,
    /// The replica that wrote.
    pub writer: ReplicaId,
}

impl Stamp {
    /// A stamp from its parts.
    #[must_use]
    pub const fn new(time: Hlc, writer: ReplicaId) -> Self {
        Self { time, writer }
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.time, self.writer)
    }
}

/// A stamp lies further ahead of this node's clock than the limit allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a change is stamped {drift_ms} ms ahead of this node's clock, over the limit of {limit_ms} ms: \
     set the clock of the device that wrote it (or of this one), or raise clock_drift_limit"
)]
pub struct DriftError {
    /// How far ahead the stamp is, in milliseconds.
    pub drift_ms: u64,
    /// The limit, in milliseconds.
    pub limit_ms: u64,
}

/// The clock of one replica.
#[derive(Clone, Debug)]
pub struct Clock {
    last: Hlc,
    drift_limit_ms: u64,
}

impl Clock {
    /// A clock that has seen every time up to `last`.
    #[must_use]
    pub const fn new(last: Hlc, drift_limit_ms: u64) -> Self {
        Self { last, drift_limit_ms }
    }

    /// The highest time seen or given out.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// A new time: `now_ms` if that is ahead of everything seen, otherwise the next after what was seen.
    ///
    /// ```
    /// use blazedb_core::{Clock, Hlc};
    /// let mut clock = Clock::new(Hlc::default(), 300_000);
    /// let first = clock.tick(1_000);
    /// assert_eq!(first, Hlc::new(1_000, 0));
    /// assert!(clock.tick(400) > first, "a clock that jumped back keeps counting");
    /// ```
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.last = Hlc::new(now_ms, 0).max(self.last.next());
        self.last
    }

    /// Takes note of a time from elsewhere.
    ///
    /// # Errors
    /// [`DriftError`] if it lies too far ahead of `now_ms`; the clock is then unchanged.
    pub fn observe(&mut self, time: Hlc, now_ms: u64) -> Result<(), DriftError> {
        check_drift(time, now_ms, self.drift_limit_ms)?;
        self.last = self.last.max(time);
        Ok(())
    }
}

fn check_drift(time: Hlc, now_ms: u64, limit_ms: u64) -> Result<(), DriftError> {
    let drift_ms = time.millis().saturating_sub(now_ms);
    if drift_ms > limit_ms { Err(DriftError { drift_ms, limit_ms }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ticks_rise_whatever_the_physical_clock_does(times in prop::collection::vec(0u64..1 << 40, 1..50)) {
            let mut clock = Clock::new(Hlc::default(), 1_000);
            let mut last = Hlc::default();
            for now in times {
                let tick = clock.tick(now);
                prop_assert!(tick > last);
                prop_assert!(tick.millis() >= now);
                last = tick;
            }
        }
    }

    #[test]
    fn a_time_beyond_the_drift_limit_is_refused_and_not_remembered() {
        let mut clock = Clock::new(Hlc::default(), 300_000);
        let far = Hlc::new(1_000_000 + 300_001, 0);
        assert_eq!(clock.observe(far, 1_000_000).unwrap_err().drift_ms, 300_001);
        assert_eq!(clock.tick(1_000_000), Hlc::new(1_000_000, 0));
        clock.observe(Hlc::new(1_300_000, 7), 1_000_000).unwrap();
        assert_eq!(clock.tick(1_000_000), Hlc::new(1_300_000, 8));
    }
}
