//! Finds the difference of two sets for some 17 bytes a differing record, however the differences are scattered.
//!
//! Rateless invertible Bloom lookup tables (L. Yang, Y. Gilad, M. Alizadeh, *Practical Rateless Set Reconciliation*, 2024).
//! Of a set there is an endless row of symbols; an item is part of symbol 0 and of ever rarer ones after it, and a symbol
//! is the exclusive or of its items. In the exclusive or of both sides' rows only the difference is left. A symbol with
//! one item shows it, which is then taken out of all symbols that it is part of, until nothing is left. That takes about
//! 1.35 to 1.7 symbols an item of the difference.
//!
//! Invariants: items stand here as 8 bytes of their hash, so what is found is a proposal: it holds once both sides have
//! compared a hash of everything that they take for common. Whatever a peer sends ends in a proposal or in giving up.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::reconcile::ReconcileItem;
use crate::feed::Seq;
use crate::id::RecordId;
use crate::limits::{MAX_CODED_SYMBOLS, SKETCH_LEN};
use crate::version::Hash;
use crate::wire::CodedSymbol;

/// The fewest symbols that are sent first, and at once later on.
const LEAST: usize = 16;

/// An item on its way through the symbols.
#[derive(Clone, Copy)]
struct Part {
    short: u64,
    /// The next symbol that it is part of.
    next: usize,
    state: u64,
}

impl Part {
    const fn new(short: u64) -> Self {
        Self { short, next: 0, state: short }
    }

    /// Goes on to the next symbol: item and symbol `i` meet with the probability 1 / (1 + i / 2), section 4.2 of the paper.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the row ends long before 2^52"
    )]
    fn advance(&mut self) {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let random = (mix(self.state) >> 32) as f64 + 1.0;
        let step = (self.next as f64 + 1.5) * (65_536.0 / random.sqrt() - 1.0);
        self.next = self.next.saturating_add((step.ceil() as usize).max(1));
    }

    /// Puts it into all symbols before `end` that it is part of, or takes it out; `symbols` begin at `start`. Tells which.
    fn toggle(&mut self, symbols: &mut [CodedSymbol], start: usize, mut changed: impl FnMut(usize)) {
        let end = start + symbols.len();
        while self.next < end {
            if let Some(symbol) = self.next.checked_sub(start).and_then(|at| symbols.get_mut(at)) {
                symbol.sum ^= self.short;
                symbol.check ^= check_of(self.short);
                changed(self.next);
            }
            self.advance();
        }
    }
}

/// The finalizer of SplitMix64 (G. Steele, D. Lea, C. Flood, 2014).
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[allow(clippy::cast_possible_truncation, reason = "half of it is enough")]
const fn check_of(short: u64) -> u32 {
    mix(short ^ 0xa076_1d64_78bd_642f) as u32
}

fn is_single(symbol: CodedSymbol) -> bool {
    symbol.sum != 0 && check_of(symbol.sum) == symbol.check
}

