//! Writes that are known, in another form: sealed after a change of what is sealed, or readable again.
//!
//! Every member then sends all that it has anew, also what others have written. Whoever holds the database without its keys
//! can't compare the two forms; it knows a write by its stamp. So it is no news who made it, and taking it needs no right but
//! that to change the record: who may not, has nothing to say about it, and nothing is refused him either.

use blazedb_core::cell::{Cell, Content};
use blazedb_core::merge::RecordState;
use blazedb_core::seal::{Sealed, is_sealed_name};
use blazedb_core::topology::EncryptionSpec;

use crate::store::Store;

/// Which fields change their form.
pub(crate) struct Forms {
    rule: EncryptionSpec,
    /// What was sealed before, while not everything has been sent anew.
    before: Option<EncryptionSpec>,
}

/// Of one write that is known in a sealed form, and comes in another one: the form that is here stays. For who brings what others
/// wrote and may not: whether it is better, nobody here can tell.
pub(crate) fn keep_known(before: &RecordState, incoming: &mut RecordState) {
    for (field, cell) in &mut incoming.cells {
        let Some(known) = before.cell(*field).filter(|known| known.stamp == cell.stamp) else { continue };
        match (&known.content, &mut cell.content) {
            (Content::Sealed(Sealed::Write { .. }), Content::Sealed(Sealed::Write { .. })) => {
                cell.content.clone_from(&known.content);
            }
            (Content::Sealed(Sealed::Mergeable(known)), Content::Sealed(Sealed::Mergeable(theirs)))
                if known.base == theirs.base =>
            {
                for version in &mut theirs.versions {
                    let same = known.versions.iter().find(|known| known.seen == version.seen);
                    same.into_iter().for_each(|known| version.clone_from(known));
                }
            }
            _ => {}
        }
    }
}

/// Whether something is sealed with a key that no epoch up to `newest` has.
pub(crate) fn is_of_no_epoch(state: &RecordState, newest: u32) -> bool {
    let none = |epoch: u32| !(1..=newest).contains(&epoch);
    state.cells.iter().any(|(_, cell)| match &cell.content {
        Content::Sealed(Sealed::Write { group, .. }) => none(group.epoch),
        Content::Sealed(Sealed::Mergeable(sealed)) => {
            sealed.versions.iter().any(|version| none(version.epoch))
        }
        _ => false,
    })
}

impl Forms {
    /// Whether what is sealed may change its form just now, also what others have sealed.
    pub(crate) const fn is_changing(&self) -> bool {
        self.before.is_some()
    }

    /// Those of the keyring; `None` if there is nothing that could be sent in two forms.
    pub(crate) fn of(store: &Store) -> Option<Self> {
        let keyring = store.keyring()?;
        let forms = Self { rule: keyring.rule().clone(), before: keyring.unsettled().cloned() };
        (forms.rule != EncryptionSpec::SmartProxy || forms.before.is_some()).then_some(forms)
    }

    /// Whether a cell of the field `name` is a write that `known` holds already, in the form that goes.
    pub(crate) fn is_known<'n>(
        &self,
        (name, cell): (&str, &Cell),
        known: &RecordState,
        name_of: impl Fn(u32) -> Option<&'n str>,
    ) -> bool {
        let sealed = is_sealed_name(name);
        let opens =
            || self.before.as_ref().is_some_and(|before| before.seals(name) && !self.rule.seals(name));
        if !sealed && !opens() {
            return false;
        }
        let mut others = known.cells.iter().filter(|(_, other)| other.stamp == cell.stamp);
        others.any(|(field, _)| {
            name_of(*field).is_some_and(|other| {
                let readable = !is_sealed_name(other);
                if sealed { readable && self.rule.seals(other) } else { !readable }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use blazedb_core::cell::Cell;
    use blazedb_core::seal::{Mergeable, SealedField, SealedGroup, SealedMergeable, SealedVersion};
    use blazedb_core::{Hlc, ReplicaId, Stamp};

    use super::*;

    fn state(epoch: u32, byte: u8, time: u64) -> RecordState {
        let writer = ReplicaId::from_bytes([1; 16]);
        let stamp = Stamp::new(Hlc::new(time, 0), writer);
        let fields = vec![SealedField { field: 0, absent: false, replaced: Vec::new() }];
        let group = Arc::new(SealedGroup { stamp, epoch, fields, bytes: vec![byte; 32].into() });
        let seen = BTreeMap::from([(writer, Hlc::new(time, 0))]);
        let versions = vec![SealedVersion { epoch, seen, bytes: vec![byte; 32].into() }];
        let counter = SealedMergeable { kind: Mergeable::Counter, base: None, versions };
        let contents = [Sealed::Write { group, absent: false }, Sealed::Mergeable(counter)];
        let cells = (0..).zip(contents.map(|sealed| Cell::write(stamp, None, Content::Sealed(sealed), 0)));
        RecordState { cells: cells.collect(), ..RecordState::default() }
    }

    /// Whoever may change a record could have the sealed writes of others replaced by what nobody can open.
    #[test]
    fn another_form_of_a_known_write_changes_nothing() {
        let known = state(1, 1, 5);
        for mut other in [state(1, 9, 5), state(7, 0, 5), state(u32::MAX, 1, 5)] {
            let mut merged = known.clone();
            assert!(merged.merge(other.clone(), 9).changed || other == known, "as it is, it would");
            keep_known(&known, &mut other);
            let mut merged = known.clone();
            assert!(!merged.merge(other, 9).changed);
            assert_eq!(merged, known);
        }
        let mut later = state(1, 9, 6);
        keep_known(&known, &mut later);
        let mut merged = known.clone();
        assert!(merged.merge(later, 9).changed, "a later write is one");
    }

    #[test]
    fn what_is_sealed_with_a_key_of_no_epoch_is_found() {
        assert!(!is_of_no_epoch(&state(2, 0, 1), 2));
        assert!(is_of_no_epoch(&state(3, 0, 1), 2) && is_of_no_epoch(&state(0, 0, 1), 2));
        assert!(is_of_no_epoch(&state(1, 0, 1), 0), "there is no keyring");
    }
}
