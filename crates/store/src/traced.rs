//! The order of what an actor of an edit trace did at one moment.
//!
//! Times in a trace are coarse, so an actor's edits of one time are told apart by a rank. A trace may be replayed in
//! pieces that end anywhere, and a piece may be replayed again when it is unknown whether it was applied. For the same
//! stamps either way, a file remembers what it has of each actor's newest time. Of an older time everything was applied
//! before, and an edit that comes again with a lower rank changes nothing.

use std::collections::HashMap;

use blazedb_core::ReplicaId;

use crate::error::StoreError;
use crate::schema::{meta, set_meta};
use crate::write::Transaction;

/// Bytes of an edit's hash in the list of a moment's edits.
const HASH_BYTES: usize = 8;

/// The ranks of a trace's edits, within one transaction.
#[derive(Debug, Default)]
pub struct TraceRanks {
    newest: HashMap<ReplicaId, Moment>,
}

/// What one actor did at its newest time: hashes of the edits, by rank.
#[derive(Clone, Debug, Default)]
struct Moment {
    at_ms: u64,
    edits: Vec<[u8; HASH_BYTES]>,
}

impl TraceRanks {
    /// The rank of `edit` (its bytes, in whatever form) of an actor at a time. `least` is the number of edits of this
    /// actor and time that came before it in the piece that is being replayed.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn rank(
        &mut self,
        tx: &Transaction<'_>,
        actor: ReplicaId,
        at_ms: u64,
        edit: &[u8],
        least: u16,
    ) -> Result<u16, StoreError> {
        let moment = match self.newest.entry(actor) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => unknown.insert(load(tx, actor)?),
        };
        if at_ms < moment.at_ms {
            return Ok(least);
        }
        if at_ms > moment.at_ms {
            *moment = Moment { at_ms, edits: Vec::new() };
        }
        let (hash, start) = (fnv1a(edit), usize::from(least));
        let again = moment.edits.iter().skip(start).position(|known| *known == hash);
        let rank = match again {
            Some(behind) => start + behind,
            None => {
                let rank = start.max(moment.edits.len());
                moment.edits.resize(rank, [0; HASH_BYTES]);
                moment.edits.push(hash);
                rank
            }
        };
        Ok(u16::try_from(rank).unwrap_or(u16::MAX))
    }

    /// Remembers them with what the transaction writes.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        for (actor, moment) in self.newest {
            let mut value = moment.at_ms.to_be_bytes().to_vec();
            value.extend(moment.edits.iter().flatten());
            set_meta(tx.db, &key_of(actor), value).map_err(|error| tx.store.sqlite(error))?;
        }
        Ok(())
    }
}

fn key_of(actor: ReplicaId) -> String {
    format!("traced {actor}")
}

fn load(tx: &Transaction<'_>, actor: ReplicaId) -> Result<Moment, StoreError> {
    let value: Option<Vec<u8>> = meta(tx.db, &key_of(actor)).map_err(|error| tx.store.sqlite(error))?;
    let value = value.unwrap_or_default();
    let Some((at_ms, edits)) = value.split_first_chunk() else { return Ok(Moment::default()) };
    let edits = edits.chunks_exact(HASH_BYTES).filter_map(|hash| hash.first_chunk().copied()).collect();
    Ok(Moment { at_ms: u64::from_be_bytes(*at_ms), edits })
}

/// FNV-1a with 64 bits (G. Fowler, L. C. Noll, K.-P. Vo): the same in every version of this program, as it is kept.
fn fnv1a(bytes: &[u8]) -> [u8; HASH_BYTES] {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Password, Store, StoreOptions};

    fn actor() -> ReplicaId {
        ReplicaId::from_bytes([7; 16])
    }

    /// The ranks of a piece, which is a time and an edit each, as one transaction.
    fn replay(store: &Store, piece: &[(u64, &str)]) -> Vec<u16> {
        let mut counted: HashMap<u64, u16> = HashMap::new();
        let ranked = store.transaction(|tx| {
            let mut ranks = TraceRanks::default();
            let mut all = Vec::new();
            for (at, edit) in piece {
                let least = counted.entry(*at).or_default();
                all.push(ranks.rank(tx, actor(), *at, edit.as_bytes(), *least)?);
                *least += 1;
            }
            ranks.save(tx)?;
            Ok(all)
        });
        ranked.unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("a"), &Password::Plaintext, StoreOptions::default()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_trace_in_pieces_gets_the_ranks_of_the_whole() {
        let trace = [(1, "a"), (1, "b"), (1, "a"), (2, "a"), (3, "a"), (3, "b"), (3, "c"), (4, "d")];
        let whole = [0, 1, 2, 0, 0, 1, 2, 0];
        assert_eq!(replay(&store().1, &trace), whole);
        // Two pieces that end anywhere; the second one twice, as after a crash. An edit that is there twice is told apart
        // unless the pieces part it from its first: then it counts as that one, come again.
        for end in (0..=trace.len()).filter(|end| *end != 1 && *end != 2) {
            let (_dir, store) = store();
            let (first, second) = trace.split_at(end);
            assert_eq!(replay(&store, first), whole[..end]);
            assert_eq!(replay(&store, second), whole[end..], "from {end}");
            let again = replay(&store, second);
            let newest = second.iter().position(|(at, _)| *at == 4).unwrap_or(second.len());
            assert_eq!(again[newest..], whole[end + newest..], "from {end}, again");
            assert!(again.iter().zip(&whole[end..]).all(|(again, first)| again <= first));
        }
    }

    #[test]
    fn a_piece_that_is_rolled_back_is_forgotten() {
        let (_dir, store) = store();
        let failed: Result<(), StoreError> = store.transaction(|tx| {
            let mut ranks = TraceRanks::default();
            ranks.rank(tx, actor(), 1, b"a", 0)?;
            ranks.save(tx)?;
            Err(StoreError::NoRecord(blazedb_core::RecordId::v7(1, [1; 10])))
        });
        assert!(failed.is_err());
        assert_eq!(replay(&store, &[(1, "b")]), [0]);
    }
}
