//! Sets of small numbers: of fields and writers, as a replica has numbered them.

/// A set of small numbers. It takes an eighth of a byte for each number up to the highest.
#[derive(Clone, Debug, Default)]
pub struct NumberSet(Vec<u64>);

impl NumberSet {
    /// Adds a number; answers whether it is new.
    #[inline]
    pub fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(slot) = self.0.get_mut(word) else { return false };
        let new = *slot & bit == 0;
        *slot |= bit;
        new
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let within = |word: u64| (0..64).filter(move |bit| word >> bit & 1 != 0);
        (0u32..).zip(&self.0).flat_map(move |(at, word)| within(*word).map(move |bit| at * 64 + bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once_and_all_come_out_in_order() {
        let mut set = NumberSet::default();
        let new: Vec<bool> = [200, 3, 63, 64, 3, 0, 200].into_iter().map(|n| set.insert(n)).collect();
        assert_eq!(new, [true, true, true, true, false, true, false]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 63, 64, 200]);
    }
}
