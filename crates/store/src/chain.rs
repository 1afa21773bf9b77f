//! Extending the keyring: by what a peer sends and by what this device says, also where both went on at once.

use std::sync::{Arc, PoisonError};

use blazedb_core::blazebinary::varint::{Reader, write_prefixed};
use blazedb_core::keyring::{
    Act, Author, Keyring, KeyringError, KeyringHead, MemberId, MemberSecret, Statement,
};
use blazedb_core::limits::MAX_MESSAGE_BYTES;
use blazedb_core::topology::EncryptionSpec;
use blazedb_sqlite::rusqlite::params;
use blazedb_sqlite::rusqlite::types::FromSql;

use crate::error::StoreError;
use crate::keys::{AGREED, JOINED_WITH, Keys, Origin, secret_of};
use crate::retire::Retiring;
use crate::schema::{meta, set_meta};
use crate::store::{Store, Writer, lock};

/// `meta`: statements that were made here and overtaken, and are to be made again.
const AGAIN: &str = "keyring_again";
/// `meta`: why one could not be.
const LOST: &str = "keyring_lost";
/// `meta`: everything is to be sent anew, in another form.
const RESEND: &str = "keyring_resend";

impl Store {
    /// Adds statements of a peer, or of this device, to the keyring. Those that are known are passed over.
    ///
    /// # Errors
    /// [`StoreError::Keyring`] for the first that does not fit; then none is added.
    pub fn extend_keyring(&self, statements: &[Arc<[u8]>]) -> Result<(), StoreError> {
        if self.keyring().is_none()
            && let Some((code, _)) = self.join_request()?
            && let Some(offered) = Keyring::of(statements.iter().map(|statement| &**statement))?
        {
            // Before anything of it is kept: the hub may offer one of its own.
            offered.check_root(&secret_of(&code, &offered)?)?;
        }
        if self.went_another_way(statements)? {
            return self.rebase(statements);
        }
        self.add_statements(statements, Origin::Peer)
    }

    /// Whether statements from the first on contradict those here.
    fn went_another_way(&self, statements: &[Arc<[u8]>]) -> Result<bool, StoreError> {
        let Some(own) = self.keyring() else { return Ok(false) };
        let from_start = statements.first().is_some_and(|first| Statement::is_first(first));
        let shared = own.statements(0).iter().zip(statements).take_while(|(a, b)| a == b).count();
        let differ = from_start && shared < own.statements(0).len() && shared < statements.len();
        if differ && (shared == 0 || (shared as u64) < self.keys().agreed || self.keys().is_outsider()) {
            return Err(KeyringError::Fork.into());
        }
        Ok(differ)
    }

    /// Somebody else was faster: what was said here is said again behind it.
    fn rebase(&self, statements: &[Arc<[u8]>]) -> Result<(), StoreError> {
        let theirs =
            Keyring::of(statements.iter().map(|statement| &**statement))?.ok_or(KeyringError::Fork)?;
        let turn = lock(&self.inner.changing_keys);
        let keys = self.keys();
        let own = keys.keyring.as_ref().map(|own| own.statements(0).to_vec()).unwrap_or_default();
        let mut again = Vec::new();
        own.iter().filter(|own| !statements.contains(own)).for_each(|own| write_prefixed(own, &mut again));
        let before = (keys.rule(), keys.epochs());
        let mut new = Keys { keyring: Some(Arc::new(theirs)), ..keys };
        new.agreed = new.keyring.as_ref().map_or(0, |ring| ring.head().count);
        new.unlock()?;
        new.generation += 1;
        let resends = self.commit(|writer| {
            let sqlite = |error| self.sqlite(error);
            writer.db.execute("DELETE FROM keyring", []).map_err(sqlite)?;
            self.keep_statements(writer, new.keyring.as_ref().map_or(&[][..], |ring| ring.statements(0)))?;
            set_meta(&writer.db, AGREED, new.agreed).map_err(sqlite)?;
            // With it: whoever is stopped here says it when the file is opened again.
            set_meta(&writer.db, AGAIN, again.as_slice()).map_err(sqlite)?;
            self.after_change(writer, &new, &before)
        })?;
        self.publish_keys(new);
        if resends {
            self.resend()?;
        }
        drop(turn);
        self.say_again()
    }

