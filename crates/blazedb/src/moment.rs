//! Points in time that other nodes are asked about.

use std::sync::atomic::{AtomicU64, Ordering};

/// A point in time: what was written before it, on any node, is there when it is asked about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(u64);

impl Moment {
    /// Now: later than every moment of this process before.
    #[must_use]
    pub fn now() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }
}
