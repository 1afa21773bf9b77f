//! What a replica holds of values that it can't read, and how such values merge.
//!
//! Values that one write gave to several fields of a record are sealed together, as one [`SealedGroup`]: the cells
//! of that stamp share it. A group goes when none of its cells is the newest of its field any more. A counter or
//! set changes without giving up what it held, so its sealed states are kept side by side, each with what it has
//! seen in the open: one that another has seen all of is dropped, and concurrent ones stay until a member that can
//! read them writes what both come to.
//!
//! Invariants: of the forms that one write may take (sealed with more or fewer fields, under an older or newer
//! key) every replica keeps the same one, in whatever order they arrive; no sealed state of a counter or set is
//! dropped unless one that stays has seen everything that it had.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::blazebinary::FieldNo;
use crate::cell::Content;
use crate::id::ReplicaId;
use crate::stamp::{Hlc, Stamp};

/// Values of one write to one record, sealed together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedGroup {
    /// The write.
    pub stamp: Stamp,
    /// The epoch of the key.
    pub epoch: u32,
    /// Whose values are in it, ascending by tag; also those that have been written anew since.
    pub fields: Vec<SealedField>,
    /// Ciphertext and authentication tag.
    pub bytes: Box<[u8]>,
}

/// A field of a [`SealedGroup`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedField {
    /// The number of its sealed name.
    pub field: FieldNo,
    /// The write removed the field: there is no value.
    pub absent: bool,
    /// What the write replaced, as in [`Cell::replaced`](crate::cell::Cell::replaced).
    pub replaced: Vec<Stamp>,
}

/// Which mergeable type is sealed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mergeable {
    /// A PN counter.
    Counter,
    /// An add-wins set.
    Set,
}

/// A cell's content that is sealed.
#[derive(Clone, PartialEq, Debug)]
pub enum Sealed {
    /// A last-writer-wins value, or its removal: in the group of its stamp.
    Write {
        /// The group.
        group: Arc<SealedGroup>,
        /// It is a removal.
        absent: bool,
    },
    /// A counter or set.
    Mergeable(SealedMergeable),
}

/// A sealed counter or set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedMergeable {
    /// Which of the two.
    pub kind: Mergeable,
    /// The assignment that it started from, as in a plain one.
    pub base: Option<Stamp>,
    /// Its concurrent states, ascending by what they have seen; none has seen all that another has.
    pub versions: Vec<SealedVersion>,
}

/// One state of a sealed counter or set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedVersion {
    /// The epoch of the key.
    pub epoch: u32,
    /// The newest operation that went into it, of each writer.
    pub seen: BTreeMap<ReplicaId, Hlc>,
    /// Ciphertext and authentication tag.
    pub bytes: Arc<[u8]>,
}

impl SealedField {
    /// A field that was written where nothing was.
    pub(crate) const fn written(field: FieldNo) -> Self {
        Self { field, absent: false, replaced: Vec::new() }
    }
}

impl SealedGroup {
    /// The same group with other field numbers.
    ///
    /// # Errors
    /// What `number` answers for a number that it has no other for.
    pub fn renumber<E>(&self, number: &mut impl FnMut(FieldNo) -> Result<FieldNo, E>) -> Result<Self, E> {
        let mut group = self.clone();
        for field in &mut group.fields {
            field.field = number(field.field)?;
        }
        Ok(group)
    }

    /// Whether this form of a write stays when it meets `other`: the newer key, then the one with more fields
    /// (so that a part of a write, sealed again, doesn't displace the whole).
    fn outranks(&self, other: &Self) -> bool {
        let rank = |group: &Self| (group.epoch, group.fields.len());
        (rank(self), &self.bytes) > (rank(other), &other.bytes)
    }
}

impl Sealed {
    /// Every replica that is named in the open, also beside values that have been written anew since.
    pub fn writers(&self) -> Vec<ReplicaId> {
        match self {
            Self::Write { group, .. } => {
                let replaced = group.fields.iter().flat_map(|field| &field.replaced);
                replaced.map(|stamp| stamp.writer).collect()
            }
            Self::Mergeable(sealed) => {
                let seen = sealed.versions.iter().flat_map(|version| version.seen.keys().copied());
                seen.chain(sealed.base.map(|base| base.writer)).collect()
            }
        }
    }

