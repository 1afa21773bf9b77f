//! New record ids.
//!
//! Invariants: an id is version 7 (RFC 9562, section 5.7); those drawn in one millisecond ascend, each a random step
//! above the one before (section 6.2, method 2), so that a batch is appended to the index of ids and not scattered
//! over its end. Randomness is drawn in bulk: a call into the generator per id costs as much as encoding a record.

use aws_lc_rs::rand;
use blazedb_core::RecordId;

use crate::error::StoreError;

/// Random bytes drawn at once.
const POOL: usize = 512;
/// The random part of an id, in bits.
const RANDOM_BITS: u32 = 74;
/// The part of it behind the variant, in bits.
const LOW_BITS: u32 = 62;

/// Draws ids. An open file is not used over a `fork`, so neither is the pool.
#[derive(Debug)]
pub(crate) struct IdSource {
    pool: [u8; POOL],
    used: usize,
    millis: u64,
    random: u128,
}

impl Default for IdSource {
    fn default() -> Self {
        Self { pool: [0; POOL], used: POOL, millis: 0, random: 0 }
    }
}

impl IdSource {
    /// An id for this moment, in milliseconds since the Unix epoch.
    pub(crate) fn next(&mut self, millis: u64) -> Result<RecordId, StoreError> {
        let step = u128::from(u32::from_le_bytes(self.draw()?)) + 1;
        let above = self.random + step;
        if millis == self.millis && above >> RANDOM_BITS == 0 {
            self.random = above;
        } else {
            self.random = u128::from_le_bytes(self.draw()?) >> (u128::BITS - RANDOM_BITS);
            self.millis = millis;
        }
        let (high, low) = (self.random >> LOW_BITS, self.random & ((1 << LOW_BITS) - 1));
        // In the bytes that an id takes, two bits between the parts belong to the variant.
        let [.., a, b, c, d, e, f, g, h, i, j] = (high << u64::BITS | low).to_be_bytes();
        Ok(RecordId::v7(millis, [a, b, c, d, e, f, g, h, i, j]))
    }

    fn draw<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        if self.used + N > POOL {
            rand::fill(&mut self.pool).map_err(|_| StoreError::Kdf("no randomness".to_owned()))?;
            self.used = 0;
        }
        let drawn = self.pool.get(self.used..).and_then(|rest| rest.first_chunk()).copied();
        self.used += N;
        drawn.ok_or_else(|| StoreError::Kdf("no randomness".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_one_millisecond_ascend_and_every_id_says_its_time() {
        let mut ids = IdSource::default();
        let mut all = HashSet::new();
        for millis in [1_700_000_000_000, 1_700_000_000_001, 1_600_000_000_000] {
            let mut last = None;
            for _ in 0..10_000 {
                let id = ids.next(millis).unwrap();
                assert_eq!(id.millis(), Some(millis));
                assert!(last.is_none_or(|last| last < id), "{last:?} {id:?}");
                assert!(all.insert(id));
                last = Some(id);
            }
        }
    }

    #[test]
    fn two_sources_do_not_meet_and_steps_are_not_foreseeable() {
        let (mut a, mut b) = (IdSource::default(), IdSource::default());
        let low = |id: RecordId| u128::from_be_bytes(*id.as_bytes());
        let mut steps = HashSet::new();
        for _ in 0..100 {
            let (from, to, other) = (a.next(7).unwrap(), a.next(7).unwrap(), b.next(7).unwrap());
            assert_ne!(from, other);
            steps.insert(low(to) - low(from));
        }
        assert!(steps.len() > 90);
    }

    #[test]
    fn where_the_random_part_is_at_its_end_a_new_one_is_drawn() {
        let mut ids = IdSource { random: (1 << RANDOM_BITS) - 1, millis: 7, ..IdSource::default() };
        let id = ids.next(7).unwrap();
        assert_eq!((id.millis(), id.0.get_version_num()), (Some(7), 7));
        assert!(ids.random < (1 << RANDOM_BITS) - 1);
    }
}
