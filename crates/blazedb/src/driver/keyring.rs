//! A session and the database's keyring.

use std::sync::Arc;

use blazedb_core::session::{Closed, Input, Refusal};
use blazedb_core::wire::CloseCode;

use super::Driver;

impl Driver {
    /// The keyring is another one than before. A session whose peer has names in another form starts anew.
    pub(super) fn on_keyring(&mut self) {
        self.ends_with_its_keys();
        let keyring = self.context.database.store().keyring();
        // Without it, the session neither says nor takes anything of keyrings.
        if !self.stranger {
            self.feed(Input::Keyring(keyring));
        }
    }

    /// Ends the session if what is read by now is sealed in another way than when it began: what nobody else has heard of yet must
    /// not be sealed with. Answers whether it does.
    pub(super) fn ends_with_its_keys(&mut self) -> bool {
        let changed = self.context.database.store().seal_generation() != self.generation;
        if changed {
            self.closed = Some(Closed::Here(CloseCode::GoingAway, "the keys have changed".to_owned()));
        }
        changed
    }

    /// The other side is accepted, or not (any more).
    pub(super) fn meets(&mut self, stranger: bool) {
        if std::mem::replace(&mut self.stranger, stranger) == stranger {
            return;
        }
        if stranger {
            let reason = "the other side is not accepted any more".to_owned();
            self.closed = Some(Closed::Here(CloseCode::GoingAway, reason));
        } else {
            self.on_keyring();
        }
    }

    pub(super) fn extend_keyring(&mut self, statements: &[Arc<[u8]>]) {
        let store = self.context.database.store();
        if !self.begins_keyring && store.keyring().is_none() {
            let reason = "the access rules do not let you begin the keyring of this database, which has none: \
                          that is for who may write, or for whom the rule `keys` names";
            return self.feed(Input::Refuse(Refusal::access(reason.to_owned())));
        }
        match store.extend_keyring(statements) {
            Ok(()) => self.on_keyring(),
            Err(error) => self.feed(Input::ApplyFailed(CloseCode::Refused, error.to_string())),
        }
    }
}
