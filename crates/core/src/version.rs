//! Hashes that tell whether two replicas hold the same of a record, for reconciliation.
//!
//! Two kinds. The *history* hash covers every stamp: equal means nothing is left to exchange. The *content*
//! hash covers what an application sees: it lets two replicas that were filled from the same source, and so
//! wrote the same values at different times, find that they agree.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::cell::Content;
use crate::id::RecordId;
use crate::merge::RecordState;
use crate::seal::{Mergeable, Sealed};
use crate::stamp::Stamp;

/// A reconciliation hash.
pub type Hash = [u8; 32];

/// The hash of an inserted and never changed record, from its insert and its fields' names, sorted: part of the fields may
/// be all that a replica was shown.
fn uniform_history(id: RecordId, born: Stamp, names: &[&str]) -> Hash {
    let mut hasher = Sha256::new_with_prefix([b'u']);
    hasher.update(id.as_bytes());
    hash_stamp(&mut hasher, Some(born));
    names.iter().for_each(|name| hash_text(&mut hasher, name));
    hasher.finalize().into()
}

/// The history hash of a state. `name` gives a field's name: numbers differ between replicas.
#[must_use]
pub fn history<'n>(id: RecordId, state: &RecordState, name: impl Fn(u32) -> &'n str) -> Hash {
    if let (true, Some(born)) = (crate::history::is_uniform(state), state.life.born) {
        let mut names: Vec<&str> = state.cells.iter().map(|(field, _)| name(*field)).collect();
        names.sort_unstable();
        return uniform_history(id, born, &names);
    }
    let mut hasher = Sha256::new_with_prefix([b'h']);
    hasher.update(id.as_bytes());
    for stamp in [state.life.after, state.life.born, state.life.dead.map(|dead| dead.stamp)] {
        hash_stamp(&mut hasher, stamp);
    }
    let mut cells: Vec<_> = state.cells.iter().map(|(field, cell)| (name(*field), cell)).collect();
    cells.sort_unstable_by_key(|(name, _)| *name);
    for (name, cell) in cells {
        hash_text(&mut hasher, name);
        hash_stamp(&mut hasher, Some(cell.stamp));
        hash_mergeable(&mut hasher, &cell.content);
    }
    hasher.finalize().into()
}

/// The content hash of a record that is alive; `fields` (name, payload, tag) and `mergeable` in any order.
#[must_use]
pub fn content(id: RecordId, mut fields: Vec<(&str, &[u8], u8)>, mergeable: &[&Content]) -> Hash {
    fields.sort_unstable_by_key(|(name, ..)| *name);
    let mut hasher = Sha256::new_with_prefix([b'c']);
    hasher.update(id.as_bytes());
    for (name, payload, tag) in fields {
        hash_text(&mut hasher, name);
        hasher.update([tag]);
        hasher.update((payload.len() as u64).to_le_bytes());
        hasher.update(payload);
    }
    // Their order here is that of local field numbers, which differ between replicas.
    let mut histories: Vec<Hash> = mergeable.iter().filter_map(|content| mergeable_hash(content)).collect();
    histories.sort_unstable();
    histories.iter().for_each(|hash| hasher.update(hash));
    hasher.finalize().into()
}

fn hash_text(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn hash_stamp(hasher: &mut Sha256, stamp: Option<Stamp>) {
    match stamp {
        None => hasher.update([0]),
        Some(stamp) => {
            hasher.update([1]);
            hasher.update(stamp.time.0.to_le_bytes());
            hasher.update(stamp.writer.as_bytes());
        }
    }
}

fn mergeable_hash(content: &Content) -> Option<Hash> {
    if !matches!(content, Content::Counter(_) | Content::Set(_)) {
        return None;
    }
    let mut hasher = Sha256::new();
    hash_mergeable(&mut hasher, content);
    Some(hasher.finalize().into())
}

/// A counter or set is what the operations that it has seen since its base come to. So these stand for it, and
/// whoever holds it sealed finds the same hash as whoever can read it.
fn hash_mergeable(hasher: &mut Sha256, content: &Content) {
    let (kind, base, seen) = match content {
        Content::Absent | Content::Register(_) | Content::Sealed(Sealed::Write { .. }) => return,
        Content::Counter(counter) => (1, counter.base, Cow::Borrowed(&counter.seen)),
        Content::Set(set) => (2, set.base, Cow::Borrowed(&set.seen)),
        Content::Sealed(Sealed::Mergeable(sealed)) => {
            let kind = if sealed.kind == Mergeable::Counter { 1 } else { 2 };
            (kind, sealed.base, Cow::Owned(sealed.seen()))
        }
    };
    hasher.update([kind]);
    hash_stamp(hasher, base);
    hasher.update((seen.len() as u64).to_le_bytes());
    for (writer, time) in seen.iter() {
        hash_stamp(hasher, Some(Stamp::new(*time, *writer)));
    }
}