    /// Does what a change of the keyring has left to do, if the file was closed before it was done.
    pub(crate) fn finish_changing_keys(&self) -> Result<(), StoreError> {
        let resends: Option<i64> = self.waiting(RESEND)?;
        if resends.is_some() {
            self.resend()?;
        }
        self.say_again()
    }

    /// What `meta` says, through the connection that is there: an idle file keeps no other.
    fn waiting<T: FromSql>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let mut slot = self.writer_slot();
        let writer = self.awake(&mut slot)?;
        meta(&writer.db, key).map_err(|error| self.sqlite(error))
    }

    /// Says again what others overtook, if anything waits for that.
    fn say_again(&self) -> Result<(), StoreError> {
        let again: Option<Vec<u8>> = self.waiting(AGAIN)?;
        let Some(again) = again else { return Ok(()) };
        let mut reader = Reader::new(&again);
        while !reader.is_empty() {
            let Ok(statement) = reader.read_prefixed(MAX_MESSAGE_BYTES) else { break };
            let Ok((statement, ..)) = Statement::decode(statement) else { continue };
            let said = match statement.act {
                // The next session says one if there is none, see `Store::share_dictionary`.
                Act::Dictionary { .. } => continue,
                Act::Remove { members, .. } if !self.is_any_there(&members) => continue,
                Act::Join { .. } if self.sealer().is_some_and(|sealer| sealer.is_active()) => continue,
                Act::Join { member, .. } => self.join_again(&member.name),
                act => self.say(|keyring, author| keyring.remake(author, act.clone())),
            };
            if let Err(error) = said {
                self.note_lost_act(&error)?;
            }
        }
        self.commit(|writer| {
            let done = writer.db.execute("DELETE FROM meta WHERE key=?", [AGAIN]);
            done.map(drop).map_err(|error| self.sqlite(error))
        })
    }

    fn is_any_there(&self, members: &[MemberId]) -> bool {
        self.keyring().is_some_and(|ring| members.iter().any(|id| ring.member(id).is_some()))
    }

    fn join_again(&self, name: &str) -> Result<(), StoreError> {
        let code = self.read(|db| meta::<String>(db, JOINED_WITH).map_err(|error| self.sqlite(error)))?;
        let code = code.ok_or(KeyringError::UnknownCode)?;
        let secret = self.keys().secret.ok_or(KeyringError::NotMember)?;
        let keyring = self.keyring().ok_or(KeyringError::NotMember)?;
        let with = secret_of(&code, &keyring)?;
        let author = Author { secret: &with, random: &self.random()?, now_ms: self.now_ms() };
        let statement = keyring.join(author, &secret, name)?;
        self.add_statements(&[statement.into()], Origin::Here)
    }

    /// A change of the keyring that was overtaken and could not be made again, for `key show`.
    fn note_lost_act(&self, error: &StoreError) -> Result<(), StoreError> {
        self.commit(|writer| {
            set_meta(&writer.db, LOST, error.to_string()).map_err(|error| self.sqlite(error))
        })
    }

    /// Why the last change of the keyring that was made here and overtaken could not be made again, if one could not.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn lost_keyring_change(&self) -> Result<Option<String>, StoreError> {
        self.read(|db| meta(db, LOST).map_err(|error| self.sqlite(error)))
    }

    /// A code has served once everybody knows that this device has joined: whoever finds the file must not be able to join
    /// with it again.
    fn forget_joined_with(&self, writer: &Writer, keys: &Keys) -> Result<(), StoreError> {
        let head = keys.keyring.as_ref().map(|ring| ring.head());
        let own = keys.secret.as_ref().and_then(MemberSecret::id);
        let is_member = keys.keyring.as_ref().zip(own).is_some_and(|(ring, id)| ring.member(&id).is_some());
        if !is_member || head.is_none_or(|head| head.count > keys.agreed) {
            return Ok(());
        }
        let forgotten = writer.db.execute("DELETE FROM meta WHERE key=?", [JOINED_WITH]);
        forgotten.map(drop).map_err(|error| self.sqlite(error))
    }

    fn keep_statements(&self, writer: &Writer, statements: &[Arc<[u8]>]) -> Result<(), StoreError> {
        for statement in statements {
            let sql = "INSERT INTO keyring(statement) VALUES(?)";
            writer.db.execute(sql, [statement.as_ref()]).map_err(|error| self.sqlite(error))?;
        }
        Ok(())
    }

    fn publish_keys(&self, keys: Keys) {
        *self.inner.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        lock(&self.inner.keyring_listeners).iter().for_each(|listener| listener());
    }

    /// The other side has the keyring up to here.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn keyring_agreed(&self, head: &KeyringHead) -> Result<(), StoreError> {
        let _turn = lock(&self.inner.changing_keys);
        let keys = self.keys();
        let known = keys.keyring.as_ref().is_some_and(|keyring| keyring.begins_with(head));
        if !known || head.count <= keys.agreed {
            return Ok(());
        }
        let keys = Keys { agreed: head.count, generation: keys.generation + 1, ..keys };
        self.commit(|writer| {
            set_meta(&writer.db, AGREED, head.count).map_err(|error| self.sqlite(error))?;
            self.forget_joined_with(writer, &keys)
        })?;
        self.publish_keys(keys);
        Ok(())
    }

    pub(crate) fn add_statements(&self, statements: &[Arc<[u8]>], origin: Origin) -> Result<(), StoreError> {
        let turn = lock(&self.inner.changing_keys);
        let added = self.commit(|writer| {
            let mut keys = self.keys();
            let mut ring = keys.keyring.as_deref().cloned();
            let known = ring.as_ref().map_or(0, |ring| ring.statements(0).len());
            let mut retiring = match keys.is_outsider() {
                true => Some(Retiring::load(&writer.db).map_err(|error| self.sqlite(error))?),
                false => None,
            };
            for statement in statements {
                match &mut ring {
                    Some(ring) if ring.statements(0).contains(statement) => {}
                    Some(ring) => {
                        let before = (ring.rule().clone(), ring.unsettled().cloned());
                        ring.extend(statement)?;
                        if let Some(retiring) = &mut retiring {
                            retiring.hear(statement, (&before.0, before.1.as_ref()), &writer.names);
                        }
                    }
                    None => ring = Some(Keyring::begin(statement)?),
                }
            }
            let new = ring.as_ref().map_or(&[][..], |ring| ring.statements(known)).to_vec();
            self.keep_statements(writer, &new)?;
            let before = (keys.rule(), keys.epochs());
            keys.keyring = ring.map(Arc::new);
            if new.is_empty() {
                // Nothing new: how far both agree is said elsewhere.
            } else if origin == Origin::Peer {
                keys.agreed = keys.keyring.as_ref().map_or(0, |ring| ring.head().count);
                set_meta(&writer.db, AGREED, keys.agreed).map_err(|error| self.sqlite(error))?;
            } else if keys.secret.is_some() {
                // Sessions end: nothing more goes out before the other side has heard of it.
                keys.generation += 1;
            }
            keys.unlock()?;
            let resends = self.after_change(writer, &keys, &before)?;
            self.forget_joined_with(writer, &keys)?;
            if let Some(retiring) = retiring.filter(|retiring| retiring.has_heard) {
                self.retire(writer, retiring)?;
            }
            Ok((!new.is_empty()).then_some((keys, resends)))
        })?;
        let Some((keys, resends)) = added else { return Ok(()) };
        self.publish_keys(keys);
        if resends {
            self.resend()?;
        }
        drop(turn);
        if origin == Origin::Peer && self.waits_to_join()? {
            self.join_now()?;
        }
        Ok(())
    }

    /// Keys that came let records in that had to be left out; another rule has everything sent anew. Answers whether that is to
    /// be done, by [`Store::resend`].
    fn after_change(
        &self,
        writer: &mut Writer,
        keys: &Keys,
        before: &(EncryptionSpec, Vec<u32>),
    ) -> Result<bool, StoreError> {
        let sqlite = |error| self.sqlite(error);
        if keys.epochs() != before.1 {
            let cleared = writer.db.execute("DELETE FROM unopened WHERE keyless=1", []).map_err(sqlite)?;
            if cleared > 0 {
                // Without a checkpoint the next session compares all, and finds what is missing.
                writer.db.execute("DELETE FROM checkpoints", []).map_err(sqlite)?;
            }
        }
        let resends = keys.sealer.is_some() && keys.rule() != before.0;
        if resends {
            set_meta(&writer.db, RESEND, 1).map_err(sqlite)?;
        }
        Ok(resends)
    }

    /// Has everything sent anew, if another rule asks for that. Only once the keys are published that follow from the rule: before
    /// that, it would be sent, and acknowledged, in the form that goes.
    fn resend(&self) -> Result<(), StoreError> {
        self.commit(|writer| {
            let sqlite = |error| self.sqlite(error);
            if meta::<i64>(&writer.db, RESEND).map_err(sqlite)?.is_none() {
                return Ok(());
            }
            let by = writer.next_seq - 1;
            let sql = "UPDATE records SET seq=seq+?, origin=0";
            writer.db.execute(sql, params![by]).map_err(sqlite)?;
            writer.next_seq += by;
            let done = writer.db.execute("DELETE FROM meta WHERE key=?", [RESEND]);
            done.map(drop).map_err(sqlite)
        })
    }
}