fn short_of(hash: &Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// How many symbols a server sends first if about so many items differ; none if symbols would not help.
pub(super) const fn first_symbols(differing: usize) -> usize {
    let wanted = if differing > LEAST { differing } else { LEAST };
    if wanted > MAX_CODED_SYMBOLS / 2 { 0 } else { wanted }
}

/// A side's set on its way through the symbols.
pub(super) struct Coding {
    items: Vec<ReconcileItem>,
    snapshot: Seq,
    parts: Vec<Part>,
    /// Symbols made so far.
    made: usize,
    /// (Client) what is left of the exclusive or of both sides' symbols.
    rest: Vec<CodedSymbol>,
    /// (Client) items of the difference.
    found: Vec<Part>,
    known: HashSet<u64>,
}

/// How far a client is.
pub(super) enum Progress {
    /// So many symbols are needed in all.
    More(u64),
    /// The difference is known.
    Found(Proposal),
    /// It can't be found in this way.
    GaveUp,
}

/// What a client takes for the difference.
pub(super) struct Proposal {
    /// Short hashes of what the server has and the client lacks.
    pub(super) wanted: Vec<u64>,
    /// What the client has and the server lacks.
    pub(super) to_send: Vec<RecordId>,
    /// A hash of all that both have.
    pub(super) common: Hash,
}

impl Coding {
    pub(super) fn new(items: Vec<ReconcileItem>, snapshot: Seq) -> Self {
        let parts = items.iter().map(|item| Part::new(short_of(&item.hash))).collect();
        let (rest, found, known) = (Vec::new(), Vec::new(), HashSet::new());
        Self { items, snapshot, parts, made: 0, rest, found, known }
    }

    /// The set, for another way to compare it.
    pub(super) fn into_set(self) -> (Vec<ReconcileItem>, Seq) {
        (self.items, self.snapshot)
    }

    pub(super) const fn snapshot(&self) -> Seq {
        self.snapshot
    }

    /// About how many items differ, if of the `SKETCH_LEN` lowest hashes of both sets so many are in both. Rather too few:
    /// more symbols can be asked for.
    pub(super) fn estimated(&self, in_both: usize) -> usize {
        let sampled = SKETCH_LEN.min(self.items.len().max(1));
        self.items.len() * sampled.saturating_sub(in_both) / sampled
    }

    /// The next `count` symbols of this side.
    pub(super) fn next_symbols(&mut self, count: usize) -> Vec<CodedSymbol> {
        let mut symbols = vec![CodedSymbol::default(); count];
        for part in &mut self.parts {
            part.toggle(&mut symbols, self.made, |_| {});
        }
        self.made += count;
        symbols
    }

    /// (Server) the symbols up to number `upto`; `None` if that is no reasonable wish.
    pub(super) fn up_to(&mut self, upto: u64) -> Option<Vec<CodedSymbol>> {
        let upto = usize::try_from(upto).ok().filter(|upto| *upto <= MAX_CODED_SYMBOLS)?;
        // Each wish goes through the whole set, so there may not be many small ones.
        let count = upto.checked_sub(self.made).filter(|count| *count >= LEAST.max(self.made / 8))?;
        Some(self.next_symbols(count))
    }

    /// (Client) more symbols of the server.
    pub(super) fn on_symbols(&mut self, theirs: &[CodedSymbol]) -> Progress {
        let start = self.made;
        if theirs.is_empty() || start + theirs.len() > MAX_CODED_SYMBOLS {
            return Progress::GaveUp;
        }
        let mut fresh = self.next_symbols(theirs.len());
        for (own, their) in fresh.iter_mut().zip(theirs) {
            own.sum ^= their.sum;
            own.check ^= their.check;
        }
        for part in &mut self.found {
            part.toggle(&mut fresh, start, |_| {});
        }
        self.rest.append(&mut fresh);
        if !self.peel(start) {
            return Progress::GaveUp;
        }
        // Everything is part of symbol 0.
        if self.rest.first().copied().unwrap_or_default() == CodedSymbol::default() {
            return Progress::Found(self.proposal());
        }
        // Rounds cost time, symbols cost bytes.
        let more = if self.made < 1_024 { self.made / 2 } else { self.made / 4 };
        let wanted = self.made + LEAST.max(more);
        if wanted > MAX_CODED_SYMBOLS { Progress::GaveUp } else { Progress::More(wanted as u64) }
    }

    /// Takes out item after item. False if what the symbols say makes no sense.
    fn peel(&mut self, start: usize) -> bool {
        let mut candidates: Vec<usize> = (start..self.rest.len()).collect();
        while let Some(at) = candidates.pop() {
            let Some(symbol) = self.rest.get(at).copied().filter(|symbol| is_single(*symbol)) else {
                continue;
            };
            if !self.known.insert(symbol.sum) {
                return false;
            }
            let mut part = Part::new(symbol.sum);
            part.toggle(&mut self.rest, 0, |changed| candidates.push(changed));
            self.found.push(part);
        }
        true
    }

    fn proposal(&self) -> Proposal {
        let mut wanted = self.known.clone();
        let mut to_send = Vec::new();
        let common = hash_of_common(&self.items, |item, short| {
            let differs = self.known.contains(&short);
            if differs {
                wanted.remove(&short);
                to_send.push(item.id);
            }
            !differs
        });
        let mut wanted: Vec<u64> = wanted.into_iter().collect();
        wanted.sort_unstable();
        Proposal { wanted, to_send, common }
    }

    /// (Server) the records that the client lacks, if both sides have the rest.
    pub(super) fn agree(&self, wanted: &[u64], common: &Hash) -> Option<Vec<RecordId>> {
        let wanted: HashSet<u64> = wanted.iter().copied().collect();
        let mut to_send = Vec::new();
        let own = hash_of_common(&self.items, |item, short| {
            let differs = wanted.contains(&short);
            to_send.extend(differs.then_some(item.id));
            !differs
        });
        (own == *common).then_some(to_send)
    }
}

fn hash_of_common(items: &[ReconcileItem], mut is_common: impl FnMut(&ReconcileItem, u64) -> bool) -> Hash {
    let common = items.iter().filter(|item| is_common(item, short_of(&item.hash)));
    let mut hashes: Vec<&Hash> = common.map(|item| &item.hash).collect();
    hashes.sort_unstable();
    let mut hasher = Sha256::new();
    hashes.into_iter().for_each(|hash| hasher.update(hash));
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(no: u64) -> ReconcileItem {
        let hash = Sha256::digest(no.to_le_bytes()).into();
        ReconcileItem { order: no, hash, id: RecordId::from_bytes(u128::from(no).to_be_bytes()) }
    }

    fn ids(numbers: impl Iterator<Item = u64>) -> Vec<RecordId> {
        numbers.map(|no| item(no).id).collect()
    }

    /// Compares the two sets, beginning with some symbols. Answers what each sends, and how many symbols that took.
    fn compare(client: &[u64], server: &[u64], first: usize) -> (Vec<RecordId>, Vec<RecordId>, usize) {
        let coding = |numbers: &[u64]| Coding::new(numbers.iter().map(|no| item(*no)).collect(), 0);
        let (mut client, mut server) = (coding(client), coding(server));
        let mut symbols = server.next_symbols(first_symbols(first));
        loop {
            match client.on_symbols(&symbols) {
                Progress::More(upto) => symbols = server.up_to(upto).unwrap(),
                Progress::Found(Proposal { wanted, mut to_send, common }) => {
                    let mut theirs = server.agree(&wanted, &common).unwrap();
                    to_send.sort_unstable();
                    theirs.sort_unstable();
                    return (to_send, theirs, client.made);
                }
                Progress::GaveUp => panic!(),
            }
        }
    }

    #[test]
    fn an_item_is_part_of_the_symbols_that_the_specification_says() {
        let row = |short| {
            let mut part = Part::new(short);
            std::iter::repeat_with(|| (part.next, part.advance()).0).take(8).collect::<Vec<_>>()
        };
        assert_eq!(row(1), [0, 1, 2, 3, 6, 10, 12, 13]);
        assert_eq!(row((1 << 63) + 5), [0, 2, 12, 25, 55, 56, 98, 139]);
        assert_eq!(check_of(1), 0x2aef0136);
    }

    proptest! {
        #[test]
        fn the_difference_of_any_two_sets_is_found(
            common in 0u64..300, only_here in 0u64..60, only_there in 0u64..60, first in 0usize..200,
        ) {
            let here: Vec<u64> = (0..common + only_here).collect();
            let there: Vec<u64> = (0..common).chain(10_000..10_000 + only_there).collect();
            let (to_send, theirs, _) = compare(&here, &there, first);
            prop_assert_eq!(to_send, ids(common..common + only_here));
            prop_assert_eq!(theirs, ids(10_000..10_000 + only_there));
        }

        #[test]
        fn nonsense_ends(symbols in prop::collection::vec((any::<u64>(), any::<u32>(), any::<bool>()), 0..200)) {
            let mut client = Coding::new((0..20).map(item).collect(), 0);
            let symbol = |(sum, check, single): &(u64, u32, bool)| {
                CodedSymbol { sum: *sum, check: if *single { check_of(*sum) } else { *check } }
            };
            let symbols: Vec<CodedSymbol> = symbols.iter().map(symbol).collect();
            for piece in symbols.chunks(40) {
                if let Progress::GaveUp = client.on_symbols(piece) {
                    break;
                }
            }
            prop_assert!(client.found.len() <= 200 + client.made);
        }
    }

    #[test]
    fn a_thousand_scattered_differences_take_little_more_than_their_number() {
        let here: Vec<u64> = (0..20_000).collect();
        let there: Vec<u64> = (0..20_000).map(|no| if no % 20 == 7 { no + 100_000 } else { no }).collect();
        let (to_send, theirs, symbols) = compare(&here, &there, 1_400);
        assert_eq!((to_send.len(), theirs.len()), (1_000, 1_000));
        // 2,000 items differ.
        assert!(symbols <= 2_000 * 2, "{symbols}");
    }

    #[test]
    fn a_wish_for_a_few_more_or_too_many_is_not_granted() {
        let mut server = Coding::new((0..100).map(item).collect(), 0);
        server.next_symbols(800);
        for wrong in [0, 799, 800, 850, MAX_CODED_SYMBOLS as u64 + 1, u64::MAX] {
            assert!(server.up_to(wrong).is_none(), "{wrong}");
        }
        assert_eq!(server.up_to(1_000).unwrap().len(), 200);
    }

    #[test]
    fn items_that_only_look_the_same_are_not_agreed_on() {
        let mut other = item(5);
        other.hash[31] ^= 1;
        let mut client = Coding::new(vec![item(4), item(5)], 0);
        let mut server = Coding::new(vec![item(4), other], 0);
        let Progress::Found(found) = client.on_symbols(&server.next_symbols(16)) else { panic!() };
        assert!(found.wanted.is_empty() && server.agree(&found.wanted, &found.common).is_none());
    }
}
