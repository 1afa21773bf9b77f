//! "Did you mean": the valid word nearest to a mistyped one.

use std::fmt;

/// A word longer than this is not compared: nobody mistyped it.
const MAX_COMPARED_CHARS: usize = 64;

/// The nearest of `valid` to `found`, if it is near enough to be meant.
pub(super) fn nearest<'v>(found: &str, valid: &[&'v str]) -> Option<&'v str> {
    let found: Vec<char> = found.chars().take(MAX_COMPARED_CHARS + 1).flat_map(char::to_lowercase).collect();
    if found.len() > MAX_COMPARED_CHARS {
        return None;
    }
    let (distance, word) =
        valid.iter().map(|word| (distance(&found, word), *word)).min_by_key(|(distance, _)| *distance)?;
    (distance <= (word.len().max(found.len()) / 3).max(1)).then_some(word)
}

/// Writes `; did you mean "x"?` if something is near, and the list of what is valid.
pub(super) fn write_advice(f: &mut fmt::Formatter<'_>, found: &str, valid: &[&str]) -> fmt::Result {
    if let Some(word) = nearest(found, valid) {
        write!(f, "; did you mean {word:?}?")?;
    }
    write!(f, " (valid: {})", valid.join(", "))
}

/// Insertions, deletions, substitutions and swaps of neighbours that lead from `from` to `to`.
///
/// Source: the "optimal string alignment" distance (Damerau, 1964; Levenshtein, 1966), three rows at a time.
fn distance(from: &[char], to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    let mut last_from = None;
    for (i, &a) in from.iter().enumerate() {
        let mut next = vec![i + 1];
        let mut last_to = None;
        for (j, &b) in to.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&row, j) + usize::from(a != b)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            if last_from == Some(b) && last_to == Some(a) && j > 0 {
                best = best.min(at(&before, j - 1).saturating_add(1));
            }
            next.push(best);
            last_to = Some(b);
        }
        last_from = Some(a);
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let of = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!(of("", ""), 0);
        assert_eq!(of("hub", ""), 3);
        assert_eq!(of("", "hub"), 3);
        assert_eq!(of("hbu", "hub"), 1, "a swap of neighbours is one slip");
        assert_eq!(of("kitten", "sitting"), 3);
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let valid = ["mesh", "star", "hub-and-spoke"];
        assert_eq!(nearest("hub-and-spokes", &valid), Some("hub-and-spoke"));
        assert_eq!(nearest("Mesh", &valid), Some("mesh"));
        assert_eq!(nearest("ring", &valid), None);
        assert_eq!(nearest(&"m".repeat(10_000), &valid), None);
    }
}
