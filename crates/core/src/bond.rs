//! What ties the parts of a transaction over several databases together on their way to a subscriber.
//!
//! A part says of each other part how far one must have the feed of *its* database to have that part too. Not everybody who
//! reads one database may know of the other: so that is said in a form that only who knows the other replica can read, and
//! its id is told to nobody but those who are let in to it. To all others a bond is 16 random bytes.
//! Grammar: `docs/spec/transactions.md`.

use sha2::{Digest, Sha256};

use crate::feed::Seq;
use crate::id::ReplicaId;

const CONTEXT: &[u8] = b"blazedb bond";

/// A bond of a message of changes with another database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bond(pub [u8; 16]);

impl Bond {
    /// What `own` has sent up to `upto` belongs together with the feed of `other` up to `seq`.
    #[must_use]
    pub fn new(own: ReplicaId, upto: Seq, other: ReplicaId, seq: Seq) -> Self {
        let (mark, mask) = parts(own, upto, other);
        let mut bytes = [0; 16];
        let sealed = (mask ^ seq).to_le_bytes();
        for (to, from) in bytes.iter_mut().zip(mark.into_iter().chain(sealed)) {
            *to = from;
        }
        Self(bytes)
    }

    /// How far one must have the feed of `other`, if it is with that.
    #[must_use]
    pub fn with(&self, own: ReplicaId, upto: Seq, other: ReplicaId) -> Option<Seq> {
        let (mark, mask) = parts(own, upto, other);
        let (found, sealed) = self.0.split_at(8);
        let sealed: [u8; 8] = sealed.try_into().ok()?;
        (found == mark).then(|| mask ^ u64::from_le_bytes(sealed))
    }
}

fn parts(own: ReplicaId, upto: Seq, other: ReplicaId) -> ([u8; 8], u64) {
    let mut hash = Sha256::new();
    hash.update(CONTEXT);
    hash.update(other.as_bytes());
    hash.update(own.as_bytes());
    hash.update(upto.to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let (mut mark, mut mask) = ([0; 8], [0; 8]);
    for (to, from) in mark.iter_mut().chain(&mut mask).zip(hash) {
        *to = from;
    }
    (mark, u64::from_le_bytes(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_other_replica_can_read_it() {
        let [own, other, third] = [1, 2, 3].map(|no| ReplicaId::from_bytes([no; 16]));
        for seq in [0, 1, 300, Seq::MAX] {
            let bond = Bond::new(own, 9, other, seq);
            assert_eq!(bond.with(own, 9, other), Some(seq));
            assert_eq!(bond.with(own, 9, third), None);
            assert_eq!(bond.with(third, 9, other), None);
            assert_eq!(bond.with(own, 8, other), None);
        }
        // Nothing of it repeats from message to message.
        assert_ne!(Bond::new(own, 9, other, 5).0[..8], Bond::new(own, 10, other, 5).0[..8]);
    }
}
