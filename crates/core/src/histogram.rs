//! How often something took how long: a histogram that many threads add to and nobody waits for.
//!
//! Invariant: the bounds are the same for all histograms, so that they can be added up and compared.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets, in microseconds; what is longer goes into one more bucket.
pub const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// Durations, counted by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// A histogram as it was at one moment. Each number is exact; together they may be of slightly different moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HistogramCounts {
    /// Durations up to each of [`BOUNDS_US`] and above the one before, then those above the last.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one duration, in microseconds.
    pub fn add(&self, us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What it holds now.
    #[must_use]
    pub fn counts(&self) -> HistogramCounts {
        HistogramCounts {
            counts: std::array::from_fn(|at| {
                self.counts.get(at).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_goes_into_the_first_bucket_that_it_does_not_exceed() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 30_000_000, 30_000_001, 90_000_000] {
            histogram.add(us);
        }
        let counted = histogram.counts();
        assert_eq!(counted.counts[..3], [2, 1, 0]);
        assert_eq!(counted.counts[BOUNDS_US.len() - 1..], [1, 2]);
        assert_eq!(counted.sum_us, 150_000_202);
    }
}
