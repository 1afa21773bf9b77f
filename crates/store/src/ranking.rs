//! Ranking what a search finds, for those who may see only some of the records.
//!
//! Okapi BM25 weighs a word by how rare it is and a record by how long it is beside others. Here both are taken from the
//! hits that count alone (those that the searcher may read and that match its filter): a rank is a function of them, and
//! tells nothing of any other record.

use blazedb_sqlite::fts5::register_hits;
use blazedb_sqlite::rusqlite::functions::{Context, FunctionFlags};
use blazedb_sqlite::rusqlite::{Connection, Result};

/// How quickly more of the same word counts less, and how much the length of a record matters: the usual values.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// What all hits that count have together.
#[derive(Default)]
pub(crate) struct Totals {
    hits: f64,
    words: f64,
    /// In how many hits each phrase is.
    having: Vec<f64>,
}

impl Totals {
    /// Adds one hit, as `bz_hits` says it.
    pub(crate) fn add(&mut self, hits: &[u8]) {
        let mut counts = counts(hits);
        self.hits += 1.0;
        self.words += counts.next().unwrap_or_default();
        let counts: Vec<f64> = counts.collect();
        self.having.resize(self.having.len().max(counts.len()), 0.0);
        for (having, count) in self.having.iter_mut().zip(counts) {
            *having += if count > 0.0 { 1.0 } else { 0.0 };
        }
    }

    /// The weights for `bz_rank`: the average length of a hit, then what each phrase is worth.
    pub(crate) fn weights(&self) -> Vec<u8> {
        let average = if self.hits > 0.0 { self.words / self.hits } else { 0.0 };
        let worth = |having: &f64| (1.0 + (self.hits - having + 0.5) / (having + 0.5)).ln();
        let weights = std::iter::once(average).chain(self.having.iter().map(worth));
        weights.flat_map(f64::to_le_bytes).collect()
    }
}

fn counts(hits: &[u8]) -> impl Iterator<Item = f64> + '_ {
    hits.chunks_exact(4).filter_map(|bytes| Some(f64::from(u32::from_le_bytes(bytes.try_into().ok()?))))
}

/// How well a hit fits: higher is better.
fn rank(hits: &[u8], weights: &[u8]) -> f64 {
    let mut weights =
        weights.chunks_exact(8).filter_map(|bytes| Some(f64::from_le_bytes(bytes.try_into().ok()?)));
    let average = weights.next().unwrap_or_default().max(1.0);
    let mut counts = counts(hits);
    let length = counts.next().unwrap_or_default() / average;
    let each = counts
        .zip(weights)
        .map(|(count, worth)| worth * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length)));
    each.sum()
}

/// Adds `bz_hits(search)` and `bz_rank(hits, weights)` to a connection.
pub(crate) fn register(db: &Connection) -> Result<()> {
    register_hits(db)?;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("bz_rank", 2, flags, |ctx: &Context<'_>| {
        let blob = |at| ctx.get_raw(at).as_blob().unwrap_or_default();
        Ok(rank(blob(0), blob(1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(counts: &[u32]) -> Vec<u8> {
        counts.iter().flat_map(|count| count.to_le_bytes()).collect()
    }

    #[test]
    fn more_of_a_rare_word_in_a_short_record_is_better() {
        let all = [hits(&[10, 1, 0]), hits(&[10, 3, 0]), hits(&[100, 1, 0]), hits(&[10, 0, 1])];
        let mut totals = Totals::default();
        all.iter().for_each(|hit| totals.add(hit));
        let weights = totals.weights();
        let [once, thrice, long, rare] = all.map(|hit| rank(&hit, &weights));
        assert!(thrice > once && once > long && rare > once && long > 0.0);
        assert_eq!(rank(&[], &[]), 0.0);
    }
}