    /// The newest time that is named in the open.
    #[must_use]
    pub fn newest(&self) -> Hlc {
        match self {
            Self::Write { group, .. } => {
                let replaced = group.fields.iter().flat_map(|field| &field.replaced);
                replaced.map(|stamp| stamp.time).max().unwrap_or_default()
            }
            Self::Mergeable(sealed) => {
                let seen = sealed.versions.iter().flat_map(|version| version.seen.values().copied());
                seen.chain(sealed.base.map(|base| base.time)).max().unwrap_or_default()
            }
        }
    }

    /// Where the content stands in the order of whole replacements, given its cell's stamp.
    pub(crate) fn rank(&self, stamp: Stamp) -> (Option<Stamp>, u8) {
        match self {
            Self::Write { .. } => (Some(stamp), 0),
            Self::Mergeable(SealedMergeable { kind: Mergeable::Counter, base, .. }) => (*base, 1),
            Self::Mergeable(SealedMergeable { kind: Mergeable::Set, base, .. }) => (*base, 2),
        }
    }

    /// Takes in another form of the same write, or another state of the same counter or set. Answers whether
    /// anything changed.
    pub(crate) fn join(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write { group: mine, .. }, Self::Write { group: theirs, .. }) => {
                let better = theirs.outranks(mine);
                if better {
                    *mine = Arc::clone(theirs);
                }
                better
            }
            (Self::Mergeable(mine), Self::Mergeable(theirs)) => mine.join(theirs),
            _ => false,
        }
    }

    /// Whether both say the same, if they belong to cells of one stamp.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write { .. }, Self::Write { .. }) => true,
            (Self::Mergeable(mine), Self::Mergeable(theirs)) => mine.seen() == theirs.seen(),
            _ => false,
        }
    }
}

impl SealedMergeable {
    /// The newest operation of each writer in any of its states.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<ReplicaId, Hlc> {
        let mut all = BTreeMap::new();
        for (writer, time) in self.versions.iter().flat_map(|version| &version.seen) {
            let newest: &mut Hlc = all.entry(*writer).or_default();
            *newest = (*newest).max(*time);
        }
        all
    }

    fn join(&mut self, other: &Self) -> bool {
        let before = self.versions.clone();
        for theirs in &other.versions {
            if self.versions.iter().any(|mine| mine.covers(theirs)) {
                continue;
            }
            self.versions.retain(|mine| !theirs.covers(mine));
            self.versions.push(theirs.clone());
        }
        self.versions.sort_unstable_by(|a, b| a.seen.cmp(&b.seen));
        self.versions != before
    }
}

impl SealedVersion {
    /// Whether nothing of `other` is lost if only this one stays.
    fn covers(&self, other: &Self) -> bool {
        if self.seen == other.seen {
            return (self.epoch, &self.bytes) >= (other.epoch, &other.bytes);
        }
        other.seen.iter().all(|(writer, time)| self.seen.get(writer) >= Some(time))
    }
}

/// Groups with other field numbers: those that were shared stay so.
#[derive(Default)]
pub(crate) struct Renumbered {
    done: Vec<(Arc<SealedGroup>, Arc<SealedGroup>)>,
}

impl Renumbered {
    /// Renumbers what `content` refers to.
    pub(crate) fn apply<E>(
        &mut self,
        content: &mut Content,
        number: &mut impl FnMut(FieldNo) -> Result<FieldNo, E>,
    ) -> Result<(), E> {
        let Content::Sealed(Sealed::Write { group, .. }) = content else { return Ok(()) };
        if let Some((_, new)) = self.done.iter().find(|(old, _)| Arc::ptr_eq(old, group)) {
            *group = Arc::clone(new);
            return Ok(());
        }
        let new = Arc::new(group.renumber(number)?);
        self.done.push((Arc::clone(group), Arc::clone(&new)));
        *group = new;
        Ok(())
    }
}