#[cfg(test)]
mod tests {
    use blazedb_core::{RecordId, Value};

    use super::*;
    use crate::{Password, StoreOptions};

    /// A process may end between the keyring's change and what follows from it.
    #[test]
    fn what_a_change_of_the_keyring_left_to_do_is_done_when_the_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            || Store::open(dir.path().join("t"), &Password::Plaintext, StoreOptions::default()).unwrap();
        let store = open();
        let fields = [("n".to_owned(), Value::Int(1))];
        for no in 1..=3 {
            let id = RecordId::v7(no, [0; 10]);
            store.transaction(|tx| tx.insert(id, &fields.clone().into())).unwrap();
        }
        store.create_keyring("one", EncryptionSpec::SmartProxy, None).unwrap();
        store.keyring_agreed(&store.keyring().unwrap().head()).unwrap();
        let ring = store.keyring().unwrap();
        let (head, random) = (store.head(), store.random().unwrap());
        let secret = store.keys().secret.unwrap();
        let rotates = ring.rotate(Author { secret: &secret, random: &random, now_ms: 1 }).unwrap();
        let mut again = Vec::new();
        write_prefixed(&rotates, &mut again);
        store
            .commit(|writer| {
                set_meta(&writer.db, RESEND, 1).unwrap();
                set_meta(&writer.db, AGAIN, again.as_slice()).unwrap();
                Ok(())
            })
            .unwrap();
        assert_eq!((store.head(), ring.epoch()), (head, 1));
        drop(store);
        let store = open();
        assert_eq!(store.head(), 2 * head);
        assert_eq!(store.keyring().unwrap().epoch(), 2);
        drop(store);
        let store = open();
        assert_eq!((store.head(), store.keyring().unwrap().epoch()), (2 * head, 2), "once");
    }
}
