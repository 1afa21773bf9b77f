//! Writes that are known, in another form: sealed after a change of what is sealed, or readable again.
//!
//! Every member then sends all that it has anew, also what others have written. Whoever holds the database without its keys
//! can't compare the two forms; it knows a write by its stamp. So it is no news who made it, and taking it needs no right but
//! that to change the record: who may not, has nothing to say about it, and nothing is refused him either.

use blazedb_core::cell::Cell;
use blazedb_core::merge::RecordState;
use blazedb_core::seal::is_sealed_name;
use blazedb_core::topology::EncryptionSpec;

use crate::store::Store;

/// Which fields change their form.
pub(crate) struct Forms {
    rule: EncryptionSpec,
    /// What was sealed before, while not everything has been sent anew.
    before: Option<EncryptionSpec>,
}

impl Forms {
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
