//! A session and the database's keyring.

use std::sync::Arc;

use blazedb_core::session::{Closed, Input};
use blazedb_core::wire::CloseCode;

use super::Driver;

impl Driver {
    /// The keyring is another one than before. A session whose peer has names in another form starts anew.
    pub(super) fn on_keyring(&mut self) {
        let store = self.context.database.store();
        let keyring = store.keyring();
        if store.seal_generation() != self.generation {
            self.closed = Some(Closed::Here(CloseCode::GoingAway, "the keys have changed".to_owned()));
        }
        self.feed(Input::Keyring(keyring));
    }

    pub(super) fn extend_keyring(&mut self, statements: &[Arc<[u8]>]) {
        match self.context.database.store().extend_keyring(statements) {
            Ok(()) => self.on_keyring(),
            Err(error) => self.feed(Input::ApplyFailed(CloseCode::Refused, error.to_string())),
        }
    }
}
